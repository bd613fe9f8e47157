"""What vLLM's own steps say: our kernel-by-kernel profile of vLLM 0.24 on an H100 (reports/cases/h100_vllm_0_24_kernels)
and the logged steps of one run on an H200."""
import csv
import math
import os
import statistics

from . import further_profile
from .base import M_KNOTS, ROOT, blended, figures, gemm_bound_us, kernel_floor, log_interpolate

GRAPH_GAP_US = 0.43   # between dependent kernels inside a CUDA graph: median of the profile
STREAM_GAP_US = 1.4   # between dependent kernels of a stream: likewise

# What the engine's own steps take on an H200 relative to these tables, by operator class: the device times of runs
# qwen3-8b_bf16_tp1 and, for decode attention and products, qwen3-32b_bf16_tp2 (reports/cases/h200_vllm_0_24) against the step's
# parts, by tools/step_residuals.py. Products and prompt attention run below the tables' clock in steps that last: in steps run
# one at a time the same engine takes about what the tables say (tools/correction_evidence.py, which also has what other runs
# need). Decode attention in captured graphs has its splits fixed, so tiles (sequences × KV heads) should come in waves over 132
# SMs; other runs need 0.05 to 0.3 less. "gemm" is from qwen3-32b_bf16_tp2 too (steps with prompts that
# the host did not hold up, factor that the dense products need, median): 8B 1.10 (265 tokens), 1.15 (411), 1.26
# (478), 1.29 (572), 1.17 (910), 1.06 (1045), 1.11 (1404), 1.16 (2125), 1.10 (3642), 1.06 (6696), 1.05 (8192); 32B 1.12 (1042), 1.14 (2067),
# 1.12 (3088), 1.11 (8192). The 30B run was not used.
STEPS_ON_H200 = {
    "gemm": [(192, 1.0), (400, 1.14), (600, 1.18), (1000, 1.13), (2000, 1.14), (8192, 1.075)],
    # Up to 256 tokens from the kernel profile on an H200 (30B-A3B FP8: choice of experts, sort, both products, activation,
    # quantisation, sum, gaps in between, as the layer was timed; over the price of as many distinct experts), 8,192 assumed from the dense products' sustained clock.
    "experts": [(2048, 1.0), (8192, 1.06)],
    "experts/fp8-block": [(1, 1.009), (4, 0.943), (16, 1.092), (64, 0.962), (128, 0.968), (256, 0.987), (512, 1.0), (2048, 1.0),
                          (8192, 1.06)],
    "attention_prefill": [(512, 1.0), (2048, 1.165)],
    "attention_decode": [(16, 1.03), (32, 0.95), (40, 1.2), (48, 1.4), (64, 1.42), (80, 1.38), (112, 1.16), (128, 1.15),
                         (152, 1.19), (256, 1.145), (304, 1.18), (352, 1.25), (448, 1.19), (608, 1.155), (840, 1.12),
                         (1024, 1.083), (1280, 1.081), (1384, 1.117), (1688, 1.14), (2048, 1.207)],
    "attention_decode_mixed": [(8, 1.0), (256, 1.4), (2048, 1.5)],
}

# Decodes that share a launch with a prompt, on the H100: piecewise steps of Llama-3.1-8B need 1.33 (192 to 768 tiles), of Qwen3-4B
# 1.12 to 1.35 (512 to 1,024; reports/cases/h100_vllm_0_24). Times 4.8/3.35, the ratio of the memory rates, that is the H200's factor:
# such a launch runs at its own pace, not the memory's.
MIXED_ON_H100 = [(8, 1.0), (256, 1.25), (2048, 1.25)]


OUTPUT_LAYER = 151936  # features of the profiled models' output layer


def digest(part="h100"):
    path = f"{ROOT}/reports/cases/{part}_vllm_0_24_kernels/kernels.csv"
    with open(path, encoding="utf-8") as f:
        return [{**r, **{c: float(r[c]) for c in ("tokens", "sequences", "context", "n", "k", "kernels", "us")}}
                for r in csv.DictReader(f)]


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


def engine_prefill_factor(published):
    """As engine_gemm_factor, for one prompt's attention of Qwen3-8B and 30B-A3B."""
    table = {}
    for key, by_length in published.items():
        for length, by_batch in by_length.items():
            if key[2:5] == (128, 0, "bf16") and 1 in by_batch:
                table.setdefault(key[:2], []).append((length, by_batch[1]))
    logs = {}
    for r in digest():
        if r["op"] == "attention" and r["case"].startswith("p:") and r["tokens"] >= 1024:
            heads = (32, 8) if r["model"] == "qwen3-8b" else (32, 4)
            expected = log_interpolate(sorted(table[heads]), r["tokens"])
            logs.setdefault(int(r["tokens"]), []).append(math.log(r["us"] / expected))
    return [(t, math.exp(statistics.fmean(v))) for t, v in sorted(logs.items())]


def profiled(name):
    """The part whose profile serves this one: its own, or the H100's."""
    return name if os.path.exists(f"{ROOT}/reports/cases/{name}_vllm_0_24_kernels/kernels.csv") else "h100"


def row_wise(name):
    """(op, n, rows, us): duration in the engine plus the gap inside a graph. A part without a profile of its own takes the
    H100's: what streams from memory is scaled by the parts' memory rates, what is start and cache is not."""
    ratio, part = figures(profiled(name))["bandwidth"] / figures(name)["bandwidth"], name
    table = {}
    for r in digest(profiled(name)):
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
    for key, by_rows in further_profile.row_wise(part).items():
        table.setdefault(key, by_rows)
    for (op, n), by_rows in sorted(table.items()):
        start = min(statistics.median(us) for us in by_rows.values())
        highest = 0
        for rows in sorted(by_rows):
            us = statistics.median(by_rows[rows])
            if rows * n * 2 > 8e6:  # its operands no longer stay in the cache between kernels
                us = start + (us - start) * ratio
            highest = max(highest, us)
            yield op, n, rows, highest


SGLANG_PROFILE = f"{ROOT}/reports/cases/h200_sglang_0_5_17_kernels/kernels.csv"


def sglang_row_wise(name):
    """As row_wise, of SGLang 0.5.17 on an H200, Qwen3-8B. The norms of heads, the rotary embedding and the copy of the rotated
    queries are kernels of their own there: one operator here. On another part what few rows take goes by the least duration of a
    dependent kernel, what many add by the bandwidth: from 8 MB of a tensor on, or more where the cache is larger."""
    ratio = figures("h200")["bandwidth"] / figures(name)["bandwidth"]
    floor = kernel_floor(name) / kernel_floor("h200")
    from_memory = 8e6 * max(1, figures(name)["l2"] / figures("h200")["l2"])
    parts = {"add_rms_norm": "add_rms_norm", "kv_write": "kv_write", "silu_mul": "silu_mul", "qk_norm": "qk_norm_rotary",
             "rotary": "qk_norm_rotary", "attention_copy": "qk_norm_rotary", "argmax": "argmax_sglang",
             "outside_graph": "step_inputs_sglang"}
    cases, widths = {}, {}
    with open(SGLANG_PROFILE, encoding="utf-8") as f:
        for r in csv.DictReader(f):
            if r["op"] not in parts or (r["op"] in ("outside_graph", "argmax") and r["case"].startswith("p:")):
                continue
            op = parts[r["op"]]
            if op == "step_inputs_sglang":
                us, widths[op] = float(r["us"]) + STREAM_GAP_US * int(r["kernels"]), 1
            else:
                us, widths[op] = float(r["us"]) + GRAPH_GAP_US, int(r["n"])
            cases.setdefault((op, int(r["tokens"])), {}).setdefault(r["case"], 0)
            cases[(op, int(r["tokens"]))][r["case"]] += us
    table = {}
    for (op, rows), by_case in cases.items():
        table.setdefault(op, {})[rows] = statistics.median(by_case.values())
    for op, by_rows in sorted(table.items()):
        start, highest = min(by_rows.values()), 0
        for rows, us in sorted(by_rows.items()):
            more = (us - start) * ratio if rows * widths[op] * 2 > from_memory else (us - start) * floor
            highest = max(highest, start * floor + more)
            yield op, widths[op], rows, highest


def tensorrt_llm_row_wise(name):
    """(op, n, rows, us, kernel): kernels of TensorRT-LLM that were timed in another engine's steps. Its residual add and norm is
    FlashInfer's (tensorrt_llm/_torch/modules/rms_norm.py), as SGLang's, and its greedy sampler calls torch.argmax, as SGLang's
    (pyexecutor/sampler.py); SiLU is one pass in Triton (modules/swiglu.py), taken to be as long as SGLang's; norms of heads and the
    embedding are one kernel (fused_qk_norm_rope of modules/qk_norm_attention.py), taken to be as long as vLLM's one."""
    for op, n, rows, us in sglang_row_wise(name):
        if op in ("add_rms_norm", "silu_mul", "argmax_sglang"):
            yield op.replace("_sglang", ""), n, rows, us, "as SGLang's"
    for op, n, rows, us in row_wise(name):
        if op == "qk_norm_rotary":
            yield op, n, rows, us, "as vLLM's"


def corrections(part, h100, gemm_shapes, prefill_times):
    """{op: [(x, factor)]}: on the H100 from our kernel profile, on the H200 from an engine's steps."""
    if part == "h200":  # heads of 256 have a profile of their own
        return {**STEPS_ON_H200, **further_profile.corrections()}
    if part != "h100":
        return {}
    return {"gemm": engine_gemm_factor(h100, gemm_shapes), "attention_prefill": engine_prefill_factor(prefill_times),
            "attention_decode_mixed": MIXED_ON_H100}


def corrections_of_experts(part):
    return STEPS_ON_H200["experts/fp8-block"] if part == "h200" else ()


def output_layer(name):
    """{k: [(m, utilisation)]} of the profiled output layers as the engine ran it: memory bound, so utilisation carries over."""
    timed, out = figures(profiled(name)), {}
    for k in (4096, 2048):
        heads = {}
        for r in digest(profiled(name)):
            if r["op"] == "gemm" and r["n"] == OUTPUT_LAYER and r["k"] == k:
                heads.setdefault(int(r["sequences"]), []).append(
                    gemm_bound_us(timed, "bf16", r["sequences"], r["n"], r["k"]) / (r["us"] + GRAPH_GAP_US))
        points = sorted((m, statistics.median(u)) for m, u in heads.items())
        out[k] = [(m, log_interpolate(points, m)) for m in M_KNOTS if m <= points[-1][0]]
    return out
