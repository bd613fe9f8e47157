"""Dense products: utilisation by shape and rows out of a published table."""
import math
import statistics

from .base import (BYTES, M_KNOTS, blended, carried, gemm_bound_us, log_interpolate)

LAUNCH_US = 2.0  # no kernel of a graph is shorter: the shortest products of the tables, which have no quantisation
LATER = 1.3  # a time this much above a later one of the same shape is a hiccup of the collection, not a kernel's


def one_collection(published, table, gemm):
    raw = {}
    for r in published.rows("gemm", table):
        if r["gemm_dtype"] == gemm.source and int(r["n"]) >= 256 and int(r["k"]) >= 256 and int(r["m"]) > 0:
            raw.setdefault((int(r["n"]), int(r["k"])), {}).setdefault(int(r["m"]), []).append(float(r["latency"]) * 1e3)
    return {shape: {m: statistics.median(us) for m, us in sorted(by_m.items())} for shape, by_m in sorted(raw.items())}


def published_times(published, engine, part_name, gemm):
    """{(n, k): {m: us}}, n and k of at least 256; the median of the engine's collections, where there are several."""
    table = one_collection(published, engine.table("gemm_perf", part_name, "gemm"), gemm)
    others = [one_collection(published, f"gemm_perf__{engine.prefix}-{version}", gemm) for version in engine.repeats]
    for shape, by_m in table.items():
        for m, us in by_m.items():
            by_m[m] = statistics.median([us] + [t[shape][m] for t in others if m in t.get(shape, {})])
    return table


def hiccups(by_m):
    """Rows whose time is above a later one's by more than LATER. Tables time m and m + 1 at each tile's edge: two
    sequences, because kernels that want aligned rows are slower on the whole second one."""
    out = set()
    for side in ([m for m in by_m if m <= 17 or m - 1 not in by_m], [m for m in by_m if m > 17 and m - 1 in by_m]):
        least = math.inf
        for m in sorted(side, reverse=True):
            if by_m[m] > LATER * least:
                out.add(m)
            else:
                least = min(least, by_m[m])
    return out


class WarmWeights:
    """On a part whose last cache holds the weights that a collector repeats, small products look faster than memory
    is; in an engine other layers' weights come between. Where a table shows that (times below the bound), a product
    takes at least its start and its weights at the rate of those that no cache holds."""

    def __init__(self, part, fmt, shapes, raw):
        self.part, self.fmt, self.raised = part, fmt, 0
        self.start = {}
        for by_m in shapes.values():
            for m, us in by_m.items():
                self.start[m] = min(us, self.start.get(m, math.inf))
        rates = [self.bytes(s) / (us - self.start[m]) for s, by_m in shapes.items() for m, us in by_m.items()
                 if m <= 16 and self.bytes(s) > 2.5 * part["l2"] and us > 5 * self.start[m]]
        below = any(us < gemm_bound_us(part, fmt, m, *s) and self.bytes(s) < 2 * part["l2"]
                    for s, by_m in raw.items() for m, us in by_m.items())
        self.rate = statistics.median(rates) if below and rates else 0  # bytes a microsecond

    def bytes(self, shape):
        return shape[0] * shape[1] * BYTES[self.fmt]

    def __call__(self, shape, m, us):
        if not self.rate or self.bytes(shape) > 2.5 * self.part["l2"]:
            return us
        least = self.start[m] + self.bytes(shape) / self.rate
        self.raised += least > 1.02 * us
        return max(us, least)


def without_quantisation(timed, gemm, quantise, shape, m, us):
    """A timing without the quantisation that it holds; not below nine tenths of the bound, nor a launch."""
    least = max(gemm_bound_us(timed, gemm.formats[0], m, *shape) / 0.9, LAUNCH_US)
    return max(us - quantise(gemm.quantises, m, shape[1]), min(us, least))


def gemm_times(timed, published, engine, part_name, gemm, quantise):
    """Cleaned {(n, k): {m: us}}, the share of each that was quantisation, and what was done to them."""
    fmt = gemm.formats[0]
    raw = published_times(published, engine, part_name, gemm)
    dropped = 0
    if engine.thin:  # the vLLM set was made without
        for by_m in raw.values():
            for m in hiccups(by_m):
                del by_m[m]
                dropped += 1
    shapes, shares = raw, {}
    if gemm.quantises:
        shapes = {s: {m: without_quantisation(timed, gemm, quantise, s, m, us) for m, us in by_m.items()}
                  for s, by_m in raw.items()}
        shares = {(s, m): 1 - us / raw[s][m] for s, by_m in shapes.items() for m, us in by_m.items()}
    warm = WarmWeights(timed, fmt, shapes, raw)
    shapes = {s: {m: warm(s, m, us) for m, us in by_m.items()} for s, by_m in shapes.items()}
    return shapes, shares, {"figures": sum(map(len, raw.values())) + dropped, "hiccups": dropped, "warm": warm.raised}


def gemm_curves(part, timed, fmt, times):
    """{(n, k): [(m, utilisation)]}; a knot is the mean of the sizes on both sides of an edge. Times of a relative are
    carried over. What is still above the bound is dropped."""
    shapes, dropped = {}, 0
    for (n, k), by_m in times.items():
        points = []
        for m in M_KNOTS:
            logs = []
            for x in (m, m + 1):
                if x in by_m:
                    bound = gemm_bound_us(part, fmt, x, n, k)
                    logs.append(math.log(bound / carried(by_m[x], bound, gemm_bound_us(timed, fmt, x, n, k))))
            if not logs:
                continue
            u = math.exp(sum(logs) / len(logs))
            if u > 1:
                dropped += 1
                continue
            points.append((m, u))
        if points:
            shapes[(n, k)] = points
    return shapes, dropped


REGIONS = [(1, 64), (65, 512), (513, 1e9)]


def gemm_deviations(part, timed, fmt, times, shapes):
    """|log(time)| by region of m: (points left out and sizes between knots, whole shapes left out)."""
    keys = sorted(shapes)
    out = {r: ([], []) for r in REGIONS}
    region_of = lambda m: next(r for r in REGIONS if r[0] <= m <= r[1])  # noqa: E731
    for s in keys:
        if not (1024 <= s[0] <= 16384 and 1024 <= s[1] <= 16384):
            continue
        others, curve = [k for k in keys if k != s], shapes[s]
        knots = {m for m, _ in curve}
        for i, (m, u) in enumerate(curve):
            points, left_out = out[region_of(m)]
            left_out.append(abs(math.log(blended(shapes, others, s, m) / u)))
            if 0 < i < len(curve) - 1:
                points.append(abs(math.log(log_interpolate([curve[i - 1], curve[i + 1]], m) / u)))
        for m, us in times[s].items():  # sizes between knots, and both sides of the edge that a knot is the mean of
            if (m not in knots or m + 1 in times[s]) and curve[0][0] < m < curve[-1][0]:
                bound = gemm_bound_us(part, fmt, m, *s)
                u = bound / carried(us, bound, gemm_bound_us(timed, fmt, m, *s))
                out[region_of(m)][0].append(abs(math.log(log_interpolate(curve, m) / u)))
    return out
