#!/usr/bin/env python3
"""Stalls of first occurrences in the measured engine runs → reports/results/first_request_effects.md.

  tools/first_request_effects.py ORRERY     writes it; its last part compares simulations
  tools/first_request_effects.py --check    its first parts are what the runs say

A step stalls when its device time, which contains waiting for the host, is over five times the usual one of
steps of its captured size, or of its tokens and context beyond those. The rules that the stalls are held
against were read in vLLM 0.24.0's source. Standard library only.
"""
import collections
import csv
import gzip
import json
import os
import statistics
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
REPORT = os.path.join(ROOT, "reports", "results", "first_request_effects.md")
BEYOND = "beyond"
# folder of the run: (experts, chosen experts of a token)
RUNS = {"h200_vllm_0_24/qwen3-8b_bf16_tp1": ("none", 0), "h200_vllm_0_24/qwen3-32b_bf16_tp2": ("none", 0),
        "h200_vllm_0_24/qwen3-30b-a3b_fp8_tp1": ("fused", 8),
        "h100_vllm_0_24/llama-3.1-8b_bf16_tp1": ("none", 0),
        "h100_vllm_0_24/qwen3-4b_bf16_tp1_small": ("none", 0),
        "h100_vllm_0_24/qwen3-30b-a3b_bf16_tp2_ep2": ("fused", 8),
        "h100_vllm_0_24/gpt-oss-20b_mxfp4_tp1": ("mxfp4", 4),
        "h100_vllm_0_24_server/qwen3-4b_bf16_loads": ("none", 0),
        "h100_vllm_0_24_server/qwen3-4b_bf16_api_server": ("none", 0),
        "h100_vllm_0_24_server/qwen3-4b_bf16_tp2_loads": ("none", 0),
        "h100_vllm_0_24_server/qwen3-4b_bf16_tp2_api_server": ("none", 0)}
HEAD = """# First-request effects of vLLM 0.24 in the measured runs

Written by `tools/first_request_effects.py`. A step stalls when its device time (which contains waiting for
the host) is over five times the usual one: the median of the steps padded to the same captured size; beyond
the captured sizes a line in tokens and in pairs of tokens that attend to each other, least absolute
deviations over the run.

Where a kernel is compiled when first needed (Triton), what is new decides. Read in the source of vLLM
0.24.0, and found to hold for every step below:

- **mxfp4** experts (`third_party/triton_kernels`): the routing kernels take the row stride of the
  bitmatrix, ⌈tokens / 32⌉ · 32, as a compile-time constant (`topk_details/_topk_forward.py`,
  `reduction_details/reduce_bitmatrix.py`): each ⌈tokens / 32⌉ that was not seen is compiled.
- **fused** experts (`fused_moe.py`): rows (tokens · experts of a token) are an ordinary argument, of which
  Triton compiles one variant for multiples of 16 and one for others: the first step of the other kind is
  compiled.
- Captured sizes are compiled while graphs are captured, and the largest step (`max_num_batched_tokens`)
  while memory is profiled.

"""


class Step:
    def __init__(self, row, sizes):
        self.name, self.step, self.tokens = row["experiment"], int(row["step"]), int(row["tokens"])
        self.device = float(row["gpu_us"]) / 1e3
        self.launch = (float(row["sample_end_us"]) - float(row["execute_start_us"])) / 1e3
        self.kind = next((s for s in sizes if s >= self.tokens), BEYOND)
        chunks = [[int(x) for x in c.split("@")] for c in row["prefill_chunks"].split()]
        pairs = sum(n * (before + n / 2) for n, before in chunks)  # of tokens that look at each other
        self.size = [1.0, self.tokens / 8192, pairs / 8192 ** 2]
        self.usual = None


def read(folder):
    path = os.path.join(ROOT, "reports", "cases", folder)
    with open(os.path.join(path, "engine.json"), encoding="utf-8") as f:
        engine = json.load(f)
    with gzip.open(os.path.join(path, "steps.csv.gz"), "rt") as f:
        return engine, [Step(r, engine["cudagraph_sizes"]) for r in csv.DictReader(f) if r["gpu_us"]]


def solve(a, b):
    """Gauss with pivots; a is overwritten."""
    n = len(b)
    for i in range(n):
        at = max(range(i, n), key=lambda r: abs(a[r][i]))
        a[i], a[at], b[i], b[at] = a[at], a[i], b[at], b[i]
        for r in range(i + 1, n):
            f = a[r][i] / a[i][i]
            a[r] = [x - f * y for x, y in zip(a[r], a[i])]
            b[r] -= f * b[i]
    x = [0.0] * n
    for i in reversed(range(n)):
        x[i] = (b[i] - sum(a[i][k] * x[k] for k in range(i + 1, n))) / a[i][i]
    return x


def line_of(steps):
    """Least absolute deviations by reweighting: the stalls, less than half of the steps, do not bend it. More
    work never takes less, so a negative slope is left out."""
    used = [0, 1, 2]
    while True:
        weights = [1.0] * len(steps)
        for _ in range(60):
            a = [[sum(w * s.size[i] * s.size[j] for w, s in zip(weights, steps)) + (1e-9 if i == j else 0)
                  for j in used] for i in used]
            line = solve(a, [sum(w * s.size[i] * s.device for w, s in zip(weights, steps)) for i in used])
            weights = [1 / max(1.0, abs(s.device - sum(x * s.size[i] for x, i in zip(line, used))))
                       for s in steps]
        down = [i for x, i in zip(line, used) if i > 0 and x < 0]
        if not down:
            return [dict(zip(used, line)).get(i, 0.0) for i in range(3)]
        used.remove(down[0])


def stalls_of(steps):
    """Those over five times what is usual; steps of a captured size that occurs less than three times are not
    judged."""
    by_size = collections.defaultdict(list)
    for s in steps:
        by_size[s.kind].append(s)
    for kind, alike in by_size.items():
        line = line_of(alike) if kind == BEYOND else None
        middle = statistics.median(s.device for s in alike)
        for s in alike:
            s.usual = max(0.1 * middle, sum(x * y for x, y in zip(line, s.size))) if line else middle
    return [s for s in steps if len(by_size[s.kind]) > 2 and s.device > 5 * s.usual]


def firsts_of(steps, engine, experts, chosen):
    """Steps that the rule says are compiled for."""
    def key(tokens):
        return -(-tokens // 32) if experts == "mxfp4" else tokens * chosen % 16 == 0
    if experts == "none":
        return []
    seen, found = {key(engine["max_num_batched_tokens"])}, []
    for s in steps:
        if s.kind == BEYOND and key(s.tokens) not in seen:
            seen.add(key(s.tokens))
            found.append(s)
    return found


def report():
    rows, lists, excess = [], [], collections.defaultdict(list)
    for folder, (experts, chosen) in RUNS.items():
        engine, steps = read(folder)
        stalls = stalls_of(steps)
        firsts = firsts_of(steps, engine, experts, chosen)
        beyond = [s for s in steps if s.kind == BEYOND]
        # A host that waits behind a full device only adds, so what launching takes is the quicker quarter.
        usual = statistics.quantiles([s.launch for s in beyond if s not in stalls], n=4)[0]
        for s in stalls:
            if s.kind == BEYOND:
                excess[experts].append(s.launch - usual)
        both = len([s for s in stalls if s in firsts])
        rows.append([folder.split("/")[1], experts, len(steps), len(beyond),
                     f"{statistics.median(s.device for s in beyond):.0f}", len(firsts), len(stalls), both])
        if stalls:
            lists.append(f"\n**{folder.split('/')[1]}** (usual launch beyond captured sizes {usual:.0f} ms):"
                         "\n\n"
                         + table("experiment, step, tokens, device (ms), launch (ms), usual (ms)",
                                 [[s.name, s.step, s.tokens, round(s.device), round(s.launch), round(s.usual)]
                                  for s in stalls]))
    taken = [[kind, len(v), f"{statistics.median(v):.0f}", f"{min(v):.0f}", f"{max(v):.0f}"]
             for kind, v in sorted(excess.items())]
    heads = "run, experts, steps, beyond captured sizes, their median (ms), first by rule, stalls, both"
    return (HEAD + table(heads, rows)
            + "\n## What a first occurrence takes\n\nLaunch time of the stalled steps less the usual one "
              "(lower "
            "quartile of the others); these are the figures of\n`first_use` in "
            "engine_profiles/vllm-0.24.yaml.\n\n"
            + table("experts, stalls, median (ms), from, to", taken)
            + "\nAll but the two of a server (qwen3-4b_bf16_loads, _api_server) begin behind 24 requests of "
              "the "
            "client's, whose\nsteps are not logged: what those compiled is not in this list.\n\n## The "
            "stalls\n"
            + "".join(lists))


def table(heads, rows):
    heads = heads.split(", ")
    return "".join("| " + " | ".join(map(str, row)) + " |\n" for row in [heads, ["---"] * len(heads), *rows])


def percentile(values, p):
    values = sorted(values)
    return values[min(len(values) - 1, int(p * len(values)))]


def as_trace(folder, path):
    """The run's requests as one trace, experiments in their order with two minutes between, so that what one
    compiled stays compiled for the next. Returns the logged rows in the trace's order."""
    base = os.path.join(ROOT, "reports", "cases", folder)
    with gzip.open(os.path.join(base, "requests.csv.gz"), "rt") as f:
        logged = list(csv.DictReader(f))
    with gzip.open(os.path.join(base, "experiments.jsonl.gz"), "rt") as f:
        experiments = [json.loads(line) for line in f]
    timed = []
    for i, e in enumerate(experiments):
        for r in (r for r in logged if r["experiment"] == e["name"]):
            at = 3.0 * int(r["request"]) if e.get("serial") else max(0.0, float(r["submit_s"]))
            timed.append((120 * i + at, len(timed), r))
    timed.sort()
    with open(path, "w", encoding="utf-8") as f:
        for at, _, r in timed:
            f.write(json.dumps({"timestamp": at * 1e3, "input_length": int(r["prompt_tokens"]),
                                "output_length": int(r["output_tokens"])}) + "\n")
    return [r for _, _, r in timed]


def compare(orrery):
    """gpt-oss, whose run is made of such stalls, simulated without and with them."""
    folder, figures = "h100_vllm_0_24/gpt-oss-20b_mxfp4_tp1", {}
    with tempfile.TemporaryDirectory() as work:
        logged = as_trace(folder, os.path.join(work, "t.jsonl"))
        blocks = read(folder)[0]["num_gpu_blocks"]
        for on in ("false", "true"):
            with open(os.path.join(work, "s.yaml"), "w", encoding="utf-8") as f:
                f.write("deployment:\n  hardware: h100\n  model: gpt-oss-20b\n  engine: vllm-0.24\n"
                        f"  first_request_effects: {on}\n"
                        f"  engine_args: {{num_gpu_blocks_override: {blocks}}}\n"
                        "workload:\n  trace: t.jsonl\n")
            subprocess.run([orrery, "simulate", os.path.join(work, "s.yaml"), "--intervals", "off", "--out",
                            os.path.join(work, on)], check=True, stdout=subprocess.DEVNULL)
            with open(os.path.join(work, on, "requests.csv"), encoding="utf-8") as f:
                figures[on] = list(csv.DictReader(f))
    rows = []
    for name in dict.fromkeys(r["experiment"] for r in logged):
        at = [i for i, r in enumerate(logged) if r["experiment"] == name]
        rows.append([name])
        for key, p, scale in (("ttft_s", 0.5, 1e3), ("ttft_s", 0.9, 1e3), ("tpot_ms", 0.5, 1)):
            three = [percentile([float(run[i][key]) * scale for i in at if run[i][key]], p)
                     for run in (logged, figures["false"], figures["true"])]
            rows[-1].append(" / ".join(f"{v:.0f}" if scale > 1 else f"{v:.1f}" for v in three))
    return ("\n## With and without\n\ngpt-oss-20b on the H100, all experiments of the run one after another "
            "as one "
            "trace. Measured / simulated without /\nsimulated with `first_request_effects`:\n\n"
            + table("experiment, TTFT p50 (ms), TTFT p90 (ms), TPOT p50 (ms)", rows)
            + "\nA stall makes a queue, the queue makes steps of sizes that were not seen, and those stall: "
              "the "
            "log-normal load goes\nthat way in both; the Poisson one stays there in the measured run and "
            "soon leaves it "
            "in the simulated one. Such a load\nhas two states, and which one it is in hangs on single "
            "arrivals.\n")


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    text = report()
    if sys.argv[1] == "--check":
        with open(REPORT, encoding="utf-8") as f:
            if not f.read().startswith(text):
                sys.exit(f"{REPORT} is not what the runs say: run tools/first_request_effects.py")
        return
    with open(REPORT, "w", encoding="utf-8") as f:
        f.write(text + compare(os.path.abspath(sys.argv[1])))
    print(REPORT)


if __name__ == "__main__":
    main()
