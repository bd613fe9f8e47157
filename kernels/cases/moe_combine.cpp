#include "kernels/moe_combine.h"

#include <cmath>

#include "base/random.h"
#include "kernels/case_table.h"
#include "kernels/cases/case_support.h"

namespace orrery::kernels {

namespace {

class MoeCombineCase : public CaseOf<MoeCombineLaunch> {
 public:
  explicit MoeCombineCase(const CaseSpec& spec) : CaseOf(spec, "orrery.moe_combine.v1", launch_moe_combine) {}

  CheckResult check(DeviceMemory& memory) override {
    Comparison comparison(kernel());
    const MoeCombineLaunch& a = first();
    for (const std::int64_t token : sampled_rows(spec_.m, spec_.n, spec_.seed)) {
      const auto positions = fetch(memory, a.positions + token * spec_.top_k, spec_.top_k);
      const auto weights = fetch_fp32(memory, a.weights + token * spec_.top_k, spec_.top_k);
      std::vector<double> expected(static_cast<std::size_t>(spec_.n)), magnitude(expected.size());
      for (std::size_t j = 0; j < positions.size(); ++j) {
        const auto y = fetch_bf16(memory, a.y + positions[j] * spec_.n, spec_.n);
        for (std::size_t i = 0; i < y.size(); ++i) {
          expected[i] += weights[j] * y[i];
          magnitude[i] += std::fabs(weights[j] * y[i]);
        }
      }
      const auto actual = fetch_bf16(memory, a.out + token * spec_.n, spec_.n);
      for (std::size_t i = 0; i < expected.size(); ++i) {
        comparison.value("out", token, static_cast<std::int64_t>(i), actual[i], expected[i],
                         bf16_tolerance(expected[i], magnitude[i]));
      }
    }
    return comparison.result();
  }
  double flops() const override { return 2 * static_cast<double>(rows() * spec_.n); }
  double bytes() const override { return 2 * static_cast<double>((rows() + spec_.m) * spec_.n); }

 protected:
  MoeCombineLaunch operands(Operands& make) const override {
    MoeCombineLaunch a;
    a.y = make.bf16(rows(), spec_.n);
    // Where moe_align would put them: a permutation.
    RandomStream random(make.next_seed(), RandomPurpose::kernel_operands);
    std::vector<std::int32_t> positions(static_cast<std::size_t>(rows()));
    for (std::size_t i = 0; i < positions.size(); ++i) positions[i] = static_cast<std::int32_t>(i);
    for (std::size_t i = positions.size(); i > 1; --i)
      std::swap(positions[i - 1], positions[random.below(i)]);
    a.positions = make.given(positions);
    std::vector<float> weights(positions.size());
    for (float& w : weights) w = static_cast<float>(random.uniform());
    a.weights = make.given(weights);
    a.out = make.output<std::uint16_t>(spec_.m * spec_.n);
    a.tokens = static_cast<std::int32_t>(spec_.m);
    a.k = static_cast<std::int32_t>(spec_.top_k);
    a.columns = static_cast<std::int32_t>(spec_.n);
    return a;
  }

 private:
  std::int64_t rows() const { return spec_.m * spec_.top_k; }
};

}  // namespace

std::unique_ptr<KernelCase> make_moe_combine_case(const CaseSpec& spec, std::string& why) {
  const bool good = spec.m >= 1 && spec.top_k >= 1 && spec.n >= 8 && spec.n % 8 == 0;
  if (!needs(good, spec, "m, top_k >= 1 and n a multiple of 8", why)) return nullptr;
  return std::make_unique<MoeCombineCase>(spec);
}

}  // namespace orrery::kernels
