#!/usr/bin/env python3
"""Raw logs of ../shared/examples/vllm_on_gpu (plugin and client) → a run folder as under reports/cases/.

  tools/vllm_probe_to_run.py RAW_FOLDER EXPERIMENTS.json OUT_FOLDER [--engine-log FILE] [--gpu TEXT]

RAW_FOLDER holds info.json, requests.jsonl.gz and {sched,exec,upd}.PID.jsonl; EXPERIMENTS.json is what the client was given.
Written: engine.json, experiments.jsonl.gz, requests.csv.gz, steps.csv.gz (columns: ../shared/truth/README.md). The plugin
here also logs how many sequences decoded and their context sum, so nothing has to be reconstructed. Scheduled steps
and their executions are joined by order, where the executions of the engine's start-up are passed over; if the plugin lost
a row (it does now and then; the step is then left out, as in ../shared/truth), by time. Token counts must agree. Standard
library only.
"""
import argparse
import csv
import glob
import gzip
import json
import os
import re
import sys

STEP_COLUMNS = ("experiment,step,schedule_start_us,schedule_us,tokens,sequences,prefill_chunks,new_requests,running,waiting,"
                "free_blocks,preempted,execute_start_us,execute_host_us,sample_end_us,gpu_us,gpu_us_rank1,update_start_us,update_us,"
                "decode_sequences,decode_context_tokens,prefill_request_ids,new_request_ids,preempted_request_ids").split(",")
# Only where a run has them: drafts that decodes bring (request:drafts), tokens that came of the step (request:tokens), images that
# it encodes (request@offset in the prompt:tokens), device time of drafting and encoding.
# said_before: of the step before, where its row was lost.
FURTHER_COLUMNS = "drafts,said,said_before,encoded,draft_us,encode_us".split(",")
REQUEST_COLUMNS = ("experiment,request,arrival_s,submit_s,prompt_tokens,output_tokens,cached_tokens,ttft_s,e2e_s,tpot_ms,"
                   "itl_p50_ms,itl_p99_ms,itl_max_ms").split(",")


def lines(pattern):
    """One list of rows per file that matches, in order of the process id."""
    found = sorted(glob.glob(pattern), key=lambda p: int(p.split(".")[-2]))
    out = []
    for path in found:
        with open(path, encoding="utf-8") as f:
            out.append([json.loads(line) for line in f if line.strip()])
    return out


def executions(scheduled, executed):
    """Per scheduled step the row of its execution, or None: by order; else by number; else the first that begins before the next step was
    scheduled, which holds where one process does both."""
    for shift in range(len(executed) - len(scheduled) + 1):
        if all(s[3] == e[4] for s, e in zip(scheduled, executed[shift:])):
            return executed[shift:shift + len(scheduled)]
    numbered = {e[0]: e for e in executed}  # rows of the schedule are missing: by the steps' numbers
    for shift in range(len(executed) - len(scheduled) + 1):
        rows = [numbered.get(s[0] + shift) for s in scheduled]
        if all(e and s[3] == e[4] for s, e in zip(scheduled, rows)):
            return rows
    out, at = [], 0
    for i, s in enumerate(scheduled):
        until = scheduled[i + 1][2] if i + 1 < len(scheduled) else float("inf")
        while at < len(executed) and executed[at][1] < s[2]:
            at += 1
        row = executed[at] if at < len(executed) and executed[at][1] < until else None
        if row and row[4] != s[3]:
            sys.exit(f"step {s[0]} was scheduled with {s[3]} tokens and executed with {row[4]}")
        out.append(row)
    return out


def percentile(values, p):
    values = sorted(values)
    return values[min(len(values) - 1, int(p * len(values)))] if values else None


def lost_updates(scheduled, updates, requests):
    """{step: what its update said}, of updates whose rows the plugin lost: from the tokens that the client received with each
    update, in a row's own order."""
    received = {(r["exp"], r["i"]): r["n"] for r in requests if isinstance(r["n"], list)}
    before, restored = {}, {}
    for s in scheduled:
        if s[0] in updates:
            for name, n in (updates[s[0]][3] if len(updates[s[0]]) > 3 else []):
                before[name] = before.get(name, 0) + (n > 0)
            continue
        said = []
        for name in [d[0] for d in (s[13] if len(s) > 13 else [])]:
            experiment, i = re.match(r"(.*?)-(\d+)(-|$)", name).group(1, 2)
            counts = received.get((experiment, int(i)), [])
            if before.get(name, 0) < len(counts):
                said.append([name, counts[before.get(name, 0)]])
                before[name] = before.get(name, 0) + 1
        restored[s[0]] = [s[0], 0, 0, said]
    return restored


def profiled(experiment):
    """Experiments under the profiler, which the client calls prof…, are left out."""
    return experiment.startswith("prof")


def number(value, digits):
    return "" if value is None else f"{value:.{digits}f}"


def write_gz(path, rows, columns):
    with gzip.GzipFile(path, "wb", mtime=0) as raw:
        text = [",".join(columns)] + [",".join(str(row[c]) for c in columns) for row in rows]
        raw.write(("\n".join(text) + "\n").encode())


def request_row(r, closed):
    """A request as the client saw it; ends where it did not get what it asked for."""
    gaps = [x / 1e3 for x in r["itl_us"]]
    if r["st"] != "ok" or r["got"] != r["out"]:
        sys.exit(f"{r['exp']} request {r['i']}: {r['st']}, {r['got']} of {r['out']} tokens")
    return {"experiment": r["exp"], "request": r["i"], "arrival_s": "" if closed else r["t"], "submit_s": r["sub"], "prompt_tokens": r["in"],
            "output_tokens": r["got"], "cached_tokens": r["cached"] or 0, "ttft_s": r["ttft"], "e2e_s": r["e2e"],
            "tpot_ms": number((r["e2e"] - r["ttft"]) / (r["got"] - 1) * 1e3, 3) if r["got"] > 1 else "",
            "itl_p50_ms": number(percentile(gaps, .5), 3), "itl_p99_ms": number(percentile(gaps, .99), 3),
            "itl_max_ms": number(max(gaps, default=None), 3)}


def further(s, update, before, run, name):
    """What speculation and images add to a step's row; `before`: the update of the step before, if the rest of that is lost."""
    drafts, encoded = (s[13], s[14]) if len(s) > 14 else ([], [])
    said, earlier = (u[3] if u and len(u) > 3 else [] for u in (update, before))
    device = lambda i: run[i][1] if len(run) > i and run[i] else ""  # noqa: E731
    return {"drafts": " ".join(f"{name(r)}:{n}" for r, n, _ in drafts), "said": " ".join(f"{name(r)}:{n}" for r, n in said if n),
            "said_before": " ".join(f"{name(r)}:{n}" for r, n in earlier if n),
            "encoded": " ".join(f"{name(r)}@{at}:{n}" for r, images in encoded for _, at, n in images),
            "draft_us": device(6), "encode_us": device(7)}


def place_images(definitions, requests, scheduled):
    """Where the engine put the images of its requests: prompts grow by what they become."""
    length = {(r["exp"], r["i"]): r["in"] for r in requests if "images" in r}
    placed = {}
    for s in scheduled:
        for name, images in s[14] if len(s) > 14 else []:
            experiment, index = re.match(r"(.*?)-(\d+)(-|$)", name).group(1, 2)
            placed.setdefault((experiment, int(index)), {}).update({i: (at, n) for i, at, n in images})
    for (experiment, index), images in placed.items():
        if experiment in definitions:
            r = definitions[experiment]["reqs"][index]
            r["text"], r["in"] = r["in"], length[experiment, index]
            r["images"] = [{"width": w, "height": h, "offset": images[i][0], "tokens": images[i][1]}
                           for i, (w, h) in enumerate(r["images"])]


def write_experiments(path, definitions):
    """What the client was given, without what only it needs."""
    with gzip.GzipFile(path, "wb", mtime=0) as raw:
        for definition in definitions:
            kept = {k: v for k, v in definition.items() if k != "need"}
            kept["reqs"] = [{k: v for k, v in r.items() if k != "seed"} for r in kept["reqs"]]
            raw.write((json.dumps(kept, separators=(",", ":")) + "\n").encode())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("raw")
    parser.add_argument("experiments")
    parser.add_argument("out")
    parser.add_argument("--engine-log")
    parser.add_argument("--gpu", default="")
    a = parser.parse_args()

    with open(a.experiments, encoding="utf-8") as f:
        definitions = {e["name"]: e for e in json.load(f)}
    scheduled = lines(f"{a.raw}/sched.*.jsonl")[0]
    ranks = lines(f"{a.raw}/exec.*.jsonl")
    updates = {row[0]: row for row in lines(f"{a.raw}/upd.*.jsonl")[0]}
    executed = [executions(scheduled, rank) for rank in ranks]

    headers, requests = [], []
    with gzip.open(f"{a.raw}/requests.jsonl.gz", "rt") as f:
        for line in f:
            row = json.loads(line)
            if "t0_monotonic" in row:
                headers.append(row)
            else:
                requests.append(row)
    starts = {h["exp"]: h["t0_monotonic"] * 1e9 for h in headers}
    order = [h["exp"] for h in headers]
    # The client waits 0.3 s for t0, but not with requests one after another or in a closed loop.
    begins = {e: starts[e] - (3.5e8 if definitions[e].get("serial") or "conc" in definitions[e] else 1e7) for e in order}

    def experiment_of(step):
        """By its request names, `experiment-index-…`; a step of decodes belongs to the experiment that was on."""
        names = [r[0] for r in step[5]] + [r[0] for r in step[6]] + [r[0] for r in (step[13] if len(step) > 13 else [])]
        for name in names:
            for e in order:
                if re.match(re.escape(e) + r"-\d+(-|$)", name):
                    return e
        begun = [e for e in order if begins[e] <= step[1]]
        return begun[-1] if begun and not any(n.startswith("warm-") for n in names) else None

    def index(name, e):
        return re.match(re.escape(e) + r"-(\d+)", name).group(1)

    steps, known, lost = [], {s[0] for s in scheduled}, lost_updates(scheduled, updates, requests)
    for i, s in enumerate(scheduled):
        e = experiment_of(s)
        if e is None or s[1] < begins[e] or profiled(e):
            continue
        t0 = starts[e]
        us = lambda ns: number((ns - t0) / 1e3, 1)  # noqa: E731
        run = [rank[i] for rank in executed]
        update = updates.get(s[0])
        if update is None or None in run:
            continue
        steps.append({
            "experiment": e, "step": s[0], "schedule_start_us": us(s[1]), "schedule_us": number((s[2] - s[1]) / 1e3, 1),
            "tokens": s[3], "sequences": s[4], "prefill_chunks": " ".join(f"{n}@{c - n}" for _, n, c in s[5]),
            "new_requests": len(s[6]), "running": s[7], "waiting": s[8], "free_blocks": s[9], "preempted": len(s[10]),
            "execute_start_us": us(run[0][1]),
            "execute_host_us": number((run[0][2] - run[0][1]) / 1e3, 1),
            "sample_end_us": us(run[0][3]), "gpu_us": run[0][5],
            "gpu_us_rank1": run[1][5] if len(run) > 1 else "",
            "update_start_us": us(update[1]),
            "update_us": number((update[2] - update[1]) / 1e3, 1),
            "decode_sequences": s[11], "decode_context_tokens": s[12],
            "prefill_request_ids": " ".join(index(r[0], e) for r in s[5]),
            "new_request_ids": " ".join(f"{index(r[0], e)}:{r[1]}" for r in s[6]),
            "preempted_request_ids": " ".join(index(r, e) for r in s[10]), 
            **further(s, update, lost.get(s[0] - 1) if s[0] - 1 in known else updates.get(s[0] - 1), run[0], lambda r: index(r, e))})
    os.makedirs(a.out, exist_ok=True)
    place_images(definitions, requests, scheduled)
    write_gz(f"{a.out}/steps.csv.gz", steps, STEP_COLUMNS + [c for c in FURTHER_COLUMNS if any(s[c] != "" for s in steps)])

    rows = [request_row(r, "conc" in definitions[r["exp"]]) for r in requests if not profiled(r["exp"])]
    write_gz(f"{a.out}/requests.csv.gz", rows, REQUEST_COLUMNS)

    write_experiments(f"{a.out}/experiments.jsonl.gz", [definitions[e] for e in order if not profiled(e)])

    with open(f"{a.raw}/info.json", encoding="utf-8") as f:
        info = json.load(f)
    info.pop("init_s", None)
    info["engine"]["model"] = os.path.basename(info["engine"]["model"])
    drafter = info["engine"].get("speculative_config") or {}
    for key in ("target_model_config", "target_parallel_config"):  # vLLM's own, of an MTP network: the model's, in words
        drafter.pop(key, None)
    if "model" in drafter:
        drafter["model"] = os.path.basename(drafter["model"])
    info["gpu"] = a.gpu
    if a.engine_log:
        with open(a.engine_log, encoding="utf-8", errors="replace") as f:
            log = f.read()
        for key, pattern in [("vllm", r"(?:engine \(|version )v?([\d.]+\d)"), ("available_kv_cache_gib", r"Available KV cache memory: ([\d.]+) GiB"),
                             ("kv_cache_tokens", r"GPU KV cache size: ([\d,]+) tokens"), ("model_load_gib", r"Model loading took ([\d.]+) GiB"),
                             ("graph_capture_gib", r"Graph capturing finished in \d+ secs, took ([\d.]+) GiB"),
                             ("encoder_budget_tokens", r"Encoder cache will be initialized with a budget of (\d+) tokens"),
                             ("backends", r"((?:Using|Selected) [^\n]*(?:[Bb]ackend|kernel|[Kk]ernel for|Model Runner|FlashAttention)[^\n]*)")]:
            found = list(dict.fromkeys(m.strip().rstrip(".") for m in re.findall(pattern, log) if len(m) < 400))
            info[key] = found[0] if key == "vllm" and found else found
    with open(f"{a.out}/engine.json", "w", encoding="utf-8") as f:
        json.dump(info, f, indent=1)
        f.write("\n")
    print(f"{a.out}: {sum(not profiled(e) for e in order)} experiments, {len(rows)} requests, {len(steps)} steps, {len(executed)} ranks")


if __name__ == "__main__":
    main()
