// Collectives of tensor parallelism as operators of the graph: bytes = rows · n · 2.
#include "costmodel/collective.h"
#include "costmodel/op_table.h"
#include "costmodel/ops/common.h"

namespace orrery {

namespace {

class CollectiveOperator : public Operator {
 public:
  CollectiveOperator(const OpSpec& spec, const Roofline& roofline, Collective collective)
      : spec_(spec), roofline_(roofline), collective_(collective) {
    if (roofline.kernels() != nullptr && spec.links == nullptr)
      fitted_ = roofline.kernels()->collective(to_string(collective), spec.ranks);
  }

  OpCost cost(const StepInput& input) const override {
    if (spec_.links != nullptr) return across_nodes_cost(roofline_, collective_, bytes(input), *spec_.links);
    OpCost cost = collective_cost(roofline_, collective_, bytes(input), spec_.ranks);
    if (fitted_) {
      price_from_table(cost, *roofline_.kernels(), "collectives", "", *fitted_, bytes(input),
                       bytes(input) / roofline_.rates().link);
    }
    const double more = spec_.further * further_tensor_ns(roofline_, spec_.ranks);
    cost.latency_ns += more;
    if (cost.table_ns > 0) cost.table_ns += more;
    return cost;
  }
  std::string shape_text(const StepInput& input) const override {
    return "bytes=" + std::to_string(static_cast<std::int64_t>(bytes(input))) +
           " ranks=" + std::to_string(spec_.ranks) + nodes_text(input);
  }
  KernelClass kernel_class() const override { return KernelClass::collective; }

 private:
  std::string nodes_text(const StepInput& input) const {
    if (spec_.links == nullptr) return "";
    return " nodes=" + std::to_string(spec_.links->nodes) + " " +
           quickest_way(roofline_, collective_, bytes(input), *spec_.links).name;
  }
  double bytes(const StepInput& input) const {
    return static_cast<double>(rows_of(spec_, input) * spec_.n) * spec_.out_bytes;
  }
  OpSpec spec_;
  const Roofline& roofline_;
  Collective collective_;
  std::optional<FittedCurve> fitted_;
};

}  // namespace

std::unique_ptr<Operator> make_all_reduce(const OpSpec& spec, const Roofline& roofline) {
  return std::make_unique<CollectiveOperator>(spec, roofline, Collective::all_reduce);
}

std::unique_ptr<Operator> make_all_gather(const OpSpec& spec, const Roofline& roofline) {
  return std::make_unique<CollectiveOperator>(spec, roofline, Collective::all_gather);
}

std::unique_ptr<Operator> make_send_recv(const OpSpec& spec, const Roofline& roofline) {
  return std::make_unique<CollectiveOperator>(spec, roofline, Collective::send_recv);
}

std::unique_ptr<Operator> make_reduce_scatter(const OpSpec& spec, const Roofline& roofline) {
  return std::make_unique<CollectiveOperator>(spec, roofline, Collective::reduce_scatter);
}

std::unique_ptr<Operator> make_all_to_all(const OpSpec& spec, const Roofline& roofline) {
  return std::make_unique<CollectiveOperator>(spec, roofline, Collective::all_to_all);
}

}  // namespace orrery
