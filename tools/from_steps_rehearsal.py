#!/usr/bin/env python3
"""Fits an engine to half of a run's experiments and predicts the other half, as reports/results/from_steps.md.

  tools/from_steps_rehearsal.py --orrery build/release/orrery [--out reports/results/from_steps.md] [--shared ../shared]

For every committed vLLM run: `orrery calibrate --from-steps` sees every second experiment of its log (counted from the first); the
others are predicted with the profile and with the fitted engine, and scored by ../shared/tools/score_truth.py. Then the same with the
first 200 steps of the log and the experiments that begin after them.
Without ../shared: says so, exit 0.
"""
import argparse
import csv
import datetime
import gzip
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import accuracy  # noqa: E402

ROOT = accuracy.ROOT
RUNS = [("h200_vllm_0_24", "h200", "qwen3-8b_bf16_tp1"), ("h200_vllm_0_24", "h200", "qwen3-30b-a3b_fp8_tp1"),
        ("h200_vllm_0_24", "h200", "qwen3-32b_bf16_tp2"), ("h100_vllm_0_24", "h100", "llama-3.1-8b_bf16_tp1"),
        ("h100_vllm_0_24", "h100", "qwen3-4b_bf16_tp1_small"), ("h100_vllm_0_24", "h100", "qwen3-30b-a3b_bf16_tp2_ep2"),
        ("h200_vllm_0_24_held_out", "h200", "llama-3.1-8b_bf16_tp1"), ("h200_vllm_0_24_held_out", "h200", "qwen3-4b_bf16_tp1"),
        ("h200_vllm_0_24_held_out", "h200", "qwen3-30b-a3b_bf16_tp2_ep2")]
HOSTS = {"h200_vllm_0_24": "H200, the profile's own host", "h100_vllm_0_24": "H100", "h200_vllm_0_24_held_out": "H200, other hosts"}
FIRST = 200
EARLY_TERMS = ["schedule_base", "schedule_per_sequence", "schedule_per_new_request", "prepare_base", "prepare_rpc", "prepare_per_sequence",
               "prepare_per_sequence_v1", "launch_graph", "launch_piece", "launch_kernel", "launch_experts", "launch_collective", "update_base",
               "update_per_sequence"]
SHOWN = [("ttft_p50_ms", "TTFT p50"), ("ttft_p99_ms", "TTFT p99"), ("tpot_mean_ms", "TPOT mean")]


def scenario_of(folder, hardware, place):
    with open(folder / "engine.json", encoding="utf-8") as f:
        engine = json.load(f)["engine"]
    width = engine.get("tensor_parallel_size", 1)
    experts = width if engine.get("enable_expert_parallel") else 1
    path = pathlib.Path(place) / "scenario.yaml"
    path.write_text(f"deployment:\n  hardware: {hardware}\n  model: {engine['model'].lower().replace('meta-', '')}\n"
                    f"  engine: vllm-0.24\n  parallel: {{tp: {width}, ep: {experts}}}\n")
    return str(path)


def experiments(folder):
    with gzip.open(folder / "experiments.jsonl.gz", "rt") as f:
        return [json.loads(line)["name"] for line in f]


def scores(score, orrery, cases, hardware, run, names, engine, place):
    out = os.path.join(place, "scores.csv")
    subprocess.run([sys.executable, score, "--orrery", orrery, "--truth", str(cases), "--runs", run, "--experiments", ",".join(names),
                    "--hardware", hardware, "--engine", engine, "--csv", out], check=True, stdout=subprocess.DEVNULL)
    with open(out, newline="") as f:
        return {(r["experiment"], r["metric"]): float(r["error_percent"]) for r in csv.DictReader(f) if r["error_percent"]}


def first_steps(folder, place, count):
    """The run with no more than the first steps of its log, and the experiments that these saw all or some of."""
    cut = pathlib.Path(place) / "early" / folder.name
    shutil.copytree(folder, cut)
    with gzip.open(folder / "steps.csv.gz", "rt") as f:
        lines = f.read().splitlines()[:count + 1]
    with gzip.open(cut / "steps.csv.gz", "wt") as f:
        f.write("\n".join(lines) + "\n")
    seen = {line.split(",", 1)[0] for line in lines[1:]}
    return cut, [n for n in experiments(folder) if n in seen]


def fitted_engine(orrery, folder, scenario, left, out):
    """`calibrate --from-steps` without the experiments that are left; its fit.json."""
    subprocess.run([orrery, "calibrate", "--from-steps", str(folder), "--scenario", scenario, "--leave-out", ",".join(left), "--out", out,
                    "--quiet"], check=True)
    with open(os.path.join(out, "fit.json"), encoding="utf-8") as f:
        return json.load(f)


def summary_of(pooled):
    return [[host, title, str(len(v)), f"{statistics.median(b for b, _ in v):.1f} %", f"{statistics.median(a for _, a in v):.1f} %"]
            for (host, m), v in pooled.items() for key, title in SHOWN if key == m]


def early_rows(orrery, score, pooled):
    """Fitted to a log's first steps, the experiments behind them predicted: rows of coefficients, rows of errors."""
    coefficients, rows = [], []
    for cases, hardware, run in RUNS:
        folder = ROOT / "reports/cases" / cases / run
        with tempfile.TemporaryDirectory() as place:
            cut, seen = first_steps(folder, place, FIRST)
            left = [n for n in experiments(folder) if n not in seen]
            fit = fitted_engine(orrery, cut, scenario_of(folder, hardware, place), left, os.path.join(place, "fit"))
            terms = {t["key"]: t["value"] / t["profile"] for t in fit["host_us"]}
            coefficients.append([run, ", ".join(seen)] + [f"{terms[k]:.2f}" if abs(terms.get(k, 1) - 1) > 1e-9 else "kept" for k in EARLY_TERMS]
                                + [", ".join(f"{t['key']} {t['value']:.2f}" for t in fit["operators"] if t["fitted"]) or "–"])
            before, after = (scores(score, orrery, ROOT / "reports/cases" / cases, hardware, run, left, engine, place)
                             for engine in ("vllm-0.24", os.path.join(place, "fit", "engine.yaml")))
        for name in left:
            if (name, "ttft_p50_ms") not in before:
                continue
            rows.append([run, name] + [f"{before[name, m]:+.1f} → {after[name, m]:+.1f} %" for m, _ in SHOWN])
            for m, _ in SHOWN:
                pooled.setdefault((HOSTS[cases], m), []).append((abs(before[name, m]), abs(after[name, m])))
    return coefficients, rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--orrery", default=str(ROOT / "build/release/orrery"))
    parser.add_argument("--out", default=str(ROOT / "reports/results/from_steps.md"))
    parser.add_argument("--shared", default=str(ROOT.parent / "shared"))
    options = parser.parse_args()
    score = os.path.join(options.shared, "tools", "score_truth.py")
    if not os.path.isfile(score):
        print(f"from_steps: skipped: no {score} (it lies beside the repository, not in it)")
        return 0
    orrery = os.path.abspath(options.orrery)
    rows, steps, pooled = [], [], {}
    for cases, hardware, run in RUNS:
        folder = ROOT / "reports/cases" / cases / run
        names = experiments(folder)
        seen, left = names[0::2], names[1::2]
        with tempfile.TemporaryDirectory() as place:
            fit = os.path.join(place, "fit")
            fitted = fitted_engine(orrery, folder, scenario_of(folder, hardware, place), left, fit)
            launch = {t["key"]: t for t in fitted["host_us"]}
            steps.append([run, ", ".join(seen), f"{launch['launch_graph']['value'] / launch['launch_graph']['profile']:.2f}",
                          f"{launch['launch_kernel']['value'] / launch['launch_kernel']['profile']:.2f}",
                          ", ".join(f"{t['key']} {t['value']:.2f}" for t in fitted["operators"] if t["fitted"]) or "–"])
            before = scores(score, orrery, ROOT / "reports/cases" / cases, hardware, run, left, "vllm-0.24", place)
            after = scores(score, orrery, ROOT / "reports/cases" / cases, hardware, run, left, os.path.join(fit, "engine.yaml"), place)
        for name in left:
            if (name, "ttft_p50_ms") not in before:
                continue
            rows.append([run, name] + [f"{before[name, m]:+.1f} → {after[name, m]:+.1f} %" for m, _ in SHOWN])
            for m, _ in SHOWN:
                pooled.setdefault((HOSTS[cases], m), []).append((abs(before[name, m]), abs(after[name, m])))
    summary, pooled = summary_of(pooled), {}
    coefficients, early = early_rows(orrery, score, pooled)
    commit = accuracy.text_of(["git", "rev-parse", "--short=12", "HEAD"])
    text = f"""# Fitting an engine to its step log: rehearsed

Made by `tools/from_steps_rehearsal.py` on {datetime.date.today().isoformat()}, commit {commit}. Every second experiment of a run is fitted (`orrery calibrate --from-steps
… --leave-out …`, docs/from_steps.md), the others are predicted: error with the profile → with the fitted engine. The profile's own host costs come from the three H200 runs, so
there is little to gain on them; all others are other hosts.

Median absolute error of the experiments that were not fitted:

{accuracy.table(["runs on", "metric", "n", "profile", "fitted"], summary)}
What was fitted to (factors on the profile's figures):

{accuracy.table(["run", "experiments seen", "launch_graph", "launch_kernel", "operator classes"], steps)}
Each experiment that was not:

{accuracy.table(["run", "experiment"] + [title for _, title in SHOWN], rows)}
## With the first {FIRST} steps

Fitted to no more than the first {FIRST} steps of each log, whatever they were; the experiments that begin after them are predicted. These logs begin with prompts alone on an idle engine and small batches, which
say little of a busy host: launches of lone prompts take one that slept up to 1.7 times as long (8B, 32B: factors of 1.5 on the very host that the profile came from), and the 30B run on two GPUs saw a slow
host in its first steps and a fast one after. Too few of them are launched kernel by kernel in the 4B runs for that factor to be fitted at all (`kept`). {FIRST} steps *of the load itself* are what
a fit needs; experiments fitted by halves, above, have them.

What is wrong is the host, not queueing or step time: by the three executors ([engine_fidelity.md](engine_fidelity.md), with the profile, unfitted) TTFT of the open loops is off by −5 to −12 % (8B), −28 to −41 % (4B)
through the host, by −2 to +7 % through step times and by −4 to +2 % through queueing; on two GPUs (30B) by −16 % through step times and by −15 to +14 % through the host. Median absolute error:

{accuracy.table(["runs on", "metric", "n", "profile", "fitted"], summary_of(pooled))}
Every coefficient, over the profile's (`kept`: too few steps say something of it):

{accuracy.table(["run", "experiments seen"] + EARLY_TERMS + ["operator classes"], coefficients)}
Each experiment behind them:

{accuracy.table(["run", "experiment"] + [title for _, title in SHOWN], early)}"""
    path = pathlib.Path(options.out)
    partial = path.with_name(path.name + f".partial-{os.getpid()}")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
    print(accuracy.table(["runs on", "metric", "n", "profile", "fitted"], summary) + str(path))
    return 0


if __name__ == "__main__":
    sys.exit(main())
