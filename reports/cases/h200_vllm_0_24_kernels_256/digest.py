"""Profiles of tools/vllm_kernel_profile.py → kernels.csv: python3 digest.py MODEL=PROFILE.json.gz … > kernels.csv

A row is a kernel of a profiled step: how often a step has it, the median of its duration and of the gap before it (below zero: it
began while the one before ran), µs. Kernels that a step has fewer than nine times stand around the layers and are left out.
`attention_block`: from the start of attention's first kernel to the start of the kernel after its last. Model `products`: those of a
decode step of Gemma, named n x k: from the end of the kernel before to the start of the one behind less a gap of 0.42, so with the
counter that the library clears first (a memset) and the sum of products that it splits.
"""
import csv
import gzip
import json
import re
import statistics
import sys

ATTENTION = {"prepare_varlen_num_blocks": "attention_schedule", "FlashAttnFwdSm90": "attention", "FlashAttnFwdCombine": "attention_combine"}
SHORT = {"splitKreduce": "split_k_reduce", "reshape_and_cache_flash": "kv_write", "Memset": "memset", **ATTENTION}


def short(name):
    for text, label in SHORT.items():
        if text in name:
            return label
    return re.sub(r"^void |vllm::moe::|vllm::|at::native::", "", name).replace(",", " ")[:72]


def rows_of(events, steps):
    found = {}
    for i, (start, end, name) in enumerate(events):
        one = found.setdefault(short(name), ([], []))
        one[0].append(end - start)
        if i:
            one[1].append(start - events[i - 1][1])
    blocks = []
    names = [short(e[2]) for e in events]
    for i, name in enumerate(names):
        if name == "attention":
            first, after = i - (names[i - 1] == "attention_schedule"), i + 1
            while names[after] == "attention_combine":
                after += 1
            blocks.append(events[after][0] - events[first][0])
    if blocks:
        found["attention_block"] = (blocks, [])
    for name, (us, gaps) in found.items():
        if len(us) >= 9 * steps:
            yield name, f"{len(us) / steps:g}", f"{statistics.median(us):.3f}", f"{statistics.median(gaps):.3f}" if gaps else ""


GEMMA = {"qkv": (8192, 3840), "o": (3840, 4096), "gate_up": (30720, 3840), "down": (3840, 15360)}


def products_of(events):
    """Gemma's four products of a layer by what stands before and behind them."""
    kept, found = [], {}
    for start, end, name in events:
        kept.append([start, end, short(name)])
    for i, (start, end, name) in enumerate(kept[1:-2], 1):
        if not name.startswith("nvjet"):
            continue
        before, after = i - 1, i + 1
        while kept[before][2] == "memset":
            before -= 1
        while kept[after][2] == "split_k_reduce":
            after += 1
        use = "qkv" if kept[after][2].startswith("triton_red_fused_3") else "gate_up" if "gelu" in kept[after][2] else \
            "down" if "gelu" in kept[before][2] else "o" if kept[before][2] == "attention_combine" else None
        if use:
            found.setdefault(use, []).append(kept[after][0] - kept[before][1] - 0.42)
    for use, us in found.items():
        n, k = GEMMA[use]
        yield f"{n}x{k}", statistics.median(us)


out = csv.writer(sys.stdout, lineterminator="\n")
out.writerow(["model", "case", "kernel", "a_step", "us", "gap_us"])
for text in sys.argv[1:]:
    model, path = text.split("=")
    for case in json.load(gzip.open(path))["cases"]:
        for row in rows_of(sorted(case["events"]), 3 if case["case"][0] == "d" else 1):
            out.writerow([model, case["case"], *row])
        if model.startswith("gemma") and case["case"].startswith("d:") and case["case"].endswith(":1024"):
            for name, us in products_of(sorted(case["events"])):
                out.writerow(["products", case["case"], name, 48, f"{us:.3f}", ""])
