#!/usr/bin/env python3
"""Runs of vLLM with prefill and decode apart beside their prediction.

    tools/disaggregation_runs.py RUNS OUT.md [--orrery build/release/orrery]

RUNS holds archives: requests.jsonl.gz of the client, experiments.json that it was given, and of each engine (p, d) info.json and
the rows of the step log and of the connector (sched, upd, exec, xfer). Every experiment is played by `orrery simulate` with its requests:
apart (two pools, one node), or, for comparison, the same two engines as equals in turn. Nothing is fitted."""
import argparse
import glob
import json
import os
import tarfile
import tempfile

from vllm_runs import mean, predict, quantile, read_requests, tpots

MODEL, PART = "qwen3-8b", "h200"


def add_prefixes(run, experiments):
    """What the client was given has the shared blocks of prompts, by request."""
    given = {e["name"]: e["reqs"] for e in json.load(open(os.path.join(run, "experiments.json")))}
    for head, requests in experiments:
        for r in requests:
            r["hash"] = given[head["exp"]][r["i"]].get("hash")


def rows_of(run, kind):
    return [json.loads(line) for name in sorted(glob.glob(f"{run}/{kind}.*.jsonl")) for line in open(name)]


def engine_keys(run, side):
    given = json.load(open(os.path.join(run, side, "info.json")))["engine"]
    keys = f"hardware: {PART}, model: {MODEL}, engine: vllm-0.24"
    if given.get("tensor_parallel_size", 1) > 1:
        keys += f", parallel: {{tp: {given['tensor_parallel_size']}}}"
    if "block_size" in given:
        keys += f", engine_args: {{block_size: {given['block_size']}}}"
    return keys


def deployment(run, mode, connector):
    if mode == "mixed":
        return f"deployment: {{{engine_keys(run, 'p')}, replicas: 2, router: round-robin}}\n"
    return (f"deployment:\n  topology: {{preset: hopper-8}}\n  pools:\n"
            f"    - {{name: p, role: prefill, {engine_keys(run, 'p')}}}\n"
            f"    - {{name: d, role: decode, {engine_keys(run, 'd')}}}\n  pd: {{connector: {connector}}}\n")


def play(orrery, run, head, requests, folder, connector):
    concurrency = 1 if head["exp"].startswith("serial") else head["conc"]
    rows = predict(orrery, deployment(run, head["mode"], connector), requests, concurrency, folder)
    return rows, json.load(open(os.path.join(folder, "out", "summary.json")))


HEADERS = ["TTFT p50", "TTFT p99", "TPOT mean", "ITL p99", "output tokens/s"]


def measured_figures(head, requests):
    ttft = [1e3 * r["ttft"] for r in requests]
    gaps = [us / 1e3 for r in requests for us in r["itl_us"]]
    begin, end = min(r["sub"] for r in requests), max(r["sub"] + r["e2e"] for r in requests)
    if head["exp"].startswith("serial"):
        begin, end = 0, sum(r["e2e"] for r in requests)
    return [quantile(ttft, .5), quantile(ttft, .99),
            mean(tpots(requests)),
            quantile(gaps, .99), sum(r["got"] for r in requests) / (end - begin)]


def predicted_figures(rows, summary):
    ttft = [1e3 * float(r["ttft_s"]) for r in rows]
    return [quantile(ttft, .5), quantile(ttft, .99), mean([float(r["tpot_ms"]) for r in rows if r["tpot_ms"]]),
            summary["itl_ms"]["p99"], summary["throughput"]["output_tokens_per_s"]]


def experiments(orrery, run, connector):
    lines = ["| experiment | requests | " + " | | ".join(HEADERS) + " | |", "|---" * (2 + 2 * len(HEADERS)) + "|",
             "| | |" + " measured | predicted |" * len(HEADERS)]
    parts = []
    played = read_requests(run)
    add_prefixes(run, played)
    for head, requests in played:
        with tempfile.TemporaryDirectory() as folder:
            rows, summary = play(orrery, run, head, requests, folder, connector)
        cells = [head["exp"], str(len(requests))]
        for m, p in zip(measured_figures(head, requests), predicted_figures(rows, summary)):
            cells += [f"{m:.1f}", f"{p:.1f} ({100 * (p / m - 1):+.0f} %)"]
        lines.append("| " + " | ".join(cells) + " |")
        if head["mode"] == "pd":
            parts.append((head, requests, rows, summary))
    return lines, parts


def first_token(parts):
    """Where the first token's time goes: until the prefill answer is back at the proxy, and from there to the client's first."""
    lines = ["| experiment | prefill answered, p50 | | from there to the first token, p50 | |", "|---|---|---|---|---|",
             "| | measured | predicted | measured | predicted |"]
    for head, requests, rows, summary in parts:
        if head["exp"].startswith("serial"):
            continue
        ours = summary["transfers"]["ttft_parts_ms"]
        before = 1e3 * quantile([r["proxy"] for r in requests], .5)
        after = 1e3 * quantile([r["ttft"] - r["proxy"] for r in requests], .5)
        first = [1e3 * (float(r["prefill_queue_s"]) + float(r["prefill_s"])) for r in rows] if "prefill_s" in rows[0] else []
        rest = [1e3 * float(r["ttft_s"]) - f for r, f in zip(rows, first)]
        p = quantile(first, .5) if first else ours["prefill_queue"]["mean"] + ours["prefill"]["mean"]
        q = quantile(rest, .5) if first else float("nan")
        lines.append(f"| {head['exp']} | {before:.1f} | {p:.1f} ({100 * (p / before - 1):+.0f} %) | {after:.1f} | {q:.1f} |")
    return lines


def alone(parts, transfers):
    """Requests one at a time, by prompt length."""
    lines = ["| prompt | TTFT | | prefill answered | | from there | | fastest such read | MB | GB/s |", "|---" * 10 + "|",
             "| | measured | predicted | measured | predicted | measured | predicted | ms | MB | |"]
    head, requests, rows, _ = next(p for p in parts if p[0]["exp"].startswith("serial"))
    by_length = {}
    for r, p in zip(requests, rows):
        by_length.setdefault(r["in"], []).append((r, p))
    for length, pairs in by_length.items():
        m = [1e3 * quantile([r[k] for r, _ in pairs], .5) for k in ("ttft", "proxy")]
        t = 1e3 * quantile([float(p["ttft_s"]) for _, p in pairs], .5)
        first = 1e3 * quantile([float(p["prefill_queue_s"]) + float(p["prefill_s"]) for _, p in pairs], .5)
        size = length * transfers["bytes_per_token"]
        ms = min((row[2] for row in transfers["rows"] if row[4] == size), default=float("nan")) / 1e3
        lines.append(f"| {length} | {m[0]:.1f} | {t:.1f} ({100 * (t / m[0] - 1):+.0f} %) | {m[1]:.1f} | {first:.1f} | {m[0] - m[1]:.1f} | "
                     f"{t - first:.1f} | {ms:.2f} | {size / 1e6:.0f} | {size / ms / 1e6:.0f} |")
    return lines


HEAD = """# Prefill and decode apart on vLLM: measured and predicted

By `tools/disaggregation_runs.py`, from three runs of vLLM 0.24.0 with its NixlConnector on H200
([what they are](../cases/h200_vllm_0_24_disaggregated/README.md)); Qwen3-8B, times in ms. The figures of a transfer's descriptors were read off
the requests one at a time of the first run (and small ones of the second); nothing else is fitted. `mixed`: the same two engines as
equals in turn. What the differences are: [disaggregation.md](../../docs/disaggregation.md).
"""

RUNS = [("tp1_to_tp1", "One GPU to one, blocks of 16"), ("tp1_to_tp1_block128", "One GPU to one, blocks of 128"),
        ("tp2_to_tp1", "Two GPUs to one, blocks of 16 (nothing fitted)")]


def report(orrery, run, title, connector):
    table, parts = experiments(orrery, run, connector)
    done = [row for row in rows_of(os.path.join(run, "d"), "xfer") if row[0] == "done"]
    reads = json.load(open(os.path.join(run, "p", "info.json")))["engine"].get("tensor_parallel_size", 1)
    transfers = {"rows": done, "bytes_per_token": 36 * 2 * 8 * 128 * 2 // reads}  # a prefill rank's part, by itself
    return ([f"## {title}", ""] + table + ["", "One request at a time, medians:", ""] + alone(parts, transfers) +
            ["", "Where the first token's time goes:", ""] + first_token(parts) + [""])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs")
    parser.add_argument("out")
    parser.add_argument("--orrery", default="build/release/orrery")
    parser.add_argument("--connector", default="nixl", help="moriio: bytes and links alone")
    args = parser.parse_args()
    text = [HEAD]
    for name, title in RUNS:
        with tempfile.TemporaryDirectory() as run:
            with tarfile.open(os.path.join(args.runs, name + ".tar.xz")) as archive:
                archive.extractall(run)
            text += report(os.path.abspath(args.orrery), run, title, args.connector)
    with open(args.out, "w") as out:
        out.write("\n".join(text))


if __name__ == "__main__":
    main()
