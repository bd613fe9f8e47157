"""Arguments of vLLM 0.24: `deployment.engine_args`."""
from .effects import Named, Refused, becomes, down, moves, times, up

ARGS = "deployment.engine_args="
TINY = "deployment.engine_args={num_gpu_blocks_override: 400, max_model_len: 6000}"
DECODE = "cost[decode 64@1024]:"


def args(name, map_text):
    return f"{ARGS}{{{name}: {map_text}}}"


EFFECTS = [
    up("vllm.max_num_batched_tokens", "burst", args("max_num_batched_tokens", 512) +
       "; deployment.engine_args.max_num_seqs=256", "steps"),
    up("vllm.max_num_seqs", "burst", args("max_num_seqs", 4), "queue_ms.mean"),
    up("vllm.max_model_len", "plain", args("max_model_len", 400), "requests.rejected"),
    becomes("vllm.block_size", "plain", args("block_size", 64), "kv_cache.block_size", 64),
    becomes("vllm.num_gpu_blocks_override", "plain", TINY, "kv_cache.blocks", 400),
    # 36 layers x 2 x 8 heads x 128 values x 2 bytes a token, blocks of 16 tokens.
    becomes("vllm.kv_cache_memory_bytes", "plain", "deployment.engine_args.kv_cache_memory_bytes=2359296000",
            "kv_cache.blocks", 2359296000 // (36 * 2 * 8 * 128 * 2 * 16), without=args("max_model_len", 6000)),
    times("vllm.gpu_memory_utilization", "plain", args("gpu_memory_utilization", 0.46),
          "cost:memory.requested_bytes", 0.5, 1e-6),
    becomes("vllm.enable_prefix_caching", "sessions", args("enable_prefix_caching", "false"),
            "prefix_cache_hit_rate", 0),
    moves("vllm.enable_chunked_prefill", "burst", "deployment.engine_args.enable_chunked_prefill=false", "ttft_ms.mean",
          without=ARGS + "{max_model_len: 8192, max_num_batched_tokens: 8192}"),
    up("vllm.async_scheduling", "plain", args("async_scheduling", "false"), "tpot_ms.mean"),
    up("vllm.enforce_eager", "plain", args("enforce_eager", "true"), DECODE + "device_us"),
    moves("vllm.scheduler_reserve_full_isl", "burst", "deployment.engine_args.scheduler_reserve_full_isl=false",
          "ttft_ms.mean", without=ARGS + "{num_gpu_blocks_override: 250, max_model_len: 3000, "
          "max_num_batched_tokens: 512, max_num_seqs: 256}"),
    up("vllm.long_prefill_token_threshold", "burst", args("long_prefill_token_threshold", 64), "steps"),
    moves("vllm.watermark", "burst", "deployment.engine_args.watermark=0.5", "queue_ms.mean",
          without=ARGS + "{num_gpu_blocks_override: 400, max_model_len: 3000}"),
    # Five decodes are padded to the next captured size.
    becomes("vllm.cudagraph_capture_sizes", "plain", args("cudagraph_capture_sizes", "[1, 48]"),
            "cost[decode 5@1024]:padded_tokens", 48),
    up("vllm.max_cudagraph_capture_size", "plain", args("max_cudagraph_capture_size", 16), DECODE + "host_us"),
    up("vllm.compilation_config", "plain", args("compilation_config", "{cudagraph_mode: NONE}"), DECODE + "host_us"),
    moves("vllm.dtype", "plain", args("dtype", "float16"), DECODE + "device_us"),
    down("vllm.performance_mode", "burst", args("performance_mode", "throughput"), "steps"),
    Named("vllm.enable_expert_parallel", "true is refused with a pointer to parallel.ep, false says the default"),
    # Rows go to the ranks that hold their experts, not to all of them.
    down("vllm.all2all_backend", "ranks", "deployment.engine_args.all2all_backend=deepep_low_latency", DECODE + "class:collective",
         without=ARGS + "{max_model_len: 32768}"),
    # Inside a node weights are read twice and next to nothing is hidden; 64 tokens a rank are not above 65.
    up("vllm.enable_dbo", "low-latency", "deployment.engine_args.enable_dbo=true", DECODE + "device_us"),
    down("vllm.dbo_decode_token_threshold", "low-latency", "deployment.engine_args.dbo_decode_token_threshold=65",
         DECODE + "device_us", without="deployment.engine_args.enable_dbo=true; "
         "deployment.engine_args.dbo_decode_token_threshold=64"),
    up("vllm.prefill_schedule_interval", "ranks", "deployment.engine_args.prefill_schedule_interval=16", "ttft_ms.mean",
       without=ARGS + "{max_model_len: 32768}"),
    down("vllm.dbo_prefill_token_threshold", "ranks", "deployment.engine_args.dbo_prefill_token_threshold=4097",
         "cost[prefill 4096@0]:device_us", without=ARGS + "{all2all_backend: deepep_high_throughput, enable_dbo: true, "
         "dbo_prefill_token_threshold: 4096}"),
    # A latent is kept in halves, of blocks that graphs' sums for twice the heads leave.
    up("vllm.decode_context_parallel_size", "grouped", args("decode_context_parallel_size", 2), "cost:memory.kv_tokens"),
    # The first rank is ahead by 28 tokens of 128, not by half of one.
    up("vllm.cp_kv_cache_interleave_size", "grouped", "deployment.engine_args.cp_kv_cache_interleave_size=64",
       DECODE + "op:attention_decode", without=ARGS + "{decode_context_parallel_size: 8, block_size: 64}"),
    up("vllm.dcp_kv_cache_interleave_size", "grouped", "deployment.engine_args.dcp_kv_cache_interleave_size=64",
       DECODE + "op:attention_decode", without=ARGS + "{decode_context_parallel_size: 8, block_size: 64}"),
    # One all-to-all in the place of an all-gather and a reduce-scatter.
    down("vllm.dcp_comm_backend", "grouped", "deployment.engine_args.dcp_comm_backend=a2a", DECODE + "class:collective",
         without=args("decode_context_parallel_size", 8)),
    # docs/overlap.md. The step has 64 tokens, of which 63 are allowed.
    up("vllm.VLLM_DISABLE_SHARED_EXPERTS_STREAM", "grouped", args("VLLM_DISABLE_SHARED_EXPERTS_STREAM", 1),
       DECODE + "device_us"),
    up("vllm.VLLM_SHARED_EXPERTS_STREAM_TOKEN_THRESHOLD", "grouped",
       args("VLLM_SHARED_EXPERTS_STREAM_TOKEN_THRESHOLD", 63), DECODE + "device_us"),
    Named("vllm.disable_nccl_for_dp_synchronization", "false is refused with dp; true is the default"),

    # 60 tokens of text, two images of 341 or fewer: the second one ends beyond 700.
    moves("vllm.disable_chunked_mm_input", "vision", "deployment.engine_args.disable_chunked_mm_input=true", "ttft_ms.mean",
          without=ARGS + "{max_num_batched_tokens: 700, limit_mm_per_prompt: {video: 0}, max_num_seqs: 64, "
          "mm_processor_kwargs: {max_pixels: 350000}}"),
    moves("vllm.mm_encoder_tp_mode", "vision", "deployment.engine_args.mm_encoder_tp_mode=data", "ttft_ms.mean",
          without="deployment.parallel={tp: 2}"),
    up("vllm.skip_mm_profiling", "vision", args("skip_mm_profiling", "true"), "cost:memory.kv_tokens"),
    down("vllm.limit_mm_per_prompt", "qwen2-vision", args("limit_mm_per_prompt", "{video: 0}"),
         "images.encoder_cache_embeddings"),
    down("vllm.mm_processor_kwargs", "vision", args("mm_processor_kwargs", "{max_pixels: 100000}"), "images.tokens"),
    down("vllm.mm_processor_cache_gb", "vision", args("mm_processor_cache_gb", 0), "images.prepared_before"),
    # Two images a request, 20 ms apart: 80 ms of preparation. vLLM wants its cache off for that.
    down("vllm.renderer_num_workers", "vision", "deployment.engine_args.renderer_num_workers=8", "ttft_ms.mean",
         without=args("mm_processor_cache_gb", 0)),
    up("vllm.language_model_only", "vision-text", args("language_model_only", "true"), "cost:memory.kv_tokens"),
    up("vllm.kv_offloading_size", "sessions", "deployment.engine_args.kv_offloading_size=8",
       "kv_offload.stored_blocks", without=TINY),
    up("vllm.kv_transfer_config", "sessions", "deployment.engine_args.kv_transfer_config={kv_connector: "
       "OffloadingConnector, kv_role: kv_both, kv_connector_extra_config: {cpu_bytes_to_use: 8589934592}}",
       "kv_offload.stored_blocks", without=TINY),
    down("vllm.disable_hybrid_kv_cache_manager", "oss", args("disable_hybrid_kv_cache_manager", "true"),
         "cost:memory.kv_tokens"),
    moves("vllm.scheduling_policy", "ranked", "deployment.engine_args.scheduling_policy=priority", "ttft_ms.p99",
          without=ARGS + "{max_num_seqs: 4}"),
    down("vllm.api_server_count", "served", args("api_server_count", 4), "ttft_ms.mean"),
    up("vllm.stream_interval", "plain", args("stream_interval", 10), "itl_ms.mean"),

    # A state, (32 x 128 x 128 values of two bytes instead of four) + (8192 x 3 of two), fits into a page of layers that
    # attend, 2 x 2 heads x 256 values of two bytes a token: 1,048 tokens and then 536, in multiples of 16.
    becomes("vllm.mamba_ssm_cache_dtype", "state", args("mamba_ssm_cache_dtype", "bfloat16"), "kv_cache.block_size", 544),
    # Five kernels more in each of 30 layers, and five more of Triton's.
    up("vllm.gdn_prefill_backend", "state", args("gdn_prefill_backend", "triton"), "cost[prefill 2048@0]:host_us"),
    Refused("vllm.mamba_cache_dtype", "state", args("mamba_cache_dtype", "float32"), "not modelled for models with a state"),
    up("vllm.gdn_prefill_backend", "state", args("gdn_prefill_backend", "triton"), "cost[prefill 8192@0]:busy_us"),
    # Prefix caching with a state for every block: 2,095 tokens of Mamba2 in whole chunks of 1,000, or in blocks of 16.
    becomes("vllm.mamba_block_size", "mamba", "deployment.engine_args={enable_prefix_caching: true, mamba_block_size: 1000}",
            "kv_cache.block_size", 4000, without="deployment.engine_args={enable_prefix_caching: true}"),
    becomes("vllm.mamba_cache_mode", "mamba", "deployment.engine_args={enable_prefix_caching: true, mamba_cache_mode: align}",
            "kv_cache.block_size", 2096, without="deployment.engine_args={enable_prefix_caching: true}"),
]
