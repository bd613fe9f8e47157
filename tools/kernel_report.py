#!/usr/bin/env python3
"""reports/results/kernels_<part>_tables.md: our kernels on a part beside what else was timed on it.

tools/kernel_report.py [--part h100] — from hardware_profiles/tables/<part>/{orrery,vllm-0.24} and the kernel profile of
real vLLM steps. Nothing is measured here; every number names its table.
"""
import argparse
import csv
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import fit_kernel_tables as fit  # noqa: E402
from table_errors import rows_per_expert  # noqa: E402

ROOT = fit.ROOT


def table(part, kernels, name):
    path = f"{ROOT}/hardware_profiles/tables/{part}/{kernels}/{name}.csv"
    if not os.path.exists(path):
        return []
    with open(path, encoding="utf-8") as f:
        return list(csv.DictReader(f))


def engine_profile(part_name):
    """Kernels of real vLLM steps on this part; empty where none was profiled."""
    return fit.digest(part_name) if os.path.exists(f"{ROOT}/reports/cases/{part_name}_vllm_0_24_kernels/kernels.csv") else []


def markdown(header, rows):
    line = lambda cells: "| " + " | ".join(str(c) for c in cells) + " |\n"  # noqa: E731
    return line(header) + line(["---"] + ["--:"] * (len(header) - 1)) + "".join(map(line, rows))


def fitted(rows, key, axis, bound):
    """Time of a fitted table's cell, or None."""
    for r in rows:
        if all(r[c] == str(v) for c, v in key.items()) and r.get(str(axis)):
            return bound / float(r[str(axis)])
    return None


def number(us):
    return "–" if us is None else f"{us:.1f}"


def gemm(part_name, part):
    ours, theirs, engine = table(part_name, "orrery", "gemm"), table(part_name, "vllm-0.24", "gemm"), engine_profile(part_name)
    rows = []
    for n, k in ((6144, 4096), (4096, 4096), (24576, 4096), (4096, 12288)):
        for m in (1, 64, 256, 1024, 4096, 8192):
            us = next((float(r["us"]) for r in ours if (r["dtype"], r["m"], r["n"], r["k"]) ==
                       ("bf16", str(m), str(n), str(k))), None)
            bound = fit.gemm_bound_us(part, "bf16", m, n, k)
            published = fitted(theirs, {"dtype": "bf16", "n": n, "k": k, "kernel": "torch.linear"}, m, bound)
            in_engine = next((r["us"] for r in engine if r["op"] == "gemm" and (r["n"], r["k"]) == (n, k) and
                              r["tokens"] == m), None)
            if us:
                rows.append([f"{m}×{n}×{k}", number(us), f"{100 * bound / us:.0f} %", number(published), number(in_engine)])
    return markdown(["m×n×k, bf16", "cuBLASLt, ours, µs", "of the bound", "published (torch), µs", "in vLLM's step, µs"], rows)


def decode(part_name, part):
    ours, theirs = table(part_name, "orrery", "attention_decode"), table(part_name, "vllm-0.24", "attention_decode")
    rows = []
    for batch, context in ((1, 1024), (1, 131072), (16, 1024), (64, 1024), (64, 4096), (128, 2048), (256, 1024)):
        key = (32, 8, 128, 0, "bf16", "")
        bound = fit.attention_bound_us(part, "decode", key, batch, context)
        us = next((float(r["us"]) for r in ours if (r["heads"], r["kv_heads"], r["head_dim"], r["kv_dtype"], r["batch"],
                                                    r["context"]) == ("32", "8", "128", "bf16", str(batch), str(context))), None)
        published = fitted(theirs, {"heads": 32, "kv_heads": 8, "head_dim": 128, "kv_dtype": "bf16", "window": 0,
                                    "context": context}, batch, bound)
        if us:
            rows.append([f"{batch} × {context}", number(us), f"{100 * bound / us:.0f} %", number(published)])
    return markdown(["sequences × context, 32/8 heads of 128", "ours, µs", "of the bound", "FlashAttention 3 (published), µs"], rows)


def forms(part_name, table_name):
    """{shape: {kernel: us}} of every kernel that did the point."""
    out = {}
    path = f"{ROOT}/reports/cases/{part_name}_kernel_forms/forms.csv"
    if os.path.exists(path):
        with open(path, encoding="utf-8") as f:
            for r in csv.DictReader(f):
                if r["table"] == table_name:
                    out.setdefault(r["shape"], {})[r["kernel"]] = float(r["us"])
    return out


def torch_sdpa(part_name, tokens, backend):
    path = f"{ROOT}/reports/cases/{part_name}_kernel_forms/torch_sdpa.csv"
    if not os.path.exists(path):
        return None
    with open(path, encoding="utf-8") as f:
        return next((float(r["us"]) for r in csv.DictReader(f) if r["tokens"] == str(tokens) and r["backend"].startswith(backend)), None)


def prefill(part_name, part):
    theirs, rows = table(part_name, "vllm-0.24", "attention_prefill"), []
    for text in ("128@0", "512@0", "1024@0", "2048@0", "4096@0", "8192@0", "512@4096", "1024@16384", "16@65536"):
        tokens, context = map(int, text.split("@"))
        timed = forms(part_name, "attention_prefill").get(f"bf16,bf16,32,8,128,{text}", {})
        if not timed:
            continue
        pairs = tokens * context + tokens * (tokens + 1) / 2
        bound = max(4 * 128 * 32 * pairs / part["bf16"], 4 * 128 * ((tokens + context) * 8 + tokens * 32) / part["bandwidth"]) * 1e6
        published = fitted(theirs, {"heads": 32, "kv_heads": 8, "head_dim": 128, "kv_dtype": "bf16", "window": 0, "tokens": tokens},
                           1, bound) if context == 0 else None
        of = [timed.get(k) for k in ("cudnn.sdpa.bf16", "orrery.attention_prefill_wgmma.bf16.v1", "orrery.attention_prefill.bf16.v1")]
        rows.append([text.replace("@0", "").replace("@", " after "), *map(number, of),
                     f"{100 * bound / min(us for us in of if us):.0f} %", number(published),
                     *([number(torch_sdpa(part_name, tokens, b)) for b in ("cudnn", "Flash")] if context == 0 else ["–", "–"])])
    return markdown(["prompt tokens, 32/8 heads of 128", "cuDNN 9.14, µs", "ours (wgmma), µs", "ours (mma.sync), µs", "best, of the bound",
                     "FlashAttention 3 (published), µs", "PyTorch: cuDNN 9.19, µs", "PyTorch: FlashAttention 2, µs"], rows)


def grouped(part_name, part):
    ours, rows = table(part_name, "orrery", "grouped_gemm"), []
    engine = [r for r in engine_profile(part_name) if r["op"] == "grouped_gemm"]
    for r in sorted(ours, key=lambda r: (r["dtype"], int(r["n"]), rows_per_expert(r["rows"]))):
        count, distinct = rows_per_expert(r["rows"])
        if (r["n"], r["k"]) not in (("1536", "2048"), ("2048", "768")) or count not in (8, 128, 512, 2048, 8192, 65536):
            continue
        if sum(int(i.split("x")[0]) if "x" in i else 1 for i in r["rows"].split()) != 128:
            continue
        bound = fit.gemm_bound_us(part, r["dtype"], count / distinct, int(r["n"]), int(r["k"])) * distinct
        triton = next((e["us"] for e in engine if (e["n"], e["k"]) == (float(r["n"]), float(r["k"])) and
                       e["tokens"] * 8 == count), None) if r["dtype"] == "fp8-block" else None
        timed = forms(part_name, "grouped_gemm").get(f"{r['dtype']},{r['n']},{r['k']},{r['rows']}", {})
        ours_of = [next((us for k, us in timed.items() if ("wgmma" in k) == wgmma), None) for wgmma in (True, False)]
        rows.append([f"{r['dtype']} {r['n']}×{r['k']}, {count} rows over {distinct} of 128", *map(number, ours_of),
                     f"{100 * bound / float(r['us']):.0f} %", number(triton)])
    return markdown(["products of Qwen3-30B-A3B", "ours (wgmma), µs", "ours (mma.sync), µs", "best, of the bound", "Triton in vLLM's step, µs"], rows)


def collectives(part_name, part):
    ours, theirs = table(part_name, "orrery", "collectives"), table(part_name, "vllm-0.24", "collectives")
    rows = []
    for r in ours:
        size = int(r["bytes"])
        published = fitted(theirs, {"op": r["op"], "ranks": r["ranks"]}, size, size / part["link"] * 1e6) if part["link"] else None
        rows.append([f"{r['op']}, {r['ranks']} GPUs, {size:,} bytes", number(float(r["us"])), number(published)])
    return markdown(["NCCL", "ours, µs", "published; all-reduce: custom below 8 MiB, µs"], rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", default="h100")
    name = parser.parse_args().part
    part = fit.figures(name)
    with open(f"{ROOT}/hardware_profiles/tables/{name}/orrery/table.yaml", encoding="utf-8") as f:
        description = "".join(line for line in f if not line.startswith(" ") or "name" in line or "driver" in line or
                              "runtime" in line).split("operators:")[0]
    text = f"""# Kernel tables on the {name.upper()}

Made by `tools/kernel_report.py`. Ours: medians of replayed graphs on random data, weights and KV rotated over twice the last
cache, activations warm, each point after a rest of the clock. Published: vLLM 0.24.0 operator tables
(ai-dynamo/aiconfigurator). In vLLM's step: our kernel profile of real steps (reports/cases/{name}_vllm_0_24_kernels). Different
runs on different cards: a difference of 5 % says little. Every kernel of ours here passed its check against a double-precision
reference on this part (reports/results/kernel_check_{name}.log). Rooflines: [roofline_{name}.md](roofline_{name}.md).

```
{description.strip()}
```

## Dense products

{gemm(name, part)}
## Paged decode attention

{decode(name, part)}
## Prefill attention

{prefill(name, part)}
## Grouped products

{grouped(name, part)}
## Collectives

{collectives(name, part)}"""
    with open(f"{ROOT}/reports/results/kernels_{name}_tables.md", "w", encoding="utf-8") as f:
        f.write(text)


if __name__ == "__main__":
    main()
