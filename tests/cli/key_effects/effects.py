"""What a scenario key does, as data: one line a key, played by ../key_effects_test.py.

An effect compares two runs that differ in the key and in nothing else. Were the code behind the key disabled, both would be
the same run and every expectation below would fail; the test shows that of each line by comparing a run with itself.
Settings are those of --set, separated by "; ". A metric is a path into the JSON of `simulate` ("ttft_ms.p99"), into that of
`cost` ("cost:memory.kv_tokens"), or a name of METRICS.
"""
import typing



class Effect(typing.NamedTuple):
    key: str
    base: str            # a name of BASES
    without: str         # settings of the first run, over the base's
    settings: str        # of the second, over those
    metric: str
    expect: str          # up, down, times, plus, becomes, moves
    amount: float = 0
    tolerance: float = 1e-9    # relative to the expected value


class Refused(typing.NamedTuple):
    key: str
    base: str
    settings: str
    text: str            # of the error


class Named(typing.NamedTuple):
    key: str
    why: str             # it moves nothing, by design


def up(key, base, settings, metric, without=""):
    return Effect(key, base, without, settings, metric, "up")


def down(key, base, settings, metric, without=""):
    return Effect(key, base, without, settings, metric, "down")


def moves(key, base, settings, metric, without=""):
    return Effect(key, base, without, settings, metric, "moves")


def times(key, base, settings, metric, factor, tolerance=1e-9, without=""):
    return Effect(key, base, without, settings, metric, "times", factor, tolerance)


def plus(key, base, settings, metric, amount, tolerance=1e-9, without=""):
    return Effect(key, base, without, settings, metric, "plus", amount, tolerance)


def becomes(key, base, settings, metric, value, tolerance=1e-9, without=""):
    return Effect(key, base, without, settings, metric, "becomes", value, tolerance)


def generator(requests=60, rate=30, mean=600, output=40):
    return {"requests": requests, "arrivals": {"process": "poisson", "rate": rate},
            "input": {"distribution": "log-normal", "mean": mean, "cv": 0.6},
            "output": {"distribution": "fixed", "value": output}}


def scenario(hardware="h200", model="qwen3-8b", engine="vllm-0.24", workload=None, **more):
    deployment = {"hardware": hardware, "model": model, "engine": engine, **more}
    return {"deployment": deployment, "workload": {"generator": workload or generator()},
            "slo": {"ttft_ms": 60, "tpot_ms": 12}}


def pool(name, role, **more):
    return {"name": name, "role": role, "hardware": "h200", "model": "qwen3-8b", "engine": "vllm-0.24"} | more


def apart(topology, **more):
    return {"deployment": {"topology": topology, "pools": [pool("p", "prefill", **more), pool("d", "decode", **more)]},
            "workload": {"generator": generator(mean=2000)}, "slo": {"ttft_ms": 200, "tpot_ms": 12}}


def linked(document):
    """KV that pays for bytes and the way alone."""
    document["deployment"]["pd"] = {"connector": "moriio"}
    return document


NODES = {"preset": "hopper-8", "nodes": 4, "nics_per_node": 8, "nic_gbps": 400}
SESSIONS = {**generator(requests=80, rate=10), "sessions": {"turns_mean": 4, "think_s": 1}}
EP = {"parallel": {"tp": 4, "ep": 4}}
RANKS = {"model": "deepseek-r1", "parallel": {"dp": 8, "ep": 8}}

# Small enough that a run takes a few hundredths of a second.
BASES = {
    "plain": scenario(),
    "roofline": scenario(kernels="roofline"),
    "moe": scenario(model="qwen3-30b-a3b", kernels="roofline", **EP),
    "zipf": scenario(model="qwen3-30b-a3b", **EP, experts={"popularity": {"zipf": 0.8}},
                     workload=generator(requests=60, rate=20, output=60)),
    "apart": apart({"preset": "hopper-8"}),
    "mixed": {"deployment": {"pools": [pool("a", "mixed"), pool("b", "mixed")]},
              "workload": {"generator": generator(mean=2000)}},
    "linked": linked(apart({"preset": "hopper-8"})),
    "nodes": linked(apart(NODES, parallel={"tp": 8})),
    "sessions": scenario(workload=SESSIONS),
    "burst": scenario(workload={**generator(requests=80), "arrivals": {"process": "fixed", "rate": 10000}}),
    "one": scenario(workload={"requests": 1, "arrivals": {"process": "fixed", "rate": 1},
                              "input": {"distribution": "fixed", "value": 1000},
                              "output": {"distribution": "fixed", "value": 33}}),
    "slow": scenario(workload={"requests": 21, "arrivals": {"process": "fixed", "rate": 1},
                               "input": {"distribution": "fixed", "value": 100},
                               "output": {"distribution": "fixed", "value": 4}}),
}

SGL, TRT = "sglang-0.5", "tensorrt-llm-1.2"
BURST = BASES["burst"]["workload"]["generator"]
BASES |= {
    "sgl": scenario(engine=SGL),
    "sgl-burst": scenario(engine=SGL, workload=BURST),
    "sgl-sessions": scenario(engine=SGL, workload=SESSIONS),
    "sgl-oss": scenario(engine=SGL, model="gpt-oss-20b"),
    "sgl-gemma": scenario(engine=SGL, model="gemma-3-4b-it"),
    "sgl-ranks": scenario(engine=SGL, model="qwen3-30b-a3b", parallel={"dp": 4, "ep": 4},
                          workload=generator(requests=120, rate=300)),
    "sgl-stages": scenario(engine=SGL, parallel={"pp": 2}, workload=BURST),
    "trt-ranks": scenario(engine=TRT, model="qwen3-30b-a3b", parallel={"dp": 2, "ep": 2},
                          workload=generator(requests=120, rate=8)),
    "trt": scenario(engine=TRT),
    "trt-burst": scenario(engine=TRT, workload=BURST),
    "trt-sessions": scenario(engine=TRT, workload=SESSIONS),
    "trt-oss": scenario(engine=TRT, model="gpt-oss-20b"),
    "trt-gemma": scenario(engine=TRT, model="gemma-3-4b-it", workload=SESSIONS),
    "trt-state": scenario(engine=TRT, model="qwen3-next-80b-a3b", parallel={"tp": 2}),
    "oss": scenario(model="gpt-oss-20b"),
    "ngram": scenario(speculation={"method": "ngram", "tokens": 3, "acceptance": 0.5, "match_rate": 0.7}),
    "eight": scenario(kernels="roofline", quantization="fp8-tensor"),
    "blocks": scenario(kernels="roofline", quantization="fp8-block"),
    "moe8": scenario(model="qwen3-30b-a3b-fp8", kernels="roofline", parallel={"tp": 2}),
    "half": scenario(kernels="roofline", engine_args={"dtype": "float16"}),
    "direct": scenario(hardware="mi300x", parallel={"tp": 2}),
    "router32": scenario(model="glm-4.5-air", kernels="roofline", parallel={"tp": 4}),
    "oldest": scenario(model="qwen3-30b-a3b"),
    "grouped": scenario(model="deepseek-r1", parallel={"tp": 8, "ep": 8}), "qwen2-vision": scenario(model="qwen2.5-vl-7b"),
    "tables": scenario(model="qwen3-30b-a3b", parallel={"tp": 4}),
    "amd-experts": scenario(hardware="r9700", model="qwen3-30b-a3b-fp8", parallel={"tp": 2, "ep": 2}),
    "half-amd": scenario(hardware="mi300x", engine_args={"dtype": "float16"}),
    "servegen": scenario(workload={"requests": 30, "servegen": {"folder": "$DATA/servegen"}}),
    "served": scenario(), "trt-served": scenario(engine=TRT, workload=generator(300, rate=300, mean=20, output=100)),
    "vision": scenario(model="qwen3-vl-8b"), "vision-text": scenario(model="qwen3-vl-8b"),
    "ranked": scenario(), "sgl-ranked": scenario(engine=SGL), "sgl-eos": scenario(engine=SGL),
    "trt-shared": scenario(engine=TRT),
}
BASES |= {
    "replicas": scenario(replicas=3, workload=BURST), "replicas-sessions": scenario(replicas=3, workload=SESSIONS),
    "state": scenario(model="qwen3.5-35b-a3b"), "mamba": scenario(model="nemotron-3-nano-30b-a3b"),
    "ranks": scenario(**RANKS), "low-latency": scenario(**RANKS, engine_args={"all2all_backend": "deepep_low_latency"}),
    "sgl-a2a": scenario(engine=SGL, **RANKS, engine_args={"moe_a2a_backend": "deepep"}),
    "sgl-moe": scenario(engine=SGL, model="qwen3-30b-a3b", parallel={"tp": 2}),
    "sgl-amd": scenario(engine=SGL, hardware="mi300x", parallel={"tp": 2}),
    "sgl-state": scenario(engine=SGL, model="qwen3.5-35b-a3b"),
    "sgl-state-sessions": scenario(engine=SGL, model="qwen3.5-35b-a3b", workload=SESSIONS),
    "sgl-r9700": scenario(engine=SGL, hardware="r9700", parallel={"tp": 4}),
    "sgl-apart": apart({"preset": "hopper-8"}, engine=SGL),
}
# One prompt of 1,000 tokens: 63 blocks of 16.
for name in ("apart", "linked", "nodes"):
    BASES["one-" + name] = {**BASES[name], "workload": BASES["one"]["workload"]}
for name in ("served", "trt-served"):
    BASES[name]["workload"]["frontend"] = "openai"
for name, trace in (("vision", "pictures"), ("qwen2-vision", "pictures"), ("ranked", "ranked"), ("sgl-ranked", "ranked"), ("sgl-eos", "eos"),
                    ("trt-shared", "shared")):
    BASES[name]["workload"] = {"trace": f"$DATA/{trace}.jsonl"}


def input_tokens(summary):
    return summary["throughput"]["input_tokens_per_s"] * summary["duration_s"]


def output_tokens(summary):
    return summary["throughput"]["output_tokens_per_s"] * summary["duration_s"]


def class_time(cost, op_class):
    return sum(o["time_us"] for o in cost["steps"][0]["operators"] if o["class"] == op_class)


def operator_time(cost, operator):
    return sum(o["time_us"] for o in cost["steps"][0]["operators"] if o["operator"] == operator)


METRICS = {
    "input_tokens": input_tokens,
    "output_tokens": output_tokens,
    "instances": lambda s: sum(p["instances"] for p in s["kv_cache"]["pools"]),
    "pools": lambda s: len(s["kv_cache"]["pools"]),
    "last_pool_peak": lambda s: s["kv_cache"]["pools"][-1]["peak_utilization"],
    "kv_peak": lambda s: s["kv_cache"]["peak_utilization"],
    "balancedness": lambda s: s["experts"]["balancedness"]["mean"],
}
