#include "kernels/silu_mul.h"

#include <algorithm>
#include <cmath>
#include <numeric>

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
    for (const std::int64_t sampled : sampled_rows(used_rows(), spec_.n, spec_.seed)) {
      const std::int64_t row = row_of(sampled);
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
    check_unused(memory, comparison);
    return comparison.result();
  }
  double flops() const override { return 5 * static_cast<double>(used_rows() * spec_.n); }
  double bytes() const override {
    const double row = 2 * static_cast<double>(used_rows() * spec_.n);
    return 2 * row + (scaling_ == Fp8Scaling::none ? row : fp8_output_bytes(scaling_, used_rows(), spec_.n));
  }

 protected:
  SiluMulLaunch operands(Operands& make) const override {
    SiluMulLaunch a;
    a.gate_up = make.bf16(spec_.m, 2 * spec_.n);
    set_rows(a, make, scaling_, spec_);
    if (spec_.slots == 0) return a;
    a.expert_rows = make.given(std::vector<std::int32_t>(spec_.rows.begin(), spec_.rows.end()));
    a.experts = static_cast<std::int32_t>(spec_.rows.size());
    a.slots = static_cast<std::int32_t>(spec_.slots);
    return a;
  }

 private:
  std::int64_t used_rows() const {
    return spec_.slots == 0 ? spec_.m
                            : std::accumulate(spec_.rows.begin(), spec_.rows.end(), std::int64_t{0});
  }
  std::int64_t row_of(std::int64_t used) const {  // the used-th of all rows in use
    if (spec_.slots == 0) return used;
    std::int64_t first = 0;
    for (const std::int64_t each : spec_.rows) {
      if (used < each) return first + used;
      used -= each;
      first += spec_.slots;
    }
    return first;
  }
  // A row that is nobody's keeps the bytes that memory came with.
  void check_unused(DeviceMemory& memory, Comparison& comparison) const {
    for (std::size_t e = 0; e < spec_.rows.size() && spec_.slots > 0; ++e) {
      if (spec_.rows[e] == spec_.slots) continue;
      const std::int64_t row = static_cast<std::int64_t>(e) * spec_.slots + spec_.rows[e];
      const bool quantised = scaling_ != Fp8Scaling::none;
      const auto* bytes = quantised ? first().quantized.values + row * spec_.n
                                    : reinterpret_cast<const std::uint8_t*>(first().out + row * spec_.n);
      for (const std::uint8_t byte : fetch(memory, bytes, spec_.n))
        comparison.exact("unused", row, 0, byte, 0xFF);
    }
  }

  Fp8Scaling scaling_;
};

std::unique_ptr<KernelCase> make_scaled(const CaseSpec& spec, Fp8Scaling scaling, std::string& why) {
  const bool good = spec.m >= 1 && spec.n >= 8 && spec.n % 8 == 0 &&
                    (scaling != Fp8Scaling::group || spec.n % fp8_group == 0) &&
                    (scaling != Fp8Scaling::token || spec.n <= norm_most_columns);
  const auto experts = static_cast<std::int64_t>(spec.rows.size());
  const bool slotted = spec.slots == 0 ||
                       (experts >= 1 && experts <= silu_mul_most_experts && spec.m == experts * spec.slots &&
                        *std::max_element(spec.rows.begin(), spec.rows.end()) <= spec.slots);
  if (!needs(slotted, spec, "with slots: rows of at most as many for up to 512 experts, m of all slots", why))
    return nullptr;
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
