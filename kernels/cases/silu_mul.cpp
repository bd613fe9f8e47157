#include "kernels/silu_mul.h"

#include <cmath>

#include "kernels/case_table.h"
#include "kernels/cases/case_support.h"
#include "kernels/rms_norm.h"

namespace orrery::kernels {

namespace {

class SiluMulCase : public CaseOf<SiluMulLaunch> {
 public:
  SiluMulCase(const CaseSpec& spec, Fp8Scaling scaling)
      : CaseOf(spec, "orrery." + spec.op + ".v1", launch_silu_mul), scaling_(scaling) {}

  CheckResult check(DeviceMemory& memory) override {
    Comparison comparison(kernel());
    const SiluMulLaunch& a = first();
    const auto n = static_cast<std::size_t>(spec_.n);
    for (const std::int64_t row : sampled_rows(spec_.m, spec_.n, spec_.seed)) {
      const auto in = fetch_bf16(memory, a.gate_up + row * 2 * spec_.n, 2 * spec_.n);
      std::vector<double> expected(n), slack(n);
      for (std::size_t i = 0; i < n; ++i) {
        const double gate = in[i], up = in[n + i];
        expected[i] = gate / (1 + std::exp(-gate)) * up;
        // The exponent's own rounding grows with the gate; a sigmoid below fp32's range is zero.
        constexpr double fp32_smallest_normal = 1.1754943508222875e-38;
        slack[i] = fp32_tolerance(expected[i]) * (1 + std::fabs(gate) / 8) +
                   4 * std::fabs(gate * up) * fp32_smallest_normal;
        if (std::isnan(slack[i])) slack[i] = 0;
      }
      if (scaling_ != Fp8Scaling::none) {
        compare_fp8_row(comparison, memory, a.quantized, row, expected, slack);
        continue;
      }
      const auto actual = fetch_bf16(memory, a.out + row * spec_.n, spec_.n);
      for (std::size_t i = 0; i < n; ++i) {
        comparison.value("out", row, static_cast<std::int64_t>(i), actual[i], expected[i],
                         bf16_tolerance(expected[i]) + slack[i]);
      }
    }
    return comparison.result();
  }
  double flops() const override { return 5 * static_cast<double>(spec_.m * spec_.n); }
  double bytes() const override {
    const double row = 2 * static_cast<double>(spec_.m * spec_.n);
    return 2 * row + (scaling_ == Fp8Scaling::none ? row : fp8_output_bytes(scaling_, spec_.m, spec_.n));
  }

 protected:
  SiluMulLaunch operands(Operands& make) const override {
    SiluMulLaunch a;
    a.gate_up = make.bf16(spec_.m, 2 * spec_.n);
    set_rows(a, make, scaling_, spec_);
    return a;
  }

 private:
  Fp8Scaling scaling_;
};

std::unique_ptr<KernelCase> make_scaled(const CaseSpec& spec, Fp8Scaling scaling, std::string& why) {
  const bool good = spec.m >= 1 && spec.n >= 8 && spec.n % 8 == 0 &&
                    (scaling != Fp8Scaling::group || spec.n % fp8_group == 0) &&
                    (scaling != Fp8Scaling::token || spec.n <= norm_most_columns);
  const char* need = "m >= 1 and n a multiple of 8; fp8-block: of 128; fp8-channel: at most 32768";
  if (!needs(good, spec, need, why)) return nullptr;
  return std::make_unique<SiluMulCase>(spec, scaling);
}

}  // namespace

std::unique_ptr<KernelCase> make_silu_mul_case(const CaseSpec& spec, std::string& why) {
  return make_scaled(spec, Fp8Scaling::none, why);
}
std::unique_ptr<KernelCase> make_silu_mul_quantize_case(const CaseSpec& spec, std::string& why) {
  Fp8Scaling scaling = Fp8Scaling::none;
  if (!quantises(spec, scaling, why)) return nullptr;
  return make_scaled(spec, scaling, why);
}

}  // namespace orrery::kernels
