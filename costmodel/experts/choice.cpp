#include "costmodel/experts/choice.h"

#include <algorithm>

#include "base/check.h"
#include "base/det_math.h"

namespace orrery {

namespace {

// Numbers of rung experts among the first i (row i) or from i on (row i of the other table), up to `most`.
class CountTables {
 public:
  CountTables(std::size_t experts, std::size_t most)
      : experts_(experts), width_(most + 1), before_((experts + 1) * width_), from_((experts + 1) * width_) {}

  void fill(const std::vector<double>& rung) {
    std::fill(before_.begin(), before_.end(), 0.0);
    std::fill(from_.begin(), from_.end(), 0.0);
    before_[0] = 1;
    from_[experts_ * width_] = 1;
    for (std::size_t i = 0; i < experts_; ++i) add(&before_[i * width_], rung[i], &before_[(i + 1) * width_]);
    for (std::size_t i = experts_; i-- > 0;) add(&from_[(i + 1) * width_], rung[i], &from_[i * width_]);
  }
  // P(at most `count` of all but i rang).
  double others_at_most(std::size_t i, std::size_t count) const {
    const double* a = &before_[i * width_];
    const double* b = &from_[(i + 1) * width_];
    double sum = 0, cumulated = 0;
    for (std::size_t n = 0; n <= count; ++n) {  // n of b with at most count − n of a
      cumulated += b[n];
      sum += a[count - n] * cumulated;
    }
    return sum;
  }
  double all_at_most(std::size_t count) const {
    double sum = 0;
    for (std::size_t n = 0; n <= count; ++n) sum += from_[n];
    return sum;
  }

 private:
  void add(const double* given, double p, double* out) const {
    out[0] = given[0] * (1 - p);
    for (std::size_t n = 1; n < width_; ++n) out[n] = given[n] * (1 - p) + given[n - 1] * p;
  }
  std::size_t experts_, width_;
  std::vector<double> before_, from_;
};

// τ with Σ(1 − exp(−wᵢτ)) = k: about the time of the k-th ring.
double time_of_rings(std::span<const double> weights, double k) {
  const auto rung = [&](double t) {
    double sum = 0;
    for (const double w : weights) sum -= det_expm1(-w * t);
    return sum;
  };
  double low = 0, high = 1;
  for (int i = 0; i < 200 && rung(high) < k; ++i) high *= 2;
  for (int i = 0; i < 60; ++i) {
    const double middle = (low + high) / 2;
    (rung(middle) < k ? low : high) = middle;
  }
  return (low + high) / 2;
}

std::vector<double> scaled_to_one(std::span<const double> weights) {
  double sum = 0;
  for (const double w : weights) {
    ORRERY_CHECK(w > 0, "weights of experts are positive");
    sum += w;
  }
  std::vector<double> out(weights.begin(), weights.end());
  for (double& w : out) w /= sum;
  return out;
}

}  // namespace

std::vector<double> inclusion_probabilities(std::span<const double> given, std::int32_t k) {
  const std::size_t n = given.size(), chosen = static_cast<std::size_t>(k);
  ORRERY_CHECK(k >= 1 && chosen <= n, "no more experts are chosen than there are");
  if (chosen == n) return std::vector<double>(n, 1.0);
  std::vector<double> w = scaled_to_one(given);
  if (chosen == 1) return w;
  const double tau = time_of_rings(w, k), largest = *std::max_element(w.begin(), w.end());
  constexpr double h = 0.25;
  const double first = std::min(tau, 1 / largest) * 1e-3, ratio = det_exp(h);
  std::vector<double> p(n, 0.0), rung(n);
  // Below `first` everything is linear: the rest of the trapezoidal sum is a geometric series, with its
  // second term.
  for (std::size_t i = 0; i < n; ++i) {
    const double x = w[i] * first;
    p[i] = h * (x / (ratio - 1) - x * x / (ratio * ratio - 1));
  }
  CountTables counts(n, chosen);
  for (double t = first;; t *= ratio) {
    for (std::size_t i = 0; i < n; ++i) rung[i] = -det_expm1(-w[i] * t);
    counts.fill(rung);
    for (std::size_t i = 0; i < n; ++i)
      p[i] += h * w[i] * t * (1 - rung[i]) * counts.others_at_most(i, chosen - 1);
    if (counts.all_at_most(chosen) < 1e-12) break;
  }
  // What the sum missed is shared out: the probabilities add up to k.
  double sum = 0;
  for (const double x : p) sum += x;
  for (double& x : p) x = std::min(1.0, x * k / sum);
  return p;
}

std::vector<double> weights_of_counts(std::span<const double> counts, std::int32_t k) {
  std::vector<double> wanted = scaled_to_one(counts);
  constexpr double most = 0.995;
  if (static_cast<std::size_t>(k) >= wanted.size()) return wanted;
  for (int round = 0; round < 50; ++round) {  // what is cut off goes to the others in proportion
    double cut = 0, open = 0;
    for (const double x : wanted) (x * k >= most ? cut : open) += x * k >= most ? most / k : x;
    for (double& x : wanted) x = x * k >= most ? most / k : x * (1 - cut) / open;
  }
  std::vector<double> w(wanted.size());
  for (std::size_t i = 0; i < w.size(); ++i) w[i] = -det_log1p(-std::min(most, wanted[i] * k));
  for (int round = 0; round < 40; ++round) {
    const std::vector<double> p = inclusion_probabilities(w, k);
    double worst = 0;
    for (std::size_t i = 0; i < w.size(); ++i) {
      // In log(1 − π), as a certain expert's weight says little of its probability.
      const double want = std::min(most, wanted[i] * k);
      w[i] *= det_log1p(-want) / det_log1p(-std::min(p[i], 1 - 1e-12));
      worst = std::max(worst, std::abs(p[i] / want - 1));
    }
    if (worst < 5e-5) break;
  }
  return scaled_to_one(w);
}

double touch_probability(std::span<const double> inclusion, std::int32_t k, std::span<const double> share) {
  // Independent choices that, given that they are k, have these probabilities to first order (Hájek
  // 1964): more of the popular ones would come together otherwise.
  double spread = 0, centre = 0;
  for (const double p : inclusion) {
    spread += p * (1 - p);
    centre += p * p * (1 - p);
  }
  centre = spread > 0 ? centre / spread : 0;
  // Coefficients of zⁿ, n ≤ k: of all choices, and of those that leave the group out.
  const auto width = static_cast<std::size_t>(k) + 1;
  std::vector<double> all(width, 0.0), beside(width, 0.0);
  all[0] = beside[0] = 1;
  for (std::size_t e = 0; e < inclusion.size(); ++e) {
    const double rest = spread > 0 ? (1 - inclusion[e]) / spread : 0;
    const double p = inclusion[e] * (1 + (centre - inclusion[e]) * rest);
    const double others = p * (1 - std::min(share[e], 1.0));  // shares are sums of 1 ÷ replicas
    for (std::size_t n = width; n-- > 1;) {
      all[n] = all[n] * (1 - p) + all[n - 1] * p;
      beside[n] = beside[n] * (1 - p) + beside[n - 1] * others;
    }
    all[0] *= 1 - p;
    beside[0] *= 1 - p;
  }
  return all.back() > 0 ? std::clamp(1 - beside.back() / all.back(), 0.0, 1.0) : 1;
}

AliasTable alias_table(std::span<const double> weights) {
  AliasTable table{.weights = scaled_to_one(weights),
                   .keep = std::vector<double>(weights.size(), 1.0),
                   .other = std::vector<std::int32_t>(weights.size(), 0)};
  const std::size_t n = weights.size();
  std::vector<double> scaled(n);
  std::vector<std::size_t> small, large;
  for (std::size_t i = 0; i < n; ++i) {
    scaled[i] = table.weights[i] * static_cast<double>(n);
    (scaled[i] < 1 ? small : large).push_back(i);
  }
  while (!small.empty() && !large.empty()) {
    const std::size_t s = small.back(), l = large.back();
    small.pop_back();
    table.keep[s] = scaled[s];
    table.other[s] = static_cast<std::int32_t>(l);
    scaled[l] -= 1 - scaled[s];
    if (scaled[l] < 1) {
      large.pop_back();
      small.push_back(l);
    }
  }
  return table;
}

ExpertChoice::ExpertChoice(std::span<const double> weights) : alias_(alias_table(weights)) {}

std::int32_t ExpertChoice::next(RandomStream& stream, std::span<const std::int32_t> chosen) const {
  constexpr int patience = 32;  // repeats after which it is drawn from those left
  const double n = static_cast<double>(alias_.weights.size());
  const auto is_chosen = [&](std::int32_t expert) {
    return std::find(chosen.begin(), chosen.end(), expert) != chosen.end();
  };
  for (int tries = 0; tries < patience; ++tries) {
    const double x = stream.uniform() * n;
    const std::size_t i = std::min(static_cast<std::size_t>(x), alias_.weights.size() - 1);
    const double part = x - static_cast<double>(i);
    const std::int32_t expert = part < alias_.keep[i] ? static_cast<std::int32_t>(i) : alias_.other[i];
    if (!is_chosen(expert)) return expert;
  }
  double left = 0;
  for (std::size_t i = 0; i < alias_.weights.size(); ++i)
    left += is_chosen(static_cast<std::int32_t>(i)) ? 0 : alias_.weights[i];
  double x = stream.uniform() * left;
  std::int32_t expert = -1;
  for (std::size_t i = 0; i < alias_.weights.size(); ++i) {
    if (is_chosen(static_cast<std::int32_t>(i))) continue;
    expert = static_cast<std::int32_t>(i);
    x -= alias_.weights[i];
    if (x < 0) break;
  }
  return expert;
}

void ExpertChoice::draw(RandomStream& stream, std::span<std::int32_t> out) const {
  for (std::size_t have = 0; have < out.size(); ++have) out[have] = next(stream, out.first(have));
}

RandomStream token_choices(std::uint64_t seed, std::uint64_t request, std::uint64_t token,
                           std::uint64_t layer) {
  // Three names in one: the finaliser of splitmix64 (Steele, Lea, Flood, OOPSLA 2014) after each.
  const auto mix = [](std::uint64_t z) {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    return z ^ (z >> 31);
  };
  constexpr std::uint64_t golden = 0x9e3779b97f4a7c15ULL;
  const std::uint64_t name = mix(mix(mix(request + golden) + token + golden) + layer + golden);
  return RandomStream(seed, RandomPurpose::expert_routing, name);
}

}  // namespace orrery
