// Causal attention of prompt chunks over their cached prefix, FlashAttention style: one launch for all
// chunks, tiles of 128 query rows (the query heads of one KV head packed together).
#include <algorithm>

#include "costmodel/op_table.h"
#include "costmodel/ops/common.h"

namespace orrery {

namespace {

constexpr std::int64_t tile_rows = 128;     // query rows of a tile (FlashAttention 2 and 3, head size 128)
constexpr std::int64_t tile_columns = 128;  // keys of a tile

// Query-key pairs of `fresh` tokens after `context`, each seeing at most `window` keys (0 = all), itself
// included.
double causal_pairs(double fresh, double context, double window) {
  if (window == 0) return fresh * context + fresh * (fresh + 1) / 2;
  const double growing = std::max(0.0, std::min(fresh, window - context));
  return growing * context + growing * (growing + 1) / 2 + (fresh - growing) * window;
}

class AttentionPrefillOperator : public Operator {
 public:
  AttentionPrefillOperator(const OpSpec& spec, const Roofline& roofline) : spec_(spec), roofline_(roofline) {
    const double rate =
        roofline.matrix_rate(spec.format.math) * roofline.efficiency(KernelClass::attention_prefill);
    per_operation_ns_ = 1 / rate;
    group_ = spec.heads / spec.kv_heads;
  }

  OpCost cost(const StepInput& input) const override {
    const double per_pair = 4.0 * static_cast<double>(spec_.head_dim);  // q·kᵀ and p·v, one head
    const double window = static_cast<double>(spec_.window);
    OpCost cost;
    double padded_flops = 0, longest = 0, key_tokens = 0, fresh_tokens = 0;
    std::int64_t tiles = 0;
    for (const PrefillChunk& chunk : input.shape->prefill) {
      const double fresh = chunk.new_tokens;
      const double context = static_cast<double>(chunk.context);
      const double pairs = causal_pairs(fresh, context, window);
      cost.flops += per_pair * static_cast<double>(spec_.heads) * pairs;
      const std::int64_t row_tiles = (chunk.new_tokens * group_ + tile_rows - 1) / tile_rows;
      // Work per packed row: its own pairs and half a tile of masked keys on the diagonal.
      const double per_row = pairs / fresh + static_cast<double>(tile_columns) / 2;
      padded_flops += per_pair * static_cast<double>(row_tiles * tile_rows * spec_.kv_heads) * per_row;
      const double reach =
          window == 0 ? context + fresh : std::min(context + fresh, window + static_cast<double>(tile_rows));
      longest = std::max(longest, per_pair * static_cast<double>(tile_rows) * reach);
      tiles += row_tiles * spec_.kv_heads;
      key_tokens += window == 0 ? context : std::min(context, window);
      fresh_tokens += fresh;
    }
    // The device is as slow as its busiest unit: the longest tile, split along the keys where tiles are too
    // few.
    const std::int64_t split = std::max<std::int64_t>(1, roofline_.units() / tiles);
    const double critical = longest * static_cast<double>(roofline_.units()) / static_cast<double>(split);
    cost.compute_ns = std::max(padded_flops, critical) * per_operation_ns_;
    const double per_key = 2.0 * static_cast<double>(spec_.kv_heads * spec_.head_dim) * spec_.kv_bytes;
    const double queries =
        fresh_tokens * (2.0 * static_cast<double>(spec_.heads * spec_.head_dim) * 2 + per_key);
    const bool cached = roofline_.stays_in_cache(queries);
    cost.bytes = key_tokens * per_key + (cached ? 0 : queries);
    cost.memory_ns = roofline_.stream_ns(queries, cached, key_tokens * per_key, KernelClass::memory);
    cost.latency_ns = attention_start * roofline_.kernel_floor_ns();
    return cost;
  }

  std::string shape_text(const StepInput& input) const override {
    std::int64_t fresh = 0;
    for (const PrefillChunk& chunk : input.shape->prefill) fresh += chunk.new_tokens;
    return "chunks=" + std::to_string(input.shape->prefill.size()) + " tokens=" + std::to_string(fresh) +
           " heads=" + std::to_string(spec_.heads) + "/" + std::to_string(spec_.kv_heads) +
           " d=" + std::to_string(spec_.head_dim) +
           (spec_.window > 0 ? " window=" + std::to_string(spec_.window) : "");
  }
  KernelClass kernel_class() const override { return KernelClass::attention_prefill; }

 private:
  OpSpec spec_;
  const Roofline& roofline_;
  double per_operation_ns_ = 0;
  std::int64_t group_ = 1;
};

}  // namespace

std::unique_ptr<Operator> make_attention_prefill(const OpSpec& spec, const Roofline& roofline) {
  return std::make_unique<AttentionPrefillOperator>(spec, roofline);
}

}  // namespace orrery
