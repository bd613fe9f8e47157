#!/usr/bin/env python3
"""hardware_profiles/tables/mi300x/rocm-tuned: what ROCm's libraries reach on an MI300X after tuning, from published runs.

tools/fit_rocm_tables.py [--data ../shared/data]

fp16 products: best solutions that PyTorch's TunableOp found (BruceXcluding/Ali_MI300_Tuned @dfca54f). FP8 block products:
best kernels of AITER's tuner for 304 compute units (ROCm/aiter @e404860). All-reduce: RCCL (mk1-project/quickreduce
@910e892). What is dropped and what is missing: docs/calibration.md.
"""
import argparse
import math
import os
import statistics

from kernel_tables import leave_out
from kernel_tables.base import M_KNOTS, ROOT, blended, cells, experts_bound_us, figures, gemm_bound_us, log_interpolate, thinned, write
from kernel_tables.held_out import csv_rows

KNOTS = sorted(M_KNOTS + [2, 12, 24, 48, 80, 384])
NEAR = 1.05             # sizes this close to a knot count for it: tuners were run on odd sizes
HBM_READ = 4.2e12       # bytes/s that a plain read reaches (RRZE-HPC/gpu-benches, MI300X)
KNOTS_OF_EXPERTS = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768]
REGIONS = [(1, 64), (65, 512), (513, 1e9)]


def tunable_op(data):
    """{(n, k): {m: us}} of fp16 products."""
    out = {}
    for r in csv_rows(f"{data}/mi300x_fp16_gemm_tunableop/gemm_fp16_mi300x.csv.zst"):
        if r["op"].startswith("GemmTunableOp"):
            shape = out.setdefault((int(r["m_out_features"]), int(r["k"])), {})
            m, us = int(r["n_tokens"]), float(r["ms"]) * 1e3
            shape[m] = min(us, shape.get(m, us))
    return out


def aiter(data):
    """{(n, k): {m: us}} of FP8 products with 128 x 128 weight blocks; rows that were removed later count too."""
    out = {}
    for r in csv_rows(f"{data}/aiter/gemm_gfx942_gfx1201.csv"):
        if r["gfx"] == "gfx942" and r["cu_num"] == "304" and r["kind"] == "a8w8_blockscale":
            shape = out.setdefault((int(r["N"]), int(r["K"])), {})
            m, us = int(r["M"]), float(r["us"])
            shape[m] = min(us, shape.get(m, us))
    return out


def from_memory(shapes, element):
    """Tuners repeat one product: weights up to 256 MB stay in the Infinity Cache. A step reads them from memory."""
    raised = 0
    for (n, k), by_m in shapes.items():
        least = n * k * element / HBM_READ * 1e6
        for m, us in by_m.items():
            raised += us < least
            by_m[m] = max(us, least)
    return raised


def curves(part, fmt, shapes):
    """{(n, k): [(m, utilisation)]} for shapes with at least six knots."""
    out = {}
    for shape, by_m in sorted(shapes.items()):
        points = []
        for knot in KNOTS:
            logs = [math.log(gemm_bound_us(part, fmt, m, *shape) / us) for m, us in by_m.items() if knot / NEAR <= m <= knot * NEAR]
            if logs:
                points.append((knot, math.exp(statistics.median(logs))))
        if len(points) >= 6 and min(shape) >= 256:
            out[shape] = [(m, min(u, 1.0)) for m, u in points]
    return out


def deviations(part, fmt, shapes, table):
    """By region: every published size against its shape's curve; every shape's knots against the other shapes."""
    out = {r: ([], []) for r in REGIONS}
    region_of = lambda m: next(r for r in REGIONS if r[0] <= m <= r[1])  # noqa: E731
    for shape, curve in table.items():
        for m, us in shapes[shape].items():
            if curve[0][0] < m < curve[-1][0]:
                u = gemm_bound_us(part, fmt, m, *shape) / us
                out[region_of(m)][0].append(abs(math.log(log_interpolate(curve, m) / u)))
        others = [s for s in table if s != shape]
        for m, u in curve:
            out[region_of(m)][1].append(abs(math.log(blended(table, others, shape, m) / u)))
    return out


def gemm(part, data, folder):
    rows, errors = [], []
    # bf16 runs the same kernels at other clocks: 1,207 against 1,115 MHz under sustained products (ROCm blog, MAF).
    clocks = math.log(1207 / 1115)
    for fmt, element, shapes, kernel, names in (
            ("bf16", 2, tunable_op(data), "hipBLASLt or rocBLAS tuned in fp16", {"fp16": 0.0, "bf16": clocks}),
            ("fp8-block", 1, aiter(data), "AITER a8w8_blockscale tuned", {"fp8-block": 0.0})):
        raised = from_memory(shapes, element)
        table = curves(part, fmt, shapes)
        print(f"mi300x {fmt}: {sum(map(len, shapes.values()))} timings, {raised} raised to memory's rate, {len(table)} shapes")
        for region, (points, left_out) in deviations(part, fmt, shapes, table).items():
            for name, other in names.items():
                line = leave_out.row("gemm", name, region, points, left_out, other)
                errors += [line] if line else []
        for (n, k), curve in table.items():
            kept = thinned(curve)
            rows += [[name, n, k, kernel] + cells(kept, KNOTS) for name in names]
    write(folder, "gemm.csv", ["dtype", "n", "k", "kernel"] + KNOTS, rows)
    return errors


# Around AITER's one kernel of an expert layer (fused_moe.py: moe_sorting in two, the input's quantisation), which its tuner leaves out: dependent
# kernels at the part's floor (hardware_profiles/mi300x.yaml, assumed there; engine profiles say 2.6 of kernels with work: 1.4 us a layer more).
AROUND_US = 3 * 2.15


def experts(part, data, folder):
    """AITER's fused experts in FP8 blocks on 304 units: products with activation, quantisation and weighted sum inside."""
    shapes = {}
    for r in csv_rows(f"{data}/aiter/fused_moe_gfx942_gfx1201.csv"):
        if r["cu_num"] == "304" and r["q_type"] == "QuantType.per_1x128" and r["q_dtype_w"].startswith("torch.float8"):
            key = tuple(int(r[c]) for c in ("model_dim", "inter_dim", "expert", "topk"))
            tokens, us = int(r["token"]), float(r["us_total"])
            by_tokens = shapes.setdefault(key, {})
            by_tokens[tokens] = min(us, by_tokens.get(tokens, us))
    rows, errors, tables = [], {r: ([], []) for r in REGIONS}, {}
    for (hidden, inner, count, chosen), by_tokens in sorted(shapes.items()):
        points = []
        for tokens, us in sorted(by_tokens.items()):
            distinct = count * (1 - (1 - chosen / count) ** tokens)
            least = distinct * 3 * hidden * inner / HBM_READ * 1e6
            bound = experts_bound_us({**part}, "fp8-block", hidden, inner, distinct, chosen, tokens)
            points.append((tokens, min(1.0, bound / (max(us, least) + AROUND_US))))
        tables[hidden, inner, count, chosen] = points
        if len(points) >= 6:
            rows.append(["fp8-block", hidden, inner, count, chosen, "AITER fused_moe tuned"] + cells(points, KNOTS_OF_EXPERTS))
    region_of = lambda m: next(r for r in REGIONS if r[0] <= m <= r[1])  # noqa: E731
    for shape, points in tables.items():
        for before, here, after in zip(points, points[1:], points[2:]):
            errors[region_of(here[0])][0].append(abs(math.log(log_interpolate([before, after], here[0]) / here[1])))
        for other, curve in tables.items():
            if other != shape and other[1] == shape[1]:  # of one width: the layers of TP8
                for m, u in points:
                    errors[region_of(m)][1].append(abs(math.log(log_interpolate(curve, m) / u)))
    write(folder, "experts.csv", ["dtype", "hidden", "intermediate", "experts", "per_token", "kernel"] + KNOTS_OF_EXPERTS, rows)
    return [line for region, (points, left_out) in errors.items()
            if (line := leave_out.row("experts", "fp8-block", region, points, left_out, 0.0))]


def collectives(part, data, folder):
    """RCCL, launched eagerly. Below 32 KiB nobody published a time; it is a launch, so the shortest is held."""
    curves_ = {}
    for r in csv_rows(f"{data}/amd_micro/mi300x_allreduce_quickreduce.csv"):
        if r["algo"] == "RCCL":
            curves_.setdefault(("all_reduce", int(r["num_gpus"])), {})[int(r["bytes"])] = float(r["latency_us"])
    for by_size in curves_.values():
        by_size[256] = by_size[min(by_size)]
    table = {key: [(s, s / part["link"] * 1e6 / us) for s, us in sorted(v.items())] for key, v in sorted(curves_.items())}
    sizes = sorted({s for c in table.values() for s, _ in c})
    write(folder, "collectives.csv", ["op", "ranks", "kernel"] + sizes,
          [[op, ranks, "RCCL eager"] + cells(points, sizes) for (op, ranks), points in table.items()])
    errors = [abs(math.log(log_interpolate([c[i - 1], c[i + 1]], c[i][0]) / c[i][1])) for c in table.values()
              for i in range(2, len(c) - 1)]
    return [leave_out.row("collectives", "", (1, 1e12), errors, None, 0.0)]


def aiter_gemm(part, data, folder):
    """The FP8 block products alone, as an engine that runs AITER's kernel has them."""
    shapes = aiter(data)
    from_memory(shapes, 1)
    table = curves(part, "fp8-block", shapes)
    errors = []
    for region, (points, left_out) in deviations(part, "fp8-block", shapes, table).items():
        errors.append(leave_out.row("gemm", "fp8-block", region, points, left_out, 0.0))
    write(folder, "gemm.csv", ["dtype", "n", "k", "kernel"] + KNOTS,
          [["fp8-block", n, k, "AITER a8w8_blockscale tuned"] + cells(thinned(curve), KNOTS) for (n, k), curve in table.items()])
    return [line for line in errors if line]


ENGINE_TABLE = """# Made by tools/fit_rocm_tables.py; docs/calibration.md says how.
hardware: {part}
kernels: {name}
kind: published
collected_on: "AITER @e404860, an MI300X or MI325X (304 compute units)"
source: "ROCm/aiter @e404860 (MIT), tuned kernels for 304 compute units: {what}; best of a tuner, as utilisation of the data sheet"
"""


def engine_set(part, data, name, makers, what):
    """What SGLang runs of AITER's on a part: its tuner's timings do not say which of the two parts was timed."""
    folder = f"{ROOT}/hardware_profiles/tables/{part}/{name}"
    os.makedirs(folder, exist_ok=True)
    errors = [line for make in makers for line in make(figures(part), data, folder)]
    write(folder, "errors.csv", ["op", "dtype", "low", "high", "points", "shapes", "version"], errors)
    with open(f"{folder}/table.yaml", "w", encoding="utf-8") as f:
        f.write(ENGINE_TABLE.format(part=part, name=name, what=what))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=f"{ROOT}/../shared/data")
    data = parser.parse_args().data
    folder, part = f"{ROOT}/hardware_profiles/tables/mi300x/rocm-tuned", figures("mi300x")
    os.makedirs(folder, exist_ok=True)
    errors = gemm(part, data, folder) + collectives(part, data, folder)
    write(folder, "errors.csv", ["op", "dtype", "low", "high", "points", "shapes", "version"], errors)
    with open(f"{folder}/table.yaml", "w", encoding="utf-8") as f:
        f.write("""# Made by tools/fit_rocm_tables.py; docs/calibration.md says how.
hardware: mi300x
kernels: rocm-tuned
kind: published
collected_on: "PyTorch 2.4 with ROCm 6.1 (fp16 products, 2024); AITER @e404860 (FP8 block products); RCCL of 2025"
source: "TunableOp results (BruceXcluding/Ali_MI300_Tuned @dfca54f: facts), ROCm/aiter @e404860 (MIT) tuned kernels for 304
  compute units (an MI300X or MI325X), mk1-project/quickreduce @910e892 (MIT); best of a tuner, as utilisation of the data
  sheet"
""")
    for name in ("mi300x", "mi325x"):
        engine_set(name, data, "sglang-0.5", [experts], "fused experts")
        engine_set(name, data, "sglang-0.5.5", [aiter_gemm, experts], "FP8 block products and fused experts")


if __name__ == "__main__":
    main()
