// Row-wise kernels of vLLM 0.24 on Hopper that wait for instructions, not for memory: their time is elements
// × ns of a unit ÷ units. Read off kernel profiles of DeepSeek-V3 on an H200 (reports/cases/
// h200_vllm_0_24_features, further_mtp.tar.xz), which the prices of whole steps are compared with, not fitted
// to.
#include "costmodel/op_table.h"
#include "costmodel/ops/common.h"

namespace orrery {

namespace {

// Inductor's kernel that rotates writes the queries anew, rotated part and rest (`clone, copy, …` of
// triton_poi_fused_add_clone_copy_expand_…): 9.6, 68.2, 198 and 263 µs for 128, 1,024, 3,072 and 4,096 tokens
// of 128 heads, 71 µs for 8,192 tokens of 16.
constexpr double query_copy = 0.35;
// silu_and_mul_per_block_quant (csrc of vLLM), 18,432 wide: 8.9, 17.8, 114.5, 332.8 and 445.3 µs for 64, 128,
// 1,024, 3,072 and 4,096 tokens.
constexpr double silu_blocks = 0.78;

class PacedOperator : public Operator {
 public:
  PacedOperator(const OpSpec& spec, const Roofline& roofline, double elements, double bytes, double pace)
      : spec_(spec), stream_(spec, roofline, bytes),
        ns_of_row_(elements * pace / static_cast<double>(roofline.units())) {}

  OpCost cost(const StepInput& input) const override {
    OpCost cost = stream_.cost(input);
    cost.compute_ns = static_cast<double>(rows_of(spec_, input)) * ns_of_row_;
    return cost;
  }
  KernelClass kernel_class() const override { return KernelClass::elementwise; }
  std::string shape_text(const StepInput& input) const override { return stream_.shape_text(input); }

 private:
  OpSpec spec_;
  StreamOperator stream_;
  double ns_of_row_;
};

constexpr double activation = 2;  // bytes

}  // namespace

// Of every head the whole query: head_dim + k wide.
std::unique_ptr<Operator> make_query_rotary(const OpSpec& spec, const Roofline& roofline) {
  const double elements = static_cast<double>(spec.heads * (spec.head_dim + spec.k));
  return std::make_unique<PacedOperator>(spec, roofline, elements, 2 * activation * elements, query_copy);
}

std::unique_ptr<Operator> make_silu_mul_blocks(const OpSpec& spec, const Roofline& roofline) {
  const double elements = static_cast<double>(spec.n);
  return std::make_unique<PacedOperator>(spec, roofline, elements,
                                         elements * (2 * activation + spec.out_bytes), silu_blocks);
}

// Two rows added up into a third.
std::unique_ptr<Operator> make_add_rows(const OpSpec& spec, const Roofline& roofline) {
  return std::make_unique<StreamOperator>(spec, roofline, 3 * activation * static_cast<double>(spec.n));
}

}  // namespace orrery
