#!/usr/bin/env python3
"""reports/results/live_endpoints_h200.md from the measurements of a case: live_endpoints.py [ORRERY] [OUT]

Runs `orrery live SCENARIO --measured DIR --steps RUN` for each load of reports/cases/h200_vllm_0_24_endpoint (docs/live.md), and once
with --update-calibration; the updated profile's predictions stand beside ours.
"""
import json
import pathlib
import subprocess
import sys
import tempfile

root = pathlib.Path(__file__).resolve().parent.parent
orrery = sys.argv[1] if len(sys.argv) > 1 else root / "build/release/orrery"
out = pathlib.Path(sys.argv[2]) if len(sys.argv) > 2 else root / "reports/results/live_endpoints_h200.md"
cases = root / "reports/cases/h200_vllm_0_24_endpoint"
case = cases / "qwen3-8b"
LOADS = {"poisson": "Poisson, 8 requests/s for 60 s", "closed": "Closed loop of 64", "mooncake": "Mooncake's conversations, 65 s at 0.4 of their pace"}
# A second model on another machine, without a step log: nothing says where its errors come from.
SECOND = cases / "qwen3-0.6b_second"
SECOND_LOADS = {"poisson": "Poisson, 20 requests/s for 32 s", "closed": "Closed loop of 64, 800 requests"}
SHOWN = ["ttft_ms.mean", "ttft_ms.p50", "ttft_ms.p90", "ttft_ms.p99", "tpot_ms.mean", "tpot_ms.p50", "tpot_ms.p99", "itl_ms.mean", "itl_ms.p50",
         "itl_ms.p99", "e2e_ms.mean", "e2e_ms.p99", "throughput.requests_per_s", "throughput.output_tokens_per_s", "kv_cache.blocks"]


def live(load, *more, folder=case):
    p = subprocess.run([orrery, "--json", "live", folder / f"{load}.yaml", "--measured", folder / load, *more],
                       capture_output=True, text=True)
    if p.returncode:
        sys.exit(p.stderr)
    return json.loads(p.stdout)


def number(v):
    return "-" if v is None else f"{v:,.2f}" if abs(v) < 1000 else f"{v:,.0f}"


def tables(title, found, updated):
    yield f"\n## {title}\n"
    yield (f"{found['server']['completed']} of {found['server']['requests']} requests, at most {found['client']['most_streams']} at once. Verdict: **{found['verdict']}**"
           + (f" (missed: {', '.join(found['missed'])})" if found["missed"] else "")
           + f". The client's lateness p99 {found['client']['lateness_ms']['p99']:.2f} ms.\n")
    yield "| metric | predicted | 90 % interval | measured | error | with the update |"
    yield "| --- | --: | --: | --: | --: | --: |"
    for name in SHOWN:
        m = found[name]
        interval = "-" if m["low"] is None else f"{number(m['low'])} … {number(m['high'])}"
        yield (f"| {name} | {number(m['predicted'])} | {interval} | {number(m['measured'])} | {m['error_percent']:+.1f} % "
               f"| {updated[name]['error_percent']:+.1f} % |")
    if "steps" not in found:
        return
    steps = found["steps"]
    yield f"\n{steps['schedule']['identical']:,} of {steps['schedule']['steps']:,} steps composed as the engine composed them. Where the error comes from, ms:\n"
    yield "| mean | predicted | measured | step time | host | queueing | transfer | front end |"
    yield "| --- | --: | --: | --: | --: | --: | --: | --: |"
    for name, a in steps["attribution"].items():
        yield f"| {name} | {a['predicted']:.2f} | {a['measured']:.2f} | " + " | ".join(
            f"{a[k]:+.2f}" for k in ("step_time", "host", "queueing", "transfer", "front_end")) + " |"
    yield "\n| steps | n | device, ms | device time | p90 of its error | host time |"
    yield "| --- | --: | --: | --: | --: | --: |"
    for k in steps["step_kinds"]:
        yield (f"| {k['kind']} | {k['steps']:,} | {k['device_ms']:,.0f} | {k['device_error_percent']:+.1f} % | {k['device_abs_error_p90_percent']:.1f} % "
               f"| {k['host_error_percent']:+.1f} % |")
    yield "\n| operator class | share of the price | logged ÷ priced |"
    yield "| --- | --: | --: |"
    for c in steps["operators"]:
        factor = f"{c['measured_over_priced']:.3f} ± {c['deviation']:.3f}" if c["told_apart"] else c["note"]
        yield f"| {c['class']} | {c['share_percent']:.1f} % | {factor} |"


FIRST_RUN = """Straight after Qwen3-8B's loads, on its machine. Only what the client printed came back (predicted, interval, measured, error, inside). Its predictions were made when
token ids were priced as text: Mooncake's TTFT is some 10 ms too long for that alone. The host sets this model's pace: Poisson and the closed loop are predicted too short, as
the launches of steps with prompts are above (host time 17 to 56 % short on that machine). Its closed loop was of 40.
"""
SECOND_RUN = """On another machine of the same kind, 2026-11-27 03:14, Poisson and the closed loop, the one half, the other 0.4 as long. Mooncake's load was cut off when our device time ended, and the step log was
left behind, so no step says where the errors come from. *With the update* is a test here: the profile was fitted to Qwen3-8B's log on the first machine and has seen nothing of this run. By the
server's own histograms (`metrics_*.txt.gz`) TTFT was 39.8 ms (Poisson) and 90.3 (closed loop), of which a request waited 0.1 and 6.2 in the core's queue and took 30.0 and 44.7 from there to
its first token: of the closed loop's 112 ms some 61 lie outside the core (API server, HTTP, the client beside it); the prediction's whole TTFT is 47.
"""
lines = ["# vLLM 0.24's OpenAI server on an H200, measured by `orrery live --endpoint`", "",
         "Written by `tools/live_endpoints.py` from `reports/cases/h200_vllm_0_24_endpoint`, whose README has machine, commands and what was lost. Error = predicted ÷",
         "measured − 1. Steps: predicted ÷ logged − 1, medians. One figure of Orrery is of these runs: what a token id costs to read, 1.5 µs (`front_end.read_token_id` of the engine profile).",
         "*With the update*: the profile of `--update-calibration` below, which has seen two thirds of these steps. *Front end* is also the client's own lateness, and the closed loop's",
         "first 64 requests at one instant; of the 6 ms that pass before vLLM's core knows of a short request (2 before its arrival stamp, 4 behind), 0.5 are in a figure of ours."]
with tempfile.TemporaryDirectory() as folder:
    new = pathlib.Path(folder) / "update"
    calibration = live("poisson", "--steps", case / "steps", "--intervals", "off", "--update-calibration", "--out", new)["calibration"]
    use_update = ["--intervals", "off", "--set", f"deployment.engine={new}/engine.yaml"]
    for load, title in LOADS.items():
        lines += tables(title, live(load, "--steps", case / "steps"), live(load, *use_update))
    second = [line for load, title in SECOND_LOADS.items()
              for line in tables(title, live(load, folder=SECOND), live(load, *use_update, folder=SECOND))]
lines += ["\n## `--update-calibration`\n", f"Fitted to the first two thirds of each load ({calibration['fitted_steps']:,} steps), tried on the last third "
          f"({calibration['held_out_steps']:,}), median absolute errors of a step:\n", "| held-out steps | n | profile | updated |", "| --- | --: | --: | --: |"]
lines += [f"| {e['kind']} | {e['steps']:,} | {e['before_percent']:.1f} % | {e['after_percent']:.1f} % |" for e in calibration["held_out"]]
lines += ["\n## Qwen3-0.6B, second run\n", SECOND_RUN.strip()] + [line.replace("\n## ", "\n### ") for line in second]
printed = (cases / "qwen3-0.6b/printed.txt").read_text()
lines += ["\n## Qwen3-0.6B, first run\n", FIRST_RUN, "```", printed.strip(), "```"]
out.write_text("\n".join(lines) + "\n")
