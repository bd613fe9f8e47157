// A whole fused expert layer as engines' tables time it: rows sorted by expert, both products with the
// activation between them, quantisation where the format needs it, weighted sum. n = hidden width, k = expert
// width. A timing that holds the choice of experts (`choice_inside` of its set) gives that up: it is a node
// of the step graph, since ranks that share out experts or exchange rows choose for other rows than they
// multiply.
#include <algorithm>
#include <cmath>

#include "costmodel/moe.h"
#include "costmodel/op_table.h"
#include "costmodel/ops/common.h"
#include "costmodel/shared_experts.h"

namespace orrery {

namespace {

// vLLM's layer, timed whole and as one rank of two holds it, 64 shapes on an H100 (reports/cases/
// h100_vllm_0_24_experts): sorting (2), activation, zeroing, sum and the starts of both products take 24 µs
// where no other work is, 31 µs with the two quantisations: 3.4 µs each, 2.6 kernel floors. With these, a
// rank of two is priced from the whole layer's time within 5 % (bf16) and 10 % (FP8 blocks) above two tokens.
constexpr double small_kernels = 7, quantising_kernels = 2, small_kernel_start = 2.6;
constexpr double one_rank_error = 0.08;

class FusedExpertsOperator : public Operator {
 public:
  FusedExpertsOperator(const OpSpec& spec, const Roofline& roofline) : spec_(spec), roofline_(roofline) {
    ORRERY_CHECK(roofline.kernels() != nullptr, "a fused expert layer is priced from a table");
    const auto timed = timed_experts(*roofline.kernels(), spec.format.label, shape(), true);
    ORRERY_CHECK(timed.has_value(), "the step graph asked for a table that is not there");
    with_shared_ = timed->without_shared;
    spec_.experts = timed->shape.experts;
    spec_.experts_per_token = timed->shape.per_token;
    fitted_ = roofline.kernels()->experts(spec.format.label, shape());
    if (spec.variant.empty()) return;
    OpSpec choice = spec_;  // of the rows that the table is asked for
    choice.own_rows = choice.expert_rows = false;
    choice_ = find_operator(spec.variant)->make(choice, roofline);
  }

  OpCost cost(const StepInput& input) const override {
    const double tokens = static_cast<double>(tokens_of(spec_, input));
    const ExpertShare all = share(tokens, 1);
    OpCost cost = products(all);
    price_from_table(
        cost, *roofline_.kernels(), "experts", spec_.format.label, *fitted_, tokens,
        experts_bound_ns(roofline_.rates(), spec_.format.label, shape(), all.rows, all.distinct));
    if (choice_ != nullptr) {
      const double bound = std::max(cost.compute_ns, cost.memory_ns);
      cost.table_ns = std::max(cost.table_ns - choice_->cost(input).ns(), std::min(cost.table_ns, bound));
    }
    if (with_shared_) return one_rank(cost, tokens, {all.rows + tokens, all.distinct + 1});
    if (input.load != nullptr) return one_rank(cost, tokens, *input.load);
    return spec_.expert_ranks > 1 ? one_rank(cost, tokens, share(tokens, spec_.expert_ranks)) : cost;
  }

  std::string shape_text(const StepInput& input) const override {
    return "tokens=" + std::to_string(tokens_of(spec_, input)) + " experts=" + std::to_string(spec_.experts) +
           " top " + std::to_string(spec_.experts_per_token) + (with_shared_ ? "+1 " : " ") +
           std::to_string(spec_.n) + "x" + std::to_string(spec_.k) + " " + spec_.format.label;
  }
  KernelClass kernel_class() const override { return roofline_.grouped_class(spec_.format); }

 private:
  ExpertShare share(double tokens, std::int64_t ranks) const {
    return expected_slowest_rank(static_cast<double>(spec_.experts),
                                 static_cast<double>(spec_.experts_per_token), tokens,
                                 static_cast<double>(ranks));
  }

  OpCost products(const ExpertShare& share) const {
    const double n = static_cast<double>(spec_.n), k = static_cast<double>(spec_.k);
    OpCost cost;
    cost.flops = 6 * share.rows * n * k;
    cost.bytes = share.distinct * 3 * n * k * spec_.format.bytes_per_parameter;
    cost.compute_ns = cost.flops / roofline_.matrix_rate(spec_.format.math);
    cost.memory_ns = cost.bytes / roofline_.bandwidth();
    return cost;
  }

  // The timed layer holds all experts. A rank of several drops the rows of the others in both products only:
  // what passes over rows stays whole, and the rows that nobody writes are zeroed first. With a load of its
  // own a layer that one GPU holds whole goes the same way: its products are other ones than those timed.
  OpCost one_rank(const OpCost& layer, double tokens, const ExpertShare& load) const {
    const double n = static_cast<double>(spec_.n), k = static_cast<double>(spec_.k);
    const bool quantised = spec_.format.activation_bytes < 2;
    const double rows = spec_.own_rows ? load.rows : tokens * static_cast<double>(spec_.experts_per_token);
    const double passes = spec_.own_rows ? rows * (quantised ? 9 * k : 6 * k)  // sent here, added up where
                                                                               // they go back to
                                         : rows * (6 * k + 2 * n) + tokens * 2 * n +
                                               (quantised ? rows * 3 * k + tokens * 3 * n : 0);
    const auto stream_ns = [&](double bytes) {
      return roofline_.stream_ns(bytes, roofline_.stays_in_cache(bytes), 0, KernelClass::elementwise);
    };
    const double small = (quantised ? small_kernels + quantising_kernels : small_kernels) *
                             small_kernel_start * roofline_.kernel_floor_ns() +
                         stream_ns(passes);
    const double bound = std::max(layer.compute_ns, layer.memory_ns);
    OpCost cost = products(load);
    const double part = std::max(cost.compute_ns, cost.memory_ns) / bound;
    const double work = std::max(layer.table_ns - small, bound);
    if (spec_.own_rows) {  // activation, and its quantising
      cost.table_ns = work * part + (quantised ? 2 : 1) * small_kernel_start * roofline_.kernel_floor_ns() +
                      stream_ns(passes);
    } else if (spec_.expert_ranks > 1) {
      cost.table_ns = work * part + small + stream_ns(rows * 2 * n);
    } else {  // the timed layer with other products, and what passes over the shared expert's rows
      cost.table_ns = layer.table_ns + (part - 1) * std::min(work, layer.table_ns);
      if (with_shared_) cost.table_ns += stream_ns(passes * load.rows / rows) - stream_ns(passes);
    }
    cost.rung = layer.rung;
    cost.hit = layer.hit == Hit::exact ? Hit::interpolated : layer.hit;
    cost.error = std::sqrt(layer.error * layer.error + one_rank_error * one_rank_error);
    return cost;
  }

  ExpertShape shape() const { return {spec_.n, spec_.k, spec_.experts, spec_.experts_per_token}; }

  OpSpec spec_;
  const Roofline& roofline_;
  std::optional<FittedCurve> fitted_;
  std::unique_ptr<Operator> choice_;  // null where the timing holds none
  bool with_shared_ = false;          // and one expert more, which every token chooses
};

}  // namespace

std::unique_ptr<Operator> make_fused_experts(const OpSpec& spec, const Roofline& roofline) {
  return std::make_unique<FusedExpertsOperator>(spec, roofline);
}

}  // namespace orrery
