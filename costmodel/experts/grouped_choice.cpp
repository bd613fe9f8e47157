#include "costmodel/experts/grouped_choice.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>

#include "base/check.h"
#include "base/det_math.h"

namespace orrery {

namespace {

constexpr std::size_t most_chosen = 64;  // experts of a token

bool all_equal(std::span<const double> weights) {
  return std::all_of(weights.begin(), weights.end(), [&](double w) { return w == weights[0]; });
}

}  // namespace

// One group's experts as they ring.
struct GroupedChoice::Race {
  const Group* group = nullptr;
  std::int32_t first_expert = 0;  // of the group
  double time = 0;                // of the last ring
  std::int32_t taken = 0;         // rings drawn
  double left = 0;                // weight of who has not rung
  double second_time = 0;
  std::array<std::int32_t, most_chosen> rung;
};

GroupedChoice::GroupedChoice(std::span<const double> weights, const GroupLimit& limit) : limit_(limit) {
  const auto groups = static_cast<std::size_t>(limit.groups);
  ORRERY_CHECK(limit.groups <= most_groups && weights.size() % groups == 0, "groups of equally many experts");
  const std::size_t size = weights.size() / groups;
  if (size < 2) limit_.best = 1;
  for (std::size_t g = 0; g < groups; ++g) {
    const std::span<const double> own = weights.subspan(g * size, size);
    Group group{.choice = ExpertChoice(own), .weights = {own.begin(), own.end()}, .sum = 0};
    for (const double w : own) group.sum += w;
    groups_.push_back(std::move(group));
  }
}

// Subtraction would leave nothing of what is small beside the experts that have rung.
double GroupedChoice::left(const Race& race) {
  const double last =
      race.group->weights[static_cast<std::size_t>(race.rung[static_cast<std::size_t>(race.taken - 1)])];
  const double rest = race.left - last;
  if (rest > 1e-6 * race.group->sum) return rest;
  double sum = 0;
  const auto end = race.rung.begin() + race.taken;
  for (std::size_t e = 0; e < race.group->weights.size(); ++e) {
    if (std::find(race.rung.begin(), end, static_cast<std::int32_t>(e)) == end) sum += race.group->weights[e];
  }
  return sum;
}

// The next one, at the time that is known of the second, or after a wait; at no time if there is none.
void GroupedChoice::ring(Race& race, RandomStream& stream) {
  race.left = race.taken == 0 ? race.group->sum : left(race);
  if (static_cast<std::size_t>(race.taken) == race.group->weights.size()) {
    race.time = std::numeric_limits<double>::infinity();
    return;
  }
  const bool known = race.taken == 1 && race.second_time > 0;
  race.time = known ? race.second_time : race.time + stream.exponential(1) / race.left;
  const auto taken = static_cast<std::size_t>(race.taken++);
  race.rung[taken] = race.group->choice.next(stream, std::span(race.rung.data(), taken));
}

void GroupedChoice::draw(RandomStream& stream, std::span<std::int32_t> out) const {
  const std::size_t groups = groups_.size(), chosen = static_cast<std::size_t>(limit_.chosen);
  ORRERY_CHECK(out.size() < most_chosen, "experts of a token");
  std::array<Race, most_groups> races;
  std::array<double, most_groups> scores;  // the least is best: a product of times
  std::array<std::size_t, most_groups> order;
  for (std::size_t g = 0; g < groups; ++g) {
    Race& race = races[g];
    race.taken = 0;
    race.time = race.second_time = 0;
    race.group = &groups_[g];
    race.first_expert = static_cast<std::int32_t>(g * groups_[g].weights.size());
    ring(race, stream);
    scores[g] = race.time;
    order[g] = g;
    if (limit_.best == 1) continue;
    race.second_time = race.time + stream.exponential(1) / left(race);
    scores[g] *= race.second_time;
  }
  std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(chosen),
                    order.begin() + static_cast<std::ptrdiff_t>(groups), [&](std::size_t a, std::size_t b) {
                      return scores[a] != scores[b] ? scores[a] < scores[b] : a < b;
                    });
  for (std::int32_t& expert : out) {
    Race* next = &races[order[0]];
    for (std::size_t i = 1; i < chosen; ++i) {
      if (races[order[i]].time < next->time) next = &races[order[i]];
    }
    const auto last = static_cast<std::size_t>(next->taken - 1);
    expert = next->first_expert + next->rung[last];
    ring(*next, stream);
  }
}

std::vector<std::uint16_t> sample_choices(std::span<const double> weights, std::int32_t k,
                                          const GroupLimit& limit) {
  std::uint64_t name = 0xcbf29ce484222325ULL;  // FNV-1a over the weights' bits
  for (const double w : weights) name = (name ^ std::bit_cast<std::uint64_t>(w)) * 0x100000001b3ULL;
  RandomStream stream(name, RandomPurpose::expert_routing);
  const GroupedChoice choice(weights, limit);
  std::vector<std::uint16_t> sample;
  sample.reserve(static_cast<std::size_t>(sampled_tokens * k));
  std::vector<std::int32_t> one(static_cast<std::size_t>(k));
  for (std::int64_t t = 0; t < sampled_tokens; ++t) {
    choice.draw(stream, one);
    for (const std::int32_t expert : one) sample.push_back(static_cast<std::uint16_t>(expert));
  }
  return sample;
}

namespace {

// A parabola through y over x with these weights, by least squares; a constant where x says nothing.
struct Parabola {
  double a = 0, b = 0, c = 0;
  double operator()(double x) const { return a + x * (b + x * c); }
};
Parabola fit(std::span<const double> x, std::span<const double> y, std::span<const double> weights) {
  double s[5] = {}, t[3] = {};
  for (std::size_t i = 0; i < x.size(); ++i) {
    double power = weights[i];
    for (int n = 0; n < 5; ++n, power *= x[i]) {
      s[n] += power;
      if (n < 3) t[n] += power * y[i];
    }
  }
  double m[3][4] = {{s[0], s[1], s[2], t[0]}, {s[1], s[2], s[3], t[1]}, {s[2], s[3], s[4], t[2]}};
  for (int i = 1; i < 3; ++i) m[i][i] += 1e-6 * s[0];  // singular where all x are alike
  for (int i = 0; i < 3; ++i) {
    for (int j = i + 1; j < 3; ++j) {
      const double factor = m[j][i] / m[i][i];
      for (int n = i; n < 4; ++n) m[j][n] -= factor * m[i][n];
    }
  }
  Parabola p;
  p.c = m[2][3] / m[2][2];
  p.b = (m[1][3] - m[1][2] * p.c) / m[1][1];
  p.a = (m[0][3] - m[0][1] * p.b - m[0][2] * p.c) / m[0][0];
  return p;
}

constexpr double fit_error = 0.03;  // of the parabola, assumed: more than was seen

}  // namespace

std::vector<double> inclusion_of_sample(std::span<const double> weights, std::int32_t k, std::int32_t groups,
                                        std::span<const std::uint16_t> sample) {
  const std::size_t n = weights.size(), size = n / static_cast<std::size_t>(groups);
  if (all_equal(weights)) return std::vector<double>(n, static_cast<double>(k) / static_cast<double>(n));
  const double tokens = static_cast<double>(sample.size()) / static_cast<double>(k);
  const std::vector<double> plain = inclusion_probabilities(weights, k);
  std::vector<double> drawn(n, 0.0), p(n), x(n), ratio(n);
  for (const std::uint16_t expert : sample) drawn[expert] += 1 / tokens;
  for (std::size_t e = 0; e < n; ++e) {
    x[e] = det_log(weights[e] * static_cast<double>(n));
    ratio[e] = drawn[e] / plain[e];
  }
  double sum = 0;
  for (std::size_t first = 0; first < n; first += size) {
    const auto of = [&](const std::vector<double>& all) { return std::span(all).subspan(first, size); };
    const Parabola fitted = fit(of(x), of(ratio), of(plain));
    for (std::size_t e = first; e < first + size; ++e) {
      const double guess = std::min(plain[e] * std::clamp(fitted(x[e]), 0.02, 50.0), 0.9999);
      const double noise = (1 - guess) / (guess * tokens), doubt = fit_error * fit_error;
      p[e] = (guess * noise + drawn[e] * doubt) / (noise + doubt);
      sum += p[e];
    }
  }
  for (double& one : p) one = std::min(1.0, one * k / sum);
  return p;
}

std::vector<double> weights_of_counts(std::span<const double> counts, std::int32_t k,
                                      const GroupLimit& limit) {
  std::vector<double> w = weights_of_counts(counts, k);
  if (!limit.on()) return w;
  double sum = 0;
  for (const double c : counts) sum += c;
  for (int round = 1; round <= 6; ++round) {  // by smaller steps: each sample has an error of its own
    const std::vector<double> p = inclusion_of_sample(w, k, limit.groups, sample_choices(w, k, limit));
    double all = 0;
    for (std::size_t i = 0; i < w.size(); ++i) {
      const double want = std::min(0.995, counts[i] / sum * k), has = std::min(p[i], 1 - 1e-6);
      w[i] *= det_pow(det_log1p(-want) / det_log1p(-has), 1.0 / round);
      all += w[i];
    }
    for (double& one : w) one /= all;
  }
  return w;
}

}  // namespace orrery
