"""When the client of a measured run fell behind: what it stamped then is its own time and no engine's.

Client and engine of our runs share a machine, the client is one event loop. It stamps a token when it gets round to it,
`output_delay` and `output_per_sequence` (engine_profiles/vllm-0.24.yaml) after the end of the update that made it: within 3 ms
in 99 of 100 on every run. A token that comes LATE or more after that was held up in the client; a request of a closed loop that
follows it is sent late, and with others.
"""
import csv
import gzip

LATE = 15e-3          # seconds
OUTPUT_DELAY, OUTPUT_PER_SEQUENCE = 1.7e-3, 29e-6  # the profile's
GAP = 1.0             # seconds between two stalls


def rows_by_experiment(path):
    found = {}
    with gzip.open(path, "rt", newline="") as lines:
        for row in csv.DictReader(lines):
            found.setdefault(row["experiment"], []).append(row)
    return found


def lateness(requests, steps):
    """(time of the update, how late the client stamped its token), seconds, first and last tokens of an experiment."""
    by_step = {int(s["step"]): s for s in steps if s["update_start_us"]}
    last_chunk = {}
    for s in steps:
        for request in s["prefill_request_ids"].split():
            last_chunk[request] = int(s["step"])
    for r in requests:
        first = last_chunk.get(r["request"])
        if first is None or not r["ttft_s"] or not r["e2e_s"]:
            continue
        for step, seconds in ((first, r["ttft_s"]), (first + int(r["output_tokens"]) - 1, r["e2e_s"])):
            s = by_step.get(step)
            # A preempted request's last token is of a later step, which reads as an early stamp: no stall.
            if s is not None:
                update = (float(s["update_start_us"]) + float(s["update_us"])) * 1e-6
                usual = OUTPUT_DELAY + OUTPUT_PER_SEQUENCE * int(s["sequences"])
                yield update, float(r["submit_s"]) + float(seconds) - update - usual


def stalls_of(folder):
    """(experiment, from, to, tokens, longest) in seconds of the experiment, of a run's folder."""
    requests = rows_by_experiment(folder / "requests.csv.gz")
    found = []
    for experiment, steps in rows_by_experiment(folder / "steps.csv.gz").items():
        if "serial" in experiment or experiment == "prefill_single":  # their requests have no common clock
            continue
        late = sorted(x for x in lateness(requests.get(experiment, []), steps) if x[1] >= LATE)
        for at, by in late:
            if found and found[-1][0] == experiment and at - found[-1][2] < GAP:
                found[-1][2], found[-1][3], found[-1][4] = at, found[-1][3] + 1, max(found[-1][4], by)
            else:
                found.append([experiment, at, at, 1, by])
    return [tuple(f) for f in found]


def sentence(folder):
    """What a report says of a run's stalls; empty without any."""
    found = [s for s in stalls_of(folder) if s[3] > 1]
    if not found:
        return ""
    parts = [f"`{e}` from {a:.2f} to {b:.2f} s ({n} first or last tokens, up to {by * 1e3:.0f} ms late)" for e, a, b, n, by in found]
    return ("The client fell behind in " + "; ".join(parts) + ": the step log has the update that made those tokens, and the client stamped "
            "them that much later than all others. What follows from it is in the measurement and in no prediction.\n\n")


if __name__ == "__main__":
    import pathlib
    import sys
    for name in sys.argv[1:]:
        print(name, stalls_of(pathlib.Path(name)))
