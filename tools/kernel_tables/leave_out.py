"""errors.csv: one standard deviation of log(time) by operator, format and region.

`points`: 1.4826 times the median absolute deviation when an inner point of either axis is left out and interpolated from
its neighbours (which doubles the gap) or lies between the table's points; `shapes`: when a whole static shape (width,
heads) is left out and blended from the others. To both the set's version is added in quadrature: what the same table
changes between the release that was timed and an earlier or later one, as a stand-in for the releases that nobody timed.
"""
import math
import statistics

from . import attention as att
from . import dense, layers

LEAST = 0.01  # a run of the same kernel repeats no better


def deviation(errors):
    return 1.4826 * statistics.median(errors) if errors else None


def row(op, fmt, region, points, shapes, version):
    a, b = deviation(points), deviation(shapes)
    if a is None and b is None:
        return None
    a = max(a if a is not None else b, LEAST)
    b = max(b if b is not None else 2 * a, a if b is None else LEAST)
    return [op, fmt, region[0], f"{region[1]:.9g}", f"{math.hypot(a, version):.4f}", f"{math.hypot(b, version):.4f}",
            f"{version:.4f}"]


def changes(now, then):
    """1.4826 median |log ratio| of times that two versions' tables share, about the median ratio's own distance."""
    logs = []
    for key, us in now.items():
        if key in then and us > 0 and then[key] > 0:
            logs.append(abs(math.log(then[key] / us)))
    return deviation(logs) or 0.0


def flat(table, depth):
    if depth == 0:
        return {(): table}
    return {(k, *rest): v for k, inner in table.items() for rest, v in flat(inner, depth - 1).items()}


def version_changes(published, engine, part_name):
    """{group: deviation} between the table's version and `before`; without one on this part, another part's."""
    if not engine.before:
        return {}
    other = type(engine)(**{**vars(engine), "repeats": [], "versions": {"all": "", **engine.before, "prefill": engine.before["attention"],
                                                         "decode": engine.before["attention"]}})
    out = {}
    for gemm in engine.gemm:
        out["gemm", gemm.formats[0]] = changes(flat(dense.published_times(published, engine, part_name, gemm), 2),
                                               flat(dense.published_times(published, other, part_name, gemm), 2))
    for phase in ("prefill", "decode"):
        name = lambda table: {(k[:5], *rest): v for (k, *rest), v in flat(table, 3).items()}  # noqa: E731
        tables = [att.published_times(published, e, part_name, phase) for e in (engine, other)]
        out["attention_" + phase, ""] = changes(*map(name, tables))
    kernels = [layers.expert_times(published, e, part_name)
               for e in (engine, type(other)(**{**vars(other), "experts": {k: None for k in other.experts}}))]
    for fmt in sorted({k[0] for k in kernels[0]}):
        now, then = ({(k[:5], t): us for k, by in table.items() if k[0] == fmt for t, us in by.items()} for table in kernels)
        out["experts", fmt] = changes(now, then)
    reduce = [{k: v for k, v in flat(layers.collective_times(published, e, part_name), 2).items()
               if k[0][0] == "all_reduce"} for e in (engine, other)]
    out["collectives", ""] = changes(*reduce)
    return out
