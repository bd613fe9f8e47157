"""Attention: utilisation by heads, sequences and length out of a published table."""
import math
import statistics

from .base import attention_bound_us, carried, log_interpolate, neighbour_weights, smooth, surface_at, weighted

# Widest group of query heads of a KV head that tables keep: TensorRT-LLM's decode has another kernel above it, three to
# ten times as long, and no model of ours has one.
WIDEST_GROUP = 16


def published_times(published, engine, part_name, phase):
    """{key: {length: {sequences: us}}}; key = heads, KV heads, head size, window, KV type, kernel."""
    stem = "context_attention_perf" if phase == "prefill" else "generation_attention_perf"
    raw = {}
    for r in published.rows("attention", engine.table(stem, part_name, phase)):
        d, window = int(r["head_dim"]), int(r.get("window_size") or 0)
        heads, kv = int(r["num_heads"]), int(r["num_key_value_heads"])
        if heads % kv:  # some collections have 12 heads over 8
            continue
        # Windows that a model of ours has at these widths: gpt-oss's, Gemma 3's.
        if d not in (64, 128, 256) or (window and (window, d) not in ((128, 64), (1024, 256))):
            continue
        if kv == heads and heads > 16:
            continue
        if engine.thin and (heads // kv > WIDEST_GROUP or d == 256):
            continue
        kv_dtype = "fp8" if r["kv_cache_dtype"] == "fp8" else "bf16"
        length = int(r["isl"]) if phase == "prefill" else int(r["step"]) + 1
        key = (heads, kv, d, window, kv_dtype, r["kernel_source"])
        raw.setdefault(key, {}).setdefault(length, {}).setdefault(int(r["batch_size"]), []).append(
            (r["attn_dtype"] == "fp8", float(r["latency"]) * 1e3))
    for key, by_length in raw.items():
        for by_batch in by_length.values():
            for batch, samples in by_batch.items():
                # New sets: with FP8 keys, products in bf16 where the table has both; which one runs is the engine's choice.
                plain = [us for fp8, us in samples if not fp8] if engine.thin else []
                by_batch[batch] = statistics.median(plain or [us for _, us in samples])
    return {key: {n: dict(sorted(raw[key][n].items())) for n in sorted(raw[key])} for key in sorted(raw)}


def kv_bytes(key, batch, length):
    _, kv, d, window, kv_dtype, _ = key
    return 2 * batch * (min(length, window) if window else length) * kv * d * (1 if kv_dtype == "fp8" else 2)


def without_warm_keys(timed, table):
    """Decode on a part whose last cache holds the keys that a collector repeats (L40S, 96 MB: up to 3.3 times the data
    sheet, and a cliff where they stop fitting). In an engine the other layers' keys come between: a launch takes at
    least its start, that of its shortest context, and its keys at the rate of those that no cache holds."""
    start = lambda key, batch: log_interpolate(sorted(table[key][min(table[key])].items()), batch)  # noqa: E731
    everything = [(key, n, b, us) for key, by in table.items() for n, row in by.items() for b, us in row.items()]
    if not any(us < attention_bound_us(timed, "decode", key, b, n) and kv_bytes(key, b, n) < timed["l2"]
               for key, n, b, us in everything):
        return 0
    rates = {}
    for key, n, b, us in everything:
        if kv_bytes(key, b, n) > 2 * timed["l2"] and us > 5 * start(key, b):
            rates.setdefault((key[0] // key[1], key[2], key[4]), []).append(kv_bytes(key, b, n) / (us - start(key, b)))
    if not rates:
        return 0
    rate = {k: statistics.median(v) for k, v in rates.items()}
    usual = statistics.median(rate.values())
    first = {(key, b): start(key, b) for key, _, b, _ in everything}
    raised = 0
    for key, n, b, us in everything:
        size = kv_bytes(key, b, n)
        if size < 1.5 * timed["l2"]:
            least = first[key, b] + size / rate.get((key[0] // key[1], key[2], key[4]), usual)
            if least > us:
                table[key][n][b] = least
                raised += least > 1.02 * us
    return raised


def surfaces(part, timed, phase, table):
    """{key: {length: [(sequences, utilisation)]}} and how many figures above the bound were put on it (prompts whose
    activations stay in the cache; the bound counts them as read from memory)."""
    out, above, first = {}, 0, {}
    for key, by_length in table.items():  # a shape may have another kernel for its shortest prompts
        first[key[:5]] = min([first.get(key[:5], 1 << 60), *by_length])
    for key, by_length in table.items():
        lines, shortest = {}, first[key[:5]]
        if phase == "prefill" and shortest > 1:  # TensorRT-LLM 1.2's begin at 16 tokens: what is shorter is a launch too
            by_length = {1: by_length[shortest], **by_length} if shortest in by_length else by_length
        for n, row in by_length.items():
            if phase == "decode" and n != 2 and n < 64:
                continue
            points = []
            for b, us in row.items():
                bound = attention_bound_us(part, phase, key, b, n)
                u = bound / carried(us, bound, attention_bound_us(timed, phase, key, b, n))
                above += u > 1
                points.append((b, min(u, 1.0)))
            lines[n] = points
        out[key] = lines
    return out, above


REGIONS = {"prefill": [(1, 512), (513, 4096), (4097, 1e12)], "decode": [(1, 64), (65, 512), (513, 1e12)]}


def axis_value(phase, key, batch, length):
    """What the cost model calls the position: tokens of the launch, or its sequences times KV heads."""
    return batch * length if phase == "prefill" else batch * key[1]


def deviations(phase, table):
    """|log(time)| by KV type and region: (points left out along either axis, whole head configurations left out)."""
    merged = {}  # a shape may change its kernel along the length: one surface, as KernelSetReader::add_line
    for key, lines in table.items():
        merged.setdefault(key[:5], {}).update(lines)
    table, out = merged, {}
    for key, lines in table.items():
        lengths = sorted(lines)
        group = [k for k in table if k != key and k[2:5] == key[2:5]]
        weights = neighbour_weights([(math.log(k[1]), math.log(k[0] / k[1])) for k in group],
                                    (math.log(key[1]), math.log(key[0] / key[1]))) if group else []
        for i, n in enumerate(lengths):
            for j, (b, u) in enumerate(lines[n]):
                x = axis_value(phase, key, b, n)
                region = next(r for r in REGIONS[phase] if r[0] <= x <= r[1])
                points, left_out = out.setdefault(key[4], {}).setdefault(region, ([], []))
                if 0 < j < len(lines[n]) - 1:
                    points.append(abs(math.log(smooth(lines[n][:j] + lines[n][j + 1:], b) / u)))
                if 0 < i < len(lengths) - 1 and b <= lines[lengths[i + 1]][-1][0]:
                    rest = {m: lines[m] for m in lengths[max(0, i - 2):i + 3] if m != n and b <= lines[m][-1][0]}
                    points.append(abs(math.log(surface_at(rest, b, n, phase) / u)))
                if weights:
                    guess = weighted([(surface_at(table[group[k]], b, n, phase), w) for k, w in weights])
                    left_out.append(abs(math.log(guess / u)))
    return out
