"""Arguments of TensorRT-LLM 1.2: `deployment.engine_args`."""
from .effects import becomes, down, moves, up

ARGS = "deployment.engine_args="
ONE = "deployment.engine_args."
KV = "deployment.engine_args.kv_cache_config."
NAME = "tensorrt-llm."
TINY = ARGS + "{max_seq_len: 3000, kv_cache_config: {max_tokens: 6400}}"
DECODE = "cost[decode 5@1024]:"


def args(name, value):
    return f"{ARGS}{{{name}: {value}}}"


EFFECTS = [
    up(NAME + "max_batch_size", "trt-burst", args("max_batch_size", 4), "queue_ms.mean"),
    up(NAME + "max_num_tokens", "trt-burst", args("max_num_tokens", 3000), "steps",
       without=args("max_seq_len", 3000)),
    up(NAME + "max_seq_len", "trt", args("max_seq_len", 400), "requests.rejected"),
    moves(NAME + "enable_chunked_prefill", "trt-burst", ONE + "enable_chunked_prefill=true", "ttft_ms.mean",
          without=ARGS + "{max_num_tokens: 3000, max_seq_len: 3000}"),
    # docs/overlap.md
    up(NAME + "env_overrides.TRTLLM_ENABLE_PDL", "trt", args("env_overrides", "{TRTLLM_ENABLE_PDL: 0}"), DECODE + "device_us"),
    *(up(NAME + f"env_overrides.TRTLLM_{model}_EAGER_FUSION_DISABLED", "trt",
         args("env_overrides", f"{{TRTLLM_{model}_EAGER_FUSION_DISABLED: 1}}"), DECODE + "device_us",
         without=f"deployment.parallel={{tp: 2}};deployment.model={of}")
      for model, of in (("DEEPSEEK", "deepseek-v2-lite"), ("QWEN3", "qwen3-30b-a3b"), ("LLAMA", "llama-3.1-8b"))),
    up(NAME + "disable_overlap_scheduler", "trt", args("disable_overlap_scheduler", "true"), "tpot_ms.mean"),
    becomes(NAME + "kv_cache_config.enable_block_reuse", "trt-sessions", KV + "enable_block_reuse=false",
            "prefix_cache_hit_rate", 0),
    becomes(NAME + "kv_cache_config.max_tokens", "trt", KV + "max_tokens=65536", "kv_cache.tokens", 65536),
    down(NAME + "kv_cache_config.free_gpu_memory_fraction", "trt", KV + "free_gpu_memory_fraction=0.5",
         "kv_cache.tokens"),
    down(NAME + "kv_cache_config.enable_partial_reuse", "trt-shared", KV + "enable_partial_reuse=false",
         "prefix_cache_hit_rate"),
    moves(NAME + "kv_cache_config.copy_on_partial_reuse", "trt-shared", KV + "copy_on_partial_reuse=false",
          "prefix_cache_hit_rate"),
    # 36 layers x 2 x 8 heads x 128 values x 2 bytes a token, blocks of 32 tokens.
    becomes(NAME + "kv_cache_config.max_gpu_total_bytes", "trt", KV + "max_gpu_total_bytes=4718592000",
            "kv_cache.blocks", 4718592000 // (36 * 2 * 8 * 128 * 2 * 32), without=args("max_seq_len", 6000)),
    up(NAME + "kv_cache_config.host_cache_size", "trt-sessions", KV + "host_cache_size=4000000000",
       "kv_offload.stored_blocks", without=TINY),
    moves(NAME + "kv_cache_config.onboard_blocks", "trt-sessions", KV + "onboard_blocks=false", "ttft_ms.mean",
          without=TINY + "; " + KV + "host_cache_size=4000000000"),
    # With windows of several sizes max_tokens says nothing: the pools are as large as memory allows.
    up(NAME + "kv_cache_config.max_attention_window", "trt-oss", KV + "max_attention_window=[128, 8192]",
       "kv_cache.tokens",
       without=ARGS + "{max_seq_len: 8192, kv_cache_config: {enable_block_reuse: false, max_tokens: 9000}}"),
    becomes(NAME + "attn_backend", "trt-gemma", args("attn_backend", "FLASHINFER"), "prefix_cache_hit_rate", 0),
    down(NAME + "kv_cache_config.mamba_ssm_cache_dtype", "trt-state", KV + "mamba_ssm_cache_dtype=float32", "kv_cache.tokens",
         without=ARGS + "{max_seq_len: 8192, max_batch_size: 64, kv_cache_config: {enable_block_reuse: false}}"),
    down(NAME + "num_postprocess_workers", "trt-served", args("num_postprocess_workers", 8), "ttft_ms.mean"),
    up(NAME + "stream_interval", "trt", args("stream_interval", 10), "itl_ms.mean"),
    becomes(NAME + "kv_cache_config.tokens_per_block", "trt", KV + "tokens_per_block=64", "kv_cache.block_size", 64),
    moves(NAME + "scheduler_config.capacity_scheduler_policy", "trt-burst",
          ONE + "scheduler_config={capacity_scheduler_policy: MAX_UTILIZATION}", "queue_ms.mean", without=TINY),
    moves(NAME + "scheduler_config.context_chunking_policy", "trt-burst",
          ONE + "scheduler_config={context_chunking_policy: EQUAL_PROGRESS}", "ttft_ms.mean",
          without=ARGS + "{enable_chunked_prefill: true, max_num_tokens: 3000, max_seq_len: 3000}"),
    moves(NAME + "attention_dp_config.enable_balance", "trt-ranks", args("attention_dp_config", "{enable_balance: true}"),
          "ttft_ms.mean"),
    moves(NAME + "attention_dp_config.timeout_iters", "trt-ranks", ONE + "attention_dp_config.timeout_iters=2", "ttft_ms.mean",
          without=args("attention_dp_config", "{enable_balance: true}")),
    moves(NAME + "attention_dp_config.batching_wait_iters", "trt-ranks", ONE + "attention_dp_config.batching_wait_iters=40",
          "ttft_ms.mean", without=args("attention_dp_config", "{enable_balance: true}")),
    up(NAME + "batch_wait_timeout_ms", "trt", args("batch_wait_timeout_ms", 10), "tpot_ms.mean"),
    up(NAME + "batch_wait_timeout_iters", "trt", ONE + "batch_wait_timeout_iters=40", "ttft_ms.mean",
       without=args("batch_wait_max_tokens_ratio", 0.5)),
    up(NAME + "batch_wait_max_tokens_ratio", "trt", ONE + "batch_wait_max_tokens_ratio=0.5", "ttft_ms.mean",
       without=args("batch_wait_timeout_iters", 40)),
    down(NAME + "torch_compile_config.enable_piecewise_cuda_graph", "trt",
         args("torch_compile_config", "{enable_piecewise_cuda_graph: true}"), "cost[prefill 100@0]:host_us"),
    becomes(NAME + "torch_compile_config.capture_num_tokens", "trt", ONE + "torch_compile_config.capture_num_tokens=[1536]",
            "cost[prefill 1000@0]:padded_tokens", 1536, without=args("torch_compile_config", "{enable_piecewise_cuda_graph: true}")),
    becomes(NAME + "torch_compile_config", "trt", args("torch_compile_config", "null"), "cost[prefill 100@0]:padded_tokens", 100,
            without=args("torch_compile_config", "{enable_piecewise_cuda_graph: true}")),
    up(NAME + "cuda_graph_config", "trt", args("cuda_graph_config", "null"), DECODE + "host_us"),
    becomes(NAME + "cuda_graph_config.batch_sizes", "trt", ONE + "cuda_graph_config={batch_sizes: [1, 24], "
            "enable_padding: true}", DECODE + "padded_tokens", 24),
    up(NAME + "cuda_graph_config.max_batch_size", "trt", args("cuda_graph_config", "{max_batch_size: 2}"),
       DECODE + "host_us"),
    becomes(NAME + "cuda_graph_config.enable_padding", "trt", args("cuda_graph_config", "{enable_padding: true}"),
            DECODE + "padded_tokens", 8),
]
