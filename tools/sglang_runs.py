#!/usr/bin/env python3
"""Real SGLang runs beside their predictions: reports/results/sglang_h200.md.

  tools/sglang_runs.py --orrery build/release/orrery [--out reports/results] [--shared ../shared]

The runs are reports/cases/h200_sglang_0_5_17. Their schedules are replayed (`validate --schedule`); then they are predicted with
the profile sglang-0.5 (which follows 0.5.23) and scored with ../shared/tools/score_truth.py. Without ../shared: says so, exit 0.
"""
import argparse
import collections
import csv
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import accuracy  # noqa: E402

ROOT = accuracy.ROOT
CASES = ROOT / "reports/cases/h200_sglang_0_5_17"
TOLD = ("chunked_prefill_size", "max_total_tokens", "enable_mixed_chunk")  # arguments that the engine was given
TEXT = """# Real SGLang on an H200

SGLang 0.5.17, Qwen3-8B bf16, three runs (reports/cases/h200_sglang_0_5_17); made by `tools/sglang_runs.py`. Of the profile `sglang-0.5` the scheduler's and the launch's host time was measured in them, nothing else.
Prices of the kernels between products and attention are from a kernel profile of the same engine on another H200 machine, steps run one at a time
(reports/cases/h200_sglang_0_5_17_kernels); before they were the roofline's, and decode steps 6 to 8 % short. Other host costs are vLLM's, as the profile says. Steps with prompts are short: they run below the clock of the published tables, which vLLM's set corrects and this one does not. The
predictions follow 0.5.23, whose rules of admission and of ends by length are others (README of the runs): with a small pool and fixed lengths that shows.
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--orrery", default="build/release/orrery")
    parser.add_argument("--out", default=str(ROOT / "reports/results"))
    parser.add_argument("--shared", default=str(ROOT.parent / "shared"))
    a = parser.parse_args()
    score = os.path.join(a.shared, "tools/score_truth.py")
    if not os.path.exists(score):
        print(f"no {score}: the SGLang runs were not scored")
        return
    out = [TEXT, "## Schedules\n"]
    rows = []
    for run in sorted(p.name for p in CASES.iterdir() if p.is_dir()):
        replay = json.loads(subprocess.run([a.orrery, "validate", "--schedule", str(CASES / run), "--json"], capture_output=True,
                                           text=True).stdout)
        rows.append([run, f"{replay['steps']:,}", f"{replay['identical']:,}"])
    out.append(accuracy.table(["run", "steps", "identical in every field"], rows))
    with tempfile.TemporaryDirectory() as folder:
        for run in CASES.iterdir():
            if not run.is_dir():
                continue
            shutil.copytree(run, os.path.join(folder, run.name))
            path = os.path.join(folder, run.name, "engine.json")
            with open(path, encoding="utf-8") as f:
                engine = json.load(f)
            told = engine["engine"]
            engine["engine"] = {"model": told["model"], **{k: told[k] for k in TOLD if told.get(k)}}
            with open(path, "w", encoding="utf-8") as f:
                json.dump(engine, f)
        table = os.path.join(folder, "scores.csv")
        subprocess.run([sys.executable, score, "--orrery", a.orrery, "--truth", folder, "--engine", "sglang-0.5", "--hardware", "h200",
                        "--csv", table], check=True, stdout=subprocess.DEVNULL)
        with open(table, encoding="utf-8", newline="") as f:
            scores = list(csv.DictReader(f))
    out += ["\n## Steps\n", "Device time of logged steps against their price, median over the steps.\n"]
    out.append(accuracy.table(["run", "steps", "class", "error"], [
        [r["run"], r["experiment"], r["metric"], f"{float(r['error_percent']):+.1f} %"] for r in scores
        if "step" in r["metric"] and "err" not in r["metric"]]))
    out.append("\n## Requests\n")
    wanted = ["ttft_p50_ms", "ttft_p99_ms", "tpot_mean_ms", "output_tokens_per_s"]
    by_experiment = collections.OrderedDict()
    for r in scores:
        if r["metric"] in wanted:
            by_experiment.setdefault((r["run"], r["experiment"]), {})[r["metric"]] = r
    out.append(accuracy.table(["run", "experiment"] + [f"{w} measured, error" for w in wanted], [
        [run, experiment] + [f"{float(m[w]['measured']):,.4g}, {float(m[w]['error_percent']):+.1f} %" if w in m and not (w.startswith("output") and experiment == "prefill_single") else "" for w in wanted]
        for (run, experiment), m in by_experiment.items()]))
    path = os.path.join(a.out, "sglang_h200.md")
    with open(path, "w", encoding="utf-8") as f:
        f.write("\n".join(part.rstrip("\n") for part in out) + "\n")
    print(path)


if __name__ == "__main__":
    main()
