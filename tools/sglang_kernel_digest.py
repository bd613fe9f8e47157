#!/usr/bin/env python3
"""A kernel profile of SGLang steps → operators: reports/cases/h200_sglang_0_5_17_kernels/kernels.csv.

  tools/sglang_kernel_digest.py PROFILE.jsonl OUT.csv [--model qwen3-8b]

PROFILE.jsonl: a row a step, {"label": "DECODE 8", "mode": …, "ctx": sum of sequence lengths, "k": [[kernel, us, start], …]} as
torch.profiler (CUDA activities, one step at a time, synchronised before and after) gave them. Per label the repetitions but the
first are kept; of each kernel the median over layers and repetitions. Columns as vLLM's profiles; what has no operator of ours
is `outside_graph` (its number and sum a step). Dense models with norms per head only. Standard library only.
"""
import argparse
import collections
import csv
import json
import statistics

# Kernel name (its beginning, after "void " and namespaces) → operator.
OPERATORS = [("flashinfer::norm::FusedAddRMSNormKernel", "add_rms_norm"), ("fused_qknorm_warp", "qk_norm"),
             ("fused_rope_kernel", "rotary"), ("store_kvcache", "kv_write"), ("act_and_mul_kernel", "silu_mul"),
             ("at::native::elementwise_kernel", "attention_copy"), ("cutlass::device_kernel", "attention"),
             ("flash::prepare_varlen_num_blocks_kernel", "attention_plan"), ("nvjet", "gemm"),
             ("cublasLt::splitKreduce_kernel", "gemm_reduce"), ("at::native::reduce_kernel", "argmax")]
WIDTHS = {"qwen3-8b": {"add_rms_norm": 4096, "qk_norm": 5120, "rotary": 5120, "kv_write": 1024, "silu_mul": 12288,
                       "attention_copy": 5120, "argmax": 151936}}
LAYERS = {"qwen3-8b": 36}


def operator_of(kernel):
    name = kernel.replace("void ", "").replace("(anonymous namespace)::", "")
    return next((op for start, op in OPERATORS if name.startswith(start)), "outside_graph")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("profile")
    parser.add_argument("out")
    parser.add_argument("--model", default="qwen3-8b")
    a = parser.parse_args()
    steps = collections.defaultdict(list)
    with open(a.profile, encoding="utf-8") as f:
        for line in f:
            row = json.loads(line)
            steps[row["label"]].append(row)
    rows = []
    for label, repeated in steps.items():
        mode, size = label.split()[:2]
        durations, counts = collections.defaultdict(list), collections.defaultdict(list)
        for step in repeated[1:]:
            here = collections.defaultdict(list)
            for kernel, us, _ in step["k"]:
                here[operator_of(kernel)].append(us)
            for op, all_us in here.items():
                durations[op] += all_us
                counts[op].append((len(all_us), sum(all_us)))
        decode = mode == "DECODE"
        tokens, sequences = int(size), int(size) if decode else 1
        context = statistics.median(s["ctx"] for s in repeated[1:]) / sequences if decode else 0
        for op in sorted(durations):
            number, total = statistics.median(c for c, _ in counts[op]), statistics.median(t for _, t in counts[op])
            per_layer = op in ("attention", "gemm", "gemm_reduce", "attention_plan", "outside_graph")
            rows.append([a.model, ("d:" if decode else "p:") + size, op, tokens, sequences, round(context), WIDTHS[a.model].get(op, 0), 0,
                         int(number), f"{total if per_layer else statistics.median(durations[op]):.3f}"])
    with open(a.out, "w", encoding="utf-8", newline="") as f:
        writer = csv.writer(f, lineterminator="\n")
        writer.writerow("model,case,op,tokens,sequences,context,n,k,kernels,us".split(","))
        writer.writerows(sorted(rows, key=lambda r: (r[1][0], r[3], r[2])))
    print(f"{a.out}: {len(rows)} rows of {len(steps)} kinds of steps")


if __name__ == "__main__":
    main()
