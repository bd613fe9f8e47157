// Attention of a step: decodes by the split kernel, chunks of prompts by the prefill kernel, both over the
// paged pool.
#include <cmath>

#include "kernels/attention_decode.h"
#include "kernels/attention_prefill.h"
#include "live/forward/step_forward.h"

namespace orrery {

kernels::PagedKv StepForward::pages(const KvPool& pool, const DeviceStep& step) const {
  kernels::PagedKv kv;
  kv.keys = pool.keys;
  kv.values = pool.values;
  kv.block_table = step.tables;
  kv.table_stride = step.table_stride;
  kv.blocks = options_.kv_blocks + 1;
  return kv;
}

void StepForward::attend(const KvPool& pool, const DeviceStep& step, kernels::Stream stream) {
  if (step.chunk_rows > 0) attend_chunks(pool, step, stream);
  if (step.decodes > 0) attend_decodes(pool, step, stream);
}

// Counted are the sequences of the batch, not those that padding adds, each of one token.
void StepForward::attend_decodes(const KvPool& pool, const DeviceStep& step, kernels::Stream stream) {
  const double q = static_cast<double>(shape_.q_width()), kv = static_cast<double>(shape_.kv_width());
  count("attention_decode", OpClass::attention_decode, 4 * q * step.decode_keys,
        step.decode_keys * 2 * kv * 2, 0);
  if (!launching_) return;
  kernels::AttentionDecode problem;
  problem.queries = scratch_.queries;
  problem.out = scratch_.attended;
  problem.kv = pages(pool, step);
  set_pieces(problem, step);
  problem.kv_heads = static_cast<std::int32_t>(shape_.kv_heads);
  problem.head_dim = static_cast<std::int32_t>(shape_.head_dim);
  problem.softmax_scale = static_cast<float>(1 / std::sqrt(static_cast<double>(shape_.head_dim)));
  kernels::attention_decode(problem, stream);
}

void StepForward::attend_chunks(const KvPool& pool, const DeviceStep& step, kernels::Stream stream) {
  const double q = static_cast<double>(shape_.q_width()), kv = static_cast<double>(shape_.kv_width());
  count("attention_prefill", OpClass::attention_prefill, 4 * q * step.chunk_pairs,
        step.chunk_context * 2 * kv * 2, step.chunk_rows * (2 * q * 2 + 2 * kv * 2));
  if (!launching_) return;
  const std::int64_t first = std::int64_t{step.first_chunk_row} * shape_.q_width();
  kernels::AttentionPrefill problem;
  problem.queries = scratch_.queries + first;
  problem.out = scratch_.attended + first;
  problem.kv = pages(pool, step);
  problem.kv.block_table += std::int64_t{step.decodes + 1} * step.table_stride;  // theirs stand behind
  problem.tiles = step.tiles;
  problem.tile_count = step.tile_count;
  problem.heads = static_cast<std::int32_t>(shape_.heads);
  problem.kv_heads = static_cast<std::int32_t>(shape_.kv_heads);
  problem.head_dim = problem.value_dim = static_cast<std::int32_t>(shape_.head_dim);
  problem.softmax_scale = static_cast<float>(1 / std::sqrt(static_cast<double>(shape_.head_dim)));
  if (wgmma_)
    kernels::attention_prefill_wgmma(problem, stream);
  else
    kernels::attention_prefill(problem, stream);
}

}  // namespace orrery
