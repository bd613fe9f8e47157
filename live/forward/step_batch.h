// One step as the device sees it: rows of tokens, where their KV goes, and which blocks each sequence reads.
#pragma once

#include <cstdint>
#include <vector>

namespace orrery {

struct StepBatch {
  std::vector<std::int32_t> tokens;  // [rows] token id of each row; decodes first, then chunks in plan order
  std::vector<std::int32_t> positions;  // [rows] place in the sequence
  std::vector<std::int64_t> slots;      // [rows] physical block * block_size + offset of the row's K and V
  struct Sequence {
    std::int32_t first_row = 0, rows = 0, context = 0;  // context: tokens in the cache after this step
  };
  std::vector<Sequence> sequences;  // decodes (rows = 1) first
  std::int32_t decodes = 0;
  std::vector<std::int32_t> block_tables;  // [sequences][max_blocks], row-major, unused entries 0
  std::int32_t max_blocks = 0;
  // Where experts are drawn: token_key of each row (costmodel/experts/token_draws.h), and the epoch of the
  // popularity that all are drawn from.
  std::vector<std::uint64_t> expert_keys;
  std::int64_t expert_epoch = 0;
  std::vector<std::int32_t> sampled_rows;  // rows whose logits are wanted, in sequence order
  std::int32_t padded_rows = 0;            // rows of the captured graph that runs it; 0: eager
};

}  // namespace orrery
