#include "sim/costed/tensorrt_llm_arguments.h"

#include <vector>

#include "base/json.h"
#include "costmodel/engine_profile.h"

namespace orrery {

namespace {

std::string number(std::int64_t value) { return std::to_string(value); }
std::string flag(bool value) { return value ? "true" : "false"; }

std::string list(const std::vector<std::int64_t>& values) {
  std::string text;
  for (const std::int64_t value : values) text += (text.empty() ? "[" : ", ") + number(value);
  return text + "]";
}

// What nobody asked for is not written.
std::string waiting(const NamedOptions& options) {
  std::string text;
  for (const char* name :
       {"batch_wait_timeout_ms", "batch_wait_timeout_iters", "batch_wait_max_tokens_ratio"}) {
    if (options.has(name))
      text += std::string("    ") + name + ": " + format_number(options.number(name)) + "\n";
  }
  return text;
}

// Sizes, and not what they came from: a graph holds whole rows, each with its drafts.
std::string graphs(const SchedulerSettings& s) {
  if (s.cudagraph_sizes.empty()) return "null";
  std::vector<std::int64_t> rows = s.cudagraph_sizes;
  for (std::int64_t& size : rows) size /= 1 + s.draft_tokens;
  return "{enable_padding: " + flag(s.pad_to_graph) + ", batch_sizes: " + list(rows) + "}";
}

std::string compiled(const SchedulerSettings& s) {
  if (s.prefill_graph_sizes.empty()) return "";
  return "    torch_compile_config: {enable_piecewise_cuda_graph: true, capture_num_tokens: " +
         list(s.prefill_graph_sizes) + "}\n";
}

}  // namespace

std::string tensorrt_llm_arguments(const SchedulerSettings& s, std::int64_t tp) {
  const TensorRtLlmSettings& t = s.tensorrt_llm;
  const auto named = [&](const char* before, const char* name) {
    return s.options.has(name) ? std::string(before) + name + ": " + s.options.text(name) : std::string();
  };
  return "  engine_args:\n    max_num_tokens: " + number(s.max_num_batched_tokens) +
         "\n    max_batch_size: " + number(s.max_num_seqs) + "\n    max_seq_len: " + number(s.max_model_len) +
         "\n    enable_chunked_prefill: " + flag(s.enable_chunked_prefill) +
         "\n    disable_overlap_scheduler: " + flag(!s.async_scheduling) +
         "\n    kv_cache_config: {free_gpu_memory_fraction: " + format_number(t.free_gpu_memory_fraction) +
         ", tokens_per_block: " + number(s.block_size) +
         ", enable_block_reuse: " + flag(s.enable_prefix_caching) +
         ", enable_partial_reuse: " + flag(t.enable_partial_reuse) +
         ", copy_on_partial_reuse: " + flag(t.copy_on_partial_reuse) + named(", ", "max_attention_window") +
         (s.kv_offload_bytes > 0 ? ", host_cache_size: " + number(s.kv_offload_bytes / tp) : "") +
         named(", ", "mamba_ssm_cache_dtype") + "}" + named("\n    ", "attn_backend") +
         "\n    stream_interval: " + number(s.stream_interval) +
         "\n    scheduler_config: {capacity_scheduler_policy: " +
         (t.max_utilization               ? "MAX_UTILIZATION"
          : s.options.has("static_batch") ? "STATIC_BATCH"
                                          : "GUARANTEED_NO_EVICT") +
         ", context_chunking_policy: " + (t.equal_progress ? "EQUAL_PROGRESS" : "FIRST_COME_FIRST_SERVED") +
         "}\n    cuda_graph_config: " + graphs(s) + "\n" + waiting(s.options) + compiled(s);
}

}  // namespace orrery
