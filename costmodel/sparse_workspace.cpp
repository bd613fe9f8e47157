#include <algorithm>

#include "costmodel/expanded_context.h"
#include "costmodel/memory_plan.h"

namespace orrery {

// Sparse attention (flashmla_sparse.py, sparse_attn_indexer.py, indexer.py): a workspace that both use, for
// queries beside the latents of prompts out of an 8-bit cache, or for the indexer's keys of 40 times
// max_model_len; the picks of every token; and room for scores (VLLM_SPARSE_INDEXER_MAX_LOGITS_MB: 512).
Bytes sparse_workspace(const InstanceSpec& spec) {
  const ModelSpec& m = spec.model;
  if (!m.sparse.present()) return Bytes(0);
  const SchedulerSettings& s = spec.engine.settings;
  const double tokens = static_cast<double>(s.max_num_batched_tokens),
               longest = static_cast<double>(s.max_model_len), latent = static_cast<double>(m.head_dim) * 2;
  const double queries = tokens * static_cast<double>(m.heads / spec.plan.tp) * latent;
  const double gathered = m.kv_dtype == DType::fp8 ? 5 * longest * latent : 0;
  const double keys = 40 * longest * static_cast<double>(m.sparse.dim + 4);
  return Bytes(std::max(queries + gathered, keys) + tokens * static_cast<double>(m.sparse.top) * 4 +
               512.0 * 1024 * 1024);
}

// Elements of the keys and values that a dummy step of vLLM makes room for, of a context that is expanded
// piece by piece (mla_attention.py: `forward_impl` without metadata,
// `determine_chunked_prefill_workspace_size`), beside a layer's queries and outputs.
double expanded_context(const InstanceSpec& spec) {
  const ModelSpec& m = spec.model;
  if (!m.latent.present() || m.sparse.present() || spec.engine.engine != "vllm") return 0;
  const SchedulerSettings& s = spec.engine.settings;
  const std::int64_t pages = std::int64_t{s.max_num_seqs} * s.block_size;
  const std::int64_t context = std::max(
      std::min<std::int64_t>(std::max<std::int64_t>(8 * s.max_model_len, 4 * pages), 64 * 1024), pages);
  const double key = static_cast<double>(m.latent.key_dim), value = static_cast<double>(m.latent.value_dim),
               heads = static_cast<double>(m.heads) / spec.plan.tp,
               tokens = static_cast<double>(s.max_num_batched_tokens);
  return static_cast<double>(context) * heads * (key + value) +
         tokens * (2 * static_cast<double>(m.hidden) +
                   heads * (key + static_cast<double>(m.latent.rotary_dim) + value));
}

// config/attention.py: flash_attn_max_num_splits_for_cuda_graph; FlashAttention 3 then makes fp32 sums of so
// many splits for every row and head. `profile_cudagraph_memory` (V1 runner) runs the largest size once,
// whose sums the allocator keeps, and captures it, whose sums the graphs' pool keeps. The log of DeepSeek-V3
// with 128 heads has 8.04 GiB for what is 2 · 4.01 (reports/cases/h200_vllm_0_24_features).
Bytes split_sums(const InstanceSpec& spec) {
  const SchedulerSettings& s = spec.engine.settings;
  if (spec.engine.runner != "v1" || spec.engine.latent.name != "FLASH_ATTN_MLA" || s.cudagraph_sizes.empty())
    return Bytes(0);
  constexpr double splits = 32, runs = 2, fp32 = 4;
  const LatentAttention& a = spec.model.latent;
  const double rows = static_cast<double>(s.cudagraph_sizes.back()),
               heads = static_cast<double>(spec.model.heads) / spec.plan.tp * s.context.cache_ranks;
  return Bytes(runs * splits * rows * heads * static_cast<double>(a.rank + 1) * fp32);
}

}  // namespace orrery
