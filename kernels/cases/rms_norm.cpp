#include "kernels/rms_norm.h"

#include "kernels/case_table.h"
#include "kernels/cases/case_support.h"

namespace orrery::kernels {

namespace {

class RmsNormCase : public CaseOf<RmsNormLaunch> {
 public:
  using CaseOf::CaseOf;

  CheckResult check(DeviceMemory& memory) override {
    Comparison comparison(kernel());
    const RmsNormLaunch& a = first();
    const std::vector<double> weight = fetch_bf16(memory, a.weight, spec_.n);
    for (const std::int64_t row : sampled_rows(spec_.m, spec_.n, spec_.seed)) {
      const std::int64_t at = row * spec_.n;
      const auto expected = reference_rms_norm(fetch_bf16(memory, a.x + at, spec_.n), weight, a.epsilon);
      const auto actual = fetch_bf16(memory, a.out + at, spec_.n);
      for (std::int64_t i = 0; i < spec_.n; ++i) {
        const double e = expected[static_cast<std::size_t>(i)];
        comparison.value("out", row, i, actual[static_cast<std::size_t>(i)], e, bf16_tolerance(e));
      }
    }
    return comparison.result();
  }
  double flops() const override { return 4 * static_cast<double>(spec_.m * spec_.n); }
  double bytes() const override { return 2 * 2 * static_cast<double>(spec_.m * spec_.n); }

 protected:
  RmsNormLaunch operands(Operands& make) const override {
    RmsNormLaunch a;
    a.x = make.bf16(spec_.m, spec_.n);
    a.weight = make.weight_bf16(spec_.n, true);
    a.out = make.output<std::uint16_t>(spec_.m * spec_.n);
    a.rows = static_cast<std::int32_t>(spec_.m);
    a.columns = static_cast<std::int32_t>(spec_.n);
    return a;
  }
};

}  // namespace

// Reads m (rows) and n (columns).
std::unique_ptr<KernelCase> make_rms_norm_case(const CaseSpec& spec, std::string& why) {
  const bool good = spec.m >= 1 && spec.n >= 8 && spec.n % 8 == 0 && spec.n <= norm_most_columns;
  if (!needs(good, spec, "m >= 1 and n a multiple of 8 up to 32768", why)) return nullptr;
  return std::make_unique<RmsNormCase>(spec, "orrery.rms_norm.v1", launch_rms_norm);
}

}  // namespace orrery::kernels
