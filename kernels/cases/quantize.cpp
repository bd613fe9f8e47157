#include "kernels/quantize.h"

#include "kernels/case_table.h"
#include "kernels/cases/case_support.h"
#include "kernels/rms_norm.h"

namespace orrery::kernels {

namespace {

class QuantizeCase : public CaseOf<QuantizeLaunch> {
 public:
  QuantizeCase(const CaseSpec& spec, Fp8Scaling scaling)
      : CaseOf(spec, "orrery.quantize.v1", launch_quantize), scaling_(scaling) {}

  CheckResult check(DeviceMemory& memory) override {
    Comparison comparison(kernel());
    const std::vector<double> slack(static_cast<std::size_t>(spec_.n), 0);
    for (const std::int64_t row : sampled_rows(spec_.m, spec_.n, spec_.seed)) {
      const auto x = fetch_bf16(memory, first().x + row * spec_.n, spec_.n);
      compare_fp8_row(comparison, memory, first().out, row, x, slack);
    }
    return comparison.result();
  }
  double flops() const override { return 2 * static_cast<double>(spec_.m * spec_.n); }
  double bytes() const override {
    return 2 * static_cast<double>(spec_.m * spec_.n) + fp8_output_bytes(scaling_, spec_.m, spec_.n);
  }

 protected:
  QuantizeLaunch operands(Operands& make) const override {
    QuantizeLaunch a;
    a.x = make.bf16(spec_.m, spec_.n);
    a.out = fp8_output(make, scaling_, spec_.m, spec_.n);
    a.rows = static_cast<std::int32_t>(spec_.m);
    a.columns = static_cast<std::int32_t>(spec_.n);
    return a;
  }

 private:
  Fp8Scaling scaling_;
};

}  // namespace

std::unique_ptr<KernelCase> make_quantize_case(const CaseSpec& spec, std::string& why) {
  Fp8Scaling scaling = Fp8Scaling::none;
  const bool good = scaling_of(spec, scaling) && spec.m >= 1 && spec.n >= 8 && spec.n % 8 == 0 &&
                    (scaling != Fp8Scaling::group || spec.n % fp8_group == 0) &&
                    (scaling != Fp8Scaling::token || spec.n <= norm_most_columns);
  const char* need =
      "dtype fp8-tensor, fp8-channel (n up to 32768) or fp8-block (n a multiple of 128), m >= 1, "
      "n a multiple of 8";
  if (!needs(good, spec, need, why)) return nullptr;
  return std::make_unique<QuantizeCase>(spec, scaling);
}

}  // namespace orrery::kernels
