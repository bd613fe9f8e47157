#!/usr/bin/env python3
"""Kernel times of real vLLM steps, by operator: tools/vllm_kernel_digest.py PROFILE.json.gz… --out DIGEST.csv

Reads what tools/vllm_kernel_profile.py wrote on a GPU machine (a list of kernels with start and end for each
profiled step) and names each kernel by the operator of Orrery's step graph that it implements, in launch order.
Rows: model,case,op,tokens,sequences,context,n,k,kernels,us. `us` is the median duration of the operator's kernels
without the gaps between them; op `outside_graph` holds the kernels before and after the layers.
"""
import argparse
import csv
import gzip
import json
import statistics
import sys

# (op, substring of the kernel's name); the first that fits names it
PATTERNS = [
    ("attention_combine", "FlashAttnFwdCombine"), ("attention", "FlashAttnFwdSm90"),
    ("kv_write", "reshape_and_cache_flash"), ("fused_moe", "fused_moe_kernel"),
    ("deep_gemm", "deep_gemm::sm90_fp8_gemm"), ("split_k", "splitKreduce"), ("gemm", "nvjet_"),
    ("add_rms_norm_quantize", "rms_norm_per_block_quant"), ("quantize", "per_token_group_quant"),
    ("topk", "topkGating"), ("moe_align", "moe_align_block_size"), ("moe_align", "count_and_sort_expert"),
    ("silu_mul", "act_and_mul"), ("silu_mul", "mul_silu"), ("moe_combine", "reduce_kernel<128"),
    ("add_rms_norm", "fused_add_rms_norm"), ("rotary", "triton_red_fused_"), ("rotary", "triton_poi_fused_"),
    ("bias", "_bias_kernel"), ("gumbel", "_gumbel_sample_kernel"), ("argmax", "reduce_kernel<512"),
    ("logits_copy", "direct_copy_kernel_cuda"), ("moe_copy", "memcpy32_post"), ("moe_copy", "memcpy128"),
    ("moe_copy", "Memcpy DtoD"),
]


def op_of(name):
    if "embedding" in name:
        return "embedding"
    for op, text in PATTERNS:
        if text in name:
            return op
    return "other"


def config_of(path):
    with open(path, encoding="utf-8") as f:
        c = json.load(f)
    d = c.get("head_dim") or c["hidden_size"] // c["num_attention_heads"]
    return {"hidden": c["hidden_size"], "layers": c["num_hidden_layers"], "heads": c["num_attention_heads"],
            "kv": c["num_key_value_heads"], "d": d, "inner": c["intermediate_size"], "vocabulary": c["vocab_size"],
            "experts": c.get("num_experts", 0), "top_k": c.get("num_experts_per_tok", 0),
            "expert_inner": c.get("moe_intermediate_size", 0)}


def groups_of_layer(events, model):
    """Splits the kernels of one step into operators: (op, n, k, us, kernels) in launch order, and the rest."""
    dense = [(model["heads"] + 2 * model["kv"]) * model["d"], model["hidden"]], \
        [model["hidden"], model["heads"] * model["d"]], [2 * model["inner"], model["hidden"]], \
        [model["hidden"], model["inner"]]
    out, outside, gemms, deep, moe, quantized = [], [], 0, 0, 0, 0
    first = next(i for i, e in enumerate(events) if op_of(e[2]) in ("gemm", "deep_gemm"))
    for i, (start, end, name) in enumerate(events):
        op, us = op_of(name), end - start
        if i < first or op in ("other", "bias", "gumbel", "argmax", "embedding", "logits_copy"):
            outside.append((op, us))
        elif op == "moe_copy" and (not model["experts"] or not out or out[-1][0] != "moe_combine"):
            outside.append(("other", us))
        elif op == "split_k" and out:
            o = out[-1]
            out[-1] = (o[0], o[1], o[2], o[3] + us + 0.8, o[4])  # its gap to the product: 0.8 us in a graph
        elif op == "gemm":
            if model["experts"]:
                n, k = (model["experts"], model["hidden"]) if gemms < model["layers"] else \
                    (model["vocabulary"], model["hidden"])
            else:
                n, k = dense[gemms % 4] if gemms < 4 * model["layers"] else (model["vocabulary"], model["hidden"])
            gemms += 1
            out.append(("gemm", n, k, us, 1))
        elif op == "deep_gemm":
            n, k = dense[deep % 2]
            deep += 1
            out.append(("gemm_fp8_block", n, k, us, 1))
        elif op == "fused_moe":
            n, k = (2 * model["expert_inner"], model["hidden"]) if moe % 2 == 0 else \
                (model["hidden"], model["expert_inner"])
            moe += 1
            out.append(("grouped_gemm", n, k, us, 1))
        elif op == "quantize":
            width = [model["heads"] * model["d"], model["hidden"], model["expert_inner"]][quantized % 3]
            quantized += 1
            out.append(("quantize", width, 0, us, 1))
        else:
            n = {"add_rms_norm": model["hidden"], "add_rms_norm_quantize": model["hidden"],
                 "rotary": (model["heads"] + model["kv"]) * model["d"], "kv_write": 2 * model["kv"] * model["d"],
                 "silu_mul": model["expert_inner"] or model["inner"], "topk": model["experts"],
                 "moe_align": model["top_k"], "moe_combine": model["hidden"], "moe_copy": model["hidden"]}.get(op, 0)
            if out and out[-1][0] == op and op in ("rotary", "moe_align"):
                o = out[-1]
                out[-1] = (op, n, 0, o[3] + us, o[4] + 1)
            else:
                out.append((op, n, 0, us, 1))
    return out, outside


def steps_of(case):
    """Three decode steps were profiled in a row; they have equally many kernels."""
    events, count = case["events"], 3 if case["case"].startswith("d:") else 1
    per = len(events) // count
    return [events[i * per:(i + 1) * per] for i in range(count)]


def shape_of(name):
    kind, a, b = name.split(":")
    a, b = int(a), int(b)
    if kind == "d":
        return a, a, b
    return (a, 1, 0) if kind == "p" else (a + b, a + 1, 0)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("profiles", nargs="+", help="NAME=PROFILE.json.gz=CONFIG.json")
    parser.add_argument("--out", required=True)
    arguments = parser.parse_args()
    rows = []
    for text in arguments.profiles:
        name, profile, config = text.split("=")
        model = config_of(config)
        with gzip.open(profile, "rt") as f:
            data = json.load(f)
        for case in data["cases"]:
            tokens, sequences, context = shape_of(case["case"])
            seen, outside = {}, []
            for events in steps_of(case):
                ops, rest = groups_of_layer(events, model)
                outside.append(rest)
                for op, n, k, us, kernels in ops:
                    seen.setdefault((op, n, k, kernels), []).append(us)
            for (op, n, k, kernels), times in sorted(seen.items()):
                if len(times) * 3 < model["layers"] and op not in ("gemm",):
                    continue  # once a step: first and last norms
                rows.append([name, case["case"], op, tokens, sequences, context, n, k, kernels,
                             round(statistics.median(times), 3)])
            last = outside[-1]
            copies = sorted((us for o, us in last if o == "logits_copy"), reverse=True)
            for op in ("bias", "gumbel", "argmax", "logits_copy"):  # of the copies the logits' is the longest
                times = copies[:1] if op == "logits_copy" else [us for o, us in last if o == op]
                if times:
                    rows.append([name, case["case"], op, tokens, sequences, context, model["vocabulary"], 0,
                                 len(times), round(sum(times), 3)])
            rest = [us for o, us in last if o in ("other", "embedding")] + copies[1:]
            # Kernels that come once a layer (fills, memsets) belong to the layers, not to the step.
            rows.append([name, case["case"], "outside_graph", tokens, sequences, context, 0, 0,
                         len(rest) % model["layers"], round(sum(sorted(rest)[-(len(rest) % model["layers"]):]), 3)])
    with open(arguments.out, "w", newline="", encoding="utf-8") as f:
        w = csv.writer(f, lineterminator="\n")
        w.writerow(["model", "case", "op", "tokens", "sequences", "context", "n", "k", "kernels", "us"])
        w.writerows(rows)
    print(f"{len(rows)} rows", file=sys.stderr)


if __name__ == "__main__":
    main()
