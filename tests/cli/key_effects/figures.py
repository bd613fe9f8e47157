"""`overrides.figures`: figures of the part, of the engine's host and of its API server."""
from .effects import Named, Refused, becomes, down, moves, plus, times, up

F = "overrides.figures."
DECODE = "cost[decode 64@1024]:"
PREFILL = "cost[prefill 8192@0]:"


def host(name, base, settings, metric, without=""):
    return up(F + "host." + name, base, settings, metric, without)


EFFECTS = [
    down(F + "memory_bandwidth", "roofline", F + "memory_bandwidth=9.6e12", DECODE + "device_us"),
    # Tables are utilisation of the part's own rate: twice the rate, half the time of what it bounds.
    times(F + "hbm_bandwidth", "plain", F + "hbm_bandwidth=9.6e12", "cost[decode 64@30000]:class:attention_decode",
          0.5, 2e-2),
    # vLLM asks for 0.92 of what the part has.
    becomes(F + "memory_total", "plain", F + "memory_total=100e9", "cost:memory.requested_bytes", 92e9, 1e-6),
    down(F + "matrix_rate_bf16", "roofline", F + "matrix_rate_bf16=2e15", PREFILL + "class:gemm"),
    down(F + "matrix_rate_fp16", "half", F + "matrix_rate_fp16=2e15", PREFILL + "class:gemm"),
    down(F + "matrix_rate_fp8", "eight", F + "matrix_rate_fp8=4e15", PREFILL + "class:gemm"),
    Refused(F + "matrix_rate_fp32", "roofline", F + "matrix_rate_fp32=1e15", "no such figure"),
    Named(F + "matrix_rate_int8", "no weight format of today's models multiplies in int8"),
    Refused(F + "matrix_rate_int4", "roofline", F + "matrix_rate_int4=1e15", "no such figure"),
    Refused(F + "matrix_rate_mxfp4", "roofline", F + "matrix_rate_mxfp4=1e15", "no such figure"),
    down(F + "vector_rate", "router32", F + "vector_rate=1e15", PREFILL + "device_us"),
    moves(F + "compute_units", "roofline", F + "compute_units=80", PREFILL + "class:gemm"),
    up(F + "kernel_floor", "roofline", F + "kernel_floor=20e-6", DECODE + "device_us"),
    up(F + "last_level_cache", "roofline", F + "last_level_cache=1e3", DECODE + "device_us"),
    down(F + "link_bandwidth", "moe", F + "link_bandwidth=4.5e12", PREFILL + "class:collective"),
    down(F + "link_pair_bandwidth", "direct", F + "link_pair_bandwidth=640e9", PREFILL + "class:collective"),
    down(F + "link_efficiency", "moe", F + "link_efficiency=1", PREFILL + "class:collective"),
    up(F + "collective_latency", "moe", F + "collective_latency=100e-6", DECODE + "class:collective"),
    down(F + "pcie_bandwidth", "sessions", F + "pcie_bandwidth=1e12", "ttft_ms.mean",
         without="deployment.engine_args={num_gpu_blocks_override: 400, max_model_len: 6000, kv_offloading_size: 8}"),
    becomes(F + "price", "plain", F + "price=3.5", "cost.usd_per_gpu_hour", 3.5),
    Refused(F + "l2", "plain", F + "l2=1e6", "last_level_cache"),
    Refused(F + "clock_peak", "plain", F + "clock_peak=1e9", "no price reads"),
    Refused(F + "nic_bandwidth", "plain", F + "nic_bandwidth=1e9", "topology"),
    Refused(F + "power", "plain", F + "power=1", "no price reads"),
    Refused(F + "efficiency_gemm_bf16", "plain", F + "efficiency_gemm_bf16=1", "op_scale"),
]
# An efficiency of the roofline: what it bounds, and what else has the class.
for name, base, metric in (("gemm_bf16", "roofline", PREFILL + "class:gemm"),
                           ("gemm_fp16", "half-amd", PREFILL + "class:gemm"),
                           ("gemm_fp8", "eight", PREFILL + "class:gemm"),
                           ("gemm_fp8_block", "blocks", PREFILL + "class:gemm"),
                           ("grouped_gemm_bf16", "moe", PREFILL + "class:grouped_gemm"),
                           ("grouped_gemm_fp8", "moe8", PREFILL + "class:grouped_gemm"),
                           ("attention_prefill", "roofline", PREFILL + "class:attention_prefill"),
                           ("attention_decode", "roofline", DECODE + "class:attention_decode"),
                           ("memory", "roofline", DECODE + "device_us")):
    EFFECTS = [e for e in EFFECTS if e.key != F + "efficiency_" + name]
    EFFECTS.append(down(F + "efficiency_" + name, base, F + f"efficiency_{name}=1", metric))



def host_plus(name, base, low, high, metric, amount):
    """From one value to another, so that the profile's own does not matter."""
    return plus(F + "host." + name, base, f"{F}host.{name}={high}", metric, amount, 1e-6, without=f"{F}host.{name}={low}")


# Microseconds of host time of a step with 64 decodes; milliseconds that one request's first token takes more.
EFFECTS += [
    host_plus("schedule_base", "plain", 0.001, 0.005, DECODE + "host_us", 4000),
    host_plus("schedule_per_sequence", "plain", 0, 0.0001, DECODE + "host_us", 64 * 100),
    host_plus("schedule_per_new_request", "one", 0, 0.01, "ttft_ms.mean", 10),
    host_plus("prepare_base", "plain", 0.001, 0.005, DECODE + "host_us", 4000),
    host_plus("prepare_per_sequence", "plain", 0, 0.0001, DECODE + "host_us", 64 * 100),
    host_plus("launch_graph", "plain", 0.01, 0.02, DECODE + "host_us", 10000),
    host_plus("copy", "one", 0.001, 0.011, "ttft_ms.mean", 10),
    host_plus("update_base", "plain", 0.001, 0.005, DECODE + "host_us", 4000),
    host_plus("update_per_sequence", "plain", 0, 0.0001, DECODE + "host_us", 64 * 100),
    host_plus("input_delay", "one", 0.01, 0.05, "ttft_ms.mean", 40),
    host_plus("core_wake", "one", 0.01, 0.05, "ttft_ms.mean", 40),
    host_plus("output_delay", "one", 0.01, 0.05, "ttft_ms.mean", 40),
    host_plus("prepare_rpc", "moe", 0.001, 0.005, DECODE + "host_us", 4000),
    host("prepare_per_sequence_v1", "oldest", F + "host.prepare_per_sequence_v1=0.0001", DECODE + "host_us"),
    host("launch_piece", "plain", F + "host.launch_piece=0.001", "cost[prefill 100@0 + decode 8@100]:host_us"),
    host("launch_kernel", "plain", F + "host.launch_kernel=0.001", PREFILL + "host_us"),
    host("launch_experts", "tables", F + "host.launch_experts=0.001", PREFILL + "host_us"),
    host("launch_collective", "moe", F + "host.launch_collective=0.001", PREFILL + "host_us"),
    host("stream_gap", "plain", F + "host.stream_gap=0.001", PREFILL + "device_us"),
    host("step_gap", "plain", F + "host.step_gap=0.001", "tpot_ms.mean"),
    host("loop_gap", "plain", F + "host.loop_gap=0.02", "tpot_ms.mean"),
    host("input_per_request", "burst", F + "host.input_per_request=0.1", "ttft_ms.mean"),
    host("input_per_token", "burst", F + "host.input_per_token=0.0001", "ttft_ms.mean"),
    host("output_per_sequence", "burst", F + "host.output_per_sequence=0.01", "ttft_ms.mean"),
    # What only some paths have: n-grams, groups of KV layers (two), layers with a state.
    host("ngram_token", "ngram", F + "host.ngram_token=0.00001", "tpot_ms.mean"),
    host_plus("ngram_propose", "ngram", 0.001, 0.003, DECODE + "step_us", 2000),
    host_plus("ngram_propose_per_sequence", "ngram", 0, 0.0001, DECODE + "step_us", 64 * 100),
    host_plus("prepare_per_group", "oss", 0.001, 0.005, DECODE + "host_us", 4000),
    host_plus("schedule_per_group", "oss", 0, 0.0001, DECODE + "host_us", 64 * 100),
    # Three kernels in each of 30 layers.
    host_plus("launch_triton", "state", 0, 0.001, PREFILL + "host_us", 30 * 3 * 1000),
    moves(F + "host.first_kernel", "one", F + "host.first_kernel=0", "ttft_ms.mean"),
]
for name in ("request", "tokenize", "message", "detokenize", "event"):
    EFFECTS.append(up(F + "front_end." + name, "served", F + f"front_end.{name}=0.002", "e2e_ms.mean"))
