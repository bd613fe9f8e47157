#include "kernels/sample.h"

#include <cmath>

#include "base/random.h"
#include "kernels/case_table.h"
#include "kernels/cases/case_support.h"

namespace orrery::kernels {

namespace {

class SampleCase : public CaseOf<SampleLaunch> {
 public:
  SampleCase(const CaseSpec& spec, bool noisy)
      : CaseOf(spec, "orrery." + spec.op + ".v1", launch_sample), noisy_(noisy) {}

  CheckResult check(DeviceMemory& memory) override {
    Comparison comparison(kernel());
    const SampleLaunch& a = first();
    const auto tokens = fetch(memory, a.tokens, spec_.m);
    for (const std::int64_t row : sampled_rows(spec_.m, spec_.n, spec_.seed)) {
      const auto logits = fetch_fp32(memory, a.logits + row * spec_.n, spec_.n);
      const std::vector<double> scores = noisy_ ? with_noise(memory, row, logits) : logits;
      std::size_t best = 0;
      bool nan = false;
      for (std::size_t i = 0; i < scores.size() && !nan; ++i) {
        nan = std::isnan(scores[i]);
        if (nan || scores[i] > scores[best]) best = i;
      }
      const std::int64_t token = tokens[static_cast<std::size_t>(row)];
      const bool exact = !noisy_ || nan || token < 0 || token >= spec_.n;
      if (exact) comparison.exact("token", row, 0, token, static_cast<std::int64_t>(best));
      // Noise is computed in fp32: another token may win whose score is as good within that.
      else
        comparison.value("score of the token", row, token, scores[static_cast<std::size_t>(token)],
                         scores[best], 1e-4 * (1 + std::fabs(scores[best])));
    }
    for (const std::uint32_t arrived : fetch(memory, a.arrived, spec_.m)) {
      comparison.exact("arrived", 0, 0, arrived, 0);
    }
    return comparison.result();
  }
  double flops() const override { return (noisy_ ? 30 : 1) * static_cast<double>(spec_.m * spec_.n); }
  double bytes() const override { return 4 * static_cast<double>(spec_.m * spec_.n + spec_.m); }

 protected:
  SampleLaunch operands(Operands& make) const override {
    SampleLaunch a;
    a.logits = make.fp32(spec_.m, spec_.n, 4);
    if (noisy_) {
      std::vector<float> temperatures;
      std::vector<std::uint64_t> seeds;
      std::vector<std::uint32_t> steps;
      for (std::int64_t row = 0; row < spec_.m; ++row) {
        temperatures.push_back(row % 4 == 3 ? 0.0F : 0.6F + 0.1F * static_cast<float>(row % 8));
        seeds.push_back(make.next_seed() * 0x9E3779B97F4A7C15ULL);
        steps.push_back(static_cast<std::uint32_t>(row * 17));
      }
      a.temperatures = make.given(temperatures);
      a.seeds = make.given(seeds);
      a.steps = make.given(steps);
    }
    a.tokens = make.output<std::int32_t>(spec_.m);
    a.partial = make.output<std::uint64_t>(spec_.m * sample_most_splits);
    a.arrived = make.zeroed<std::uint32_t>(spec_.m);
    a.rows = static_cast<std::int32_t>(spec_.m);
    a.vocabulary = static_cast<std::int32_t>(spec_.n);
    return a;
  }

 private:
  std::vector<double> with_noise(DeviceMemory& memory, std::int64_t row,
                                 const std::vector<double>& logits) const {
    const double temperature = fetch_fp32(memory, first().temperatures + row, 1).front();
    if (temperature == 0) return logits;
    const std::uint64_t seed = fetch(memory, first().seeds + row, 1).front();
    const std::uint32_t step = fetch(memory, first().steps + row, 1).front();
    std::vector<double> scores(logits.size());
    for (std::size_t i = 0; i < logits.size(); ++i) {
      const auto bits =
          philox4x32_10({static_cast<std::uint32_t>(i / 4), 0, step, 0},
                        {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)});
      const double uniform = (static_cast<double>(bits[i % 4] >> 9) + 0.5) / 8388608.0;
      scores[i] = logits[i] / temperature - std::log(-std::log(uniform));
    }
    return scores;
  }

  bool noisy_;
};

std::unique_ptr<KernelCase> make_any(const CaseSpec& spec, bool noisy, std::string& why) {
  const bool good = spec.m >= 1 && spec.m <= 65535 && spec.n >= 4 && spec.n % 4 == 0;
  if (!needs(good, spec, "m from 1 to 65535 and n (the vocabulary) a multiple of 4", why)) return nullptr;
  return std::make_unique<SampleCase>(spec, noisy);
}

}  // namespace

std::unique_ptr<KernelCase> make_argmax_case(const CaseSpec& spec, std::string& why) {
  return make_any(spec, false, why);
}
std::unique_ptr<KernelCase> make_sample_case(const CaseSpec& spec, std::string& why) {
  return make_any(spec, true, why);
}

}  // namespace orrery::kernels
