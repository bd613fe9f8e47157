#!/usr/bin/env python3
"""A few cases of the board, without intervals, against the errors that they had: fast_board_test.py ORRERY_BINARY SOURCE_DIR
[--update]. Predictions are exact, so any change is a real one; what is noise is which cases stand here. So a quantity fails when
the median of its absolute errors leaves the upper end of the 90 % interval (one-sided 95 %) that order statistics give the
median of the committed ones: a change that the scatter of these cases does not explain. `--update` writes the errors anew."""
import csv
import json
import math
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


def upper_end(values):
    """Of the 90 % interval of the median: the order statistic of that rank."""
    values, n = sorted(values), len(values)
    return values[min(n - 1, math.ceil(n / 2 + 1.645 * math.sqrt(n) / 2) - 1)]


def judge(before, now, say=lambda _: None):
    """Sentences about what failed."""
    failed = [f"no longer compared: {', '.join(key)}" for key in before if key not in now]
    failed += [f"not in the table (--update): {', '.join(key)}" for key in now if key not in before]
    quantities = sorted({key[2].split(".")[0] for key in before})
    for quantity in [*quantities, ""]:
        keys = [key for key in before if key in now and key[2].startswith(quantity)]
        if len(keys) < 8:  # too few for an interval: judged with all
            continue
        limit, median = upper_end([abs(before[k]) for k in keys]), statistics.median(abs(now[k]) for k in keys)
        was = statistics.median(abs(before[k]) for k in keys)
        say(f"{quantity or 'all':12} {len(keys):4} figures: median abs. error {was:.1f} -> {median:.1f} %, at most {limit:.1f}")
        if median > limit:
            failed.append(f"{quantity or 'all'}: median absolute error {was:.1f} -> {median:.1f} %, above {limit:.1f} %")
    return failed


def self_test():
    was = {("c", str(i), "ttft_ms.mean"): float(i - 10) for i in range(21)}
    assert not judge(was, was)
    assert not judge(was, {k: v + 1 for k, v in was.items()})
    assert judge(was, {k: v + 12 for k, v in was.items()})
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
