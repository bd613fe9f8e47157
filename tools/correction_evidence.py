#!/usr/bin/env python3
"""reports/results/corrections_h200.md: what the corrections of vLLM's kernels on the H200 rest on.

tools/correction_evidence.py [--orrery build/release/orrery] [--out reports/results]

Three tables from committed runs and profiles, priced or read without corrections.csv: products in engine steps run one at a
time (kernel profiles, weights of few bits and normal ones) over the table; what steps back to back need, per run and card;
decode attention by tiles. And our own cuBLASLt timings beside published ones of the same products. Nothing is fitted here.
"""
import argparse
import collections
import csv
import gzip
import math
import os
import statistics
import sys
import types

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import step_residuals as steps  # noqa: E402
from kernel_tables.base import ROOT, figures, gemm_bound_us, log_interpolate  # noqa: E402
from kernel_tables.own_profile import GRAPH_GAP_US, OUTPUT_LAYER  # noqa: E402

CASES = f"{ROOT}/reports/cases"
RUNS = [("h200_vllm_0_24/qwen3-8b_bf16_tp1", "fitted"), ("h200_vllm_0_24/qwen3-32b_bf16_tp2", "fitted"),
        ("h200_vllm_0_24/qwen3-30b-a3b_fp8_tp1", ""), ("h200_vllm_0_24_held_out/llama-3.1-8b_bf16_tp1", ""),
        ("h200_vllm_0_24_held_out/qwen3-4b_bf16_tp1", ""), ("h200_vllm_0_24_held_out/qwen3-30b-a3b_bf16_tp2_ep2", "")]
TOKENS = [(193, 450), (451, 800), (801, 1024), (1025, 1100), (1101, 2048), (2049, 4096), (4097, 8191), (8192, 10**9)]
PRODUCTS = {"qwen3-8b_bf16_tp1", "qwen3-32b_bf16_tp2", "llama-3.1-8b_bf16_tp1", "qwen3-4b_bf16_tp1"}  # dense runs
TILES = [(1, 16), (17, 32), (33, 44), (45, 64), (65, 96), (97, 128), (129, 192), (193, 256), (257, 400), (401, 640), (641, 1024),
         (1025, 1500), (1501, 10**9)]


def table(part, kernel=None):
    """{(n, k): [(m, utilisation)]} of bf16 products of vLLM's set."""
    out = {}
    with open(f"{ROOT}/hardware_profiles/tables/{part}/vllm-0.24/gemm.csv", encoding="utf-8") as f:
        for r in csv.DictReader(f):
            if r["dtype"] == "bf16" and kernel in (None, r["kernel"]):
                out[int(r["n"]), int(r["k"])] = [(int(c), float(u)) for c, u in r.items() if c.isdigit() and u]
    return out


def ours_beside_published(part):
    """Logarithms of ours ÷ published at sizes that both timed, and the number of shapes."""
    published, rates, logs, shapes = table(part, "torch.linear"), figures(part), [], set()
    with open(f"{ROOT}/hardware_profiles/tables/{part}/orrery/gemm.csv", encoding="utf-8") as f:
        for r in csv.DictReader(f):
            n, k, m = (int(r[c]) for c in "nkm")
            u = dict(published.get((n, k), [])).get(m) if r["dtype"] == "bf16" else None
            if u:
                logs.append(math.log(float(r["us"]) * u / gemm_bound_us(rates, "bf16", m, n, k)))
                shapes.add((n, k))
    return logs, len(shapes)


def isolated(name):
    """{tokens: [in the step ÷ table]} of the layers' products of Qwen3-8B."""
    shapes, rates, out = table("h200"), figures("h200"), collections.defaultdict(list)
    with open(f"{CASES}/h200_vllm_0_24_kernels/{name}.csv", encoding="utf-8") as f:
        for r in csv.DictReader(f):
            n, k, m = int(float(r["n"])), int(float(r["k"])), int(float(r["tokens"]))
            if r["model"] == "qwen3-8b" and r["op"] == "gemm" and n != OUTPUT_LAYER:
                bound = gemm_bound_us(rates, "bf16", m, n, k)
                out[m].append((float(r["us"]) + GRAPH_GAP_US) * log_interpolate(shapes[n, k], m) / bound)
    return out


def clocks():
    """Rows by power: readings, the driver's reason for the clock (4: its software power cap), SM clock."""
    readings = []
    with gzip.open(f"{CASES}/h200_vllm_0_24_held_out/clocks.csv.gz", "rt") as f:
        for _, sm, _, power, _, reasons in csv.reader(f, skipinitialspace=True):
            readings.append((float(power.split()[0]), int(sm.split()[0]), int(reasons, 16)))
    for low, high in ((300, 450), (450, 550), (550, 650), (650, 720)):
        inside = [(sm, why) for power, sm, why in readings if low <= power < high]
        mhz = [sm for sm, _ in inside]
        yield [f"{low} to {high}", len(inside), sum(why == 4 for _, why in inside), f"{statistics.median(mhz):,.0f}", f"{min(mhz):,}",
               f"{max(mhz):,}"]


def markdown(header, rows):
    line = lambda cells: "| " + " | ".join(map(str, cells)) + " |\n"  # noqa: E731
    return line(header) + line(["---"] + ["--:"] * (len(header) - 1)) + "".join(map(line, rows))


def factor(inside, of):
    values = [1 + (s["gpu"] - s["busy"]) / s[of] for s in inside if s[of] > 0]
    return f"{statistics.median(values):.2f} ({len(values)})" if len(values) >= 10 else "–"


def span(low, high):
    return f"{low:,} to {high:,}" if high < 10**9 else f"{low:,} and more"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--orrery", default=f"{ROOT}/build/release/orrery")
    parser.add_argument("--out", default=f"{ROOT}/reports/results")
    options = parser.parse_args()
    arguments = types.SimpleNamespace(orrery=os.path.abspath(options.orrery), hardware="h200", engine="vllm-0.24")
    with steps.without_corrections(arguments):
        runs = [(*steps.residuals(arguments, f"{CASES}/{folder}"), used) for folder, used in RUNS]
    few, normal = isolated("kernels"), isolated("kernels_normal_weights")
    mean = lambda v: f"{math.exp(statistics.fmean(map(math.log, v))):.3f} ({min(v):.2f} to {max(v):.2f})" if v else "–"  # noqa: E731
    text = """# What the H200's corrections rest on

Made by `tools/correction_evidence.py` from committed runs and profiles. All prices here are without `corrections.csv`.

## Products in steps run one at a time, over the table

Kernel profiles of vLLM 0.24 with Qwen3-8B on one H200 (reports/cases/h200_vllm_0_24_kernels): geometric mean and range over the layers' products, by tokens of the
step. *Few bits*: weights uniform in ±0.001; *normal*: as in the logged runs. Clocks were not recorded during the profiles.

"""
    text += markdown(["tokens", "few bits", "normal"], [[f"{m:,}", mean(few.get(m)), mean(normal.get(m))] for m in sorted({*few, *normal})])
    text += """
## The same in steps back to back: what all products of a step would need

Median over the steps with prompts of dense models during which the device did not wait for the host (number of steps), by tokens of the step. The whole residual is put on the products, prompt
attention's share included. Runs marked *fitted* are those that corrections.csv comes from.

"""
    dense = [r for r in runs if r[0] in PRODUCTS]
    text += markdown(["tokens"] + [f"{name}{' *fitted*' if used else ''}" for name, _, _, used in dense],
                     [[span(low, high)] + [factor([s for s in inside if s["prefill"] and low <= s["tokens"] <= high], "gemm")
                                           for _, _, inside, _ in dense] for low, high in TOKENS])
    text += """
The card of the last two, while they ran (`nvidia-smi` every 0.4 s, start-ups included; h200_vllm_0_24_held_out/clocks.csv.gz); nobody watched the others:

"""
    text += markdown(["power, W", "readings", "of them under the software power cap", "median SM clock, MHz", "lowest", "highest"], clocks())
    text += """
## Decode attention by tiles (sequences × KV heads of a rank)

What decode attention would need for the median decode step to come out right (number of steps); the whole residual is put on it, so where attention is a small part of a
step (few tiles, expert models) a factor says little.

"""
    text += markdown(["tiles"] + [f"{name}{' *fitted*' if used else ''}" for name, _, _, used in runs],
                     [[span(low, high)] + [factor([s for s in inside if not s["prefill"] and low <= s["tiles"] <= high], "attention_decode")
                                           for _, _, inside, _ in runs] for low, high in TILES])
    text += "\n## Our cuBLASLt timings beside published ones\n\nbf16 products that both timed, at equal rows: ours ÷ published.\n\n"
    rows = []
    for part in ("h200", "h100"):
        logs, shapes = ours_beside_published(part)
        rows.append([part, shapes, len(logs), f"{100 * statistics.median(logs):+.1f} %",
                     f"{100 * statistics.median(map(abs, logs)):.1f} %"])
    text += markdown(["part", "shapes", "points", "median", "median abs."], rows)
    with open(f"{options.out}/corrections_h200.md", "w", encoding="utf-8") as f:
        f.write(text)


if __name__ == "__main__":
    main()
