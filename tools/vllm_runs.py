"""What the reports on our own vLLM runs share: their clients' rows, and a run played again by `orrery simulate`."""
import csv
import gzip
import json
import os
import subprocess


def quantile(values, p):
    values = sorted(values)
    return values[min(len(values) - 1, int(p * len(values)))] if values else float("nan")


def mean(values):
    return sum(values) / len(values) if values else float("nan")


def tpots(requests):
    """Measured, ms, of requests with more than one token."""
    return [1e3 * (r["e2e"] - r["ttft"]) / (r["got"] - 1) for r in requests if r["got"] > 1]


def read_requests(run):
    """Per experiment its head and its requests, as the client of ../shared/examples/vllm_on_gpu writes them."""
    experiments = []
    with gzip.open(os.path.join(run, "requests.jsonl.gz"), "rt") as lines:
        for line in lines:
            row = json.loads(line)
            if "t0_monotonic" in row:
                experiments.append((row, []))
            else:
                experiments[-1][1].append(row)
    return experiments


def predict(orrery, deployment, requests, concurrency, folder, options=()):
    """The rows of requests.csv for these requests; beside it in folder/out summary.json. `deployment`: YAML text of that key."""
    with open(os.path.join(folder, "trace.jsonl"), "w") as out:
        for r in requests:
            line = {"timestamp": 0 if concurrency else 1000 * (r["t"] or 0), "input_length": r["in"], "output_length": r["out"]}
            if r.get("hash"):
                line["hash_ids"] = r["hash"]
            out.write(json.dumps(line) + "\n")
    loop = f"\n  closed_loop: {{concurrency: {concurrency}}}" if concurrency else ""
    scenario = os.path.join(folder, "scenario.yaml")
    with open(scenario, "w") as out:
        out.write(f"{deployment}workload:\n  trace: trace.jsonl{loop}\nseed: 1\n")
    result = os.path.join(folder, "out")
    subprocess.run([orrery, "--quiet", "simulate", scenario, "--out", result, "--outputs", "requests", "--intervals", "off", *options],
                   check=True, capture_output=True)
    return list(csv.DictReader(open(os.path.join(result, "requests.csv"))))
