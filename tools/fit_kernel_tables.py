#!/usr/bin/env python3
"""Utilisation tables of engines' kernels from published and measured timings.

tools/fit_kernel_tables.py [--data ../shared/data/aiconfigurator] [--part h200 …] [--set sglang-0.5 …]

Writes hardware_profiles/tables/<part>/<set>/. Input: the published operator tables (ai-dynamo/aiconfigurator,
Apache-2.0; not committed here) and, for vLLM, reports/cases/{h100,h200}_vllm_0_24_kernels/kernels.csv, our own
kernel-by-kernel profiles of vLLM 0.24 steps. Utilisation = bound by the data sheet / time. What is dropped,
what is corrected and what the errors mean: docs/calibration.md; which table stands for which kernels:
tools/kernel_tables/engines.py. Standard library and the zstd command only; the same input gives the same bytes.
"""
import argparse
import os
import statistics
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from kernel_tables import attention as att  # noqa: E402
from kernel_tables import dense, further_profile, layers, leave_out, mla, own_products, own_profile  # noqa: E402
from kernel_tables.base import (M_KNOTS, ROOT, SYSTEMS, Published, attention_bound_us, blended, cells,  # noqa: E402,F401
                                figures, gemm_bound_us, log_interpolate, smooth, thinned, timed_part, write)
from kernel_tables.engines import CHOICE_INSIDE, ENGINES  # noqa: E402
from kernel_tables.own_profile import digest  # noqa: E402,F401

REPOSITORY = {"h20": "tianhaox/aiconfigurator @c991162, Apache-2.0, data/h20_3e"}


class Fit:
    """One set of one part while it is made."""

    def __init__(self, part_name, engine, data):
        self.part_name, self.engine = part_name, engine
        self.part, self.timed, self.h100 = figures(part_name), timed_part(part_name), figures("h100")
        self.published = Published(data, SYSTEMS[part_name])
        self.data = data
        self.folder = f"{ROOT}/hardware_profiles/tables/{part_name}/{engine.name}"
        self.profiled = "vllm-0.24" in (engine.name, engine.base) and part_name in ("h100", "h200")
        self.row_wise_of_sglang = engine.prefix == "sglang"
        self.row_wise_of_others = engine.prefix == "trtllm" and not engine.base and part_name in ("h100", "h200")
        self.errors, self.notes, self.used, self.expert_formats = [], [], {}, []
        self.versions = leave_out.version_changes(*self.version_source())

    def version_source(self):
        """Tables of two versions to compare: this part's, or the H100's where it has one version only."""
        if self.part_name in ("h100", "h200"):
            return self.published, self.engine, self.part_name
        return Published(self.data, SYSTEMS["h100"]), self.engine, "h100"

    def version(self, op, fmt=""):
        return self.versions.get((op, fmt), 0.0)

    def quantise(self):
        """The kernel's published times: TensorRT-LLM's; those of the H200 for its relative."""
        part = "h200" if self.part_name == "h20" else self.part_name
        return layers.Quantise(Published(self.data, SYSTEMS[part]), ENGINES["tensorrt-llm-1.2"], part)

    def points(self, points, interpolate=log_interpolate):
        return thinned(points, interpolate) if self.engine.thin else points

    def error(self, op, fmt, region, points, shapes, version):
        line = leave_out.row(op, fmt, region, points, shapes, version)
        if line:
            self.errors.append(line)

    def gemm(self):
        rows = []
        quantise = self.quantise() if any(g.quantises for g in self.engine.gemm) else None
        for gemm in self.engine.gemm:
            fmt = gemm.formats[0]
            times, shares, note = dense.gemm_times(self.timed, self.published, self.engine, self.part_name, gemm, quantise)
            if not times:
                continue
            shapes, above = dense.gemm_curves(self.part, self.timed, fmt, times)
            if fmt == "bf16":
                self.bf16 = shapes
            self.notes.append(f"gemm {fmt}: {sum(map(len, shapes.values()))} figures of {len(shapes)} shapes, {above} dropped "
                              f"above the bound, {note['hiccups']} hiccups, {note['warm']} of {note['figures']} raised (warm)")
            for (n, k), points in shapes.items():
                kept = self.points(points)
                rows += [[name, n, k, gemm.kernel] + cells(kept, M_KNOTS) for name in gemm.formats]
            if fmt == "bf16" and gemm.kernel == "torch.linear":
                own = own_products.anchored(self.part_name, self.part, shapes, further_profile.products(self.part_name) if self.profiled else {})
                rows += [[fmt, n, k, "cuBLASLt (timed by us)"] + cells(self.points(points), M_KNOTS)
                         for (n, k), points in own.items() if n != own_profile.OUTPUT_LAYER]
                self.notes.append(f"gemm {fmt}: {len(own)} more shapes from our own timings")
            # A quarter of the quantisation that was taken off: another engine's kernel, timed by itself (assumed).
            deviations = dense.gemm_deviations(self.part, self.timed, fmt, times, shapes)
            for region, (points, left_out) in deviations.items():
                inside = [share for (_, m), share in shares.items() if region[0] <= m <= region[1]]
                off = 0.25 * statistics.median(inside) if inside else 0.0
                version = (self.version("gemm", fmt) ** 2 + off ** 2) ** 0.5
                for name in gemm.formats:
                    self.error("gemm", name, region, points, left_out, version)
        if self.profiled:
            rows += [["bf16", own_profile.OUTPUT_LAYER, k, "nvjet"] + cells(points, M_KNOTS)
                     for k, points in own_profile.output_layer(self.part_name).items()]
            rows += [["fp8-block", n, k, "DeepGEMM"] + cells(points, M_KNOTS)
                     for (n, k), points in own_profile.block_shapes(self.part).items()]
            residuals = [abs(e) for e, _ in own_profile.block_errors(self.h100)]
            self.error("gemm", "fp8-block", (1, 1e9), residuals, residuals, 0.0)
        write(self.folder, "gemm.csv", ["dtype", "n", "k", "kernel"] + M_KNOTS, rows)

    def attention(self):
        for phase in ("prefill", "decode"):
            times = att.published_times(self.published, self.engine, self.part_name, phase)
            if not times:
                continue
            if phase == "prefill":
                self.prefill_times = times
            raised = att.without_warm_keys(self.timed, times) if phase == "decode" else 0
            table, above = att.surfaces(self.part, self.timed, phase, times)
            batches = sorted({b for lines in table.values() for points in lines.values() for b, _ in points})
            out = [["bf16", kv_dtype, heads, kv, d, window, kernel, length] + cells(self.points(points, smooth), batches)
                   for (heads, kv, d, window, kv_dtype, kernel), lines in table.items() for length, points in lines.items()]
            name = "tokens" if phase == "prefill" else "context"
            write(self.folder, f"attention_{phase}.csv",
                  ["dtype", "kv_dtype", "heads", "kv_heads", "head_dim", "window", "kernel", name] + batches, out)
            count = sum(len(points) for lines in table.values() for points in lines.values())
            self.notes.append(f"attention {phase}: {count} figures, {raised} raised (warm keys), {above} put on the bound")
            for kv_dtype, regions in att.deviations(phase, table).items():
                for region, (points, left_out) in sorted(regions.items()):
                    self.error(f"attention_{phase}", kv_dtype, region, points, left_out, self.version(f"attention_{phase}"))

    def experts(self):
        engine = ENGINES[self.engine.base] if self.engine.base else self.engine
        curves, dropped = layers.expert_curves(self.part, self.timed, engine,
                                               layers.as_served(self.part, self.part_name, self.published, engine),
                                               own_profile.corrections_of_experts(self.part_name) if self.profiled else ())
        if not curves:
            return
        if self.engine.base:
            other = (layers.marlin_mxfp4(self.part, self.part_name, self.published, self.engine, curves)
                     if self.engine.prefix == "vllm" else layers.triton_mxfp4(self.part, self.part_name, self.published))
            curves = {**{key: points for key, points in curves.items() if key[0] != "mxfp4"}, **other}
        axis = sorted({t for curve in curves.values() for t, _ in curve})
        self.expert_formats = sorted({key[0] for key in curves})
        write(self.folder, "experts.csv", ["dtype", "hidden", "intermediate", "experts", "per_token", "kernel"] + axis,
              [list(key) + cells(self.points(points), axis) for key, points in curves.items()])
        self.notes.append(f"experts: {sum(map(len, curves.values()))} figures of {len(curves)} layers, {dropped} dropped")
        for fmt, regions in sorted(layers.expert_deviations(curves).items()):
            for region, (points, left_out) in sorted(regions.items()):
                self.error("experts", fmt, region, points, left_out, self.version("experts", fmt))

    def collectives(self):
        table = layers.collective_times(self.published, self.engine, self.part_name)
        if not table or not self.part["link"]:
            return
        curves, dropped = layers.collective_curves(self.part, self.engine, table)
        sizes = sorted({s for curve in curves.values() for s, _ in curve})
        most = max(self.engine.custom_below.values(), default=0) / (1 << 20)
        limit = f"; NCCL from {most:g} MiB" if most else ""
        kernel = "custom" if self.engine.custom_below else "TRT-LLM"
        write(self.folder, "collectives.csv", ["op", "ranks", "kernel"] + sizes,
              [[op, ranks, kernel + limit if op == "all_reduce" else "NCCL"] + cells(points, sizes)
               for (op, ranks), points in curves.items()])
        self.notes.append(f"collectives: {sum(map(len, curves.values()))} figures, {dropped} spikes dropped")
        # No size of GPUs can be left out: two, four and eight are different algorithms.
        self.error("collectives", "", (1, 1e12), layers.along_axis(curves), None, self.version("collectives"))

    def elementwise(self):
        header = ["op", "dtype", "rows", "n", "k", "us", "spread", "kernel"]
        if self.profiled:
            rows = list(own_profile.row_wise(self.part_name))
            write(self.folder, "elementwise.csv", header,
                  [[op, "bf16", rows_, n, 0, f"{us:.4g}", 0, "vLLM"] for op, n, rows_, us in rows])
            curves = {}
            for op, n, rows_, us in rows:
                curves.setdefault((op, n), []).append((rows_, us))
            # A point that its neighbours give exactly was held or scaled, not timed.
            left_out = [e for e in layers.along_axis(curves) if e > 1e-9]
            self.error("elementwise", "", (1, 1e9), left_out, None, 0.0)
        elif self.row_wise_of_sglang:
            rows = list(own_profile.sglang_row_wise(self.part_name))
            write(self.folder, "elementwise.csv", header,
                  [[op, "bf16", rows_, n, 0, f"{us:.4g}", 0, "SGLang"] for op, n, rows_, us in rows])
            curves = {}
            for op, n, rows_, us in rows:
                curves.setdefault((op, n), []).append((rows_, us))
            self.error("elementwise", "", (1, 1e9), layers.along_axis(curves), None, 0.0)
        elif self.engine.name == "tensorrt-llm-1.2" and self.part_name != "h20":
            curves = {}
            for m, k, us in self.quantise().rows():
                curves.setdefault(k, []).append((m, us))
            rows = [["quantize", "bf16", m, k, 0, f"{us:.4g}", 0, "static_quantize_e4m3_per_tensor"]
                    for k, curve in curves.items() for m, us in thinned(curve)]
            if self.row_wise_of_others:
                rows += [[op, "bf16", m, n, 0, f"{us:.4g}", 0, kernel]
                         for op, n, m, us, kernel in own_profile.tensorrt_llm_row_wise(self.part_name)]
            write(self.folder, "elementwise.csv", header, rows)
            self.error("elementwise", "", (1, 1e9), layers.along_axis(curves), None, 0.0)

    def latent(self):
        # L40S: keys stay in its cache while the tables are made. H20: none were published.
        if self.part_name in ("h100", "h200"):
            mla.Latent(self).run()

    def corrections(self):
        if not self.profiled:
            return
        factors = own_profile.corrections(self.part_name, self.h100, self.bf16, self.prefill_times)
        write(self.folder, "corrections.csv", ["op", "x", "factor"],
              [[op, x, f"{f:.4g}"] for op, points in factors.items() for x, f in points])

    def describe(self):
        """table.yaml: what the figures are."""
        kind = "transported" if self.part_name == "h20" else "published"
        rungs = f"rungs: {{elementwise: {'measured' if own_profile.profiled(self.part_name) == self.part_name else 'transported'}}}\n" if self.profiled else ""
        if self.row_wise_of_sglang:
            rungs = f"rungs: {{elementwise: {'measured' if self.part_name == 'h200' else 'transported'}}}\n"
        if self.row_wise_of_others:
            rungs = "rungs: {elementwise: transported}\n"
        where = REPOSITORY.get(self.part_name, "ai-dynamo/aiconfigurator @095f58a, Apache-2.0,\n"
                               f"  aic-core/src/aiconfigurator_core/systems/data/{SYSTEMS[self.part_name]}")
        versions = sorted({self.engine.version(self.part_name, g)
                           for g in ("gemm", "prefill", "decode", "experts", "collectives")})
        choice = f"choice_inside: [{', '.join(self.expert_formats)}]\n" \
            if self.expert_formats and self.engine.prefix in CHOICE_INSIDE else ""
        text = f"""# Made by tools/fit_kernel_tables.py; docs/calibration.md says how.
hardware: {self.part_name}
kernels: {self.engine.name}
kind: {kind}
{rungs}{choice}collected_on: "{self.engine.prefix} {', '.join(versions)}"
source: "operator tables of {self.engine.prefix} {', '.join(versions)} ({where}), as utilisation of the data sheet"""
        if self.part_name == "h20":
            text += """; timed on
  an H20-3e (the same die with 141 GB at 4.8 TB/s) and carried to the 96 GB part's 4.0 TB/s"""
        if self.profiled:
            own = own_profile.profiled(self.part_name)
            text += f"""; block-scaled
  products from our own profile of vLLM 0.24.0 steps on an H100, output layer and the kernels between products from
  that on an {own.upper()} (reports/cases/h100_vllm_0_24_kernels, {own}_vllm_0_24_kernels)"""
            if own == self.part_name == "h200":
                text += "; Gemma's and\n  Qwen3.5's kernels from a second one (h200_vllm_0_24_kernels_256)"
        if self.row_wise_of_sglang:
            text += """; the
  kernels between products from our own profile of SGLang 0.5.17 steps on an H200 (reports/cases/h200_sglang_0_5_17_kernels)"""
        if self.row_wise_of_others:
            text += """; norms,
  activation, argmax and norms of heads from our own profiles of other engines' kernels like them, on an H200 and an H100
  (tools/kernel_tables/own_profile.py)"""
        self.write_description(text + '"\n')

    def write_description(self, text):
        with open(os.path.join(self.folder, "table.yaml"), "w", encoding="utf-8") as f:
            f.write(text)

    def describe_part(self, what):
        """table.yaml of a set that holds one file."""
        version = ", ".join(dict.fromkeys(self.engine.version(self.part_name, w) for w in what.split(" and ")))
        rungs = "rungs: {elementwise: measured}\n" if self.profiled else "rungs: {elementwise: transported}\n"
        if "experts" in what:
            rungs = rungs.replace("{", "{experts: transported, ")
        base = open(os.path.join(os.path.dirname(self.folder), self.engine.base, "table.yaml"), encoding="utf-8").read()
        choice = "".join(line + "\n" for line in base.splitlines() if line.startswith("choice_inside:"))
        self.write_description(f"""# Made by tools/fit_kernel_tables.py; docs/calibration.md says how.
hardware: {self.part_name}
kernels: {self.engine.name}
base: {self.engine.base}   # all that stands in no file here
kind: published
{rungs}{choice}collected_on: "{self.engine.prefix} {version} ({what}); the rest as {self.engine.base}"
source: "ai-dynamo/aiconfigurator @095f58a, Apache-2.0, aic-core/src/aiconfigurator_core/systems/data/{SYSTEMS[self.part_name]}: {what}
  of {self.engine.prefix} {version}; which, and why they stand for others, says tools/kernel_tables/{{engines,layers}}.py"
""")

    def run(self):
        os.makedirs(self.folder, exist_ok=True)
        if self.engine.base:
            made = {"experts": self.engine.experts, "collectives": self.engine.all_reduce}
            made = [what for what, asked in made.items() if asked]
            for what in made:
                getattr(self, what)()
            return self.describe_part(" and ".join(made))
        for step in (self.gemm, self.attention, self.experts, self.collectives, self.elementwise, self.latent, self.corrections,
                     self.describe):
            step()
        write(self.folder, "errors.csv", ["op", "dtype", "low", "high", "points", "shapes", "version"], self.errors)
        for note in self.notes:
            print(f"{self.part_name} {self.engine.name}: {note}", file=sys.stderr)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=f"{ROOT}/../shared/data/aiconfigurator")
    parser.add_argument("--part", nargs="*", default=list(SYSTEMS))
    parser.add_argument("--set", nargs="*", default=list(ENGINES))
    arguments = parser.parse_args()
    for part in arguments.part:
        for name in arguments.set:
            if not ENGINES[name].parts or part in ENGINES[name].parts:
                Fit(part, ENGINES[name], arguments.data).run()


if __name__ == "__main__":
    main()
