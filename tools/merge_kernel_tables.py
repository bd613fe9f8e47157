#!/usr/bin/env python3
"""Puts part of a set of kernel tables that was timed again into the set: merge_kernel_tables.py NEW SET [--note TEXT].

NEW is a folder that `orrery calibrate` wrote (`--again`), SET hardware_profiles/tables/<part>/<set>. A row of NEW replaces the
row of SET with the same columns before `us`; rows that SET lacks join it. Of the formats in NEW, a row that was not timed again
stays where the nearest rows of its shape that were, before and behind it, name the kernel that it has; else another kernel
would stand between rows of the new one, and it is dropped. `table.yaml` gets a comment that says which rows are of which
session. Says how times changed, by format.
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


def expanded(text):
    """Rows per expert: "2x0 3" """
    out = []
    for word in text.split():
        run, cross, value = word.rpartition("x")
        out += [int(value)] * (int(run) if cross else 1)
    return out


def place(table, key):
    """Static shape and place on the moving axis, as costmodel reads them."""
    cells = key.split(",")
    if table == "gemm":
        return (cells[0], cells[2], cells[3]), int(cells[1])
    rows = [n for n in expanded(cells[3]) if n > 0]
    return (cells[0], cells[1], cells[2], len(rows)), sum(rows) / len(rows)


def stale(table, fresh, rows):
    """Keys of rows that were not timed again and stand beside rows of another kernel."""
    axis = {}
    for key, value in fresh.items():
        shape, x = place(table, key)
        axis.setdefault(shape, []).append((x, value.rsplit(",", 1)[1]))
    for each in axis.values():
        each.sort()
    formats = {key.split(",")[0] for key in fresh}
    out = []
    for key, value in rows.items():
        if key in fresh or key.split(",")[0] not in formats:
            continue
        shape, x = place(table, key)
        near = axis.get(shape, [])
        below = [k for y, k in near if y <= x][-1:]
        above = [k for y, k in near if y >= x][:1]
        if any(k != value.rsplit(",", 1)[1] for k in below + above) or not near:
            out.append(key)
    return out


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
    dropped = stale(old.stem, fresh, rows) if old.stem in ("gemm", "grouped_gemm") else []
    for key in dropped:
        del rows[key]
    rows.update(fresh)
    keys = sorted(rows, key=functools.cmp_to_key(row_less))
    old.write_text(header + "\n" + "".join(f"{key},{rows[key]}\n" for key in keys))
    print(f"{path}: {len(fresh)} rows timed again, {joined} of them new; {len(dropped)} dropped beside them, {len(rows)} now")
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
