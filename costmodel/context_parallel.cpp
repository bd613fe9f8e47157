#include "costmodel/context_parallel.h"

#include <algorithm>

namespace orrery {

namespace {

// Of one sequence's new tokens: the first `rest` blocks are one longer.
struct Blocks {
  std::int64_t base, rest;
  Blocks(std::int64_t tokens, std::int32_t ranks)
      : base(tokens / (2 * std::int64_t{ranks})), rest(tokens % (2 * std::int64_t{ranks})) {}
  std::int64_t size(std::int64_t block) const { return base + (block < rest ? 1 : 0); }
  std::int64_t before(std::int64_t block) const { return block * base + std::min(block, rest); }
};

std::int64_t block_of(std::int32_t ranks, std::int32_t rank, int half) {
  return half == 0 ? rank : 2 * std::int64_t{ranks} - 1 - rank;
}

}  // namespace

bool can_split(const StepShape& shape, std::int32_t ranks) {
  if (shape.prefill.empty() || shape.decode_sequences > 0) return false;
  return std::all_of(shape.prefill.begin(), shape.prefill.end(),
                     [&](const PrefillChunk& chunk) { return chunk.new_tokens >= 2 * ranks; });
}

std::int64_t split_rows(const StepShape& shape, std::int32_t ranks) {
  std::int64_t most = 0;
  for (std::int32_t rank = 0; rank < ranks; ++rank) {
    std::int64_t rows = 0;
    for (const PrefillChunk& chunk : shape.prefill) {
      const Blocks blocks(chunk.new_tokens, ranks);
      rows += blocks.size(block_of(ranks, rank, 0)) + blocks.size(block_of(ranks, rank, 1));
    }
    most = std::max(most, rows);
  }
  const std::int64_t unit = 2 * std::int64_t{ranks};  // `get_cp_padding_align_size`
  return (most + unit - 1) / unit * unit;
}

void add_blocks(const StepShape& shape, std::int32_t ranks, std::int32_t rank, int half,
                std::vector<PrefillChunk>& out) {
  const std::int64_t block = block_of(ranks, rank, half);
  for (const PrefillChunk& chunk : shape.prefill) {
    const Blocks blocks(chunk.new_tokens, ranks);
    out.push_back({static_cast<std::int32_t>(blocks.size(block)), chunk.context + blocks.before(block)});
  }
}

}  // namespace orrery
