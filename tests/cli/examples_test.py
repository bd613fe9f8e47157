#!/usr/bin/env python3
"""Every examples/*.yaml is priced and, where it has a workload, run: examples_test.py ORRERY SOURCE_DIR.

A small limit keeps it short; what it asserts is that requests end and that none fails, so that an example cannot rot.
"""
import concurrent.futures
import json
import pathlib
import re
import subprocess
import sys

LIMIT = 12
NONE = {"completed": 0, "failed": 0, "cancelled": 0, "timed_out": 0, "rejected": 0}
# Case C2: prompts of 30,720 tokens do not fit beside Qwen3-32B on one L40S; the engine starts and turns them away.
DOES_NOT_FIT = ("c2-l40s-one-card.yaml", "deployment.model=qwen3-32b-fp8", "workload.generator.input.value=30720")


def call(*command):
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def planned(orrery, path):
    """A space for `plan`: searched over a few requests, somebody is chosen."""
    workloads = len(re.findall(r"^      workload:", path.read_text(), re.M))  # of search.workloads
    limits = [f"search.workloads[{w}].workload.limit" for w in range(workloads)] or ["workload.limit"]
    short = [word for limit in limits for word in ("--set", f"{limit}={{requests: {LIMIT}}}")]
    ran = call(orrery, "plan", str(path), "--json", *short, "--set", "search.finalists=2", "--set", "search.draws=2")
    if ran.returncode != 0:
        return f"plan: exit code {ran.returncode}: {ran.stderr.strip()}"
    answer = json.loads(ran.stdout)
    attainment = answer["choice"]["attainment"]
    # What others are better than is no loss.
    lost = sum(row["candidates"] for row in answer["rejected"] if not row["reason"].startswith("bound"))
    few = answer["candidates"] - lost < min(9, answer["candidates"] / 2)
    return "" if (attainment is None or attainment > 0.9) and not few else f"plan: {answer['choice']}"


def problem(orrery, path):
    if re.search(r"^search:", path.read_text(), re.M):
        return planned(orrery, path)
    cost = call(orrery, "cost", str(path), "--json")
    if cost.returncode != 0:
        return f"cost: exit code {cost.returncode}: {cost.stderr.strip()}"
    if "workload:" not in re.sub(r"#.*", "", path.read_text()):
        return ""
    ran = call(orrery, "simulate", str(path), "--json", "--intervals", "off", "--set", f"workload.limit={{requests: {LIMIT}}}")
    if ran.returncode != 0:
        return f"simulate: exit code {ran.returncode}: {ran.stderr.strip()}"
    requests = json.loads(ran.stdout)["requests"]
    wanted = min(LIMIT, int((re.search(r"^    requests: (\d+)", path.read_text(), re.M) or [0, LIMIT])[1]))
    # Mooncake's longest prompts are beyond a context that its example sets, and are rejected.
    good = requests["completed"] >= 0.9 * wanted and requests["completed"] + requests["rejected"] == wanted
    return "" if good else f"requests: {requests}, not {wanted} completed"


def main():
    orrery, source = sys.argv[1], pathlib.Path(sys.argv[2])
    paths = sorted((source / "examples").glob("*.yaml"))
    wrong = []
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for path, what in zip(paths, pool.map(lambda p: problem(orrery, p), paths)):
            if what:
                wrong.append(f"{path.name}: {what}")
    name, *settings = DOES_NOT_FIT
    ran = call(orrery, "simulate", str(source / "examples" / name), "--json", "--intervals", "off",
               *(word for s in settings for word in ("--set", s)))
    if ran.returncode != 0 or json.loads(ran.stdout)["requests"] != {**NONE, "rejected": 4}:
        wrong.append(f"{name} {settings}: {ran.returncode} {ran.stderr} {ran.stdout[:300]}")
    print("\n".join(wrong) if wrong else f"{len(paths)} examples run")
    return 1 if wrong or len(paths) < 14 else 0


if __name__ == "__main__":
    sys.exit(main())
