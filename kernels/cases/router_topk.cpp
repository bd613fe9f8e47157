#include "kernels/router_topk.h"

#include <algorithm>
#include <cmath>

#include "kernels/case_table.h"
#include "kernels/cases/case_support.h"

namespace orrery::kernels {

namespace {

class RouterTopkCase : public CaseOf<RouterTopkLaunch> {
 public:
  explicit RouterTopkCase(const CaseSpec& spec) : CaseOf(spec, "orrery.router_topk.v1", launch_router_topk) {}

  CheckResult check(DeviceMemory& memory) override {
    Comparison comparison(kernel());
    const RouterTopkLaunch& a = first();
    for (const std::int64_t row : sampled_rows(spec_.m, 2 * spec_.top_k, spec_.seed)) {
      const auto logits = fetch_fp32(memory, a.logits + row * spec_.experts, spec_.experts);
      const auto weights = fetch_fp32(memory, a.weights + row * spec_.top_k, spec_.top_k);
      const auto chosen = fetch(memory, a.chosen + row * spec_.top_k, spec_.top_k);
      const auto order = best_first(logits);
      const double largest = *std::max_element(logits.begin(), logits.end(), less);
      double sum = 0, chosen_sum = 0;
      for (std::size_t i = 0; i < order.size(); ++i) {
        const double weight = std::exp(logits[order[i]] - largest);
        sum += weight;
        if (i < chosen.size()) chosen_sum += weight;
      }
      for (std::size_t j = 0; j < chosen.size(); ++j) {
        const double below = logits[order[j]] - largest;
        const double expected = std::isnan(sum) ? sum : std::exp(below) / (a.renormalize ? chosen_sum : sum);
        // The exponent's own rounding grows with its size.
        const double tolerance = fp32_tolerance(expected, expected * (1 + std::fabs(below) / 8));
        const auto column = static_cast<std::int64_t>(j);
        comparison.exact("expert", row, column, chosen[j], static_cast<std::int64_t>(order[j]));
        comparison.value("weight", row, column, weights[j], expected, tolerance);
      }
    }
    return comparison.result();
  }
  double flops() const override { return 4 * static_cast<double>(spec_.m * spec_.experts); }
  double bytes() const override {
    return static_cast<double>(spec_.m) *
           (4.0 * static_cast<double>(spec_.experts) + 8.0 * static_cast<double>(spec_.top_k));
  }

 protected:
  RouterTopkLaunch operands(Operands& make) const override {
    RouterTopkLaunch a;
    a.logits = make.fp32(spec_.m, spec_.experts, 2);
    a.weights = make.output<float>(spec_.m * spec_.top_k);
    a.chosen = make.output<std::int32_t>(spec_.m * spec_.top_k);
    a.rows = static_cast<std::int32_t>(spec_.m);
    a.experts = static_cast<std::int32_t>(spec_.experts);
    a.k = static_cast<std::int32_t>(spec_.top_k);
    a.renormalize = spec_.seed % 2 == 1;
    return a;
  }

 private:
  static bool less(double a, double b) { return std::isnan(a) ? !std::isnan(b) : a < b; }

  static std::vector<std::size_t> best_first(const std::vector<double>& logits) {
    std::vector<std::size_t> order(logits.size());
    for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
    std::stable_sort(order.begin(), order.end(),
                     [&](std::size_t x, std::size_t y) { return less(logits[y], logits[x]); });
    return order;
  }
};

}  // namespace

// Odd seeds renormalise, even ones do not: the time is the same.
std::unique_ptr<KernelCase> make_router_topk_case(const CaseSpec& spec, std::string& why) {
  const bool good = spec.m >= 1 && spec.experts >= 1 && spec.experts <= router_most_experts &&
                    spec.top_k >= 1 && spec.top_k <= std::min<std::int64_t>(spec.experts, router_most_chosen);
  if (!needs(good, spec, "m >= 1, experts up to 512, top_k up to experts and 32", why)) return nullptr;
  return std::make_unique<RouterTopkCase>(spec);
}

}  // namespace orrery::kernels
