#!/usr/bin/env python3
"""Roofline pictures of our kernels on a part: tools/roofline.py [--part h200] [--out reports/results/roofline_h200].

Points are the times of hardware_profiles/tables/<part>/orrery/*.csv (`orrery calibrate`) and of the tables in
reports/results/kernels_<part>_{mla,experts}.md; operations and bytes that must move once are reckoned here from the shapes.
Roofs: the data sheet's (solid) and what the same calibration reached by reading and by cuBLASLt's products (dashed).
"""
import argparse
import csv
import math
import os
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "tools"))
from operator_accuracy import runs                        # noqa: E402
from svg_chart import COLOURS, escaped, label             # noqa: E402

SHEET = {"h200": (4.8e12, {"bf16": 989.4e12, "fp8": 1979e12}), "h100": (3.35e12, {"bf16": 989.4e12, "fp8": 1979e12})}
BYTES = {"bf16": 2, "fp8": 1, "fp8-block": 1, "fp8-channel": 1, "fp8-tensor": 1}
NO_CACHE = 256 << 20
ACROSS, DOWN, LEFT, TOP, RIGHT, BOTTOM = 560, 300, 62, 40, 250, 46
# Bytes and operations of a feature of a row that a row-wise kernel moves and makes (k: choices of a token), as
# kernels/cases count them.
ROW_WISE = {"rms_norm": lambda _: (4, 4), "add_rms_norm": lambda _: (8, 5), "add_rms_norm_quantize": lambda _: (7, 5),
            "quantize": lambda _: (3, 2), "silu_mul": lambda _: (6, 5), "silu_mul_quantize": lambda _: (5, 5),
            "rotary": lambda _: (4, 3), "qk_norm_rotary": lambda _: (4, 7),
            "moe_combine": lambda k: (2 * (k + 1), 2 * k)}


def table(part, name):
    with open(f"{ROOT}/hardware_profiles/tables/{part}/orrery/{name}.csv", encoding="utf-8") as f:
        return list(csv.DictReader(f))


def ours(kernel):
    """orrery.block_gemm_wgmma.fp8_block.v1: block_gemm_wgmma."""
    return kernel.split(".")[1] if kernel.startswith("orrery.") else None


def gemm(part):
    """(kernel, series, operations, bytes, µs), as all of these; cuBLASLt's kernels stand beside ours."""
    for r in table(part, "gemm"):
        m, n, k, each = int(r["m"]), int(r["n"]), int(r["k"]), BYTES[r["dtype"]]
        work = 2.0 * m * n * k, each * (m * k + n * k) + 2.0 * m * n, float(r["us"])
        if ours(r["kernel"]):
            yield ours(r["kernel"]), f"dense, {r['dtype']}", *work
        else:
            yield "cublaslt", r["dtype"], *work
            if r["dtype"] != "bf16":
                yield "block_gemm_wgmma", f"cuBLASLt, {r['dtype']}", *work


def grouped_gemm(part):
    for r in table(part, "grouped_gemm"):
        n, k, each, rows = int(r["n"]), int(r["k"]), BYTES[r["dtype"]], [int(v) for v in runs(r["rows"])]
        total, busy = sum(rows), sum(v > 0 for v in rows)
        yield (ours(r["kernel"]), f"experts, {r['dtype']}", 2.0 * total * n * k,
               each * (total * k + busy * n * k) + 2.0 * total * n, float(r["us"]))


def attention_decode(part):
    for r in table(part, "attention_decode"):
        heads, kv, width = int(r["heads"]), int(r["kv_heads"]), int(r["head_dim"])
        tokens = int(r["batch"]) * int(r["context"])
        moved = 2.0 * kv * width * tokens * BYTES[r["kv_dtype"]] + 4.0 * heads * width * int(r["batch"])
        yield (ours(r["kernel"]), f"{r['kv_dtype']} cache, heads of {width}", 4.0 * heads * width * tokens, moved,
               float(r["us"]))


def attention_prefill(part):
    for r in table(part, "attention_prefill"):
        heads, kv, width = int(r["heads"]), int(r["kv_heads"]), int(r["head_dim"])
        pairs = moved = 0.0
        for item in runs(r["sequences"]):
            new, context = (int(v) for v in item.split("@"))
            pairs += new * (context + (new + 1) / 2)
            moved += 4.0 * heads * width * new + 4.0 * kv * width * (context + new)
        work = 4.0 * heads * width * pairs, moved, float(r["us"])
        if ours(r["kernel"]):
            yield ours(r["kernel"]), f"heads of {width}", *work
        else:
            yield "attention_prefill_wgmma", f"cuDNN, heads of {width}", *work


def row_wise(part):
    for r in table(part, "elementwise"):
        if r["op"] in ROW_WISE:
            moved, operations = ROW_WISE[r["op"]](int(r["k"]))
            features = float(int(r["n"]) * int(r["rows"]))
            yield ours(r["kernel"]), r["dtype"], operations * features, moved * features, float(r["us"])


def report_tables(part, name):
    """Rows of a report's tables as dictionaries, with the heading above them."""
    heading, header, path = "", None, f"{ROOT}/reports/results/kernels_{part}_{name}.md"
    if not os.path.exists(path):
        return
    with open(path, encoding="utf-8") as f:
        for line in f:
            cells = [c.strip() for c in line.strip().strip("|").split("|")]
            if line.startswith("## "):
                heading, header = line[3:].strip(), None
            elif not line.startswith("|"):
                header = None
            elif header is None:
                header = cells
            elif not set(line) <= set("|-: \n"):
                yield heading, dict(zip(header, cells, strict=True))


def latent(part):
    """Operations and bytes of a row by the rates that the report states."""
    forms = {"Decode, absorbed": "mla_decode_wgmma", "Decode in other forms": "mla_decode", "Prompts": "mla_prefill"}
    for heading, r in report_tables(part, "mla"):
        if r["GB/s"] == "–" or float(r["TFLOP/s"]) == 0:
            continue
        kernel = r.get("operator") or next((k for h, k in forms.items() if heading.startswith(h)), "attention_decode_" + r.get("layout", ""))
        if kernel in ("mla_decode", "mla_prefill") and r["form"].startswith("wgmma"):
            kernel += "_wgmma"
        if kernel == "attention_decode_plain":
            continue  # more of it in the table
        us = float(r["µs"])
        series = ([r["cache"]] if "cache" in r else []) + ([f"{r['heads']} heads"] if "heads" in r else [])
        yield kernel, ", ".join(series), float(r["TFLOP/s"]) * us * 1e6, float(r["GB/s"]) * us * 1e3, us


def experts(part):
    """Of four bits, and the fused row-wise kernels around experts."""
    shapes = {"Qwen3-30B-A3B, gate and up": (1536, 2048), "Qwen3-30B-A3B, down": (2048, 768),
              "DeepSeek-V3, gate and up, 32 of 256": (4096, 7168), "DeepSeek-V3, down, 32 of 256": (7168, 2048)}
    widths = {"Qwen3-30B-A3B": (2048, 768), "DeepSeek-V3": (7168, 2048)}
    for heading, r in report_tables(part, "experts"):
        if heading == "Products":
            (n, k), (count, each) = shapes[r["layer"]], (int(v) for v in r["experts × rows"].split(" × "))
            weights, rows = count * n * k * (0.5 + 2 / 128), count * each
            for name, width in (("W4A8", 1), ("W4A16", 2)):
                for form, kernel in (("", "w4_gemm_wgmma"), (", plain", "w4_gemm")):
                    if r[name + form] != "–":
                        yield kernel, name, 2.0 * rows * n * k, weights + rows * (width * k + 2.0 * n), float(r[name + form])
        elif heading == "Fused forms":
            (hidden, inner), tokens = widths[r["model"]], int(r["tokens"])
            kernel, _, slots = r["kernel"].partition(", ")
            if kernel == "permute_quantize":  # a token read once, eight rows written
                work = 2.0 * tokens * hidden, (2.0 + 8) * tokens * hidden
            else:
                work = 5.0 * 8 * tokens * inner, 5.0 * 8 * tokens * inner
            yield kernel, f"{r['scales']}{', slots' if slots else ''}, after routing", *work, float(r["fused"])


SOURCES = (gemm, grouped_gemm, experts, attention_decode, attention_prefill, latent, row_wise)
TITLES = {"block_gemm_wgmma": "FP8 products with scales", "grouped_gemm_wgmma": "Products of experts",
          "grouped_gemm": "Products of experts, mma.sync", "w4_gemm_wgmma": "Products of experts with four-bit weights",
          "w4_gemm": "Products of experts with four-bit weights, mma.sync", "cublaslt": "cuBLASLt's dense products, for comparison"}


def reached(part):
    """Bytes a second of the read probe where no cache holds them, and cuBLASLt's best operations a second by width of the operands."""
    probes = [(r["probe"], r["bytes"], r["value"]) for r in table(part, "probes")]
    read = max(float(p[-1]) for p in probes if p[0] == "bandwidth.read" and int(p[1]) >= NO_CACHE) * 1e9
    best = {}
    for kernel, name, operations, _, us in gemm(part):
        if kernel == "cublaslt":
            width = "bf16" if name.startswith("bf16") else "fp8"
            best[width] = max(best.get(width, 0), operations / us * 1e6)
    return read, best


def picture(title, points, roofs):
    """Log-log: operations a byte across, operations a second up."""
    low, high = min(x for _, x, _ in points), max(x for _, x, _ in points)
    x_low, x_high = math.floor(math.log10(low)), max(3, math.ceil(math.log10(high)))
    y_high, y_low = 15.5, max(9, math.floor(math.log10(min(y for *_, y in points))))
    place_x = lambda x: LEFT + (math.log10(x) - x_low) / (x_high - x_low) * ACROSS              # noqa: E731
    place_y = lambda y: TOP + (1 - (math.log10(y) - y_low) / (y_high - y_low)) * DOWN           # noqa: E731
    width, height = LEFT + ACROSS + RIGHT, TOP + DOWN + BOTTOM
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">',
           f'<rect width="{width}" height="{height}" fill="white"/>', f'<text x="{LEFT}" y="22" font-size="15">{escaped(title)}</text>']
    for e in range(x_low, x_high + 1):
        at = place_x(10 ** e)
        out += [f'<line x1="{at:.0f}" x2="{at:.0f}" y1="{TOP}" y2="{TOP + DOWN}" stroke="#ddd"/>',
                f'<text x="{at:.0f}" y="{TOP + DOWN + 16}" text-anchor="middle">{label(10 ** e)}</text>']
    for e in range(y_low, int(y_high) + 1):
        at = place_y(10 ** e)
        out += [f'<line x1="{LEFT}" x2="{LEFT + ACROSS}" y1="{at:.0f}" y2="{at:.0f}" stroke="#ddd"/>',
                f'<text x="{LEFT - 5}" y="{at + 4:.0f}" text-anchor="end">{label(10 ** (e - 12))}</text>']
    out += [f'<text x="{LEFT + ACROSS / 2:.0f}" y="{height - 8}" text-anchor="middle">operations a byte that must move</text>',
            f'<text x="14" y="{TOP + DOWN / 2:.0f}" text-anchor="middle" '
            f'transform="rotate(-90 14 {TOP + DOWN / 2:.0f})">TFLOP/s</text>']
    for style, bandwidth, rates in roofs:
        for rate in rates.values():
            corners = [(10 ** x_low, bandwidth * 10 ** x_low), (rate / bandwidth, rate), (10 ** x_high, rate)]
            if corners[1][0] >= 10 ** x_high:
                corners = [corners[0], (10 ** x_high, bandwidth * 10 ** x_high)]
            if corners[0][1] < 10 ** y_low:
                corners[0] = (10 ** y_low / bandwidth, 10 ** y_low)
            line = " ".join(f"{place_x(x):.0f},{place_y(y):.0f}" for x, y in corners)
            out.append(f'<polyline points="{line}" fill="none" stroke="#333" stroke-width="1.2"{style}/>')
    names = list(dict.fromkeys(n for n, *_ in points))
    for i, name in enumerate(names):
        colour = COLOURS[i % len(COLOURS)]
        # A point every three pixels: tables have thousands.
        at = sorted({(round(place_x(x) / 3) * 3, round(place_y(y) / 3) * 3) for n, x, y in points if n == name})
        path = "".join(f"M{x} {y}h0" for x, y in at)
        out += [f'<path d="{path}" stroke="{colour}" stroke-width="4" stroke-linecap="round" fill="none" opacity="0.75"/>',
                f'<circle cx="{LEFT + ACROSS + 14}" cy="{TOP + 6 + 17 * i}" r="4" fill="{colour}"/>',
                f'<text x="{LEFT + ACROSS + 23}" y="{TOP + 10 + 17 * i}" font-size="11">{escaped(name)}</text>']
    return "\n".join(out + ["</svg>"]) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--part", default="h200", choices=SHEET)
    parser.add_argument("--out")
    arguments = parser.parse_args()
    part, out = arguments.part, arguments.out or f"{ROOT}/reports/results/roofline_{arguments.part}"
    os.makedirs(out, exist_ok=True)
    read, rates = reached(part)
    sheet_read, sheet_rates = SHEET[part]
    roofs = [("", sheet_read, sheet_rates), (' stroke-dasharray="5 4"', read, rates)]
    text = [f"# Rooflines of our kernels on the {part.upper()}", "",
            "Made by `tools/roofline.py` from the tables of `orrery calibrate` and the tables of `kernels_" + part +
            "_{mla,experts}.md`: a picture a kernel. Operations",
            "and bytes that must move once are reckoned from the shapes; a point is one timed shape, of ours where no library is named.",
            f"Solid: the data sheet ({sheet_read / 1e12:.2f} TB/s; {sheet_rates['bf16'] / 1e12:.0f} TFLOP/s in bf16, {sheet_rates['fp8'] / 1e12:.0f} "
            f"in FP8). Dashed: what the calibration reached: {read / 1e12:.2f} TB/s",
            f"of the read probe, {rates['bf16'] / 1e12:.0f} and {rates['fp8'] / 1e12:.0f} TFLOP/s of cuBLASLt. Where operands stay in the last cache a "
            "point may lie above the slope: activations are warm.",
            "Without a picture: kernels that only move, choose or count rows (their rates are GB/s in the tables), and those between GPUs, whose "
            "roof is a link ([kernels_comm_2gpu.md](kernels_comm_2gpu.md)).", ""]
    kernels = {}
    for source in SOURCES:
        for kernel, series, operations, moved, us in source(part):
            if us > 0 and operations > 0:
                kernels.setdefault(kernel, []).append((series, operations / moved, operations / us * 1e6))
    for kernel in sorted(kernels, key=lambda k: (k == "cublaslt", list(kernels).index(k))):
        with open(f"{out}/{kernel}.svg", "w", encoding="utf-8") as f:
            f.write(picture(f"{TITLES.get(kernel, kernel)}, {part.upper()}", kernels[kernel], roofs))
        text += [f"## {kernel}", "", f"![{kernel}](roofline_{part}/{kernel}.svg)", ""]
    with open(f"{ROOT}/reports/results/roofline_{part}.md" if not arguments.out else f"{out}/README.md", "w", encoding="utf-8") as f:
        f.write("\n".join(text[:-1]) + "\n")


if __name__ == "__main__":
    main()
