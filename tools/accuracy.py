#!/usr/bin/env python3
"""Predicted against measured, as reports/results/accuracy.md.

  tools/accuracy.py --orrery build/release/orrery [--out reports/results/accuracy.md] [--shared ../shared]

Runs ../shared/tools/score_truth.py, which knows nothing but the command line of `orrery`, on the measured vLLM runs
in ../shared/truth and lays out what it prints. Without ../shared there is nothing to compare with: says so, exit 0.
Exit 1 when a call of the binary failed (the report is still written, with what failed).
"""
import argparse
import csv
import datetime
import gzip
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import seed_spread  # noqa: E402
import static_life  # noqa: E402
from client_stalls import sentence as client_stalls  # noqa: E402
from step_residuals import steps_of  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Mean absolute error of AIConfigurator 0.12.0 and AISimulate's replay engine 0.12.0 on the same models and plans, in
# percent: ../shared/reference/peers.md §0.1. Their set of runs is larger than ours here.
PEERS = [  # (metric, what ours is called, {run: error})
    ("KV capacity (AIConfigurator)", "kv", {"8b": 1.4, "32b": 2.0, "30b": 0.5}),
    ("prefill device time (AIConfigurator)", "prefill_step", {"8b": 14.3, "32b": 8.4, "30b": 53.5}),
    ("decode step (AIConfigurator)", "decode_step", {"8b": 4.9, "32b": 5.7, "30b": 52.8}),
    ("open-loop TTFT p50 (replay)", "open_ttft_p50_ms", {"8b": 35.6, "32b": 21.6, "30b": 50.3}),
    ("open-loop TTFT p99 (replay)", "open_ttft_p99_ms", {"8b": 20.4, "32b": 21.9, "30b": 46.4}),
    ("open-loop TPOT mean (replay)", "open_tpot_mean_ms", {"8b": 11.6, "32b": 9.2, "30b": 23.3}),
]
PEER_RUNS = {"8b": "qwen3-8b_bf16_tp1", "32b": "qwen3-32b_bf16_tp2", "30b": "qwen3-30b-a3b_fp8_tp1"}
V2_RUNS = ["qwen3-32b_bf16_tp2", "qwen3-8b_bf16_tp1"]  # served by vLLM's V2 model runner
FITTED = "qwen3-8b_bf16_tp1"  # the run whose steps correct operator classes and give most host costs
METRICS = [("ttft_p50_ms", "TTFT p50, ms"), ("ttft_p99_ms", "TTFT p99, ms"), ("tpot_mean_ms", "TPOT mean, ms"),
           ("tpot_p99_ms", "TPOT p99, ms"), ("output_tokens_per_s", "output tokens/s")]


def figure(text):
    value = float(text)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def signed(values):
    return f"{statistics.median(values):+.1f} %" if values else "–"


def absolute(values):
    return f"{statistics.median(map(abs, values)):.1f} %" if values else "–"


def table(header, rows):
    align = ["---"] + ["--:"] * (len(header) - 1)
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, align] + rows) + "\n"


def kinds_of(truth, run):
    """What sort of load each experiment is: single (one after another), static, closed or open loop."""
    kinds = {}
    with gzip.open(truth / run / "experiments.jsonl.gz", "rt") as lines:
        for line in lines:
            e = json.loads(line)
            static = e["name"].startswith("static_")
            kinds[e["name"]] = "single" if e.get("serial") else "closed" if e.get("conc") else "static" if static else "open"
    return kinds


def first_admissions(truth, run):
    """Per experiment: prompt tokens found in the prefix cache when each request was first admitted, and which requests
    were preempted. interfaces §3 counts those; the engine's own counter takes a later admission's for a request that was
    preempted before its first token, and then finds its own blocks again."""
    found, preempted = {}, {}
    with gzip.open(truth / run / "steps.csv.gz", "rt", newline="") as lines:
        for row in csv.DictReader(lines):
            for entry in row["new_request_ids"].replace(";", " ").split():
                request, _, cached = entry.partition(":")
                found.setdefault(row["experiment"], {}).setdefault(request, int(cached or 0))
            preempted.setdefault(row["experiment"], set()).update(row["preempted_request_ids"].replace(";", " ").split())
    return {e: (sum(f.values()), preempted[e]) for e, f in found.items()}


def open_loops(truth, run):
    """Of each experiment with arrivals what seed_spread compares."""
    kinds, found = kinds_of(truth, run), {}
    with gzip.open(truth / run / "requests.csv.gz", "rt", newline="") as lines:
        for r in csv.DictReader(lines):
            if kinds.get(r["experiment"]) == "open":
                found.setdefault(r["experiment"], []).append(r)
    return {e: seed_spread.metrics(rows) for e, rows in found.items()}


class Run:
    """The rows of one measured run, sorted by what they are."""

    def __init__(self, name, rows, kinds, admissions, stalls=""):
        self.name, self.kinds, self.admissions, self.stalls = name, kinds, admissions, stalls
        self.kv = next((r for r in rows if r["metric"] == "kv_tokens"), None)
        self.steps = {r["metric"]: r for r in rows if r["predicted"] == ""}
        self.single = [r for r in rows if r["metric"].startswith("ttft_ms@")]
        self.cached = [r for r in rows if r["metric"] == "cached_tokens"]
        self.end_to_end = {(r["experiment"], r["metric"]): r for r in rows if r["predicted"] != ""}

    def errors(self, metric, *kinds):
        return [float(r["error_percent"]) for (e, m), r in self.end_to_end.items()
                if m == metric and self.kinds.get(e) in kinds]

    def step_error(self, prefix):
        """Median over step classes of the classes' median absolute errors."""
        found = [float(r["error_percent"]) for m, r in self.steps.items() if m.startswith(prefix) and "|err|" in m]
        return statistics.median(found) if found else None

    def write(self):
        text = f"## {self.name}\n\n"
        if self.kv:
            text += (f"KV tokens: predicted {figure(self.kv['predicted'])}, measured {figure(self.kv['measured'])}, "
                     f"error {float(self.kv['error_percent']):+.1f} %.\n\n")
        rows = [[m, r["experiment"].split()[0], f"{float(r['error_percent']):+.1f} %",
                 f"{float(self.steps[m + ' |err|']['error_percent']):.1f} %"]
                for m, r in sorted(self.steps.items()) if "|err|" not in m]
        if rows:
            text += "Device time of single steps, each priced with the batch that was logged:\n\n"
            text += table(["step", "steps", "median error", "median abs. error"], rows) + "\n"
        if self.single:
            rows = [[r["metric"].split("@")[1], figure(r["predicted"]), figure(r["measured"]),
                     f"{float(r['error_percent']):+.1f} %"] for r in self.single]
            text += "One request at a time, TTFT:\n\n"
            text += table(["prompt tokens", "predicted, ms", "measured, ms", "error"], rows) + "\n"
        text += "Whole experiments, predicted / measured (error):\n\n"
        rows = []
        for experiment, kind in self.kinds.items():
            cells = [self.end_to_end.get((experiment, m)) for m, _ in METRICS]
            if kind == "single" or not any(cells):
                continue
            rows.append([f"{experiment} ({kind})"] + [
                f"{figure(c['predicted'])} / {figure(c['measured'])} ({float(c['error_percent']):+.1f} %)" if c else "–"
                for c in cells])
        text += table(["experiment"] + [title for _, title in METRICS], rows) + "\n"
        for r in self.cached:
            text += (f"Cached prompt tokens in `{r['experiment']}`: predicted {figure(r['predicted'])}, measured "
                     f"{figure(r['measured'])}, error {float(r['error_percent']):+.1f} %. ")
            at_first, preempted = self.admissions.get(r["experiment"], (None, ()))
            if at_first is not None and at_first != round(float(r["measured"])):
                error = 100 * (float(r["predicted"]) / at_first - 1)
                text += (f"At first admission, which is what Orrery reports, the step log has {figure(at_first)}: error "
                         f"{error:+.1f} %. The rest are blocks that a request preempted before its first token found again "
                         f"(preempted in this run: {', '.join(sorted(preempted, key=int))}).")
            text = text.rstrip() + "\n\n"
        return text + self.stalls


def summary(runs):
    def all_of(metric, *kinds):
        return [e for run in runs for e in run.errors(metric, *kinds)]

    rows = [["KV tokens", str(len(runs)), signed([float(r.kv["error_percent"]) for r in runs if r.kv]),
             absolute([float(r.kv["error_percent"]) for r in runs if r.kv])]]
    for prefix, title in [("decode_step", "decode steps (device)"), ("prefill_step", "prefill steps (device)"),
                          ("mixed_step", "mixed steps (device)")]:
        classes = [(float(r["error_percent"]), float(run.steps[m + " |err|"]["error_percent"])) for run in runs
                   for m, r in run.steps.items() if m.startswith(prefix) and "|err|" not in m]
        if classes:
            rows.append([title, str(len(classes)), signed([c[0] for c in classes]), absolute([c[1] for c in classes])])
    singles = [float(r["error_percent"]) for run in runs for r in run.single]
    rows.append(["TTFT of single requests", str(len(singles)), signed(singles), absolute(singles)])
    for kind, title in [("static", "static batches"), ("open", "open loop"), ("closed", "closed loop")]:
        for metric, name in METRICS:
            errors = all_of(metric, kind)
            if errors:
                rows.append([f"{title}: {name.split(',')[0]}", str(len(errors)), signed(errors), absolute(errors)])
    return table(["metric", "n", "median error", "median abs. error"], rows)


def peers(runs):
    by_name, rows = {run.name: run for run in runs}, []
    for title, key, theirs in PEERS:
        row = [title]
        for short, error in theirs.items():
            run, ours = by_name.get(PEER_RUNS[short]), None
            if run and key == "kv" and run.kv:
                ours = abs(float(run.kv["error_percent"]))
            elif run and key.startswith("open_"):
                found = run.errors(key[len("open_"):], "open")
                ours = statistics.fmean(map(abs, found)) if found else None
            elif run and key != "kv":
                ours = run.step_error(key)
            row.append(f"{error:.1f} / " + (f"{ours:.1f}" if ours is not None else "–"))
        rows.append(row)
    return table(["metric", "8B bf16", "32B bf16 TP2", "30B-A3B FP8"], rows)


def coverage(orrery, run, hardware="h200", cases=ROOT / "reports/cases/h200_vllm_0_24"):
    """Share of logged steps whose device time lies inside the 90 % interval of `orrery cost --steps`."""
    folder = cases / run
    if not folder.is_dir():
        return []
    with open(folder / "engine.json", encoding="utf-8") as f:
        engine = json.load(f)["engine"]
    steps = list(steps_of(str(folder)))
    with tempfile.TemporaryDirectory() as place:
        scenario, listing, out = (os.path.join(place, n) for n in ("s.yaml", "steps.jsonl", "o.csv"))
        with open(scenario, "w", encoding="utf-8") as f:
            width = engine.get("tensor_parallel_size", 1)
            model = engine["model"].lower().replace("meta-", "")
            f.write(f"deployment: {{hardware: {hardware}, model: {model}, engine: vllm-0.24, "
                    f"parallel: {{tp: {width}, ep: {width if engine.get('enable_expert_parallel') else 1}}}}}\n")
        with open(listing, "w", encoding="utf-8") as f:
            for s in steps:
                f.write(json.dumps({"prefill": s["prefill"], "decode": {"sequences": s["decodes"],
                                                                        "context_tokens": s["context"]}}) + "\n")
        if subprocess.run([orrery, "cost", scenario, "--steps", listing, "--out", out]).returncode != 0:
            return []
        with open(out, newline="") as f:
            priced = list(csv.DictReader(f))
    rows = []
    for title, wanted in (("decode", False), ("prefill and mixed", True)):
        chosen = [(s, p) for s, p in zip(steps, priced) if bool(s["prefill"]) == wanted]
        inside = sum(float(p["low_us"]) <= s["gpu"] <= float(p["high_us"]) for s, p in chosen)
        half = statistics.median(float(p["high_us"]) / float(p["device_us"]) - 1 for _, p in chosen)
        rows.append([f"{run}, {title}", str(len(chosen)), f"{100 * inside / len(chosen):.0f} %", f"{100 * half:.0f} %"])
    return rows


def text_of(command, fallback="unknown"):
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    return done.stdout.strip() if done.returncode == 0 and done.stdout.strip() else fallback


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--orrery", default=str(ROOT / "build/release/orrery"))
    parser.add_argument("--out", default=str(ROOT / "reports/results/accuracy.md"))
    parser.add_argument("--shared", default=str(ROOT.parent / "shared"))
    options = parser.parse_args()
    score = pathlib.Path(options.shared) / "tools" / "score_truth.py"
    truth = pathlib.Path(options.shared) / "truth"
    if not score.is_file() or not truth.is_dir():
        print(f"accuracy: skipped: no measured runs at {truth} (they lie beside the repository, not in it)")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "scores.csv")
        done = subprocess.run([sys.executable, str(score), "--orrery", os.path.abspath(options.orrery), "--truth", str(truth),
                               "--csv", out, "--keep", folder], capture_output=True, text=True)
        if not os.path.exists(out):
            print(done.stdout + done.stderr, file=sys.stderr)
            print("accuracy: score_truth.py wrote no results", file=sys.stderr)
            return 1
        with open(out, newline="") as file:
            rows = list(csv.DictReader(file))
        lives = [row for n in V2_RUNS
                 for row in static_life.rows_of(os.path.abspath(options.orrery), truth / n, pathlib.Path(folder))]
        seeds = [row for n in sorted({r["run"] for r in rows})
                 for row in seed_spread.rows_of(os.path.abspath(options.orrery), n, pathlib.Path(folder), open_loops(truth, n))]
    failures = [line for line in done.stdout.splitlines() if line.startswith("FAIL")]
    names = sorted({r["run"] for r in rows})
    runs = [Run(n, [r for r in rows if r["run"] == n], kinds_of(truth, n), first_admissions(truth, n),
                client_stalls(truth / n)) for n in names]
    commit = text_of(["git", "rev-parse", "--short=12", "HEAD"])
    dirty = " with uncommitted changes" if text_of(["git", "status", "--porcelain", "--untracked-files=no"], "") else ""
    version = text_of([options.orrery, "--version"]).splitlines()[0]
    text = f"""# Predicted against measured

Made by `./dev accuracy` on {datetime.date.today().isoformat()}: {version}, commit {commit}{dirty}, {platform.machine()}.
Error = predicted ÷ measured − 1. Measured: vLLM 0.24.0 on one or two H200, `../shared/truth` (its README says how).

What was fitted to what: kernel times come from published tables and from our own kernel profiles of vLLM steps on an
H100 and an H200. From the *steps* of `{FITTED}` come the H200's correction of four operator classes
(`hardware_profiles/tables/h200/vllm-0.24/corrections.csv`; those of dense products and of decode attention from the 32B run's too; that of FP8-block experts from the H200 profile) and most
host costs; the variation of launch times is that of the open-loop steps of all three runs. Single host terms come from the steps
of the run that has them (launch of fused experts and per-sequence cost of the V1 runner: 30B-A3B; messages and launch
of collectives: 32B TP2), each named in `engine_profiles/vllm-0.24.yaml`. No TTFT, TPOT, throughput or KV figure was
fitted to anything. The second summary leaves `{FITTED}` out.

So what is held out, and what is not: of 30B-A3B nothing was used for the device time of decode steps, of neither 30B-A3B nor 32B for KV
tokens. Three more runs on H200 that nothing at all was taken from: [held_out_h200.md](held_out_h200.md). The prefill and mixed steps of 30B-A3B and 32B, TTFT and, where the host sets the pace, TPOT rest on one or two host terms from steps
of the same run (30B: 860 µs a launched expert layer, from its single prefills, and 15.8 µs a sequence; 32B: 150 µs a message
and 90 µs a launched all-reduce), and 32B's on dense products corrected by its own steps as well: those are tests of the model's form, not of these terms on another run.

The 30B-A3B experiment `static_b16_c1024` contains a step of about one second in which the engine compiled a kernel: an
outlier of the measurement. The engine's step logging costs it 0.1 to 0.2 ms of host time a step.

TTFT p50 of the closed loop is one request of 320, and a peculiar one: 160 came at once and waited for one another, 160 followed one by one, so the
median is the slowest of the latter. From 9.0 to 9.5 s the client fell behind (below, and [validation.md](../../docs/validation.md)) and then sent eight
requests at once, which makes exactly these slowest ones. Simulated with the recorded times of sending, the 95th percentile of the second 160 is 348 ms for 321.

## Summary

Medians over experiments (end to end) or over step classes (device time) of all runs.

{summary(runs)}
The same without `{FITTED}`, whose steps were used for the corrections (what else was used: above):

{summary([run for run in runs if run.name != FITTED])}
How often the measured device time of a logged step lies inside the 90 % interval that `orrery cost --steps` gives:

{table(["steps of", "n", "inside", "median half-width"], [row for n in names for row in coverage(os.path.abspath(options.orrery), n)])}
Beside two other tools on the same models and plans: *their* error / *ours*, mean absolute, in percent. Theirs were
measured on more runs than are here (`../shared/reference/peers.md` §0.1), with kernel tables measured on the H200; ours
for steps are medians over step classes. So this shows where we stand, not a ranking.

{peers(runs)}
"""
    text += f"""## Open loops over eight seeds

All other tables show seed 1. Launch times are drawn; error of eight draws, mean ± deviation.

{table(["run, experiment", "TTFT p50", "TTFT p99", "TPOT mean"], seeds)}
"""
    text += f"""## Static batches in the life of one server

Scored one by one (below), each predicted batch meets a warm server. The measured engine served them one after another, and the V2
runner's sampler waited for the device in the first steps with more sequences than any before ([host_figures.md](host_figures.md)). Here they follow
each other in one simulation behind the client's warm-up. Measured: error without → with `first_request_effects`.

{table(["run, batch", "first TTFT, ms", "TTFT p50, ms", "TTFT mean, ms", "output tokens/s"], lives)}
"""
    text += "\n".join(run.write().rstrip() + "\n" for run in runs)
    text += f"\n{len(failures)} calls of `orrery` failed.\n" + "".join(f"- `{line}`\n" for line in failures)
    path = pathlib.Path(options.out)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + f".partial-{os.getpid()}")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
    print(summary(runs))
    print(f"{len(failures)} calls failed\n{path}")
    return 1 if failures or done.returncode else 0


if __name__ == "__main__":
    sys.exit(main())
