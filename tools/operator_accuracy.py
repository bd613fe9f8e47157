#!/usr/bin/env python3
"""reports/results/operator_accuracy.{md,csv}: prices of single operators against timings that no table was made from.

tools/operator_accuracy.py --orrery build/release/orrery [--out reports/results] — the timings are
reports/cases/<part>_orrery_between: made by `orrery calibrate --between` (values between those of the tables' axes). Prices
come from `orrery cost --ops`, as a user would ask for them.
"""
import argparse
import csv
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
CASES = [("h200_orrery_between", "h200", "orrery"), ("h100_orrery_between", "h100", "orrery")]
TARGETS = {"gemm": 5, "grouped_gemm": 5, "attention_prefill": 5, "attention_decode": 5, "copy": 10}
COLLECTIVES = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send_recv")


def runs(text):
    """'2x5 7' → [5, 5, 7] as texts."""
    for item in text.split():
        times, cross, value = item.partition("x")
        yield from [value] * int(times) if cross else [times]


def gemm(row):
    m = int(row["m"])
    region = "1–64 rows" if m <= 64 else "65–512 rows" if m <= 512 else "over 512 rows"
    return f"{row['dtype']}, {region}", {"op": "gemm", "dtype": row["dtype"], **{c: int(row[c]) for c in "mnk"}}


def grouped_gemm(row):
    rows = [int(r) for r in runs(row["rows"])]
    each = sum(rows) / sum(r > 0 for r in rows)
    op = {"op": "grouped_gemm", "dtype": row["dtype"], "n": int(row["n"]), "k": int(row["k"]), "rows": rows}
    return f"{row['dtype']}, {'up to' if each <= 16 else 'over'} 16 rows an expert", op


def heads(row):
    return {c: int(row[c]) for c in ("heads", "kv_heads", "head_dim")} | {"dtype": row["dtype"], "kv_dtype": row["kv_dtype"]}


def attention_prefill(row):
    sequences = [[int(v) for v in item.split("@")] for item in runs(row["sequences"])]
    region = "prompts" if all(context == 0 for _, context in sequences) else "chunks behind a context"
    return region, {"op": "attention_prefill", **heads(row), "sequences": sequences}


def attention_decode(row):
    return f"{row['kv_dtype']} cache", {"op": "attention_decode", **heads(row), "batch": int(row["batch"]),
                                        "context": int(row["context"])}


def collectives(row):
    return "two ranks", {"op": row["op"], "bytes": int(row["bytes"]), "ranks": int(row["ranks"])}


def copy(row):
    return "", {"op": "copy", "bytes": int(row["bytes"])}


def elementwise(row):
    return row["op"], {"op": row["op"], "dtype": row["dtype"], "m": int(row["rows"]), "n": int(row["n"]), "k": int(row["k"])}


READERS = {f.__name__: f for f in (gemm, grouped_gemm, attention_prefill, attention_decode, collectives, copy, elementwise)}


def timings(folder):
    for name, read in READERS.items():
        if not os.path.exists(os.path.join(folder, name + ".csv")):
            continue
        with open(os.path.join(folder, name + ".csv"), encoding="utf-8") as f:
            for row in csv.DictReader(f):
                region, op = read(row)
                yield name, region, op, float(row["us"])


def prices(orrery, part, kernels, ops):
    with tempfile.TemporaryDirectory() as folder:
        path, out = os.path.join(folder, "ops.jsonl"), os.path.join(folder, "out.csv")
        with open(path, "w", encoding="utf-8") as f:
            f.writelines(json.dumps(op) + "\n" for op in ops)
        subprocess.run([orrery, "--quiet", "cost", "--ops", path, "--hardware", part, "--kernels", kernels, "--out", out],
                       check=True)
        with open(out, encoding="utf-8") as f:
            return list(csv.DictReader(f))


def rounded_up(values, share):
    return sorted(values)[min(len(values) - 1, math.ceil(share * len(values)) - 1)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--orrery", default=os.path.join(ROOT, "build/release/orrery"))
    parser.add_argument("--out", default=os.path.join(ROOT, "reports/results"))
    arguments = parser.parse_args()
    rows, worst = [], []
    for case, part, kernels in CASES:
        measured = list(timings(os.path.join(ROOT, "reports/cases", case)))
        priced = prices(arguments.orrery, part, kernels, [op for _, _, op, _ in measured])
        groups = {}
        for (name, region, op, us), price in zip(measured, priced, strict=True):
            error = float(price["us"]) / us - 1
            inside = float(price["low_us"]) <= us <= float(price["high_us"])
            groups.setdefault((name, region), []).append((error, inside, price.get("hit"), us))
            worst.append((abs(math.log1p(error)), f"{part} {name}", op, us, float(price["us"])))
        for (name, region), items in sorted(groups.items()):
            errors = [abs(e) for e, *_ in items]
            rows.append({"part": part, "kernels": kernels, "operator": name, "region": region, "points": len(items),
                         "median_percent": round(100 * statistics.median(errors), 1),
                         "mean_signed_percent": round(100 * statistics.mean(e for e, *_ in items), 1),
                         "worst_decile_percent": round(100 * rounded_up(errors, 0.9), 1),
                         "inside_90_percent_interval": round(100 * sum(i for _, i, *_ in items) / len(items))})
    with open(os.path.join(arguments.out, "operator_accuracy.csv"), "w", encoding="utf-8", newline="") as f:
        writer = csv.DictWriter(f, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    with open(os.path.join(arguments.out, "operator_accuracy.md"), "w", encoding="utf-8") as f:
        f.write("# Single operators: predicted against measured\n\n"
                "Made by `tools/operator_accuracy.py`. The points lie between those of the tables (`orrery calibrate "
                "--between`), so none was used\nto make them; driver 580.159.04, CUDA 13.0. On the H200 (2026-11-26) table and points are of one card, collectives "
                "of two others;\nproducts in FP8 are of another card and a later build than bf16, with block_gemm_wgmma as in the table (whose rows of it are of a third card);\non the H100 (2026-11-25) of cards of different calls. Row-wise operators between rows of the H200 only. Prices: "
                "`orrery cost --ops`.\n\n"
                "| part | operator | region | points | median | mean, signed | worst decile from | inside the 90 % interval | target |\n"
                "|---|---|---|--:|--:|--:|--:|--:|---|\n")
        for r in rows:
            target = TARGETS.get(r["operator"], 10)
            verdict = "met" if r["median_percent"] <= target else "missed"
            f.write(f"| {r['part']} | {r['operator']} | {r['region']} | {r['points']} | {r['median_percent']} % | {r['mean_signed_percent']:+} % "
                    f"| {r['worst_decile_percent']} % | {r['inside_90_percent_interval']} % | {target} %: {verdict} |\n")
        f.write("\nThe ten worst:\n\n| operator | measured, µs | predicted, µs |\n|---|--:|--:|\n")
        for _, name, op, us, price in sorted(worst, key=lambda w: -w[0])[:10]:
            text = json.dumps(op)
            f.write(f"| {name} `{text if len(text) < 110 else text[:107] + '…'}` | {us:.1f} | {price:.1f} |\n")
    for r in rows:
        print(*r.values(), sep="  ")


if __name__ == "__main__":
    sys.exit(main())
