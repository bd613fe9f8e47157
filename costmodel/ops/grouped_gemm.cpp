// The experts' matrix products of an MoE layer: one launch, rows grouped by expert, each group padded to a
// row block. Time is that of the distinct experts' weights or of the padded row tiles, whichever is longer.
#include <algorithm>

#include "costmodel/moe.h"
#include "costmodel/moe_tiles.h"
#include "costmodel/op_table.h"
#include "costmodel/ops/common.h"

namespace orrery {

namespace {

// How often an expert's weights come from memory: once, unless its row blocks are so many, and its weights so
// large, that they have left the last cache before the next group of blocks.
double times_read(const Roofline& roofline, const OpSpec& spec, const GroupedRows& rows) {
  const double expert =
      static_cast<double>(spec.n) * static_cast<double>(spec.k) * spec.format.bytes_per_parameter;
  const double blocks = rows.row_tiles / std::max(1.0, rows.distinct);
  const double together = static_cast<double>(rows.tile->group);
  return roofline.stays_in_cache(expert) || blocks <= together ? 1 : blocks / together;
}

// Every tile reads its rows of both operands through the last cache: a tile with few rows reads the more for
// what it multiplies.
double tile_operands_ns(const Roofline& roofline, const OpSpec& spec, const GroupedRows& rows) {
  const double across = std::ceil(static_cast<double>(spec.n) / static_cast<double>(rows.tile->columns));
  const double tile = (static_cast<double>(rows.tile->rows) * spec.format.activation_bytes +
                       static_cast<double>(rows.tile->columns) * spec.format.bytes_per_parameter) *
                      static_cast<double>(spec.k);
  return roofline.stream_ns(rows.row_tiles * across * tile, true, 0, KernelClass::memory);
}

}  // namespace

OpCost grouped_gemm_cost(const Roofline& roofline, const OpSpec& spec, const GroupedRows& rows) {
  const KernelClass kernel_class = roofline.grouped_class(spec.format);
  const double n = static_cast<double>(spec.n);
  const double k = static_cast<double>(spec.k);
  OpCost cost;
  cost.flops = 2 * rows.rows * n * k;
  const std::int64_t columns = rows.tile != nullptr ? rows.tile->columns : 128;
  cost.compute_ns = roofline.grouped_ns(rows.row_tiles, rows.block_rows, spec.n, spec.k, spec.format.math,
                                        roofline.efficiency(kernel_class), columns);
  double weights = rows.distinct * n * k * spec.format.bytes_per_parameter;
  if (rows.tile != nullptr) weights *= times_read(roofline, spec, rows);
  const double activations = rows.rows * (k * spec.format.activation_bytes + n * spec.out_bytes);
  const bool cached = roofline.stays_in_cache(activations);
  cost.bytes = weights + (cached ? 0 : activations);
  cost.memory_ns = roofline.stream_ns(activations, cached, weights, KernelClass::memory);
  if (rows.tile != nullptr) cost.memory_ns = std::max(cost.memory_ns, tile_operands_ns(roofline, spec, rows));
  cost.latency_ns = grouped_gemm_start * roofline.kernel_floor_ns();
  return cost;
}

namespace {

class GroupedGemmOperator : public Operator {
 public:
  GroupedGemmOperator(const OpSpec& spec, const Roofline& roofline)
      : spec_(spec), roofline_(roofline), timed_(spec.variant == "timed") {}

  OpCost cost(const StepInput& input) const override {
    GroupedRows r = rows(input);
    if (spec_.tiles != nullptr || (timed_ && roofline_.kernels() != nullptr)) return cost_of_tile(r, input);
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
           " n=" + std::to_string(spec_.n) + " k=" + std::to_string(spec_.k) + " " + spec_.format.label +
           (by_law() ? " tile=" + spec_.tiles->at(tokens_of(spec_, input)).text() : "");
  }
  KernelClass kernel_class() const override { return roofline_.grouped_class(spec_.format); }

 private:
  // Where a table has the product, `tiles` has said which of its rows.
  bool by_law() const {
    return spec_.tiles != nullptr &&
           (roofline_.kernels() == nullptr || !roofline_.kernels()->has_grouped(spec_.format.label));
  }

  OpCost cost_of_tile(GroupedRows r, const StepInput& input) const {
    if (by_law()) {
      const MoeTile tile = spec_.tiles->at(tokens_of(spec_, input));
      r.tile = &tile;
      r.block_rows = tile.rows;
      r.row_tiles = expected_row_tiles(r.distinct, r.rows, r.block_rows);
      return grouped_gemm_cost(roofline_, spec_, r);
    }
    OpCost cost = grouped_gemm_cost(roofline_, spec_, r);
    const KernelSet& kernels = *roofline_.kernels();
    const double each = r.rows / r.distinct;
    if (const auto fitted = kernels.grouped_gemm(spec_.format.label, spec_.n, spec_.k, r.distinct)) {
      const double bound = gemm_bound_ns(roofline_.rates(), spec_.format.label, each,
                                         static_cast<double>(spec_.n), static_cast<double>(spec_.k));
      price_from_table(cost, kernels, "grouped_gemm", spec_.format.label, *fitted, each, bound * r.distinct);
    }
    return cost;
  }

  GroupedRows rows(const StepInput& input) const {
    const double tokens = static_cast<double>(tokens_of(spec_, input));
    GroupedRows r;
    const ExpertShare share = input.load != nullptr
                                  ? *input.load
                                  : expected_slowest_rank(static_cast<double>(spec_.experts),
                                                          static_cast<double>(spec_.experts_per_token),
                                                          tokens, static_cast<double>(spec_.expert_ranks));
    r.rows = share.rows;
    r.distinct = share.distinct;
    r.block_rows = moe_block_rows(tokens_of(spec_, input));
    r.row_tiles = expected_row_tiles(r.distinct, r.rows, r.block_rows);
    return r;
  }

  OpSpec spec_;
  const Roofline& roofline_;
  bool timed_;  // our own kernel, which the table is of
};

}  // namespace

std::unique_ptr<Operator> make_grouped_gemm(const OpSpec& spec, const Roofline& roofline) {
  return std::make_unique<GroupedGemmOperator>(spec, roofline);
}

}  // namespace orrery
