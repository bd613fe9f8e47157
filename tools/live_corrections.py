#!/usr/bin/env python3
"""corrections.csv of a set of tables from the launches of several runs: live_corrections.py OUT DIR...

Each DIR is what `orrery live --profile-steps N --out DIR` left. One run's own is made by --update-calibration (docs/live.md); this does
the same over several models: for each operator (with format) and region of its axis, measured ÷ priced launches, weighted by time. The
regions are those of live/kernel_profile.cpp. OUT must not correct what the runs were priced with already.
"""
import collections
import csv
import math
import pathlib
import sys



def region(x):
    if x > 64:
        return 64 + round(2 * math.log2(x / 64))
    return math.ceil(x / 8) * 8 if x > 4 else round(8 * math.log2(x)) - 32


def launches(folder):
    """(operator, axis, measured, priced, share of the step) of each use in each profiled step."""
    rows = list(csv.DictReader(open(pathlib.Path(folder) / "profile.csv")))
    whole = collections.Counter()
    for r in rows:
        if r["use"] != "stream_gaps":
            whole[r["step"]] += float(r["measured_us"])
    gaps = {r["step"]: float(r["priced_us"]) for r in rows if r["use"] == "stream_gaps"}
    for r in rows:
        own, gap = float(r["own_us"]), gaps.get(r["step"], 0.0)
        host_bound = float(r["launch_us"]) > 0.8 * own
        target = float(r["graph_us"]) if host_bound or own <= 2 * gap else own - gap
        if r["corrected_as"] and int(r["launches"]) and float(r["priced_us"]) > 0:
            yield r["corrected_as"], float(r["at"]), float(r["measured_us"]) * target / whole[r["step"]], float(r["priced_us"])


def fit(folders):
    seen = collections.defaultdict(list)
    for folder in folders:
        of_run = collections.defaultdict(lambda: [0.0, 0.0, 0.0])
        for op, at, measured, priced in launches(folder):
            sums = of_run[op, region(at)]
            sums[0] += measured
            sums[1] += priced
            sums[2] += priced * math.log(at)
        for key, (measured, priced, log_at) in of_run.items():
            seen[key].append((measured / priced, math.exp(log_at / priced), priced))
    points = collections.defaultdict(list)
    for (op, _), runs in sorted(seen.items()):
        weights = [math.sqrt(priced) for _, _, priced in runs]  # between runs as such and all their time
        total = sum(weights)
        factor = math.exp(sum(w * math.log(f) for w, (f, _, _) in zip(weights, runs)) / total)
        at = math.exp(sum(w * math.log(x) for w, (_, x, _) in zip(weights, runs)) / total)
        points[op].append((at, factor))
    return points


def main():
    points = fit(sys.argv[2:])
    with open(sys.argv[1], "w") as out:
        out.write("op,x,factor\n")
        for op, curve in sorted(points.items()):
            for x, factor in sorted(curve):
                out.write(f"{op},{x:.3f},{factor:.4f}\n")


main()
