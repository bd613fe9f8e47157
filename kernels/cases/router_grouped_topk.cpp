#include "kernels/router_grouped_topk.h"

#include <algorithm>
#include <cmath>

#include "base/random.h"
#include "kernels/case_table.h"
#include "kernels/cases/case_support.h"
#include "kernels/router_topk.h"

namespace orrery::kernels {

namespace {

// Scores within this of each other may change places: what fp32 makes of a sum of two of them.
constexpr double near = 4e-6;

class RouterGroupedTopkCase : public CaseOf<RouterGroupedTopkLaunch> {
 public:
  RouterGroupedTopkCase(const CaseSpec& spec, bool sigmoid)
      : CaseOf(spec, "orrery." + spec.op + ".v1", launch_router_grouped_topk), sigmoid_(sigmoid) {}

  CheckResult check(DeviceMemory& memory) override {
    Comparison comparison(kernel());
    const RouterGroupedTopkLaunch& a = first();
    std::vector<double> bias(static_cast<std::size_t>(spec_.experts), 0);
    if (a.bias != nullptr) bias = fetch_fp32(memory, a.bias, spec_.experts);
    for (const std::int64_t row : sampled_rows(spec_.m, 2 * spec_.top_k, spec_.seed)) {
      const auto logits = fetch_fp32(memory, a.logits + row * spec_.experts, spec_.experts);
      const auto weights = fetch_fp32(memory, a.weights + row * spec_.top_k, spec_.top_k);
      const auto chosen = fetch(memory, a.chosen + row * spec_.top_k, spec_.top_k);
      if (!valid_ids(comparison, row, chosen)) break;
      const bool poisoned = std::any_of(logits.begin(), logits.end(), [](double l) { return std::isnan(l); });
      const std::vector<double> scores = scores_of(logits);
      double sum = 0;
      for (const std::int32_t expert : chosen) sum += scores[static_cast<std::size_t>(expert)];
      for (std::size_t j = 0; j < chosen.size(); ++j) {
        const auto expert = static_cast<std::size_t>(chosen[j]);
        double expected = scores[expert] * a.factor / (a.renormalize ? sum : 1);
        if (poisoned) expected = std::nan("");
        // The exponent's own rounding grows with its size.
        const double tolerance = fp32_tolerance(expected, expected * (1 + std::fabs(logits[expert]) / 8));
        comparison.value("weight", row, static_cast<std::int64_t>(j), weights[j], expected, tolerance);
      }
      if (!poisoned) check_choice(comparison, row, scores, bias, chosen);
    }
    return comparison.result();
  }
  double flops() const override { return 6 * static_cast<double>(spec_.m * spec_.experts); }
  double bytes() const override {
    return static_cast<double>(spec_.m) *
           (4.0 * static_cast<double>(spec_.experts) + 8.0 * static_cast<double>(spec_.top_k));
  }

 protected:
  RouterGroupedTopkLaunch operands(Operands& make) const override {
    RouterGroupedTopkLaunch a;
    a.logits = make.fp32(spec_.m, spec_.experts, 2);
    if (sigmoid_) a.bias = make.given(biases(make.next_seed()));
    a.weights = make.output<float>(spec_.m * spec_.top_k);
    a.chosen = make.output<std::int32_t>(spec_.m * spec_.top_k);
    a.rows = static_cast<std::int32_t>(spec_.m);
    a.experts = static_cast<std::int32_t>(spec_.experts);
    a.groups = static_cast<std::int32_t>(spec_.groups);
    a.top_groups = static_cast<std::int32_t>(spec_.top_groups);
    a.k = static_cast<std::int32_t>(spec_.top_k);
    a.sigmoid = sigmoid_;
    a.renormalize = sigmoid_;  // as DeepSeek-V3 does, and V2 does not
    a.factor = 2.5F;
    return a;
  }

 private:
  std::vector<float> biases(std::uint64_t seed) const {
    RandomStream random(seed, RandomPurpose::kernel_operands);
    std::vector<float> out(static_cast<std::size_t>(spec_.experts));
    for (float& b : out) b = static_cast<float>(0.2 * random.normal());
    return out;
  }

  std::vector<double> scores_of(const std::vector<double>& logits) const {
    std::vector<double> scores(logits.size());
    double largest = -HUGE_VAL, sum = 0;
    for (const double l : logits) largest = std::max(largest, std::isnan(l) ? largest : l);
    for (std::size_t e = 0; e < logits.size(); ++e) {
      scores[e] = sigmoid_ ? 1 / (1 + std::exp(-logits[e])) : std::exp(logits[e] - largest);
      sum += scores[e];
    }
    if (!sigmoid_) {
      for (double& s : scores) s /= sum;
    }
    return scores;
  }

  bool valid_ids(Comparison& comparison, std::int64_t row, const std::vector<std::int32_t>& chosen) const {
    std::vector<bool> seen(static_cast<std::size_t>(spec_.experts), false);
    for (const std::int32_t expert : chosen) {
      const bool inside = expert >= 0 && expert < spec_.experts;
      if (!inside || seen[static_cast<std::size_t>(expert)]) {
        comparison.fail("row " + std::to_string(row) + " chooses expert " + std::to_string(expert) +
                        (inside ? " twice" : ", which there is not"));
        return false;
      }
      seen[static_cast<std::size_t>(expert)] = true;
    }
    return true;
  }

  // Groups in double precision: what each is worth, and the worth of the last chosen and of the best left
  // out.
  std::vector<double> worth_of_groups(const std::vector<double>& choice) const {
    const auto each = static_cast<std::ptrdiff_t>(spec_.experts / spec_.groups);
    std::vector<double> worth;
    for (auto begin = choice.begin(); begin != choice.end(); begin += each) {
      std::vector<double> group(begin, begin + each);
      std::sort(group.begin(), group.end(), std::greater<>());
      worth.push_back(sigmoid_ ? group[0] + group[1] : group[0]);
    }
    return worth;
  }

  // The j-th choice is no worse than the best that was surely there to choose, and of a group that may have
  // been open.
  void check_choice(Comparison& comparison, std::int64_t row, const std::vector<double>& scores,
                    const std::vector<double>& bias, const std::vector<std::int32_t>& chosen) const {
    std::vector<double> choice(scores.size());
    for (std::size_t e = 0; e < scores.size(); ++e) choice[e] = scores[e] + bias[e];
    const std::vector<double> worth = worth_of_groups(choice);
    std::vector<double> ordered = worth;
    std::sort(ordered.begin(), ordered.end(), std::greater<>());
    const auto open = static_cast<std::size_t>(spec_.top_groups);
    const double last = ordered[open - 1], next = open < ordered.size() ? ordered[open] : -HUGE_VAL;
    const auto group_of = [&](std::size_t e) {
      return e / static_cast<std::size_t>(spec_.experts / spec_.groups);
    };
    std::vector<bool> taken(scores.size(), false);
    for (std::size_t j = 0; j < chosen.size(); ++j) {
      const auto mine = static_cast<std::size_t>(chosen[j]);
      double best = -HUGE_VAL;
      for (std::size_t e = 0; e < scores.size(); ++e) {
        const bool surely_open = worth[group_of(e)] > next + near;
        if (surely_open && !taken[e]) best = std::max(best, choice[e]);
      }
      const bool may_be_open = worth[group_of(mine)] >= last - near;
      const bool good = may_be_open && choice[mine] >= best - near;
      comparison.exact("choice that is among the best", row, static_cast<std::int64_t>(j), good, true);
      taken[mine] = true;
    }
  }

  bool sigmoid_;
};

std::unique_ptr<KernelCase> make_any(const CaseSpec& spec, bool sigmoid, std::string& why) {
  const bool grouped = spec.groups >= 1 && spec.groups <= router_most_groups && spec.experts >= spec.groups &&
                       spec.experts % spec.groups == 0 && spec.top_groups >= 1 &&
                       spec.top_groups <= spec.groups;
  const std::int64_t each = grouped ? spec.experts / spec.groups : 0;
  const bool good = spec.m >= 1 && grouped && spec.experts <= router_most_experts &&
                    (!sigmoid || each >= 2) && spec.top_k >= 1 &&
                    spec.top_k <= std::min<std::int64_t>(spec.top_groups * each, router_most_chosen);
  const char* need =
      "m >= 1, experts up to 512 in up to 32 equal groups (of two at least with a bias), top_groups of "
      "them, top_k up to their experts and 32";
  if (!needs(good, spec, need, why)) return nullptr;
  return std::make_unique<RouterGroupedTopkCase>(spec, sigmoid);
}

}  // namespace

std::unique_ptr<KernelCase> make_router_grouped_topk_case(const CaseSpec& spec, std::string& why) {
  return make_any(spec, true, why);
}
std::unique_ptr<KernelCase> make_router_grouped_topk_softmax_case(const CaseSpec& spec, std::string& why) {
  return make_any(spec, false, why);
}

}  // namespace orrery::kernels
