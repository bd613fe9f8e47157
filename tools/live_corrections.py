#!/usr/bin/env python3
"""corrections.csv of a set of tables from the launches of several runs: live_corrections.py OUT [--orrery BINARY] [--kernels SET]

reports/results/live_h200/profiles has what runs of `orrery live --profile-steps N` left in profile.csv (packed), and their scenarios. Every
profiled step is priced again with SET (orrery), which OUT corrects. One run's own tables are made by --update-calibration (docs/live.md);
this does the same over several models: for each operator (with format) and region of its axis, measured ÷ priced launches. The regions
are those of live/kernel_profile.cpp.
"""
import argparse
import collections
import concurrent.futures
import csv
import gzip
import json
import math
import pathlib
import re
import subprocess
import sys

root = pathlib.Path(__file__).resolve().parent.parent
profiles = root / "reports/results/live_h200/profiles"


def region(x):
    if x > 64:
        return 64 + round(2 * math.log2(x / 64))
    return math.ceil(x / 8) * 8 if x > 4 else round(8 * math.log2(x)) - 32


def chunks(row):
    """`tokens@context` of each; the runs that are kept have an older name for the column."""
    return row["chunk_lengths"] if "chunk_lengths" in row else row["prompts"]


def step_text(row):
    terms = [f"prefill {chunk}" for chunk in chunks(row).split()]
    decodes, context = int(row["decodes"]), int(row["decode_context"])
    if decodes:
        each, more = divmod(context, decodes)
        terms += [f"decode {n}@{c}" for n, c in ((decodes - more, each), (more, each + 1)) if n]
    return " + ".join(terms)


def lines(scenario, row, o):
    p = subprocess.run([str(o.orrery), "--json", "cost", str(scenario), "--step", step_text(row), "--set", f"deployment.kernels={o.kernels}"],
                       capture_output=True, text=True)
    if p.returncode:
        sys.exit(p.stderr)
    return json.loads(p.stdout)["steps"][0]["operators"]


def number(shape, name):
    found = re.search(rf"(?:^| ){name}=(\d+)", shape)
    return float(found.group(1)) if found else 0.0


def corrected_as(line, mixed):
    """The operator of corrections.csv and the place on its axis, as find_correction of live/kernel_profile.cpp has them."""
    shape, word = line["shape"], line["shape"].split(" ")[-1]
    if line["rung"] == "roofline":
        return "", 0
    if line["class"] == "gemm":
        if " heads=" in shape:  # likewise
            return "", 0
        return f"gemm/{word}", number(shape, "m")
    if line["class"] == "grouped_gemm":
        return f"grouped_gemm/{word}", number(shape, "rows") / max(1, number(shape, "experts"))
    if line["class"] == "attention_decode":
        if "latent=" in shape:  # its table is of these launches
            return "", 0
        heads = float(re.search(r"heads=\d+/(\d+)", shape).group(1))
        return "attention_decode_mixed" if mixed else "attention_decode", number(shape, "sequences") * heads
    if line["class"] == "attention_prefill":
        return ("", 0) if "latent=" in shape else ("attention_prefill", number(shape, "tokens"))
    return ("elementwise", number(shape, "rows")) if line["class"] in ("elementwise", "routing", "sampling") else ("", 0)


def launches(file, o):
    """(operator, axis, measured, priced) of each use in each profiled step."""
    steps = collections.defaultdict(list)
    for r in csv.DictReader(gzip.open(file, "rt")):
        steps[r["step"]].append(r)
    scenario = profiles / file.name.replace(".csv.gz", ".yaml")
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        prices = list(pool.map(lambda rows: lines(scenario, rows[0], o), steps.values()))
    for rows, ops in zip(steps.values(), prices):
        own, graph = float(rows[0]["own_us"]), float(rows[0]["graph_us"])
        gap = sum(line["time_us"] for line in ops if line["operator"] == "stream_gaps")
        measured = {r["use"]: float(r["measured_us"]) for r in rows if r["use"] != "stream_gaps" and int(r["launches"])}
        host_bound = float(rows[0]["launch_us"]) > 0.8 * own
        scale = (graph if host_bound or own <= 2 * gap else own - gap) / sum(measured.values())
        of_use = collections.defaultdict(float)
        for line in ops:
            of_use[line["operator"]] += line["time_us"]
        for line in {line["operator"]: line for line in ops}.values():
            op, at = corrected_as(line, bool(chunks(rows[0])))
            if op and at > 0 and line["operator"] in measured and of_use[line["operator"]] > 0:
                yield op, at, measured[line["operator"]] * scale, of_use[line["operator"]]


def fit(o):
    seen = collections.defaultdict(list)
    for file in sorted(profiles.glob("*.csv.gz")):
        of_run = collections.defaultdict(lambda: [0.0, 0.0, 0.0])
        for op, at, measured, priced in launches(file, o):
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
    options = argparse.ArgumentParser()
    options.add_argument("out")
    options.add_argument("--orrery", default=root / "build/release/orrery")
    options.add_argument("--kernels", default="orrery")
    o = options.parse_args()
    points = fit(o)
    with open(o.out, "w") as out:
        out.write("op,x,factor\n")
        for op, curve in sorted(points.items()):
            for x, factor in sorted(curve):
                out.write(f"{op},{x:.3f},{factor:.4f}\n")


main()
