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
  // Values get the NaNs of Fill::with_nan; tokens behind a sequence's end are NaN where `spoil_tails` (two
  // fills a sequence: not for hundreds of sets that are only timed).
  void fill(DeviceMemory& memory, const PagedLayout& layout, Fill how, std::uint64_t seed,
            bool spoil_tails) const;
  PagedKv on_device(const PagedLayout& layout, const void* table) const;
};

// The whole cache as it lies in memory, on the host.
struct HostKv {
  const PagedLayout* layout = nullptr;
  Element element = Element::bf16;
  std::vector<unsigned char> keys, values;
  double key_scale = 1, value_scale = 1;
};
HostKv download_cache(DeviceMemory& memory, const PagedLayout& layout, const PagedOperands& operands);

struct AttentionReference {
  std::vector<double> out, tolerance;  // [head_dim]
};
// A query row over the first `tokens` tokens of a sequence.
struct AttentionRow {
  std::int64_t row = 0;  // of the queries and the outputs
  std::size_t sequence = 0;
  std::int64_t kv_head = 0, tokens = 0;
  std::string where;  // in words
};
// `weight_rounding` is the relative error of the exponentials as they enter the second product.
AttentionReference attention_reference(const std::vector<double>& query, const HostKv& kv,
                                       const AttentionRow& row, double softmax_scale, double weight_rounding);

// How many rows to compare so that at least 4096 outputs are, or 256 where a row is long.
std::int64_t rows_to_compare(std::int64_t head_dim, std::int64_t tokens);

// Downloads what is needed and compares every row, on all cores.
void compare_attention(DeviceMemory& memory, const Matrix& queries, const Matrix& out, const HostKv& kv,
                       const std::vector<AttentionRow>& rows, double softmax_scale, double weight_rounding,
                       MatrixComparison& comparison);

}  // namespace orrery::kernels
