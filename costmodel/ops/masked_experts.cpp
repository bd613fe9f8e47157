// An expert layer's products behind a low-latency exchange, in FP8 blocks: two masked products (DeepGEMM)
// with activation and quantising between them. Rows come grouped, each expert's in a buffer for the most
// there could be; a kernel computes whole tiles of the rows that are there, and skips experts without any.
//   time = start + max(weights / memory, tiles · rows of a tile / compute) + what passes over rows
// Figures: hardware_profiles/exchange. n = hidden width, k = expert width.
#include <algorithm>
#include <cmath>

#include "costmodel/expert_exchange.h"
#include "costmodel/moe.h"
#include "costmodel/op_table.h"
#include "costmodel/ops/common.h"

namespace orrery {

namespace {

class MaskedExpertsOperator : public Operator {
 public:
  MaskedExpertsOperator(const OpSpec& spec, const Roofline& roofline)
      : spec_(spec), roofline_(roofline), masked_(spec.exchange->table->masked) {}

  OpCost cost(const StepInput& input) const override {
    const ExpertShare share = slowest(input);
    const double n = static_cast<double>(spec_.n), k = static_cast<double>(spec_.k);
    const double tiles =
        expected_row_tiles(share.distinct, share.rows, static_cast<std::int64_t>(masked_.rows.value)) +
        share.uneven_tiles;
    const double computed = tiles * masked_.rows.value;
    OpCost cost;
    cost.flops = 6 * share.rows * n * k;
    cost.bytes = share.distinct * 3 * n * k * spec_.format.bytes_per_parameter;
    cost.compute_ns =
        6 * computed * n * k / (roofline_.matrix_rate(spec_.format.math) * masked_.compute.value);
    // Gate and up written and read, the product of both written and read in 8 bits; rows in, outputs out.
    const double passes = share.rows * (9 * k + 3 * n) / roofline_.bandwidth();
    cost.memory_ns = cost.bytes / (roofline_.bandwidth() * masked_.memory.value);
    cost.latency_ns = masked_.start.value.value() * 1e9;
    cost.table_ns = cost.latency_ns + std::max(cost.compute_ns, cost.memory_ns) + passes;
    const bool own = spec_.exchange->table->own();
    cost.rung = own ? Rung::published : Rung::transported;
    cost.hit = Hit::interpolated;
    const double carried = own ? 0 : transport_error;
    cost.error = std::sqrt(masked_.error.value * masked_.error.value + carried * carried);
    return cost;
  }

  std::string shape_text(const StepInput& input) const override {
    const ExpertShare share = slowest(input);
    return "rows=" + std::to_string(static_cast<std::int64_t>(share.rows)) +
           " experts=" + std::to_string(round_half_even(share.distinct)) + "/" +
           std::to_string(spec_.experts) + " " + std::to_string(spec_.n) + "x" + std::to_string(spec_.k) +
           " masked";
  }
  KernelClass kernel_class() const override { return roofline_.grouped_class(spec_.format); }

 private:
  ExpertShare slowest(const StepInput& input) const {
    if (input.load != nullptr) return *input.load;
    return expected_slowest_rank(
        static_cast<double>(spec_.experts), static_cast<double>(spec_.experts_per_token),
        static_cast<double>(tokens_of(spec_, input)), static_cast<double>(spec_.expert_ranks));
  }

  OpSpec spec_;
  const Roofline& roofline_;
  MaskedExperts masked_;
};

}  // namespace

std::unique_ptr<Operator> make_masked_experts(const OpSpec& spec, const Roofline& roofline) {
  return std::make_unique<MaskedExpertsOperator>(spec, roofline);
}

}  // namespace orrery
