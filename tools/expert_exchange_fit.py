#!/usr/bin/env python3
"""Figures of expert exchanges (hardware_profiles/exchange/*.yaml) from published tables, with the error on points not used.

  python3 tools/expert_exchange_fit.py DATA     # DATA: ../shared/data

Model (costmodel/expert_exchange.h): t = start + per_expert·E + per_row_byte·row + per_doubling·log2(nodes)
+ max(a, b) + unhidden·min(a, b), a = bytes over scale-up links / rate, b = bytes over the network / rate.
"""
import csv
import io
import json
import math
import statistics
import subprocess
import sys


def rows(path):
    text = subprocess.run(["zstdcat", path], capture_output=True, text=True, check=True).stdout
    return list(csv.DictReader(io.StringIO(text)))


def distinct(groups, k, experts):
    """Expected number of `groups` equal groups of experts that k distinct experts touch."""
    miss = 1.0
    for i in range(k):
        miss *= (experts - experts / groups - i) / (experts - i)
    return groups * (1 - miss)


def row_bytes(hidden, dispatch):
    return hidden + hidden / 128 * 4 if dispatch else 2 * hidden


def loads(point):
    """Bytes that a rank gets over scale-up links and over the network."""
    t, k, e, n = point["tokens"], point["k"], point["experts"], point["ranks"]
    nodes = point["nodes"]
    m = t * row_bytes(point["hidden"], point["dispatch"])
    if point["low_latency"]:  # a message for every chosen expert
        local = n / nodes
        return m * k * (local - 1) / n, m * k * (n - local) / n
    # One row for each distinct rank; over the network one for each distinct node, forwarded inside it.
    return m * distinct(n, k, e) * (n - 1) / n, m * distinct(nodes, k, e) * (nodes - 1) / nodes


def price(point, f):
    near, far = loads(point)
    rate = f["rate"] * ((point["ranks"] - 1) / 7 if point.get("mesh") else 1)  # a link to each peer
    a, b = near / rate, far / f["network"]
    return (f["start"] + f["per_expert"] * point["experts"] + f["per_doubling"] * math.log2(point["nodes"]) +
            f["per_row_byte"] * row_bytes(point["hidden"], point["dispatch"]) +
            max(a, b) + f["unhidden"] * min(a, b))


def fit(points, names, first, fixed):
    """Least squares of log(time) by a simplex search over log(figures)."""
    def figures(x):
        return {**fixed, **{n: math.exp(v) for n, v in zip(names, x)}}

    def loss(x):
        f = figures(x)
        return sum((math.log(price(p, f) / p["us"] / 1000)) ** 2 for p in points)

    simplex = [[math.log(v) for v in first]]
    for i in range(len(names)):
        simplex.append([v + (0.3 if i == j else 0) for j, v in enumerate(simplex[0])])
    for _ in range(4000):
        simplex.sort(key=loss)
        worst, rest = simplex[-1], simplex[:-1]
        middle = [sum(c) / len(rest) for c in zip(*rest)]

        def along(s):
            return [m + s * (w - m) for m, w in zip(middle, worst)]
        reflected = along(-1)
        if loss(reflected) < loss(simplex[0]):
            wide = along(-2)
            simplex[-1] = wide if loss(wide) < loss(reflected) else reflected
        elif loss(reflected) < loss(simplex[-2]):
            simplex[-1] = reflected
        else:
            inside = along(0.5)
            if loss(inside) < loss(worst):
                simplex[-1] = inside
            else:
                best = simplex[0]
                simplex = [[(a + b) / 2 for a, b in zip(best, x)] for x in simplex]
    return figures(min(simplex, key=loss))


def report(name, points, f):
    if not points:
        return
    errors = [price(p, f) / p["us"] / 1000 - 1 for p in points]
    size = sorted(abs(e) for e in errors)
    print(f"    {name}: {len(points)} points, median |error| {statistics.median(size):.1%}, p90 "
          f"{size[int(0.9 * (len(size) - 1))]:.1%}, mean {statistics.mean(errors):+.1%}, deviation of log "
          f"{math.sqrt(statistics.mean(math.log(1 + e) ** 2 for e in errors)):.3f}")


def low_latency(table, dispatch, **more):
    column = "dispatch_avg_t_us" if dispatch else "combine_avg_t_us"
    return [{"tokens": int(r["num_token"]), "k": int(r["num_topk"]), "experts": int(r["num_experts"]),
             "hidden": int(r["hidden_size"]), "nodes": int(r["node_num"]), "ranks": 8 * int(r["node_num"]),
             "us": float(r[column]), "dispatch": dispatch, "low_latency": True, **more} for r in table]


def normal(table, dispatch, sms):
    side = "dispatch" if dispatch else "combine"
    return [{"tokens": int(r["num_token"]), "k": int(r["num_topk"]), "experts": int(r["num_experts"]),
             "hidden": int(r["hidden_size"]), "nodes": int(r["node_num"]), "ranks": 8 * int(r["node_num"]),
             "us": float(r[side + "_transmit_us"]) + float(r[side + "_notify_us"]), "dispatch": dispatch,
             "low_latency": False} for r in table if int(r["dispatch_sms"]) == sms]


def show(f):
    print("   ", ", ".join(f"{k} {v:.4g}" for k, v in f.items()))


H800 = {16: (118, 195), 32: (155, 273), 64: (173, 314), 128: (192, 369), 256: (194, 360)}


def figure(value, unit, kind, source):
    return f'{{value: {value:.4g}, unit: {unit}, kind: {kind}, source: "{source}"}}'


def kernels(f, source, network_source, error, network_error):
    """One direction of one kind of kernels, as YAML at the depth of hardware_profiles/exchange."""
    lines = []
    for name, unit, scale in (("start", "us", 1e-3), ("per_expert", "us", 1e-3), ("per_row_byte", "us", 1.024),
                              ("per_doubling", "us", 1e-3)):
        if f[name] * scale < 1e-6:
            continue
        key = "per_row_kib" if name == "per_row_byte" else name
        where = network_source if name == "per_doubling" else source
        lines.append(f"        {key}: {figure(f[name] * scale, unit, 'derived', where)}")
    lines.append(f"        rate: {figure(f['rate'], 'GB/s', 'derived', source)}")
    if network_source:
        lines.append(f"        network: {figure(f['network'], 'GB/s', 'derived', network_source)}")
        if f["unhidden"] > 1e-6:
            lines.append(f"        unhidden: {figure(f['unhidden'], 'ratio', 'derived', network_source)}")
    lines.append(f"        error: {figure(error[0], 'ratio', 'derived', error[1])}")
    if network_source:
        lines.append(f"        network_error: {figure(network_error[0], 'ratio', 'derived', network_error[1])}")
    return lines


def deviation(points, f):
    return math.sqrt(statistics.mean(math.log(price(p, f) / p["us"] / 1000) ** 2 for p in points))


def write(name, text):
    path = f"hardware_profiles/exchange/{name}.yaml"
    with open(path, "w", encoding="utf-8") as out:
        out.write("\n".join(text) + "\n")


def head(name, library, like):
    return ["# Figures of expert exchanges, fitted by tools/expert_exchange_fit.py; do not edit.", f"name: {name}",
            f"library: {library}", f"architecture: {like}"]


# Masked products (DeepGEMM) of what low-latency kernels deliver: costmodel/ops/masked_experts.cpp.
TILE = 64        # rows: BLOCK_M of its masked kernels on SM90, also what the times step by
PEAK = {"h200": (4.8e6, 1979e6), "h100": (3.35e6, 1979e6), "h20": (4.0e6, 296e6), "h800": (3.35e6, 1979e6)}


def masked_us(part, start, memory, compute, held, rows, hidden, width, tiles):
    """`held` experts with `rows` rows each, in tiles of which `tiles` hold an expert's."""
    bandwidth, rate = PEAK[part]
    weights = held * 3 * hidden * width * (1 + 4 / 128 / 128) / (bandwidth * memory)
    products = held * tiles * TILE * 6 * hidden * width / (rate * compute)
    passes = held * rows * (9 * width + 3 * hidden) / bandwidth
    return start + max(weights, products) + passes


def masked(data, part):
    """Start and both efficiencies from DeepSeek-V3's layer on 4 to 256 ranks, rows spread evenly."""
    base = f"{data}/aiconfigurator/{part}_sxm/moe/wideep_generation_moe_perf__sglang-0.5.10.csv.zst"
    even = [r for r in rows(base) if r["distribution"] == "uniform"]
    points = []
    for r in even:
        held = 256 / int(r["moe_ep_size"])
        each = int(r["num_tokens"]) * 8 / 256
        if each >= 1:
            points.append((held, each, float(r["latency"]) * 1000))
    def errors(f):
        return sorted(abs(math.log(masked_us(part, *f, h, m, 7168, 2048, math.ceil(m / TILE)) / us)) for h, m, us in points)
    grid = [(s / 2, m / 100, c / 100) for s in range(30, 60) for m in range(70, 96) for c in range(55, 95, 5)]
    best = min(grid, key=lambda f: sum(errors(f)))
    e = errors(best)
    print(f"  masked products: start {best[0]} us, memory {best[1]}, compute {best[2]}: {len(e)} points, median "
          f"{e[len(e) // 2]:.3f}, p90 {e[len(e) * 9 // 10]:.3f}")
    held_out = []
    for other in ("h800", "h20"):
        with open(f"{data}/infersim/bench_data/grouped_gemm/decode/{other}/data.csv", encoding="utf-8") as file:
            table = list(csv.DictReader(file))
        e = []
        for r in table:
            m, us = int(r["tokens_per_expert"]), float(r["up_proj_us"]) + float(r["down_proj_us"])
            tiles = max(1.0, m / TILE + 0.5)  # rows differ from expert to expert there
            e.append(math.log(masked_us(other, 0, best[1], best[2], int(r["num_local_experts"]), m, int(r["hidden_size"]),
                                        int(r["intermediate_size"]), tiles) / us))
        few = sorted(x for x, r in zip(e, table) if int(r["tokens_per_expert"]) <= 64)
        many = sorted(x for x, r in zip(e, table) if int(r["tokens_per_expert"]) > 64)
        for name, x in (("to 64 rows", few), ("more", many)):
            print(f"    InferSim's {other}, {name}: {len(x)} points, median {x[len(x) // 2]:+.3f}, p10 {x[len(x) // 10]:+.3f}, "
                  f"p90 {x[len(x) * 9 // 10]:+.3f}")
        held_out += few
    spread = math.sqrt(statistics.mean(x * x for x in held_out))
    at = (f"fit to {len(points)} points of DeepSeek-V3's layer, wideep_generation_moe_perf of SGLang 0.5.10 "
          f"(ai-dynamo/aiconfigurator @095f58a, {part}_sxm/moe)")
    return ["masked_experts:", "  start: " + figure(best[0], "us", "derived", at),
            "  memory: " + figure(best[1], "ratio", "derived", at), "  compute: " + figure(best[2], "ratio", "derived", at),
            "  rows: " + figure(TILE, "count", "derived", "the step in the same timings: BLOCK_M of DeepGEMM's masked kernels"),
            "  error: " + figure(spread, "ratio", "derived", "deviation of log(time) of InferSim's H800 and H20 products of up to 64 rows "
                                 "an expert, not used (alibaba/InferSim @f2293da)")]


def deepep(data):
    base = data + "/aiconfigurator/{}_sxm/comm/wideep_deepep_{}_perf__sglang-{}.csv.zst"
    wide = rows(base.format("h200", "ll", "0.5.6.post2"))
    wide_normal = rows(base.format("h200", "normal", "0.5.6.post2"))
    for part in ("h200", "h100"):
        print(part)
        at = f"ai-dynamo/aiconfigurator @095f58a, {part}_sxm/comm"
        near = f"fit to one node of eight, wideep_deepep_{{}}_perf of SGLang 0.5.12 ({at})"
        over = f"fit to {{}} nodes, wideep_deepep_{{}}_perf of SGLang 0.5.6 ({at}; its network is not said)"
        text = head(part, "deepep", "sm_90a") + [
            "network_link: " + figure(400, "Gb/s", "published", "ConnectX-7, one a GPU, of DeepEP's own table, which "
                                      "the figures agree with (deepseek-ai/DeepEP @0297fc8, docs/legacy.md)"),
            "multiprocessors: " + figure(20, "count", "published", "Buffer.num_sms of DeepEP, also vLLM's "
                                         "(distributed/device_communicators/all2all.py of 0.24.0)"),
            "least_experts: 128", "low_latency:"]
        for dispatch in (True, False):
            print("  low latency,", "dispatch" if dispatch else "combine")
            points = low_latency(rows(base.format(part, "ll", "0.5.12")), dispatch)
            known = lambda p: p["hidden"] == 7168 and (p["k"], p["experts"]) in ((8, 256), (8, 384))
            small = lambda p: p["experts"] < 128
            f = fit([p for p in points if known(p)], ["start", "per_expert", "rate"], [9000, 10, 250],
                    {"per_doubling": 0, "network": 40, "unhidden": 0, "per_row_byte": 0})
            far = [p for p in low_latency(wide, dispatch) if p["nodes"] > 1 and p["experts"] == 256]
            g = fit(far, ["per_doubling", "network"], [5000, 40], {**f})
            show(g)
            report("used, one node", [p for p in points if known(p)], g)
            report("other shapes, one node", [p for p in points if not known(p) and not small(p)], g)
            report("fewer than 128 experts", [p for p in points if small(p)], g)
            report("used, 2 to 8 nodes", far, g)
            held = [{"tokens": 128, "k": 8, "experts": 256, "hidden": 7168, "nodes": n // 8, "ranks": n,
                     "us": H800[n][0 if dispatch else 1], "dispatch": dispatch, "low_latency": True}
                    for n in H800]
            report("DeepEP's own, H800, 16 to 256 ranks", held, g)
            other = [p for p in points if not known(p) and not small(p)]
            text += ["  dispatch:" if dispatch else "  combine:"] + [line[4:] for line in kernels(
                g, near.format("ll"), over.format("2 to 8", "ll"),
                (deviation(other, g), "deviation of log(time) of 121 points of other shapes, not used"),
                (max(deviation(far, g), deviation(held, g)),
                 "deviation of log(time) of 39 points used and of DeepEP's own for 16 to 256 ranks, not used"))]
        text.append("normal:")
        for dispatch in (True, False):
            print("  normal, 20 SMs,", "dispatch" if dispatch else "combine")
            points = normal(rows(base.format(part, "normal", "0.5.12")), dispatch, 20)
            known = lambda p: p["hidden"] in (2048, 7168) and (p["k"], p["experts"]) == (8, 256)
            small = lambda p: p["experts"] < 128
            f = fit([p for p in points if known(p) and p["tokens"] <= 16384], ["start", "rate", "per_row_byte"],
                    [26000, 280, 1], {"per_doubling": 0, "network": 45, "unhidden": 0, "per_expert": 0})
            far = [p for p in normal(wide_normal, dispatch, 20) if p["nodes"] in (2, 4) and p["tokens"] <= 16384]
            g = fit(far, ["per_doubling", "network", "unhidden"], [20000, 45, 0.3], {**f})
            if g["network"] > 50:
                g = fit(far, ["per_doubling", "unhidden"], [20000, 0.3], {**f, "network": 50})
            show(g)
            report("used, one node", [p for p in points if known(p) and p["tokens"] <= 16384], g)
            other = [p for p in points if not known(p) and p["tokens"] <= 16384]
            report("other shapes, one node", [p for p in other if not small(p)], g)
            report("fewer than 128 experts", [p for p in other if small(p)], g)
            report("used, 2 and 4 nodes", far, g)
            report("8 nodes, up to 256 tokens", [p for p in normal(wide_normal, dispatch, 20)
                                                 if p["nodes"] == 8 and p["tokens"] <= 256], g)
            wide_eight = [p for p in normal(wide_normal, dispatch, 20) if p["nodes"] == 8 and p["tokens"] <= 256]
            shapes = [p for p in other if not small(p)]
            text += ["  dispatch:" if dispatch else "  combine:"] + [line[4:] for line in kernels(
                g, near.format("normal"), over.format("2 and 4", "normal"),
                (deviation(shapes, g), "deviation of log(time) of 260 points of other shapes, not used"),
                (deviation(wide_eight, g), "deviation of log(time) of 14 points of 8 nodes, not used"))]
        write(part, text + masked(data, part))


def mori(data):
    base = data + "/mori/gfx942_{}_{}_ep{}_{}.json"
    print("mi300x")
    text = head("mi300x", "mori", "gfx942") + [
        "multiprocessors: " + figure(80, "count", "published",
                                     "block_num of the tuned combine (ROCm/mori @624002c, gfx942_mi300x_IntraNode_ep8)"),
        "least_experts: 128", "normal:"]
    for dispatch in (True, False):
        side = "dispatch" if dispatch else "combine"
        points = {}
        for ranks in (2, 4, 8):
            for r in json.load(open(base.format("mi300x", "IntraNode", ranks, side)))["rules"]:
                kind = "fp8_e4m3_fnuz" if dispatch else "bf16"
                if r["dtype"] != kind or not dispatch and (r["quant_type"] != "none" or r["zero_copy"]):
                    continue
                points.setdefault((ranks, r["num_tokens"]), {
                    "tokens": r["num_tokens"], "k": 8, "experts": 32 * ranks, "hidden": 7168, "nodes": 1,
                    "ranks": ranks, "mesh": True, "us": r["latency_us"], "dispatch": dispatch, "low_latency": False})
        eight = [p for p in points.values() if p["ranks"] == 8]
        f = fit(eight, ["start", "rate"], [20000, 280],
                {"per_doubling": 0, "network": 45, "unhidden": 0, "per_expert": 0, "per_row_byte": 0})
        print("  IntraNode,", side)
        show(f)
        report("used, 8 ranks", eight, f)
        fewer = [p for p in points.values() if p["ranks"] != 8]
        report("2 and 4 ranks", fewer, f)
        source = f"fit to 8 ranks of gfx942_mi300x_IntraNode_ep8_{side}.json (ROCm/mori @624002c)"
        error = ((deviation(fewer, f), "deviation of log(time) of 14 points of 2 and 4 ranks, not used") if fewer
                 else (0.1, "as combine's: no dispatch of this type was published for fewer ranks"))
        text += ["  dispatch:" if dispatch else "  combine:"] + [
            line[4:] for line in kernels(f, source, "", error, None)]
    write("mi300x", text)


if __name__ == "__main__":
    deepep(sys.argv[1])
    mori(sys.argv[1])
