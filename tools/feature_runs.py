#!/usr/bin/env python3
"""Real runs of what the other runs lack, beside Orrery's predictions, as reports/results/features_h200.md.

  tools/feature_runs.py [--orrery build/release/orrery] [--out reports/results/features_h200.md]

The runs are reports/cases/h200_vllm_0_24_features: latent attention, speculation, MTP, images, layers with a state, sliding windows. Each
is replayed step by step (`validate --schedule`), its logged steps are priced (`cost --steps`) and its experiments simulated
freely from the memory plan on. Standard library only.
"""
import argparse
import collections
import csv
import datetime
import gzip
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import accuracy  # noqa: E402

ROOT = accuracy.ROOT
CASES = ROOT / "reports/cases/h200_vllm_0_24_features"
EAGLE = "speculation: {method: eagle, tokens: 3, acceptance: [0.75, 0.666667, 0.6], draft: {kind: eagle3, intermediate: 12288, vocabulary: 32000}}"
IMAGES = "engine_args: {limit_mm_per_prompt: {video: 0}, max_model_len: 65536}"
MTP = "speculation: {method: mtp, tokens: %d, acceptance: %s}"
SHORT_V3 = CASES / "deepseek-v3-5l_fp8_mtp3/config.json"
# run → model, what its deployment says beside. What n-grams were found and accepted comes from the log, as text alone decides it.
RUNS = {
    "deepseek-v2-lite_bf16": ("deepseek-v2-lite", ""),
    "qwen3-8b_eagle3": ("qwen3-8b", EAGLE),
    "qwen3-8b_eagle3_again": ("qwen3-8b", EAGLE),
    "qwen3-8b_ngram": ("qwen3-8b", "speculation: {method: ngram, tokens: 3, acceptance_log: accepted.csv}"),
    "deepseek-v3-5l_fp8_mtp1": (SHORT_V3, MTP % (1, "[0.75]")),
    "deepseek-v3-5l_fp8_mtp3": (SHORT_V3, MTP % (3, "[0.75, 0.666667, 0.6]")),
    "mimo-7b_bf16_mtp1": ("mimo-7b", MTP % (1, "[0.75]")),
    "qwen3-vl-8b_images": ("qwen3-vl-8b", IMAGES),
    "qwen3-vl-8b_images_again": ("qwen3-vl-8b", IMAGES),
    "qwen3.5-35b-a3b_bf16": ("qwen3.5-35b-a3b", "engine_args: {enable_prefix_caching: false, max_model_len: 65536, gdn_prefill_backend: triton}"),
    # The text model: with its encoder it is another model to the engine, whose attention is Triton's.
    "gemma-3-12b_bf16": (CASES / "gemma-3-12b_bf16/config.json", "engine_args: {max_model_len: 32768}"),
}
LOOP_GAP = 55.0  # from the end of an update to the next schedule: the engine profile's
V1_DRAFT_INPUTS = 20  # kernels ahead of a step's model beside drafts of a network, V1 runner: V1DraftKernels of costmodel/step_graph.h
DECODES = [(1, 1), (2, 4), (5, 8), (9, 16), (17, 32), (33, 64), (65, 256)]
PROMPTS = [(1, 512), (513, 1024), (1025, 2048), (2049, 4096), (4097, 10**9)]


def rows_of(path):
    with gzip.open(path, "rt", newline="") as f:
        return list(csv.DictReader(f))


def profile_us(figure):
    """A host figure of the engine profile, µs (or its plain value)."""
    text = (ROOT / "engine_profiles/vllm-0.24.yaml").read_text(encoding="utf-8")
    return float(re.search(rf"^  {figure}: {{value: ([0-9.]+),", text, re.M)[1])


def quantile(values, p):
    values = sorted(values)
    return values[min(len(values) - 1, int(p * len(values)))]


def percent(predicted, measured):
    return f"{100 * (predicted / measured - 1):+.1f} %"


def scenario_text(run, workload=""):
    model, further = RUNS[run]
    return f"deployment:\n  hardware: h200\n  model: {model}\n  engine: vllm-0.24\n" + (f"  {further}\n" if further else "") + workload


class Run:
    def __init__(self, orrery, name):
        self.orrery, self.name, self.folder = orrery, name, CASES / name
        self.steps = [r for r in rows_of(self.folder / "steps.csv.gz") if r["gpu_us"] and not r["experiment"].startswith("prof")]
        self.requests = rows_of(self.folder / "requests.csv.gz")
        with gzip.open(self.folder / "experiments.jsonl.gz", "rt") as f:
            self.experiments = [json.loads(line) for line in f]
        self.engine = json.loads((self.folder / "engine.json").read_text())

    def identity(self):
        text = subprocess.run([self.orrery, "validate", "--schedule", str(self.folder)], capture_output=True, text=True).stdout
        return re.search(r"identical (\d+) of (\d+) steps", text).groups()

    def priced(self, place):
        """Logged steps with their prices; without what the encoder took. N-grams: the whole cycle, as one step follows the other."""
        (place / "accepted.csv").write_text("request,outputs,proposed,accepted\n")
        (place / "s.yaml").write_text(scenario_text(self.name))
        with open(place / "steps.jsonl", "w", encoding="utf-8") as f:
            for s in self.steps:
                s["chunks"] = [[int(x) for x in c.split("@")] for c in s["prefill_chunks"].split()]
                decode = {"sequences": int(float(s["decode_sequences"])), "context_tokens": int(float(s["decode_context_tokens"] or 0))}
                if "speculation" in RUNS[self.name][1]:
                    decode["drafts"] = sum(int(d.split(":")[1]) for d in (s.get("drafts") or "").split())
                    decode["context_tokens"] -= decode["sequences"] + decode["drafts"]  # the log counts the step's own
                f.write(json.dumps({"prefill": s["chunks"], "decode": decode}) + "\n")
        subprocess.run([self.orrery, "cost", str(place / "s.yaml"), "--steps", str(place / "steps.jsonl"), "--out", str(place / "p.csv")], check=True)
        with open(place / "p.csv", newline="") as f:
            for s, p in zip(self.steps, csv.DictReader(f)):
                s["busy"], s["device"], s["our_host"] = float(p["busy_us"]), float(p["device_us"]), float(p["host_us"])
                s["gpu"] = float(s["gpu_us"]) - float(s.get("encode_us") or 0)
                s["host"] = s["launches"] = float(s["execute_host_us"])
                if s.get("draft_us"):  # drafting is launched after the sampler
                    s["launches"] = float(s["sample_end_us"]) - float(s["execute_start_us"])
                begin, sampled, update = (float(s[c]) for c in ("schedule_start_us", "sample_end_us", "update_us"))
                if "ngram" in self.name:
                    s["gpu"], s["busy"] = float(s["update_start_us"]) + update - begin + LOOP_GAP, float(p["step_us"])
                    s["all_host"] = None
                else:
                    s["all_host"] = sampled - begin + update
        self.begin()
        return self.steps

    def begin(self):
        """When each step began on the device, by the log: as its launch did, or at the end of the step before. Predicted is what the pipeline
        makes of that: an idle device sees its first kernel `first_kernel` after the begin of the launch."""
        first = profile_us("first_kernel") * profile_us("launch_graph") + ("mtp" in self.name) * V1_DRAFT_INPUTS * profile_us("launch_kernel")
        experiment, end, verified = None, 0.0, 0.0
        for s in self.steps:
            launch = float(s["execute_start_us"])
            if s["experiment"] != experiment:
                experiment, end, verified = s["experiment"], launch, launch
            s["slack"] = max(0.0, end - launch)  # the step before still runs so long
            s["predicted"] = s["busy"] + ("ngram" not in self.name) * max(0.0, first - s["slack"])
            s["waits"] = "mtp" in self.name and verified > launch
            end = max(end, launch) + float(s["gpu_us"])
            verified = end - float(s.get("draft_us") or 0)

    def last_pass(self, place):
        """What runs behind the last launch of a drafting network that is launched kernel by kernel (V1 runner): its output layer, µs."""
        if "mtp" not in self.name:
            return 0.0
        text = subprocess.run([self.orrery, "cost", str(place / "s.yaml"), "--step", "decode 4@1000"], capture_output=True, text=True, check=True).stdout
        lines = {m[1]: float(m[3]) / int(m[2]) for m in re.finditer(r"^draft_(lm_head|argmax) +(\d+) .*? (\d+\.\d{3}) ", text, re.M)}
        return lines["lm_head"] + lines["argmax"]

    def host_speed(self, steps):
        """Median of the host's time for decode steps over ours: schedule to the sampler's launch, and the update. With drafts of a network the V1
        runner waits in it for the verification of the step before (gpu_model_runner.py, `deferred_state_corrections_fn`): such steps say nothing."""
        return statistics.median(s["all_host"] / s["our_host"] for s in steps if s["all_host"] and not s["chunks"] and not s["waits"])

    def accepted(self, experiment, path):
        """What n-grams were proposed and accepted: the log's, by request and outputs before."""
        said, rows = collections.Counter(), []
        for s in (s for s in self.steps if s["experiment"] == experiment["name"]):
            for word in (s.get("said_before") or "").split():
                said[word.split(":")[0]] += int(word.split(":")[1])
            drafts = dict(d.split(":") for d in (s.get("drafts") or "").split())
            for word in (s.get("said") or "").split():
                request, tokens = word.split(":")
                if request in drafts:
                    rows.append((int(request), said[request], int(drafts[request]), min(int(tokens) - 1, int(drafts[request]))))
                said[request] += int(tokens)
        path.write_text("request,outputs,proposed,accepted\n" + "".join("%d,%d,%d,%d\n" % row for row in sorted(rows)))

    def trace(self, experiment, path):
        """What the client sent, at the time when it meant to."""
        sent = {int(r["request"]): float(r["arrival_s"] or 0) for r in self.requests if r["experiment"] == experiment["name"]}
        rows = []
        for i, r in enumerate(experiment["reqs"]):
            row = {"timestamp": 2000 * i if experiment.get("serial") else round(1000 * sent[i]), "input_length": r.get("text", r["in"]),
                   "output_length": r["out"]}
            if "images" in r:
                row["images"] = [{"width": m["width"], "height": m["height"], "position": 16} for m in r["images"]]
            rows.append(row)
        path.write_text("".join(json.dumps(r) + "\n" for r in sorted(rows, key=lambda r: r["timestamp"])))

    def simulated(self, experiment, place, host=1.0):
        self.trace(experiment, place / "t.jsonl")
        if "acceptance_log" in RUNS[self.name][1]:
            self.accepted(experiment, place / "accepted.csv")
        slower = f"overrides: {{host_scale: {host:.2f}}}\n" if host != 1 else ""
        (place / "s.yaml").write_text(scenario_text(self.name, slower + f"workload: {{trace: t.jsonl{', closed_loop: {concurrency: %d}' % experiment['conc'] if 'conc' in experiment else ''}}}\n"))
        subprocess.run([self.orrery, "simulate", str(place / "s.yaml"), "--out", str(place / "o"), "--quiet", "--intervals", "off"], check=True,
                       stdout=subprocess.DEVNULL)
        with open(place / "o/requests.csv", newline="") as f:
            return list(csv.DictReader(f)), json.loads((place / "o/summary.json").read_text())


def step_rows(run, steps, last_pass):
    """Device time by class, of steps whose launches did not set the pace."""
    on_device = [s for s in steps if s["launches"] + last_pass - s["slack"] < 0.95 * s["predicted"]] if "ngram" not in run.name else steps
    for label, inside in [(f"decodes {a}" + (f" to {b}" if b > a else ""),
                           [s for s in on_device if not s["chunks"] and a <= float(s["decode_sequences"]) <= b]) for a, b in DECODES] + [
                         (f"with prompts, to {min(b, 8192):,} tokens",
                          [s for s in on_device if s["chunks"] and a <= int(s["tokens"]) <= b]) for a, b in PROMPTS]:
        if len(inside) >= 4:
            yield [run.name, label, str(len(inside)), f"{statistics.median(s['gpu'] for s in inside) / 1e3:.2f}",
                   *(f"{100 * statistics.median(s[p] / s['gpu'] - 1 for s in inside):+.1f} %" for p in ("predicted", "busy"))]


def launch_row(run, steps, host):
    """Steps of over 512 tokens, which are launched kernel by kernel."""
    eager = [s for s in steps if s["chunks"] and int(s["tokens"]) > 600 and not s.get("encoded")]
    if len(eager) < 4:
        return None
    ours = statistics.median(s["our_host"] - 275 for s in eager)  # without schedule, copy and update
    logged = statistics.median(s["host"] for s in eager)
    return [run.name, f"{host:.2f}" if host else "", str(len(eager)), f"{logged / 1e3:.1f}", f"{ours / 1e3:.1f}", f"{logged / ours:.2f}"]


def request_rows(run, place, encoded, host):
    for e in run.experiments:
        if e["name"].startswith("prof"):
            continue
        measured = [r for r in run.requests if r["experiment"] == e["name"]]
        predicted, summary = run.simulated(e, place)
        late = [0.0 if e.get("serial") or "conc" in e else float(r["submit_s"]) - float(r["arrival_s"]) for r in measured]
        first = [1e3 * (float(r["ttft_s"]) + d) for r, d in zip(measured, late)]
        ours = [1e3 * float(r["ttft_s"]) for r in predicted]
        later, our_later = ([float(r["tpot_ms"]) for r in rows if r["tpot_ms"]] for rows in (measured, predicted))
        yield [run.name, e["name"]] + [x for a, b in [(quantile(first, .5), quantile(ours, .5)), (quantile(first, .99), quantile(ours, .99)),
                                                      (statistics.fmean(later), statistics.fmean(our_later))]
                                       for x in (f"{a:.1f}", percent(b, a))] + with_its_host(run, e, place, host, first, later)
        if summary.get("images") and e.get("serial"):
            logged = [s for s in run.steps if s["experiment"] == e["name"] and s.get("encode_us")]
            if logged:
                a = statistics.median(float(s["encode_us"]) for s in logged) / 1e3
                b, c = (1e3 * summary["images"][k] / summary["images"]["steps_with_encoder"] for k in ("encoder_device_s", "encoder_launch_s"))
                encoded.append([run.name, e["name"], f"{a:.1f}", f"{b:.1f}", f"{c:.1f}", percent(max(b, c), a)])


def with_its_host(run, experiment, place, host, first, later):
    """TTFT p50 and TPOT with all host costs as much slower as this run's decode steps show."""
    if not host:
        return ["", ""]
    rows, _ = run.simulated(experiment, place, host)
    return [percent(quantile([1e3 * float(r["ttft_s"]) for r in rows], .5), quantile(first, .5)),
            percent(statistics.fmean([float(r["tpot_ms"]) for r in rows if r["tpot_ms"]]), statistics.fmean(later))]


def memory_row(run, place):
    _, summary = run.simulated(run.experiments[0], place)
    ours, logged = summary["kv_cache"]["blocks"], run.engine["num_gpu_blocks"]
    return [run.name, f"{logged:,}", f"{ours:,}", f"{100 * (ours / logged - 1):+.2f} %"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--orrery", default=str(ROOT / "build/release/orrery"))
    parser.add_argument("--out", default=str(ROOT / "reports/results/features_h200.md"))
    options = parser.parse_args()
    identity, steps, launches, requests, encoded, memory = [], [], [], [], [], []
    with tempfile.TemporaryDirectory() as folder:
        place = pathlib.Path(folder)
        for name in RUNS:
            run = Run(os.path.abspath(options.orrery), name)
            identity.append([name, *run.identity()])
            priced = run.priced(place)
            steps += step_rows(run, priced, run.last_pass(place))
            host = None if "ngram" in name else run.host_speed(priced)
            launches += [row for row in [launch_row(run, priced, host)] if row]
            memory.append(memory_row(run, place))
            requests += request_rows(run, place, encoded, host)
    table = accuracy.table
    text = f"""# vLLM 0.24 on an H200: what the other runs lack

Latent attention, speculation, MTP, images, layers with a state and sliding windows: `reports/cases/h200_vllm_0_24_features`, whose README says how the runs were
made. Made by `tools/feature_runs.py` on {datetime.date.today().isoformat()}, commit {accuracy.text_of(["git", "rev-parse", "--short=12", "HEAD"])}.
Error = predicted ÷ measured − 1. Fitted to these runs, each to a part of one (engine_profiles/vllm-0.24.yaml says which): what n-grams take to be
proposed (`qwen3-8b_ngram`, poisson and static_b128), how fast prepared images travel (`qwen3-vl-8b_images`,
image_small and image_large). No other step or request of these runs was fitted, but profiles that were made beside them (same
machines and models, left out of the tables below) are in the prices: which small kernels the V1 runner launches around drafts and what latent
attention with drafts, its copies, its rotary embedding and SiLU in blocks take (MTP, DeepSeek-V2-Lite), and the Python in front of two kernels of Qwen3-VL's
encoder. Errors of those runs are in so far no test of these lines.

## Schedules

Teacher-forced: steps composed as the engine composed them, in every field, drafts and encoded images included.

{table(["run", "identical", "of"], identity)}
## KV blocks

{table(["run", "logged", "predicted", "error"], memory)}
## Device time of logged steps

Median of a class (4 steps at least); steps whose launches (with those of drafting, and MTP's output layer, which runs behind the last of them) took more than 95 % of what is predicted are left out:
there the device waits for the host (most steps of one sequence with MTP). Drafting is in, encoding is not.
The log's clock runs from the begin of the launch, or from the end of the step before. Predicted is what the pipeline makes of that (`first_kernel`: on a device that is free, the first kernel comes 1.0 ms after the launch began, 1.7
beside drafts of a network on the V1 runner); the last column compares kernels alone. The rows of `ngram` are
whole cycles, from a step's schedule to the next one's: they follow one another, host and device in turn.

{table(["run", "steps", "n", "measured, ms", "error", "kernels alone"], steps)}
## Encoders

Of a step's images, alone on the engine. Measured: the device, waiting for launches. Predicted: its kernels, the host launching them; the longer of the two is compared.

{table(["run", "experiment", "measured, ms", "kernels", "launches", "error"], encoded)}
## Launching steps of over 600 tokens

Host, ms. `host`: how much slower than ours the run's host was in decode steps (schedule, input preparation, one graph's launch, sampler, update; median, which says little of prompts; on the V1 runner beside drafts of a network of steps that did not wait for the verification of the one before): Gemma's host was slow
in all it did, Qwen3.5's decodes also build metadata of states that are not modelled. The second machine (`…_again`, qwen3.5, gemma) is the slower one; launches that fill the driver's queue wait for the device (`images_again`).

{table(["run", "host", "n", "logged", "ours", "ratio"], launches)}
## Requests, simulated freely

From the time when the client meant to send: it shares a thread with the preparation of images (in an API server that is a thread beside the loop, so outputs do not wait for it there).
Drafts of `ngram`, found and accepted, are the log's. The last two columns: errors with `host_scale` set to `host` of the table above, which splits what the host's speed explains from the rest.

{table(["run", "experiment", "TTFT p50, ms", "error", "TTFT p99, ms", "error", "TPOT mean, ms", "error", "its host: TTFT p50", "TPOT"], requests)}"""
    path = pathlib.Path(options.out)
    partial = path.with_name(path.name + f".partial-{os.getpid()}")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
