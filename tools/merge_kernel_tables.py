#!/usr/bin/env python3
"""Puts part of a set of kernel tables that was timed again into the set: merge_kernel_tables.py NEW SET [--note TEXT].

NEW is a folder that `orrery calibrate` wrote, SET hardware_profiles/tables/<part>/<set>. A row of NEW replaces the row of
SET with the same columns before `us`; rows that SET lacks join it; all else stays. `table.yaml` gets a comment that says
which rows are of which session. Says how times changed, by format.
"""
import argparse
import functools
import math
import pathlib
import re
import statistics


def row_less(a, b):
    """calibrate/tables.cpp, row_less: columns that are numbers by value."""
    for x, y in zip(re.split("[, @]", a), re.split("[, @]", b)):
        numbers = re.fullmatch(r"-?\d+", x) and re.fullmatch(r"-?\d+", y)
        if numbers and int(x) != int(y):
            return -1 if int(x) < int(y) else 1
        if not numbers and x != y:
            return -1 if x < y else 1
    return (a > b) - (a < b)


def load(path):
    header, *rows = path.read_text().splitlines()
    figures = header.split(",").index("us")
    out = {}
    for row in rows:
        cells = row.split(",")
        out[",".join(cells[:figures])] = ",".join(cells[figures:])
    return header, out


def merge(new, old, path):
    header, fresh = load(new)
    same, rows = load(old)
    assert header == same, f"{path}: other columns"
    ratios = {}
    for key, value in fresh.items():
        if key in rows:
            ratio = float(value.split(",")[0]) / float(rows[key].split(",")[0])
            ratios.setdefault(key.split(",")[0], []).append(ratio)
    joined = sum(key not in rows for key in fresh)
    rows.update(fresh)
    keys = sorted(rows, key=functools.cmp_to_key(row_less))
    old.write_text(header + "\n" + "".join(f"{key},{rows[key]}\n" for key in keys))
    print(f"{path}: {len(fresh)} rows timed again, {joined} of them new")
    for what, values in sorted(ratios.items()):
        deviation = math.exp(statistics.median(map(math.log, values)))
        faster = sum(v < 0.98 for v in values) / len(values)
        print(f"  {what}: new ÷ old {deviation:.3f} (median of {len(values)}), faster by over 2 %: {faster:.0%}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("new", type=pathlib.Path)
    parser.add_argument("set", type=pathlib.Path)
    parser.add_argument("--note", default="")
    arguments = parser.parse_args()
    for path in sorted(arguments.new.glob("*.csv")):
        old = arguments.set / path.name
        if path.stem in ("errors", "probes", "copy"):
            continue
        if old.exists() and not path.stem.endswith("_tuned"):
            merge(path, old, path.name)
        elif path.stem.endswith("_tuned"):
            old.write_text(path.read_text())
            print(f"{path.name}: as it is")
    if arguments.note:
        yaml = arguments.set / "table.yaml"
        yaml.write_text(yaml.read_text() + "".join(f"# {line}\n" for line in arguments.note.splitlines()))


if __name__ == "__main__":
    main()
