#!/usr/bin/env python3
"""Deploy files and batch scripts of `orrery plan`: plan_deploy_test.py ORRERY SOURCE_DIR.

Every flag that is written, in whatever kind of file, is one of the engine's own (engine_profiles/launch/flags, read in the
wheels by tools/engine_flags.py) and takes its value as that says; commands of hand-checked scenarios word for word, taken from
the scripts as they run; YAML by its schema (kubernetes-validate where it is installed, else by what is checked here); scripts
of batch systems run with stand-ins for sbatch and kubectl, and end with the bytes of a search that ran alone.
"""
import json
import os
import pathlib
import subprocess
import sys
import tempfile

from checks import expect, verdict

try:
    import yaml
except ImportError:  # python3-yaml; ./dev installs it
    yaml = None
try:
    import kubernetes_validate
except ImportError:
    kubernetes_validate = None

ORRERY = os.path.abspath(sys.argv[1])
SOURCE = pathlib.Path(sys.argv[2]).resolve()
LAUNCH = SOURCE / "engine_profiles/launch"
ROOT = pathlib.Path(tempfile.mkdtemp(prefix="orrery-plan-deploy-"))
BIN = ROOT / "bin"
PROGRAMS = {"vllm": "vllm-0.24", "sglang.launch_server": "sglang-0.5", "trtllm-serve": "tensorrt-llm-1.2",
            "disaggregated": "tensorrt-llm-1.2-disaggregated", "sglang_router.launch_router": "sglang-router", "vllm-router": "vllm-router"}
WORKLOAD = """workload:
  generator:
    requests: 4
    arrivals: {process: poisson, rate: 1}
    input: {distribution: fixed, value: 300}
    output: {distribution: fixed, value: 8}
search: {objective: latency, finalists: 1, draws: 2}
"""


def read_flags(name):
    lines = (LAUNCH / f"flags/{name}.txt").read_text().splitlines()
    return dict(line.split(" ") for line in lines if not line.startswith("#"))


FLAGS = {name: read_flags(name) for name in PROGRAMS.values()}


def check_words(words, what):
    """Flags that the program knows, each with as many values as it takes."""
    program = next((p for p in ("disaggregated", *PROGRAMS) if p in words), None)
    expect(program, f"{what}: no engine's program in {words}")
    if program is None:
        return
    known = FLAGS[PROGRAMS[program]]
    for i, word in enumerate(words):
        if not word.startswith("-") or word == "-m" and words[0] == "python3" and i == 1:
            continue
        kind = known.get(word) or ("either" if word.startswith("--no-") and known.get("--" + word[5:]) == "either" else None)
        expect(kind, f"{what}: {PROGRAMS[program]} has no flag {word}")
        has_value = i + 1 < len(words) and not words[i + 1].startswith("--")
        expect(has_value == (kind == "value"), f"{what}: {word} is a {kind}: {words[i:i + 2]}")


def check_tables():
    """Flags of rules that no scenario here touches."""
    if yaml is None:
        return
    for path in sorted(LAUNCH.glob("*.yaml")):
        table = yaml.safe_load(path.read_text())
        lists = [(table["command"] + table.get("follower", []), path.stem)]
        lists += [(rule.get("words", []), path.stem) for rule in table["rules"]]
        router = table["router"]
        lists += [(router.get(key, []), router["name"]) for key in ("command", "prefill", "decode")]
        for words, name in lists:
            for word in words:
                if str(word).startswith("--"):
                    expect(word in FLAGS[name], f"{path.name}: {name} has no flag {word}")


def stand_ins():
    """Programs that write the words that they were called with."""
    BIN.mkdir()
    for name in ("vllm", "python3", "trtllm-serve", "vllm-router"):
        (BIN / name).write_text(f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(['{name}'] + sys.argv[1:]))\n")
        (BIN / name).chmod(0o755)
    os.symlink(ORRERY, BIN / "orrery")


def run(*words, **keywords):
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", **keywords}
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=100, env=environment)


def check_kubernetes(path):
    objects = [o for o in yaml.safe_load_all(path.read_text()) if o]
    names = [(o["kind"], o["metadata"]["name"]) for o in objects]
    expect(len(set(names)) == len(names), f"{path}: {names}")
    for o in objects:
        templates = []
        if o["kind"] == "LeaderWorkerSet":
            group = o["spec"]["leaderWorkerTemplate"]
            templates = [group["leaderTemplate"], group["workerTemplate"]]
            expect(group["size"] > 1 and isinstance(o["spec"]["replicas"], int), f"{path}: {o['spec']}")
        elif o["kind"] in ("StatefulSet", "Deployment"):
            templates = [o["spec"]["template"]]
            labels = o["spec"]["selector"]["matchLabels"]
            expect(labels.items() <= o["spec"]["template"]["metadata"]["labels"].items(), f"{path}: selects nothing")
        if kubernetes_validate and o["kind"] != "LeaderWorkerSet":
            try:
                kubernetes_validate.validate(o, "1.31", strict=True)
            except Exception as e:  # noqa: BLE001 - whatever it raises is a finding
                expect(False, f"{path}: {o['kind']}: {e}")
        for template in templates:
            mounts = {v["name"] for v in template["spec"].get("volumes", [])}
            for container in template["spec"]["containers"]:
                expect({m["name"] for m in container.get("volumeMounts", [])} <= mounts, f"{path}: a mount without a volume")
                command = container["command"]
                if command[:2] == ["/bin/bash", "-c"]:
                    for rank in ("0", "1"):  # the pod is told both by the LeaderWorkerSet
                        done = run("bash", "-c", command[2], LWS_WORKER_INDEX=rank, LWS_LEADER_ADDRESS="first")
                        expect(done.returncode == 0, f"{path}, node {rank}: {done.stderr}")
                        words = json.loads(done.stdout or "[]")
                        check_words(words, f"{path}, node {rank}")
                        expect(("--headless" in words) == (rank == "1" and "vllm" in words), f"{path}, node {rank}: {words}")
                else:
                    check_words(command, path)


def check_compose(path):
    document = yaml.safe_load(path.read_text())
    gpus = []
    for name, service in document["services"].items():
        expect({"image"} <= set(service) <= {"image", "entrypoint", "command", "deploy", "devices", "group_add", "environment", "ipc", "volumes",
                                             "configs", "ports"}, f"{path}: {name}: {sorted(service)}")
        expect({c["source"] for c in service.get("configs", [])} <= set(document.get("configs", {})), f"{path}: {name}: a config is missing")
        if "nginx" not in service["image"]:
            check_words(service["entrypoint"] + service["command"], f"{path}: {name}")
        for device in service.get("deploy", {}).get("resources", {}).get("reservations", {}).get("devices", []):
            gpus += device["device_ids"]
    expect(len(set(gpus)) == len(gpus), f"{path}: a GPU twice: {gpus}")
    expect(sum("ports" in s for s in document["services"].values()) == 1, f"{path}: one service is to be reached")


def deploy(name, deployment):
    (ROOT / f"{name}.yaml").write_text("deployment:\n" + deployment + WORKLOAD)
    done = run(ORRERY, "plan", f"{name}.yaml", "--out", name)
    expect(done.returncode == 0, f"{name}: {done.returncode} {done.stderr}")
    folder = ROOT / name / "deploy/choice"
    commands = {}
    for script in sorted(folder.glob("*.sh")):
        expect(run("bash", "-n", str(script)).returncode == 0, f"{script}: syntax")
        expect(os.access(script, os.X_OK), f"{script}: not to be run")
        if script.name == "check.sh":
            continue
        said = run(str(script), NODE_RANK="1", LEADER="first").stdout
        commands[script.stem.replace("serve-", "")] = words = json.loads(said or "[]")
        check_words(words, script)
    said = run("bash", str(folder / "check.sh"), "http://127.0.0.1:9", ORRERY="echo").stdout.split()
    expect(said[:2] == ["live", "../../choice.yaml"] and (folder / said[1]).exists(), f"{name}: check.sh: {said}")
    if yaml:
        for path in folder.glob("*.yaml"):
            yaml.safe_load_all(path.read_text())
        if (folder / "kubernetes.yaml").exists():
            check_kubernetes(folder / "kubernetes.yaml")
        if (folder / "compose.yaml").exists():
            check_compose(folder / "compose.yaml")
    return folder, commands


def same(words, expected, what):
    expect(words == expected.split(), f"{what}: {' '.join(words)}")


def single():
    folder, said = deploy("vllm", "  {hardware: h200, model: qwen3-8b, engine: vllm-0.24, parallel: {tp: 2}, kv_cache_dtype: fp8, replicas: 2,\n"
                          "   engine_args: {max_num_seqs: 64, enable_prefix_caching: false, enforce_eager: true, "
                          "VLLM_DISABLE_SHARED_EXPERTS_STREAM: 1}}\n")
    same(said["main"], "vllm serve Qwen/Qwen3-8B --host 0.0.0.0 --port 8000 --tensor-parallel-size 2 --kv-cache-dtype fp8 --max-num-seqs 64 "
         "--no-enable-prefix-caching --enforce-eager", "vllm")
    expect("least_conn" in (folder / "compose.yaml").read_text(), "two instances without the scenario's router")
    expect('VLLM_DISABLE_SHARED_EXPERTS_STREAM: "1"' in (folder / "compose.yaml").read_text(), "the environment is left out")
    again = run(str(folder / "serve-main.sh"), MODEL="/models/mine", PORT="9000").stdout
    expect('"/models/mine"' in again and '"9000"' in again, f"MODEL and PORT of the environment: {again}")

    _, said = deploy("sglang", "  {hardware: h200, model: qwen3-30b-a3b, engine: sglang-0.5, parallel: {dp: 2, ep: 2},\n"
                     "   engine_args: {disable_radix_cache: true, enable_mixed_chunk: false, chunked_prefill_size: 4096}}\n")
    same(said["main"], "python3 -m sglang.launch_server --model-path Qwen/Qwen3-30B-A3B --host 0.0.0.0 --port 8000 --tp-size 2 --attn-dp-size 2 "
         "--ep-size 2 --disable-radix-cache --chunked-prefill-size 4096", "sglang")

    # Drafts of SGLang as they are simulated: chains, trees that were asked for, and the engine's own.
    for name, keys, flags in (
            ("chain", "method: eagle, tokens: 3, acceptance: 0.7", "EAGLE --speculative-draft-model-path DRAFT_MODEL --speculative-num-steps 3 "
             "--speculative-eagle-topk 1 --speculative-num-draft-tokens 4"),
            ("tree", "method: eagle, tokens: 3, branches: 4, verified: 8, acceptance: 0.7", "EAGLE --speculative-draft-model-path DRAFT_MODEL "
             "--speculative-num-steps 3 --speculative-eagle-topk 4 --speculative-num-draft-tokens 8"),
            ("own", "method: eagle, acceptance: 0.7", "EAGLE --speculative-draft-model-path DRAFT_MODEL"),
            ("ngram-chain", "method: ngram, tokens: 3, acceptance: 0.6, match_rate: 0.5", "NGRAM --speculative-num-draft-tokens 4 "
             "--speculative-ngram-max-bfs-breadth 1"),
            ("ngram-tree", "method: ngram, acceptance: 0.6, match_rate: 0.5, match_length: 8, siblings: [0.3, 0.1]", "NGRAM "
             "--speculative-num-draft-tokens 12 --speculative-ngram-max-bfs-breadth 10")):
        _, said = deploy(name, "  {hardware: h200, model: llama-3.1-8b, engine: sglang-0.5, speculation: {%s}}\n" % keys)
        words = said["main"]
        expect(" ".join(words[words.index("--speculative-algorithm") + 1:]) == flags, f"{name}: {words}")

    folder, said = deploy("trt", "  {hardware: h200, model: qwen3-8b, engine: tensorrt-llm-1.2, parallel: {tp: 2}, kv_cache_dtype: fp8,\n"
                          "   engine_args: {max_batch_size: 64, kv_cache_config: {enable_block_reuse: false}, cuda_graph_config: null}}\n")
    config = str(folder / "config-main.yaml")
    same(said["main"], f"trtllm-serve Qwen/Qwen3-8B --backend pytorch --host 0.0.0.0 --port 8000 --extra_llm_api_options {config} --tp_size 2", "trt")
    if yaml:
        expect(yaml.safe_load(open(config)) == {"kv_cache_config": {"dtype": "fp8", "enable_block_reuse": False}, "max_batch_size": 64,
                                                "cuda_graph_config": None}, f"trt: {open(config).read()}")

    folder, said = deploy("amd", "  {hardware: mi300x, model: qwen3-8b, engine: vllm-0.24, speculation: {method: ngram, tokens: 3, acceptance: [0.5], "
                          "match_rate: 0.5}}\n")
    expect(json.loads(said["main"][-1]) == {"method": "ngram", "num_speculative_tokens": 3}, f"amd: {said}")
    expect("amd.com/gpu: 1" in (folder / "kubernetes.yaml").read_text() and "/dev/kfd" in (folder / "compose.yaml").read_text(), "amd: devices")

    # A name of a pool that no cluster takes, and one that is the router's.
    folder, said = deploy("names", "  pools:\n    - {name: New_1, hardware: h200, model: qwen3-8b, engine: vllm-0.24}\n"
                          "    - {name: router, hardware: h100, model: qwen3-8b, engine: vllm-0.24}\n")
    expect(set(said) == {"new-1", "pool-router"}, f"names: {sorted(said)}")

    # An engine that no table is for is said, and nothing is guessed.
    folder, said = deploy("old", "  {hardware: h200, model: qwen3-8b, engine: vllm-0.12}\n")
    expect(not said and not (folder / "kubernetes.yaml").exists() and "vllm-0.12" in (folder / "README.md").read_text(), "old: guessed")


def several():
    pair = ("  topology: {preset: hopper-8}\n  pools:\n    - {name: p, role: prefill, hardware: h200, model: qwen3-8b, engine: %s, replicas: 2%s}\n"
            "    - {name: d, role: decode, hardware: h200, model: qwen3-8b, engine: %s}\n")
    _, said = deploy("pair", pair % ("vllm-0.24", "", "vllm-0.24"))
    expect(json.loads(said["p"][-1])["kv_connector"] == "NixlConnector", f"pair: {said['p']}")
    same(said["router"], "vllm-router --vllm-pd-disaggregation --host 0.0.0.0 --port 8000 --policy power_of_two --prefill http://p-0:8000 "
         "--prefill http://p-1:8000 --decode http://d-0:8000", "pair")
    _, said = deploy("pair-sglang", pair % ("sglang-0.5", "", "sglang-0.5"))
    expect(said["p"][-4:] == ["--disaggregation-mode", "prefill", "--disaggregation-bootstrap-port", "8998"], f"pair-sglang: {said['p']}")
    same(said["router"], "python3 -m sglang_router.launch_router --pd-disaggregation --host 0.0.0.0 --port 8000 --policy power_of_two "
         "--prefill http://p-0:8000 8998 --prefill http://p-1:8000 8998 --decode http://d-0:8000", "pair-sglang")
    folder, said = deploy("pair-trt", pair % ("tensorrt-llm-1.2", ", engine_args: {disable_overlap_scheduler: true}", "tensorrt-llm-1.2"))
    if yaml:
        router = yaml.safe_load((folder / "router.yaml").read_text())
        expect(router["context_servers"] == {"num_instances": 2, "urls": ["p-0:8000", "p-1:8000"]}, f"pair-trt: {router}")
        expect(yaml.safe_load((folder / "config-p.yaml").read_text())["disable_overlap_scheduler"] is True, "pair-trt: overlap of a context server")
        expect("disable_overlap_scheduler" not in yaml.safe_load((folder / "config-d.yaml").read_text()), "pair-trt: overlap of the other")

    nodes = "  {hardware: h200, model: deepseek-r1, engine: %s, topology: {preset: hopper-8, nodes: 2, nics_per_node: 8, nic_gbps: 400}, parallel: {%s}}\n"
    folder, said = deploy("nodes", nodes % ("sglang-0.5", "dp: 16, ep: 16"))
    same(said["main"], "python3 -m sglang.launch_server --model-path deepseek-ai/DeepSeek-R1 --host 0.0.0.0 --port 8000 --tp-size 16 --attn-dp-size 16 "
         "--ep-size 16 --nnodes 2 --node-rank 1 --dist-init-addr first:20000", "nodes")
    _, said = deploy("nodes-dp", nodes % ("vllm-0.24", "dp: 16, ep: 16"))
    same(said["main"], "vllm serve deepseek-ai/DeepSeek-R1 --host 0.0.0.0 --port 8000 --data-parallel-size 16 --enable-expert-parallel "
         "--data-parallel-size-local 8 --data-parallel-address first --data-parallel-start-rank 8 --headless", "nodes-dp")
    expect(not (folder / "compose.yaml").exists(), "nodes: compose is of one host")
    folder, _ = deploy("nodes-trt", nodes % ("tensorrt-llm-1.2", "dp: 16, ep: 16"))
    expect(not (folder / "kubernetes.yaml").exists() and "trtllm-llmapi-launch" in (folder / "README.md").read_text(), "nodes-trt: guessed")


SBATCH = """#!/bin/bash
# Runs at once what sbatch would queue.
job=$(date +%N)
for word in "$@"; do case $word in --array=*) array=${word#--array=1-} ;; --*) ;; *) words+=("$word") ;; esac; done
if [ -n "${array:-}" ]; then
  for i in $(seq "$array"); do SLURM_ARRAY_TASK_ID=$i bash "${words[@]}" >>slurm.log 2>&1; done
else bash "${words[@]}" >>slurm.log 2>&1; fi
echo "$job"
"""
KUBECTL = """#!{python}
# Runs the pods of an indexed Job at once.
import os, subprocess, sys, yaml
if sys.argv[1] == "apply":
    spec = yaml.safe_load(open(sys.argv[3]))["spec"]
    container = spec["template"]["spec"]["containers"][0]
    for i in range(spec["completions"]):
        subprocess.run(container["command"] + container["args"], env=dict(os.environ, JOB_COMPLETION_INDEX=str(i)), check=True)
"""


def scripts():
    text = ("deployment: {hardware: h200, model: qwen3-8b, engine: vllm-0.24, kernels: roofline}\n" +
            WORKLOAD.replace("requests: 4", "requests: 600").replace("finalists: 1, draws: 2", "finalists: 1, draws: 2, vary: {hardware: [h100, h200], "
                                                                    "parallel.tp: [1, 2], engine_args.max_num_seqs: [1, 2, 64]}"))
    (ROOT / "space.yaml").write_text(text)
    alone = run("orrery", "plan", "space.yaml", "--out", "alone")
    expect(alone.returncode == 0, alone.stderr)
    for name, stand_in in (("sbatch", SBATCH), ("kubectl", KUBECTL.format(python=sys.executable))):
        (BIN / name).write_text(stand_in)
        (BIN / name).chmod(0o755)
    kinds = [("slurm", "plan-slurm.sh")] + ([("k8s", "plan-k8s.sh")] if yaml else [])
    for kind, script in kinds:
        done = run("orrery", "plan", "space.yaml", "--out", kind, "--emit", kind, "--shards", "3")
        expect(done.returncode == 0 and script in done.stdout, f"{kind}: {done.returncode} {done.stderr}")
        expect(not list((ROOT / kind).glob("*.sqlite")), f"{kind}: --emit has searched")
        expect(run("bash", "-n", f"{kind}/{script}").returncode == 0, f"{kind}: syntax")
        done = run("bash", f"{kind}/{script}")
        expect(done.returncode == 0, f"{kind}: {done.stderr}")
        for name in ("recommendation.json", "candidates.csv", "choice.yaml"):
            path = ROOT / kind / name
            text = path.read_text().replace(f"--out {kind}", "--out alone") if path.exists() else ""
            expect(text == (ROOT / "alone" / name).read_text(), f"{kind}/{name} differs from a search that ran alone")
    if yaml and kubernetes_validate:
        kubernetes_validate.validate(yaml.safe_load((ROOT / "k8s/plan-k8s.yaml").read_text()), "1.31", strict=True)
    expect(run("orrery", "plan", "space.yaml", "--emit", "slurm").returncode == 2, "--emit without --out")


def main():
    if yaml is None:
        print("no python3-yaml here: YAML files are not checked")
    stand_ins()
    check_tables()
    single()
    several()
    scripts()
    return verdict()


if __name__ == "__main__":
    sys.exit(main())
