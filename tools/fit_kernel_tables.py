#!/usr/bin/env python3
"""Utilisation tables of an engine's kernels from published and measured timings.

tools/fit_kernel_tables.py [--data ../shared/data/aiconfigurator] [--part h200 …]

Writes hardware_profiles/tables/<part>/vllm-0.24/. Input: the published operator tables (ai-dynamo/aiconfigurator,
Apache-2.0; not committed here) and reports/cases/h100_vllm_0_24_kernels/kernels.csv, our own kernel-by-kernel
profile of vLLM 0.24 steps on an H100. Utilisation = bound by the data sheet / time. What is dropped, what is
corrected and what the errors mean: docs/calibration.md. Standard library and the zstd command only; the same
input gives the same bytes.
"""
import argparse
import csv
import io
import math
import os
import re
import statistics
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SYSTEMS = {"h200": "h200_sxm", "h100": "h100_sxm", "l40s": "l40s"}
GRAPH_GAP_US = 0.43   # between dependent kernels inside a CUDA graph: median of the profile
STREAM_GAP_US = 1.4   # between dependent kernels of a stream: likewise
M_KNOTS = [1, 4, 8, 16, 32, 64, 96, 128, 160, 192, 224, 256, 512, 768, 1024, 1536, 2048, 2560, 3072, 3584, 4096,
           8192, 16384, 32768]
FORMATS = {"bfloat16": "bf16", "fp8": "fp8-tensor"}
BYTES = {"bf16": 2, "fp8-tensor": 1, "fp8-channel": 1, "fp8-block": 1}


def figures(part):
    with open(f"{ROOT}/hardware_profiles/{part}.yaml", encoding="utf-8") as f:
        text = f.read()
    scale = {"TFLOP/s": 1e12, "TB/s": 1e12, "GB/s": 1e9}

    def figure(key):
        found = re.search(rf"^\s*{key}: {{value: ([\d.]+), unit: (\S+),", text, re.M)
        return float(found.group(1)) * scale[found.group(2)] if found else 0.0

    links = text.split("\nlinks:")[1] if "\nlinks:" in text else ""
    link = re.search(r"bandwidth: {value: ([\d.]+), unit: (\S+),", links)
    return {"bf16": figure("bf16"), "fp8": figure("fp8"), "bandwidth": figure("memory_bandwidth"),
            "link": float(link.group(1)) * scale[link.group(2)] if link else 0.0}


class Published:
    def __init__(self, folder, system):
        self.folder = os.path.join(folder, system)

    def rows(self, op, name):
        path = os.path.join(self.folder, op, name + ".csv.zst")
        if not os.path.exists(path):
            return []
        text = subprocess.run(["zstd", "-dc", path], check=True, capture_output=True).stdout.decode()
        return list(csv.DictReader(io.StringIO(text)))


def gemm_bound_us(part, fmt, m, n, k):
    rate = part["bf16"] if fmt == "bf16" else part["fp8"]
    data = n * k * BYTES[fmt] + m * k * BYTES[fmt] + m * n * 2
    return max(2 * m * n * k / rate, data / part["bandwidth"]) * 1e6


def log_interpolate(points, x):
    """points: ascending (x, y); power law between, flat beyond."""
    if x <= points[0][0]:
        return points[0][1]
    for (x0, y0), (x1, y1) in zip(points, points[1:]):
        if x <= x1:
            w = (math.log(x) - math.log(x0)) / (math.log(x1) - math.log(x0))
            return math.exp((1 - w) * math.log(y0) + w * math.log(y1))
    return points[-1][1]


def digest():
    path = f"{ROOT}/reports/cases/h100_vllm_0_24_kernels/kernels.csv"
    with open(path, encoding="utf-8") as f:
        return [{**r, **{c: float(r[c]) for c in ("tokens", "sequences", "context", "n", "k", "kernels", "us")}}
                for r in csv.DictReader(f)]


# ---- dense products -----------------------------------------------------------------------------------------

def gemm_shapes(part, published, fmt):
    """{(n, k): [(m, utilisation), …]} of n, k >= 256; a knot is the mean of the sizes on both sides of an edge."""
    source = {v: k for k, v in FORMATS.items()}[fmt]
    times = {}
    for r in published.rows("gemm", "gemm_perf__vllm-0.24.0"):
        if r["gemm_dtype"] == source and int(r["n"]) >= 256 and int(r["k"]) >= 256:
            times.setdefault((int(r["n"]), int(r["k"])), {}).setdefault(int(r["m"]), []).append(float(r["latency"]) * 1e3)
    shapes, dropped = {}, 0
    for (n, k), by_m in sorted(times.items()):
        points = []
        for m in M_KNOTS:
            logs = [math.log(gemm_bound_us(part, fmt, x, n, k) / statistics.median(by_m[x]))
                    for x in (m, m + 1) if x in by_m]
            if not logs:
                continue
            u = math.exp(sum(logs) / len(logs))
            if u > 1:  # weights stayed in the cache while the table was made
                dropped += 1
                continue
            points.append((m, u))
        if points:
            shapes[(n, k)] = points
    return shapes, dropped


def neighbour_weights(points, query):
    """As costmodel/utilisation.cpp does it."""
    low = [min(p[a] for p in points) for a in (0, 1)]
    high = [max(p[a] for p in points) for a in (0, 1)]
    q = [min(max(query[a], low[a]), high[a]) for a in (0, 1)]
    near = sorted(((p[0] - q[0]) ** 2 + (p[1] - q[1]) ** 2, i) for i, p in enumerate(points))[:8]
    if near[0][0] < 1e-18:
        return [(near[0][1], 1.0)]
    weight = [1 / (d * math.sqrt(d)) for d, _ in near]
    rows = [[1, points[i][0] - q[0], points[i][1] - q[1]] for _, i in near]
    a = [[sum(w * r[x] * r[y] for w, r in zip(weight, rows)) for y in range(3)] for x in range(3)]
    a[1][1] += 0.01 * sum(weight)
    a[2][2] += 0.01 * sum(weight)
    b = [1.0, 0.0, 0.0]
    for i in range(3):
        for row in range(i + 1, 3):
            f = a[row][i] / a[i][i]
            for c in range(i, 3):
                a[row][c] -= f * a[i][c]
            b[row] -= f * b[i]
    for i in (2, 1, 0):
        b[i] = (b[i] - sum(a[i][c] * b[c] for c in range(i + 1, 3))) / a[i][i]
    return [(i, sum(x * y for x, y in zip(b, r)) * w) for (_, i), r, w in zip(near, rows, weight)]


def blended(shapes, keys, query, m):
    weights = neighbour_weights([(math.log(n), math.log(k)) for n, k in keys],
                                (math.log(query[0]), math.log(query[1])))
    values = [log_interpolate(shapes[keys[i]], m) for i, _ in weights]
    mean = math.exp(sum(w * math.log(v) for (_, w), v in zip(weights, values)))
    return min(max(mean, min(values)), max(values))


def gemm_errors(shapes):
    """Deviation of log(time) when a point, or a whole shape, is left out; by region of m."""
    keys = sorted(shapes)
    regions = {(1, 64): ([], []), (65, 512): ([], []), (513, 1e9): ([], [])}
    inner = [s for s in keys if 1024 <= s[0] <= 16384 and 1024 <= s[1] <= 16384]
    for s in inner:
        others = [k for k in keys if k != s]
        for i, (m, u) in enumerate(shapes[s]):
            region = next(r for r in regions if r[0] <= m <= r[1])
            regions[region][1].append(abs(math.log(blended(shapes, others, s, m) / u)))
            if 0 < i < len(shapes[s]) - 1:
                rest = [shapes[s][i - 1], shapes[s][i + 1]]
                regions[region][0].append(abs(math.log(log_interpolate(rest, m) / u)))
    return {r: tuple(1.4826 * statistics.median(e) for e in both) for r, both in regions.items()}


def engine_gemm_factor(h100, shapes):
    """What the engine's own products take relative to the table, on the part that both timed (H100): by tokens."""
    keys = sorted(shapes)
    by_m = {}
    for r in digest():
        n, k = int(r["n"]), int(r["k"])
        if r["op"] != "gemm" or n < 1024 or n > 65536:
            continue
        m = int(r["tokens"])
        expected = gemm_bound_us(h100, "bf16", m, n, k) / blended(shapes, keys, (n, k), m)
        by_m.setdefault(m, []).append(math.log(r["us"] / expected))
    return [(m, math.exp(statistics.fmean(v))) for m, v in sorted(by_m.items())]


# Block-scaled products in the engine (DeepGEMM, our profile): start + the slower of weights at 0.85 of the
# memory rate and operations at the efficiency below. The published times of this format contain quantisation
# and, below about 4,096 rows, 82 to 88 us of launch: not used.
BLOCK_START_US, BLOCK_MEMORY, BLOCK_COMPUTE = 4.3, 0.85, 0.66


def block_shapes(part):
    shapes = {}
    for n in (512, 1024, 2048, 4096, 8192, 16384, 32768, 65536):
        for k in (512, 1024, 2048, 4096, 8192, 16384, 32768):
            points = []
            for m in M_KNOTS:
                data = n * k + m * k + 2 * m * n
                us = BLOCK_START_US + max(data / (BLOCK_MEMORY * part["bandwidth"]),
                                          2 * max(m, 64) * n * k / (BLOCK_COMPUTE * part["fp8"])) * 1e6
                points.append((m, gemm_bound_us(part, "fp8-block", m, n, k) / us))
            shapes[(n, k)] = points
    return shapes


def block_errors(h100):
    errors = []
    for r in digest():
        if r["op"] == "gemm_fp8_block":
            m, n, k = r["tokens"], r["n"], r["k"]
            us = BLOCK_START_US + max((n * k + m * k + 2 * m * n) / (BLOCK_MEMORY * h100["bandwidth"]),
                                      2 * max(m, 64) * n * k / (BLOCK_COMPUTE * h100["fp8"])) * 1e6
            errors.append((math.log(us / (r["us"] + GRAPH_GAP_US)), r))
    return errors


# ---- attention, experts, collectives -------------------------------------------------------------------------

def attention(part, published, phase):
    """Rows of a table: shape columns, length, {sequences: utilisation}."""
    name = "context_attention_perf__vllm-0.24.0" if phase == "prefill" else "generation_attention_perf__vllm-0.24.0"
    times = {}
    for r in published.rows("attention", name):
        d, window = int(r["head_dim"]), int(r["window_size"])
        if d not in (64, 128, 256) or window not in (0, 128) or (window == 128 and d != 64):
            continue
        if int(r["num_key_value_heads"]) == int(r["num_heads"]) and int(r["num_heads"]) > 16:
            continue
        length = int(r["isl"]) if phase == "prefill" else int(r["step"]) + 1
        key = (int(r["num_heads"]), int(r["num_key_value_heads"]), d, window,
               "fp8" if r["kv_cache_dtype"] == "fp8" else "bf16", r["kernel_source"])
        times.setdefault(key, {}).setdefault(length, {}).setdefault(int(r["batch_size"]), []).append(
            float(r["latency"]) * 1e3)
    for key in sorted(times):
        for length in sorted(times[key]):
            yield key, length, {b: attention_bound_us(part, phase, key, b, length) / statistics.median(t)
                                for b, t in sorted(times[key][length].items())}


def attention_bound_us(part, phase, key, batch, length):
    heads, kv, d, window, kv_dtype, _ = key
    element = 1 if kv_dtype == "fp8" else 2
    if phase == "decode":
        keys = min(length, window) if window else length
        data = 2 * batch * keys * kv * d * element + 4 * batch * heads * d
        return data / part["bandwidth"] * 1e6
    growing = min(length, window) if window else length
    pairs = batch * (growing * (growing + 1) / 2 + (length - growing) * window)
    data = batch * length * d * (4 * heads + 2 * kv * 2)
    return max(4 * d * heads * pairs / part["bf16"], data / part["bandwidth"]) * 1e6


def engine_prefill_factor(h100, published):
    """As engine_gemm_factor, for one prompt's attention of Qwen3-8B and 30B-A3B."""
    table = {}
    for key, length, by_batch in attention(h100, published, "prefill"):
        if key[2:5] == (128, 0, "bf16") and 1 in by_batch:
            table.setdefault(key[:2], []).append((length, attention_bound_us(h100, "prefill", key, 1, length) / by_batch[1]))
    logs = {}
    for r in digest():
        if r["op"] == "attention" and r["case"].startswith("p:") and r["tokens"] >= 1024:
            heads = (32, 8) if r["model"] == "qwen3-8b" else (32, 4)
            expected = log_interpolate(sorted(table[heads]), r["tokens"])
            logs.setdefault(int(r["tokens"]), []).append(math.log(r["us"] / expected))
    return [(t, math.exp(statistics.fmean(v))) for t, v in sorted(logs.items())]


def experts(part, published):
    """Fused expert layers, tokens spread evenly: {(format, hidden, inner, experts, k, kernel): [(tokens, u)]}."""
    best = {"bfloat16": "vllm_unquantizedfusedmoe_triton_tritonexperts",
            "fp8_block": "vllm_fp8moe_triton_tritonexperts",
            "fp8": "vllm_modeloptfp8moe_flashinfer_cutlass_flashinferexperts"}
    names = {"bfloat16": "bf16", "fp8_block": "fp8-block", "fp8": "fp8-tensor"}
    out = {}
    for r in published.rows("moe", "moe_perf__vllm-0.24.0"):
        dtype = r["moe_dtype"]
        if best.get(dtype) != r["kernel_source"] or r["distribution"] != "balanced":
            continue
        inner, count = int(r["inter_size"]) // int(r["moe_tp_size"]), int(r["num_experts"])
        if int(r["moe_ep_size"]) != 1 or inner < 64:
            continue
        t, k, hidden = int(r["num_tokens"]), int(r["topk"]), int(r["hidden_size"])
        fmt = names[dtype]
        element = BYTES[fmt]
        rows, distinct = t * k, min(count, t * k)
        weights = distinct * 3 * hidden * inner * element
        data = weights + rows * (hidden + inner) * (element + 2)
        rate = part["bf16"] if fmt == "bf16" else part["fp8"]
        bound = max(6 * rows * hidden * inner / rate, data / part["bandwidth"]) * 1e6
        out.setdefault((fmt, hidden, inner, count, k, r["kernel_source"]), {})[t] = bound / (float(r["latency"]) * 1e3)
    return {key: sorted(v.items()) for key, v in sorted(out.items())}


def collectives(part, published):
    """vLLM: the custom all-reduce below 8 MiB (256 KiB on eight GPUs), NCCL's from there; NCCL for the rest."""
    out = {}
    for r in published.rows("comm", "custom_allreduce_perf__vllm-0.24.0"):
        ranks, size = int(r["num_gpus"]), int(r["message_size"]) * 2
        if r["kernel_source"] == "vLLM_custom_graph" and size < (8 << 20 if ranks <= 4 else 256 << 10):
            out.setdefault(("all_reduce", ranks), {})[size] = float(r["latency"]) * 1e3
    names = {"all_reduce": "all_reduce", "all_gather": "all_gather", "reduce_scatter": "reduce_scatter",
             "alltoall": "all_to_all"}
    for version in ("nccl-2.29.2", "nccl-2.27.3", "nccl-2.26.2", "nccl-2.23"):
        rows = published.rows("comm", "nccl_perf__" + version)
        for r in rows:
            ranks, size = int(r["num_gpus"]), int(r["message_size"]) * 2
            op = names.get(r["op_name"])
            if op is None or r["nccl_dtype"] != "half":
                continue
            known = out.setdefault((op, ranks), {})
            if op != "all_reduce" or size >= (8 << 20 if ranks <= 4 else 256 << 10):
                known.setdefault(size, float(r["latency"]) * 1e3)
        if rows:
            break
    return {key: [(s, s / part["link"] * 1e6 / us) for s, us in sorted(v.items())] for key, v in sorted(out.items())}


# ---- kernels between the products: our own profile -----------------------------------------------------------

def row_wise(part, h100):
    """(op, n, rows, us): duration in the engine plus the gap inside a graph; what streams from memory is scaled by
    the parts' memory rates, what is start and cache is not (H100 and H200 are one die)."""
    ratio = h100["bandwidth"] / part["bandwidth"]
    table = {}
    for r in digest():
        op, rows = r["op"], int(r["tokens"])
        if op in ("gumbel", "bias", "argmax", "logits_copy"):
            rows = int(r["sequences"])
        if op in ("silu_mul", "quantize") and r["model"] != "qwen3-8b" and r["n"] == 768:
            rows *= 8
        if op not in ("add_rms_norm", "add_rms_norm_quantize", "rotary", "kv_write", "silu_mul", "quantize", "topk",
                      "moe_align", "moe_combine", "moe_copy", "logits_copy", "bias", "gumbel", "argmax",
                      "outside_graph"):
            continue
        if op == "outside_graph":
            if r["case"].startswith("d:"):
                us = r["us"] + STREAM_GAP_US * r["kernels"]
                name = "step_inputs_v2" if r["model"] == "qwen3-8b" else "step_inputs_v1"
                table.setdefault((name, 1), {}).setdefault(rows, []).append(us)
            continue
        if op in ("bias", "gumbel", "argmax", "logits_copy"):
            op += "_v2" if r["model"] == "qwen3-8b" else "_v1"
        us = r["us"] + GRAPH_GAP_US * r["kernels"]
        if op == "rotary":
            op = "qk_norm_rotary"  # both models norm their heads
        if op == "kv_write":
            r["n"] /= 2  # width of the keys; the digest counts values too
        if op == "moe_align":
            r["n"] = 128  # experts
        table.setdefault((op, int(r["n"])), {}).setdefault(rows, []).append(us)
    v2 = {}  # V2's sampler is three kernels; so is our operator
    for op in ("bias_v2", "gumbel_v2", "argmax_v2"):
        for (name, n), by_rows in list(table.items()):
            if name == op:
                for rows, us in by_rows.items():
                    v2.setdefault(n, {}).setdefault(rows, 0)
                    v2[n][rows] += statistics.median(us)
                del table[(name, n)]
    for n, by_rows in v2.items():
        table[("argmax_v2", n)] = {rows: [us] for rows, us in by_rows.items()}
    for (op, n), by_rows in sorted(table.items()):
        start = min(statistics.median(us) for us in by_rows.values())
        highest = 0
        for rows in sorted(by_rows):
            us = statistics.median(by_rows[rows])
            if rows * n * 2 > 8e6:  # its operands no longer stay in the cache between kernels
                us = start + (us - start) * ratio
            highest = max(highest, us)
            yield op, n, rows, highest


# ---- writing --------------------------------------------------------------------------------------------------

def write(folder, name, header, rows):
    with open(os.path.join(folder, name), "w", newline="", encoding="utf-8") as f:
        w = csv.writer(f, lineterminator="\n")
        w.writerow(header)
        w.writerows(rows)


def cells(points, axis):
    known = dict(points)
    return [f"{known[x]:.4g}" if x in known else "" for x in axis]


# What the engine's own steps take on an H200 relative to these tables, by operator class: the device times of run
# qwen3-8b_bf16_tp1 (reports/cases/h200_vllm_0_24) against the step's parts, by tools/step_residuals.py. Products
# and prompt attention run below the tables' clock in steps that last; decode attention in captured graphs has its
# splits fixed, and serves contexts of unequal length. The other two runs were not used.
STEPS_ON_H200 = {
    "gemm": [(512, 1.0), (1024, 1.09), (8192, 1.095)],
    "experts": [(2048, 1.0), (8192, 1.06)],  # assumed from the dense products' sustained clock
    "attention_prefill": [(512, 1.0), (2048, 1.165)],
    "attention_decode": [(8, 0.91), (32, 0.89), (44, 1.30), (64, 1.30), (84, 1.12), (768, 1.13), (1200, 1.08),
                         (1536, 1.11), (2048, 1.20)],
    "attention_decode_mixed": [(8, 1.0), (256, 1.4), (2048, 1.5)],
}


def corrections(part, h100, on_h100):
    """{op: [(x, factor)]}: on the H100 from our kernel profile, on the H200 from an engine's steps."""
    if part == "h200":
        return STEPS_ON_H200
    if part != "h100":
        return {}
    shapes, _ = gemm_shapes(h100, on_h100, "bf16")
    return {"gemm": engine_gemm_factor(h100, shapes), "attention_prefill": engine_prefill_factor(h100, on_h100)}


def describe(folder, part, hopper):
    """table.yaml: what the figures are. On the H100 the kernels between the products were timed by us."""
    rungs = f"rungs: {{elementwise: {'measured' if part == 'h100' else 'transported'}}}\n" if hopper else ""
    text = f"""# Made by tools/fit_kernel_tables.py; docs/calibration.md says how.
hardware: {part}
kernels: vllm-0.24
kind: published
{rungs}source: "operator tables of vLLM 0.24.0 (ai-dynamo/aiconfigurator @095f58a, Apache-2.0,
  aic-core/src/aiconfigurator_core/systems/data/{SYSTEMS[part]}), as utilisation of the data sheet"""
    if hopper:
        text += """; block-scaled
  products, output layer and the kernels between products from our own profile of vLLM 0.24.0 steps on an H100
  (reports/cases/h100_vllm_0_24_kernels)"""
    with open(os.path.join(folder, "table.yaml"), "w", encoding="utf-8") as f:
        f.write(text + '"\n')


def fit(part_name, data):
    part, h100 = figures(part_name), figures("h100")
    published, on_h100 = Published(data, SYSTEMS[part_name]), Published(data, SYSTEMS["h100"])
    folder = f"{ROOT}/hardware_profiles/tables/{part_name}/vllm-0.24"
    os.makedirs(folder, exist_ok=True)
    hopper = part_name in ("h100", "h200")
    errors, notes = [], []

    rows = []
    for fmt in ("bf16", "fp8-tensor"):
        shapes, dropped = gemm_shapes(part, published, fmt)
        notes.append(f"gemm {fmt}: {sum(map(len, shapes.values()))} figures, {dropped} dropped above the bound")
        kernel = "torch.linear" if fmt == "bf16" else "CutlassFP8ScaledMM"
        for (n, k), points in shapes.items():
            rows.append([fmt, n, k, kernel] + cells(points, M_KNOTS))
            if fmt == "fp8-tensor":
                rows.append(["fp8-channel", n, k, kernel] + cells(points, M_KNOTS))
        for (low, high), (point, shape) in gemm_errors(shapes).items():
            for name in ([fmt] if fmt == "bf16" else [fmt, "fp8-channel"]):
                errors.append(["gemm", name, low, f"{high:.9g}", f"{point:.4f}", f"{shape:.4f}"])
    if hopper:  # the output layer's shapes as the engine ran them: memory bound, so utilisation carries over
        for k in (4096, 2048):
            heads = {}
            for r in digest():
                if r["op"] == "gemm" and r["n"] == 151936 and r["k"] == k:
                    heads.setdefault(int(r["sequences"]), []).append(
                        gemm_bound_us(h100, "bf16", r["sequences"], r["n"], r["k"]) / (r["us"] + GRAPH_GAP_US))
            points = sorted((m, statistics.median(u)) for m, u in heads.items())
            rows.append(["bf16", 151936, k, "nvjet"] + cells([(m, log_interpolate(points, m)) for m in M_KNOTS
                                                              if m <= points[-1][0]], M_KNOTS))
        for (n, k), points in block_shapes(part).items():
            rows.append(["fp8-block", n, k, "DeepGEMM"] + cells(points, M_KNOTS))
        residuals = [abs(e) for e, _ in block_errors(h100)]
        deviation = max(0.05, 1.4826 * statistics.median(residuals))
        errors.append(["gemm", "fp8-block", 1, "1e+09", f"{deviation:.4f}", f"{deviation:.4f}"])
        notes.append(f"gemm fp8-block: law fitted to {len(residuals)} engine kernels, median deviation "
                     f"{statistics.median(residuals):.3f}")
    write(folder, "gemm.csv", ["dtype", "n", "k", "kernel"] + M_KNOTS, rows)

    for phase in ("prefill", "decode"):
        length_name = "tokens" if phase == "prefill" else "context"
        table = list(attention(part, published, phase))
        if phase == "decode":
            table = [t for t in table if t[1] == 2 or t[1] >= 64]
        batches = sorted({b for _, _, by in table for b in by})
        out = []
        for key, length, by_batch in table:
            heads, kv, d, window, kv_dtype, kernel = key
            out.append(["bf16", kv_dtype, heads, kv, d, window, kernel, length] +
                       cells(by_batch.items(), batches))
        if out:
            write(folder, f"attention_{phase}.csv", ["dtype", "kv_dtype", "heads", "kv_heads", "head_dim", "window",
                                                      "kernel", length_name] + batches, out)
            notes.append(f"attention {phase}: {sum(len(by) for _, _, by in table)} figures")
            errors.append([f"attention_{phase}", "bf16", 1, "1e+09", "0.08", "0.12"])

    table = experts(part, published)
    axis = sorted({t for v in table.values() for t, _ in v})
    if table:
        write(folder, "experts.csv", ["dtype", "hidden", "intermediate", "experts", "per_token", "kernel"] + axis,
              [list(key) + cells(points, axis) for key, points in table.items()])
        for fmt in sorted({key[0] for key in table}):
            errors.append(["experts", fmt, 1, "1e+09", "0.08", "0.15"])
    table = collectives(part, published)
    sizes = sorted({s for v in table.values() for s, _ in v})
    if table and part["link"]:
        write(folder, "collectives.csv", ["op", "ranks", "kernel"] + sizes,
              [[op, ranks, "custom; NCCL from 8 MiB" if op == "all_reduce" else "NCCL"] + cells(points, sizes)
               for (op, ranks), points in table.items()])
        errors.append(["collectives", "", 1, "1e+12", "0.05", "0.1"])
    if hopper:
        write(folder, "elementwise.csv", ["op", "dtype", "rows", "n", "k", "us", "spread", "kernel"],
              [[op, "bf16", rows_, n, 0, f"{us:.4g}", 0, "vLLM"] for op, n, rows_, us in row_wise(part, h100)])
        errors.append(["elementwise", "", 1, "1e+09", "0.08", "0.15"])
    describe(folder, part_name, hopper)
    factors = corrections(part_name, h100, on_h100)
    if factors:
        write(folder, "corrections.csv", ["op", "x", "factor"],
              [[op, x, f"{f:.4g}"] for op, points in factors.items() for x, f in points])
    write(folder, "errors.csv", ["op", "dtype", "low", "high", "points", "shapes"], errors)
    for note in notes:
        print(f"{part_name}: {note}", file=sys.stderr)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=f"{ROOT}/../shared/data/aiconfigurator")
    parser.add_argument("--part", nargs="*", default=list(SYSTEMS))
    arguments = parser.parse_args()
    for part in arguments.part:
        fit(part, arguments.data)


if __name__ == "__main__":
    main()
