#!/usr/bin/env python3
"""A few cases of the board, without intervals, case by case against the errors that they had: fast_board_test.py ORRERY_BINARY
SOURCE_DIR [--update]. Predictions are exact, so any change is a real one. It fails when the figures of a quantity, or of all,
have become worse by more than 2 points (median of |new| - |old|, in percent of the measured), or any figure by more than 10.
What is meant to move is written anew with `--update`, and the change says why."""
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile

BINARY, SOURCE = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])
TABLE = os.path.join(SOURCE, "tests/cli/fast_board.csv")
CASES = ["aiconfigurator-vllm-0.12-qwen3-235b-h200", "aiconfigurator-vllm-0.12-qwen3-32b-h100", "c2-h20-fp8-block",
         "c2-l40s-fp8-block", "c5-deepseek-r1-steps", "cmontemuino-vllm-mi300x", "kv-capacity-h100"]


def errors():
    p = subprocess.run([BINARY, "--json", "validate", "--fast", *CASES], capture_output=True, text=True, timeout=280,
                       cwd=tempfile.gettempdir())
    if p.returncode != 0:
        sys.exit(f"orrery validate: exit code {p.returncode}\n{p.stderr}")
    return {(c["id"], c["run"], c["metric"]): c["error_percent"] for c in json.loads(p.stdout)["cases"]}


MEDIAN, SINGLE = 2.0, 10.0  # points


def judge(before, now, say=lambda _: None):
    """Sentences about what failed."""
    failed = [f"no longer compared: {', '.join(key)}" for key in before if key not in now]
    failed += [f"not in the table (--update): {', '.join(key)}" for key in now if key not in before]
    worse = {key: abs(now[key]) - abs(before[key]) for key in before if key in now}
    failed += [f"{', '.join(key)}: error {before[key]:+.1f} -> {now[key]:+.1f} %" for key in worse if worse[key] > SINGLE]
    for quantity in [*sorted({key[2].split(".")[0] for key in worse}), ""]:
        of = [by for key, by in worse.items() if quantity in ("", key[2].split(".")[0])]
        median = statistics.median(of) if of else 0.0
        say(f"{quantity or 'all':12} {len(of):4} figures: worse by {median:+.2f} points (median), at most {MEDIAN}")
        if median > MEDIAN:
            failed.append(f"{quantity or 'all'}: worse by {median:.1f} points (median of {len(of)} figures)")
    return failed


def self_test():
    was = {("c", str(i), "ttft_ms.mean"): float(i - 10) for i in range(21)}
    assert not judge(was, was)
    assert not judge(was, {k: v + (1 if v >= 0 else -1) for k, v in was.items()})
    assert not judge(was, {k: v / 2 for k, v in was.items()})
    assert judge(was, {k: v + (3 if v >= 0 else -3) for k, v in was.items()})
    assert judge(was, {**was, ("c", "3", "ttft_ms.mean"): -18.0})
    assert judge(was, dict(list(was.items())[:-1]))


def main():
    self_test()
    now = errors()
    if "--update" in sys.argv:
        with open(TABLE, "w", encoding="utf-8", newline="") as f:
            out = csv.writer(f, lineterminator="\n")
            out.writerow(["case", "run", "metric", "error_percent"])
            out.writerows([*key, f"{value:.2f}"] for key, value in now.items())
        return
    with open(TABLE, encoding="utf-8") as f:
        before = {(r["case"], r["run"], r["metric"]): float(r["error_percent"]) for r in csv.DictReader(f)}
    failed = judge(before, now, print)
    if failed:
        sys.exit("\n".join(failed))


main()
