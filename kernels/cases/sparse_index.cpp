#include "kernels/sparse_index.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/case_table.h"
#include "kernels/cases/case_support.h"
#include "kernels/cases/matrix_operands.h"
#include "kernels/cases/paged_operands.h"

namespace orrery::kernels {

namespace {

// order_key of gpu_order.h.
std::uint32_t order_key(float value) {
  std::uint32_t bits = 0;
  std::memcpy(&bits, &value, 4);
  return (bits & 0x80000000U) != 0 ? ~bits : bits | 0x80000000U;
}

// One query a sequence.
std::vector<IndexRow> index_rows(const CaseSpec& spec) {
  std::vector<IndexRow> rows;
  for (std::size_t s = 0; s < spec.contexts.size(); ++s)
    rows.push_back({static_cast<std::int32_t>(s), static_cast<std::int32_t>(spec.contexts[s])});
  return rows;
}

std::int64_t longest(const CaseSpec& spec) {
  return *std::max_element(spec.contexts.begin(), spec.contexts.end());
}

IndexCache index_cache(Operands& make, const PagedLayout& layout, std::uint8_t* blocks) {
  IndexCache cache;
  cache.blocks = blocks;
  cache.block_table = make.given(layout.table);
  cache.table_stride = layout.table_stride;
  cache.block_size = static_cast<std::int32_t>(layout.block_tokens);
  return cache;
}

class IndexScoresCase final : public CaseOf<IndexScoresLaunch> {
 public:
  explicit IndexScoresCase(const CaseSpec& spec)
      : CaseOf(spec, "orrery.index_scores.fp8.v1", launch_index_scores),
        layout_(spec.contexts, 1, index_width, spec.seed, spec.block_size) {}

  // Scales stand among the keys, which are drawn in one piece.
  bool prepare(DeviceMemory& memory, int sets, std::string& why) override {
    if (!CaseOf::prepare(memory, sets, why)) return false;
    const std::vector<float> scales =
        make_scales(layout_.blocks * layout_.block_tokens, 0.05F,
                    spec_.fill == Fill::zeros ? Fill::zeros : Fill::random, spec_.seed);
    const auto of_block = static_cast<std::size_t>(layout_.block_tokens);
    for (int set = 0; set < sets; ++set) {
      auto* to = const_cast<std::uint8_t*>(launch_of(set).cache.blocks);
      for (std::size_t block = 0; block < static_cast<std::size_t>(layout_.blocks); ++block) {
        memory.upload(to + block * block_bytes() + of_block * index_width, scales.data() + block * of_block,
                      4 * of_block);
      }
    }
    return true;
  }

  CheckResult check(DeviceMemory& memory) override {
    Comparison comparison(kernel());
    const IndexScoresLaunch& a = first();
    const std::vector<IndexRow> rows = index_rows(spec_);
    const std::int64_t rows_wanted = 1 + 4096 / longest(spec_);
    for (const std::int64_t r : sample(static_cast<std::int64_t>(rows.size()), rows_wanted, spec_.seed)) {
      const IndexRow& row = rows[static_cast<std::size_t>(r)];
      const auto queries =
          fetch_fp8(memory, a.queries + r * spec_.heads * index_width, spec_.heads * index_width);
      const auto weights = fetch_fp32(memory, a.weights + r * spec_.heads, spec_.heads);
      const auto scores = fetch_fp32(memory, a.scores + r * a.score_stride, row.tokens);
      for (const std::int64_t token : sample(row.tokens, 4096, spec_.seed + 1)) {
        const Score expected =
            reference(memory, queries, weights, layout_.place(static_cast<std::size_t>(row.sequence), token));
        comparison.value("score", r, token, scores[static_cast<std::size_t>(token)], expected.value,
                         expected.tolerance);
      }
    }
    return comparison.result();
  }
  double flops() const override {
    return 2.0 * index_width * static_cast<double>(all_tokens() * spec_.heads);
  }
  double bytes() const override {
    return static_cast<double>(all_tokens()) * (index_width + 4 + 4) +
           static_cast<double>(spec_.contexts.size()) * static_cast<double>(spec_.heads) * (index_width + 4);
  }

 protected:
  IndexScoresLaunch operands(Operands& make) const override {
    IndexScoresLaunch a;
    const auto rows = static_cast<std::int64_t>(spec_.contexts.size());
    a.queries = make.fp8(rows * spec_.heads, index_width);
    a.weights = make.fp32(rows, spec_.heads, 0.1F);
    a.rows = make.given(index_rows(spec_));
    a.cache = index_cache(make, layout_, make.fp8(layout_.blocks, static_cast<std::int64_t>(block_bytes())));
    a.score_stride = (longest(spec_) + 3) / 4 * 4;
    a.scores = make.output<float>(rows * a.score_stride);
    a.row_count = static_cast<std::int32_t>(rows);
    a.heads = static_cast<std::int32_t>(spec_.heads);
    a.most_tokens = static_cast<std::int32_t>(longest(spec_));
    return a;
  }

 private:
  std::size_t block_bytes() const {
    return static_cast<std::size_t>(layout_.block_tokens) * (index_width + 4);
  }
  std::int64_t all_tokens() const {
    std::int64_t sum = 0;
    for (const std::int64_t tokens : spec_.contexts) sum += tokens;
    return sum;
  }

  struct Score {
    double value = 0, tolerance = 0;
  };
  Score reference(DeviceMemory& memory, const std::vector<double>& queries,
                  const std::vector<double>& weights, std::int64_t place) const {
    const std::int64_t block = place / layout_.block_tokens, in_block = place % layout_.block_tokens;
    const std::uint8_t* of_block = first().cache.blocks + block * static_cast<std::int64_t>(block_bytes());
    const auto key = fetch_fp8(memory, of_block + in_block * index_width, index_width);
    float scale = 0;
    memory.download(&scale, of_block + layout_.block_tokens * index_width + 4 * in_block, 4);
    Score score;
    double error = 0, magnitude = 0;
    for (std::size_t head = 0; head < weights.size(); ++head) {
      double sum = 0, of_head = 0;
      for (std::size_t i = 0; i < key.size(); ++i) {
        const double product = queries[head * index_width + i] * key[i];
        sum += product;
        of_head += std::fabs(product);
      }
      score.value += weights[head] * std::max(sum, 0.0);
      magnitude += std::fabs(weights[head]) * std::max(sum, 0.0);
      error += std::fabs(weights[head]) * of_head * sum_error(Element::fp8, index_width);
    }
    score.value *= scale;
    score.tolerance = std::fabs(scale) * (error + fp32_arithmetic * magnitude);
    return score;
  }

  PagedLayout layout_;
};

class IndexTopkCase final : public CaseOf<IndexTopkLaunch> {
 public:
  explicit IndexTopkCase(const CaseSpec& spec)
      : CaseOf(spec, "orrery.index_topk.v1", launch_index_topk),
        layout_(spec.contexts, 1, index_width, spec.seed, spec.block_size) {}

  CheckResult check(DeviceMemory& memory) override {
    Comparison comparison(kernel());
    const IndexTopkLaunch& a = first();
    const std::vector<IndexRow> rows = index_rows(spec_);
    for (const std::int64_t r : sample(static_cast<std::int64_t>(rows.size()), 16, spec_.seed)) {
      const IndexRow& row = rows[static_cast<std::size_t>(r)];
      const auto scores = fetch(memory, a.scores + r * a.score_stride, row.tokens);
      std::vector<std::int32_t> order(scores.size());
      for (std::size_t i = 0; i < order.size(); ++i) order[i] = static_cast<std::int32_t>(i);
      std::stable_sort(order.begin(), order.end(), [&](std::int32_t x, std::int32_t y) {
        return order_key(scores[static_cast<std::size_t>(x)]) >
               order_key(scores[static_cast<std::size_t>(y)]);
      });
      order.resize(std::min(order.size(), static_cast<std::size_t>(spec_.top_k)));
      std::vector<std::int32_t> expected;
      for (const std::int32_t token : order)
        expected.push_back(
            static_cast<std::int32_t>(layout_.place(static_cast<std::size_t>(row.sequence), token)));
      std::sort(expected.begin(), expected.end());
      expected.resize(static_cast<std::size_t>(spec_.top_k), -1);
      auto found = fetch(memory, a.picks + r * spec_.top_k, spec_.top_k);
      const auto end = found.begin() + std::min<std::int64_t>(row.tokens, spec_.top_k);
      std::sort(found.begin(), end);
      for (std::size_t i = 0; i < expected.size(); ++i)
        comparison.exact("pick", r, static_cast<std::int64_t>(i), found[i], expected[i]);
    }
    return comparison.result();
  }
  double flops() const override { return 0; }
  double bytes() const override {
    double sum = 0;
    for (const std::int64_t tokens : spec_.contexts) sum += 4.0 * static_cast<double>(tokens + spec_.top_k);
    return sum;
  }

 protected:
  IndexTopkLaunch operands(Operands& make) const override {
    IndexTopkLaunch a;
    const auto rows = static_cast<std::int64_t>(spec_.contexts.size());
    a.score_stride = longest(spec_);
    a.scores = make.fp32(rows, a.score_stride);
    a.rows = make.given(index_rows(spec_));
    a.cache = index_cache(make, layout_, nullptr);
    a.picks = make.output<std::int32_t>(rows * spec_.top_k);
    a.row_count = static_cast<std::int32_t>(rows);
    a.k = static_cast<std::int32_t>(spec_.top_k);
    return a;
  }

 private:
  PagedLayout layout_;
};

bool good_contexts(const CaseSpec& spec) {
  return !spec.contexts.empty() && *std::min_element(spec.contexts.begin(), spec.contexts.end()) >= 1;
}

}  // namespace

std::unique_ptr<KernelCase> make_index_scores_case(const CaseSpec& spec, std::string& why) {
  const bool good = good_contexts(spec) && (spec.heads == 32 || spec.heads == 64) && spec.block_size >= 16 &&
                    spec.block_size % 16 == 0;
  if (!needs(good, spec, "heads 32 or 64, contexts >= 1, block_size a multiple of 16", why)) return nullptr;
  return std::make_unique<IndexScoresCase>(spec);
}

std::unique_ptr<KernelCase> make_index_topk_case(const CaseSpec& spec, std::string& why) {
  const bool good = good_contexts(spec) && spec.top_k >= 1 && spec.block_size >= 1;
  if (!needs(good, spec, "top_k and contexts >= 1, block_size", why)) return nullptr;
  return std::make_unique<IndexTopkCase>(spec);
}

}  // namespace orrery::kernels
