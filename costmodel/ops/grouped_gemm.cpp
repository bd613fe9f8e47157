// The experts' matrix products of an MoE layer: one launch, rows grouped by expert, each group padded to a
// row block. Time is that of the distinct experts' weights or of the padded row tiles, whichever is longer.
#include <algorithm>

#include "costmodel/moe.h"
#include "costmodel/op_table.h"
#include "costmodel/ops/common.h"

namespace orrery {

OpCost grouped_gemm_cost(const Roofline& roofline, const OpSpec& spec, const GroupedRows& rows) {
  const KernelClass kernel_class = roofline.grouped_class(spec.format);
  const double n = static_cast<double>(spec.n);
  const double k = static_cast<double>(spec.k);
  OpCost cost;
  cost.flops = 2 * rows.rows * n * k;
  cost.compute_ns = roofline.grouped_ns(rows.row_tiles, rows.block_rows, spec.n, spec.k, spec.format.math,
                                        roofline.efficiency(kernel_class));
  const double weights = rows.distinct * n * k * spec.format.bytes_per_parameter;
  const double activations = rows.rows * (k * spec.format.activation_bytes + n * spec.out_bytes);
  const bool cached = roofline.stays_in_cache(activations);
  cost.bytes = weights + (cached ? 0 : activations);
  cost.memory_ns = roofline.stream_ns(activations, cached, weights, KernelClass::memory);
  cost.latency_ns = grouped_gemm_start * roofline.kernel_floor_ns();
  return cost;
}

namespace {

class GroupedGemmOperator : public Operator {
 public:
  GroupedGemmOperator(const OpSpec& spec, const Roofline& roofline) : spec_(spec), roofline_(roofline) {}

  OpCost cost(const StepInput& input) const override {
    GroupedRows r = rows(input);
    if (spec_.format.label != "w4a8") return grouped_gemm_cost(roofline_, spec_, r);
    OpCost best;
    for (const std::int64_t block : swapped_blocks) {
      r.block_rows = block;
      r.row_tiles = expected_row_tiles(r.distinct, r.rows, block);
      const OpCost cost = grouped_gemm_cost(roofline_, spec_, r);
      if (block == swapped_blocks.front() || cost.compute_ns < best.compute_ns) best = cost;
    }
    return best;
  }

  std::string shape_text(const StepInput& input) const override {
    const GroupedRows r = rows(input);
    return "rows=" + std::to_string(static_cast<std::int64_t>(r.rows)) +
           " experts=" + std::to_string(round_half_even(r.distinct)) + "/" + std::to_string(spec_.experts) +
           " n=" + std::to_string(spec_.n) + " k=" + std::to_string(spec_.k) + " " + spec_.format.label;
  }
  KernelClass kernel_class() const override { return roofline_.grouped_class(spec_.format); }

 private:
  GroupedRows rows(const StepInput& input) const {
    const double tokens = static_cast<double>(input.tokens);
    GroupedRows r;
    const ExpertShare share = input.load != nullptr
                                  ? *input.load
                                  : expected_slowest_rank(static_cast<double>(spec_.experts),
                                                          static_cast<double>(spec_.experts_per_token),
                                                          tokens, static_cast<double>(spec_.expert_ranks));
    r.rows = share.rows;
    r.distinct = share.distinct;
    r.block_rows = moe_block_rows(input.tokens);
    r.row_tiles = expected_row_tiles(r.distinct, r.rows, r.block_rows);
    return r;
  }

  OpSpec spec_;
  const Roofline& roofline_;
};

}  // namespace

std::unique_ptr<Operator> make_grouped_gemm(const OpSpec& spec, const Roofline& roofline) {
  return std::make_unique<GroupedGemmOperator>(spec, roofline);
}

}  // namespace orrery
