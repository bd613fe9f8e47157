// Latent attention, absorbed: queries are multiplied into the latent's space, attend to the cached latents as
// they are, and what they get is multiplied out of it. Prompts too: each of their rows attends as a decode
// does, where the step graph expands keys and values (counted as what is launched).
#include <cmath>

#include "kernels/latent_heads.h"
#include "kernels/mla_decode.h"
#include "live/forward/step_forward.h"

namespace orrery {

bool StepForward::allocate_latent() {
  const std::int64_t rows = ForwardProducts::launched_rows(options_.max_rows) + 1,
                     heads = rows * shape_.heads;
  return allocate(latent_.kv, rows * kernels::latent_key) &&
         allocate(latent_.plain, heads * shape_.latent_plain) &&
         allocate(latent_.by_head, heads * kernels::latent_width) &&
         allocate(latent_.queries, heads * kernels::latent_key) &&
         allocate(latent_.out, heads * kernels::latent_width) &&
         allocate(latent_.values, heads * shape_.latent_value);
}

void StepForward::latent_attention(std::size_t index, const DeviceStep& step, kernels::Stream stream) {
  using kernels::latent_key, kernels::latent_width;
  const LayerWeights& layer = weights_.layers[index];
  multiply("q_proj", layer.q, scratch_.normed, scratch_.queries, step.rows, step.row_range, stream);
  multiply("kv_a_proj", layer.kv_a, scratch_.normed, latent_.kv, step.rows, step.row_range, stream);
  place_latents(index, step, stream);
  by_heads("absorb_in", layer.into_latent, latent_.plain, latent_.by_head, step, stream);
  swap_heads(latent_.by_head, latent_.queries, true, latent_width, latent_key, step, stream);
  attend_latents(pool_[index], step, stream);
  swap_heads(latent_.by_head, latent_.out, false, latent_width, latent_width, step, stream);
  by_heads("absorb_out", layer.out_of_latent, latent_.by_head, latent_.values, step, stream);
  swap_heads(latent_.values, scratch_.attended, true, shape_.latent_value, shape_.latent_value, step, stream);
}

// The norm of the latent, the rotary embedding and the write to the cache: three operators of the graph, one
// launch, counted as what it reads and writes.
void StepForward::place_latents(std::size_t index, const DeviceStep& step, kernels::Stream stream) {
  const double key = kernels::latent_key, queries = static_cast<double>(shape_.q_width());
  count("kv_write", OpClass::elementwise, 0, step.rows * key * bf16_bytes,
        step.rows * (key + 2 * queries) * bf16_bytes);
  if (!launching_) return;
  kernels::LatentHeads launch;
  launch.queries = scratch_.queries;
  launch.latents = latent_.kv;
  launch.norm_weight = weights_.layers[index].latent_norm;
  launch.positions = step.positions;
  launch.cos_sin = rotary_;
  launch.slots = step.slots;
  launch.cache = pool_[index].keys;
  launch.plain_queries = latent_.plain;
  launch.out = latent_.queries;
  launch.rows = step.rows;
  launch.heads = static_cast<std::int32_t>(shape_.heads);
  launch.plain = static_cast<std::int32_t>(shape_.latent_plain);
  launch.epsilon = norm_epsilon;
  kernels::launch_latent_heads(launch, stream);
}

// A product with a matrix a head.
void StepForward::by_heads(const char* use, const Weight& weight, const std::uint16_t* in, std::uint16_t* out,
                           const DeviceStep& step, kernels::Stream stream) {
  const double heads = static_cast<double>(weight.experts), n = static_cast<double>(weight.n),
               k = static_cast<double>(weight.k), rows = step.rows * heads;
  count(use, OpClass::gemm, 2 * rows * n * k, heads * weight.bytes(), rows * (n + k) * bf16_bytes);
  if (!launching_) return;
  products_->multiply_experts(weight, {in, nullptr, 0}, out,
                              step.rows * static_cast<std::int32_t>(weight.experts), step.head_offsets,
                              stream);
}

void StepForward::swap_heads(std::uint16_t* by_head, std::uint16_t* by_row, bool to_rows, std::int64_t width,
                             std::int64_t stride, const DeviceStep& step, kernels::Stream stream) {
  count("head_swap", OpClass::elementwise, 0, 0,
        step.rows * static_cast<double>(shape_.heads * width) * 2 * bf16_bytes);
  if (!launching_) return;
  kernels::HeadSwap launch;
  launch.by_head = by_head;
  launch.by_row = by_row;
  launch.to_rows = to_rows;
  launch.rows = step.rows;
  launch.heads = static_cast<std::int32_t>(shape_.heads);
  launch.width = static_cast<std::int32_t>(width);
  launch.stride = static_cast<std::int32_t>(stride);
  kernels::launch_head_swap(launch, stream);
}

void StepForward::attend_latents(const KvPool& pool, const DeviceStep& step, kernels::Stream stream) {
  const double heads = static_cast<double>(shape_.heads);
  const auto count_keys = [&](const char* use, OpClass op_class, double pairs, double keys) {
    count(use, op_class, 2 * (kernels::latent_key + kernels::latent_width) * heads * pairs,
          keys * kernels::latent_key * bf16_bytes, 0);
  };
  if (step.decode_keys > 0)
    count_keys("attention_decode", OpClass::attention_decode, step.decode_keys, step.decode_keys);
  if (step.chunk_pairs > 0)
    count_keys("attention_absorbed", OpClass::attention_prefill, step.chunk_pairs, step.chunk_context);
  if (!launching_) return;
  kernels::MlaDecode problem;
  problem.queries = latent_.queries;
  problem.out = latent_.out;
  problem.kv.rows = pool.keys;
  problem.kv.block_table = step.tables;
  problem.kv.table_stride = step.table_stride;
  problem.kv.blocks = options_.kv_blocks + 1;
  problem.kv.block_size = kernels::kv_block_tokens;
  set_pieces(problem, step);
  problem.softmax_scale =
      static_cast<float>(1 / std::sqrt(static_cast<double>(shape_.latent_plain + kernels::latent_rotary)));
  latent_wgmma_ ? kernels::mla_decode_wgmma(problem, stream) : kernels::mla_decode(problem, stream);
}

}  // namespace orrery
