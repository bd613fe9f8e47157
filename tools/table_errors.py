#!/usr/bin/env python3
"""errors.csv of a timed kernel table: tools/table_errors.py hardware_profiles/tables/h100/orrery

One standard deviation of log(time), 1.4826 times the median absolute deviation: `points` when every inner point of an
axis is left out and interpolated from its neighbours, `shapes` when a whole static shape is left out and blended from
the others (dense products) or, where shapes are few, taken from the nearest one. By operator, format and region.
"""
import csv
import math
import os
import statistics
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import fit_kernel_tables as fit  # noqa: E402

REGIONS = {"gemm": [(1, 64), (65, 512), (513, 1e9)], "grouped_gemm": [(1, 16), (16.001, 1e9)]}


def rows_per_expert(text):
    rows = distinct = 0
    for item in text.split():
        times, _, each = item.partition("x") if "x" in item else ("1", "", item)
        rows += int(times) * int(each)
        distinct += int(times) if int(each) else 0
    return rows, distinct


def samples(folder, part):
    """(op, format, static shape, x, utilisation)"""
    def table(name):
        path = os.path.join(folder, name + ".csv")
        if os.path.exists(path):
            with open(path, encoding="utf-8") as f:
                yield from csv.DictReader(f)

    for r in table("gemm"):
        m, n, k = (int(r[c]) for c in "mnk")
        yield "gemm", r["dtype"], (n, k), m, fit.gemm_bound_us(part, r["dtype"], m, n, k) / float(r["us"])
    for r in table("grouped_gemm"):
        rows, distinct = rows_per_expert(r["rows"])
        bound = fit.gemm_bound_us(part, r["dtype"], rows / distinct, int(r["n"]), int(r["k"])) * distinct
        yield "grouped_gemm", r["dtype"], (int(r["n"]) * int(r["k"]), distinct), rows / distinct, bound / float(r["us"])
    for r in table("attention_decode"):
        shape = tuple(int(r[c]) for c in ("heads", "kv_heads", "head_dim"))
        key = shape + (0, r["kv_dtype"], "")
        bound = fit.attention_bound_us(part, "decode", key, int(r["batch"]), int(r["context"]))
        yield "attention_decode", r["kv_dtype"], shape + (int(r["batch"]),), int(r["context"]), bound / float(r["us"])
    for r in table("attention_prefill"):
        count, _, chunk = r["sequences"].partition("x") if "x" in r["sequences"] else ("1", "", r["sequences"])
        tokens, _, context = chunk.partition("@")
        if " " in r["sequences"] or context != "0":
            continue
        shape = tuple(int(r[c]) for c in ("heads", "kv_heads", "head_dim"))
        bound = fit.attention_bound_us(part, "prefill", shape + (0, "bf16", ""), int(count), int(tokens))
        yield "attention_prefill", "bf16", shape + (int(count),), int(tokens), bound / float(r["us"])
    for r in table("elementwise"):
        yield "elementwise", "", (r["op"], r["dtype"], r["n"], r["k"]), int(r["rows"]), int(r["rows"]) / float(r["us"])
    for r in table("collectives"):
        yield "collectives", "", (r["op"], r["ranks"]), int(r["bytes"]), int(r["bytes"]) / float(r["us"])
    for r in table("copy"):
        yield "copy", "", ("copy",), int(r["bytes"]), int(r["bytes"]) / float(r["us"])


def deviation(errors):
    return 1.4826 * statistics.median(errors) if errors else None


def main():
    folder = sys.argv[1].rstrip("/")
    part = fit.figures(os.path.basename(os.path.dirname(folder)))
    tables = {}
    for op, fmt, shape, x, u in samples(folder, part):
        tables.setdefault((op, fmt), {}).setdefault(shape, {}).setdefault(x, []).append(u)
    out = []
    for (op, fmt), shapes in sorted(tables.items()):
        curves = {s: sorted((x, statistics.median(u)) for x, u in by_x.items()) for s, by_x in shapes.items()}
        full = [s for s in curves if len(curves[s]) >= 8]
        for low, high in REGIONS.get(op, [(1, 1e12)]):
            points, left_out = [], []
            for shape, curve in curves.items():
                for i in range(1, len(curve) - 1):
                    if low <= curve[i][0] <= high:
                        guess = fit.log_interpolate([curve[i - 1], curve[i + 1]], curve[i][0])
                        points.append(abs(math.log(guess / curve[i][1])))
            if op == "gemm":
                for shape in full:
                    others = [s for s in full if s != shape]
                    for x, u in curves[shape]:
                        if low <= x <= high and len(others) > 3:
                            left_out.append(abs(math.log(fit.blended(curves, others, shape, x) / u)))
            a, b = deviation(points), deviation(left_out)
            if a is None and b is None:
                continue
            a = max(a or b, 0.01)
            out.append([op, fmt, low, f"{high:.9g}", f"{a:.4f}", f"{max(b or 2 * a, a):.4f}"])
            print(f"{op:18} {fmt:12} {low:>6}-{high:<8.3g} points {100 * a:5.1f} %  shapes "
                  f"{100 * (b if b else 2 * a):5.1f} %{'' if b else ' (twice the points: too few shapes)'}  "
                  f"n {len(points)}, {len(left_out)}")
    fit.write(folder, "errors.csv", ["op", "dtype", "low", "high", "points", "shapes"], out)


if __name__ == "__main__":
    main()
