// Short prompts that vLLM 0.24 serves absorbed on Hopper (FLASH_ATTN_MLA, chunks of up to 512 new tokens):
// FlashAttention 3 with one KV head of 576 and values of 512. 64 rows of query heads are a tile, which walks
// blocks of 64 keys up to its diagonal. In steps that a captured graph holds a launch may split keys
// (v1/attention/backends/mla/flashattn_mla.py, `max_num_splits`), and a second kernel then adds up the parts,
// whether there is more than one or not; how many there are its scheduler works out on the device
// (flash-attention, hopper/flash_prepare_scheduler.cu, `num_splits_dynamic`), as here.
//
// The constants are read off kernel profiles on an H200 (reports/cases/h200_vllm_0_24_features,
// further_mtp.tar.xz), which prices of whole steps are compared with, not fitted to. 16 heads, 72, 256 and
// 512 tokens: the kernel alone 16.9, 19.4 and 26.6 µs, from its start to the sum's end 20.8, 30.0 and 30.3
// (two parts, two, one). 128 heads, eight prompts of 512 tokens in a step beyond the graphs: 882.8 µs, no
// sum.
#include <algorithm>
#include <cmath>

#include "costmodel/op_table.h"
#include "costmodel/ops/common.h"

namespace orrery {

namespace {

constexpr std::int64_t tile_rows = 64, key_block = 64, most_parts = 32;
constexpr double start_ns = 7600, tile_ns = 7900;  // of the launch, and of each tile beside its products
constexpr double of_unit_rate = 0.86;              // what a tile's products reach of a unit's matrix rate
constexpr double margin = 1.1;                     // `num_splits_dynamic`
constexpr double sum_ns = 3500, part_pace = 0.25;  // of the sum; ns of a unit an element of the parts

class AbsorbedPromptsOperator : public Operator {
 public:
  // As costmodel/ops/mla.cpp; window = the largest captured size.
  AbsorbedPromptsOperator(const OpSpec& spec, const Roofline& roofline)
      : spec_(spec), roofline_(roofline), units_(static_cast<double>(roofline.units())),
        per_key_(2.0 * static_cast<double>(2 * spec.n + spec.k)) {
    block_ns_ = per_key_ * static_cast<double>(tile_rows * key_block) /
                (roofline.matrix_rate(spec.format.math) / units_ * of_unit_rate);
  }

  OpCost cost(const StepInput& input) const override {
    OpCost cost;
    double blocks = 0, pairs = 0, keys = 0;
    const bool captured = input.tokens <= spec_.window;
    for (const PrefillChunk& chunk : input.shape->prefill)
      if (absorbed(chunk)) blocks += tiles(chunk) * std::ceil(all_keys(chunk) / key_block);
    if (blocks == 0) return cost;
    const double blocks_a_unit = std::ceil(blocks * margin / units_);
    double work = 0, longest = 0, parts = 0;
    for (const PrefillChunk& chunk : input.shape->prefill) {
      if (!absorbed(chunk)) continue;
      const double n = chunk.new_tokens, context = static_cast<double>(chunk.context);
      const double most = std::ceil(all_keys(chunk) / key_block);
      const double splits =
          captured ? std::clamp(std::ceil(most / blocks_a_unit), 1.0, static_cast<double>(most_parts)) : 1.0;
      const double mean = (context + (n + 1) / 2) / key_block + 0.5;  // whole blocks up to the diagonal
      work += tiles(chunk) * (splits * tile_ns + mean * block_ns_);
      longest = std::max(longest, tile_ns + std::ceil(most / splits) * block_ns_);
      if (splits > 1) parts += splits * n * static_cast<double>(spec_.heads * spec_.n);
      pairs += n * context + n * (n + 1) / 2;
      keys += all_keys(chunk);
    }
    cost.flops = per_key_ * static_cast<double>(spec_.heads) * pairs;
    cost.bytes = keys * static_cast<double>(spec_.n + spec_.k) * spec_.kv_bytes;
    cost.memory_ns = roofline_.stream_ns(0, false, cost.bytes, KernelClass::attention_decode);
    cost.compute_ns = std::max(longest, work / units_);
    cost.latency_ns = start_ns + (captured ? sum_ns + parts * part_pace / units_ : 0);
    return cost;
  }

  std::string shape_text(const StepInput& input) const override {
    std::int64_t chunks = 0;
    for (const PrefillChunk& chunk : input.shape->prefill) chunks += absorbed(chunk) ? 1 : 0;
    return "chunks=" + std::to_string(chunks) + " heads=" + std::to_string(spec_.heads) +
           " latent=" + std::to_string(spec_.n) + "+" + std::to_string(spec_.k);
  }
  KernelClass kernel_class() const override { return KernelClass::attention_prefill; }

 private:
  bool absorbed(const PrefillChunk& chunk) const { return chunk.new_tokens <= spec_.absorbed_chunk; }
  double tiles(const PrefillChunk& chunk) const {
    return std::ceil(static_cast<double>(chunk.new_tokens * spec_.heads) / tile_rows);
  }
  static double all_keys(const PrefillChunk& chunk) {
    return static_cast<double>(chunk.context) + static_cast<double>(chunk.new_tokens);
  }

  OpSpec spec_;
  const Roofline& roofline_;
  double units_, per_key_, block_ns_ = 0;
};

}  // namespace

std::unique_ptr<Operator> make_absorbed_prompts(const OpSpec& spec, const Roofline& roofline) {
  return std::make_unique<AbsorbedPromptsOperator>(spec, roofline);
}

}  // namespace orrery
