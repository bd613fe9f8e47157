"""What another seed does to predictions of a measured run's open loops: launch times are drawn. Used by tools/accuracy.py.

A single seed, which the tables of score_truth.py show, is one draw; near saturation draws differ more than models do.
"""
import csv
import statistics
import subprocess

SEEDS = range(1, 9)


def rows_of_csv(path):
    with open(path, newline="") as f:
        return list(csv.DictReader(f))


def metrics(rows):
    """TTFT p50 and p99, TPOT mean, ms; percentiles as score_truth.py takes them."""
    ttft = sorted(float(r["ttft_s"]) * 1e3 for r in rows)
    tpot = [(float(r["e2e_s"]) - float(r["ttft_s"])) / (int(r["output_tokens"]) - 1) * 1e3 for r in rows if int(r["output_tokens"]) > 1]
    return [ttft[min(len(ttft) - 1, int(p * len(ttft)))] for p in (.5, .99)] + [statistics.fmean(tpot)]


def rows_of(orrery, run, kept, measured):
    """Table rows of the open loops of a run. `kept`: where score_truth.py left scenarios; `measured`: {experiment: its metrics}."""
    rows = []
    for experiment, real in measured.items():
        scenario, out = kept / run / f"{experiment}.yaml", kept / run / f"{experiment}.seeds"
        errors = []
        for seed in SEEDS:
            place = out.with_suffix(f".seed{seed}")
            subprocess.run([orrery, "simulate", str(scenario), "--seed", str(seed), "--out", str(place), "--outputs", "requests", "--quiet"],
                           check=True, capture_output=True)
            errors.append([100 * (p / m - 1) for p, m in zip(metrics(rows_of_csv(place / "requests.csv")), real)])
        rows.append([f"{run} {experiment}"] + [f"{statistics.fmean(e):+.1f} ± {statistics.pstdev(e):.1f} %" for e in zip(*errors)])
    return rows
