// Attention and row-wise operators as a rank of context parallelism runs them: the same kernels over a part
// of the step (costmodel/context_parallel.h).
#include <algorithm>
#include <utility>
#include <vector>

#include "costmodel/op_table.h"
#include "costmodel/ops/common.h"

namespace orrery {

namespace {

// Two launches, one after the other.
OpCost one_after_other(const OpCost& a, const OpCost& b) {
  OpCost sum = a;
  sum.flops += b.flops;
  sum.bytes += b.bytes;
  sum.compute_ns += b.compute_ns;
  sum.memory_ns += b.memory_ns;
  sum.latency_ns += b.latency_ns;
  sum.table_ns = a.ns() + b.ns();
  sum.error = std::max(a.error, b.error);
  sum.hit = std::max(a.hit, b.hit);
  return sum;
}

// `part` of what a launch takes beyond its start.
OpCost scaled(OpCost cost, double part) {
  const double start = cost.latency_ns;
  if (cost.table_ns > 0)
    cost.table_ns = std::min(cost.table_ns, start) + std::max(0.0, cost.table_ns - start) * part;
  cost.flops *= part;
  cost.bytes *= part;
  cost.compute_ns *= part;
  cost.memory_ns *= part;
  return cost;
}

class OneRankOperator : public Operator {
 public:
  OneRankOperator(std::unique_ptr<Operator> whole, const OpSpec& spec)
      : whole_(std::move(whole)), spec_(spec) {}

  OpCost cost(const StepInput& input) const override {
    switch (spec_.context) {
      case ContextUse::halves: return splits(input) ? slowest_rank(input) : whole_->cost(input);
      case ContextUse::halves_only: return splits(input) ? slowest_rank(input) : OpCost{};
      case ContextUse::rows: return splits(input) ? rows_of_a_rank(input) : OpCost{};
      case ContextUse::whole: return splits(input) ? OpCost{} : whole_->cost(input);
      case ContextUse::part: return of_a_part(input, 0);
      case ContextUse::part_with_new: return of_a_part(input, input.shape->decode_sequences);
      case ContextUse::past: return past(input);
      case ContextUse::fresh: return fresh(input);
      case ContextUse::cached_rows: return over_rows(input, cached(*input.shape));
      case ContextUse::decode_rows: return over_rows(input, input.shape->decode_sequences);
      case ContextUse::none: break;
    }
    return whole_->cost(input);
  }

  std::string shape_text(const StepInput& input) const override {
    StepInput rows = input;
    if (spec_.context == ContextUse::cached_rows) rows.tokens = cached(*input.shape);
    if (spec_.context == ContextUse::decode_rows) rows.tokens = input.shape->decode_sequences;
    return whole_->shape_text(rows) + " of " + std::to_string(spec_.context_ranks) + " ranks";
  }
  KernelClass kernel_class() const override { return whole_->kernel_class(); }

 private:
  bool splits(const StepInput& input) const {
    return spec_.splits && can_split(*input.shape, spec_.context_ranks);
  }

  static std::int64_t cached(const StepShape& shape) {
    std::int64_t tokens = 0;
    for (const PrefillChunk& chunk : shape.prefill) tokens += chunk.context;
    return tokens;
  }

  OpCost with(const StepInput& input, std::span<const PrefillChunk> chunks) const {
    StepShape shape = *input.shape;
    shape.prefill = chunks;
    StepInput part = input;
    part.shape = &shape;
    return whole_->cost(part);
  }

  OpCost slowest_rank(const StepInput& input) const {
    OpCost slowest;
    std::vector<PrefillChunk> early, late;
    for (std::int32_t rank = 0; rank < spec_.context_ranks; ++rank) {
      early.clear();
      late.clear();
      add_blocks(*input.shape, spec_.context_ranks, rank, 0, early);
      add_blocks(*input.shape, spec_.context_ranks, rank, 1, late);
      const OpCost cost = one_after_other(with(input, early), with(input, late));
      if (rank == 0 || cost.ns() > slowest.ns()) slowest = cost;
    }
    return slowest;
  }

  OpCost rows_of_a_rank(const StepInput& input) const {
    std::vector<PrefillChunk> blocks;
    add_blocks(*input.shape, spec_.context_ranks, 0, 0, blocks);
    add_blocks(*input.shape, spec_.context_ranks, 0, 1, blocks);
    return with(input, blocks);
  }

  // What decode attention counts itself, a key a sequence for the new token, is taken off here; `own` of them
  // are in the cache like all others.
  OpCost of_a_part(const StepInput& input, std::int64_t own) const {
    StepShape shape = *input.shape;
    const double sequences = shape.decode_sequences;
    const double share = static_cast<double>(shape.decode_context_tokens + own) / spec_.context_ranks +
                         sequences * tokens_ahead(spec_.context_ranks, spec_.interleave);
    shape.decode_context_tokens = std::max<std::int64_t>(0, static_cast<std::int64_t>(share - sequences));
    StepInput part = input;
    part.shape = &shape;
    return whole_->cost(part);
  }

  // Every new token looks at all of its rank's part. The causal kernel's price for as many pairs: a chunk
  // whose context is shorter by half of its own tokens; where the part is too short for that, its share of
  // one without a context.
  OpCost past(const StepInput& input) const {
    std::vector<PrefillChunk> chunks;
    double pairs = 0, least = 0;
    for (const PrefillChunk& chunk : input.shape->prefill) {
      const double own = static_cast<double>(chunk.context) / spec_.context_ranks +
                         (chunk.context > 0 ? tokens_ahead(spec_.context_ranks, spec_.interleave) : 0);
      const double half = (chunk.new_tokens + 1) / 2.0;
      pairs += chunk.new_tokens * own;
      least += chunk.new_tokens * std::max(own, half);
      chunks.push_back({chunk.new_tokens, std::max<std::int64_t>(0, static_cast<std::int64_t>(own - half))});
    }
    const OpCost cost = scaled(with(input, chunks), pairs < least ? pairs / least : 1);
    if (pairs < least) return cost;
    // Some tables have a first chunk longer than one with a little context: not of more keys.
    for (PrefillChunk& chunk : chunks) chunk.context = 0;
    const OpCost first = with(input, chunks);
    return first.ns() > cost.ns() ? first : cost;
  }

  OpCost fresh(const StepInput& input) const {
    StepShape shape = *input.shape;
    std::vector<PrefillChunk> chunks(shape.prefill.begin(), shape.prefill.end());
    for (PrefillChunk& chunk : chunks) chunk.context = 0;
    shape.prefill = chunks;
    shape.decode_context_tokens = 0;
    StepInput part = input;
    part.shape = &shape;
    return whole_->cost(part);
  }

  OpCost over_rows(const StepInput& input, std::int64_t rows) const {
    if (rows == 0) return {};
    StepInput part = input;
    part.tokens = rows;
    return whole_->cost(part);
  }

  std::unique_ptr<Operator> whole_;
  OpSpec spec_;
};

}  // namespace

std::unique_ptr<Operator> on_one_rank(std::unique_ptr<Operator> whole, const OpSpec& spec) {
  if (spec.context == ContextUse::none) return whole;
  return std::make_unique<OneRankOperator>(std::move(whole), spec);
}

}  // namespace orrery
