#!/usr/bin/env python3
"""The steps of `orrery live` on kernels as a run folder (docs/step_log.md): kernel_steps_to_run.py SCENARIO_RUN RUN

SCENARIO_RUN is what `orrery live --out` wrote (steps.csv, measured.csv); RUN can be read by `orrery calibrate --from-steps`,
which fits a factor for each operator class. Steps whose products were planned in them (first_use) are left out. Of the host
there is what our engine measures: scheduling and launching. All instances are one experiment, which the fit cuts into parts of
like steps: a prefill and a decode instance left out in turn would have nothing of the other's.
"""
import csv
import json
import pathlib
import sys

INSTANCE = 1_000_000  # steps of an instance follow each other, those of two do not
COLUMNS = ["experiment", "step", "schedule_start_us", "schedule_us", "tokens", "sequences", "prefill_chunks", "new_requests",
           "running", "waiting", "free_blocks", "preempted", "execute_start_us", "sample_end_us", "gpu_us", "gpu_us_rank1",
           "update_start_us", "update_us", "decode_sequences", "decode_context_tokens", "prefill_request_ids", "new_request_ids",
           "preempted_request_ids"]


def step_row(row):
    """A line of the log, of a line of steps.csv."""
    chunks = row["chunk_lengths"].split()
    decodes, tokens = int(row["decodes"]), int(row["prefill_tokens"])
    host, launch, gpu = (float(row[key]) for key in ("host_us", "launch_us", "measured_us"))
    begin = float(row["submitted_s"]) * 1e6
    return dict(experiment="live", step=INSTANCE * int(row["instance"]) + int(row["step"]), schedule_start_us=f"{begin - host:.2f}",
                schedule_us=f"{host:.2f}", tokens=tokens + decodes, sequences=len(chunks) + decodes,
                prefill_chunks=" ".join(chunks), new_requests=0, running=len(chunks) + decodes, waiting=0, free_blocks=0,
                preempted=0, execute_start_us=f"{begin:.2f}", sample_end_us=f"{begin + launch:.2f}", gpu_us=f"{gpu:.2f}",
                gpu_us_rank1="", update_start_us=f"{begin + launch + gpu:.2f}", update_us=0, decode_sequences=decodes,
                decode_context_tokens=row["decode_context"], prefill_request_ids="", new_request_ids="",
                preempted_request_ids="")


def convert(source, target):
    source, target = pathlib.Path(source), pathlib.Path(target)
    with open(source / "steps.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["first_use"] == "0" and float(row["measured_us"]) > 0]
    if not rows:
        sys.exit(f"{source}/steps.csv: no step that was run and met nothing new")
    with open(source / "measured.csv", newline="") as file:
        requests = list(csv.DictReader(file))
    target.mkdir(parents=True, exist_ok=True)
    # What a replay of the schedule would need is not here; the fit asks for none of it.
    (target / "engine.json").write_text(json.dumps({
        "num_gpu_blocks": 1, "block_size": 16, "max_num_batched_tokens": 1, "max_num_seqs": 1, "max_model_len": 1}))
    with open(target / "experiments.jsonl", "w") as file:
        asked = [{"t": 0, "in": int(r["prompt_tokens"]), "out": int(r["output_tokens"])} for r in requests]
        file.write(json.dumps({"name": "live", "reqs": asked}) + "\n")
    with open(target / "requests.csv", "w", newline="") as file:
        csv.writer(file).writerows([["experiment", "request", "submit_s"], *(["live", i, 0] for i in range(len(requests)))])
    with open(target / "steps.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        logged = sorted(map(step_row, rows), key=lambda row: row["step"])
        logged[0]["new_request_ids"] = "0:0"  # a log begins with the first admission
        writer.writerows(logged)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    convert(*sys.argv[1:])
