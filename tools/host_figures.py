#!/usr/bin/env python3
"""Where some host figures of engine_profiles/vllm-0.24.yaml come from: tools/host_figures.py [--orrery ORRERY] [--out FILE]

Reads the measured runs of vLLM 0.24 under reports/cases and writes reports/results/host_figures.md:
first_kernel, step_gap, launch_jitter_*, input_per_request, core_wake and input_per_token, each with what every run says, and which
steps had to wait for memory of the sampler. Device and host
prices are those of ORRERY today, so a change of prices moves the first and the third a little. Standard library only.
"""
import argparse
import bisect
import csv
import gzip
import json
import os
import pathlib
import re
import statistics
import subprocess
import tempfile
from collections import defaultdict

ROOT = pathlib.Path(__file__).resolve().parent.parent
CASES = ROOT / "reports" / "cases"
# (folder, run, hardware, model, plan)
RUNS = [("h200_vllm_0_24", "qwen3-8b_bf16_tp1", "h200", "qwen3-8b", "{tp: 1}"),
        ("h200_vllm_0_24", "qwen3-30b-a3b_fp8_tp1", "h200", "qwen3-30b-a3b-fp8", "{tp: 1}"),
        ("h200_vllm_0_24", "qwen3-32b_bf16_tp2", "h200", "qwen3-32b", "{tp: 2}"),
        ("h100_vllm_0_24", "llama-3.1-8b_bf16_tp1", "h100", "llama-3.1-8b", "{tp: 1}"),
        ("h100_vllm_0_24", "qwen3-4b_bf16_tp1_small", "h100", "qwen3-4b", "{tp: 1}"),
        ("h100_vllm_0_24", "qwen3-30b-a3b_bf16_tp2_ep2", "h100", "qwen3-30b-a3b", "{tp: 2, ep: 2}"),
        ("h100_vllm_0_24", "gpt-oss-20b_mxfp4_tp1", "h100", "gpt-oss-20b", "{tp: 1}"),
        ("h100_vllm_0_24", "gpt-oss-20b_mxfp4_tp1_again", "h100", "gpt-oss-20b", "{tp: 1}")]
HELD_OUT = [("h200_vllm_0_24_held_out", run) for run in ("llama-3.1-8b_bf16_tp1", "qwen3-4b_bf16_tp1", "qwen3-30b-a3b_bf16_tp2_ep2")]
WARM_UP_ROWS = 24  # requests of the client's warm-up, which is not in the logs
QUANTILES = (.05, .1, .25, .5, .75, .9, .95)
LONG_AGO = -1e12


def rows_of(folder, run, name):
    with gzip.open(CASES / folder / run / name, "rt") as f:
        return list(csv.DictReader(f))


def by_experiment(rows):
    out = {}
    for r in rows:
        out.setdefault(r["experiment"], []).append(r)
    return out


def number(row, key):
    return float(row[key])


def quantile(values, p):
    values = sorted(values)
    return values[min(len(values) - 1, int(p * len(values)))]


def prices(orrery, hardware, model, plan, steps):
    """Adds what a step costs to each row that says what decoded."""
    known = [s for s in steps if s["gpu_us"] and s["decode_sequences"] and (s["prefill_chunks"] or int(s["decode_sequences"]))]
    with tempfile.TemporaryDirectory() as folder:
        scenario, listing, out = (os.path.join(folder, n) for n in ("s.yaml", "steps.jsonl", "o.csv"))
        pathlib.Path(scenario).write_text(f"deployment:\n  hardware: {hardware}\n  model: {model}\n  engine: vllm-0.24\n"
                                          f"  parallel: {plan}\n", encoding="utf-8")
        with open(listing, "w", encoding="utf-8") as f:
            for s in known:
                chunks = [[int(x) for x in c.split("@")] for c in re.split(r"[; ]+", s["prefill_chunks"]) if c]
                f.write(json.dumps({"prefill": chunks, "decode": {"sequences": int(s["decode_sequences"]),
                                                                  "context_tokens": int(s["decode_context_tokens"] or 0)}}) + "\n")
        subprocess.run([orrery, "cost", scenario, "--steps", listing, "--out", out], check=True)
        with open(out, encoding="utf-8") as f:
            for s, price in zip(known, csv.DictReader(f)):
                s["busy"], s["host"] = float(price["busy_us"]), float(price["host_us"])


def terms():
    text = (ROOT / "engine_profiles" / "vllm-0.24.yaml").read_text(encoding="utf-8")
    return {key: float(value) for key, value in re.findall(r"^  (\w+): \{value: ([\d.]+), unit: us", text, re.M)}


def launch(row):
    return number(row, "sample_end_us") - number(row, "execute_start_us")


def first_kernel(experiments):
    """Of decode steps that began on a device idle for 0.3 ms or more: device time beyond that of others of their batch,
    over their whole launch."""
    usual, late = defaultdict(list), []
    for rows in experiments.values():
        end, last = LONG_AGO, None
        for r in rows:
            if not r["gpu_us"]:
                last = None
                continue
            idle = number(r, "execute_start_us") - end
            end = max(end, number(r, "execute_start_us")) + number(r, "gpu_us")
            follows, last = last is not None and int(r["step"]) == last + 1, int(r["step"])
            if not follows or r["prefill_chunks"] or "busy" not in r:
                continue
            batch = int(r["sequences"]).bit_length()
            if idle < -300:
                usual[batch].append(number(r, "gpu_us") / r["busy"])
            elif 300 < idle < 1e8:
                late.append((batch, r))
    shares = [(number(r, "gpu_us") - statistics.median(usual[b]) * r["busy"]) / launch(r)
              for b, r in late if len(usual[b]) >= 8]
    return shares


def step_gap(experiments, copy):
    """Ends of consecutive steps, seen as the begin of the update less the copy, further apart than the later one's device
    time: of steps that were still queued when the one ahead ended."""
    gaps = []
    for rows in experiments.values():
        before, last = None, None
        for r in rows:
            if not r["gpu_us"]:
                before = last = None
                continue
            end = number(r, "update_start_us") - copy
            queued = before is not None and number(r, "execute_start_us") < before
            if queued and last is not None and int(r["step"]) == last + 1:
                gaps.append(end - before - number(r, "gpu_us"))
            before, last = end, int(r["step"])
    return gaps


def launch_factors(experiments, host, v1, tp):
    """Launch time over that of the profile's terms: steps of at most 3,000 tokens with prompts beside decodes."""
    out = {}
    per_sequence = host["prepare_per_sequence_v1" if v1 else "prepare_per_sequence"]
    for name, rows in experiments.items():
        if name.startswith(("static", "conc", "prefill", "mooncake")):
            continue
        factors = []
        for r in rows:
            if "busy" not in r or not r["prefill_chunks"] or not int(r["decode_sequences"]) or int(r["tokens"]) > 3000:
                continue
            n = int(r["sequences"])
            beside = (host["schedule_base"] + host["schedule_per_sequence"] * n + host["prepare_base"] + per_sequence * n +
                      (host["prepare_rpc"] if tp > 1 else 0) + host["update_base"] + host["update_per_sequence"] * n)
            factors.append((launch(r) - per_sequence * n) / (r["host"] - beside))
        if len(factors) >= 20:
            out[name] = factors
    return out


def at_once(folder, run):
    """Batches whose requests all come at time 0: how far apart they were submitted, how many the first step holds."""
    submitted = {e: sorted(number(r, "submit_s") * 1e3 for r in rows)
                 for e, rows in by_experiment(rows_of(folder, run, "requests.csv.gz")).items()}
    out = []
    for e, rows in by_experiment(rows_of(folder, run, "steps.csv.gz")).items():
        times = submitted.get(e, [])
        if not e.startswith(("static", "conc")) or len(times) < 2:
            continue
        if e.startswith("conc"):
            times = times[:160]
        first = next((r for r in rows if r["prefill_chunks"]), None)
        held = len(first["prefill_chunks"].split())
        if held < len(times):
            out.append((e, len(times), (times[-1] - times[0]) / (len(times) - 1), held, times[held - 1] - times[0],
                        number(first, "schedule_start_us") / 1e3 - times[held - 1]))
    return out


def input_path(folder, run):
    """How old, in microseconds, a request has to be at a schedule to be known there. Engines that are busy and keep nobody waiting:
    (the age that splits seen from unseen with the fewest exceptions, exceptions, requests within 0.6 ms of it). And idle engines: from
    submission to schedule of requests that came alone."""
    ages, alone = [], []
    requests = by_experiment(rows_of(folder, run, "requests.csv.gz"))
    for e, rows in by_experiment(rows_of(folder, run, "steps.csv.gz")).items():
        if e.startswith("prefill"):
            continue
        rows = sorted(rows, key=lambda r: int(r["step"]))
        submitted = {r["request"]: number(r, "submit_s") * 1e6 for r in requests[e]}
        times, first = [number(r, "schedule_start_us") for r in rows], {}
        for r in rows:
            for entry in r["new_request_ids"].split():
                first.setdefault(entry.split(":")[0], number(r, "schedule_start_us"))
            if int(r["new_requests"]) == 1 and int(r["running"]) == 1 and r["waiting"] == "0":
                alone.append(number(r, "schedule_start_us") - submitted[r["new_request_ids"].split(":")[0]])
        if e.startswith(("static", "conc", "mooncake")):
            continue
        for request, at in first.items():
            for i in range(bisect.bisect_left(times, submitted[request]), len(rows)):
                age = times[i] - submitted[request]
                if age > 6000 or times[i] > at or rows[i]["waiting"] != "0":
                    break
                if i and times[i] - times[i - 1] < 6e4 and int(rows[i - 1]["running"]):
                    ages.append((age, times[i] >= at))
    if len(ages) < 20:
        return None
    wrong = {split: sum((age >= split) != seen for age, seen in ages) for split in range(500, 2001, 50)}
    least = min(wrong.values())
    best = [split for split, w in wrong.items() if w == least]
    near = sum(abs(age - best[0]) < 600 for age, _ in ages)
    text = f"{best[0]}" if len(best) == 1 else f"{best[0]} to {best[-1]}"
    return run, len(ages), text, least, near, len(alone), f"{statistics.median(alone) / 1e3:.2f}" if alone else "–"


def first_launches(folder, run):
    """Batches that come at once: how much longer the launch of their first step took for each prompt still to come."""
    out = []
    requests = by_experiment(rows_of(folder, run, "requests.csv.gz"))
    for e, rows in by_experiment(rows_of(folder, run, "steps.csv.gz")).items():
        rows = sorted((r for r in rows if r["execute_start_us"]), key=lambda r: int(r["step"]))
        if not e.startswith(("static", "conc")):
            continue
        start = next((i for i, r in enumerate(rows) if int(r["new_requests"])), None)
        batch = requests.get(e, [])[:160] if e.startswith("conc") else requests.get(e, [])
        if start is None or int(rows[start]["tokens"]) <= 512 or len(batch) < 2 or "_again" in run or "gpt" in run:
            continue  # up to 512 tokens (gpt-oss: 1,024) a step is launched as graphs, or pieces of one
        took = number(rows[start], "sample_end_us") - number(rows[start], "execute_start_us")
        others = [number(r, "sample_end_us") - number(r, "execute_start_us") for r in rows[start + 1:] if int(r["tokens"]) > 512]
        end = number(rows[start], "sample_end_us") * 1e-6
        came = [r for r in batch if number(r, "submit_s") < end]
        more = len(came) - int(rows[start]["new_requests"])
        if more < 10 or not others:
            continue
        tokens = statistics.mean(number(r, "prompt_tokens") for r in batch)
        out.append((run, e, f"{tokens:,.0f}", more, f"{took / 1e3:.1f}", f"{min(others) / 1e3:.1f}",
                    f"{(took - min(others)) / more:.0f}", f"{(took - min(others)) / more / tokens:.2f}"))
    return out


def waiting_samplers(folder, run):
    """Steps launched kernel by kernel whose sampling returned most of their device time after their launch, and whether more
    sequences than ever before were in them."""
    rows = sorted(rows_of(folder, run, "steps.csv.gz"), key=lambda r: int(r["step"]))
    most, counts = WARM_UP_ROWS, {True: [0, 0], False: [0, 0]}
    for r in rows:
        n = int(r["sequences"])
        if r["execute_start_us"] and r["gpu_us"] and int(r["tokens"]) > 512 and r["prefill_chunks"]:
            wait = number(r, "sample_end_us") - number(r, "execute_start_us") - number(r, "execute_host_us")
            counts[n > most][0] += wait >= max(2e4, .6 * number(r, "gpu_us"))
            counts[n > most][1] += 1
        most = max(most, n)
    return (run, *(f"{waited} of {steps}" for waited, steps in (counts[True], counts[False])))


def table(head, rows):
    return "\n".join(["| " + " | ".join(head) + " |", "| --- " + "| --: " * (len(head) - 1) + "|"] +
                     ["| " + " | ".join(str(c) for c in r) + " |" for r in rows]) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--orrery", default="build/release/orrery")
    parser.add_argument("--out", default=str(ROOT / "reports" / "results" / "host_figures.md"))
    options = parser.parse_args()
    orrery, host = os.path.abspath(options.orrery), terms()
    kernels, gaps, spreads, pooled, batches = [], [], [], [], []
    for folder, run, hardware, model, plan in RUNS:
        steps = rows_of(folder, run, "steps.csv.gz")
        prices(orrery, hardware, model, plan, steps)
        experiments = by_experiment(steps)
        shares = first_kernel(experiments)
        if shares:
            kernels.append((run, len(shares), f"{statistics.median(shares):.3f}"))
        found = step_gap(experiments, host["copy"])
        gaps.append((run, len(found), f"{statistics.median(found):.1f}"))
        for e, factors in launch_factors(experiments, host, "30b" in run, 2 if "tp: 2" in plan else 1).items():
            cut = [quantile(factors, p) for p in QUANTILES]
            if hardware == "h200":
                pooled.append(cut)
            spreads.append((run, e, len(factors), f"{statistics.mean(factors):.2f}", *(f"{c:.2f}" for c in cut)))
        for e, n, apart, held, span, before in at_once(folder, run):
            batches.append((run, e, n, f"{apart:.2f}", held, f"{span:.2f}", f"{before:.2f}"))
    mean = [statistics.mean(c[i] for c in pooled) for i in range(len(QUANTILES))]
    spreads.append(("**mean of the H200 experiments**", "", "", "", *(f"{m:.2f}" for m in mean)))
    held = [b[4] for b in batches]
    apart = [float(b[3]) for b in batches if "h200" in next(f for f, r, *_ in RUNS if r == b[0])]
    text = f"""# Where host figures of vLLM 0.24 come from

Made by `tools/host_figures.py` from the step logs under `reports/cases`; the figures stand in `engine_profiles/vllm-0.24.yaml`. Which of
these runs predictions are then compared with: [accuracy.md](accuracy.md), [held_out_h100.md](held_out_h100.md).

## first_kernel

Decode steps that began on a device idle for 0.3 ms or more: what their device time has beyond others of their batch, over the whole
launch. The V1 runner's (30B) holds its input preparation per sequence.

{table(["run", "steps", "share of the launch, median"], kernels)}
## step_gap

{table(["run", "pairs of steps", "µs, median"], gaps)}
## launch_jitter

Launch time over the profile's terms, steps of at most 3,000 tokens with prompts beside decodes, experiments with arrivals. Taken: the
mean of the quantiles of the H200 experiments; one deviation below the median, one above.

{table(["run", "experiment", "steps", "mean", *(f"{p:.0%}" for p in QUANTILES)], spreads)}
## input_per_request, core_wake

Batches that come at once. Apart: mean time between submissions (H200 median {statistics.median(apart):.2f} ms). First step: prompts that it
holds: 1 to {max(held)}, median {statistics.median(held):g}, mean {statistics.mean(held):.1f}. With {host["input_per_request"] / 1e3:g} ms between requests a wake of {host["core_wake"] / 1e3:g} ms holds three, the whole number
next to the mean; the span itself, first to last request held, would say {statistics.median(float(b[5]) for b in batches):.2f} ms (median), because the first
submissions lie further apart than the mean. The last one held was submitted so long before that step:

{table(["run", "batch", "requests", "apart, ms", "in the first step", "span, ms", "last to step, ms"], batches)}"""
    named = [(folder, run) for folder, run, *_ in RUNS] + HELD_OUT
    launches = [row for folder, run in named for row in first_launches(folder, run)]
    paths = [row for row in (input_path(folder, run) for folder, run in named) if row]
    text += f"""
## input_delay

Requests of open loops against the schedules that came after them, engine busy and nobody waiting: one younger than the age given is not known
there, an older one is. Exceptions: requests on the wrong side of it. Alone: from submission to schedule on an idle engine, which is
`input_delay` and `core_wake` together.

{table(["run", "request × schedule", "age, µs", "exceptions", "within 0.6 ms", "alone", "ms, median"], paths)}
## input_per_token

Batches that come at once, first step launched kernel by kernel: its launch beside the shortest of the later ones, over the prompts that
came in while it ran. The core process's input thread hashes their blocks then, and the two share Python's lock. Taken: the median of
`qwen3-8b_bf16_tp1`. Runs with worker processes (tp2) launch elsewhere and show what the method itself makes of nothing.

{table(["run", "batch", "tokens a prompt", "prompts more", "first launch, ms", "shortest later, ms", "µs a prompt", "µs a token"], launches)}
## Sampling that waits for the device (`first_request_effects`)

Steps launched kernel by kernel whose sampling returned 0.6 of their device time (and 20 ms) or more after their launch, so that the core thread stood still until the
step was over and the tokens of the step ahead left a whole step later. More sequences than any step before, or not
(the warm-up of {WARM_UP_ROWS} requests counted): what fits is that larger logits need new device memory, and that taking it waits for the device (inferred, not seen in a trace). It passes when
a server has once had so many sequences. Models of the V1 runner (30B, gpt-oss) never show it.

{table(["run", "more than ever", "not more"], [waiting_samplers(folder, run) for folder, run in named])}"""
    partial = options.out + f".partial-{os.getpid()}"
    pathlib.Path(partial).write_text(text, encoding="utf-8")
    os.replace(partial, options.out)
    print(options.out)


if __name__ == "__main__":
    main()
