"""Our kernel profile of two further models' steps on an H200 (reports/cases/h200_vllm_0_24_kernels_256): Gemma-3-12B's text model
and Qwen3.5-35B-A3B, vLLM 0.24, on another machine. Not the runs that reports/results/features_h200.md compares with."""
import csv
import statistics

from .base import ROOT, log_interpolate

FOLDER = f"{ROOT}/reports/cases/h200_vllm_0_24_kernels_256"
PATH = f"{FOLDER}/kernels.csv"
GRAPH_GAP_US = 0.43  # as own_profile's

# Attention of heads of 256 in the engine (attention_block) over the published timing at the same sequences and keys: decodes of
# Gemma, less what its schedule takes, 1.04 (8 tiles), 1.09 (32), 0.95 (128), 1.02 (512), 0.98 (1,024), of Qwen3.5 0.88 (2) to 1.02 (256);
# prompts of 1,024 to 8,192 tokens 1.00, 1.00, 1.04, 1.00 and 0.91, 0.89, 0.91, 0.96. Decodes beside a prompt in one launch: timings.csv
# there, what they add over decodes alone, 64 tiles and more: 0.67 to 1.53, median 1.04. Between the published batches, powers of
# two, whole waves of tiles over 132 units show (waves below).
DECODE_IN_ENGINE = 1.0
OTHERS_OF_256 = {"attention_decode_mixed_256": [(8, 1.0), (2048, 1.04)], "attention_prefill_256": [(512, 1.0), (8192, 1.0)]}

# (operator, width): model, kernels that make it up by part of their name (of several of one name the mean).
ROW_WISE = {
    ("norm_add_rms_norm", 3840): ("gemma-3-12b", [["rms_norm_rms_norm_0", "rms_norm_rms_norm_2"]]),
    ("gelu_mul", 15360): ("gemma-3-12b", [["gelu_mul"]]),
    ("kv_write", 2048): ("gemma-3-12b", [["kv_write"]]),
    ("qk_norm_rotary", 6144): ("gemma-3-12b", [["triton_red_fused_3"], ["triton_poi_fused_4"]]),
    ("sum_add_rms_norm", 2048): ("qwen3.5-35b-a3b", [["copy__fused_add_rms_norm_4", "copy__fused_add_rms_norm_2"]]),
    ("gated_norm", 4096): ("qwen3.5-35b-a3b", [["triton_poi_fused_0"], ["triton_per_fused_1"], ["triton_poi_fused__to_copy__unsafe"]]),
    ("topk", 256): ("qwen3.5-35b-a3b", [["topkGating"]]),
}
# Other widths than the profiled one: as the compiler's kernels of both, timed alone, compare (timings.csv).
ALONE = {"norm_add_rms_norm": ("gemma_norm_add_norm", 3840), "gelu_mul": ("gelu_mul", 15360)}
# FlashAttention's preparation of its schedule; the kernel behind it starts early, so it costs this beside its gap.
SCHEDULE_OVERLAP_US = 1.28


def waves():
    """[(tiles, factor)] of decodes with heads of 256: timed batches of 24, 48 and 96 over what lies between their neighbours, from
    1,024 keys on. A second wave begins behind 132 tiles; what it takes there follows from 192 and 256 tiles (derived)."""
    lines = {}
    with open(f"{FOLDER}/timings.csv", encoding="utf-8") as f:
        for r in csv.DictReader(f):
            if r["op"] == "attention_decode" and r["head_dim"] == "256" and int(r["context"]) >= 1023:
                lines.setdefault((r["heads"], int(r["kv_heads"]), r["window"], r["context"]), {})[int(r["sequences"])] = float(r["us"])
    by_tiles = {}
    for (_, kv, _, _), us in lines.items():
        plain = sorted((b, t) for b, t in us.items() if b & (b - 1) == 0)
        for b, t in us.items():
            if b & (b - 1) and b < plain[-1][0]:
                by_tiles.setdefault(kv * b, []).append(t / log_interpolate(plain, b))
            if kv * b == 192 and 4 * b // 3 in us:
                second = t - (us[4 * b // 3] - t) * (192 - 136) / 64
                by_tiles.setdefault(136, []).append(second / log_interpolate(plain, 136 / kv))
    out = {tiles: statistics.median(v) for tiles, v in by_tiles.items()}
    for tiles in (8, 32, 64, 128, 132, 256, 512, 1024, 2048):
        out[tiles] = DECODE_IN_ENGINE
    return sorted(out.items())


def corrections():
    return {"attention_decode_256": waves(), **OTHERS_OF_256}


def rows_of(model):
    """(tokens, kind of step, kernel, times a step, µs) of decodes at 1,024 tokens and of prompts."""
    with open(PATH, encoding="utf-8") as f:
        for r in csv.DictReader(f):
            kind, a, b = r["case"].split(":")
            if r["model"] == model and kind in "dp" and not (kind == "d" and b != "1024"):
                yield int(a), kind, r["kernel"], float(r["a_step"]), float(r["us"])


def summed(model, parts):
    """{tokens: µs}: the parts' durations, each with a gap of a graph; a step that lacks a part is left out."""
    steps = {}
    for tokens, kind, kernel, times, us in rows_of(model):
        for i, names in enumerate(parts):
            if any(name in kernel for name in names):
                steps.setdefault((tokens, kind), {}).setdefault(i, []).append((times, us))
    out = {}
    for (tokens, _), found in sorted(steps.items()):
        if len(found) == len(parts):
            us = sum(sum(n * t for n, t in v) / sum(n for n, _ in v) + GRAPH_GAP_US for v in found.values())
            out.setdefault(tokens, []).append(us)
    return out


def alone(op):
    """{width: [(tokens, µs)]} of a kernel timed by itself."""
    out = {}
    with open(f"{FOLDER}/timings.csv", encoding="utf-8") as f:
        for r in csv.DictReader(f):
            if r["op"] == op:
                out.setdefault(int(r["width"]), []).append((int(r["tokens"]), float(r["us"])))
    return {width: sorted(points) for width, points in out.items()}


def row_wise(part):
    """{(op, width): {rows: [µs]}}; of the part that was profiled only."""
    if part != "h200":
        return {}
    out = {key: summed(model, parts) for key, (model, parts) in ROW_WISE.items()}
    for op, (name, profiled) in ALONE.items():
        times = alone(name)
        for width in sorted(set(times) - {profiled}):
            out[(op, width)] = {m: [statistics.median(us) * log_interpolate(times[width], m) / log_interpolate(times[profiled], m)]
                                for m, us in out[(op, profiled)].items()}
    schedule = summed("gemma-3-12b", [["attention_schedule"]])
    out[("attention_schedule", 1)] = {rows: [statistics.median(us) - SCHEDULE_OVERLAP_US] for rows, us in schedule.items()}
    return out


def products(part):
    """{(n, k): {m: µs}} of Gemma-3-12B's products in decode steps: with the sum of split products, and with the counter that cuBLAS
    clears before the widest one up to four rows (a memset in a graph: 7 µs until the product begins)."""
    if part != "h200":
        return {}
    out = {}
    with open(PATH, encoding="utf-8") as f:
        for r in csv.DictReader(f):
            if r["model"] == "products" and r["case"].startswith("d:"):
                n, k = (int(x) for x in r["kernel"].split("x"))
                out.setdefault((n, k), {})[int(r["case"].split(":")[1])] = float(r["us"])
    return out
