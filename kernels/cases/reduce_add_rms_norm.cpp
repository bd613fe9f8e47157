#include "kernels/reduce_add_rms_norm.h"

#include "kernels/case_table.h"
#include "kernels/cases/case_support.h"
#include "kernels/cases/normed_row.h"
#include "kernels/rms_norm.h"

namespace orrery::kernels {

namespace {

// The parts of all ranks lie in one memory here: what is read from a peer is the same bytes over a slower
// way.
class ReduceAddRmsNormCase : public CaseOf<ReduceAddRmsNormLaunch> {
 public:
  ReduceAddRmsNormCase(const CaseSpec& spec, Fp8Scaling scaling)
      : CaseOf(spec, "orrery." + spec.op + ".v1", launch_reduce_add_rms_norm), scaling_(scaling) {}

  CheckResult check(DeviceMemory& memory) override {
    Comparison comparison(kernel());
    const ReduceAddRmsNormLaunch& a = first();
    const std::vector<double> weight = fetch_bf16(memory, a.weight, spec_.n);
    for (const std::int64_t row : sampled_rows(spec_.m, spec_.n, spec_.seed)) {
      const auto expected = reference_rms_norm(checked_sum(comparison, memory, row), weight, a.epsilon);
      compare_normed_row(comparison, memory, {a.out, a.quantized}, row, expected);
    }
    return comparison.result();
  }
  double flops() const override { return (5 + spec_.ranks - 1) * static_cast<double>(spec_.m * spec_.n); }
  double bytes() const override {
    const double row = 2 * static_cast<double>(spec_.m * spec_.n);
    const double out = scaling_ == Fp8Scaling::none ? row : fp8_output_bytes(scaling_, spec_.m, spec_.n);
    return (spec_.ranks + 2) * row + out;
  }

 protected:
  ReduceAddRmsNormLaunch operands(Operands& make) const override {
    ReduceAddRmsNormLaunch a;
    a.ranks = spec_.ranks;
    for (int r = 0; r < spec_.ranks; ++r) a.parts[r] = make.bf16(spec_.m, spec_.n);
    a.residual = make.bf16(spec_.m, spec_.n);
    a.residual_out = make.output<std::uint16_t>(spec_.m * spec_.n);
    a.weight = make.weight_bf16(spec_.n, true);
    set_rows(a, make, scaling_, spec_);
    return a;
  }

 private:
  // Compares the sum with what was written, and returns what was written: the norm's input.
  std::vector<double> checked_sum(Comparison& comparison, DeviceMemory& memory, std::int64_t row) const {
    const std::int64_t at = row * spec_.n;
    std::vector<std::vector<double>> terms = {fetch_bf16(memory, first().residual + at, spec_.n)};
    for (int r = 0; r < spec_.ranks; ++r) terms.push_back(fetch_bf16(memory, first().parts[r] + at, spec_.n));
    return compare_sum(comparison, row, terms, fetch_bf16(memory, first().residual_out + at, spec_.n));
  }

  Fp8Scaling scaling_;
};

std::unique_ptr<KernelCase> make_any(const CaseSpec& spec, Fp8Scaling scaling, std::string& why) {
  const bool ranks = spec.ranks == 2 || spec.ranks == 4 || spec.ranks == 8;
  const bool good = spec.m >= 1 && spec.n >= 8 && spec.n % 8 == 0 && spec.n <= norm_most_columns && ranks &&
                    (scaling != Fp8Scaling::group || spec.n % fp8_group == 0);
  const char* need = "ranks 2, 4 or 8, m >= 1 and n up to 32768, a multiple of 8, of 128 for fp8-block";
  if (!needs(good, spec, need, why)) return nullptr;
  return std::make_unique<ReduceAddRmsNormCase>(spec, scaling);
}

}  // namespace

std::unique_ptr<KernelCase> make_reduce_add_rms_norm_case(const CaseSpec& spec, std::string& why) {
  return make_any(spec, Fp8Scaling::none, why);
}
std::unique_ptr<KernelCase> make_reduce_add_rms_norm_quantize_case(const CaseSpec& spec, std::string& why) {
  Fp8Scaling scaling = Fp8Scaling::none;
  if (!quantises(spec, scaling, why)) return nullptr;
  return make_any(spec, scaling, why);
}

}  // namespace orrery::kernels
