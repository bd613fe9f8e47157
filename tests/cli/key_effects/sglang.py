"""Arguments of SGLang 0.5.23: `deployment.engine_args`."""
from .effects import Refused, becomes, down, moves, plus, times, up

ARGS = "deployment.engine_args="
ONE = "deployment.engine_args."
DECODE = "cost[decode 64@1024]:"
# Weights in 8 bits, with a scale of four bytes for 128 x 128.
SCALED = 1 + 4 / 128 ** 2
DELAYED = ARGS + "{enable_prefill_delayer: true, prefill_delayer_queue_min_ratio: 0.5}"
TAILS = (ARGS + "{max_total_tokens: 9000, context_length: 6000, radix_eviction_policy: tlru, radix_eviction_policy_config: "
         "{threshold: 100, next_prompt_estimate: 50}}")
TIERED = ARGS + "{enable_hierarchical_cache: true, max_total_tokens: 8192, context_length: 6000}"


def args(name, value):
    return f"{ARGS}{{{name}: {value}}}"


EFFECTS = [
    up("sglang.context_length", "sgl", args("context_length", 400), "requests.rejected"),
    becomes("sglang.page_size", "sgl", args("page_size", 64), "kv_cache.block_size", 64),
    up("sglang.max_running_requests", "sgl-burst", args("max_running_requests", 4), "queue_ms.mean"),
    becomes("sglang.max_total_tokens", "sgl", args("max_total_tokens", 32768), "kv_cache.tokens", 32768),
    down("sglang.mem_fraction_static", "sgl", args("mem_fraction_static", 0.5), "kv_cache.tokens"),
    up("sglang.chunked_prefill_size", "sgl-burst", args("chunked_prefill_size", 256), "steps"),
    up("sglang.max_prefill_tokens", "sgl-burst", ONE + "max_prefill_tokens=1024", "steps",
       without=args("chunked_prefill_size", -1)),
    up("sglang.prefill_max_requests", "sgl-burst", args("prefill_max_requests", 1), "steps"),
    moves("sglang.load_balance_method", "sgl-ranks", args("load_balance_method", "total_tokens"), "ttft_ms.mean"),
    moves("sglang.load_snapshot_publish_interval", "sgl-ranks", ONE + "load_snapshot_publish_interval=1",
          "ttft_ms.mean", without=ARGS + "{load_balance_method: total_tokens, load_snapshot_publish_interval: 500}"),
    down("sglang.enable_prefill_cp", "sgl", ONE + "enable_prefill_cp=true", "cost[prefill 8192@0]:device_us",
         without="deployment.parallel={cp: 4}; " + args("cp_strategy", "zigzag")),
    Refused("sglang.cp_strategy", "sgl", "deployment.parallel={cp: 4}; " + args("cp_strategy", "interleave"), "zigzag"),
    # 48 layers of 128 experts, three products of 2,048 x 768 each in 16 bits: whole, not a quarter.
    plus("sglang.moe_dp_size", "sgl", ONE + "moe_dp_size=4", "cost:memory.weights_bytes",
         48 * 128 * 3 * 2048 * 768 * 2 * 3 // 4,
         without="deployment.model=qwen3-30b-a3b; deployment.parallel={cp: 4}; deployment.engine_args={enable_prefill_cp: "
         "true, cp_strategy: zigzag}"),
    up("sglang.stream_interval", "sgl", args("stream_interval", 10), "itl_ms.mean"),
    moves("sglang.prefill_decode_interval", "sgl", args("prefill_decode_interval", 8), "ttft_ms.mean"),
    moves("sglang.prefill_decode_interval_min_bs", "sgl", ONE + "prefill_decode_interval_min_bs=1000", "ttft_ms.mean",
          without=args("prefill_decode_interval", 8)),
    down("sglang.schedule_policy", "sgl-burst", ONE + "schedule_policy=shortest-prefill-first", "ttft_ms.p50",
         without=args("max_running_requests", 8)),
    # Newcomers wait for four places instead of one; or for a queue of half the batch.
    up("sglang.min_free_slots_delay", "sgl", ONE + "min_free_slots_delay=4", "ttft_ms.mean",
       without=args("max_running_requests", 6)),
    up("sglang.enable_prefill_delayer", "sgl", ONE + "enable_prefill_delayer=true", "ttft_ms.mean",
       without=args("prefill_delayer_queue_min_ratio", 0.5)),
    down("sglang.prefill_delayer_max_delay_passes", "sgl", ONE + "prefill_delayer_max_delay_passes=2", "ttft_ms.mean",
         without=DELAYED),
    down("sglang.prefill_delayer_token_usage_low_watermark", "sgl",
         ONE + "prefill_delayer_token_usage_low_watermark=1", "ttft_ms.mean", without=DELAYED),
    up("sglang.prefill_delayer_queue_min_ratio", "sgl", ONE + "prefill_delayer_queue_min_ratio=0.5", "ttft_ms.mean",
       without=args("enable_prefill_delayer", "true")),
    down("sglang.prefill_delayer_max_delay_ms", "sgl", ONE + "prefill_delayer_max_delay_ms=1", "ttft_ms.mean",
         without=DELAYED),
    moves("sglang.enable_priority_scheduling", "sgl-ranked", ONE + "enable_priority_scheduling=true", "ttft_ms.p99",
          without=args("max_running_requests", 4)),
    moves("sglang.disable_priority_preemption", "sgl-ranked", ONE + "disable_priority_preemption=true", "ttft_ms.mean",
          without=ARGS + "{max_running_requests: 4, enable_priority_scheduling: true}"),
    moves("sglang.schedule_low_priority_values_first", "sgl-ranked", ONE + "schedule_low_priority_values_first=true",
          "ttft_ms.mean", without=ARGS + "{max_running_requests: 4, enable_priority_scheduling: true}"),
    moves("sglang.priority_scheduling_preemption_threshold", "sgl-ranked",
          ONE + "priority_scheduling_preemption_threshold=1000", "ttft_ms.mean",
          without=ARGS + "{max_running_requests: 4, enable_priority_scheduling: true}"),
    # Half of the requests say none, and are served last; or first.
    moves("sglang.default_priority_value", "sgl-ranked", ONE + "default_priority_value=100", "ttft_ms.p50",
          without="workload={trace: $DATA/half_ranked.jsonl}; " + ARGS +
          "{max_running_requests: 4, enable_priority_scheduling: true}"),
    moves("sglang.retraction_policy", "sgl-eos", ONE + "retraction_policy=priority", "e2e_ms.mean",
          without=ARGS + "{max_total_tokens: 6000, context_length: 4000, enable_priority_scheduling: true, "
          "schedule_conservativeness: 0.01}"),
    up("sglang.max_queued_requests", "sgl-burst", ONE + "max_queued_requests=2", "requests.rejected",
       without=args("max_running_requests", 4)),
    up("sglang.schedule_conservativeness", "sgl-eos", ONE + "schedule_conservativeness=3", "queue_ms.mean",
       without=ARGS + "{max_total_tokens: 6000, context_length: 4000}"),
    moves("sglang.enable_mixed_chunk", "sgl", args("enable_mixed_chunk", "true"), "itl_ms.p99"),
    up("sglang.disable_overlap_schedule", "sgl", args("disable_overlap_schedule", "true"), "tpot_ms.mean"),
    becomes("sglang.disable_radix_cache", "sgl-sessions", args("disable_radix_cache", "true"),
            "prefix_cache_hit_rate", 0),
    moves("sglang.radix_eviction_policy", "sgl-sessions", ONE + "radix_eviction_policy=lfu", "prefix_cache_hit_rate",
          without=ARGS + "{max_total_tokens: 9000, context_length: 6000}"),
    # Segments of nodes that were inserted so often. Of conversations of thousands of tokens all but the last 100 may go, or no tail
    # at all.
    moves("sglang.radix_eviction_policy_config.protected_threshold", "sgl-sessions",
          ONE + "radix_eviction_policy_config={protected_threshold: 3}", "prefix_cache_hit_rate",
          without=ARGS + "{max_total_tokens: 9000, context_length: 6000, radix_eviction_policy: slru}"),
    moves("sglang.radix_eviction_policy_config.threshold", "sgl-sessions",
          ONE + "radix_eviction_policy_config.threshold=4000", "prefix_cache_hit_rate", without=TAILS),
    moves("sglang.radix_eviction_policy_config.next_prompt_estimate", "sgl-sessions",
          ONE + "radix_eviction_policy_config.next_prompt_estimate=3900", "prefix_cache_hit_rate",
          without=TAILS.replace("threshold: 100", "threshold: 4000")),
    moves("sglang.swa_full_tokens_ratio", "sgl-oss", args("swa_full_tokens_ratio", 0.2), "kv_cache.tokens"),
    moves("sglang.disable_hybrid_swa_memory", "sgl-oss", args("disable_hybrid_swa_memory", "true"), "kv_cache.tokens"),
    # Layers with a state. Half a state leaves more of the memory to tokens; a pool of few, and little of the memory, too.
    up("sglang.mamba_ssm_dtype", "sgl-state", ONE + "mamba_ssm_dtype=bfloat16", "cost:memory.kv_tokens",
       without=args("max_mamba_cache_size", 200)),
    up("sglang.max_mamba_cache_size", "sgl-state", args("max_mamba_cache_size", 20), "cost:memory.kv_tokens"),
    up("sglang.mamba_full_memory_ratio", "sgl-state", args("mamba_full_memory_ratio", 0.2), "cost:memory.kv_tokens"),
    # States of multiples of 64 tokens and of 256 decodes, instead of those of ends; and of decodes that nobody reaches.
    moves("sglang.mamba_radix_cache_strategy", "sgl-state-sessions", ONE + "mamba_radix_cache_strategy=extra_buffer",
          "prefix_cache_hit_rate", without=args("disable_overlap_schedule", "true")),
    down("sglang.mamba_track_interval", "sgl-state-sessions", args("mamba_track_interval", 100000), "prefix_cache_hit_rate"),
    # Shares of a sequence's keys: 16 leave most of the part's 64 units idle.
    down("sglang.triton_attention_num_kv_splits", "sgl-r9700", args("triton_attention_num_kv_splits", 64),
         "cost[decode 1@20000]:device_us"),
    # Prompts are launched kernel by kernel where images may come.
    up("sglang.enable_multimodal", "sgl-gemma", args("enable_multimodal", "true"), "ttft_ms.p50"),
    up("sglang.enable_hierarchical_cache", "sgl-sessions", ONE + "enable_hierarchical_cache=true",
       "kv_offload.stored_blocks", without=ARGS + "{max_total_tokens: 8192, context_length: 6000}"),
    times("sglang.hicache_ratio", "sgl-sessions", ONE + "hicache_ratio=4", "kv_offload.capacity_blocks", 2,
          1e-3, without=TIERED),
    # 10^9 bytes over 36 layers x 2 x 8 heads x 128 values x 2 bytes a token, pages of one token.
    becomes("sglang.hicache_size", "sgl-sessions", ONE + "hicache_size=1", "kv_offload.capacity_blocks",
            1e9 // (36 * 2 * 8 * 128 * 2), 1e-3, without=TIERED),
    down("sglang.hicache_write_policy", "sgl-sessions", ONE + "hicache_write_policy=write_through_selective",
         "kv_offload.stored_blocks", without=TIERED),
    up("sglang.pp_max_micro_batch_size", "sgl-stages", args("pp_max_micro_batch_size", 4), "queue_ms.mean"),
    moves("sglang.pp_async_batch_depth", "sgl-stages", args("pp_async_batch_depth", 1), "tpot_ms.mean",
          without=args("max_running_requests", 16)),
    up("sglang.disable_cuda_graph", "sgl", args("disable_cuda_graph", "true"), "tpot_ms.mean"),
    up("sglang.disable_decode_cuda_graph", "sgl", args("disable_decode_cuda_graph", "true"), "tpot_ms.mean"),
    moves("sglang.disable_prefill_cuda_graph", "sgl", args("disable_prefill_cuda_graph", "true"), "ttft_ms.mean"),
    up("sglang.cuda_graph_max_bs_decode", "sgl", args("cuda_graph_max_bs_decode", 2), "tpot_ms.mean"),
    moves("sglang.cuda_graph_max_bs_prefill", "sgl", args("cuda_graph_max_bs_prefill", 64), "ttft_ms.mean"),

    # Seven eighths more of the shared expert in 58 layers: whole on every GPU.
    plus("sglang.moe_a2a_backend", "sgl-a2a", ONE + "moe_a2a_backend=deepep", "cost:memory.weights_bytes",
         58 * 3 * 7168 * 2048 * SCALED * 7 / 8, without=ARGS + "{moe_a2a_backend: none}"),
    # Normal kernels run without graphs.
    up("sglang.deepep_mode", "sgl-a2a", ONE + "deepep_mode=normal", DECODE + "host_us"),
    # docs/overlap.md. On by default for models with experts, off for dense ones.
    up("sglang.enforce_disable_flashinfer_allreduce_fusion", "sgl-moe",
       ONE + "enforce_disable_flashinfer_allreduce_fusion=true", DECODE + "device_us"),
    down("sglang.flashinfer_allreduce_fusion_backend", "sgl", ONE + "flashinfer_allreduce_fusion_backend=auto",
         DECODE + "device_us", without="deployment.parallel={tp: 2}; " + ARGS + "{context_length: 4096}"),
    down("sglang.enable_flashinfer_allreduce_fusion", "sgl", ONE + "enable_flashinfer_allreduce_fusion=true",
         DECODE + "device_us", without="deployment.parallel={tp: 2}; " + ARGS + "{context_length: 4096}"),
    down("sglang.enable_aiter_allreduce_fusion", "sgl-amd", ONE + "enable_aiter_allreduce_fusion=true",
         DECODE + "device_us", without=ARGS + "{context_length: 4096}"),
    # Inside a node weights are read twice and next to nothing is hidden.
    up("sglang.enable_two_batch_overlap", "sgl-a2a", ONE + "enable_two_batch_overlap=true", DECODE + "device_us"),
    # The same of three dense layers, and of the head in 16 bits.
    plus("sglang.moe_dense_tp_size", "sgl-a2a", ONE + "moe_dense_tp_size=1", "cost:memory.weights_bytes",
         3 * 3 * 7168 * 18432 * SCALED * 7 / 8),
    plus("sglang.enable_dp_lm_head", "sgl-a2a", ONE + "enable_dp_lm_head=true", "cost:memory.weights_bytes",
         129280 * 7168 * 2 * 7 / 8),
    up("sglang.num_reserved_decode_tokens", "sgl-apart",
       "deployment.pools[1].engine_args.num_reserved_decode_tokens=4000", "transfers.ttft_parts_ms.prefill_queue.mean",
       without="deployment.pools[1].engine_args={max_total_tokens: 20000, context_length: 9000}"),
    # Rows for those who receive, beside four who decode; and transfers that are looked at in one of fifty passes.
    down("sglang.disaggregation_decode_extra_slots", "sgl-apart",
         "deployment.pools[1].engine_args.disaggregation_decode_extra_slots=16",
         "transfers.ttft_parts_ms.prefill_queue.mean",
         without="deployment.pools[1].engine_args={max_running_requests: 4, disaggregation_decode_extra_slots: 0}"),
    up("sglang.disaggregation_decode_polling_interval", "sgl-apart",
       "deployment.pools[1].engine_args={disaggregation_decode_polling_interval: 50}", "ttft_ms.mean"),
    # What the decode side has of a prompt is not sent again.
    down("sglang.disaggregation_decode_enable_radix_cache", "sgl-apart",
         "deployment.pools[1].engine_args.disaggregation_decode_enable_radix_cache=true", "transfers.bytes",
         without="workload={trace: $DATA/shared.jsonl}"),
]
