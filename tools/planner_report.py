#!/usr/bin/env python3
"""reports/results/planner.md: how good, how fast and how safe the planner's search is.

    tools/planner_report.py ORRERY [--work DIR] [--requests N] > reports/results/planner.md

Optimality gap against exhaustive search on three small spaces, what bounds and races save, the speed on a space of 1,980 feasible
combinations, resuming after kill -9, and the questions of the case studies. Each section's figures are kept in DIR as JSON, so
that a report that was stopped goes on; processor times are of the machine that it runs on, whatever else that does.
"""
import argparse
import json
import os
import pathlib
import resource
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
SMALL = {
    "parts, widths and sequences, by cost": """search:
  objective: cost
  finalists: 2
  draws: 2
  replicas: {up_to: 8}
  prices: {h200: 3.8, h100: 2.9, l40s: 0.9, h20: 1.5}
  vary:
    hardware: [h200, h100, l40s, h20]
    parallel.tp: [1, 2, 4]
    engine_args.max_num_seqs: [8, 32, 256]
""",
    "widths, types and budgets, by throughput": """search:
  objective: throughput
  finalists: 2
  draws: 2
  vary:
    hardware: [h200, h100, h20]
    quantization: [bf16, fp8-block]
    parallel.tp: [1, 2, 4]
    engine_args.max_num_batched_tokens: [1024, 2048, 8192]
""",
    "engines and budgets, by latency": """search:
  objective: latency
  finalists: 2
  draws: 2
  vary:
    engine: [vllm-0.24, sglang-0.5, tensorrt-llm-1.2]
    kv_cache_dtype: [auto, fp8]
    parallel.tp: [1, 2, 4]
    hardware: [h200, h100]
""",
}
LOAD = """deployment: {hardware: h200, model: qwen3-8b, engine: vllm-0.24}
workload:
  generator:
    requests: %d
    arrivals: {process: poisson, rate: %d}
    input: {distribution: log-normal, mean: 1200, cv: 1.1, high: 16000}
    output: {distribution: log-normal, mean: 260, cv: 0.8, high: 2000}
slo: {ttft_ms: 500, tpot_ms: 20, percentile: 90}
seed: 1
"""
LARGE = LOAD.replace("percentile: 90", "percentile: 95") + """search:
  objective: cost
  prices: {h200: 3.8, h100: 2.9, l40s: 0.9, h20: 1.5}
  replicas: {up_to: 16}
  vary:
    hardware: [h200, h100, l40s, h20]
    quantization: [bf16, fp8-block]
    parallel.tp: [1, 2, 4, 3]
    engine_args.max_num_batched_tokens: [1024, 2048, 3072, 4096, 5120, 6144, 8192, 10240, 12288, 16384]
    engine_args.max_num_seqs: [32, 48, 64, 96, 128, 192, 256, 384, 512]
"""
# Of these the next best leaves in a race, so that finalists alone make the margin too wide.
NEXT_LEAVES_EARLY = ("plan-deepseek-r1-hopper.yaml",)
QUESTIONS = (
    ("DeepSeek-R1 on up to sixteen nodes of eight H200, 40 requests a second, a token in 50 ms, the first in 3 s", "plan-deepseek-r1-hopper.yaml", ()),
    ("the same, ten requests a second", "plan-deepseek-r1-hopper.yaml", (
        "workload.generator.arrivals.rate=10", "workload.generator.requests=2500")),
    ("the same, one request a second", "plan-deepseek-r1-hopper.yaml", (
        "workload.generator.arrivals.rate=1", "workload.generator.requests=1500")),
    ("Qwen3-235B on eight MI300X with hot experts, lowest latency", "plan-qwen3-235b-mi300x.yaml", ()),
    ("the same without hot experts", "plan-qwen3-235b-mi300x.yaml", ("deployment.experts.popularity=uniform",)),
    ("KV blocks in host memory for latent attention on four MI325X", "plan-mi325x-offload.yaml", ()),
    ("the same with conversations that come back, and a pool too small for them", "plan-mi325x-offload.yaml", (
        "workload.generator.sessions={turns_mean: 6, think_s: 20, max_prompt_tokens: 15000}", "workload.generator.requests=400",
        "deployment.engine_args.gpu_memory_utilization=0.58")),
    ("Qwen3-32B with 30,720 tokens, at most 50 ms a token", "plan-qwen3-32b-30k.yaml", ()),
    ("three of 30 billion parameters or a dense 8 billion on one L40S, one request", "plan-l40s.yaml", ()),
    ("the same, eight at a time", "plan-l40s.yaml", ("workload.closed_loop.concurrency=8",)),
    ("the same, 64 at a time", "plan-l40s.yaml", ("workload.closed_loop.concurrency=64",)),
)


class Runner:
    def __init__(self, orrery, work):
        self.orrery, self.work = os.path.abspath(orrery), work

    def plan(self, space, *words):
        """(answer, processor seconds, peak MB)"""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([self.orrery, "plan", str(space), "--json", *words], cwd=self.work, capture_output=True, text=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode != 0:
            raise SystemExit(f"{space}: {done.stderr}")
        return json.loads(done.stdout), after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, after.ru_maxrss / 1000

    def once(self, name, make):
        kept = self.work / f"{name}.json"
        if not kept.exists():
            kept.write_text(json.dumps(make(), indent=1))
        return json.loads(kept.read_text())


def gaps(runner):
    rows = []
    for number, (name, search) in enumerate(SMALL.items()):
        space = runner.work / f"small-{number}.yaml"
        space.write_text(LOAD % (1500, 12) + search)
        found, cpu, _ = runner.plan(space)
        best, all_cpu, _ = runner.plan(space, "--exhaustive")
        gap = abs(found["choice"]["objective"] - best["choice"]["objective"]) / abs(best["choice"]["objective"])
        rows.append({"space": name, "feasible": best["feasible"], "choice": found["choice"]["label"], "gap": gap, "cpu": cpu,
                     "exhaustive_cpu": all_cpu, "same": found["choice"]["candidate"] == best["choice"]["candidate"],
                     **found["savings"]})
    return rows


def speed(runner, requests):
    space = runner.work / "large.yaml"
    space.write_text(LARGE % (requests, 20))
    began = time.monotonic()
    answer, cpu, memory = runner.plan(space, "--threads", "2", "--out", "large")
    clock, load = time.monotonic() - began, os.getloadavg()[0]
    bounds = subprocess.run([runner.orrery, "plan", str(space), "--bounds-only", "--log-level", "info"], capture_output=True, text=True)
    said = next(line for line in bounds.stderr.splitlines() if "processor time" in line)
    return {"requests": requests, "cpu": cpu, "clock": clock, "load": load, "memory": memory, "choice": answer["choice"]["label"], "candidates": answer["candidates"],
            "bounds_ms": float(said.split(" took ")[1].split()[0]), **answer["savings"]}


def bounds(runner):
    """The whole pass, on a space of more combinations of the same step graphs."""
    space = runner.work / "wide.yaml"
    text = (LARGE % (12000, 20)).replace("[1, 2, 4, 3]", "[1, 2, 4]")
    for key, values in (("max_num_batched_tokens", range(1024, 16384, 205)), ("max_num_seqs", range(20, 510, 6))):
        line = next(line for line in text.splitlines() if key in line)
        text = text.replace(line, f"    engine_args.{key}: [{', '.join(str(v) for v in list(values)[:75])}]")
    space.write_text(text)
    answer, cpu, memory = runner.plan(space, "--bounds-only")
    return {"candidates": answer["candidates"], "cpu": cpu, "memory": memory, "graphs": answer["step_graphs"]}


def results_in(file):
    if not file.exists():
        return 0
    try:
        with sqlite3.connect(f"file:{file}?mode=ro", uri=True) as store:
            return store.execute("SELECT COUNT(*) FROM results").fetchone()[0]
    except sqlite3.OperationalError:  # just being made
        return 0


def ranks(runner):
    """The rows that the test of shards and ranks prints."""
    done = subprocess.run([sys.executable, str(ROOT / "tests/cli/plan_sharing_test.py"), runner.orrery, str(ROOT), "--scaling"],
                          capture_output=True, text=True)
    load = os.getloadavg()[0]
    return {"table": done.stdout.strip() if done.returncode == 0 else "", "load": load}


def resume(runner):
    space = runner.work / "small-0.yaml"
    subprocess.run([runner.orrery, "plan", str(space), "--out", "whole"], cwd=runner.work, stdout=subprocess.DEVNULL, check=True)
    rows = []
    for share in (0.01, 0.1, 0.5, 0.9):
        name = f"killed-{int(share * 100)}"
        enough = max(1, int(results_in(runner.work / "whole/plan.sqlite") * share))
        running = subprocess.Popen([runner.orrery, "plan", str(space), "--out", name], cwd=runner.work, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL)
        while running.poll() is None and results_in(runner.work / name / "plan.sqlite") < enough:
            time.sleep(0.001)
        running.send_signal(signal.SIGKILL)
        running.wait()
        done = subprocess.run([runner.orrery, "plan", str(space), "--out", name, "--resume"], cwd=runner.work, capture_output=True, text=True)
        reused = [line for line in done.stdout.splitlines() if line.startswith("searched")]
        texts = [(runner.work / folder / "recommendation.json").read_text().replace(folder, "") for folder in ("whole", name)]
        rows.append({"killed": share, "same": texts[0] == texts[1], "said": reused[0][len("searched"):].strip() if reused else done.stderr})
    return rows


def judgement(runner):
    rows = []
    for question, example, settings in QUESTIONS:
        words = [word for setting in settings for word in ("--set", setting)]
        words += ["--exhaustive"] * (example in NEXT_LEAVES_EARLY)
        answer, cpu, _ = runner.plan(ROOT / "examples" / example, *words)
        finalists = answer["finalists"]
        rows.append({"question": question, "objective": answer["objective"], "choice": finalists[0]["label"], "value": finalists[0]["objective"],
                     "next": finalists[1]["label"] if len(finalists) > 1 else "-",
                     "next_value": finalists[1]["objective"] if len(finalists) > 1 else None,
                     "next_meets": finalists[1]["meets_slo"] if len(finalists) > 1 else None,
                     "best_in": finalists[0]["best_probability"], "rejected": answer["rejected"][:2]})
    return rows


def write(rows, figures):
    print("# The planner\n\nMade by `tools/planner_report.py`. Method: [docs/planner.md](../../docs/planner.md). Processor times are of a "
          "machine with two cores that was busy with other work.\n")
    print("## Optimality gap\n\nThe choice against `--exhaustive`, every combination on the whole workload (1,500 requests).\n")
    print("| space | feasible | gap | same choice | ruled out by bounds | by races | run to the end | processor time, s | exhaustive, s |")
    print("|---|---|---|---|---|---|---|---|---|")
    for r in rows["gaps"]:
        print(f"| {r['space']} | {r['feasible']} | {r['gap'] * 100:.2f} % | {'yes' if r['same'] else 'no'} | {r['by_bounds']} | "
              f"{r['by_racing']} | {r['to_the_end']} | {r['cpu']:.1f} | {r['exhaustive_cpu']:.1f} |")
    s, b = figures, rows["bounds"]
    print(f"\n## Speed\n\n{s['candidates']:,} combinations, 1,980 of them feasible, {s['requests']:,} requests at 20 a second, up to 16 "
          f"instances each: {s['cpu']:.0f} s of processor time, {s['clock']:.0f} s by the clock with two threads (load {s['load']:.1f} on two cores), "
          f"{s['memory']:.0f} MB. Bounds ruled out {s['by_bounds']} ({s['never_read']} were never read), races {s['by_racing']}; "
          f"{s['to_the_end']} were run to the end. Choice: {s['choice']}.\n\nBounds alone, once the {s['step_graphs']} step graphs were "
          f"read: {s['bounds_ms']:.3f} ms, {s['candidates'] / s['bounds_ms'] * 1e3:,.0f} combinations a second. The whole pass, from the file, over {b['candidates']:,} "
          f"combinations of {b['graphs']} graphs: {b['cpu']:.1f} s of processor time, {b['candidates'] / b['cpu']:,.0f} a second, "
          f"{b['memory']:.0f} MB.")
    print("\n## Resuming\n\n| killed (-9) when the store had of all results | the same recommendation.json | said |\n|---|---|---|")
    for r in rows["resume"]:
        print(f"| {r['killed'] * 100:.0f} % | {'yes' if r['same'] else 'NO'} | {r['said']} |")
    if rows["ranks"]["table"]:
        print(f"\n## Ranks of mpirun\n\n24 candidates, 30,000 requests, two cores, load {rows['ranks']['load']:.1f} when it ended.\n\n"
              f"{rows['ranks']['table']}")
    first = {r["question"]: r for r in rows["judgement"]}
    unsettled = [q for q, r in first.items() if r["best_in"] < 0.8]
    print("\n## Questions of the case studies\n\n" + (f"Not settled (best in fewer than 80 % of the draws): {'; '.join(unsettled)}.\n\n" if unsettled else "")
          + "| question | choice | next | apart | best in |\n|---|---|---|---|---|")
    for r in rows["judgement"]:
        after = "-" if r["next_value"] is None else f"{r['next']}: {r['next_value']:.4g}" + (
            ", misses the SLO" if r["next_meets"] is False else "")
        apart = abs(r["value"] - r["next_value"]) / max(r["value"], r["next_value"]) if r["next_value"] else 0
        print(f"| {r['question']} | {r['choice']}: {r['value']:.4g} ({r['objective']}) | {after} | {apart * 100:.1f} % | "
              f"{r['best_in'] * 100:.0f} % |")
    print("\nRejected:\n")
    for r in rows["judgement"]:
        for reason in r["rejected"]:
            print(f"- {r['question']}: {reason['candidates']} × {reason['reason']}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("orrery")
    parser.add_argument("--work")
    parser.add_argument("--requests", type=int, default=12000)
    options = parser.parse_args()
    work = pathlib.Path(options.work or tempfile.mkdtemp(prefix="orrery-planner-report-")).resolve()
    work.mkdir(parents=True, exist_ok=True)
    runner = Runner(options.orrery, work)
    rows = {"gaps": runner.once("gaps", lambda: gaps(runner)), "resume": runner.once("resume", lambda: resume(runner)),
            "judgement": runner.once("judgement", lambda: judgement(runner)), "bounds": runner.once("bounds", lambda: bounds(runner)),
            "ranks": runner.once("ranks", lambda: ranks(runner))}
    write(rows, runner.once("speed", lambda: speed(runner, options.requests)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
