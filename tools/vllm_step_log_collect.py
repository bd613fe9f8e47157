"""`vllm_step_log.py collect LOG OUT`: the rows of a server's processes → a run folder (docs/step_log.md).

  collect LOG OUT [--process PID] [--gap SECONDS] [--gpu TEXT]

An experiment ends where the engine was idle for --gap seconds (default 1), or where its prefix cache was
emptied. --process picks one core process where the log has several: a restarted server, data parallelism.
"""
import argparse
import base64
import bisect
import collections
import glob
import gzip
import json
import os
import sys

STEP_COLUMNS = ("experiment,step,schedule_start_us,schedule_us,tokens,sequences,prefill_chunks,new_requests,"
                "running,waiting,free_blocks,preempted,execute_start_us,execute_host_us,sample_end_us,gpu_us,"
                "gpu_us_rank1,update_start_us,update_us,decode_sequences,decode_context_tokens,"
                "prefill_request_ids,new_request_ids,preempted_request_ids,logging_us").split(",")
REQUEST_COLUMNS = ("experiment,request,arrival_s,submit_s,known_s,prompt_tokens,output_tokens,"
                   "max_output_tokens,cached_tokens,ttft_s,e2e_s,tpot_ms,core_ttft_s,core_e2e_s,"
                   "core_itl_p50_ms,core_itl_p99_ms,core_itl_max_ms,preemptions,finish_reason,finish_step,"
                   "finish_s").split(",")
LOGGED_BY = {
    "submit_s": "front end: arrival_time of the request, its clock translated to the core's by one pair of "
                "readings",
    "known_s": "core process: when add_request returned",
    "ttft_s, e2e_s, tpot_ms": "front end: vLLM's own statistics, from arrival_time on; empty with "
                              "--disable-log-stats",
    "core_ttft_s, core_e2e_s": "derived: from arrival_time to the end of the update that brought the token",
    "core_itl_*": "derived: gaps between ends of updates from the first token's to the last; empty for "
                  "preempted requests",
    "logging_us": "what logging itself took between schedule and launch (rank 0); the fit takes it off the "
                  "handover",
    "gpu_us": "two CUDA events in stream order around a step's launches, per rank; includes waiting for "
              "launches",
}
ACCEPTED_ROWS = (1, 2)  # 2: with drafts, tokens said and images
# Columns that only a run with speculation or images has (docs/step_log.md).
FURTHER_COLUMNS = "drafts said said_before encoded draft_us encode_us".split()


class Process:
    """The rows of one file, by kind. A line that cannot be read (cut off by a crash) is counted, not used."""

    def __init__(self, path):
        self.path, self.unreadable, self.dropped = path, 0, 0
        self.rows = collections.defaultdict(list)
        with open(path, encoding="utf-8", errors="replace") as f:
            for line in f:
                try:
                    row = json.loads(line)
                    kind, first = row[0], row[1]
                except (ValueError, IndexError, TypeError, KeyError):
                    self.unreadable += 1
                    continue
                if kind == "l":
                    self.dropped += first
                else:
                    self.rows[kind].append(row[1:])
        head = self.rows["p"][0][0] if self.rows["p"] else {}
        self.pid, self.parent = head.get("pid", -1), head.get("parent", -1)
        self.wall, self.monotonic = head.get("wall_s", 0), head.get("monotonic_ns", 0)
        if head.get("rows", 1) not in ACCEPTED_ROWS:
            sys.exit(f"{path}: rows of version {head['rows']}, this reads {ACCEPTED_ROWS[-1]} and older: use "
                     f"the collect of the same file")
        self.info = {k: v for info in self.rows["i"] for k, v in info[0].items()}


def seconds(ns):
    return "" if ns is None else f"{ns / 1e9:.9f}"


def fixed(value, digits):
    return "" if value is None else f"{value:.{digits}f}"


def percentile(values, p):
    values = sorted(values)
    return values[min(len(values) - 1, int(p * len(values)))] if values else None


def choose(folder, wanted):
    """(core process, its workers by rank, front ends)"""
    processes = [Process(p) for p in sorted(glob.glob(os.path.join(folder, "rows.*.jsonl")))]
    if not processes:
        sys.exit(f"{folder}: no rows.PID.jsonl here. Was the server started with ORRERY_STEP_LOG={folder}, "
                 f"and does its output "
                 "say why the step log is off?")
    cores = [p for p in processes if p.rows["s"]]
    if wanted is not None:
        cores = [p for p in cores if p.pid == wanted]
    if len(cores) != 1:
        sys.exit(f"{folder}: {'no' if not cores else len(cores)} core "
                 f"process{'es' if len(cores) > 1 else ''} with steps"
                 + (": --process " + " or ".join(f"{p.pid} ({len(p.rows['s'])} steps)" for p in cores)
                    if cores else ""))
    core = cores[0]
    ran = [p for p in processes if p.rows["x"]]
    workers = [p for p in ran if core.pid in (p.pid, p.parent)]
    if not workers and len([p for p in processes if p.rows["s"]]) == 1:
        workers = ran  # started by somebody else, but there is only one whose they can be
    return core, sorted(workers, key=lambda p: p.info.get("rank", 0)), [p for p in processes if p.rows["f"]]


class Requests:
    """By number, in the order in which the core process learned of them."""

    def __init__(self, core, fronts):
        ends = {r[0]: r for r in core.rows["e"]}
        clients = {r[0]: r for p in fronts for r in p.rows["f"]}
        self.by_number = {}
        for number, key, arrival, known, prompt, limit, blocks, *images in core.rows["r"]:
            self.by_number[number] = {
                "arrival": core.monotonic + int((arrival - core.wall) * 1e9), "known": known,
                "prompt": prompt, "limit": limit, "blocks": base64.b64decode(blocks) if blocks else b"",
                "images": images[0] if images else [],
                "end": None, "end_step": None, "reason": "unfinished", "outputs": 0, "preemptions": 0,
                "client": clients.get(key), "cached": None, "first": None}
            if number in ends:
                self.by_number[number].update(zip(("end", "end_step", "reason", "outputs", "preemptions"),
                                                  ends[number][1:]))

    def see_steps(self, core, updated):
        """What steps say of them: tokens cached, first token."""
        for step, _, _, _, _, chunks, new, *_ in core.rows["s"]:
            for number, cached in new:
                r = self.by_number.get(number)
                if r is not None and r["cached"] is None:
                    r["cached"] = cached
            for number, tokens, before in chunks:
                r = self.by_number.get(number)
                done = r is not None and before + tokens >= r["prompt"] and step in updated
                if done and r["first"] is None:
                    r["first"] = step


def split(core, requests, gap_ns):
    """First requests' numbers and whether the prefix cache is kept from before, per experiment."""
    resets = sorted(r[0] for r in core.rows["c"] if r[1])
    order = sorted(requests.by_number, key=lambda n: requests.by_number[n]["known"])
    found, busy_until = [], None
    for number in order:
        r = requests.by_number[number]
        if busy_until is None:
            found.append((number, False))
        elif r["known"] > busy_until:
            emptied = bisect.bisect(resets, busy_until) < bisect.bisect(resets, r["known"])
            if emptied or r["known"] - busy_until >= gap_ns:
                found.append((number, not emptied))
        end = r["end"] if r["end"] is not None else float("inf")
        busy_until = end if busy_until is None else max(busy_until, end)
    return order, found


def block_ids(request, size, names):
    """Prompt blocks as numbers; a block that is not full is nobody else's."""
    ids = []
    for at in range(0, len(request["blocks"]), 8):
        ids.append(names.setdefault(request["blocks"][at:at + 8], len(names) + 1))
    if request["prompt"] > len(ids) * size:
        names[object()] = len(names) + 1
        ids.append(len(names))
    return ids


class Run:
    """A core process' rows joined with its workers' and the front ends', in experiments."""

    def __init__(self, core, workers, fronts, gap_ns):
        self.core, self.workers = core, workers
        self.updates = {r[0]: r for r in core.rows["u"]}
        self.executions = [{r[0]: r for r in w.rows["x"]} for w in workers]
        self.steps = sorted(core.rows["s"])
        self.order = [s[0] for s in self.steps if s[0] in self.updates]  # those whose output arrived
        self.place = {step: i for i, step in enumerate(self.order)}
        self.scheduled = {s[0] for s in self.steps}
        self.requests = Requests(core, fronts)
        self.requests.see_steps(core, self.updates)
        order, starts = split(core, self.requests, gap_ns)
        at = {number: i for i, number in enumerate(order)}
        bounds = [at[number] for number, _ in starts] + [len(order)]
        self.experiments = []
        for i, (first, kept) in enumerate(starts):
            numbers = order[bounds[i]:bounds[i + 1]]
            self.experiments.append({"name": f"load_{i + 1}", "kept": kept, "numbers": numbers,
                                     "from": self.requests.by_number[first]["known"],
                                     "t0": min(self.requests.by_number[n]["arrival"] for n in numbers)})

    def update_end(self, step):
        return self.updates[step][2] if step in self.updates else None

    def gaps(self, r):
        """Between the tokens of a request, ms; nothing where a step did not bring it exactly one."""
        if r["preemptions"] or r["first"] not in self.place or r["end_step"] not in self.place:
            return []
        ends = [self.updates[s][2] for s in self.order[self.place[r["first"]]:self.place[r["end_step"]] + 1]]
        return [(b - a) / 1e6 for a, b in zip(ends, ends[1:])] if len(ends) == r["outputs"] else []

    def request_row(self, e, index, r):
        first, last, gaps = self.update_end(r["first"]), self.update_end(r["end_step"]), self.gaps(r)
        ttft, e2e, said = r["client"][1:4] if r["client"] else (None, None, 0)
        since = lambda ns: None if ns is None else (ns - r["arrival"]) / 1e9  # noqa: E731
        return {"experiment": e["name"], "request": index, "arrival_s": seconds(r["arrival"] - e["t0"]),
                "submit_s": seconds(r["arrival"] - e["t0"]), "known_s": seconds(r["known"] - e["t0"]),
                "prompt_tokens": r["prompt"], "output_tokens": r["outputs"], "max_output_tokens": r["limit"],
                "cached_tokens": r["cached"] or 0, "ttft_s": fixed(ttft, 6), "e2e_s": fixed(e2e, 6),
                "tpot_ms": fixed((e2e - ttft) / (said - 1) * 1e3 if said > 1 else None, 3),
                "core_ttft_s": fixed(since(first), 6), "core_e2e_s": fixed(since(last), 6),
                "core_itl_p50_ms": fixed(percentile(gaps, .5), 3),
                "core_itl_p99_ms": fixed(percentile(gaps, .99), 3),
                "core_itl_max_ms": fixed(max(gaps, default=None), 3), "preemptions": r["preemptions"],
                "finish_reason": r["reason"], "finish_step": "" if r["end_step"] is None else r["end_step"],
                "finish_s": "" if r["end"] is None else seconds(r["end"] - e["t0"])}

    def step_row(self, e, row, index):
        (step, start, end, tokens, sequences, chunks, new, running, waiting, free, preempted, decodes, context,
         *more, logging_ns) = row
        update = self.updates[step]
        us = lambda ns: fixed((ns - e["t0"]) / 1e3, 1)  # noqa: E731
        ran = [x.get(step) for x in self.executions]
        out = {"experiment": e["name"], "step": step, "schedule_start_us": us(start),
               "schedule_us": fixed((end - start) / 1e3, 1), "tokens": tokens, "sequences": sequences,
               "prefill_chunks": " ".join(f"{n}@{before}" for _, n, before in chunks),
               "new_requests": len(new),
               "running": running, "waiting": waiting, "free_blocks": free, "preempted": len(preempted),
               "logging_us": "", "execute_start_us": "", "execute_host_us": "", "sample_end_us": "",
               "gpu_us": "", "gpu_us_rank1": "",
               "update_start_us": us(update[1]), "update_us": fixed((update[2] - update[1]) / 1e3, 1),
               "decode_sequences": decodes, "decode_context_tokens": context,
               "prefill_request_ids": " ".join(str(index[n]) for n, _, _ in chunks),
               "new_request_ids": " ".join(f"{index[n]}:{cached}" for n, cached in new),
               "preempted_request_ids": " ".join(str(index[n]) for n in sorted(preempted, reverse=True))}
        out.update(self.further(step, more, index))
        if ran and ran[0]:
            _, begin, launched, sampled, gpu, before, *parts = ran[0]
            out.update(zip(("draft_us", "encode_us"), (fixed(p, 1) for p in parts)))
            out["logging_us"] = fixed((logging_ns + before) / 1e3, 1)
            others = [x[4] for x in ran[1:] if x and x[4] is not None]
            out.update(execute_start_us=us(begin), execute_host_us=fixed((launched - begin) / 1e3, 1),
                       sample_end_us=us(sampled), gpu_us=fixed(gpu, 1),
                       gpu_us_rank1=fixed(max(others, default=None), 1))
        return out

    def further(self, step, more, index):
        """What speculation and images add to a step's row; `more`: drafts by request, images that it encodes."""
        drafts, encoded = more or ([], [])
        known = lambda rows: [r for r in rows if r[0] in index]  # noqa: E731
        said = lambda at: known(self.updates[at][3]) if len(self.updates.get(at, ())) > 3 else []  # noqa: E731
        pairs = lambda rows: " ".join(f"{index[r]}:{n}" for r, n in rows)  # noqa: E731
        return {"drafts": pairs(known(drafts)), "said": pairs(said(step)),
                "said_before": "" if step - 1 in self.scheduled else pairs(said(step - 1)),
                "encoded": " ".join(f"{index[r]}@{at}:{n}" for r, at, n in known(encoded)),
                "draft_us": "", "encode_us": ""}

    def tables(self):
        """(steps, requests, experiments, steps left out)"""
        index = {n: i for e in self.experiments for i, n in enumerate(e["numbers"])}
        begins = [e["from"] for e in self.experiments]
        steps, left_out = [], 0
        for row in self.steps:
            at = bisect.bisect(begins, row[1]) - 1
            named = [c[0] for c in row[5]] + [n[0] for n in row[6]] + row[10]
            if at < 0 or row[0] not in self.updates or any(n not in index for n in named):
                left_out += 1
                continue
            steps.append(self.step_row(self.experiments[at], row, index))
        requests, experiments, names = [], [], {}
        size = self.core.info.get("hash_block_size") or self.core.info.get("block_size") or 16
        for e in self.experiments:
            line = {"name": e["name"], "reqs": []}
            if e["kept"]:
                line["cache"] = "kept"
            for i, number in enumerate(e["numbers"]):
                r = self.requests.by_number[number]
                requests.append(self.request_row(e, i, r))
                wish = {"t": round((r["arrival"] - e["t0"]) / 1e9, 6), "in": r["prompt"],
                        "out": r["limit"] if r["reason"] == "unfinished" or not r["outputs"]
                        else r["outputs"]}
                if r["images"]:
                    wish["images"] = [{"offset": at, "tokens": n} for at, n in r["images"]]
                if r["blocks"]:
                    line["hash_block_size"] = size
                    wish["hash"] = block_ids(r, size, names)
                line["reqs"].append(wish)
            experiments.append(line)
        return steps, requests, experiments, left_out


def engine_json(run, gpu):
    info, worker = dict(run.core.info), run.workers[0].info if run.workers else {}
    named = ("model dtype quantization tensor_parallel_size pipeline_parallel_size data_parallel_size "
             "enable_expert_parallel enable_prefix_caching disable_hybrid_kv_cache_manager cache_dtype "
             "enforce_eager policy speculative kv_connector")
    arguments = {k: info[k] for k in named.split() if info.get(k) is not None}
    if info.get("drafts"):
        arguments["speculative_config"] = {"method": info.get("speculative"),
                                           "num_speculative_tokens": info["drafts"]}
    return {"engine": arguments, "num_gpu_blocks": info["num_gpu_blocks"], "block_size": info["block_size"],
            "max_num_batched_tokens": info["max_num_batched_tokens"], "max_num_seqs": info["max_num_seqs"],
            "async_scheduling": info["async_scheduling"], "cudagraph_sizes": info["cudagraph_capture_sizes"],
            "cudagraph_mode": info["cudagraph_mode"], "max_model_len": info["max_model_len"],
            "gpu_mem_util": info["gpu_memory_utilization"],
            "long_prefill": info["long_prefill_token_threshold"],
            "max_partial": info["max_num_partial_prefills"], "kv_groups": info["kv_groups"],
            "scheduler": info["scheduler"],
            "encoder_budget_tokens": [str(info["encoder_budget"])] if info.get("encoder_budget") else [],
            "backends": ["V2 Model Runner" if info["v2_runner"] else "V1 Model Runner"],
            "gpu": gpu or worker.get("gpu", ""), "gpu_memory_bytes": worker.get("gpu_memory_bytes"),
            "cpu": worker.get("cpu"), "cpus": worker.get("cpus"),
            "vllm": info["vllm"],
            "torch": worker.get("torch"), "cuda": worker.get("cuda"), "python": info["python"],
            "ranks": len(run.workers), "logger": "tools/vllm_step_log.py", "logged_by": LOGGED_BY}


def write_gz(path, text):
    with gzip.GzipFile(path, "wb", mtime=0) as f:
        f.write(text.encode())


def csv_text(columns, rows):
    return "\n".join([",".join(columns)] + [",".join(str(r[c]) for c in columns) for r in rows]) + "\n"


def main(words):
    parser = argparse.ArgumentParser(prog="vllm_step_log.py collect", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("log")
    parser.add_argument("out")
    parser.add_argument("--process", type=int)
    parser.add_argument("--gap", type=float, default=1.0)
    parser.add_argument("--gpu", default="")
    a = parser.parse_args(words)
    core, workers, fronts = choose(a.log, a.process)
    if not core.info.get("num_gpu_blocks") or not core.rows["r"]:
        sys.exit(f"{core.path}: says nothing of its engine or its requests, so its beginning is missing")
    run = Run(core, workers, fronts, int(a.gap * 1e9))
    steps, requests, experiments, left_out = run.tables()
    os.makedirs(a.out, exist_ok=True)
    columns = STEP_COLUMNS + [c for c in FURTHER_COLUMNS if any(s[c] for s in steps)]
    write_gz(f"{a.out}/steps.csv.gz", csv_text(columns, steps))
    write_gz(f"{a.out}/requests.csv.gz", csv_text(REQUEST_COLUMNS, requests))
    write_gz(f"{a.out}/experiments.jsonl.gz",
             "".join(json.dumps(e, separators=(",", ":")) + "\n" for e in experiments))
    with open(f"{a.out}/engine.json", "w", encoding="utf-8") as f:
        json.dump(engine_json(run, a.gpu), f, indent=1)
        f.write("\n")
    timed = sum(1 for s in steps if s["gpu_us"] != "")
    print(f"{a.out}: {len(experiments)} experiments, {len(requests)} requests, {len(steps)} steps, {timed} "
          f"with device time, "
          f"{len(workers)} ranks")
    reasons = collections.Counter(r["finish_reason"] for r in requests)
    print("  ended: " + ", ".join(f"{n} {k}" for k, n in sorted(reasons.items())))
    if left_out:
        print(f"  {left_out} steps left out: their output or their requests are not in the log")
    for p in [core, *workers, *fronts]:
        if p.dropped or p.unreadable:
            print(f"  {p.path}: {p.dropped} rows dropped while the disk stalled, {p.unreadable} lines "
                  f"unreadable")
