#!/usr/bin/env python3
"""The kernel pairs of the case studies as a table: pairs_report.py ORRERY MEASURED.csv OUT.md.

MEASURED is what `orrery calibrate --pairs` wrote on a device; prices are `orrery cost --compare pairs`. A ratio is time before
÷ time after, over the shapes of a pair from the least to the greatest; a side that is missing is said so. What was written by
hand under "## Notes" of an OUT.md that is there stays.
"""
import csv
import json
import pathlib
import subprocess
import sys


NOTES = "## Notes"


def span(ratios, digits=2):
    low, high = f"{min(ratios):.{digits}f}", f"{max(ratios):.{digits}f}"
    return low if low == high else f"{low} to {high}"


def notes(out):
    """The section of an earlier report that people wrote, heading included; empty when there is none."""
    if not out.exists():
        return []
    lines = out.read_text(encoding="utf-8").split("\n")
    if NOTES not in lines:
        return []
    rest = lines[lines.index(NOTES):]
    end = next((i for i, line in enumerate(rest[1:], 1) if line.startswith("## ")), len(rest))
    return [""] + "\n".join(rest[:end]).rstrip().split("\n")


def main():
    orrery, measured, out = sys.argv[1], pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3])
    pairs = json.loads(subprocess.run([orrery, "--json", "cost", "--compare", "pairs"], check=True, capture_output=True,
                                      text=True).stdout)
    lines = measured.read_text().splitlines()
    device = lines[0].removeprefix("# ")
    rows = {}
    for row in csv.DictReader(lines[1:]):
        rows.setdefault(row["pair"], []).append(row)
    text = [
        "# Kernel pairs of the case studies", "",
        f"Made by `tools/pairs_report.py` from `orrery cost --compare pairs` and `orrery calibrate --pairs` ({device}).",
        "Pairs: reports/cases/pairs.yaml. A ratio is time before ÷ time after, from the least to the greatest of the pair's shapes.",
        "Predictions are for the part of which the ratio was published; measured are our own kernels on the device above, never the",
        "published part's, and each kernel alone in a replayed graph (its start included).", "",
        "| pair | case | part | published | predicted there | measured here |",
        "|---|---|---|--:|---|---|"]
    for pair in pairs:
        published = pair["published"]
        ratio = "no number" if "ratio" not in published else span([published["ratio"], published["to"]])
        priced = [s["ratio"] for s in pair["shapes"] if "ratio" in s]
        rungs = sorted({s["detail"] for s in pair["shapes"] if "ratio" in s})
        why = next((s["not_priced"] for s in pair["shapes"] if "not_priced" in s), "")
        predicted = f"{span(priced)} ({', '.join(rungs)})" if priced else f"– {why}"
        seen = rows.get(pair["name"], [])
        timed = [float(r["ratio"]) for r in seen if r["ratio"]]
        missing = next((r["why"] for r in seen if r["why"]), pair["not_measured"] or "not in that run")
        here = span(timed) if timed else f"– {missing}"
        text.append(f"| {pair['name']} | {pair['case'].upper()} | {pair['part']} | {ratio} | {predicted} | {here} |")
    text += notes(out)
    text += ["", "## By shape", "", "µs before and after.", "",
             "| pair | shape | predicted before | after | ratio | measured before | after | ratio | kernels |",
             "|---|---|--:|--:|--:|--:|--:|--:|---|"]
    for pair in pairs:
        by_shape = {r["shape"]: r for r in rows.get(pair["name"], [])}
        for shape in pair["shapes"]:
            row = by_shape.get(shape["shape"], {})
            if "ratio" not in shape and not row.get("ratio"):
                continue
            cells = [pair["name"], shape["shape"]]
            cells += [f"{shape[k]:.2f}" for k in ("before_us", "after_us", "ratio")] if "ratio" in shape else ["–"] * 3
            cells += [f"{float(row[k]):.2f}" for k in ("before_us", "after_us", "ratio")] if row.get("ratio") else ["–"] * 3
            cells.append(row.get("kernels", "").replace("|", "→"))
            text.append("| " + " | ".join(cells) + " |")
    text += ["", "## What is compared", ""]
    for pair in pairs:
        text.append(f"- **{pair['name']}**: {pair['what']}. Published: {pair['published']['source']}.")
    out.write_text("\n".join(text) + "\n")


if __name__ == "__main__":
    main()
