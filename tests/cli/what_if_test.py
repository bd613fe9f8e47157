#!/usr/bin/env python3
"""What-ifs on figures and kernels, and what they give end to end: what_if_test.py ORRERY SOURCE_DIR.

overrides.figures replaces figures of the part and the host, says so, and refuses what it cannot; `cost --compare A B`
answers for a step and, with --run, for a run. Amounts are reckoned here.
"""
import json
import math
import pathlib
import subprocess
import sys
import tempfile

ORRERY, SOURCE = sys.argv[1], pathlib.Path(sys.argv[2])
BASE = str(SOURCE / "examples" / "qwen3-8b-h200.yaml")
PD = str(SOURCE / "examples" / "qwen3-32b-h200-pd.yaml")
LIMIT = ("--set", "workload.limit={requests: 60}")
wrong = []


def call(*command):
    return subprocess.run([ORRERY, *command], capture_output=True, text=True, timeout=100)


def ran(*command):
    done = call(*command)
    if done.returncode != 0:
        raise SystemExit(f"{command}: {done.returncode}: {done.stderr}")
    return json.loads(done.stdout)


def expect(condition, what):
    if not condition:
        wrong.append(what)


def refused(settings, *words, scenario=BASE):
    done = call("cost", scenario, *(w for s in settings for w in ("--set", s)))
    expect(done.returncode == 3, f"{settings}: exit code {done.returncode}")
    for word in words:
        expect(word in done.stderr, f"{settings}: {word!r} is not in {done.stderr!r}")
    expect(done.stderr.count("\n") == 1, f"said more than once: {done.stderr!r}")


def figures():
    step = ("--step", "decode 64@30000", "--json")
    plain = ran("cost", BASE, *step)
    same = ran("cost", BASE, *step, "--set", "overrides.figures.memory_bandwidth=4.8e12")
    fast = ran("cost", BASE, *step, "--set", "overrides.figures.hbm_bandwidth=9.6e12")
    # The figure as it was changes no price, but the answer is a what-if all the same.
    expect(plain["steps"] == same["steps"], "the part's own bandwidth changed a price")
    expect(not plain["what_if"] and same["what_if"] and fast["what_if"], "what_if is not said")
    # Tables hold utilisation: twice the rate halves what memory bounds.
    one, two = (next(o for o in c["steps"][0]["operators"] if o["class"] == "attention_decode") for c in (plain, fast))
    expect(one["bound"] == "memory", "attention is not bound by memory")
    expect(math.isclose(two["time_us"], one["time_us"] / 2, rel_tol=0.02), f"{one['time_us']} -> {two['time_us']}")
    # Engine defaults follow the part: below 70 GiB vLLM takes 256 sequences instead of 1024.
    small = ran("cost", BASE, "--json", "--set", "overrides.figures.memory_total=64e9")
    expect(math.isclose(small["memory"]["requested_bytes"], 0.92 * 64e9, rel_tol=1e-6), "requested memory")
    text = call("cost", BASE, "--step", "decode 1@1", "--set", "overrides.figures.hbm_bandwidth=9.6e12").stdout
    expect("(what-if)" in text, "the table does not say what-if")


def outputs():
    with tempfile.TemporaryDirectory() as folder:
        out = str(pathlib.Path(folder) / "out")
        done = call("simulate", BASE, *LIMIT, "--intervals", "off", "--out", out, "--set",
                    "overrides.figures={hbm_bandwidth: 9.6e12, host: {launch_graph: 0.001}}")
        expect(done.returncode == 0 and "(what-if)" in done.stdout, f"simulate: {done.stdout} {done.stderr}")
        resolved = (pathlib.Path(out) / "scenario.resolved.yaml").read_text()
        expect("memory_bandwidth: {value: 9.6e+12, kind: assumed" in resolved.replace("9600000000000", "9.6e+12"),
               "the resolved figure")
        expect("what-if: overrides.figures, instead of 4.8" in resolved.replace("4800000000000", "4.8"),
               "the resolved source does not say what it was")
        expect("What-if" in (pathlib.Path(out) / "report.html").read_text(), "the report does not say what-if")
        first = json.loads((pathlib.Path(out) / "summary.json").read_text())
        again = ran("simulate", str(pathlib.Path(out) / "scenario.resolved.yaml"), "--json", "--intervals", "off")
        expect(first["digest"] == again["digest"], "the resolved scenario is another one")


def refusals():
    refused(["overrides.figures.hbm_bandwith=1e12"], "overrides.figures.hbm_bandwith", "did you mean \"hbm_bandwidth\"")
    refused(["overrides.figures.host.launch_graf=1"], "overrides.figures.host.launch_graf", "launch_graph")
    refused(["overrides.figures.hbm_bandwidth=0"], "above 0")
    refused(["overrides.figures.hbm_bandwidth=-1"], "from 0 to")
    refused(["overrides.figures.link_efficiency=1.5"], "link_efficiency")
    refused(["overrides.figures.clock_peak=2e9"], "change nothing", "matrix_rate_bf16")
    refused(["overrides.figures.efficiency_gemm_bf16=0.9"], "tables of vllm-0.24", "op_scale")
    refused(["overrides.figures.matrix_rate_int4=1e15"], "h200 has no such figure")
    refused(["overrides.figures={hbm_bandwidth: 5e12, memory_bandwidth: 5e12}"], "the same figure")
    refused(["overrides.figures.hbm_bandwith=1e12"], "did you mean", scenario=PD)   # two pools, said once


def compare():
    half = ("--with", "overrides.op_scale.attention_decode=0.5")
    step = ran("cost", "--compare", BASE, BASE, "--step", "decode 64@30000", *half, "--json")[0]

    def of(side, op_class):
        return sum(o["time_us"] for o in step[side]["operators"] if o["class"] == op_class)

    expect(math.isclose(of("b", "attention_decode"), of("a", "attention_decode") / 2, rel_tol=1e-3), "half of a class")
    expect(math.isclose(of("b", "gemm"), of("a", "gemm"), rel_tol=1e-9), "another class moved")
    saved = of("a", "attention_decode") / 2
    expect(math.isclose(step["a"]["busy_us"] - step["b"]["busy_us"], saved, rel_tol=1e-3), "the step saves what the class does")

    run = ran("cost", "--compare", BASE, BASE, *LIMIT, "--run", "--with", "overrides.op_scale.gemm=0.8333333", "--json")
    metrics = run["run"]["metrics"]
    expect(run["what_if"] == {"a": False, "b": True}, f"{run['what_if']}")
    tpot = metrics["tpot_mean_ms"]["ratio"]
    # Amdahl: far from saturation a run gains the class's share of its steps, of which products are most; not all.
    expect(1 / 1.2 - 0.01 < tpot < 0.95, f"tpot {tpot}")
    alone = ran("simulate", BASE, *LIMIT, "--intervals", "off", "--json")
    expect(metrics["tpot_mean_ms"]["a"] == alone["tpot_ms"]["mean"], "the run compared is not the run simulated")
    same = ran("cost", "--compare", BASE, BASE, *LIMIT, "--run", "--json")["run"]["metrics"]
    expect(all(m["a"] == m["b"] for m in same.values()), "a run differs from itself")

    pools = call("cost", "--compare", PD, PD, *LIMIT, "--step", "decode 8@500")
    expect(pools.returncode == 0 and "pool prefill" in pools.stdout and "pool decode" in pools.stdout, "pools side by side")
    other = call("cost", "--compare", PD, BASE, "--set", "workload.limit={requests: 20}", "--run")
    expect(other.returncode == 0 and "ttft_mean_ms" in other.stdout, f"unlike deployments: {other.stderr}")
    for options in (("--run",), ("--with", "seed=2")):
        expect(call("cost", BASE, *options).returncode == 2, f"{options} without --compare is not wrong usage")
    unused = call("cost", "--compare", BASE, BASE, "--energy")
    expect(unused.returncode == 2, "--energy, which compares nothing, is taken beside --compare")
    none = call("cost", "--compare", str(SOURCE / "examples/experts-c5-ep8-to-ep16.yaml"), BASE, "--run")
    expect(none.returncode == 3 and "workload" in none.stderr, f"no workload: {none.returncode} {none.stderr}")


for part in (figures, outputs, refusals, compare):
    part()
print("\n".join(wrong) if wrong else "what-ifs hold")
sys.exit(1 if wrong else 0)
