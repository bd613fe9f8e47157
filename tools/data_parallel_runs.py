#!/usr/bin/env python3
"""Runs of vLLM with data_parallel_size beside their prediction.

    tools/data_parallel_runs.py RUNS OUT.md [--orrery build/release/orrery]

RUNS holds the folders named in PLANS as tools/vllm_probe_to_run.py's logger leaves them (requests.jsonl.gz, sched, upd and exec of each
core and worker). Every experiment is played by `orrery simulate` with its requests; nothing is fitted. Beside that, what
the logs say of the rules by themselves: padding, agreements, waves, who got which request."""
import argparse
import glob
import json
import os
import subprocess
import tempfile

from vllm_runs import mean, predict, quantile, read_requests, tpots

# Run folder: (model, parallel plan, ranks in lockstep).
PLANS = {"dp2_qwen3-30b-a3b": ("qwen3-30b-a3b", "{dp: 2}", True), "dp2_ep2_qwen3-30b-a3b": ("qwen3-30b-a3b", "{dp: 2, ep: 2}", True),
         "dp2_qwen3-8b": ("qwen3-8b", "{dp: 2}", False), "dp4_ep4_qwen3-30b-a3b": ("qwen3-30b-a3b", "{dp: 4, ep: 4}", True),
         "tp2_dp2_ep4_qwen3-30b-a3b": ("qwen3-30b-a3b", "{tp: 2, dp: 2, ep: 4}", True)}
FULL, PIECEWISE, NONE = 2, 1, 0  # CUDAGraphMode


def rows_of(run, kind):
    return [[json.loads(line) for line in open(name)] for name in sorted(glob.glob(f"{run}/{kind}.*.jsonl"))]


def ranks_of(run):
    """Per data-parallel rank its core's scheduled steps by number, and the executions of its first worker. Process ids do not
    say who belongs to whom; the token counts of the steps do."""
    cores = [{row[0]: row for row in core} for core in rows_of(run, "sched")]
    first = [None] * len(cores)
    for worker in rows_of(run, "exec"):
        alike = [sum(row[0] in core and core[row[0]][3] == row[4] for row in worker) for core in cores]
        rank = alike.index(max(alike))
        if first[rank] is None:
            first[rank] = worker
    return cores, first


def play(orrery, model, plan, head, requests, folder, options):
    concurrency = 1 if head["exp"].startswith("prefill_single") else head["conc"]
    deployment = f"deployment:\n  hardware: h200\n  model: {model}\n  engine: vllm-0.24\n  parallel: {plan}\n"
    return predict(orrery, deployment, requests, concurrency, folder, options)


def step_price(orrery, model, plan, step, folder):
    scenario = os.path.join(folder, "price.yaml")
    with open(scenario, "w") as out:
        out.write(f"deployment:\n  hardware: h200\n  model: {model}\n  engine: vllm-0.24\n  parallel: {plan}\n")
    text = subprocess.run([orrery, "cost", scenario, "--json", "--step", step], check=True, capture_output=True, text=True).stdout
    return json.loads(text)["steps"][0]


def experiment_table(orrery, run, name, options):
    model, plan, _ = PLANS[name]
    lines = ["| experiment | requests | TTFT p50 | | TTFT mean | | TTFT p99 | | TPOT mean | | E2E mean | |",
             "|---|---|---|---|---|---|---|---|---|---|---|---|",
             "| | |" + " measured | predicted |" * 5]
    for head, requests in read_requests(run):
        with tempfile.TemporaryDirectory() as folder:
            predicted = play(orrery, model, plan, head, requests, folder, options)
        cells = [head["exp"], str(len(requests))]

        def pair(measured, ours):
            cells.extend([f"{measured:.1f}", f"{ours:.1f} ({100 * (ours / measured - 1):+.0f} %)"])

        ttft, ours = [1e3 * r["ttft"] for r in requests], [1e3 * float(r["ttft_s"]) for r in predicted]
        pair(quantile(ttft, .5), quantile(ours, .5))
        pair(mean(ttft), mean(ours))
        pair(quantile(ttft, .99), quantile(ours, .99))
        pair(mean(tpots(requests)),
             mean([float(r["tpot_ms"]) for r in predicted if r["tpot_ms"]]))
        pair(mean([1e3 * r["e2e"] for r in requests]), mean([1e3 * float(r["e2e_s"]) for r in predicted]))
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def graph_size(tokens, sizes):
    return next((s for s in sizes if s >= tokens), 0)


def own_dispatch(row, scheduled, sizes):
    """Mode and tokens that a rank would have taken by itself (cudagraph_dispatcher of the V1 runner)."""
    tokens = max(1, row[4])
    uniform = row[0] == -1 or scheduled[row[0]][4] == tokens
    size = graph_size(tokens, sizes)
    return (FULL if uniform else PIECEWISE, size) if size else (NONE, tokens)


def lockstep(run, info):
    scheduled, workers = ranks_of(run)
    agreed = padded = 0
    modes = {FULL: 0, PIECEWISE: 0, NONE: 0}
    exchange, passes = [], list(zip(*workers))
    logged = [p for p in passes if all(row[8] and (row[0] == -1 or row[0] in scheduled[r]) for r, row in enumerate(p))]
    for together in logged:
        agreement = [row[8] for row in together]
        agreed += all(a[2:4] == agreement[0][2:4] for a in agreement)
        dispatch = [own_dispatch(row, scheduled[r], info["cudagraph_sizes"]) for r, row in enumerate(together)]
        mode = min(m for m, _ in dispatch)
        tokens = [t for _, t in dispatch]
        expected = tokens if mode == NONE else [max(tokens)] * len(tokens)
        padded += agreement[0][2] == expected and int(agreement[0][3]) == mode
        modes[int(agreement[0][3])] += 1
        exchange.append((max(a[1] for a in agreement) - max(a[0] for a in agreement)) / 1e3)
    dummies = [sum(row[0] == -1 for row in worker) for worker in workers]
    # A wave ends where no pass follows for longer than passes take; compiling ones take seconds.
    starts = [max(row[1] for row in p) for p in passes]
    waves, first = [], 0
    for i in range(1, len(passes)):
        idle = all(row[0] == -1 for row in passes[i - 1])
        if idle and starts[i] - max(row[2] for row in passes[i - 1]) > 30e6:
            waves.append(i - first)
            first = i
    whole = sum(w % 32 == 0 for w in waves)
    return [f"- Passes: {[len(w) for w in workers]} on the ranks, of them dummy batches {dummies}. Modes full {modes[FULL]}, "
            f"piecewise {modes[PIECEWISE]}, none {modes[NONE]}.",
            f"- The ranks agreed on the same counts and mode in {agreed} of {len(logged)} groups of k-th passes; these are the "
            f"ones of the padding rule (least mode, widest size, one token of who has nothing) in {padded}.",
            f"- The agreement, from the latest rank's entry to the latest one's end, p10 / p50 / p90: {quantile(exchange, .1):.0f} / "
            f"{quantile(exchange, .5):.0f} / {quantile(exchange, .9):.0f} us.",
            f"- Pauses of more than 30 ms after dummy batches: {len(waves)}, after a multiple of 32 passes {whole} "
            f"({waves[:12]}{' …' if len(waves) > 12 else ''})."]


def decode_steps(orrery, run, name):
    """Device time of passes in full graphs with the same number of tokens on all ranks."""
    model, plan, _ = PLANS[name]
    scheduled, workers = ranks_of(run)
    found = {}
    for pair in zip(*workers):
        if any(row[0] == -1 or row[4] != pair[0][4] or not row[8] or row[8][3] != "2" for row in pair):
            continue
        if any(row[0] not in scheduled[r] or scheduled[r][row[0]][5] for r, row in enumerate(pair)):
            continue
        context = sum(scheduled[r][row[0]][12] for r, row in enumerate(pair)) / len(pair)
        found.setdefault(pair[0][4], []).append((min(row[5] for row in pair), context))
    lines = ["| decodes a rank | passes | mean context | device time, median us | predicted | |", "|---|---|---|---|---|---|"]
    with tempfile.TemporaryDirectory() as folder:
        for n in sorted(found):
            if len(found[n]) < 20:
                continue
            measured = quantile([us for us, _ in found[n]], .5)
            context = mean([c for _, c in found[n]]) / n
            price = step_price(orrery, model, plan, f"decode {n}@{round(context)}", folder)
            ours = price["device_us"]
            lines.append(f"| {n} | {len(found[n])} | {context:.0f} | {measured:.0f} | {ours:.0f} | {100 * (ours / measured - 1):+.0f} % |")
    return lines


def who_got_what(run, joint):
    """Ranks in the order of submission, by experiment."""
    ranks = {}
    cores = rows_of(run, "sched")
    count = len(cores)
    for r, core in enumerate(cores):
        for row in core:
            for new in row[6]:
                ranks.setdefault("-".join(new[0].split("-")[:2]), r)
    lines, breaks, in_turn, placed = [], [], 0, 0
    for head, requests in read_requests(run):
        order = sorted(requests, key=lambda r: r["sub"] if head["exp"] != "prefill_single" else r["i"])
        got = [ranks.get(f"{head['exp']}-{r['i']}") for r in order]
        at = [head["t0_monotonic"] + r["sub"] for r, g in zip(order, got) if g is not None]
        got = [g for g in got if g is not None]
        breaks += [later for later, a, b in zip(at[1:], got, got[1:]) if a == b]
        in_turn += sum(a != b for a, b in zip(got, got[1:]))
        placed += max(0, len(got) - 1)
        lines.append(f"{head['exp']} " + ":".join(str(got.count(r)) for r in range(count)))
    text = f"- Of consecutive requests of an experiment {in_turn} of {placed} pairs went to different ranks"
    text += f"; the second of the others came at {', '.join(f'{t:.1f}' for t in breaks)} s of the host's clock." if not joint else "."
    return [f"- Requests by rank (order of process ids), by experiment: {', '.join(lines)}.", text]


def memory(orrery, run, name):
    model, plan, _ = PLANS[name]
    info = json.load(open(os.path.join(run, "info.json")))
    with tempfile.TemporaryDirectory() as folder:
        scenario = os.path.join(folder, "memory.yaml")
        with open(scenario, "w") as out:
            out.write(f"deployment:\n  hardware: h200\n  model: {model}\n  engine: vllm-0.24\n  parallel: {plan}\n")
        text = subprocess.run([orrery, "cost", scenario], check=True, capture_output=True, text=True).stdout
    line = next(row for row in text.splitlines() if row.startswith("KV cache"))
    measured = info["num_gpu_blocks"] / len(rows_of(run, "sched"))
    ours = int(line.split(":")[1].split()[0])
    return [f"- KV blocks of a rank: {measured:.0f} (the client adds the ranks' up: {info['num_gpu_blocks']}), predicted {ours} "
            f"({100 * (ours / measured - 1):+.1f} %)."]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs")
    parser.add_argument("out")
    parser.add_argument("--orrery", default="build/release/orrery")
    parser.add_argument("--host-scale", type=float, help="play them on a host so much slower (overrides.host_scale)")
    args = parser.parse_args()
    options = ["--set", f"overrides.host_scale={args.host_scale}"] if args.host_scale else []
    orrery = os.path.abspath(args.orrery)
    lines = ["# vLLM's data-parallel ranks: measured and predicted", "",
             "By `tools/data_parallel_runs.py`, from five runs of vLLM 0.24.0 on two and four H200 (driver 580.159.04, torch 2.11.0+cu130, 32 and 64 Xeon cores,",
             "2026-11-26; random weights and prompts, forced lengths, client and AsyncLLM in one process, one front end; first-use compilation is in the",
             "first experiments). Nothing was fitted to them, but the ranks' agreement (`data_parallel.sync`) is what they measured. Times in ms. What the",
             "differences are: [parallel_plans.md](../../docs/parallel_plans.md).", ""]
    for name, (_, plan, joint) in PLANS.items():
        run = os.path.join(args.runs, name)
        info = json.load(open(os.path.join(run, "info.json")))
        lines += [f"## {name}: `parallel: {plan}`", ""] + experiment_table(orrery, run, name, options) + [""]
        lines += memory(orrery, run, name) + who_got_what(run, joint)
        if joint:
            lines += lockstep(run, info) + [""] + decode_steps(orrery, run, name)
        lines.append("")
    with open(args.out, "w") as out:
        out.write("\n".join(lines))


if __name__ == "__main__":
    main()
