#!/usr/bin/env python3
"""What an engine's logged steps take relative to their price, part by part.

tools/step_residuals.py RUN… [--orrery build/release/orrery] [--hardware h200] [--engine vllm-0.24]

RUN is a folder as under reports/cases/h200_vllm_0_24 (engine.json, steps.csv.gz). Every logged step is priced as it
was scheduled; the price is taken apart by operator class (overrides.op_scale). Printed for classes of steps: number,
median of measured / predicted device time with its 10 and 90 % points, and the factor that the class which varies most
there would need for the median step to come out right. Steps during which the host was busy longer than 95 % of the
device time are left out: there the launches set the pace. This is where STEPS_ON_H200 of tools/fit_kernel_tables.py
comes from, with --uncorrected. Last, over all runs given, the factor of decode attention by its tiles
(sequences × KV heads of a rank). Standard library only.
"""
import argparse
import contextlib
import csv
import gzip
import json
import math
import os
import re
import shutil
import statistics
import subprocess
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
CLASSES = ["gemm", "attention_decode", "attention_prefill", "grouped_gemm"]
TOKENS = [(1, 64), (65, 192), (193, 320), (321, 450), (451, 512), (513, 640), (641, 800), (801, 1024), (1025, 1100),
          (1101, 1300), (1301, 1600), (1601, 2048), (2049, 2600), (2601, 3300), (3301, 4096), (4097, 5500), (5501, 8191),
          (8192, 10**9)]
DECODES = [(1, 1), (2, 2), (3, 4), (5, 8), (9, 16), (17, 24), (25, 32), (33, 48), (49, 64), (65, 96), (97, 128),
           (129, 160), (161, 192), (193, 224), (225, 10**9)]


def steps_of(folder):
    with gzip.open(os.path.join(folder, "steps.csv.gz"), "rt") as f:
        for r in csv.DictReader(f):
            if not r["gpu_us"] or not r["decode_sequences"]:
                continue
            chunks = [[int(x) for x in c.split("@")] for c in re.split(r"[; ]+", r["prefill_chunks"]) if c]
            decodes = int(float(r["decode_sequences"]))
            if not chunks and not decodes:
                continue
            yield {"prefill": chunks, "decodes": decodes, "context": int(float(r["decode_context_tokens"] or 0)),
                   "gpu": float(r["gpu_us"]), "host": float(r["execute_host_us"]), "tokens": int(r["tokens"])}


@contextlib.contextmanager
def without_corrections(arguments):
    """Prices from the committed profiles, but for the corrections of this part and engine."""
    table = f"hardware_profiles/tables/{arguments.hardware}/{arguments.engine}"
    with tempfile.TemporaryDirectory() as folder:
        for name in ("model_profiles", "engine_profiles", "workloads"):
            os.symlink(f"{ROOT}/{name}", f"{folder}/{name}")
        shutil.copytree(f"{ROOT}/hardware_profiles", f"{folder}/hardware_profiles",
                        ignore=lambda d, names: [n for n in names if n == "corrections.csv" and d.endswith(table)])
        before = os.environ.get("ORRERY_DATA_DIR")
        os.environ["ORRERY_DATA_DIR"] = folder
        try:
            yield
        finally:
            os.environ.pop("ORRERY_DATA_DIR")
            if before is not None:
                os.environ["ORRERY_DATA_DIR"] = before


def plan_of(engine):
    """parallel: as the engine's arguments say."""
    tp = engine.get("tensor_parallel_size", 1)
    return f"{{tp: {tp}, ep: {tp if engine.get('enable_expert_parallel') else 1}}}"


def prices(arguments, model, plan, steps, scale):
    with tempfile.TemporaryDirectory() as folder:
        scenario, listing, out = (os.path.join(folder, n) for n in ("s.yaml", "steps.jsonl", "o.csv"))
        with open(scenario, "w", encoding="utf-8") as f:
            f.write(f"deployment:\n  hardware: {arguments.hardware}\n  model: {model}\n  engine: {arguments.engine}\n"
                    f"  parallel: {plan}\n")
            if scale:
                f.write(f"overrides: {{op_scale: {{{scale}: 2.0}}}}\n")
        with open(listing, "w", encoding="utf-8") as f:
            for s in steps:
                f.write(json.dumps({"prefill": s["prefill"], "decode": {"sequences": s["decodes"],
                                                                        "context_tokens": s["context"]}}) + "\n")
        subprocess.run([arguments.orrery, "cost", scenario, "--steps", listing, "--out", out], check=True)
        with open(out, encoding="utf-8") as f:
            return [float(r["busy_us"]) for r in csv.DictReader(f)]


def kv_heads(arguments, model, plan):
    """KV heads of a rank, as the price list names them."""
    with tempfile.TemporaryDirectory() as folder:
        scenario = os.path.join(folder, "s.yaml")
        with open(scenario, "w", encoding="utf-8") as f:
            f.write(f"deployment: {{hardware: {arguments.hardware}, model: {model}, engine: {arguments.engine}, parallel: {plan}}}\n")
        priced = subprocess.run([arguments.orrery, "cost", scenario, "--step", "decode 1@1024", "--json"], check=True,
                                capture_output=True, text=True).stdout
    heads = re.search(r"heads=\d+/(\d+)", priced)
    return int(heads.group(1)) if heads else 1  # a latent is one head for all


def by_tiles(steps):
    """Median factor of decode attention by tiles, eight bins to two octaves, runs weighted by their steps."""
    bins = {}
    for s in steps:
        if not s["prefill"] and s["attention_decode"] > 0:
            bins.setdefault(round(4 * math.log2(s["tiles"])), []).append(s)
    print("decode attention by tiles, all runs")
    for key, inside in sorted(bins.items()):
        if len(inside) >= 10:
            factor = [1 + (s["gpu"] - s["busy"]) / s["attention_decode"] for s in inside]
            print(f"  {statistics.median(s['tiles'] for s in inside):6.0f} tiles  n {len(inside):5}  x {statistics.median(factor):.3f}  "
                  f"[{quantile(factor, .1):.2f}, {quantile(factor, .9):.2f}]")


def quantile(values, p):
    values = sorted(values)
    return values[min(len(values) - 1, int(p * len(values)))]


def report(label, steps, varying):
    if len(steps) < 4:
        return
    ratios = [s["gpu"] / s["busy"] for s in steps]
    factor = [1 + (s["gpu"] - s["busy"]) / s[varying] for s in steps if s[varying] > 0]
    print(f"  {label:18} n {len(steps):5}  {statistics.median(ratios):6.3f}  [{quantile(ratios, .1):.3f}, "
          f"{quantile(ratios, .9):.3f}]  {varying} x {statistics.median(factor) if factor else 0:.3f}")


def residuals(arguments, run):
    """Name of a run, number of its steps, and those during which the device did not wait for the host, each with its price
    (`busy`), what twice the price of a class adds, and its tiles."""
    with open(os.path.join(run, "engine.json"), encoding="utf-8") as f:
        engine = json.load(f)["engine"]
    steps = list(steps_of(run))
    model, plan = engine["model"].split("/")[-1].lower().replace("meta-", ""), plan_of(engine)
    heads = kv_heads(arguments, model, plan)
    for s, busy in zip(steps, prices(arguments, model, plan, steps, None)):
        s["busy"], s["tiles"] = busy, s["decodes"] * heads
    for name in CLASSES:
        for s, scaled in zip(steps, prices(arguments, model, plan, steps, name)):
            s[name] = scaled - s["busy"]
    return os.path.basename(run.rstrip("/")), len(steps), [s for s in steps if s["host"] < 0.95 * s["gpu"]]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--orrery", default="build/release/orrery")
    parser.add_argument("--hardware", default="h200")
    parser.add_argument("--engine", default="vllm-0.24")
    parser.add_argument("--uncorrected", action="store_true", help="with tables whose corrections.csv is left out")
    arguments = parser.parse_args()
    pooled = []
    with without_corrections(arguments) if arguments.uncorrected else contextlib.nullcontext():
        for run in arguments.runs:
            name, count, on_device = residuals(arguments, run)
            print(f"{name}: measured / predicted, {len(on_device)} of {count} steps")
            for low, high in TOKENS:
                report(f"prefill {low}-{high if high < 10**9 else ''}",
                       [s for s in on_device if s["prefill"] and low <= s["tokens"] <= high], "gemm")
            for low, high in DECODES:
                report(f"decode {low}-{high if high < 10**9 else ''}",
                       [s for s in on_device if not s["prefill"] and low <= s["decodes"] <= high], "attention_decode")
            pooled += on_device
    by_tiles(pooled)


if __name__ == "__main__":
    main()
