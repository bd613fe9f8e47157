#!/usr/bin/env python3
"""`orrery plan` from the command line: plan_command_test.py ORRERY SOURCE_DIR.

Exit codes; what stands in the output folder; and that a search that was interrupted, or killed while it wrote, ends with the
bytes of one that was not, without running again what it had.
"""
import csv
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

from checks import expect, verdict

ORRERY = os.path.abspath(sys.argv[1])
ROOT = pathlib.Path(tempfile.mkdtemp(prefix="orrery-plan-"))
OUTPUTS = ("recommendation.json", "recommendation.md", "candidates.csv", "choice.yaml", "alternative-1.yaml")
DEPLOYMENT = "deployment: {hardware: h200, model: qwen3-8b, engine: vllm-0.24, kernels: roofline}\n"
REST = """workload:
  generator:
    requests: %d
    arrivals: {process: poisson, rate: 8}
    input: {distribution: fixed, value: 600}
    output: {distribution: fixed, value: 60}
seed: 3
"""
SLO = "slo: {ttft_ms: 1000, tpot_ms: 20, percentile: 95}\n"


def space(name, search, slo=SLO, requests=80, deployment=DEPLOYMENT):
    (ROOT / name).write_text(deployment + REST % requests + slo + "search: " + search + "\n")
    return name


def call(*words, timeout=100):
    return subprocess.run([ORRERY, *words], cwd=ROOT, capture_output=True, text=True, timeout=timeout)


def refused(name, code, text, *words):
    """One clear message, and nothing left behind."""
    done = call("plan", text, "--out", name)
    expect(done.returncode == code, f"{name}: exit code {done.returncode}, not {code}: {done.stderr.strip()}")
    for word in words:
        expect(word in done.stderr, f"{name}: {word!r} is not in {done.stderr.strip()!r}")
    expect(not (ROOT / name).exists(), f"{name}: left something behind")


def codes():
    two = "{objective: gpus, finalists: 2, draws: 2, vary: {hardware: [h200, h100]}}"
    done = call("plan", space("good.yaml", two), "--out", "good", "--json")
    expect(done.returncode == 0, f"good: {done.returncode} {done.stderr}")
    expect(json.loads(done.stdout) == json.loads((ROOT / "good/recommendation.json").read_text()), "--json is not the file")
    again = call("simulate", "good/choice.yaml", "--intervals", "off", "--json")
    expect(again.returncode == 0, f"choice.yaml does not run: {again.stderr}")
    score = json.loads(done.stdout)["choice"]["output_tokens_per_s"]
    expect(json.loads(again.stdout)["throughput"]["output_tokens_per_s"] == score, "choice.yaml is another deployment")

    refused("nothing to vary", 3, space("empty.yaml", "{objective: gpus, vary: {hardware: []}}"), "search.vary.hardware", "empty")
    refused("no objective", 3, space("none.yaml", "{vary: {hardware: [h200]}}"), "search.objective")
    refused("owned typo", 3, space("owned.yaml", "{objective: gpus, owned: {h20O: 8}, vary: {hardware: [h200]}}"),
            "search.owned.h20O", 'did you mean')
    refused("price typo", 3, space("price.yaml", "{objective: gpus, prices: {h2000: 8}, vary: {hardware: [h200]}}"),
            "search.prices.h2000", "h200")
    refused("two that overlap", 3, space("both.yaml", "{objective: gpus, vary: {parallel.tp: [1, 2], parallel: [{tp: 1}]}}"),
            "parallel.tp", "vary one of them")
    done = call("plan", "good.yaml", "--out", "absent", "--resume")
    expect(done.returncode == 3 and "no search to resume" in done.stderr, f"absent: {done.returncode} {done.stderr}")
    expect(not (ROOT / "absent").exists(), "absent: left something behind")
    expect(call("plan", "good.yaml", "--resume").returncode == 2, "--resume without --out is a wrong command line")
    refused("does not fit", 4, space("large.yaml", "{objective: gpus, vary: {hardware: [h20]}}",
                                     deployment=DEPLOYMENT.replace("qwen3-8b", "deepseek-r1")), "does not fit")
    refused("not owned", 4, space("owned8.yaml", "{objective: gpus, owned: {h200: 4}, vary: {parallel.tp: [8]}}"), "takes 8 h200", "has 4")
    done = call("plan", space("late.yaml", two, slo="slo: {ttft_ms: 39, percentile: 99}\n"), "--out", "good")
    expect(done.returncode == 5 and "slo.ttft_ms" in done.stderr, f"late: {done.returncode} {done.stderr}")
    expect("late" in (ROOT / "good/recommendation.md").read_text(), "late: no answer is written")
    expect(not list((ROOT / "good").glob("[ca]*[0-9e].yaml")), "late: the choice of an earlier search is left")


def mixed_reasons():
    """What only some candidates do not allow is their reason; a list of pools gets its instances where it has them."""
    pools = "deployment: {pools: [{name: a, hardware: h200, model: qwen3-8b, engine: vllm-0.24, kernels: roofline}]}\n"
    text = space("pools.yaml", '{objective: gpus, replicas: {up_to: 4}, finalists: 1, draws: 2, vary: {"pools[0].hardware": [h100]}}',
                 deployment=pools)
    done = call("plan", text, "--out", "pools")
    expect(done.returncode == 0, f"pools: {done.returncode} {done.stderr}")
    again = call("simulate", "pools/choice.yaml", "--intervals", "off", "--json")
    expect(again.returncode == 0, f"pools/choice.yaml does not run: {again.stderr}")

    # A fault of an instance that one of them has; values that hold commas.
    text = space("some.yaml", "{objective: latency, finalists: 1, draws: 2, vary: {replicas: [1, 2], parallel: [{tp: 1, pp: 1}]}}", slo="")
    (ROOT / text).write_text((ROOT / text).read_text() + "faults: [{at_s: 2, kind: gpu, target: {replica: 1}, for_s: 2}]\n")
    done = call("plan", text, "--out", "some")
    expect(done.returncode == 0, f"some: {done.returncode} {done.stderr}")
    with open(ROOT / "some/candidates.csv", newline="") as f:
        rows = list(csv.DictReader(f))
    expect([row["fate"] for row in rows] == ["rejected", "finalist"], f"some: {rows}")
    expect("no replica 1" in rows[0]["reason"] and not any(None in row for row in rows), f"some: {rows[0]}")

    fault = space("fault.yaml", "{objective: gpus, replicas: {up_to: 4}, finalists: 1, draws: 2, vary: {replicas: [4]}}")
    (ROOT / fault).write_text((ROOT / fault).read_text() + "faults: [{at_s: 2, kind: gpu, target: {replica: 3}, for_s: 2}]\n")
    refused("fault", 3, fault, "faults")


def same(one, other):
    for name in OUTPUTS:
        a, b = ((ROOT / folder / name).read_bytes() for folder in (one, other))
        expect(a.replace(b"--out " + one.encode(), b"") == b.replace(b"--out " + other.encode(), b""), f"{other}/{name} differs from {one}'s")


def stopped():
    text = space("long.yaml", "{objective: latency, finalists: 3, draws: 3, vary: {hardware: [h100, h200], parallel.tp: [1, 2], "
                 "engine_args.max_num_seqs: [8, 16, 32, 64]}}", requests=1600)
    expect(call("plan", text, "--out", "whole").returncode == 0, "whole")
    expect(call("plan", text, "--out", "other", "--threads", "3").returncode == 0, "other")
    same("whole", "other")
    for name, how, code in (("killed", signal.SIGKILL, -signal.SIGKILL), ("interrupted", signal.SIGINT, 130)):
        running = subprocess.Popen([ORRERY, "plan", text, "--out", name], cwd=ROOT, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.PIPE, text=True)
        log = ROOT / name / "plan.sqlite-wal"
        end = time.monotonic() + 60
        while running.poll() is None and time.monotonic() < end and not (log.exists() and log.stat().st_size > 60_000):
            time.sleep(0.002)
        running.send_signal(how)
        said = running.communicate(timeout=60)[1]
        expect(running.returncode == code, f"{name}: exit code {running.returncode}: {said}")
        left = sorted(p.name for p in (ROOT / name).iterdir() if not p.name.startswith("plan.sqlite"))
        expect(not left, f"{name}: left {left}")
        if code == 130:
            expect("--resume" in said and said.count("\n") == 1, f"{name}: said {said!r}")
        changed = call("plan", text, "--out", name, "--resume", "--set", "workload.generator.requests=1601")
        expect(changed.returncode == 3 and "another space" in changed.stderr, f"{name}: a store of another workload: {changed.stderr}")
        done = call("plan", text, "--out", name, "--resume")
        expect(done.returncode == 0, f"{name}: {done.returncode} {done.stderr}")
        expect("answers from the store" in done.stdout, f"{name}: ran everything again: {done.stdout}")
        same("whole", name)
    # Another SLO is another question: nothing that is there answers it.
    other = call("plan", text, "--out", "killed", "--resume", "--set", "slo.ttft_ms=500")
    expect(other.returncode == 0 and "from the store" not in other.stdout, f"another SLO: {other.stdout} {other.stderr}")


def main():
    codes()
    mixed_reasons()
    stopped()
    return verdict()


if __name__ == "__main__":
    sys.exit(main())
