#!/usr/bin/env python3
"""Fits an engine to half of a run's experiments and predicts the other half, as reports/results/from_steps.md.

  tools/from_steps_rehearsal.py --orrery build/release/orrery [--out reports/results/from_steps.md] [--shared ../shared] [--runs A,B]

For every committed vLLM run, those with MTP included: `orrery calibrate --from-steps` sees every second experiment of its log (counted from
the first); the others are predicted with the profile and with the fitted engine, by several seeds each, since launch times are drawn. Then
the same with the first 200 steps of the log and the experiments that begin after them. Without ../shared: says so, exit 0.
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
import feature_runs  # noqa: E402
import seed_spread  # noqa: E402

ROOT = accuracy.ROOT
PROFILE = "vllm-0.24"
HOSTS = {"h200_vllm_0_24": "H200, the profile's own host", "h100_vllm_0_24": "H100", "h200_vllm_0_24_held_out": "H200, other hosts",
         "h200_vllm_0_24_features": "H200, another host, MTP"}
RUNS = [("h200_vllm_0_24", "qwen3-8b_bf16_tp1"), ("h200_vllm_0_24", "qwen3-30b-a3b_fp8_tp1"), ("h200_vllm_0_24", "qwen3-32b_bf16_tp2"),
        ("h100_vllm_0_24", "llama-3.1-8b_bf16_tp1"), ("h100_vllm_0_24", "qwen3-4b_bf16_tp1_small"),
        ("h100_vllm_0_24", "qwen3-30b-a3b_bf16_tp2_ep2"), ("h200_vllm_0_24_held_out", "llama-3.1-8b_bf16_tp1"),
        ("h200_vllm_0_24_held_out", "qwen3-4b_bf16_tp1"), ("h200_vllm_0_24_held_out", "qwen3-30b-a3b_bf16_tp2_ep2"),
        ("h200_vllm_0_24_features", "deepseek-v3-5l_fp8_mtp1"), ("h200_vllm_0_24_features", "deepseek-v3-5l_fp8_mtp3"),
        ("h200_vllm_0_24_features", "mimo-7b_bf16_mtp1")]
FIRST = 200
SEEDS = range(1, 4)
METRICS = [("ttft_p50_ms", "TTFT p50", 8), ("ttft_p99_ms", "TTFT p99", 15), ("tpot_mean_ms", "TPOT mean", 4)]  # and issue 5's targets


class Case:
    """A committed run: what calibrate is given, and the scenario of each experiment with what was measured."""

    def __init__(self, cases, run, place, orrery, score):
        self.cases, self.run, self.orrery = cases, run, orrery
        self.folder, self.place = ROOT / "reports/cases" / cases / run, pathlib.Path(place) / cases / run
        self.place.mkdir(parents=True)
        with gzip.open(self.folder / "experiments.jsonl.gz", "rt") as f:
            self.experiments = [json.loads(line) for line in f]
        self.seen = {}  # errors by (experiment, engine)
        self.measured = self.features() if cases.endswith("features") else self.scored(score)

    def title(self):
        return self.run + (" (H100)" if self.cases.startswith("h100") else "")

    def scored(self, score):
        """Scenarios and measured figures as ../shared/tools/score_truth.py has them."""
        hardware = self.cases.split("_")[0]
        subprocess.run([sys.executable, score, "--orrery", self.orrery, "--truth", str(self.folder.parent), "--runs", self.run, "--hardware", hardware,
                        "--csv", str(self.place / "scores.csv"), "--keep", str(self.place.parent)], check=True, stdout=subprocess.DEVNULL)
        with open(self.folder / "engine.json", encoding="utf-8") as f:
            engine = json.load(f)["engine"]
        width = engine.get("tensor_parallel_size", 1)
        experts = width if engine.get("enable_expert_parallel") else 1
        (self.place / "fit.yaml").write_text(
            f"deployment:\n  hardware: {hardware}\n  model: {engine['model'].lower().replace('meta-', '')}\n  engine: {PROFILE}\n"
            f"  parallel: {{tp: {width}, ep: {experts}}}\n")
        measured = {}
        with open(self.place / "scores.csv", newline="") as f:
            for r in csv.DictReader(f):
                if r["metric"] in {m for m, _, _ in METRICS} and r["experiment"] != "prefill_single":
                    measured.setdefault(r["experiment"], {})[r["metric"]] = float(r["measured"])
        return {e: [m[k] for k, _, _ in METRICS] for e, m in measured.items() if len(m) == len(METRICS)}

    def features(self):
        """The same as tools/feature_runs.py has them: from the time when the client meant to send."""
        run, measured = feature_runs.Run(self.orrery, self.run), {}
        (self.place / "fit.yaml").write_text(feature_runs.scenario_text(self.run))
        for e in run.experiments:
            if e["name"].startswith("prof") or e.get("serial"):
                continue
            run.trace(e, self.place / f"{e['name']}.jsonl")
            closed = f", closed_loop: {{concurrency: {e['conc']}}}" if "conc" in e else ""
            text = feature_runs.scenario_text(self.run, f"workload: {{trace: {e['name']}.jsonl{closed}}}\n")
            (self.place / f"{e['name']}.yaml").write_text(text)
            rows = [r for r in run.requests if r["experiment"] == e["name"]]
            first = sorted(1e3 * (float(r["ttft_s"]) + (0 if "conc" in e else float(r["submit_s"]) - float(r["arrival_s"]))) for r in rows)
            measured[e["name"]] = [first[min(len(first) - 1, int(p * len(first)))] for p in (.5, .99)] + [
                statistics.fmean(float(r["tpot_ms"]) for r in rows if r["tpot_ms"])]
        return measured

    def fit(self, left, log=None):
        """`calibrate --from-steps` without the experiments that are left: its folder and fit.json."""
        out = self.place / f"fit_{'early' if log else left[0]}"
        subprocess.run([self.orrery, "calibrate", "--from-steps", str(log or self.folder), "--scenario", str(self.place / "fit.yaml"), "--leave-out",
                        ",".join(left), "--out", str(out), "--quiet"], check=True)
        with open(out / "fit.json", encoding="utf-8") as f:
            return out / "engine.yaml", json.load(f)

    def errors(self, experiment, engine):
        """Of each metric: mean and deviation of the error, percent, over seeds."""
        if (experiment, engine) in self.seen:
            return self.seen[experiment, engine]
        scenario, rows = self.place / f"{experiment}.yaml", []
        ours = scenario.with_suffix(".fitted.yaml")
        ours.write_text(scenario.read_text().replace(f"engine: {PROFILE}\n", f"engine: {engine}\n"))
        for seed in SEEDS:
            out = self.place / "out"
            shutil.rmtree(out, ignore_errors=True)
            subprocess.run([self.orrery, "simulate", str(ours), "--seed", str(seed), "--out", str(out), "--outputs", "requests", "--intervals", "off",
                            "--quiet"], check=True, stdout=subprocess.DEVNULL)
            rows.append([100 * (p / m - 1) for p, m in zip(seed_spread.metrics(seed_spread.rows_of_csv(out / "requests.csv")), self.measured[experiment])])
        self.seen[experiment, engine] = [(statistics.fmean(v), statistics.stdev(v)) for v in zip(*rows)]
        return self.seen[experiment, engine]

    def first_steps(self):
        """The run with no more than the first steps of its log, and the experiments that these saw all or some of."""
        cut = self.place / "early" / self.run
        shutil.copytree(self.folder, cut)
        with gzip.open(self.folder / "steps.csv.gz", "rt") as f:
            lines = f.read().splitlines()[:FIRST + 1]
        with gzip.open(cut / "steps.csv.gz", "wt") as f:
            f.write("\n".join(lines) + "\n")
        return cut, {line.split(",", 1)[0] for line in lines[1:]}


def levels_row(case, seen, fit):
    """What was taken of the log: each kind of host work over the profile's, and factors of operators."""
    verdict = {"taken": lambda x: f"{x['factor']:.2f}", "within noise": lambda x: f"({x['factor']:.2f})", "refused": lambda x: f"[{x['factor']:.2f}]",
               "too few": lambda x: "–"}
    return [case.title(), ", ".join(seen)] + [verdict[x["verdict"]](x) for x in fit["host_levels"]] + [
        ", ".join(f"{t['key']} {t['value']:.2f}" for t in fit["operators"] if t["fitted"]) or "–"]


def compare(case, names, engine):
    """Rows of experiments with profile and fitted engine, [(experiment, metric, before, after, worse)]."""
    out = []
    for name in names:
        if name not in case.measured:
            continue
        for (key, title, _), (a, da), (b, db) in zip(METRICS, case.errors(name, PROFILE), case.errors(name, engine)):
            noise = 2 * ((da * da + db * db) / len(SEEDS)) ** .5
            out.append((name, title, a, b, abs(b) - abs(a) > max(noise, 1)))
    return out


def experiment_rows(case, compared):
    names = list(dict.fromkeys(c[0] for c in compared))
    return [[case.title(), n] + [f"{a:+.1f} → {b:+.1f} %" + (" worse" if worse else "") for m, _, _, a, b, worse in
                                 ((c[0], 0, 0, c[2], c[3], c[4]) for c in compared if c[0] == n)] for n in names]


def pooled_rows(pooled):
    return [[host, title, str(len(v)), f"{statistics.median(abs(a) for a, _ in v):.1f} %", f"{statistics.median(abs(b) for _, b in v):.1f} %"]
            for (host, title), v in pooled.items()]


def run_row(case, compared):
    """A run's loads (open and closed loops), medians; which targets are met."""
    loads = [c for c in compared if not c[0].startswith("static")]
    row, met = [case.title(), ", ".join(dict.fromkeys(c[0] for c in loads)) or "–"], []
    for _, title, target in METRICS:
        errors = [(abs(a), abs(b)) for _, t, a, b, _ in loads if t == title]
        if not errors:
            return None
        before, after = (statistics.median(v) for v in zip(*errors))
        row.append(f"{before:.1f} → {after:.1f} %")
        met.append((before <= target, after <= target))
    return row + [f"{sum(b for b, _ in met)} → {sum(a for _, a in met)} of 3"]


def worse_text(case, compared):
    return [f"{case.title()} {n}, {t}: {a:+.1f} → {b:+.1f} %" for n, t, a, b, worse in compared if worse]


def rehearse(case, results):
    names = [e["name"] for e in case.experiments if not e["name"].startswith("prof")]
    # Both ways where the one load of a kind is in one half.
    for seen, left in [(names[0::2], names[1::2])] + ([(names[1::2], names[0::2])] if case.cases.endswith("features") else []):
        engine, fit = case.fit(left)
        results["levels"].append(levels_row(case, seen, fit))
        add(case, results, compare(case, left, engine), "", True)
    log, early = case.first_steps()
    left = [n for n in names if n not in early]
    engine, fit = case.fit(left, log)
    results["early_levels"].append(levels_row(case, [n for n in names if n in early], fit))
    add(case, results, compare(case, left, engine), "early_", False)


def add(case, results, compared, half, by_run):
    results[half + "rows"] += experiment_rows(case, compared)
    results[half + "worse"] += worse_text(case, compared)
    if by_run:
        results["runs"] += [r for r in [run_row(case, compared)] if r]
    for _, title, a, b, _ in compared:
        results[half + "pooled"].setdefault((HOSTS[case.cases], title), []).append((a, b))


LEVELS = ["run", "experiments seen", "schedule", "handover", "update", "graph launch", "alone, by kernel", "alone, in pieces", "beside decodes, by kernel",
          "beside decodes, in pieces", "operator classes"]


def report(results):
    table, commit = accuracy.table, accuracy.text_of(["git", "rev-parse", "--short=12", "HEAD"])
    titles = [title for _, title, _ in METRICS]

    def listed(lines):
        return "\n".join(f"- {line}" for line in lines) + "\n" if lines else "None.\n"
    return f"""# Fitting an engine to its step log: rehearsed

Made by `tools/from_steps_rehearsal.py` on {datetime.date.today().isoformat()}, commit {commit}. Every second experiment of a run is fitted (`orrery calibrate --from-steps
… --leave-out …`, docs/from_steps.md), the others are predicted (of MTP runs, which have one Poisson load each, also the other way round): error with the profile → with the fitted engine, each the mean of {len(SEEDS)} seeds. The profile's own host costs come from the
first three runs, so there is little to gain on them; all others are other hosts. *Worse*: by more than one point and twice what the seeds leave of doubt.

Median absolute error of the experiments that were not fitted:

{table(["runs on", "metric", "n", "profile", "fitted"], pooled_rows(results["pooled"]))}
## What ten minutes of a log bring, run by run

Open and closed loops that were not fitted, medians of absolute errors; targets are TTFT p50 within 8 %, p99 within 15 %, TPOT within 4 %.

{table(["run", "loads"] + titles + ["targets met"], results["runs"])}
Worse than with the profile:

{listed(results["worse"])}
## What was taken of the log

Host work over the profile's; in brackets: within the noise of loads, so the profile's is kept; in square ones: beyond it, and kept all the same (what was left out was not predicted better; beside drafts prompts alone are not applied); –: too few steps. Factors of operators: – where they do not help what was left out while fitting.

{table(LEVELS, results["levels"])}
Each experiment that was not fitted:

{table(["run", "experiment"] + titles, results["rows"])}
## With the first {FIRST} steps

Fitted to no more than the first {FIRST} steps of each log, whatever they were; the experiments that begin after them are predicted. These logs begin with prompts alone on an idle engine and small batches. Prompts
alone say what prompts alone take (their launches find a host that slept: up to twice the profile's, on the profile's own host up to 1.35 times), not what launches of a busy engine do; so these are kept, and `calibrate` warns.
{FIRST} steps *of the load itself* are what a fit needs; experiments fitted by halves, above, have them.

{table(["runs on", "metric", "n", "profile", "fitted"], pooled_rows(results["early_pooled"]))}
Worse than with the profile:

{listed(results["early_worse"])}
{table(LEVELS, results["early_levels"])}
{table(["run", "experiment"] + titles, results["early_rows"])}"""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--orrery", default=str(ROOT / "build/release/orrery"))
    parser.add_argument("--out", default=str(ROOT / "reports/results/from_steps.md"))
    parser.add_argument("--shared", default=str(ROOT.parent / "shared"))
    parser.add_argument("--runs", default="", help="only these, by name")
    options = parser.parse_args()
    score = os.path.join(options.shared, "tools", "score_truth.py")
    if not os.path.isfile(score):
        print(f"from_steps: skipped: no {score} (it lies beside the repository, not in it)")
        return 0
    results = {k: [] for k in ("levels", "rows", "runs", "worse", "early_levels", "early_rows", "early_worse")} | {"pooled": {}, "early_pooled": {}}
    only = set(filter(None, options.runs.split(",")))
    with tempfile.TemporaryDirectory() as place:
        for cases, run in RUNS:
            if not only or run in only:
                print(run, flush=True)
                rehearse(Case(cases, run, place, os.path.abspath(options.orrery), score), results)
    path = pathlib.Path(options.out)
    partial = path.with_name(path.name + f".partial-{os.getpid()}")
    partial.write_text(report(results), encoding="utf-8")
    os.replace(partial, path)
    print(accuracy.table(["runs on", "metric", "n", "profile", "fitted"], pooled_rows(results["pooled"])) + str(path))
    return 0


if __name__ == "__main__":
    sys.exit(main())
