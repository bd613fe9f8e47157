#!/usr/bin/env python3
"""reports/results/live_h200.md from the runs kept beside it: live_report.py [--orrery BINARY] [--before BINARY DATA_DIR]

Every run of reports/results/live_h200 has its scenario, what was measured (comparison.json, steps.csv.gz) and, some of them, a tape. They are
predicted again by this tree's tables and profile; --before gives another build and its data folder, whose predictions of the same runs
stand beside (else those columns are kept from before.json). profiles/ holds launches of the other runs, which corrections.csv of the set
orrery-live was fitted to, priced without it. NOTES is written by hand.
"""
import argparse
import collections
import csv
import gzip
import json
import os
import pathlib
import subprocess
import sys
import tempfile

root = pathlib.Path(__file__).resolve().parent.parent
runs = root / "reports/results/live_h200"
METRICS = (("TTFT p50", "ttft_ms.p50", 6), ("TPOT", "tpot_ms.mean", 3), ("tokens/s", "throughput.output_tokens_per_s", 2))
NAMES = {
    "qwen3-0.6b_poisson": "Qwen3-0.6B, Poisson 20/s (500 in, 100 out, log-normal)",
    "qwen3-0.6b_256_clients": "Qwen3-0.6B, 256 clients (256 in, 128 out)",
    "qwen3-0.6b_256_clients_again": "the same on the second card",
    "qwen3-8b_poisson": "Qwen3-8B bf16, Poisson 16/s (1,024 in, 128 out)",
    "qwen3-8b-fp8-block_poisson": "Qwen3-8B in blocks of FP8, the same load",
    "llama-3.1-8b_poisson": "Llama-3.1-8B, Poisson 14/s (1,024 in, 128 out)",
    "qwen3-32b_poisson": "Qwen3-32B bf16, Poisson 4/s (1,024 in, 64 out)",
    "qwen3-32b-fp8-block_poisson": "Qwen3-32B in blocks of FP8, Poisson 6/s (1,024 in, 64 out)",
    "qwen3-30b-a3b-fp8_poisson": "Qwen3-30B-A3B FP8, Poisson 8/s (512 in, 64 out)",
    "qwen3-30b-a3b-fp8_poisson_r14": "Qwen3-30B-A3B FP8, Poisson 14/s (1,024 in, 128 out)",
    "deepseek-v2-lite_poisson": "DeepSeek-V2-Lite's shape, Poisson 8/s (512 in, 64 out)",
}
NOTES = (runs / "notes.md").read_text()


def call(binary, data, *arguments):
    environment = {**os.environ, "ORRERY_DATA_DIR": str(data)}
    p = subprocess.run([str(binary), *map(str, arguments)], capture_output=True, text=True, env=environment)
    if p.returncode:
        sys.exit(p.stderr)
    return p.stdout


def chunks(row):
    """`tokens@context` of each; the runs that are kept have an older name for the column."""
    return row["chunk_lengths"] if "chunk_lengths" in row else row["prompts"]


def step_errors(name, binary, data):
    """Priced ÷ measured − 1 over all decode steps, and over all steps with prompts, percent."""
    rows = [r for r in csv.DictReader(gzip.open(runs / f"{name}.steps.csv.gz", "rt")) if r["first_use"] == "0" and float(r["measured_us"]) > 0]
    with tempfile.TemporaryDirectory() as folder:
        steps, prices = pathlib.Path(folder) / "steps.jsonl", pathlib.Path(folder) / "prices.csv"
        steps.write_text("".join(json.dumps({
            "prefill": [list(map(int, chunk.split("@"))) for chunk in chunks(r).split()],
            "decode": {"sequences": int(r["decodes"]), "context_tokens": int(r["decode_context"])}}) + "\n" for r in rows))
        call(binary, data, "cost", runs / f"{name}.yaml", "--steps", steps, "--out", prices)
        priced = [float(r["device_us"]) for r in csv.DictReader(open(prices))]
    sums = collections.defaultdict(lambda: [0.0, 0.0])
    for r, p in zip(rows, priced):
        both = sums["prompts" if chunks(r) else "decodes"]
        both[0] += p
        both[1] += float(r["measured_us"])
    return {kind: (p / m - 1) * 100 for kind, (p, m) in sums.items()}


def predicted(name, binary, data):
    out = json.loads(call(binary, data, "--json", "simulate", runs / f"{name}.yaml", "--intervals", "off"))
    flat = {key: out[key.split(".")[0]][key.split(".")[1]] for _, key, _ in METRICS}
    return {**flat, **step_errors(name, binary, data)}


def launches():
    """By class of operator and kind of step: measured milliseconds and price, over all profiled runs."""
    sums = collections.defaultdict(lambda: [0.0, 0.0])
    for file in sorted((runs / "profiles").glob("*.csv.gz")):
        model = file.name.removesuffix(".csv.gz").split("_")[0]
        for r in csv.DictReader(gzip.open(file, "rt")):
            if r["use"] == "stream_gaps":
                continue
            both = sums[model, "decodes" if r["kind"] == "decode" else "prompts", r["class"]]
            both[0] += float(r["measured_us"]) * 1e-3
            both[1] += float(r["priced_us"]) * 1e-3
    return sums


def launch_table(sums):
    classes = ["gemm", "grouped_gemm", "attention_decode", "attention_prefill", "elementwise", "routing", "sampling"]
    lines = ["| model | steps | " + " | ".join(classes) + " |", "|---|---|" + "--:|" * len(classes)]
    for model, kind in sorted({(m, k) for m, k, _ in sums}):
        whole = sum(v[0] for (m, k, _), v in sums.items() if (m, k) == (model, kind))
        cells = []
        for c in classes:
            measured, priced = sums.get((model, kind, c), (0, 0))
            cells.append(f"{(priced / measured - 1) * 100:+.0f} % of {measured / whole * 100:.0f} %" if measured > 0.005 * whole else "–")
        lines.append(f"| {model} | {kind} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--orrery", default=root / "build/release/orrery")
    options.add_argument("--before", nargs=2, metavar=("BINARY", "DATA_DIR"))
    o = options.parse_args()
    kept = runs / "before.json"
    if o.before:
        kept.write_text(json.dumps({n: predicted(n, *o.before) for n in NAMES}, indent=1, sort_keys=True) + "\n")
    before = json.loads(kept.read_text())
    lines = ["| run | | " + " | ".join(f"{title} (target {target} %)" for title, _, target in METRICS) + " | decode steps (3 %) | steps with prompts (3 %) |",
             "|---|---|--:|--:|--:|--:|--:|"]
    met = collections.Counter()
    for name, title in NAMES.items():
        measured = json.loads((runs / f"{name}.comparison.json").read_text())
        now, was = predicted(name, o.orrery, root), before[name]
        live = [measured[key]["measured"] for _, key, _ in METRICS]
        lines.append(f"| {title} | live | {live[0]:.2f} ms | {live[1]:.2f} ms | {live[2]:,.0f} | | |")
        for label, which in (("error before", was), ("error", now)):
            errors = [(which[key] / value - 1) * 100 for (_, key, _), value in zip(METRICS, live)] + [which["decodes"], which["prompts"]]
            targets = [target for _, _, target in METRICS] + [3, 3]
            cells = [f"**{e:+.1f} %**" if abs(e) <= t else f"{e:+.1f} %" for e, t in zip(errors, targets)]
            for i, (e, t) in enumerate(zip(errors, targets)):
                met[label, i] += abs(e) <= t
            lines.append(f"| | {label} | " + " | ".join(cells) + " |")
    for label in ("error before", "error"):
        lines.append(f"| within target | {label} | " + " | ".join(f"{met[label, i]} of {len(NAMES)}" for i in range(5)) + " |")
    text = NOTES.replace("{{RUNS}}", "\n".join(lines)).replace("{{LAUNCHES}}", launch_table(launches()))
    (root / "reports/results/live_h200.md").write_text(text)


main()
