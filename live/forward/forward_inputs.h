// A step's batch on the device: everything in one piece of memory and one copy. Where a captured graph runs
// the step, rows, decodes, pieces and tables are padded to the graph's sizes, and the layout follows from
// them: the same key has the same addresses.
#pragma once

#include <compare>
#include <cstdint>
#include <utility>
#include <vector>

#include "base/result.h"
#include "kernels/attention_decode.h"
#include "kernels/attention_prefill.h"
#include "kernels/step_stream.h"
#include "live/forward/step_batch.h"

namespace orrery {

// What a captured graph is good for.
struct GraphKey {
  std::int32_t rows = 0, table_stride = 0, pieces = 0, merges = 0;
  friend auto operator<=>(const GraphKey&, const GraphKey&) = default;
};

// Pointers are the device's.
struct DeviceStep {
  std::int32_t rows = 0, decodes = 0;  // launched, with padding; beside a latent all rows are decodes
  std::int32_t first_chunk_row = 0, chunk_rows = 0;  // of prompts
  std::int32_t sampled = 0;
  const std::int32_t* tokens = nullptr;
  const std::int64_t *positions = nullptr, *slots = nullptr;
  const std::int32_t* sampled_rows = nullptr;
  const std::uint64_t* expert_keys = nullptr;                         // null where the batch has none
  const std::int32_t *row_range = nullptr, *sampled_range = nullptr;  // 0, rows; 0, sampled
  const std::int32_t* head_offsets = nullptr;  // latent: 0, rows, 2 · rows, … up to the heads
  const kernels::DecodePiece* pieces = nullptr;
  const kernels::DecodeMerge* merges = nullptr;
  const kernels::PrefillTile* tiles = nullptr;
  const std::int32_t* table_of_row = nullptr;  // which of the tables a row's sequence has
  const std::int32_t* tables = nullptr;  // [decodes + 1 + chunks][table_stride]; the one between is padding's
  std::int32_t piece_count = 0, merge_count = 0, tile_count = 0, table_stride = 0;
  std::int64_t slots_used = 0;  // partial results of decode attention

  // What attention works through, of the batch as it is, without padding.
  double decode_keys = 0;    // read by decodes
  double chunk_pairs = 0;    // (query, key)
  double chunk_context = 0;  // keys before the chunks
  std::int32_t real_decodes = 0;

  GraphKey key() const { return {rows, table_stride, piece_count, merge_count}; }
};

struct InputLimits {
  std::int64_t rows = 0, sequences = 0, blocks_of_sequence = 0, pool_blocks = 0;
};
struct AttentionHeads {
  std::int64_t heads = 0, kv_heads = 0;
  // Latent attention, absorbed: every row, of prompts too, attends as a decode does, by a table of its own.
  bool latent = false;
  std::int64_t heads_of_block = 0;  // of its kernel
};

class ForwardInputs {
 public:
  ForwardInputs() = default;
  // The heads decide how contexts are cut. False: no room.
  bool prepare(const InputLimits& limits, const AttentionHeads& heads, kernels::StepStream& stream,
               kernels::DeviceMemory& memory);
  // Copies the step; padding rows write no KV and attend to one token of `padding_block`. Errors: a batch
  // beyond the limits or at odds with itself.
  Result<DeviceStep> put(const StepBatch& batch);

 private:
  template <class T>
  T* place(std::int64_t count, const T*& device);
  void place_all(const StepBatch& batch, DeviceStep& step);
  void fill_rows(const StepBatch& batch, const DeviceStep& step);
  void fill_tables(const StepBatch& batch, const DeviceStep& step);
  void fill_plan(const DeviceStep& step);
  void plan_decodes(const std::vector<std::int64_t>& contexts);
  Result<Unit> check(const StepBatch& batch) const;

  InputLimits limits_;
  AttentionHeads heads_;
  std::int64_t units_ = 1;
  kernels::StepStream* stream_ = nullptr;
  unsigned char *host_ = nullptr, *device_ = nullptr;
  std::size_t bytes_ = 0, used_ = 0;
  kernels::DecodePlan plan_;
  std::int64_t found_piece_ = 0, pieces_of_longest_ = 1;  // by the last search
  std::pair<std::int32_t, std::int64_t> planned_for_;  // about how many decodes, and how long the longest is
  std::vector<kernels::PrefillTile> tiles_;
  // Of the step being put: where its arrays stand on the host.
  struct {
    std::int32_t *tokens, *sampled_rows, *row_range, *sampled_range, *table_of_row, *head_offsets, *tables;
    std::int64_t *positions, *slots;
    std::uint64_t* expert_keys;
    kernels::DecodePiece* pieces;
    kernels::DecodeMerge* merges;
    kernels::PrefillTile* tiles;
  } host_step_{};
};

}  // namespace orrery
