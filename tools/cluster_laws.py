"""Laws that every cluster must keep, as runs of the binary: (name, function of a Bench that gives (holds, what was seen))."""
import csv
import pathlib

PLAIN, APART = "examples/qwen3-8b-h200.yaml", "examples/qwen3-32b-h200-pd.yaml"
SHORT = "workload.limit={requests: 400}"


def wide_fabric(rate):
    """Eight GPUs on a switch without bounds, GB/s a link."""
    devices = "  - {name: switch, kind: nvswitch, node: 0, index: 0}\n" + "".join(
        f"  - {{name: g{i}, kind: gpu, node: 0, index: {i}}}\n" for i in range(8))
    links = "".join(f"  - between: [g{i}, switch]\n    class: nvlink\n"
                    f"    bandwidth: {{value: {rate:.0f}, unit: GB/s, kind: assumed, source: \"a law\"}}\n"
                    "    latency: {value: 0.000000001, unit: us, kind: assumed, source: \"a law\"}\n" for i in range(8))
    return f"name: wide\ndevices:\n{devices}links:\n{links}"


def pools_are_replicas(bench):
    part = "hardware: h200, model: qwen3-8b, engine: vllm-0.24"
    one = bench.run(PLAIN, [SHORT, "workload.time_scale=12", f"deployment={{{part}, replicas: 4}}"])
    four = bench.run(PLAIN, [SHORT, "workload.time_scale=12", "deployment={pools: [" + ", ".join(
        f"{{name: p{i}, {part}}}" for i in range(4)) + "]}"])
    return one["digest"] == four["digest"], f"digests {one['digest']}, {four['digest']}"


def ep_of_one(bench):
    model = "deployment.model=qwen3-30b-a3b"
    none = bench.run(PLAIN, [SHORT, model])
    one = bench.run(PLAIN, [SHORT, model, "deployment.parallel={ep: 1}",
                            "deployment.experts={popularity: uniform, eplb: {policy: off}}"])
    return none["digest"] == one["digest"], f"digests {none['digest']}, {one['digest']}"


def context_of_one(bench):
    """SGLang's for prompts and vLLM's split cache."""
    pairs = []
    for engine, one in (("sglang-0.5", "enable_prefill_cp: true, cp_strategy: zigzag"), ("vllm-0.24", "decode_context_parallel_size: 1")):
        moe = [SHORT, "deployment.model=qwen3-30b-a3b", f"deployment.engine={engine}", "deployment.parallel={tp: 2}"]
        none = bench.run(PLAIN, moe)
        same = bench.run(PLAIN, [*moe, "deployment.parallel={tp: 2, cp: 1}", f"deployment.engine_args={{{one}}}"])
        pairs.append((none["digest"], same["digest"]))
    return all(a == b for a, b in pairs), "; ".join(f"digests {a}, {b}" for a, b in pairs)


def infinite_fabric(bench):
    """1 PB/s, the most that a topology may say: of a transfer that pays for bytes and the way (MoRIIO's) its 10 us after the
    last byte are left, and 1 us a GB."""
    linked = [SHORT, "deployment.pd={connector: moriio}"]
    usual = bench.run(APART, linked)["transfers"]["ttft_parts_ms"]["transfer"]
    free = bench.run(APART, [*linked, "deployment.topology=" + bench.file("wide.yaml", wide_fabric(1e6))])
    left = free["transfers"]["ttft_parts_ms"]["transfer"]
    return 0.010 <= left["max"] < 0.013 < usual["mean"], \
        f"longest transfer {1e3 * left['max']:.3f} us (mean over NVLink: {1e3 * usual['mean']:.0f} us)"


def descriptors_bind(bench):
    """One prompt of 1,000 tokens of Qwen3-32B: 63 blocks of 64 layers, keys and values, at 3.6 us, 2 ms before, 10 us after."""
    one = ["workload={generator: {requests: 1, arrivals: {process: fixed, rate: 1}, input: {distribution: fixed, value: 1000}, "
           "output: {distribution: fixed, value: 8}}}"]
    free = ["deployment.topology=" + bench.file("wide.yaml", wide_fabric(1e6))]
    usual, left = (bench.run(APART, one + more)["transfers"]["ttft_parts_ms"]["transfer"]["mean"] for more in ([], free))
    reckoned = 2 + 63 * 64 * 2 * 3.6e-3 + 0.010
    return abs(usual - reckoned) < 1e-6 and abs(left - reckoned) < 1e-6, \
        f"{usual:.4f} ms over NVLink, {left:.4f} ms over 1 PB/s, reckoned {reckoned:.4f} ms"


def infinite_links(bench):
    moe = ["deployment.kernels=roofline", "deployment.model=qwen3-30b-a3b", "deployment.parallel={tp: 4}"]
    free = moe + ["overrides.figures={link_bandwidth: 1e18, link_pair_bandwidth: 1e18, link_efficiency: 1, "
                  "collective_latency: 1e-12, kernel_floor: 1e-12}"]

    def link_us(settings):
        operators = bench.cost(PLAIN, "prefill 8192@0", settings)["steps"][0]["operators"]
        return sum(o["time_us"] for o in operators if o["class"] == "collective")

    before, after = link_us(moe), link_us(free)
    # 97 all-reduces of 8,192 rows of 2,048 bf16 values: each reads its buffer and writes the result at 0.85 of 4.8 TB/s.
    memory = 97 * 2 * 8192 * 2048 * 2 / (0.85 * 4.8e12) * 1e6
    return abs(after - memory) < 1e-3 * memory, \
        f"collectives of a prompt on tp 4: {before:.0f} us; without bounds {after:.1f} us, reckoned {memory:.1f}"


def faster_never_slower(bench):
    base = bench.run(PLAIN, [SHORT])
    fast = bench.run(PLAIN, [SHORT, "overrides.figures={hbm_bandwidth: 48e12, matrix_rate_bf16: 9.9e15}"])
    held = all(fast[m][p] <= base[m][p] for m in ("ttft_ms", "tpot_ms", "e2e_ms") for p in ("mean", "p50", "p99"))
    return held and fast["tpot_ms"]["mean"] < base["tpot_ms"]["mean"], \
        f"TPOT mean {base['tpot_ms']['mean']:.3f} and {fast['tpot_ms']['mean']:.3f} ms"


DEPLOYMENTS = {
    "a split KV cache": (PLAIN, ["deployment.model=qwen3-30b-a3b", "deployment.parallel={tp: 8}",
                                 "deployment.engine_args={decode_context_parallel_size: 2}"]),
    "prompts dealt to ranks": (PLAIN, ["deployment.model=qwen3-30b-a3b", "deployment.engine=sglang-0.5", "deployment.parallel={cp: 4}",
                                       "deployment.engine_args={enable_prefill_cp: true, cp_strategy: zigzag}"]),
    "replicas": (PLAIN, ["deployment.replicas=3"]),
    "SGLang, small pool": (PLAIN, ["deployment.engine=sglang-0.5", "deployment.engine_args={max_total_tokens: 12000, "
                                   "context_length: 8000}"]),
    "TensorRT-LLM": (PLAIN, ["deployment.engine=tensorrt-llm-1.2"]),
    "preemptions": (PLAIN, ["deployment.engine_args={num_gpu_blocks_override: 520, max_model_len: 8000}"]),
    "stages": ("examples/qwen3-32b-h200-pp2.yaml", []),
    "ranks": ("examples/qwen3-30b-a3b-h200-dp2.yaml", []),
    "experts that move": ("examples/experts-c1-tp8-or-ep8.yaml", [
        "deployment.experts.eplb={policy: periodic, redundant: 16, every_steps: 50, window_steps: 50}"]),
    "prefill and decode apart": (APART, []),
    "clients that leave": (PLAIN, ["workload.client={timeout_s: 3, disconnect: {share: 0.2, after_s: 0.5}}"]),
}


def conservation(bench):
    """Every request ends exactly once, delivered tokens add up, first tokens come before last ones, KV fits."""
    wrong, count = [], 0
    for name, (scenario, settings) in DEPLOYMENTS.items():
        out = pathlib.Path(bench.folder) / name.replace(" ", "_")
        summary = bench.json("simulate", scenario, "--intervals", "off", "--json", "--out", str(out), "--outputs", "requests",
                             "--set", SHORT, *(word for s in settings for word in ("--set", s)))
        rows = list(csv.DictReader((out / "requests.csv").open()))
        done = [r for r in rows if r["status"] == "completed"]
        tokens = summary["throughput"]["output_tokens_per_s"] * summary["duration_s"]
        count += len(rows)
        checks = {
            "each index once": sorted(int(r["request"]) for r in rows) == list(range(400)),
            "statuses add up": sum(summary["requests"].values()) == 400 and summary["requests"]["completed"] == len(done),
            "tokens add up": abs(sum(int(r["output_tokens"]) for r in done) - tokens) < 0.5,
            "first before last": all(0 < float(r["ttft_s"]) <= float(r["e2e_s"]) for r in done),
            "KV fits": all(0 < p["peak_utilization"] <= 1 for p in summary["kv_cache"]["pools"]),
        }
        wrong += [f"{name}: not {law}" for law, held in checks.items() if not held]
    return not wrong, "; ".join(wrong) or f"{count} requests in {len(DEPLOYMENTS)} deployments: {', '.join(DEPLOYMENTS)}"


LAWS = [("Four pools of one are one pool of four, bit for bit", pools_are_replicas),
        ("EP1 with uniform experts and no balancer is no EP, bit for bit", ep_of_one),
        ("Context parallelism of one rank is none, bit for bit", context_of_one),
        ("KV over a fabric of 1 PB/s costs its 10 us and 1 us a GB", infinite_fabric),
        ("NIXL's reads inside a node cost 2 ms and 3.6 us a descriptor, over any fabric", descriptors_bind),
        ("Collectives over links without bounds cost their own read and write in memory", infinite_links),
        ("Ten times a part's rates is slower nowhere", faster_never_slower),
        ("Requests, tokens and KV are conserved", conservation)]
TESTS = """Held by tests besides (`ctest`): M/D/1, M/M/1, M/M/c and processor sharing within sampling error, Little's law on each
of those runs and on every random world, N instances under N-fold arrivals as one, request by request (queueing_limits_test);
pools and replicas (pools_test); conservation of requests, tokens and gaps in random worlds of every engine (conservation.h);
flows max-min fair and exact (flows_test); every scenario key against a run without it (key_effects_test)."""
