#include "kernels/cases/paged_operands.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/det_math.h"
#include "base/random.h"

namespace orrery::kernels {

PagedLayout::PagedLayout(std::vector<std::int64_t> tokens_per_sequence, std::int64_t kv_head_count,
                         std::int64_t dimensions, std::uint64_t seed)
    : tokens(std::move(tokens_per_sequence)), kv_heads(kv_head_count), head_dim(dimensions) {
  for (const std::int64_t each : tokens) {
    const std::int64_t needed = (each + kv_block_tokens - 1) / kv_block_tokens;
    table_stride = std::max(table_stride, needed);
    blocks += needed;
  }
  std::vector<std::int32_t> free(static_cast<std::size_t>(blocks));
  for (std::size_t i = 0; i < free.size(); ++i) free[i] = static_cast<std::int32_t>(i);
  RandomStream random(seed, RandomPurpose::property_test, 13);
  for (std::size_t i = free.size(); i > 1; --i) std::swap(free[i - 1], free[random.below(i)]);
  table.assign(tokens.size() * static_cast<std::size_t>(table_stride), 0);
  std::size_t taken = 0;
  for (std::size_t s = 0; s < tokens.size(); ++s) {
    const std::int64_t needed = (tokens[s] + kv_block_tokens - 1) / kv_block_tokens;
    for (std::int64_t i = 0; i < needed; ++i) {
      table[s * static_cast<std::size_t>(table_stride) + static_cast<std::size_t>(i)] = free[taken++];
    }
  }
}

void PagedLayout::in_order() {
  std::int32_t next = 0;
  for (std::size_t s = 0; s < tokens.size(); ++s) {
    const std::int64_t needed = (tokens[s] + kv_block_tokens - 1) / kv_block_tokens;
    for (std::int64_t i = 0; i < needed; ++i) {
      table[s * static_cast<std::size_t>(table_stride) + static_cast<std::size_t>(i)] = next++;
    }
  }
}

bool PagedOperands::allocate(DeviceMemory& memory, const PagedLayout& layout, bool fp8) {
  const Element element = fp8 ? Element::fp8 : Element::bf16;
  const std::int64_t rows = layout.blocks * kv_block_tokens * layout.kv_heads;
  keys = {nullptr, element, rows, layout.head_dim};
  values = keys;
  key_scale = fp8 ? 0.5F : 1.0F;
  value_scale = fp8 ? 0.25F : 1.0F;
  return keys.allocate(memory) && values.allocate(memory);
}

void PagedOperands::fill(DeviceMemory& memory, const PagedLayout& layout, Fill how,
                         std::uint64_t seed) const {
  keys.fill(memory, how == Fill::with_nan ? Fill::random : how, 1 / key_scale, seed);
  values.fill(memory, how, 1 / value_scale, seed + 1);
  const std::size_t token_bytes =
      static_cast<std::size_t>(layout.kv_heads * layout.head_dim) * element_bytes(keys.element);
  for (std::size_t s = 0; s < layout.tokens.size(); ++s) {
    const std::int64_t used = layout.tokens[s] % kv_block_tokens;
    if (used == 0) continue;
    const std::int64_t last = layout.tokens[s] / kv_block_tokens;
    const std::int32_t block =
        layout.table[s * static_cast<std::size_t>(layout.table_stride) + static_cast<std::size_t>(last)];
    const auto first = static_cast<std::size_t>(block * kv_block_tokens + used) * token_bytes;
    const std::size_t bytes = static_cast<std::size_t>(kv_block_tokens - used) * token_bytes;
    memory.fill(static_cast<unsigned char*>(keys.data) + first, 0xFF, bytes);
    memory.fill(static_cast<unsigned char*>(values.data) + first, 0xFF, bytes);
  }
}

PagedKv PagedOperands::on_device(const PagedLayout& layout, const void* table) const {
  PagedKv kv;
  kv.keys = keys.data;
  kv.values = values.data;
  kv.block_table = static_cast<const std::int32_t*>(table);
  kv.table_stride = layout.table_stride;
  kv.key_scale = key_scale;
  kv.value_scale = value_scale;
  kv.blocks = layout.blocks;
  return kv;
}

SequenceKv download_sequence(DeviceMemory& memory, const PagedLayout& layout, const PagedOperands& operands,
                             std::size_t sequence) {
  SequenceKv kv;
  const std::int64_t each = layout.elements_per_block(), tokens = layout.tokens[sequence];
  kv.keys.reserve(static_cast<std::size_t>(tokens * layout.kv_heads * layout.head_dim));
  kv.values.reserve(kv.keys.capacity());
  for (std::int64_t i = 0; i * kv_block_tokens < tokens; ++i) {
    const std::size_t at =
        sequence * static_cast<std::size_t>(layout.table_stride) + static_cast<std::size_t>(i);
    const std::int64_t block = layout.table[at];
    const std::int64_t used = std::min<std::int64_t>(kv_block_tokens, tokens - i * kv_block_tokens);
    const std::int64_t count = used * layout.kv_heads * layout.head_dim;
    for (const double value : operands.keys.elements(memory, block * each, count)) {
      kv.keys.push_back(value * operands.key_scale);
    }
    for (const double value : operands.values.elements(memory, block * each, count)) {
      kv.values.push_back(value * operands.value_scale);
    }
  }
  return kv;
}

AttentionReference attention_reference(const std::vector<double>& query, const SequenceKv& kv,
                                       const PagedLayout& layout, std::int64_t kv_head, std::int64_t tokens,
                                       double softmax_scale, double weight_rounding) {
  const auto dim = static_cast<std::size_t>(layout.head_dim),
             stride = static_cast<std::size_t>(layout.kv_heads) * dim;
  const std::size_t head = static_cast<std::size_t>(kv_head) * dim, count = static_cast<std::size_t>(tokens);
  std::vector<double> scores(count);
  double largest = -1e300, score_error = 0;
  bool nan = false;
  for (std::size_t t = 0; t < count; ++t) {
    double sum = 0, magnitude = 0;
    for (std::size_t d = 0; d < dim; ++d) {
      const double product = query[d] * kv.keys[t * stride + head + d];
      sum += product;
      magnitude += std::fabs(product);
    }
    scores[t] = sum * softmax_scale;
    nan = nan || std::isnan(sum);
    score_error = std::max(score_error, magnitude * softmax_scale * 0x1p-21);
    largest = std::max(largest, scores[t]);
  }
  double total = 0;
  for (double& score : scores) total += score = nan ? score : det_exp(score - largest);
  AttentionReference reference;
  for (std::size_t d = 0; d < dim; ++d) {
    double out = 0, squares = 0, most = 0;
    for (std::size_t t = 0; t < count; ++t) {
      const double value = kv.values[t * stride + head + d];
      out += scores[t] * value;
      squares += scores[t] * value * (scores[t] * value);
      most = std::max(most, std::fabs(value));
    }
    // Errors of scores move weights between tokens: by e^error − 1 at most, and by no more than all of it.
    const double moved = std::min(2.0, 2 * score_error) * most;
    reference.out.push_back(out / total);
    // Roundings of weights are independent: four deviations, or a lost block of a long context would not
    // show.
    const double rounded = 4 * weight_rounding * std::sqrt(squares) / total;
    const double result = out / total;
    reference.tolerance.push_back(bf16_rounding * std::fabs(result) + rounded + moved + 0x1p-20 * most);
  }
  return reference;
}

}  // namespace orrery::kernels
