// Shared by the operators: the pieces of a cost that most of them have.
#pragma once

#include <memory>
#include <string>

#include "costmodel/operator.h"
#include "costmodel/roofline.h"

namespace orrery {

// What a step calls the rows of an operator.
inline std::int64_t rows_of(const OpSpec& spec, const StepInput& input) {
  const std::int64_t rows = spec.depends_on == DependsOn::rows ? input.rows : input.tokens;
  return spec.expert_rows ? rows * spec.experts_per_token : rows;
}

// A kernel that streams `per_row` bytes of activations and `hbm_per_row` bytes that must reach memory.
class StreamOperator : public Operator {
 public:
  StreamOperator(const OpSpec& spec, const Roofline& roofline, double per_row, double hbm_per_row = 0,
                 double launches = 1)
      : spec_(spec), roofline_(roofline), per_row_(per_row), hbm_per_row_(hbm_per_row), launches_(launches) {}

  OpCost cost(const StepInput& input) const override {
    const double rows = static_cast<double>(rows_of(spec_, input));
    const double activations = rows * per_row_;
    const bool cached = roofline_.stays_in_cache(activations);
    OpCost cost;
    cost.bytes = rows * hbm_per_row_ + (cached ? 0 : activations);
    cost.memory_ns = roofline_.stream_ns(activations, cached, rows * hbm_per_row_, KernelClass::elementwise);
    cost.latency_ns = roofline_.kernel_floor_ns() * launches_;
    return cost;
  }

  KernelClass kernel_class() const override { return KernelClass::elementwise; }

  std::string shape_text(const StepInput& input) const override {
    return "rows=" + std::to_string(rows_of(spec_, input)) +
           " bytes/row=" + std::to_string(static_cast<std::int64_t>(per_row_ + hbm_per_row_));
  }

 private:
  OpSpec spec_;
  const Roofline& roofline_;
  double per_row_, hbm_per_row_, launches_;
};

}  // namespace orrery
