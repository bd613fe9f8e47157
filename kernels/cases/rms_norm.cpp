#include "kernels/rms_norm.h"

#include "kernels/case_table.h"
#include "kernels/cases/case_support.h"
#include "kernels/cases/normed_row.h"

namespace orrery::kernels {

namespace {

class RmsNormCase : public CaseOf<RmsNormLaunch> {
 public:
  RmsNormCase(const CaseSpec& spec, bool add, Fp8Scaling scaling)
      : CaseOf(spec, "orrery." + spec.op + ".v1", launch_rms_norm), add_(add), scaling_(scaling) {}

  CheckResult check(DeviceMemory& memory) override {
    Comparison comparison(kernel());
    const RmsNormLaunch& a = first();
    const std::vector<double> weight = fetch_bf16(memory, a.weight, spec_.n);
    for (const std::int64_t row : sampled_rows(spec_.m, spec_.n, spec_.seed)) {
      const std::int64_t at = row * spec_.n;
      std::vector<double> x = fetch_bf16(memory, a.x + at, spec_.n);
      if (add_) x = checked_sum(comparison, memory, row, x);
      const auto expected = reference_rms_norm(x, weight, a.epsilon);
      compare_normed_row(comparison, memory, {a.out, a.quantized}, row, expected);
    }
    return comparison.result();
  }
  double flops() const override { return (add_ ? 5 : 4) * static_cast<double>(spec_.m * spec_.n); }
  double bytes() const override {
    const double row = 2 * static_cast<double>(spec_.m * spec_.n);
    const double out = scaling_ == Fp8Scaling::none ? row : fp8_output_bytes(scaling_, spec_.m, spec_.n);
    return (add_ ? 3 : 1) * row + out;
  }

 protected:
  RmsNormLaunch operands(Operands& make) const override {
    RmsNormLaunch a;
    a.x = make.bf16(spec_.m, spec_.n);
    if (add_) {
      a.residual = make.bf16(spec_.m, spec_.n);
      a.residual_out = make.output<std::uint16_t>(spec_.m * spec_.n);
    }
    a.weight = make.weight_bf16(spec_.n, true);
    set_rows(a, make, scaling_, spec_);
    return a;
  }

 private:
  // Compares x + residual with what was written, and returns what was written: the norm's input.
  std::vector<double> checked_sum(Comparison& comparison, DeviceMemory& memory, std::int64_t row,
                                  const std::vector<double>& x) {
    const auto residual = fetch_bf16(memory, first().residual + row * spec_.n, spec_.n);
    auto sum = fetch_bf16(memory, first().residual_out + row * spec_.n, spec_.n);
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double expected = x[i] + residual[i];
      comparison.value("sum", row, static_cast<std::int64_t>(i), sum[i], expected, bf16_tolerance(expected));
    }
    return sum;
  }

  bool add_;
  Fp8Scaling scaling_;
};

std::unique_ptr<KernelCase> make_norm(const CaseSpec& spec, bool add, Fp8Scaling scaling, std::string& why) {
  const bool good = spec.m >= 1 && spec.n >= 8 && spec.n % 8 == 0 && spec.n <= norm_most_columns &&
                    (scaling != Fp8Scaling::group || spec.n % fp8_group == 0);
  const char* need = "m >= 1 and n up to 32768, a multiple of 8, of 128 for fp8-block";
  if (!needs(good, spec, need, why)) return nullptr;
  return std::make_unique<RmsNormCase>(spec, add, scaling);
}

}  // namespace

std::unique_ptr<KernelCase> make_rms_norm_case(const CaseSpec& spec, std::string& why) {
  return make_norm(spec, false, Fp8Scaling::none, why);
}
std::unique_ptr<KernelCase> make_add_rms_norm_case(const CaseSpec& spec, std::string& why) {
  return make_norm(spec, true, Fp8Scaling::none, why);
}
std::unique_ptr<KernelCase> make_add_rms_norm_quantize_case(const CaseSpec& spec, std::string& why) {
  Fp8Scaling scaling = Fp8Scaling::none;
  if (!quantises(spec, scaling, why)) return nullptr;
  return make_norm(spec, true, scaling, why);
}

}  // namespace orrery::kernels
