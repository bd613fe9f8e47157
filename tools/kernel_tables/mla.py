"""Latent attention (MLA): utilisation of its kernels out of published tables of kernels and of whole modules.

What a row holds was read in the collectors of the source (collector/{sglang,trtllm,vllm}/collect_mla*.py):

- SGLang: FlashAttention 3 over latent and rotary key ("absorbed"), for decodes and for prompts; with 8-bit keys the
  conversion of the pool to bf16 besides, and the collector's pool holds the batch alone: not used.
- TensorRT-LLM: attention with the rotary embedding of its queries and the write of the new latents.
- vLLM 0.24: the whole module, projections included, in a graph. Nothing but attention depends on the context, so that a
  decode's attention is the row less the one at two keys, plus what FA3 takes at two keys (SGLang's table, the same
  kernel). A prompt's is the row less that of as many tokens in prompts of 1,024, plus those prompts' attention, which
  is their time of FA3 at 128 wide heads (the same release's table) times 320/256, the widths multiplied.
"""
import math
import statistics

from . import attention as att
from .base import attention_bound_us, cells, log_interpolate, neighbour_weights, smooth, surface_at, weighted, write

RANK, ROTARY, KEY, VALUE = 512, 64, 128, 128  # of DeepSeek V2, V3, Kimi K2: the only geometry that was timed
ABSORBED, EXPANDED = (RANK + ROTARY, RANK), (KEY + ROTARY, VALUE)
SHORTEST_EXPANDED = 1024  # vLLM: shorter ones run absorbed (FLASH_ATTN_MLA up to 512 new tokens), as the rows say
HICCUP = 1.3


def decode_bound_us(part, kv_dtype, heads, batch, length):
    element = 1 if kv_dtype == "fp8" else 2
    keys = batch * length
    data = keys * ABSORBED[0] * element + batch * heads * sum(ABSORBED) * 2
    return max(2 * keys * heads * sum(ABSORBED) / part["bf16"], data / part["bandwidth"]) * 1e6


def prefill_bound_us(part, form, heads, batch, length):
    pairs = batch * length * (length + 1) / 2
    return max(2 * heads * sum(form) * pairs / part["bf16"], batch * length * heads * sum(form) * 2 / part["bandwidth"]) * 1e6


def absorb_bound_us(part, heads, tokens):
    weights, rows = heads * RANK * (KEY + VALUE), tokens * heads * (2 * RANK + KEY + VALUE)
    return max(2 * tokens * weights / part["bf16"], 2 * (weights + rows) / part["bandwidth"]) * 1e6


def table_of(published, op, stem, keys=1, **only):
    """{(heads, KV type): {length: {sequences: us}}}; `keys`: added to `step` of a decode to count the new one."""
    raw = {}
    for r in published.rows(op, stem):
        if any(r[k] != v for k, v in only.items()):
            continue
        kv = "fp8" if r["kv_cache_dtype"].startswith("fp8") else "bf16"
        length = int(r["isl"]) if "context" in stem else int(r["step"]) + keys
        raw.setdefault((int(r["num_heads"]), kv), {}).setdefault(length, {}).setdefault(int(r["batch_size"]), []).append(
            float(r["latency"]) * 1e3)
    return {key: {n: {b: statistics.median(us) for b, us in sorted(row.items())} for n, row in sorted(by.items())}
            for key, by in sorted(raw.items())}


def without_hiccups(table):
    """Drops what takes 1.3 times as long as a larger launch; returns how many."""
    dropped = 0
    for by in table.values():
        lengths = sorted(by)
        for i, n in enumerate(lengths):
            batches = sorted(by[n])
            for j, b in enumerate(batches):
                later = [by[n][c] for c in batches[j + 1:j + 2]] + [by[m].get(b) for m in lengths[i + 1:i + 2]]
                if any(us and by[n][b] > HICCUP * us for us in later):
                    del by[n][b]
                    dropped += 1
    return dropped


def rising(table):
    """A decode never takes less with more keys: what a difference of two launches lost in noise is put back."""
    for by in table.values():
        most = {}
        for n in sorted(by):
            for b, us in by[n].items():
                most[b] = by[n][b] = max(us, most.get(b, 0))
    return table


def vllm_decodes(published, version, start, start_version):
    """Module rows less the shortest of their batch, plus the start that a kernel-only table has for it."""
    module = table_of(published, "mla", f"mla_generation_module_perf__vllm-{version}", 0, gemm_type="bfloat16")
    without_hiccups(module)
    starts = table_of(start, "mla", f"generation_mla_perf__sglang-{start_version}")
    out = {}
    for (heads, kv), by in module.items():
        first, begin = by[2], starts.get((heads, "bf16"), {}).get(2)
        if begin:
            out[heads, kv] = {n: {b: us - first[b] + log_interpolate(sorted(begin.items()), b) for b, us in row.items()
                                  if b in first} for n, row in by.items()}
    return rising(out)


def fa3_times(part, published, engine, part_name):
    """us(heads, sequences, tokens) of ordinary causal attention at heads of 128 in bf16."""
    table, _ = att.surfaces(part, part, "prefill", att.published_times(published, engine, part_name, "prefill"))
    lines = {}
    for key, by in table.items():
        if key[2] == 128 and key[3] == 0 and key[4] == "bf16":
            lines.setdefault(key[:5], {}).update(by)

    def us(heads, sequences, tokens):
        key = max((k for k in lines if k[0] <= heads), key=lambda k: (k[0], k[1]))
        mine = (heads, max(1, heads * key[1] // key[0]), 128, 0, "bf16", "")
        return attention_bound_us(part, "prefill", mine, sequences, tokens) / surface_at(lines[key], sequences, tokens, "prefill")
    return us


def vllm_prompts(published, version, fa3):
    widths = sum(EXPANDED) / 256
    module = table_of(published, "mla", f"mla_context_module_perf__vllm-{version}", gemm_type="bfloat16")
    out = {}
    for key, by in module.items():
        base = sorted(by.get(SHORTEST_EXPANDED, {}).items())
        mine = out.setdefault(key, {})
        for n, row in by.items():
            for b, us in row.items():
                if 64 <= n <= SHORTEST_EXPANDED:
                    mine.setdefault(n, {})[b] = widths * fa3(key[0], b, n)
                equal = b * n / SHORTEST_EXPANDED  # prompts of 1,024 that have as many tokens
                if n <= SHORTEST_EXPANDED or not base or not base[0][0] <= equal <= base[-1][0]:
                    continue
                others = log_interpolate(base, equal) - widths * fa3(key[0], equal, SHORTEST_EXPANDED)
                if us - others > 0.2 * us:  # else it is a small difference of two large launches
                    mine.setdefault(n, {})[b] = us - others
    return out


def absorb_times(published, table):
    """{heads: {tokens: us}}: both products of a row in bf16, into the latent's space and out of it."""
    both = {}
    for r in published.rows("mla_bmm", table):
        if r["bmm_dtype"] == "bfloat16":
            both.setdefault((int(r["num_heads"]), int(r["num_tokens"])), {}).setdefault(r["op_name"], []).append(
                float(r["latency"]) * 1e3)
    out = {}
    for (heads, tokens), ops in sorted(both.items()):
        if len(ops) == 2:
            out.setdefault(heads, {})[tokens] = sum(statistics.median(us) for us in ops.values())
    return out


def surfaces(table, bound, shortest=1):
    """{(heads, KV type): {length: [(sequences, utilisation)]}} and how many were put on the bound."""
    out, above = {}, 0
    for (heads, kv), by in table.items():
        for n, row in by.items():
            if n < shortest and n != min(by):
                continue
            for b, us in row.items():
                u = bound(kv, heads, b, n) / us
                above += u > 1
                out.setdefault((heads, kv), {}).setdefault(n, []).append((b, min(u, 1.0)))
    return out, above


DECODE_REGIONS = [(1, 16), (17, 128), (129, 1e12)]       # sequences
PREFILL_REGIONS = [(1, 2048), (2049, 16384), (16385, 1e12)]  # tokens
ABSORB_REGIONS = [(1, 64), (65, 1024), (1025, 1e12)]


def deviations(table, phase):
    """{KV type: {region: (points left out along either axis, whole numbers of heads left out)}}."""
    out = {}
    for key, lines in table.items():
        lengths = sorted(lines)
        group = [k for k in table if k != key and k[1] == key[1]]
        weights = neighbour_weights([(0.0, math.log(k[0])) for k in group], (0.0, math.log(key[0]))) if group else []
        for i, n in enumerate(lengths):
            for j, (b, u) in enumerate(lines[n]):
                x = b * n if phase == "prefill" else b
                regions = PREFILL_REGIONS if phase == "prefill" else DECODE_REGIONS
                region = next(r for r in regions if r[0] <= x <= r[1])
                points, shapes = out.setdefault(key[1], {}).setdefault(region, ([], []))
                if 0 < j < len(lines[n]) - 1:
                    points.append(abs(math.log(smooth(lines[n][:j] + lines[n][j + 1:], b) / u)))
                if 0 < i < len(lengths) - 1 and b <= lines[lengths[i + 1]][-1][0]:
                    rest = {m: lines[m] for m in lengths[max(0, i - 2):i + 3] if m != n and b <= lines[m][-1][0]}
                    if len(rest) > 1:
                        points.append(abs(math.log(surface_at(rest, b, n, phase) / u)))
                if weights:
                    guess = weighted([(surface_at(table[group[k]], b, n, phase), w) for k, w in weights])
                    shapes.append(abs(math.log(guess / u)))
    return out


def absorb_deviations(curves):
    out = {}
    for heads, curve in curves.items():
        others = [h for h in curves if h != heads]
        weights = neighbour_weights([(0.0, math.log(h)) for h in others], (0.0, math.log(heads)))
        for i, (x, u) in enumerate(curve):
            region = next(r for r in ABSORB_REGIONS if r[0] <= x <= r[1])
            points, shapes = out.setdefault(region, ([], []))
            if 0 < i < len(curve) - 1:
                points.append(abs(math.log(log_interpolate(curve[:i] + curve[i + 1:], x) / u)))
            shapes.append(abs(math.log(weighted([(log_interpolate(curves[others[k]], x), w) for k, w in weights]) / u)))
    return out


def changed(now, then, region, axis):
    """1.4826 median |log ratio| of what two releases' tables share in a region, above 1,024 keys: below, starts alone
    decide, and for prompts of vLLM the figures are FA3's own."""
    logs = [abs(math.log(then[key][n][b] / us)) for key, by in now.items() for n, row in by.items() if n > 1024
            for b, us in row.items() if region[0] <= axis(b, n) <= region[1] and then.get(key, {}).get(n, {}).get(b)]
    return 1.4826 * statistics.median(logs) if logs else 0.0


class Latent:
    """The three files of one set; `versions`: of decodes, prompts, products; `before`: another release of each."""

    def __init__(self, fit):
        self.fit, self.part, self.engine = fit, fit.part, fit.engine
        self.published = fit.published

    def decodes(self, version):
        if self.engine.prefix == "vllm":
            return vllm_decodes(self.published, version, self.published, self.engine.latent["start"]), "FA3 (8 bits: FlashMLA)"
        table = table_of(self.published, "mla", f"generation_mla_perf__{self.engine.prefix}-{version}")
        return table, "FA3" if self.engine.prefix == "sglang" else "TensorRT-LLM with rotary and cache write"

    def prompts(self, version):
        if self.engine.prefix == "vllm":
            return vllm_prompts(self.published, version,
                                fa3_times(self.part, self.published, self.engine, self.fit.part_name)), EXPANDED, "FA3"
        table = table_of(self.published, "mla", f"context_mla_perf__{self.engine.prefix}-{version}")
        if self.engine.prefix == "sglang":
            return table, ABSORBED, "FA3 absorbed"
        return table, EXPANDED, "TensorRT-LLM with rotary and cache write"

    def attention(self, phase):
        read = self.decodes if phase == "decode" else self.prompts
        table, *rest = read(self.engine.latent[phase])
        form, kernel = (rest[0] if phase == "prefill" else ABSORBED), rest[-1]
        if self.engine.prefix == "sglang":
            table = {key: by for key, by in table.items() if key[1] == "bf16"}
        dropped = without_hiccups(table)

        def bound(kv, heads, b, n):
            return decode_bound_us(self.part, kv, heads, b, n) if phase == "decode" else prefill_bound_us(self.part, form, heads, b, n)

        lines, above = surfaces(table, bound, 64 if phase == "decode" else 1)
        if not lines:
            return
        batches = sorted({b for by in lines.values() for points in by.values() for b, _ in points})
        write(self.fit.folder, f"mla_{phase}.csv",
              ["kv_dtype", "heads", "head_dim", "value_dim", "kernel", "length"] + batches,
              [[kv, heads, *form, kernel, n] + cells(self.fit.points(points, smooth), batches)
               for (heads, kv), by in lines.items() for n, points in by.items()])
        other = read(self.engine.latent["before"][phase])[0]
        for kv, regions in deviations(lines, phase).items():
            for region, (points, shapes) in sorted(regions.items()):
                version = changed(table, other, region, lambda b, n: b * n if phase == "prefill" else b)
                self.fit.error(f"mla_{phase}", kv, region, points, shapes, version)
        count = sum(len(points) for by in lines.values() for points in by.values())
        self.fit.notes.append(f"mla {phase}: {count} figures, {dropped} hiccups, {above} put on the bound")

    def absorb(self):
        times = absorb_times(self.published, f"mla_bmm_perf__{self.engine.prefix}-{self.engine.latent['absorb']}")
        curves = {heads: [(t, min(1.0, absorb_bound_us(self.part, heads, t) / us)) for t, us in by.items()]
                  for heads, by in times.items()}
        if not curves:
            return
        axis = sorted({t for curve in curves.values() for t, _ in curve})
        write(self.fit.folder, "mla_absorb.csv", ["dtype", "heads", "latent", "key_dim", "value_dim", "kernel"] + axis,
              [["bf16", heads, RANK, KEY, VALUE, "bmm"] + cells(self.fit.points(curve), axis) for heads, curve in curves.items()])
        for region, (points, shapes) in sorted(absorb_deviations(curves).items()):
            self.fit.error("mla_absorb", "bf16", region, points, shapes, 0.0)
        self.fit.notes.append(f"mla absorb: {sum(map(len, curves.values()))} figures")

    def run(self):
        self.attention("decode")
        self.attention("prefill")
        self.absorb()
