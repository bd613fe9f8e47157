#!/usr/bin/env python3
"""Why launches of steps with prompts beside decodes scatter, as reports/results/host_pace.md.

  tools/host_pace.py [--orrery build/release/orrery] [--out reports/results/host_pace.md]

Every logged step of the committed vLLM runs is priced (`orrery cost --steps`). What a launch took beyond its price is set against what is known
of the step itself, and against the pace at which the host launched the decode steps around it. Standard library only.
"""
import argparse
import csv
import datetime
import json
import math
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import accuracy  # noqa: E402
import feature_runs  # noqa: E402

ROOT = accuracy.ROOT
RUNS = [("h200_vllm_0_24", "qwen3-30b-a3b_fp8_tp1"), ("h200_vllm_0_24", "qwen3-8b_bf16_tp1"), ("h200_vllm_0_24", "qwen3-32b_bf16_tp2"),
        ("h100_vllm_0_24", "llama-3.1-8b_bf16_tp1"), ("h100_vllm_0_24", "qwen3-4b_bf16_tp1_small"),
        ("h100_vllm_0_24", "qwen3-30b-a3b_bf16_tp2_ep2"), ("h200_vllm_0_24_held_out", "llama-3.1-8b_bf16_tp1"),
        ("h200_vllm_0_24_held_out", "qwen3-4b_bf16_tp1"), ("h200_vllm_0_24_held_out", "qwen3-30b-a3b_bf16_tp2_ep2")]
FITTED = {RUNS[0], RUNS[6]}  # whose steps the coefficients of a step's features are fitted to
AROUND = 400e3  # µs: decode steps that launched so shortly before or after tell the pace
LAGS = [(0, .2), (.2, .5), (.5, 1), (1, 2), (2, 4), (4, 8)]  # s
LEAST = 30


def priced_steps(cases, run, orrery, place):
    folder, hardware = ROOT / "reports/cases" / cases / run, cases.split("_")[0]
    engine = json.loads((folder / "engine.json").read_text())["engine"]
    width = engine.get("tensor_parallel_size", 1)
    (place / "s.yaml").write_text(f"deployment:\n  hardware: {hardware}\n  model: {engine['model'].lower().replace('meta-', '')}\n  engine: vllm-0.24\n"
                                  f"  parallel: {{tp: {width}, ep: {width if engine.get('enable_expert_parallel') else 1}}}\n")
    rows = [r for r in feature_runs.rows_of(folder / "steps.csv.gz") if r["gpu_us"] and r["decode_sequences"]]
    rows = [r for r in rows if r["prefill_chunks"] or int(r["decode_sequences"])]
    with open(place / "steps.jsonl", "w", encoding="utf-8") as f:
        for r in rows:
            chunks = [[int(x) for x in c.split("@")] for c in r["prefill_chunks"].split()]
            f.write(json.dumps({"prefill": chunks, "decode": {"sequences": int(r["decode_sequences"]),
                                                              "context_tokens": int(r["decode_context_tokens"] or 0)}}) + "\n")
    subprocess.run([orrery, "cost", str(place / "s.yaml"), "--steps", str(place / "steps.jsonl"), "--out", str(place / "p.csv")], check=True)
    us = feature_runs.profile_us
    per = us("prepare_per_sequence_v1" if "30b" in run else "prepare_per_sequence")
    fixed = us("schedule_base") + us("update_base") + us("prepare_base") + (us("prepare_rpc") if width > 1 else 0)
    each = us("schedule_per_sequence") + us("update_per_sequence") + per
    steps, before = [], None
    with open(place / "p.csv", newline="") as f:
        for r, p in zip(rows, csv.DictReader(f)):
            chunks = [[int(x) for x in c.split("@")] for c in r["prefill_chunks"].split()]
            sequences = int(r["decode_sequences"]) + len(chunks)
            s = {"experiment": r["experiment"], "step": int(r["step"]), "chunks": chunks, "decodes": int(r["decode_sequences"]), "tokens": int(r["tokens"]),
                 "begin": float(r["execute_start_us"]), "launched": float(r["sample_end_us"]) - float(r["execute_start_us"]),
                 "inputs": per * sequences, "gpu": float(r["gpu_us"]), "waiting": int(r["waiting"]), "busy": float(p["busy_us"]), "device": float(p["device_us"]),
                 "priced": float(p["host_us"]) - fixed - each * sequences}
            s["launch"] = s["launched"] - s["inputs"]
            follows = before and before["experiment"] == s["experiment"] and before["step"] + 1 == s["step"]
            s["ahead"] = max(0.0, before["end"] - s["begin"]) if follows else None  # so long the step before still ran
            s["end"] = s["begin"] + (s["ahead"] or 0) + s["gpu"]
            before = s
            steps.append(s)
    return steps


def paces(steps):
    """Decode steps whose launch the device did not hold up, each over what as many sequences take in this run, a line through the middle."""
    graphs = [s for s in steps if not s["chunks"] and s["launched"] < 0.9 * s["gpu"]]
    kept = graphs
    for _ in range(3):
        base, each = fitted([[1.0, s["decodes"]] for s in kept], [s["launched"] for s in kept])
        off = [abs(s["launched"] - base - each * s["decodes"]) for s in graphs]
        kept = [s for s, o in zip(graphs, off) if o < 3 * statistics.median(off)]
    found = {}
    for s in graphs:
        found.setdefault(s["experiment"], []).append((s["begin"], s["launched"] / max(100.0, base + each * s["decodes"])))
    return found


def mixed(steps):
    """Steps with prompts beside decodes, each with the pace at which decode steps around it were launched; by experiment."""
    graphs, found = paces(steps), {}
    for s in steps:
        if s["chunks"] and s["decodes"] and s["ahead"] is not None:
            near = [pace for begin, pace in graphs.get(s["experiment"], []) if abs(begin - s["begin"]) < AROUND]
            if len(near) > 1:
                found.setdefault(s["experiment"], []).append(dict(s, pace=statistics.median(near)))
    return {e: rows for e, rows in found.items() if len(rows) >= LEAST}


def features(s):
    """What is known of a step itself: prompts, tokens, decodes, context behind chunks, requests that wait, whether the step before still runs."""
    return [len(s["chunks"]), math.log(s["tokens"]), s["decodes"], math.log1p(sum(c for _, c in s["chunks"])), float(s["waiting"] > 0),
            float(s["ahead"] > 1000)]


def centred(rows, values):
    columns = list(zip(*(values(s) for s in rows)))
    means = [statistics.fmean(c) for c in columns]
    return [[v - m for v, m in zip(row, means)] for row in zip(*columns)]


def launch_ratios(rows):
    return [s for s in rows if 512 < s["tokens"] <= 3000 and 0.5 < s["launch"] / s["priced"] < 4]


def solved(matrix, right):
    """Of a symmetric system with a ridge too small to matter, by elimination."""
    n = len(right)
    a = [[*row, r] for row, r in zip(matrix, right)]
    for i in range(n):
        a[i][i] += 1e-9
    for i in range(n):
        for j in range(n):
            if j != i:
                factor = a[j][i] / a[i][i]
                a[j] = [x - factor * y for x, y in zip(a[j], a[i])]
    return [a[i][n] / a[i][i] for i in range(n)]


def fitted(x, y):
    n = len(x[0])
    return solved([[sum(row[i] * row[j] for row in x) for j in range(n)] for i in range(n)], [sum(row[i] * v for row, v in zip(x, y)) for i in range(n)])


def left(x, y, b):
    """Share of the variance of y that Σ b·x leaves."""
    return statistics.pvariance([v - sum(p * q for p, q in zip(b, row)) for row, v in zip(x, y)]) / statistics.pvariance(y)


def middle_mean(values):
    values = sorted(values)
    cut = len(values) // 10
    return statistics.fmean(values[cut:len(values) - cut])


def scatter_rows(runs):
    data = []
    for key, experiments in runs.items():
        for e, rows in experiments.items():
            rows = launch_ratios(rows)
            if len(rows) >= LEAST:
                y = [v[0] for v in centred(rows, lambda s: [math.log(s["launch"] / s["priced"])])]
                data.append((key, e, rows, centred(rows, features), centred(rows, lambda s: [math.log(s["pace"])]), y))
    x, y = ([v for d in data if d[0] in FITTED for v in d[i]] for i in (3, 5))
    b = fitted(x, y)
    out = []
    for key, e, rows, step, pace, y in data:
        out.append([key[1], e, str(len(rows)), f"{100 * statistics.pstdev(y):.0f} %", f"{100 * left(step, y, fitted(step, y)):.0f} %",
                    "fitted" if key in FITTED else f"{100 * left(step, y, b):.0f} %", f"{100 * left(pace, y, [1.0]):.0f} %",
                    f"{statistics.correlation([p[0] for p in pace], y):.2f}"])
    return out


def lag_rows(runs):
    out = []
    for key, experiments in runs.items():
        for e, rows in experiments.items():
            rows = launch_ratios(rows)
            if len(rows) < 2 * LEAST:
                continue
            t = [s["begin"] / 1e6 for s in rows]
            y = [v[0] for v in centred(rows, lambda s: [math.log(s["launch"] / s["priced"])])]
            spread = statistics.pvariance(y)
            cells = []
            for low, high in LAGS:
                products = [y[i] * y[j] for i in range(len(y)) for j in range(i + 1, len(y)) if low < t[j] - t[i] <= high]
                cells.append(f"{statistics.fmean(products) / spread:.2f}" if len(products) >= LEAST else "–")
            out.append([key[1], e] + cells)
    return out


def device_rows(runs):
    """Errors of device time as the log has it, median absolute and signed."""
    out = []
    for key, experiments in runs.items():
        for e, rows in experiments.items():
            ways = [lambda s: s["device"], lambda s: max(s["busy"], s["priced"] + s["inputs"] - s["ahead"]),
                    lambda s: max(s["busy"], s["launched"] - s["ahead"])]
            cells = []
            for way in ways:
                errors = [100 * (way(s) / s["gpu"] - 1) for s in rows]
                cells.append(f"{statistics.median(map(abs, errors)):.1f} ({statistics.median(errors):+.1f}) %")
            bound = sum(s["launched"] > 0.9 * s["gpu"] for s in rows) / len(rows)
            out.append([key[1], e, str(len(rows)), f"{100 * bound:.0f} %"] + cells)
    return out


def load_rows(runs):
    """Levels of loads of one host."""
    out, spreads = [], []
    for key, experiments in runs.items():
        levels = {e: middle_mean([s["launch"] / s["priced"] for s in launch_ratios(rows)]) for e, rows in experiments.items()
                  if len(launch_ratios(rows)) >= LEAST}
        if len(levels) > 1:
            spreads.append(statistics.stdev(math.log(v) for v in levels.values()))
            out.append([key[1], key[0].split("_")[0], ", ".join(f"{e} {v:.2f}" for e, v in levels.items()), f"{spreads[-1]:.2f}"])
    return out, statistics.fmean(s * s for s in spreads) ** .5


def report(runs):
    table, commit = accuracy.table, accuracy.text_of(["git", "rev-parse", "--short=12", "HEAD"])
    loads, together = load_rows(runs)
    return f"""# Why steps with prompts scatter: the host's pace

Made by `tools/host_pace.py` on {datetime.date.today().isoformat()}, commit {commit}, from the step logs under `reports/cases`. Steps with prompts beside decodes; launches of 513 to 3,000 tokens,
over what the profile's terms add up to (without its spread).

A host launches at one pace for some seconds and then at another, in one step to the next: 30B-A3B's steps of one prompt of 1,024 tokens take 92 ms until second 16.2 of `poisson_1024_128_r14`
and 61 ms from 16.4 on, the scheduler 1.1 and then 0.7 ms for as many sequences. What is known of a step (its prompts, tokens, decodes, contexts, requests that wait, the step before still running) says next to nothing of it: fitted to
two runs, it leaves all of the scatter of the others. The pace of the *decode* steps launched within 0.4 s, times one, takes up to two thirds of it away; a core's
clock or its neighbour would do that, and the log does not say which.

| what is left of the scatter's variance by … | |
| --- | --- |
| its own features | fitted to this very load: the least that they could leave |
| features of others | fitted to qwen3-30b-a3b_fp8_tp1 and the H200's llama-3.1-8b, applied here: over 100 % is worse than nothing |
| pace | launch of decode steps around it over that of other steps of the run with as many sequences; nothing fitted to launches beside prompts |

{table(["run", "load", "n", "scatter", "its own features", "features of others", "pace", "correlation"], scatter_rows(runs))}
## What that makes of device times

Device time as the log has it begins with the launch, or with the end of the step before, and holds what the device waits for launches: where the host sets the pace (share of such
steps) it is the host's. Median absolute error (signed) as priced; with the part of the launch that lies under the step before taken off; and with the launch as logged instead of as priced, which leaves what the price of kernels answers for.

{table(["run", "load", "n", "host's pace", "priced", "less the step before", "launch as logged"], device_rows(runs))}
30B-A3B's steps are launch-bound: all that is wrong with them as priced is the pace, which a prediction cannot know. It is drawn (`launch_jitter_*`), with a mean that is right over loads and not in each of them, and
intervals hold it. With its median at 0.90 of the terms instead of 1.06, which makes the mean that of `poisson_1024_128_r14` itself, that load's TTFT p50 is predicted −10 % off, p99 +1 % and TPOT −2 %, not +14, +19 and +16 % (one seed): near
saturation 15 % of launch time is a quarter of TTFT.

## How long a pace lasts

Correlation of two launches so many seconds apart. The profile draws the next one with 0.6.

{table(["run", "load"] + [f"to {b} s" for _, b in LAGS], lag_rows(runs))}
## Loads of one host

Mean of the middle four fifths of launches over price, by load; the profile's spread has 1.115. Deviation of its logarithm among loads; {together:.2f} over all hosts, which is what
`calibrate --from-steps` takes two loads of one host to differ by (reports/casebook/host_level.cpp).

{table(["run", "part", "loads", "deviation"], loads)}"""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--orrery", default=str(ROOT / "build/release/orrery"))
    parser.add_argument("--out", default=str(ROOT / "reports/results/host_pace.md"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        runs = {key: mixed(priced_steps(*key, os.path.abspath(options.orrery), pathlib.Path(place))) for key in RUNS}
    path = pathlib.Path(options.out)
    partial = path.with_name(path.name + f".partial-{os.getpid()}")
    partial.write_text(report(runs), encoding="utf-8")
    os.replace(partial, path)
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
