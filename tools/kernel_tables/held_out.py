"""Timings that no table of a set was made of, as operators that `orrery cost --ops` prices.

Each source yields (operator row, format, x of its region, measured us). Operators that have no row (whole expert layers)
are priced here, from the committed CSV, as costmodel/ops/fused_experts.cpp does.
"""
import copy
import csv
import glob
import io
import os
import subprocess

from . import attention as att
from . import dense, layers
from .base import M_KNOTS, attention_bound_us, blended, carried, experts_bound_us, gemm_bound_us, timed_part

# Versions of the published tables that a set was not made of, by part.
OTHER = {("vllm-0.24", "h200"): "0.22.0", ("vllm-0.24", "h100"): "0.19.0", ("vllm-0.24", "l40s"): "0.22.0",
         ("sglang-0.5", "h100"): "0.5.10", ("sglang-0.5", "h200"): "0.5.10", ("sglang-0.5", "l40s"): "0.5.10",
         ("tensorrt-llm-1.2", "h100"): "1.3.0rc20", ("tensorrt-llm-1.2", "h200"): "1.3.0rc20",
         ("tensorrt-llm-1.2", "l40s"): "1.3.0rc15"}
EVERY = 7  # of many, to keep the report within minutes


def gemm_row(fmt, m, n, k):
    return {"op": "gemm", "m": m, "n": n, "k": k, "dtype": fmt}


def attention_row(phase, key, batch, length):
    row = {"op": "attention_" + phase, "dtype": "bf16", "kv_dtype": key[4], "heads": key[0], "kv_heads": key[1],
           "head_dim": key[2]}
    return {**row, "sequences": [[length, 0]] * batch} if phase == "prefill" else {**row, "batch": batch, "context": length}


def between_knots(fit):
    """Rows of the same published table that are no knots, with its corrections (quantisation off, warm weights raised)."""
    quantise = fit.quantise() if any(g.quantises for g in fit.engine.gemm) else None
    for gemm in fit.engine.gemm:
        times, _, _ = dense.gemm_times(fit.timed, fit.published, fit.engine, fit.part_name, gemm, quantise)
        for (n, k), by_m in times.items():
            for m, us in by_m.items():
                if m not in M_KNOTS and m - 1 not in M_KNOTS and 1024 <= n <= 16384 and 1024 <= k <= 16384:
                    bounds = [gemm_bound_us(p, gemm.formats[0], m, n, k) for p in (fit.part, fit.timed)]
                    yield gemm_row(gemm.formats[0], m, n, k), gemm.formats[0], m, carried(us, *bounds)


def other_version(fit):
    """The same operators out of another version's tables."""
    version = OTHER.get((fit.engine.name, fit.part_name))
    if not version:
        return
    other = copy.copy(fit.engine)
    other.versions, other.repeats = {"all": version}, []
    if not fit.engine.repeats:  # else its products are in the set's median
        for gemm in fit.engine.gemm:
            if not gemm.quantises:
                for (n, k), by_m in dense.published_times(fit.published, other, fit.part_name, gemm).items():
                    if 1024 <= n <= 16384 and 1024 <= k <= 16384:
                        yield from ((gemm_row(gemm.formats[0], m, n, k), gemm.formats[0], m, us) for m, us in by_m.items())
    for phase in ("prefill", "decode"):
        if fit.engine.version(fit.part_name, phase) == version:
            continue
        table = att.published_times(fit.published, other, fit.part_name, phase)
        if phase == "decode":
            att.without_warm_keys(fit.timed, table)
        for key, by_length in table.items():
            if key[3]:  # an operator row has no window
                continue
            for n, row in by_length.items():
                for b, us in row.items():
                    # Some collections are faster than the data sheet (SGLang 0.5.12 on the L40S): not timings.
                    if us > attention_bound_us(fit.timed, phase, key, b, n) and (b * n <= 65536 or phase == "decode"):
                        yield attention_row(phase, key, b, n), key[4], att.axis_value(phase, key, b, n), us
    for (op, ranks), by_size in layers.collective_times(fit.published, other, fit.part_name).items():
        if op == "all_reduce":
            yield from (({"op": op, "bytes": s, "ranks": ranks}, "", s, us) for s, us in by_size.items())


def csv_rows(path):
    if path.endswith(".zst"):
        text = subprocess.run(["zstd", "-dc", path], check=True, capture_output=True).stdout.decode()
        return list(csv.DictReader(io.StringIO(text)))
    with open(path, encoding="utf-8") as f:
        return list(csv.DictReader(f))


def apex_plus(fit, shared):
    """NCCL on other machines (microsoft/apex_plus)."""
    name = {"h100": "H100-SXM-80GB", "h200": "H200-SXM-141GB"}.get(fit.part_name)
    for op, stem in (("all_gather", "all_gather"), ("reduce_scatter", "reduce_scatter"), ("all_to_all", "alltoall"),
                     ("all_reduce", "all_reduce")):
        path = f"{shared}/data/apex_plus/{name}__{stem}.csv"
        for r in csv_rows(path) if name and os.path.exists(path) else []:
            size, ranks = int(float(r["size(kb)"]) * 1024), int(r["num_gpus_per_node"])
            limit = fit.engine.custom_below.get(ranks, 1 << 60) if op == "all_reduce" else 1024
            if r["num_nodes"] == "1" and ranks in (2, 4, 8) and size >= limit:
                yield {"op": op, "bytes": size, "ranks": ranks}, "", size, float(r["time(us)"])


def llmservingsim(fit, shared):
    """Dense bf16 products of Llama 3.1 and Mixtral on an H100, every number of rows from 1 to 2,048."""
    widths = {"meta-llama__Llama-3.1-8B": (4096, 14336, 1024), "meta-llama__Llama-3.1-70B": (8192, 28672, 1024)}
    for model, (hidden, inner, kv) in widths.items():
        path = f"{shared}/data/llmservingsim/H100__{model}__tp1__layers.csv.zst"
        shapes = {"q_proj": (hidden, hidden), "o_proj": (hidden, hidden), "k_proj": (kv, hidden), "gate_proj": (inner, hidden),
                  "down_proj": (hidden, inner)}
        for r in csv_rows(path) if fit.part_name == "h100" and os.path.exists(path) else []:
            if r["layer_name"] in shapes:
                n, k = shapes[r["layer_name"]]
                m = int(r["input"])
                yield gemm_row("bf16", m, n, k), "bf16", m, float(r["latency(ns)"]) / 1000


def infersim(fit, shared):
    """An H20 with 96 GB: DeepGEMM products, prompts and decodes with 32 heads over 8 (alibaba/InferSim). The other decode
    files have a floor of 26 to 35 us a launch: times of their host."""
    folder = f"{shared}/data/infersim/bench_data"
    if fit.part_name != "h20" or not os.path.exists(folder):
        return
    if fit.engine.name != "vllm-0.24":
        for r in csv_rows(f"{folder}/gemm/h20/data.csv"):
            m, n, k = int(r["m"]), int(r["n"]), int(r["k"])
            yield gemm_row("fp8-block", m, n, k), "fp8-block", m, float(r["latency_us"])
    if fit.engine.name != "tensorrt-llm-1.2":
        return
    for path in sorted(glob.glob(f"{folder}/mha/prefill/h20/*-128.csv")):
        heads, kv, d = map(int, os.path.basename(path)[:-4].split("-"))
        for r in csv_rows(path):
            n = int(r["seq_len"])
            yield attention_row("prefill", (heads, kv, d, 0, "bf16"), 1, n), "bf16", n, float(r["latency_us"])
    for r in csv_rows(f"{folder}/mha/decode/h20/32-8-128.csv"):
        b, n, key = int(r["batch_size"]), int(r["kv_len"]), (32, 8, 128, 0, r["kv_dtype"])
        yield attention_row("decode", key, b, n), r["kv_dtype"], b * 8, float(r["latency_us"])


def experts_other_version(fit):
    """(format, tokens, measured us, predicted us) of whole expert layers in another version's table."""
    version = OTHER.get((fit.engine.name, fit.part_name))
    path = f"{fit.folder}/experts.csv"
    if not version or not os.path.exists(path):
        return
    curves = {}
    for r in csv_rows(path):
        group = curves.setdefault((r["dtype"], int(r["experts"]), int(r["per_token"])), {})
        group[int(r["hidden"]), int(r["intermediate"])] = [(int(c), float(u)) for c, u in r.items() if c.isdigit() and u]
    other = copy.copy(fit.engine)
    other.versions, other.experts = {"all": version}, dict.fromkeys(fit.engine.experts)
    for (fmt, hidden, inner, count, top, _), by_tokens in layers.expert_times(fit.published, other, fit.part_name).items():
        group = curves.get((fmt, count, top))
        for t, us in by_tokens.items() if group else []:
            bound = experts_bound_us(timed_part(fit.part_name), fmt, hidden, inner, count, top, t)
            yield fmt, t, us, bound / blended(group, sorted(group), (hidden, inner), t)
