#include "kernels/cases/paged_operands.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/det_math.h"
#include "base/random.h"
#include "kernels/cases/parallel.h"

namespace orrery::kernels {

PagedLayout::PagedLayout(std::vector<std::int64_t> tokens_per_sequence, std::int64_t kv_head_count,
                         std::int64_t dimensions, std::uint64_t seed, std::int64_t tokens_of_block)
    : tokens(std::move(tokens_per_sequence)), kv_heads(kv_head_count), head_dim(dimensions),
      value_dim(dimensions), block_tokens(tokens_of_block) {
  for (const std::int64_t each : tokens) {
    const std::int64_t needed = (each + block_tokens - 1) / block_tokens;
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
    const std::int64_t needed = (tokens[s] + block_tokens - 1) / block_tokens;
    for (std::int64_t i = 0; i < needed; ++i) {
      table[s * static_cast<std::size_t>(table_stride) + static_cast<std::size_t>(i)] = free[taken++];
    }
  }
}

void PagedLayout::in_order() {
  std::int32_t next = 0;
  for (std::size_t s = 0; s < tokens.size(); ++s) {
    const std::int64_t needed = (tokens[s] + block_tokens - 1) / block_tokens;
    for (std::int64_t i = 0; i < needed; ++i) {
      table[s * static_cast<std::size_t>(table_stride) + static_cast<std::size_t>(i)] = next++;
    }
  }
}

std::int64_t PagedLayout::place(std::size_t sequence, std::int64_t token) const {
  const std::size_t entry =
      sequence * static_cast<std::size_t>(table_stride) + static_cast<std::size_t>(token / block_tokens);
  return std::int64_t{table[entry]} * block_tokens + token % block_tokens;
}

std::int64_t PagedLayout::element(std::int64_t place, std::int64_t head, std::int64_t d, bool of_values,
                                  std::int64_t x) const {
  const std::int64_t dim = of_values ? value_dim : head_dim;
  if (layout == KvLayout::plain) return (place * kv_heads + head) * dim + d;
  const std::int64_t token = place % block_tokens;
  const std::int64_t start = (place / block_tokens * kv_heads + head) * dim * block_tokens;
  if (of_values) return start + (token / x * dim + d) * x + token % x;
  return start + (d / x * block_tokens + token) * x + d % x;
}

void PagedLayout::behind_ends(const std::function<void(std::int64_t, std::int64_t)>& spoil) const {
  for (std::size_t s = 0; s < tokens.size(); ++s) {
    const std::int64_t used = tokens[s] % block_tokens;
    if (used != 0) spoil(place(s, tokens[s] - 1) + 1, block_tokens - used);
  }
}

bool PagedOperands::allocate(DeviceMemory& memory, const PagedLayout& layout, bool fp8) {
  const Element element = fp8 ? Element::fp8 : Element::bf16;
  const std::int64_t rows = layout.blocks * kv_block_tokens * layout.kv_heads;
  keys = {nullptr, element, rows, layout.head_dim};
  values = {nullptr, element, rows, layout.value_dim};
  key_scale = fp8 ? 0.5F : 1.0F;
  value_scale = fp8 ? 0.25F : 1.0F;
  return keys.allocate(memory) && values.allocate(memory);
}

void PagedOperands::fill(DeviceMemory& memory, const PagedLayout& layout, Fill how, std::uint64_t seed,
                         bool spoil_tails) const {
  keys.fill(memory, how == Fill::with_nan ? Fill::random : how, 1 / key_scale, seed);
  values.fill(memory, how, 1 / value_scale, seed + 1);
  const bool fnuz = keys.element == Element::fp8 && device_fp8() == Fp8Format::fnuz;  // whose only NaN is
                                                                                      // 0x80
  if (!spoil_tails) return;
  layout.behind_ends([&](std::int64_t place, std::int64_t count) {
    if (layout.layout != KvLayout::plain) return spoil_block(memory, layout, place, fnuz);
    for (const Matrix* each : {&keys, &values}) {
      const auto token_bytes =
          static_cast<std::size_t>(layout.kv_heads * each->columns) * element_bytes(each->element);
      memory.fill(static_cast<unsigned char*>(each->data) + static_cast<std::size_t>(place) * token_bytes,
                  fnuz ? 0x80 : 0xFF, static_cast<std::size_t>(count) * token_bytes);
    }
  });
}

// From `place` to the end of its block, element by element.
void PagedOperands::spoil_block(DeviceMemory& memory, const PagedLayout& layout, std::int64_t place,
                                bool fnuz) const {
  const std::int64_t first = place / layout.block_tokens * layout.block_tokens;
  for (const Matrix* each : {&keys, &values}) {
    const std::size_t size = element_bytes(each->element);
    const std::size_t head_bytes = static_cast<std::size_t>(layout.kv_heads * each->columns) * size;
    std::vector<unsigned char> block(static_cast<std::size_t>(layout.block_tokens) * head_bytes);
    auto* at = static_cast<unsigned char*>(each->data) + static_cast<std::size_t>(first) * head_bytes;
    memory.download(block.data(), at, block.size());
    for (std::int64_t token = place - first; token < layout.block_tokens; ++token) {
      for (std::int64_t i = 0; i < layout.kv_heads * each->columns; ++i) {
        const std::int64_t element = layout.element(token, i / each->columns, i % each->columns,
                                                    each == &values, static_cast<std::int64_t>(16 / size));
        std::fill_n(block.begin() + element * static_cast<std::int64_t>(size), size,
                    static_cast<unsigned char>(fnuz ? 0x80 : 0xFF));
      }
    }
    memory.upload(at, block.data(), block.size());
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
  kv.layout = layout.layout;
  return kv;
}

HostKv download_cache(DeviceMemory& memory, const PagedLayout& layout, const PagedOperands& operands) {
  HostKv kv;
  kv.layout = &layout;
  kv.element = operands.keys.element;
  kv.keys.resize(operands.keys.bytes());
  kv.values.resize(operands.values.bytes());
  memory.download(kv.keys.data(), operands.keys.data, kv.keys.size());
  memory.download(kv.values.data(), operands.values.data, kv.values.size());
  kv.key_scale = operands.key_scale;
  kv.value_scale = operands.value_scale;
  return kv;
}

namespace {

// One head of one token of keys or values as doubles.
class HeadReader {
 public:
  HeadReader(const HostKv& kv, const std::vector<unsigned char>& raw, double scale, const AttentionRow& row,
             bool of_values)
      : layout_(*kv.layout), raw_(raw), scale_(scale), element_(kv.element), row_(row), of_values_(of_values),
        values_(static_cast<std::size_t>(of_values ? kv.layout->value_dim : kv.layout->head_dim)) {}

  const std::vector<double>& token(std::size_t t) {
    const std::int64_t slot = layout_.place(row_.sequence, static_cast<std::int64_t>(t));
    const std::size_t each = element_bytes(element_);
    for (std::size_t d = 0; d < values_.size(); ++d) {
      const std::int64_t at = layout_.element(slot, row_.kv_head, static_cast<std::int64_t>(d), of_values_,
                                              static_cast<std::int64_t>(16 / each));
      values_[d] = decode_element(element_, raw_.data() + static_cast<std::size_t>(at) * each) * scale_;
    }
    return values_;
  }

 private:
  const PagedLayout& layout_;
  const std::vector<unsigned char>& raw_;
  double scale_;
  Element element_;
  const AttentionRow& row_;
  bool of_values_;
  std::vector<double> values_;
};

// Both of them.
class TokensOfHead final : public AttendedTokens {
 public:
  TokensOfHead(const HostKv& kv, const AttentionRow& row)
      : keys_(kv, kv.keys, kv.key_scale, row, false), values_(kv, kv.values, kv.value_scale, row, true) {}
  const std::vector<double>& key(std::size_t token) override { return keys_.token(token); }
  const std::vector<double>& value(std::size_t token) override { return values_.token(token); }

 private:
  HeadReader keys_, values_;
};

struct Scores {
  std::vector<double> weights;  // exponentials, not yet divided by their sum
  double total = 0, error = 0;  // error: of a score
};

Scores score_tokens(const std::vector<double>& query, AttendedTokens& attended, std::int64_t tokens,
                    double softmax_scale) {
  Scores s;
  s.weights.resize(static_cast<std::size_t>(tokens));
  // Of fp32 sums of 128 products; longer ones in proportion.
  const double of_sum = 0x1p-21 * std::max(1.0, static_cast<double>(query.size()) / 128);
  double largest = -1e300;
  bool nan = false;
  for (std::size_t t = 0; t < s.weights.size(); ++t) {
    const std::vector<double>& key = attended.key(t);
    double sum = 0, magnitude = 0;
    for (std::size_t d = 0; d < key.size(); ++d) {
      const double product = query[d] * key[d];
      sum += product;
      magnitude += std::fabs(product);
    }
    s.weights[t] = sum * softmax_scale;
    nan = nan || std::isnan(sum);
    s.error = std::max(s.error, magnitude * softmax_scale * of_sum);
    largest = std::max(largest, s.weights[t]);
  }
  for (double& score : s.weights) s.total += score = nan ? score : det_exp(score - largest);
  return s;
}

}  // namespace

AttentionReference attention_reference(const std::vector<double>& query, AttendedTokens& attended,
                                       std::int64_t tokens, double softmax_scale, double weight_rounding) {
  const Scores s = score_tokens(query, attended, tokens, softmax_scale);
  const std::size_t dim = attended.value(0).size();
  std::vector<double> out(dim), squares(dim), most(dim);
  for (std::size_t t = 0; t < s.weights.size(); ++t) {
    const std::vector<double>& value = attended.value(t);
    for (std::size_t d = 0; d < dim; ++d) {
      const double term = s.weights[t] * value[d];
      out[d] += term;
      squares[d] += term * term;
      most[d] = std::max(most[d], std::fabs(value[d]));
    }
  }
  AttentionReference reference;
  for (std::size_t d = 0; d < dim; ++d) {
    // Errors of scores move weights between tokens: by e^error − 1 at most, and by no more than all of it.
    const double moved = std::min(2.0, 2 * s.error) * most[d];
    // Roundings of weights are independent: four deviations, or a lost block of a long context would not
    // show.
    const double rounded = 4 * weight_rounding * std::sqrt(squares[d]) / s.total;
    const double result = out[d] / s.total;
    reference.out.push_back(result);
    reference.tolerance.push_back(bf16_rounding * std::fabs(result) + rounded + moved + 0x1p-20 * most[d]);
  }
  return reference;
}

std::int64_t rows_to_compare(std::int64_t head_dim, std::int64_t tokens) {
  constexpr std::int64_t long_row = 8192;
  const std::int64_t outputs = tokens > long_row ? 512 : 4096;
  return (outputs + head_dim - 1) / head_dim;
}

void compare_attention(DeviceMemory& memory, const Matrix& queries, const Matrix& out,
                       const std::vector<AttentionRow>& rows, const ReferenceOfRow& reference,
                       MatrixComparison& comparison) {
  std::vector<std::int64_t> indices;
  indices.reserve(rows.size());
  for (const AttentionRow& row : rows) indices.push_back(row.row);
  const auto asked = queries.some_rows(memory, indices), found = out.some_rows(memory, indices);
  std::vector<AttentionReference> expected(rows.size());
  in_parallel(rows.size(), [&](std::size_t i) { expected[i] = reference(asked[i], rows[i]); });
  for (std::size_t i = 0; i < rows.size(); ++i) {
    for (std::size_t d = 0; d < found[i].size(); ++d) {
      comparison.add(found[i][d], expected[i].out[d], expected[i].tolerance[d],
                     rows[i].where + ", dimension " + std::to_string(d));
    }
  }
}

void compare_attention(DeviceMemory& memory, const Matrix& queries, const Matrix& out, const HostKv& kv,
                       const std::vector<AttentionRow>& rows, double softmax_scale, double weight_rounding,
                       MatrixComparison& comparison) {
  const auto reference = [&](const std::vector<double>& query, const AttentionRow& row) {
    TokensOfHead attended(kv, row);
    return attention_reference(query, attended, row.tokens, softmax_scale, weight_rounding);
  };
  compare_attention(memory, queries, out, rows, reference, comparison);
}

}  // namespace orrery::kernels
