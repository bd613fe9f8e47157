#!/usr/bin/env python3
"""Raw logs of tools/sglang_step_log.py and a client → a run folder as under reports/cases/ (docs/step_log.md).

  tools/sglang_probe_to_run.py RAW_FOLDER EXPERIMENTS.json OUT_FOLDER --engine-log FILE [--gpu TEXT]

RAW_FOLDER holds info.json, requests.jsonl.gz and {recv,sched,run,res,gpu,retract}.PID.jsonl; EXPERIMENTS.json is what the
client was given. Written: engine.json, experiments.jsonl.gz, requests.csv.gz (with known_s: when the scheduler process took the
request in), steps.csv.gz. Columns as ../shared/truth with these meanings: free_blocks = free and evictable slots of the token
pool after the step was composed; running is not logged (-1); gpu_us = between events on the forward stream around the forward
call and sampling. Standard library only.
"""
import argparse
import gzip
import json
import os
import re

from vllm_probe_to_run import REQUEST_COLUMNS, STEP_COLUMNS, lines, number, request_row, write_experiments, write_gz


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("raw")
    parser.add_argument("experiments")
    parser.add_argument("out")
    parser.add_argument("--engine-log", required=True)
    parser.add_argument("--gpu", default="")
    a = parser.parse_args()

    with open(a.experiments, encoding="utf-8") as f:
        definitions = {e["name"]: e for e in json.load(f)}
    scheduled = lines(f"{a.raw}/sched.*.jsonl")[0]
    launched = {r[0]: r for r in lines(f"{a.raw}/run.*.jsonl")[0]}
    processed = {r[0]: r for r in lines(f"{a.raw}/res.*.jsonl")[0]}
    gpu = {r[0]: r[1] for r in lines(f"{a.raw}/gpu.*.jsonl")[0]}
    # Those taken in together carry one time: their order is kept by nanoseconds.
    received = {r[1]: r[0] + i % 1000 for i, r in enumerate(lines(f"{a.raw}/recv.*.jsonl")[0])}
    retracted = [r for rows in lines(f"{a.raw}/retract.*.jsonl")[:1] for r in rows]

    headers, requests = [], []
    with gzip.open(f"{a.raw}/requests.jsonl.gz", "rt") as f:
        for line in f:
            row = json.loads(line)
            (headers if "t0_monotonic" in row else requests).append(row)
    order = [h["exp"] for h in headers]
    starts = {h["exp"]: h["t0_monotonic"] * 1e9 for h in headers}
    begins = {e: starts[e] - (3.5e8 if definitions[e].get("serial") else 1e7) for e in order}

    def owner(name):  # "experiment-index"
        found = re.match(r"(.*)-(\d+)$", name)
        return (found.group(1), found.group(2)) if found and found.group(1) in definitions else (None, None)

    def experiment_of(step):
        for name, _, _ in step[4]:
            if owner(name)[0]:
                return owner(name)[0]
            return None  # the client's warm-up
        begun = [e for e in order if begins[e] <= step[1]]
        return begun[-1] if begun else None

    steps, admitted, lost = [], set(), 0
    for s in scheduled:
        e = experiment_of(s)
        if e is None:
            continue
        t0 = starts[e]
        us = lambda ns, t0=t0: number((ns - t0) / 1e3, 1)  # noqa: E731
        run, result = launched.get(s[0]), processed.get(s[0])
        if run is None or result is None:
            lost += 1
            continue
        new = [(n, prefix) for n, _, prefix in s[4] if n not in admitted]
        admitted.update(n for n, _ in new)
        gone = [n for r in retracted if s[1] <= r[0] <= s[2] for n in r[1]]
        decodes = s[5]
        # The logged sum counts the token that the step computes; beside prompts it was not known when logged.
        context = s[6] - decodes if s[3] == "DECODE" else "" if decodes else 0
        steps.append({
            "experiment": e, "step": s[0], "schedule_start_us": us(s[1]), "schedule_us": number((s[2] - s[1]) / 1e3, 1),
            "tokens": sum(n for _, n, _ in s[4]) + decodes, "sequences": len(s[4]) + decodes,
            "prefill_chunks": " ".join(f"{n}@{prefix}" for _, n, prefix in s[4]), "new_requests": len(new),
            "running": -1, "waiting": s[7], "free_blocks": s[8] + s[9], "preempted": len(gone),
            "execute_start_us": us(run[1]), "execute_host_us": number((run[2] - run[1]) / 1e3, 1), "sample_end_us": us(run[2]),
            "gpu_us": gpu.get(s[0], ""), "gpu_us_rank1": "",
            "update_start_us": us(result[1]), "update_us": number((result[2] - result[1]) / 1e3, 1),
            "decode_sequences": decodes, "decode_context_tokens": context,
            "prefill_request_ids": " ".join(owner(n)[1] for n, _, _ in s[4]),
            "new_request_ids": " ".join(f"{owner(n)[1]}:{prefix}" for n, prefix in new),
            "preempted_request_ids": " ".join(owner(n)[1] for n in gone),
            "logging_us": number((s[13] - s[2]) / 1e3, 1)})
    os.makedirs(a.out, exist_ok=True)
    write_gz(f"{a.out}/steps.csv.gz", steps, STEP_COLUMNS + ["logging_us"])

    rows = [{**request_row(r), "known_s": number((received[f"{r['exp']}-{r['i']}"] - starts[r["exp"]]) / 1e9, 9)} for r in requests]
    write_gz(f"{a.out}/requests.csv.gz", rows, REQUEST_COLUMNS + ["known_s"])

    write_experiments(f"{a.out}/experiments.jsonl.gz", [definitions[e] for e in order])

    with open(f"{a.raw}/info.json", encoding="utf-8") as f:
        info = json.load(f)
    with open(a.engine_log, encoding="utf-8", errors="replace") as f:
        log = f.read()
    limits = {k: int(v) for k, v in re.findall(r"(max_total_num_tokens|max_running_requests|context_len)=(\d+)", log)}
    arguments = info["server_args"]
    kept = ("tp_size dp_size pp_size ep_size chunked_prefill_size max_prefill_tokens page_size enable_mixed_chunk mem_fraction_static "
            "schedule_policy schedule_conservativeness max_total_tokens attention_backend sampling_backend disable_overlap_schedule "
            "disable_radix_cache stream_interval radix_eviction_policy").split()
    graphs = {kind: [int(n) for n in found.split(",")] for kind, found in
              re.findall(r"Capture target (prefill|decode) CUDA graph begin.*?(?:num_tokens|bs)=\[([\d, ]+)\]", log)}
    engine = {"sglang": info["version"], "gpu": a.gpu,
              "engine": {"model": os.path.basename(info["engine"]["model_path"]), **{k: arguments.get(k) for k in kept}},
              "num_gpu_blocks": limits["max_total_num_tokens"] // arguments["page_size"], "block_size": arguments["page_size"],
              "max_num_batched_tokens": arguments["chunked_prefill_size"], "max_num_seqs": limits["max_running_requests"],
              "max_model_len": limits["context_len"], "async_scheduling": not arguments["disable_overlap_schedule"],
              "cudagraph_sizes": graphs}
    with open(f"{a.out}/engine.json", "w", encoding="utf-8") as f:
        json.dump(engine, f, indent=1)
        f.write("\n")
    print(f"{a.out}: {len(order)} experiments, {len(rows)} requests, {len(steps)} steps, {lost} without their end")


if __name__ == "__main__":
    main()
