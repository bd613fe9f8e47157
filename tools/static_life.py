"""The static batches of a measured run in one life of one server, with and without first-request effects.

The engine that was measured served its batches one after another: what a batch needed for the first time was there for the next.
Scored one by one, each predicted batch meets a warm server. Here they follow each other in one simulation, behind the client's
warm-up (drive.py: 24 prompts of 700 to 1,850 tokens), as they were run. Used by tools/accuracy.py.
"""
import csv
import gzip
import json
import statistics
import subprocess

APART = 60.0  # seconds between two batches: longer than any takes
WARM_UP = [(0.0, 700 + 50 * i, 24) for i in range(24)]


def batches_of(folder):
    found = {}
    with gzip.open(folder / "experiments.jsonl.gz", "rt") as lines:
        for line in lines:
            name = json.loads(line)["name"]
            if name.startswith("static_"):
                found[name] = []
    with gzip.open(folder / "requests.csv.gz", "rt", newline="") as lines:
        for r in csv.DictReader(lines):
            if r["experiment"] in found:
                found[r["experiment"]].append(tuple(float(r[k]) for k in ("submit_s", "prompt_tokens", "output_tokens", "ttft_s", "e2e_s")))
    return found


def metrics(rows):
    """rows: (submit, ttft, e2e, output tokens), seconds. As score_truth.py has them."""
    ttft = sorted(r[1] for r in rows)
    span = max(r[0] + r[2] for r in rows) - min(r[0] for r in rows)
    return (ttft[0] * 1e3, ttft[min(len(ttft) - 1, len(ttft) // 2)] * 1e3, statistics.fmean(ttft) * 1e3,
            sum(r[3] for r in rows) / span)


def simulated(orrery, folder, deployment, batches, effects):
    """Metrics by batch. `deployment`: the scenario's text up to its workload."""
    trace, scenario, out = (folder / f"life_{effects}.{kind}" for kind in ("jsonl", "yaml", "out"))
    requests = [(at, prompt, output) for at, prompt, output in WARM_UP]
    for i, rows in enumerate(batches.values(), 1):
        requests += sorted((APART * i + max(0.0, r[0]), int(r[1]), int(r[2])) for r in rows)
    trace.write_text("".join(json.dumps({"timestamp": round(at * 1e3, 4), "input_length": prompt, "output_length": output}) + "\n"
                             for at, prompt, output in requests))
    scenario.write_text(deployment.replace("deployment:\n", f"deployment:\n  first_request_effects: {effects}\n") +
                        f"workload:\n  trace: {trace.name}\nseed: 1\n")
    subprocess.run([orrery, "simulate", str(scenario), "--out", str(out), "--quiet"], check=True, capture_output=True)
    by_batch = {}
    with open(out / "requests.csv", newline="") as f:
        for r in csv.DictReader(f):
            place = int(float(r["arrival_s"]) // APART)
            by_batch.setdefault(place, []).append((float(r["arrival_s"]), float(r["ttft_s"]), float(r["e2e_s"]), int(r["output_tokens"])))
    return {name: metrics(by_batch[i]) for i, name in enumerate(batches, 1)}


def rows_of(orrery, run, kept):
    """Table rows of a measured run (a folder); `kept`: where score_truth.py left its scenarios."""
    batches = batches_of(run)
    text = (kept / run.name / f"{next(iter(batches))}.yaml").read_text()
    deployment = text[:text.index("workload:")]
    warm, cold = (simulated(orrery, kept / run.name, deployment, batches, flag) for flag in ("false", "true"))
    rows = []
    for name, measured in batches.items():
        real = metrics([(r[0], r[3], r[4], r[2]) for r in measured])
        cells = [f"{m:,.4g}: {100 * (w / m - 1):+.1f} % → {100 * (c / m - 1):+.1f} %" for m, w, c in zip(real, warm[name], cold[name])]
        rows.append([f"{run.name} {name}", *cells])
    return rows
