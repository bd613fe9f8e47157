"""Keys of `workload`, `slo`, `seed` and `overrides`, but for figures."""
from .effects import Named, Refused, becomes, down, moves, plus, times, up

DECODE = "cost[decode 64@1024]:"
PREFILL = "cost[prefill 4096@0]:"
GENERATOR = "workload.generator."

EFFECTS = [
    becomes("workload.trace", "plain", "workload={trace: $DATA/three.jsonl}", "requests.completed", 3),
    becomes("workload.generator.requests", "plain", GENERATOR + "requests=25", "requests.completed", 25),
    # 20 gaps of 1 s, at twice the rate of half a second; the last request takes as long in both.
    plus("workload.generator.arrivals.rate", "slow", GENERATOR + "arrivals.rate=2", "duration_s", -10, 1e-6),
    plus("workload.time_scale", "slow", "workload.time_scale=2", "duration_s", -10, 1e-6),
    moves("workload.generator.arrivals.process", "slow", GENERATOR + "arrivals.process=poisson", "duration_s"),
    up("workload.generator.arrivals.cv", "plain", GENERATOR + "arrivals.cv=8", "ttft_ms.p99",
       without=GENERATOR + "arrivals={process: gamma, rate: 30, cv: 0.2}"),
    up("workload.generator.arrivals.on_s", "plain", GENERATOR + "arrivals.on_s=4", "throughput.requests_per_s",
       without=GENERATOR + "arrivals={process: on-off, rate: 30, on_s: 1, off_s: 1}"),
    down("workload.generator.arrivals.off_s", "plain", GENERATOR + "arrivals.off_s=9", "throughput.requests_per_s",
         without=GENERATOR + "arrivals={process: on-off, rate: 30, on_s: 1, off_s: 1}"),
    becomes("workload.generator.input.value", "one", GENERATOR + "input.value=1500", "input_tokens", 1500),
    becomes("workload.generator.output.value", "one", GENERATOR + "output.value=50", "output_tokens", 50),
    becomes("workload.generator.resample", "one", "workload.generator={requests: 1, arrivals: {process: fixed, rate: 1}, "
            "resample: $DATA/three.jsonl}", "input_tokens", 700),
    moves("workload.generator.servegen", "plain", "workload.generator={requests: 30, servegen: {folder: $DATA/servegen}}",
          "input_tokens"),
    moves("workload.generator.servegen.folder", "plain",
          "workload.generator={requests: 30, servegen: {folder: $DATA/servegen}}", "input_tokens"),
    moves("workload.generator.servegen.start_s", "servegen", GENERATOR + "servegen.start_s=60", "input_tokens"),
    down("workload.generator.servegen.rate", "servegen", GENERATOR + "servegen.rate=100", "duration_s"),
    up("workload.generator.sessions.turns_mean", "sessions", GENERATOR + "sessions.turns_mean=12",
       "prefix_cache_hit_rate"),
    up("workload.generator.sessions.think_s", "sessions", GENERATOR + "sessions.think_s=20", "duration_s"),
    up("workload.generator.sessions.shared_prefix_tokens", "sessions",
       GENERATOR + "sessions.shared_prefix_tokens=2000", "prefix_cache_hit_rate"),
    down("workload.generator.sessions.prefix_groups", "sessions", GENERATOR + "sessions.prefix_groups=30",
         "prefix_cache_hit_rate", without=GENERATOR + "sessions.shared_prefix_tokens=2000"),
    down("workload.generator.sessions.max_prompt_tokens", "sessions", GENERATOR + "sessions.max_prompt_tokens=900",
         "input_tokens"),
    down("workload.closed_loop.concurrency", "burst", "workload.closed_loop={concurrency: 1}", "queue_ms.max"),
    becomes("workload.limit.requests", "plain", "workload.limit={requests: 7}", "requests.completed", 7),
    # Arrivals at 0, 1, …: five before the fifth second.
    becomes("workload.limit.duration_s", "slow", "workload.limit={duration_s: 5}", "requests.completed", 5),
    up("workload.frontend", "plain", "workload.frontend=openai", "ttft_ms.mean"),
    becomes("workload.client.timeout_s", "burst", "workload.client={timeout_s: 0.000001}", "requests.timed_out", 80),
    becomes("workload.client.disconnect.share", "burst", "workload.client.disconnect.share=1",
            "requests.cancelled", 80, without="workload.client={disconnect: {share: 0, after_s: 0.000001}}"),
    down("workload.client.disconnect.after_s", "burst", "workload.client.disconnect.after_s=1000",
         "requests.cancelled", without="workload.client={disconnect: {share: 1, after_s: 0.000001}}"),
    # Arrivals at 0, 1, …, 20; those of the first 10.5 s are served and not measured.
    becomes("workload.warmup_s", "slow", "workload.warmup_s=10.5", "warmup.requests", 11),

    becomes("slo.ttft_ms", "plain", "slo.ttft_ms=0.001", "goodput.attainment", 0),
    becomes("slo.tpot_ms", "plain", "slo.tpot_ms=0.001", "goodput.attainment", 0),
    down("slo.percentile", "plain", "slo.percentile=99", "rate:find_rate.requests_per_s", without="slo.percentile=50"),
    moves("seed", "plain", "seed=2", "ttft_ms.mean"),

    times("overrides.host_scale", "plain", "overrides.host_scale=1.5", DECODE + "host_us", 1.5, 1e-6),
    Named("resolved", "written by us into scenario.resolved.yaml, and says what the rest of that file means"),
]
for process in ("input", "output"):
    key = f"workload.generator.{process}."
    law = lambda text, p=process: f"workload.generator.{p}={text}"  # noqa: E731
    metric = f"{process}_tokens"
    EFFECTS += [
        up(key + "distribution", "one", law("{distribution: uniform, low: 2000, high: 3000}"), metric),
        up(key + "mean", "plain", law("{distribution: log-normal, mean: 900, cv: 0.1}"), metric,
           without=law("{distribution: log-normal, mean: 300, cv: 0.1}")),
        moves(key + "cv", "plain", law("{distribution: log-normal, mean: 300, cv: 1}"), metric,
              without=law("{distribution: log-normal, mean: 300, cv: 0.1}")),
        up(key + "low", "plain", law("{distribution: uniform, low: 150, high: 200}"), metric,
           without=law("{distribution: uniform, low: 10, high: 200}")),
        up(key + "high", "plain", law("{distribution: uniform, low: 10, high: 900}"), metric,
           without=law("{distribution: uniform, low: 10, high: 200}")),
        becomes(key + "quantiles", "one", law("{distribution: empirical, quantiles: [77, 77]}"), metric, 77),
    ]
for op_class, step in (("gemm", DECODE), ("grouped_gemm", DECODE), ("attention_prefill", PREFILL),
                       ("attention_decode", DECODE), ("elementwise", DECODE), ("routing", DECODE),
                       ("collective", DECODE), ("sampling", DECODE)):
    EFFECTS.append(times("overrides.op_scale." + op_class, "moe", f"overrides.op_scale.{op_class}=2",
                         f"{step}class:{op_class}", 2, 1e-3))
for other_name, op_class in (("moe_gemm", "grouped_gemm"), ("all_reduce", "collective")):
    EFFECTS.append(times("overrides.op_scale." + other_name, "moe", f"overrides.op_scale.{other_name}=2",
                         f"{DECODE}class:{op_class}", 2, 1e-3))
