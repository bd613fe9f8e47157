// A paged KV cache for attention cases, and attention in double precision over it.
#pragma once

#include <functional>
#include <vector>

#include "kernels/cases/matrix_operands.h"
#include "kernels/paged_kv.h"

namespace orrery::kernels {

// Tokens per sequence and the blocks that hold them: scattered over the pool, as after hours of serving.
struct PagedLayout {
  std::vector<std::int64_t> tokens;
  std::int64_t kv_heads = 0, head_dim = 0;
  std::int64_t value_dim = 0;  // of a head's values; head_dim unless somebody says otherwise
  std::int64_t block_tokens = kv_block_tokens;
  KvLayout layout = KvLayout::plain;
  std::int64_t blocks = 0, table_stride = 0;
  std::vector<std::int32_t> table;  // [sequences][table_stride]

  PagedLayout(std::vector<std::int64_t> tokens_per_sequence, std::int64_t kv_heads, std::int64_t head_dim,
              std::uint64_t seed, std::int64_t tokens_of_block = kv_block_tokens);
  void in_order();  // blocks one behind the other: without a table, [sequence][token][kv_head][head_dim]
  std::int64_t elements_per_block() const { return block_tokens * kv_heads * head_dim; }
  // Where a sequence's token lies, counted in tokens of the pool.
  std::int64_t place(std::size_t sequence, std::int64_t token) const;
  // Element `d` of a head of a token: where it stands in the cache of keys or values. x: elements in 16
  // bytes.
  std::int64_t element(std::int64_t place, std::int64_t head, std::int64_t d, bool of_values,
                       std::int64_t x) const;
  // Calls spoil(first, count) for the places behind each sequence's end in its last block.
  void behind_ends(const std::function<void(std::int64_t, std::int64_t)>& spoil) const;
};

struct PagedOperands {
  Matrix keys, values;  // [blocks · 16 · kv_heads][head_dim], [the same][value_dim]
  float key_scale = 1, value_scale = 1;

  bool allocate(DeviceMemory& memory, const PagedLayout& layout, bool fp8);
  // Values get the NaNs of Fill::with_nan; tokens behind a sequence's end are NaN where `spoil_tails` (two
  // fills a sequence: not for hundreds of sets that are only timed).
  void fill(DeviceMemory& memory, const PagedLayout& layout, Fill how, std::uint64_t seed,
            bool spoil_tails) const;
  PagedKv on_device(const PagedLayout& layout, const void* table) const;

 private:
  void spoil_block(DeviceMemory& memory, const PagedLayout& layout, std::int64_t place, bool fnuz) const;
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
// Keys and values of the tokens that a row attends to; a reference lives until the next call.
class AttendedTokens {
 public:
  virtual ~AttendedTokens() = default;
  virtual const std::vector<double>& key(std::size_t token) = 0;
  virtual const std::vector<double>& value(std::size_t token) = 0;
};
// `weight_rounding` is the relative error of the exponentials as they enter the second product.
AttentionReference attention_reference(const std::vector<double>& query, AttendedTokens& attended,
                                       std::int64_t tokens, double softmax_scale, double weight_rounding);

// How many rows to compare so that at least 4096 outputs are, or 256 where a row is long.
std::int64_t rows_to_compare(std::int64_t head_dim, std::int64_t tokens);

// Downloads what is needed and compares every row, on all cores.
using ReferenceOfRow =
    std::function<AttentionReference(const std::vector<double>& query, const AttentionRow& row)>;
void compare_attention(DeviceMemory& memory, const Matrix& queries, const Matrix& out,
                       const std::vector<AttentionRow>& rows, const ReferenceOfRow& reference,
                       MatrixComparison& comparison);
// The same over a cache of heads.
void compare_attention(DeviceMemory& memory, const Matrix& queries, const Matrix& out, const HostKv& kv,
                       const std::vector<AttentionRow>& rows, double softmax_scale, double weight_rounding,
                       MatrixComparison& comparison);

}  // namespace orrery::kernels
