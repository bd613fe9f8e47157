#include "kernels/logits_copy.h"

#include "kernels/case_table.h"
#include "kernels/cases/case_support.h"

namespace orrery::kernels {

namespace {

class LogitsCopyCase : public CaseOf<LogitsCopyLaunch> {
 public:
  explicit LogitsCopyCase(const CaseSpec& spec) : CaseOf(spec, "orrery.logits_copy.v1", launch_logits_copy) {}

  CheckResult check(DeviceMemory& memory) override {
    Comparison comparison(kernel());
    for (const std::int64_t row : sampled_rows(spec_.m, spec_.n, spec_.seed)) {
      const auto expected = fetch_bf16(memory, first().in + row * spec_.n, spec_.n);
      const auto actual = fetch_fp32(memory, first().out + row * spec_.n, spec_.n);
      for (std::size_t i = 0; i < expected.size(); ++i) {
        comparison.value("out", row, static_cast<std::int64_t>(i), actual[i], expected[i], 0);
      }
    }
    return comparison.result();
  }
  double flops() const override { return 0; }
  double bytes() const override { return 6 * static_cast<double>(spec_.m * spec_.n); }

 protected:
  LogitsCopyLaunch operands(Operands& make) const override {
    LogitsCopyLaunch a;
    a.in = make.bf16(spec_.m, spec_.n, 4);
    a.out = make.output<float>(spec_.m * spec_.n);
    a.elements = spec_.m * spec_.n;
    return a;
  }
};

}  // namespace

std::unique_ptr<KernelCase> make_logits_copy_case(const CaseSpec& spec, std::string& why) {
  const bool good = spec.m >= 1 && spec.n >= 8 && spec.n % 8 == 0;
  if (!needs(good, spec, "m >= 1 and n (the vocabulary) a multiple of 8", why)) return nullptr;
  return std::make_unique<LogitsCopyCase>(spec);
}

}  // namespace orrery::kernels
