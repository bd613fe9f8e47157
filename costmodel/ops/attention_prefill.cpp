// Causal attention of prompt chunks over their cached prefix, FlashAttention style: one launch for all
// chunks, tiles of 128 query rows (the query heads of one KV head packed together).
#include <algorithm>
#include <cmath>

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
    if (roofline.kernels() != nullptr && !spec.other_kernel) {
      read_prompts(*roofline.kernels());
      read_chunks(*roofline.kernels());
      corrected_as_ = roofline.kernels()->corrected_as("attention_prefill", spec.head_dim);
    }
  }

  OpCost cost(const StepInput& input) const override {
    const double per_pair = 4.0 * static_cast<double>(spec_.head_dim);  // q·kᵀ and p·v, one head
    const double window = static_cast<double>(spec_.window);
    OpCost cost;
    Work work;
    double key_tokens = 0;
    for (const PrefillChunk& chunk : input.shape->prefill) {
      const double context = static_cast<double>(chunk.context);
      add(work, chunk.new_tokens, context, window);
      key_tokens += window == 0 ? context : std::min(context, window);
    }
    cost.flops = per_pair * static_cast<double>(spec_.heads) * work.pairs;
    cost.compute_ns = slowest_unit(work) * per_operation_ns_;
    const double per_key = 2.0 * static_cast<double>(spec_.kv_heads * spec_.head_dim) * spec_.kv_bytes;
    const double queries =
        work.tokens * (2.0 * static_cast<double>(spec_.heads * spec_.head_dim) * 2 + per_key);
    const bool cached = roofline_.stays_in_cache(queries);
    cost.bytes = key_tokens * per_key + (cached ? 0 : queries);
    cost.memory_ns = roofline_.stream_ns(queries, cached, key_tokens * per_key, KernelClass::memory);
    cost.latency_ns = attention_start * roofline_.kernel_floor_ns();
    if (chunk_surface_ && key_tokens > 0)
      price_from_chunks(input.shape->prefill, cost);
    else if (surface_)
      price_from_surface(work, input.shape->prefill.size(), cost);
    widen_attention(cost, spec_, roofline_.error(kernel_class()));
    doubt_softcap(cost, spec_, roofline_.error(kernel_class()));
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
  // What the chunks of a step add up to; operations of the padded tiles of one launch.
  struct Work {
    double tokens = 0, pairs = 0, padded_flops = 0, longest = 0;
    std::int64_t tiles = 0;
  };

  void add(Work& work, double fresh, double context, double window) const {
    const double per_pair = 4.0 * static_cast<double>(spec_.head_dim);
    const double pairs = causal_pairs(fresh, context, window);
    const double packed = fresh * static_cast<double>(group_);
    const std::int64_t row_tiles = (static_cast<std::int64_t>(packed) + tile_rows - 1) / tile_rows;
    // Work per packed row: its own pairs and half a tile of masked keys on the diagonal.
    const double per_row = pairs / fresh + static_cast<double>(tile_columns) / 2;
    work.padded_flops += per_pair * static_cast<double>(row_tiles * tile_rows * spec_.kv_heads) * per_row;
    const double reach =
        window == 0 ? context + fresh : std::min(context + fresh, window + static_cast<double>(tile_rows));
    work.longest = std::max(work.longest, per_pair * static_cast<double>(tile_rows) * reach);
    work.tiles += row_tiles * spec_.kv_heads;
    work.tokens += fresh;
    work.pairs += pairs;
  }

  // The device is as slow as its busiest unit: the longest tile, split along the keys where tiles are too
  // few.
  double slowest_unit(const Work& work) const {
    const std::int64_t split = std::max<std::int64_t>(1, roofline_.units() / work.tiles);
    const double critical =
        work.longest * static_cast<double>(roofline_.units()) / static_cast<double>(split);
    return std::max(work.padded_flops, critical);
  }

  void read_prompts(const KernelSet& kernels) {
    AttentionShape shape = attention_shape(spec_);
    surface_ = kernels.attention_prefill(shape);
    if (!surface_ && shape.window >= least_borrowing_window) {
      shape.window = 0;
      surface_ = kernels.attention_prefill(shape);
      borrowed_ = true;
    }
    if (!surface_) return;
    pads_prompts_ = surface_->kernel().starts_with("cudnn.");  // kernels/cases/attention_prefill.cpp: to 128
    constexpr int sequence_octaves = 8, token_octaves = 15;
    grid_ = DenseGrid(sequence_octaves, token_octaves, [&](double sequences, double tokens) {
      const double pairs = sequences * causal_pairs(tokens, 0, static_cast<double>(shape.window));
      return prefill_bound_ns(roofline_.rates(), shape, sequences * tokens, pairs) /
             surface_->at(sequences, tokens);
    });
    grid_.make_monotone();
  }

  void read_chunks(const KernelSet& kernels) {
    chunk_surface_ = kernels.attention_chunks(attention_shape(spec_));
    if (!chunk_surface_) return;
    constexpr int key_octaves = 18, tile_octaves = 15;
    chunk_slowness_ = DenseGrid(key_octaves, tile_octaves, [&](double keys, double tiles) {
      return 1 / chunk_surface_->at(keys, tiles);
    });
  }

  // Waves are counted here: a grid would blur their steps.
  double chunk_ns(const ChunkTiles& tiles) const {
    return tiles.bound_ns(roofline_.rates(), attention_shape(spec_)) *
           chunk_slowness_.at(tiles.keys, tiles.tiles);
  }

  // All chunks together, but no shorter than the one that takes longest by itself.
  void price_from_chunks(std::span<const PrefillChunk> chunks, OpCost& cost) const {
    ChunkTiles all;
    double longest = 0, tokens = 0;
    for (const PrefillChunk& chunk : chunks) {
      ChunkTiles one;
      one.add(chunk.new_tokens, static_cast<double>(chunk.context), static_cast<double>(group_));
      longest = std::max(longest, chunk_ns(one));
      all.add(chunk.new_tokens, static_cast<double>(chunk.context), static_cast<double>(group_));
      tokens += chunk.new_tokens;
    }
    price_from_table(cost, *roofline_.kernels(), "attention_prefill", "bf16", 1.0, Hit::interpolated,
                     chunk_surface_->shape_known(), tokens, std::max(longest, chunk_ns(all)), corrected_as_);
  }

  // Most tables time equal prompts without context. Chunks are then priced as the equal prompts with as many
  // rows and as many pairs per row; what has fewer rows than one such prompt (a short chunk after a long
  // context) takes its share of it, corrected by how far its tiles fill the device.
  void price_from_surface(const Work& work, std::size_t chunks, OpCost& cost) const {
    double length = 2 * work.pairs / work.tokens - 1;
    if (spec_.window > 0 && !borrowed_) length = work.tokens / static_cast<double>(chunks);
    length = std::clamp(length, 1.0, longest_in_table);
    const double sequences = std::max(1.0, work.tokens / length);
    if (pads_prompts_ && length > tile_rows)
      length = std::min(std::ceil(length / tile_rows) * tile_rows, longest_in_table);
    Work equal;
    add(equal, length, 0, borrowed_ ? 0 : static_cast<double>(spec_.window));
    const double scale = sequences;
    equal.padded_flops *= scale;
    equal.pairs *= scale;
    equal.tiles =
        std::max<std::int64_t>(1, static_cast<std::int64_t>(static_cast<double>(equal.tiles) * scale));
    const double fill = pads_prompts_ ? 1 : slowest_unit(work) / slowest_unit(equal);
    const double ns = std::max(grid_.at(sequences, length) * fill, grid_.at(1, 1));
    price_from_table(cost, *roofline_.kernels(), "attention_prefill", spec_.kv_bytes < 2 ? "fp8" : "bf16",
                     1.0, borrowed_ || fill < 0.99 ? Hit::extrapolated : Hit::interpolated,
                     surface_->shape_known(), work.tokens, ns, corrected_as_);
  }

  static constexpr double longest_in_table = 16384;

  OpSpec spec_;
  const Roofline& roofline_;
  double per_operation_ns_ = 0;
  std::int64_t group_ = 1;
  bool pads_prompts_ = false, borrowed_ = false;
  std::optional<FittedSurface> surface_, chunk_surface_;
  DenseGrid grid_, chunk_slowness_;
  std::string corrected_as_;
};

}  // namespace

std::unique_ptr<Operator> make_attention_prefill(const OpSpec& spec, const Roofline& roofline) {
  return std::make_unique<AttentionPrefillOperator>(spec, roofline);
}

}  // namespace orrery
