"""Dense bf16 products that the published tables lack, from our own timings of cuBLASLt on the same part.

An engine's unquantised products are cuBLAS's, and so are ours (how far they agree: tools/correction_evidence.py).
Between shapes the published ones are blended, which misses wide layers (28,672 × 4,096 at one row: 13 % too long on the
H200). A shape that we timed is the blend, anchored at the sizes that we timed: their ratio to the blend, a power law
between them.
"""
import csv
import math
import os

from .base import M_KNOTS, ROOT, blended, gemm_bound_us, log_interpolate


FORGOTTEN = 4096  # rows from which the last ratio is kept; below, it returns to 1 within three octaves


def timed(part_name):
    """{(n, k): {m: us}} of a table that was measured on this part; empty where it was carried over."""
    folder = f"{ROOT}/hardware_profiles/tables/{part_name}/orrery"
    out = {}
    if not os.path.exists(f"{folder}/gemm.csv"):
        return out
    with open(f"{folder}/gemm.csv", encoding="utf-8") as f:
        for r in csv.DictReader(f):
            if r["dtype"] == "bf16":
                out.setdefault((int(r["n"]), int(r["k"])), {})[int(r["m"])] = float(r["us"])
    return out


def anchored(part_name, part, shapes, in_steps):
    """{(n, k): [(m, utilisation)]} of the shapes that only we timed; `shapes`: the published ones; `in_steps`: those that a profile of
    the engine's own steps has, as timed()."""
    keys, out = sorted(shapes), {}
    ours = timed(part_name)
    for shape, by_m in in_steps.items():
        ours.setdefault(shape, {}).update(by_m)
    for shape, by_m in sorted(ours.items()):
        if shape in shapes or len(by_m) < 2:
            continue
        ratio = [(m, gemm_bound_us(part, "bf16", m, *shape) / us / blended(shapes, keys, shape, m))
                 for m, us in sorted(by_m.items())]
        if ratio[-1][0] < FORGOTTEN:  # waves at the last size say nothing of much larger ones
            ratio.append((8 * ratio[-1][0], 1.0))
        points = [(m, min(1.0, blended(shapes, keys, shape, m) * log_interpolate(ratio, m))) for m in M_KNOTS]
        out[shape] = [(m, u) for m, u in points if math.isfinite(u)]
    return out
