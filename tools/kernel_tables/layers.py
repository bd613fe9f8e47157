"""Fused expert layers, collectives and the quantisation of activations out of published tables."""
import math
import statistics

from .base import blended, carried, experts_bound_us, log_interpolate
from .engines import ENGINES, EXPERT_FORMATS


UNEQUAL = "power_law_1.01"
UNEQUAL_FORMATS = ("w4a16_mxfp4", "int4_wo")
ROWS_OF_ALL = 8  # rows an expert from which a router leaves hardly any expert without


def expert_times(published, engine, part_name, distributions=("balanced",)):
    """{(format, hidden, inner, experts, k, kernel): {tokens: us}}: whole layers on one rank.

    "balanced" gives every expert the same rows, which at most of the sizes timed fill tiles to the last row. No router does
    that: half a tile more an expert is what unequal rows take. The kernels for weights of four bits, whose tiles are as wide
    as the rows are many, take 1.1 to 1.6 times as long from 256 tokens up as soon as rows differ: there the mildest of the
    unequal distributions that were timed counts where it takes longer. Below, and for other formats, whose difference is
    smaller and partly in the corrections from real steps, equal rows do."""
    raw, unequal = {}, {}
    for r in published.rows("moe", engine.table("moe_perf", part_name, "experts")):
        dtype = r["moe_dtype"]
        takes = distributions + ((UNEQUAL,) if dtype in UNEQUAL_FORMATS else ())
        if dtype not in engine.experts or "nongated" in r["kernel_source"] or r["distribution"] not in takes:
            continue
        if engine.experts[dtype] not in (None, r["kernel_source"]):
            continue
        inner = int(r["inter_size"]) // int(r["moe_tp_size"])
        if int(r["moe_ep_size"]) != 1 or inner < 64:
            continue
        key = (EXPERT_FORMATS[dtype], int(r["hidden_size"]), inner, int(r["num_experts"]), int(r["topk"]), r["kernel_source"])
        into = raw if r["distribution"] in distributions else unequal
        into.setdefault(key, {})[int(r["num_tokens"])] = float(r["latency"]) * 1e3
    for key, by_tokens in raw.items():
        for tokens in by_tokens:
            if tokens * key[4] >= ROWS_OF_ALL * key[3]:
                by_tokens[tokens] = max(by_tokens[tokens], unequal.get(key, {}).get(tokens, 0))
    return {key: dict(sorted(v.items())) for key, v in sorted(raw.items())}


# DeepSeek-V3's layers of vLLM's tables: from 16 tokens on they were timed in 0.58 to 0.95 of the time in which memory can deliver
# the weights of all experts chosen, so fewer were (scores alike, of which the router's groups leave some: 4 of 8). Kernels of our own
# runs take what Kimi-K2's layers, as wide, say at as many rows an expert (reports/cases/h200_vllm_0_24_features, profiles of
# DeepSeek-V3 with MTP: 180, 345, 1,700, 2,330, 2,845, 3,065 and 4,780 us for 2, 4, 32, 64, 128, 1,024 and 3,072 tokens).
FEWER_CHOSEN = {("fp8-block", 7168, 256, 8): 384}


# SGLang serves DeepSeek-V3's layers with the shared expert as one of 257 (models/deepseek_v2.py, num_fused_shared_experts), for whose
# slices of eight GPUs its wheels of 0.5.9 and 0.5.14 have tiles tuned on the H200: 16 rows to 256 tokens, 32 to 512
# (fused_moe_triton/configs/triton_3_5_1/E=257,N=256,…). What was timed are 256 without it, for which the newest file is of
# triton_3_1_0: 64 rows from 24 tokens on, two fifths of whose time goes by beside the weights' way from memory; layers of the whole
# width, timed beside them, lose a tenth as our own profile of such layers does (FEWER_CHOSEN above). So the slice is the whole layer's
# products by width and the kernels around them. From 1,024 tokens on both files have tiles of 64 rows.
SERVED_NARROWER = {("h200", "sglang"): ("fp8-block", 7168, 256, 256, 8)}
WHOLE_WIDTH, ANOTHER_FILE_BELOW = 2048, 1024
START_US = 2.6 * 1.3  # of a kernel around products: costmodel/ops/fused_experts.cpp
CHOICE_US = 3.9       # of experts, which timings hold (CHOICE_INSIDE) and the cost model takes off whole: docs/calibration.md


def around_us(part, hidden, inner, per_token, tokens, quantised=True):
    """What stands around both products: the choice, starts, and passes over rows (one_rank of costmodel/ops/fused_experts.cpp)."""
    rows, apart = tokens * per_token, 3 if quantised else 0
    passes = rows * ((6 + apart) * inner + 2 * hidden) + tokens * (2 + apart) * hidden
    return CHOICE_US + (9 if quantised else 7) * START_US + passes / part["bandwidth"] * 1e6


def as_served(part, part_name, published, engine):
    """Times of layers, those that were timed in tiles of another size put right. The whole width is 0.5.9's: 0.5.14's was timed in
    less than memory takes."""
    table, key = expert_times(published, engine, part_name), SERVED_NARROWER.get((part_name, engine.prefix))
    for name, by_tokens in table.items():
        if name[:5] != key:
            continue
        whole = expert_times(published, ENGINES["sglang-0.5.9"], part_name)[(*key[:2], WHOLE_WIDTH, *name[3:])]
        for tokens in [t for t in by_tokens if t < ANOTHER_FILE_BELOW and t in whole]:
            products = whole[tokens] - around_us(part, key[1], WHOLE_WIDTH, key[4], tokens)
            by_tokens[tokens] = products * key[2] / WHOLE_WIDTH + around_us(part, *key[1:3], key[4], tokens)
    return table


# Marlin's experts for mxfp4 (vLLM, VLLM_MXFP4_USE_MARLIN=1) were timed on Hopper for a layer of 896 experts, 3,584 x 3,072 and
# slices, 16 a token, and for gpt-oss on the L40S alone. gpt-oss' layers are nearly as wide: their products take what those do at as
# many rows an expert. At 32 and 48 tokens the timed ones take half of what they take at 64, on the H100 0.7 of what memory takes for
# as many experts as were said: fewer were chosen, and those two sizes are left out.
MARLIN_TIMED = ("mxfp4", 3584, 3072, 896, 16)
MARLIN_CHOSE_FEWER = (32, 48)


def triton_mxfp4(part, part_name, published):
    """Curves of layers with mxfp4 by OpenAI's Triton kernels, which were timed in vLLM."""
    vllm = ENGINES["vllm-0.24"]
    table = {key: times for key, times in expert_times(published, vllm, part_name).items() if key[0] == "mxfp4"}
    return expert_curves(part, part, vllm, table)[0]


def marlin_mxfp4(part, part_name, published, engine, layers_of):
    """Curves of the layers with mxfp4 among `layers_of`, by Marlin."""
    timed = {}
    for key, by_tokens in expert_times(published, engine, part_name).items():
        if (key[0], key[1], *key[3:5]) == (MARLIN_TIMED[0], MARLIN_TIMED[1], *MARLIN_TIMED[3:]):
            hiccup = lambda t, us: us > 1.3 * min([x for n, x in by_tokens.items() if n > t], default=math.inf)  # noqa: E731, B023
            timed[key[2]] = [(t, experts_bound_us(part, *key[:5], t) / (us - around_us(part, *key[1:3], key[4], t, False)))
                             for t, us in by_tokens.items() if t not in MARLIN_CHOSE_FEWER and not hiccup(t, us)]
    curves = {}
    for key in [k for k in layers_of if k[0] == "mxfp4"]:
        width = min(timed, key=lambda inner: abs(math.log(inner / MARLIN_TIMED[2] * key[1] / key[2])))
        denser = (key[4] / key[3]) / (MARLIN_TIMED[4] / MARLIN_TIMED[3])
        curves[(*key[:5], "marlin (timed on another layer)")] = points = []
        for t, _ in layers_of[key]:
            bound = experts_bound_us(part, *key[:5], t)
            us = bound / log_interpolate(timed[width], t * denser) + around_us(part, *key[1:3], key[4], t, False)
            points.append((t, bound / us))
    return curves


def expert_curves(part, timed, engine, table, corrections=()):
    """Utilisation by tokens; what is above the bound is dropped, as are hiccups (new sets: the vLLM set has none)."""
    curves, dropped = {}, 0
    for key, by_tokens in table.items():
        points = []
        for t, us in by_tokens.items():
            bound = experts_bound_us(part, *key[:5], t)
            u = bound / carried(us, bound, experts_bound_us(timed, *key[:5], t))
            later = min([x for n, x in by_tokens.items() if n > t], default=math.inf)
            if engine.thin and (u > 1 or us > 1.3 * later):
                dropped += 1
                continue
            points.append((t, u))
        if points:
            curves[key] = points
    # One width above the bound says it of all: narrow ones, whose kernels stream less well, were timed with as few.
    beaten = {(key[:2], key[3:]) for key, points in curves.items() if max(u for _, u in points) > 1.05}
    for key, points in curves.items():
        other = FEWER_CHOSEN.get((key[0], key[1], *key[3:5]))
        relative = curves.get((*key[:3], other, *key[4:]))
        if relative and (key[:2], key[3:]) in beaten:
            # Corrections are another layer's: taken out again.
            factor = lambda t: log_interpolate(corrections, t) if corrections else 1.0  # noqa: E731
            curves[key] = [(t, factor(t) * log_interpolate(relative, t * other / key[3])) for t, _ in points]
    return curves, dropped


EXPERT_REGIONS = [(1, 64), (65, 512), (513, 1e9)]


def expert_deviations(curves):
    """{format: {region: (points, whole widths left out among layers with as many experts and choices)}}"""
    out = {}
    for key, curve in curves.items():
        group = {k[1:3]: v for k, v in curves.items() if (k[0], *k[3:5]) == (key[0], *key[3:5]) and k != key}
        for i, (t, u) in enumerate(curve):
            region = next(r for r in EXPERT_REGIONS if r[0] <= t <= r[1])
            points, left_out = out.setdefault(key[0], {}).setdefault(region, ([], []))
            if 0 < i < len(curve) - 1:
                points.append(abs(math.log(log_interpolate([curve[i - 1], curve[i + 1]], t) / u)))
            if group:
                left_out.append(abs(math.log(blended(group, sorted(group), key[1:3], t) / u)))
    return out


def collective_times(published, engine, part_name):
    """{(op, ranks): {bytes: us}}: the engine's all-reduce in graphs below its limit, NCCL for the rest."""
    out = {}
    below = lambda ranks, size: not engine.custom_below or size < engine.custom_below.get(ranks, 0)  # noqa: E731
    for r in published.rows("comm", engine.table("custom_allreduce_perf", part_name, "collectives")):
        ranks, size = int(r["num_gpus"]), int(r["message_size"]) * 2
        if r["kernel_source"] == engine.all_reduce and below(ranks, size):
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
            if op != "all_reduce" or not below(ranks, size):
                out.setdefault((op, ranks), {}).setdefault(size, float(r["latency"]) * 1e3)
        if rows:
            break
    return {key: dict(sorted(v.items())) for key, v in sorted(out.items())}


def without_spikes(by_size):
    """A size that takes over 1.5 times as long as a larger one was disturbed."""
    return {s: us for s, us in by_size.items() if us <= 1.5 * min([u for n, u in by_size.items() if n > s], default=us)}


def collective_curves(part, engine, table):
    curves, dropped = {}, 0
    for key, by_size in table.items():
        kept = without_spikes(by_size) if engine.thin else by_size
        dropped += len(by_size) - len(kept)
        curves[key] = [(s, s / part["link"] * 1e6 / us) for s, us in kept.items()]
    return curves, dropped


def along_axis(curves):
    """|log(time)| of inner points left out."""
    return [abs(math.log(log_interpolate([c[i - 1], c[i + 1]], c[i][0]) / c[i][1]))
            for c in curves.values() for i in range(1, len(c) - 1)]


class Quantise:
    """Time of the quantisation of m x k activations to FP8, from TensorRT-LLM's published tables of the same part (of
    the H200 for its relative the H20-3e, which has the same memory): with scales given, or computed first."""

    def __init__(self, published, engine_of_tables, part_name):
        self.static, self.dynamic = {}, {}
        for stem, into in (("scale_matrix_perf", (self.static, self.dynamic)), ("computescale_perf", (self.dynamic,))):
            for r in published.rows("quantize", engine_of_tables.table(stem, part_name, "quantise")):
                m, k = int(r["m"]), int(r["k"])
                if m >= 1 and k >= 256:
                    for table in into:
                        row = table.setdefault(k, {})
                        row[m] = row.get(m, 0) + float(r["latency"]) * 1e3
        self.lines = {kind: {k: sorted(by_m.items()) for k, by_m in sorted(table.items())}
                      for kind, table in (("static", self.static), ("dynamic", self.dynamic))}

    def __call__(self, kind, m, k):
        lines = self.lines[kind]
        points = [(width, log_interpolate(row, m)) for width, row in lines.items()]
        us = log_interpolate(points, k)
        rows = next(iter(lines.values()))
        return us * max(1.0, m / rows[-1][0]) * max(1.0, k / points[-1][0])  # beyond the table: by size

    def rows(self):
        """(rows, width, us) of the kernel with scales given."""
        return [(m, k, us) for k, by_m in sorted(self.static.items()) for m, us in sorted(by_m.items())]


def median(values):
    return statistics.median(values) if values else None
