#!/usr/bin/env python3
"""reports/results/transport.md: published H200 timings predicted from the H100's, with the H200's hidden.

tools/transport_report.py [--shared ../shared] [--orrery build/release/orrery] — equal launches of the tables of vLLM, SGLang and TensorRT-LLM on both
parts, carried over as KernelSetReader::carried does it, and as it did before (the bound's difference in full). Decode
launches whose keys half fill the last cache (12 to 120 MB) are left out: the collector repeats them, so part of them
comes from the cache. Then our own kernels: `orrery cost --ops` with the H100's table carried over, against what was timed on
an H200 (reports/cases/h200_orrery_between). Without ../shared there is nothing to compare: says so, exit 0.
"""
import argparse
import math
import os
import statistics
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import operator_accuracy  # noqa: E402
from kernel_tables import attention as att  # noqa: E402
from kernel_tables import dense, layers  # noqa: E402
from kernel_tables.base import (ROOT, SYSTEMS, Published, attention_bound_us, experts_bound_us, figures,  # noqa: E402
                                gemm_bound_us)
from kernel_tables.engines import ENGINES  # noqa: E402

FULL_CREDIT = 0.7
LAWS = {"in full": lambda us, source, bound: max(us + bound - source, bound),
        "by utilisation": lambda us, source, bound:
        max(us + min(1, source / us / FULL_CREDIT) * (bound - source), bound)}


def region(regions, x):
    low, high = next(r for r in regions if r[0] <= x <= r[1])
    return f"{low:,} to {high:,}" if high < 1e8 else f"{low:,} and more"


def equal(first, second):
    """Keys that both nested tables have, with both times."""
    for key, value in first.items():
        if key not in second:
            continue
        if isinstance(value, dict):
            for rest, a, b in equal(value, second[key]):
                yield (key, *rest), a, b
        else:
            yield (key,), value, second[key]


def pairs(data):
    """operator, region, microseconds on the H100 and on the H200, bounds of both."""
    h100, h200 = figures("h100"), figures("h200")
    first, second = Published(data, SYSTEMS["h100"]), Published(data, SYSTEMS["h200"])
    for engine in [e for e in ENGINES.values() if not e.base]:
        def both(read, *extra):
            return equal(read(first, engine, "h100", *extra), read(second, engine, "h200", *extra))

        for gemm in engine.gemm:
            fmt = gemm.formats[0]
            for (shape, m), a, b in both(dense.published_times, gemm):
                yield (f"gemm, {fmt}", region(dense.REGIONS, m) + " rows", a, b,
                       gemm_bound_us(h100, fmt, m, *shape), gemm_bound_us(h200, fmt, m, *shape))
        for phase in ("prefill", "decode"):
            for (key, length, batch), a, b in both(att.published_times, phase):
                if phase == "decode" and 12e6 < att.kv_bytes(key, batch, length) < 120e6:
                    continue
                where = region(att.REGIONS[phase], att.axis_value(phase, key, batch, length))
                yield (f"attention_{phase}", where + (" tokens" if phase == "prefill" else " sequences × KV heads"), a, b,
                       attention_bound_us(h100, phase, key, batch, length),
                       attention_bound_us(h200, phase, key, batch, length))
        for (key, tokens), a, b in both(layers.expert_times):
            yield (f"experts, {key[0]}", region(layers.EXPERT_REGIONS, tokens) + " tokens", a, b,
                   experts_bound_us(h100, *key[:5], tokens), experts_bound_us(h200, *key[:5], tokens))
        for (key, _), a, b in both(layers.collective_times):
            yield "collectives", f"{key[1]} GPUs", a, b, 1.0, 1.0


def own_kernels(orrery):
    """(operator, region, n, median |error|, mean signed, share inside the interval) of our kernels with the H200's table hidden."""
    case = f"{ROOT}/reports/cases/h200_orrery_between"
    measured = list(operator_accuracy.timings(case))
    with tempfile.TemporaryDirectory() as folder:
        tables = f"{folder}/hardware_profiles/tables"
        os.makedirs(f"{tables}/h200/orrery")
        for name in ("h100.yaml", "h200.yaml", "tables/h100"):
            os.symlink(f"{ROOT}/hardware_profiles/{name}", f"{folder}/hardware_profiles/{name}")
        with open(f"{tables}/h200/orrery/table.yaml", "w", encoding="utf-8") as f:
            f.write('hardware: h200\nkernels: orrery\nkind: transported\nfrom: h100\nsource: "the H100\'s table"\n')
        os.environ["ORRERY_DATA_DIR"] = folder
        priced = operator_accuracy.prices(orrery, "h200", "orrery", [op for _, _, op, _ in measured])
        del os.environ["ORRERY_DATA_DIR"]
    groups = {}
    for (name, region, _, us), price in zip(measured, priced, strict=True):
        groups.setdefault((name, region), []).append(
            (float(price["us"]) / us - 1, float(price["low_us"]) <= us <= float(price["high_us"])))
    for (name, region), items in sorted(groups.items()):
        yield (name, region, len(items), statistics.median(abs(e) for e, _ in items), statistics.mean(e for e, _ in items),
               sum(inside for _, inside in items) / len(items))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", default=f"{ROOT}/../shared")
    parser.add_argument("--orrery", default=f"{ROOT}/build/release/orrery")
    parser.add_argument("--out", default=f"{ROOT}/reports/results")
    arguments = parser.parse_args()
    data = f"{arguments.shared}/data/aiconfigurator"
    if not os.path.exists(data):
        print(f"no published timings at {data}: nothing to compare with")
        return
    groups, credits = {}, {}
    for op, where, a, b, source, bound in pairs(data):
        groups.setdefault((op, where), []).append((a, b, source, bound))
        if source - bound > 0.25 * source:  # bound by memory on both parts
            credits.setdefault(min(9, int(10 * source / a)), []).append((a - b) / (source - bound))
    with open(f"{arguments.out}/transport.md", "w", encoding="utf-8") as f:
        f.write("# From the H100 to the H200\n\nMade by `python3 tools/transport_report.py`: published timings of equal launches on "
                "both parts (ai-dynamo/aiconfigurator, sets of\nvLLM, SGLang and TensorRT-LLM), the H200's predicted from the H100's. "
                "Median |log error| and signed median (+: predicted too\nlong). *Ratio*: median of H200 ÷ H100. Two rules: the "
                "difference of the bounds credited in full, as before 2026-11-25, and in\nproportion to the utilisation up to "
                f"{FULL_CREDIT}, as now. {FULL_CREDIT} was chosen on these timings, none of which is of our own kernels.\n\n"
                "| operator | region | n | ratio | in full | signed | by utilisation | signed |\n|---|---|--:|--:|--:|--:|--:|--:|\n")
        for (op, where), rows in sorted(groups.items()):
            f.write(f"| {op} | {where} | {len(rows):,} | {statistics.median(b / a for a, b, *_ in rows):.3f} ")
            for law in LAWS.values():
                logs = [100 * math.log(law(a, source, bound) / b) for a, b, source, bound in rows]
                f.write(f"| {statistics.median(map(abs, logs)):.1f} % | {statistics.median(logs):+.1f} % ")
            f.write("|\n")
        f.write("\nWhat faster memory saved of the difference of the bounds, where memory bounds both:\n\n"
                "| utilisation on the H100 | n | lower quartile | median | upper quartile |\n|---|--:|--:|--:|--:|\n")
        for tenth, values in sorted(credits.items()):
            low, middle, high = statistics.quantiles(values, n=4)
            f.write(f"| 0.{tenth} | {len(values):,} | {low:.2f} | {middle:.2f} | {high:.2f} |\n")
        f.write("\n## Our own kernels\n\nTimed on an H200 on 2026-11-26 at sizes between those of the tables, priced from the H100's "
                "table with the H200's hidden: interpolation\nand transport together. Nothing of it was used to choose the rule above.\n\n"
                "| operator | region | points | median | mean, signed | inside the 90 % interval |\n|---|---|--:|--:|--:|--:|\n")
        for name, region, count, middle, signed, inside in own_kernels(os.path.abspath(arguments.orrery)):
            f.write(f"| {name} | {region} | {count} | {100 * middle:.1f} % | {100 * signed:+.1f} % | {100 * inside:.0f} % |\n")


if __name__ == "__main__":
    main()
