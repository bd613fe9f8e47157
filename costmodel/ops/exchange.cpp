// Dispatch and combine of experts' rows by point-to-point kernels: costmodel/expert_exchange.h.
#include "costmodel/expert_exchange.h"

#include <algorithm>

#include "costmodel/op_table.h"
#include "costmodel/ops/common.h"

namespace orrery {

namespace {

class ExchangeOperator : public Operator {
 public:
  ExchangeOperator(const OpSpec& spec, const Roofline& roofline)
      : shape_(*spec.exchange), bytes_(exchange_bytes(shape_)) {
    const std::int32_t in_node = std::min(shape_.ranks, gpus_of_node);
    if (in_node > 1) inside_rate_ = roofline.link_rate(in_node) / roofline.link_efficiency();
    if (shape_.nodes() > 1)
      network_rate_ = shape_.table->network_link.value.value() * 1e-9 * shape_.table->network_ratio;
    const ExchangeFigures& f =
        shape_.low_latency ? side(shape_.table->low_latency) : side(shape_.table->normal);
    error_ = shape_.nodes() > 1 ? f.network_error.value : f.error.value;
    error_ += shape_.table->more_error;
  }

  OpCost cost(const StepInput& input) const override {
    const ExchangeRows rows = busiest_rows(shape_, input);
    const ExchangeTime time = exchange_time(shape_, rows);
    OpCost cost;
    cost.latency_ns = time.fixed;
    cost.link_ns = time.ns() - time.fixed;
    cost.link_bytes = own(input) * (bytes_.near + bytes_.far);
    if (inside_rate_ > 0) cost.inside_ns = rows.near * bytes_.near / inside_rate_;
    if (network_rate_ > 0) {
      cost.network_bytes = rows.far * bytes_.far;
      cost.network_ns = cost.network_bytes / network_rate_;
    }
    cost.rung = shape_.table->own() ? Rung::published : Rung::transported;
    // Tables are of whole nodes.
    const bool whole = shape_.ranks % gpus_of_node == 0;
    cost.hit = whole ? Hit::interpolated : Hit::extrapolated;
    cost.error = whole ? error_ : 2 * error_;
    return cost;
  }

  std::string shape_text(const StepInput& input) const override {
    return std::string(shape_.table->library) + (shape_.low_latency ? " low latency" : " normal") +
           " rows=" + std::to_string(static_cast<std::int64_t>(busiest_rows(shape_, input).near)) +
           " bytes/token=" + std::to_string(static_cast<std::int64_t>(bytes_.near)) + "+" +
           std::to_string(static_cast<std::int64_t>(bytes_.far)) + " ranks=" + std::to_string(shape_.ranks) +
           " nodes=" + std::to_string(shape_.nodes());
  }
  KernelClass kernel_class() const override { return KernelClass::collective; }

 private:
  const ExchangeFigures& side(const ExchangeKernels& kernels) const {
    return shape_.dispatch ? kernels.dispatch : kernels.combine;
  }

  double own(const StepInput& input) const {
    return static_cast<double>((input.own + shape_.own_parts - 1) / shape_.own_parts);
  }

  ExchangeShape shape_;
  ExchangeBytes bytes_;
  double error_ = 0;
  double inside_rate_ = 0, network_rate_ = 0;  // of a GPU's links, bytes a nanosecond
};

// Has no work; price_nodes gives its line what overlap makes of the sum of all others.
class HiddenLine : public Operator {
 public:
  explicit HiddenLine(DependsOn depends_on) : depends_on_(depends_on) {}
  OpCost cost(const StepInput&) const override { return {}; }
  std::string shape_text(const StepInput&) const override {
    return depends_on_ == DependsOn::side_stream   ? "beside routed experts"
           : depends_on_ == DependsOn::early_start ? "programmatic dependent launch"
                                                   : "two batches";
  }
  KernelClass kernel_class() const override { return KernelClass::collective; }

 private:
  DependsOn depends_on_;
};

}  // namespace

std::unique_ptr<Operator> make_hidden(const OpSpec& spec, const Roofline&) {
  return std::make_unique<HiddenLine>(spec.depends_on);
}

std::unique_ptr<Operator> make_exchange(const OpSpec& spec, const Roofline& roofline) {
  return std::make_unique<ExchangeOperator>(spec, roofline);
}

}  // namespace orrery
