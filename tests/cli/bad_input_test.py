#!/usr/bin/env python3
"""Bad input gives one clear message with place and remedy, the documented exit code, and no half-written output.

  bad_input_test.py ORRERY_BINARY SOURCE_DIR
"""
import gzip
import json
import os
import subprocess
import sys
import tempfile

binary, source = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])
root = tempfile.mkdtemp(prefix="orrery-bad-input-")
failures = []
count = 0

SCENARIO = """deployment:
  hardware: h200
  model: qwen3-8b
  engine: vllm-0.24
workload:
  trace: trace.jsonl
"""
GOOD = '{"timestamp": 0, "input_length": 100, "output_length": 10}\n'


def check(name, expected_code, words, scenario=SCENARIO, trace=GOOD, args=(), command="simulate", other=None, bare=False):
    """Runs the command in a folder of its own; `words` must all be in stderr; outputs must not exist. `other`: one more trace;
    `bare`: without the scenario."""
    global count
    count += 1
    folder = os.path.join(root, name.replace(" ", "_").replace("/", "_"))
    os.makedirs(folder)
    with open(os.path.join(folder, "scenario.yaml"), "wb") as f:
        f.write(scenario if isinstance(scenario, bytes) else scenario.encode())
    if trace is not None:
        with open(os.path.join(folder, "trace.jsonl"), "wb") as f:
            f.write(trace if isinstance(trace, bytes) else trace.encode())
    line = [binary, command] + ([] if bare else ["scenario.yaml"]) + list(args)
    if other is not None:
        with open(os.path.join(os.fsencode(folder), other), "w") as f:
            f.write(GOOD)
    if command == "simulate" and "--out" not in args:
        line += ["--out", "out"]
    p = subprocess.run(line, cwd=folder, capture_output=True, text=True, errors="replace", timeout=120)
    left = [n for n in os.listdir(folder) if n not in ("scenario.yaml", "trace.jsonl", "config.json", os.fsdecode(other or ""))]
    problems = []
    if p.returncode != expected_code:
        problems.append(f"exit code {p.returncode}, expected {expected_code}")
    problems += [f"stderr does not say {w!r}" for w in words if w not in p.stderr]
    if expected_code != 0 and left:
        problems.append(f"left behind: {left}")
    if "internal error" in p.stderr or "terminate called" in p.stderr:
        problems.append("crashed")
    if problems:
        failures.append(f"{name}: {'; '.join(problems)}\n    stderr: {p.stderr.strip()[:400]}")
    return folder


def edit(old, new):
    assert old in SCENARIO
    return SCENARIO.replace(old, new)


check("good", 0, [])
# scenario
check("unknown key", 3, ["scenario.yaml:5:3: deployment.routr", "unknown key", "router"], edit("workload:", "  routr: x\nworkload:"))
check("duplicate key", 3, ["scenario.yaml:3:3", "duplicate key", "line 2"], edit("  model:", "  hardware: h100\n  model:"))
check("unknown hardware", 3, ["scenario.yaml:2:13", "h2000", "h200"], edit("h200", "h2000"))
check("unknown model", 3, ["scenario.yaml:3", "qwen3-8c", "qwen3-8b"], edit("qwen3-8b", "qwen3-8c"))
check("unknown engine", 3, ["scenario.yaml:4", "vllm-0.24"], edit("vllm-0.24", "vllm-0.42"))
check("missing key", 3, ["deployment.hardware", "missing"], edit("  hardware: h200\n", ""))
check("two errors at once", 3, ["hardware", "engine"], edit("h200", "nope").replace("vllm-0.24", "neither"))
check("not yaml", 3, ["scenario.yaml:2:1", "invalid YAML"], "deployment: [unclosed\n")
check("binary scenario", 3, ["binary"], b"\x00\x01\x02\x03")
check("empty scenario", 3, ["empty"], "")
check("tp zero", 3, ["deployment.parallel.tp", "from 1"], edit("workload:", "  parallel: {tp: 0}\nworkload:"))
check("heads not divisible", 3, ["tp", "heads"], edit("workload:", "  parallel: {tp: 3}\nworkload:"))
check("more stages than layers", 3, ["parallel.pp", "36 layers"], edit("workload:", "  parallel: {pp: 37}\nworkload:"))
check("a pool's keys beside pools", 3, ["deployment.hardware", "belongs to nobody"], edit("workload:", "  pools: [{name: p}]\nworkload:"))
check("lora refused by name", 3, ["LoRA"], edit("workload:", "  engine_args: {enable_lora: true}\nworkload:"))
check("structured output refused", 3, ["structured"], edit("workload:", "  engine_args: {structured_outputs_config: {backend: x}}\nworkload:"))
check("unknown engine argument", 3, ["max_num_batched_token", "max_num_batched_tokens"],
      edit("workload:", "  engine_args: {max_num_batched_token: 5}\nworkload:"))
check("a fault without kind and target", 3, ["fault"], SCENARIO + "faults: [{at_s: 1}]\n")
check("no workload", 3, ["workload"], SCENARIO.split("workload:")[0])
check("bad set", 2, ["--set"], args=["--set", "nonsense"])
check("set unknown key", 3, ["deployment.foo"], args=["--set", "deployment.foo=1"])
check("unknown option", 2, [], args=["--frobnicate"])
check("bad intervals", 2, ["--intervals"], args=["--intervals", "some"])
check("slo without limit", 3, ["slo"], SCENARIO + "slo: {percentile: 99}\n")
check("yes is no boolean", 3, ["true or false"], edit("workload:", "  engine_args: {enforce_eager: yes}\nworkload:"))
check("octal", 3, ["whole number"], edit("workload:", "  replicas: 010\nworkload:"))
# does not fit
check("does not fit", 4, ["does not fit", "parallel.tp: 8 would fit"], edit("qwen3-8b", "llama-3.1-405b"))
check("sequence does not fit", 4, ["max_model_len"], edit("workload:", "  engine_args: {num_gpu_blocks_override: 100}\nworkload:"))
# trace
line = GOOD.strip()
check("missing trace", 3, ["trace.jsonl", "no such file"], trace=None)
check("empty trace", 3, ["trace.jsonl", "empty"], trace="")
check("truncated line", 3, ["trace.jsonl:2"], trace=GOOD + '{"timestamp": 5, "input_le\n')
check("binary trace", 3, ["trace.jsonl"], trace=GOOD.encode() + b"\x00\x01\x02\n")
check("truncated gzip", 3, ["truncated"], trace=gzip.compress(GOOD.encode() * 5000)[:-40])
check("time goes back", 3, ["trace.jsonl:2", "--sort"], trace=GOOD.replace('"timestamp": 0', '"timestamp": 9') + GOOD)
check("negative time", 3, ["trace.jsonl:1", "timestamp"], trace=GOOD.replace('"timestamp": 0', '"timestamp": -1'))
check("zero length", 3, ["trace.jsonl:1", "output_length"], trace=GOOD.replace('"output_length": 10', '"output_length": 0'))
check("fractional length", 3, ["trace.jsonl:1", "input_length"], trace=GOOD.replace("100", "100.5"))
check("nan", 3, ["trace.jsonl:1"], trace=GOOD.replace("100", "NaN"))
check("unknown trace key", 3, ["trace.jsonl:1", "inputlength"], trace=GOOD.replace("}", ', "inputlength": 1}'))
check("duplicate trace key", 3, ["trace.jsonl:1", "stands twice"], trace=GOOD.replace("}", ', "input_length": 1}'))
check("hash list too short", 3, ["trace.jsonl:1", "hash_ids"], trace=GOOD.replace("100", "1000").replace("}", ', "hash_ids": [1]}'))
check("images refused", 3, ["image"], trace=GOOD.replace("}", ', "images": [{"width": 10, "height": 10}]}'))
check("truncated zstd", 3, ["truncated"], trace=b"\x28\xb5\x2f\xfd\x24")
check("parents go too", 3, ["trace.jsonl", "no such file"], trace=None, args=["--out", "new/deep/out"])
check("name is not UTF-8", 3, ["UTF-8", "rename"], args=["--trace", b"trace\xff.jsonl"], other=b"trace\xff.jsonl")
check("late bad line", 3, ["trace.jsonl:3001"], trace=GOOD * 3000 + "oops\n")
check("trace is a directory", 3, ["directory"], SCENARIO.replace("trace.jsonl", "."), trace=None)
# model config
config = json.dumps({"architectures": ["Qwen3ForCausalLM"], "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
                     "intermediate_size": 128, "vocab_size": 1000, "max_position_embeddings": 100, "strange_field": 3}, indent=1)
folder = os.path.join(root, "configs")
os.makedirs(folder)
for name, text, words in [("unknown_field", config, ["strange_field", "config.json:11:19"]),
                          ("unknown_architecture", config.replace("Qwen3For", "Mamba9For"), ["Mamba9ForCausalLM", "LlamaForCausalLM"]),
                          ("truncated_config", config[:60], ["config.json"])]:
    path = os.path.join(folder, name)
    os.makedirs(path)
    open(os.path.join(path, "config.json"), "w").write(text)
    check("config " + name, 3, words, edit("qwen3-8b", os.path.join(path, "config.json")))
# cost
check("cost step syntax", 2, ["--step"], command="cost", args=["--step", "prefil 5@0"])
check("cost empty step", 2, ["--step"], command="cost", args=["--step", ""])
check("cost empty operator list", 3, ["trace.jsonl", "no operators"], trace="", command="cost", bare=True,
      args=["--ops", "trace.jsonl", "--hardware", "h200"])
check("cost unknown operator", 3, ["trace.jsonl:1", "frob", "gemm"], trace='{"op": "frob"}\n', command="cost", bare=True,
      args=["--ops", "trace.jsonl", "--hardware", "h200"])
check("cost operator far beyond a context", 3, ["trace.jsonl:1", "context"], command="cost", bare=True,
      trace='{"op": "attention_decode", "heads": 8, "kv_heads": 8, "head_dim": 128, "batch": 1, "context": 99999999999}\n',
      args=["--ops", "trace.jsonl", "--hardware", "h200"])
check("negative seed", 2, ["--seed", "0 to 9223372036854775807"], args=["--seed", "-1"])
check("cost missing steps file", 3, ["nofile"], command="cost", args=["--steps", "nofile.jsonl"])
# calibrate and import
plan = ["--plan", "--hardware", "h200"]
check("calibrate budget", 2, ["--budget", "8m"], command="calibrate", bare=True, args=["--budget", "8x"])
check("calibrate plan without hardware", 2, ["--hardware"], command="calibrate", bare=True, args=["--plan"])
check("calibrate plan hardware", 3, ["h2000", "h200"], command="calibrate", bare=True, args=["--plan", "--hardware", "h2000"])
check("calibrate plan model", 3, ["qwen3-9b", "qwen3-8b"], command="calibrate", bare=True, args=plan + ["--models", "qwen3-9b"])
check("calibrate plan operator", 2, ["gem", "gemm"], command="calibrate", bare=True,
      args=plan + ["--models", "qwen3-8b", "--ops", "gem"])
check("calibrate simulator operator", 2, ["rms_nrm", "rms_norm"], command="calibrate", bare=True,
      args=["--check", "--simulator", "--ops", "rms_nrm"])
check("pack nothing", 3, ["journal.jsonl", "no such file"], command="calibrate", bare=True, args=["--pack", "x.json", "--out", "."])
check("import kind", 2, ["calibration"], command="import", bare=True, args=["calibrations", "scenario.yaml"])
check("import missing", 3, ["nofile.json"], command="import", bare=True, args=["calibration", "nofile.json"])
check("import no pack", 3, ["scenario.yaml"], command="import", bare=True, args=["calibration", "scenario.yaml"])
# benchmark results
TOTALS = ('{"backend": "openai", "request_rate": 4.0, "max_concurrency": null, "duration": 5.0, "completed": 20, "total_input_tokens": 2000, '
          '"total_output_tokens": 400, "total_token_throughput": 480.0, "mean_ttft_ms": 50.0}\n')
check("benchmark without lengths", 3, ["trace.jsonl:1", "--input-len N", "--output-len N", "100.0"], trace=TOTALS, command="import", bare=True,
      args=["benchmark", "trace.jsonl"])
check("benchmark of several runs", 3, ["trace.jsonl:2", "--run"], trace=TOTALS * 2, command="import", bare=True, args=["benchmark", "trace.jsonl"])
check("benchmark of no client", 3, ["trace.jsonl:1", "vllm bench serve"], command="import", bare=True, args=["benchmark", "trace.jsonl"])
check("benchmark without scenario", 2, ["SCENARIO"], trace=TOTALS, command="validate", bare=True, args=["--benchmark", "trace.jsonl"])
check("benchmark length", 2, ["--input-len"], trace=TOTALS, command="validate", args=["--benchmark", "trace.jsonl", "--input-len", "0"])
check("benchmark missing", 3, ["nofile.json", "no such file"], command="validate", args=["--benchmark", "nofile.json", "--out", "out"])
check("benchmark good", 0, [], trace=TOTALS, command="validate",
      args=["--benchmark", "trace.jsonl", "--input-len", "100", "--output-len", "20", "--out", "out"])
# tapes, the mock server, endpoints
# Where there is no GPU; nothing here waits for one.
check("live on kernels", 6, ["GPU"], command="live", args=["--out", "out"])
check("live named kernels", 6, ["GPU"], command="live", args=["--executor", "kernel", "--clock", "virtual"])
check("live kernels of four GPUs", 3, ["scenario.yaml", "deployment.parallel", "one GPU an instance"], command="live",
      args=["--set", "deployment.parallel={tp: 4}"])
check("graphs of decodes beside dp by the profile", 3, ["FULL_DECODE_ONLY", "parallel.dp"],
      edit("qwen3-8b", "qwen3-30b-a3b").replace("vllm-0.24", "orrery\n  parallel: {dp: 2}"))
check("live kernels of two instances", 3, ["deployment.replicas", "--clock virtual"], command="live", args=["--set", "deployment.replicas=2"])
check("live kernels of another engine", 3, ["deployment.engine", "vLLM"], command="live", args=["--set", "deployment.engine=sglang-0.5"])
check("live kernels as a server", 2, ["--serve", "--executor kernel"], command="live", args=["--serve", "--executor", "kernel"])
check("live emulated host that jumps", 2, ["--emulate-host"], command="live", args=["--emulate-host", "--clock", "virtual"])
check("live calibration", 2, ["--update-calibration", "--steps"], command="live", args=["--update-calibration", "--serve"])
check("live both", 2, ["--serve", "--endpoint"], command="live", args=["--serve", "--endpoint", "http://127.0.0.1:9"])
check("live clock of an endpoint", 2, ["--clock"], command="live", args=["--clock", "wall", "--endpoint", "http://127.0.0.1:9"])
check("live serve virtual", 2, ["--clock"], command="live", args=["--serve", "--clock", "virtual"])
check("live serve nowhere", 6, ["cannot listen", "not-an-address"], command="live", args=["--serve", "--host", "not-an-address"])
check("live serve as a client", 2, ["--api", "--endpoint"], command="live", args=["--serve", "--api", "chat"])
check("live serve with a trace", 2, ["--trace", "--serve"], command="live", args=["--serve", "--trace", "trace.jsonl"])
check("endpoint with a port", 2, ["--port", "--serve"], command="live", args=["--endpoint", "http://127.0.0.1:9", "--port", "1"])
check("endpoint without scheme", 2, ["scheme", "http://HOST"], command="live", args=["--endpoint", "localhost:8000"])
check("endpoint with a key", 2, ["environment"], command="live", args=["--endpoint", "http://me:secret@localhost"])
check("endpoint absent", 6, ["http://127.0.0.1:9", "/v1/models"], command="live", args=["--endpoint", "http://127.0.0.1:9", "--out", "out"])
check("replay missing", 3, ["nofile.tape", "no such file"], command="replay", bare=True, args=["nofile.tape"])
check("replay no tape", 3, ["scenario.yaml", "orrery tape 1"], command="replay", bare=True, args=["scenario.yaml"])
check("tape of a bad trace", 3, ["trace.jsonl"], trace="{", args=["--tape", "run.tape"])

print(f"{count - len(failures)} of {count} bad inputs answered as documented")
for f in failures:
    print("FAIL " + f)
sys.exit(1 if failures else 0)
