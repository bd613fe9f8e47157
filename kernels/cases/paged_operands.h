// A paged KV cache for attention cases, and attention in double precision over it.
#pragma once

#include <vector>

#include "kernels/cases/matrix_operands.h"
#include "kernels/paged_kv.h"

namespace orrery::kernels {

// Tokens per sequence and the blocks that hold them: scattered over the pool, as after hours of serving.
struct PagedLayout {
  std::vector<std::int64_t> tokens;
  std::int64_t kv_heads = 0, head_dim = 0;
  std::int64_t blocks = 0, table_stride = 0;
  std::vector<std::int32_t> table;  // [sequences][table_stride]

  PagedLayout(std::vector<std::int64_t> tokens_per_sequence, std::int64_t kv_heads, std::int64_t head_dim,
              std::uint64_t seed);
  void in_order();  // blocks one behind the other: without a table, [sequence][token][kv_head][head_dim]
  std::int64_t elements_per_block() const { return kv_block_tokens * kv_heads * head_dim; }
};

struct PagedOperands {
  Matrix keys, values;  // [blocks · 16 · kv_heads][head_dim]
  float key_scale = 1, value_scale = 1;

  bool allocate(DeviceMemory& memory, const PagedLayout& layout, bool fp8);
  // Values get the NaNs of Fill::with_nan; tokens behind a sequence's end are always NaN.
  void fill(DeviceMemory& memory, const PagedLayout& layout, Fill how, std::uint64_t seed) const;
  PagedKv on_device(const PagedLayout& layout, const void* table) const;
};

// Keys and values of one sequence as doubles, scales applied: [token][kv_head][head_dim].
struct SequenceKv {
  std::vector<double> keys, values;
};
SequenceKv download_sequence(DeviceMemory& memory, const PagedLayout& layout, const PagedOperands& operands,
                             std::size_t sequence);

struct AttentionReference {
  std::vector<double> out, tolerance;  // [head_dim]
};
// One query row over the first `tokens` tokens of a sequence. `weight_rounding` is the relative error of the
// exponentials as they enter the second product.
AttentionReference attention_reference(const std::vector<double>& query, const SequenceKv& kv,
                                       const PagedLayout& layout, std::int64_t kv_head, std::int64_t tokens,
                                       double softmax_scale, double weight_rounding);

}  // namespace orrery::kernels
