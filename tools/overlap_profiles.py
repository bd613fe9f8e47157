#!/usr/bin/env python3
"""What ran side by side in profiled decode steps of vLLM, beside what is predicted: tools/overlap_profiles.py [--orrery FILE]

Reads the kernel profiles of reports/cases/h200_vllm_0_24_features (begin and duration of every kernel of three decode steps)
and prints, a step: the kernels' time one after the other, how much of it another kernel covers, and the line
`shared_expert_stream` of `orrery cost` at the same step. Attention's second launch, which starts early by itself, and the
two projections of a gated delta net, which have streams of their own, are counted apart. A kernel beside another takes
longer than alone, so what is covered is an upper bound of what is saved.
"""
import argparse
import json
import pathlib
import subprocess
import sys
import tarfile
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
CASE = ROOT / "reports" / "cases" / "h200_vllm_0_24_features" / "further.tar.xz"
# Profile, model, sequences, whether its layers have projections on two streams.
PROFILES = [("mla.prof_b1", "deepseek-v2-lite", 1, False), ("mla.prof_b64", "deepseek-v2-lite", 64, False),
            ("hybrid.prof_b1", "qwen3.5-35b-a3b", 1, True), ("hybrid.prof_b64", "qwen3.5-35b-a3b", 64, True)]
OUT = ROOT / "reports" / "results" / "overlap_profiles.md"


def kind(before, name, projections):
    if "FlashAttnFwdCombine" in name:
        return "attention"
    return "projections" if projections and before.startswith("nvjet") and name.startswith("nvjet") else "experts"


def covered(profile, projections):
    """Microseconds a step of all kernels, and of what an earlier kernel still covers, by kind."""
    names, steps = profile["names"], len(profile["tokens"])
    events = sorted((begin, duration, names[i]) for i, begin, duration in profile["events"])
    total, shared, end, running = 0.0, {"attention": 0.0, "projections": 0.0, "experts": 0.0}, 0.0, ""
    for begin, duration, name in events:
        total += duration
        if begin < end:
            shared[kind(running, name, projections)] += min(end, begin + duration) - begin
        if begin + duration > end:
            end, running = begin + duration, name
    return total / steps, {k: v / steps for k, v in shared.items()}


def predicted(orrery, model, batch, folder):
    """Microseconds that the line below zero saves, and of the step."""
    scenario = pathlib.Path(folder) / "s.yaml"
    scenario.write_text(f"deployment:\n  hardware: h200\n  model: {model}\n  engine: vllm-0.24\n")
    said = subprocess.run([orrery, "cost", str(scenario), "--step", f"decode {batch}@1100", "--json"], check=True,
                          capture_output=True, text=True)
    step = json.loads(said.stdout)["steps"][0]
    return next(-op["time_us"] for op in step["operators"] if op["operator"] == "shared_expert_stream"), step["device_us"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--orrery", default=str(ROOT / "build" / "release" / "orrery"))
    options = parser.parse_args()
    rows = []
    with tarfile.open(CASE) as archive, tempfile.TemporaryDirectory() as folder:
        for name, model, batch, projections in PROFILES:
            profile = json.load(archive.extractfile(f"./profiles/{name}.decode.json"))
            total, shared = covered(profile, projections)
            saved, device = predicted(options.orrery, model, batch, folder)
            busy = total - sum(shared.values())
            rows.append(f"| {model}, {batch} | {total:,.0f} | {shared['experts']:,.0f} | {saved:,.0f} | "
                        f"{shared['projections']:,.0f} | {shared['attention']:,.0f} | {busy:,.0f} | {device:,.0f} |")
    OUT.write_text("""# Kernels side by side in decode steps of vLLM 0.24 on an H200

Made by `tools/overlap_profiles.py` of the profiles in `reports/cases/h200_vllm_0_24_features`, to which nothing was fitted. Microseconds a step. *Covered*: an earlier kernel
is still running. A kernel beside another takes longer than alone, so what is covered is at least what is saved; the more bandwidth the routed experts need, the less of it is.

| model, sequences | kernels, one after the other | covered beside experts | predicted to be saved (`shared_expert_stream`) | covered: projections of delta nets | covered: attention's second launch | kernels as they ran | predicted device time |
| --- | --: | --: | --: | --: | --: | --: | --: |
""" + "\n".join(rows) + """

What is predicted of shared experts is what they do. Projections of gated delta nets on two streams (`in_proj_qkvz` beside `in_proj_ba`) are not modelled. Device times measured beside the step log hold gaps
between kernels of a graph too, 0.2 to 0.3 µs each, some 800 to 1,100 a step here: they are in no table of small kernels ([features_h200.md](features_h200.md) has the errors of whole steps).
""")
    print(OUT)


if __name__ == "__main__":
    main()
