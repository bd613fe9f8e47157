// Routers that choose groups of experts first, against the definition of their law, token by token.
#include "costmodel/experts/grouped_choice.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

#include "../sanitized.h"
#include "catch.h"
#include "costmodel/experts/rank_loads.h"

using namespace orrery;

namespace {

constexpr GroupLimit deepseek_v3{.groups = 8, .chosen = 4, .best = 2};

std::vector<double> zipf(std::size_t experts, double exponent) {
  std::vector<double> out(experts);
  for (std::size_t i = 0; i < experts; ++i)
    out[(i * 29) % experts] = std::pow(static_cast<double>(i + 1), -exponent);
  return out;
}

// As a router does it: every expert's score, groups by their best scores, the best of the best groups.
std::vector<std::int32_t> by_definition(const std::vector<double>& w, std::size_t k, const GroupLimit& limit,
                                        RandomStream& stream) {
  const std::size_t groups = static_cast<std::size_t>(limit.groups), size = w.size() / groups;
  std::vector<std::pair<double, std::int32_t>> scores;  // less is worse
  for (std::size_t e = 0; e < w.size(); ++e)
    scores.push_back({-std::log(stream.exponential(1) / w[e]), static_cast<std::int32_t>(e)});
  std::vector<std::pair<double, std::size_t>> of_groups;
  for (std::size_t g = 0; g < groups; ++g) {
    std::vector<double> own;
    for (std::size_t e = g * size; e < (g + 1) * size; ++e) own.push_back(scores[e].first);
    std::sort(own.rbegin(), own.rend());
    of_groups.push_back({own[0] + (limit.best == 2 ? own[1] : 0), g});
  }
  std::sort(of_groups.rbegin(), of_groups.rend());
  std::vector<std::pair<double, std::int32_t>> left;
  for (std::size_t i = 0; i < static_cast<std::size_t>(limit.chosen); ++i) {
    const auto first = scores.begin() + static_cast<std::ptrdiff_t>(of_groups[i].second * size);
    left.insert(left.end(), first, first + static_cast<std::ptrdiff_t>(size));
  }
  std::sort(left.rbegin(), left.rend());
  std::vector<std::int32_t> chosen;
  for (std::size_t i = 0; i < k; ++i) chosen.push_back(left[i].second);
  return chosen;
}

RandomStream named(std::uint64_t name) { return RandomStream(21, RandomPurpose::property_test, name); }

}  // namespace

TEST_CASE("draws by group are the law of scores, groups and the best of them [groups]") {
  for (const GroupLimit limit : {deepseek_v3, GroupLimit{.groups = 4, .chosen = 2, .best = 1}}) {
    for (const double exponent : {0.0, 1.1}) {
      const auto w = zipf(32, exponent);
      const std::size_t size = w.size() / static_cast<std::size_t>(limit.groups);
      constexpr std::size_t k = 4;
      constexpr int tokens = sanitized ? 3000 : 15000;
      const GroupedChoice choice(w, limit);
      RandomStream drawn = named(1), defined = named(2);
      // By expert, by pair of an expert with the first one's group, and by number of groups.
      std::vector<double> a(w.size(), 0.0), b = a, groups_a(9, 0.0), groups_b(9, 0.0);
      std::vector<std::int32_t> one(k);
      const auto note = [&](const std::vector<std::int32_t>& chosen, std::vector<double>& experts,
                            std::vector<double>& groups) {
        std::set<std::size_t> met;
        for (const std::int32_t e : chosen) {
          experts[static_cast<std::size_t>(e)] += 1.0 / tokens;
          met.insert(static_cast<std::size_t>(e) / size);
        }
        groups[met.size()] += 1.0 / tokens;
      };
      for (int t = 0; t < tokens; ++t) {
        choice.draw(drawn, one);
        REQUIRE(std::set<std::int32_t>(one.begin(), one.end()).size() == k);
        note(one, a, groups_a);
        note(by_definition(w, k, limit, defined), b, groups_b);
      }
      CAPTURE(limit.groups, exponent);
      const auto close = [&](double x, double y) {
        return std::abs(x - y) < 4.5 * std::sqrt(2 * std::max(x * (1 - x), 2.0 / tokens) / tokens);
      };
      for (std::size_t e = 0; e < w.size(); ++e) CHECK(close(a[e], b[e]));
      for (std::size_t n = 0; n < groups_a.size(); ++n) CHECK(close(groups_a[n], groups_b[n]));
      for (std::size_t n = static_cast<std::size_t>(limit.chosen) + 1; n < 9; ++n) CHECK(groups_a[n] == 0);
    }
  }
}

TEST_CASE("probability of an expert under groups: samples of another stream agree [groups]") {
  for (const double exponent : {0.0, 0.6, 1.1}) {
    const auto w = zipf(256, exponent);
    const ExpertDemand demand(w, 8, deepseek_v3);
    const GroupedChoice choice(w, deepseek_v3);
    CHECK(std::accumulate(demand.inclusion.begin(), demand.inclusion.end(), 0.0) == Approx(8));
    constexpr int tokens = sanitized ? 5000 : 60000;
    std::vector<double> count(w.size(), 0.0);
    std::vector<std::int32_t> one(8);
    RandomStream stream = named(3);
    for (int t = 0; t < tokens; ++t) {
      choice.draw(stream, one);
      for (const std::int32_t e : one) count[static_cast<std::size_t>(e)] += 1.0 / tokens;
    }
    double error = 0, noise = 0;
    for (std::size_t e = 0; e < w.size(); ++e) {
      const double p = demand.inclusion[e];
      error += (count[e] / p - 1) * (count[e] / p - 1) / 256;
      noise += (1 - p) / p / tokens / 256;
    }
    CAPTURE(exponent, std::sqrt(error), std::sqrt(noise));
    CHECK(std::sqrt(std::max(0.0, error - noise)) < 0.03);
  }
}

namespace {

struct Batches {
  double mean_rows = 0, p99_rows = 0, mean_distinct = 0;
};

// Largest number of rows and of experts with rows on any rank, token by token, batch by batch.
Batches brute_force(const std::vector<double>& w, const ExpertPlacement& placement, int tokens, int batches) {
  const GroupedChoice choice(w, deepseek_v3);
  const auto replicas = placement.replicas(static_cast<std::int32_t>(w.size()));
  std::vector<std::vector<std::size_t>> slots(w.size());
  for (std::size_t s = 0; s < placement.expert_of_slot.size(); ++s)
    slots[static_cast<std::size_t>(placement.expert_of_slot[s])].push_back(s);
  std::vector<double> rows;
  double distinct = 0;
  std::vector<std::int32_t> chosen(8);
  for (int b = 0; b < batches; ++b) {
    RandomStream stream = named(static_cast<std::uint64_t>(1000 + b));
    std::vector<int> load(placement.expert_of_slot.size(), 0);
    for (int t = 0; t < tokens; ++t) {
      choice.draw(stream, chosen);
      for (const std::int32_t e : chosen) {
        const auto& mine = slots[static_cast<std::size_t>(e)];
        ++load[mine[stream.below(mine.size())]];
      }
    }
    int most = 0, touched = 0;
    for (int r = 0; r < placement.ranks; ++r) {
      const auto first = load.begin() + r * placement.slots(), last = first + placement.slots();
      most = std::max(most, std::accumulate(first, last, 0));
      touched = std::max(touched, static_cast<int>(std::count_if(first, last, [](int n) { return n > 0; })));
    }
    rows.push_back(most);
    distinct += static_cast<double>(touched) / batches;
  }
  std::sort(rows.begin(), rows.end());
  const double n = static_cast<double>(batches);
  return {std::accumulate(rows.begin(), rows.end(), 0.0) / n, rows[static_cast<std::size_t>(0.99 * n)],
          distinct};
}

}  // namespace

TEST_CASE("chunks of a grouped model: the most loaded rank is within 2 percent of brute force [groups]") {
  for (const double exponent : {0.0, 0.6, 1.1}) {
    const auto w = zipf(256, exponent);
    const auto demand = std::make_shared<const ExpertDemand>(w, 8, deepseek_v3);
    for (const int ranks : {8, 32}) {
      for (const int redundant : {0, 32}) {
        if (redundant > 0 && exponent != 0.6) continue;
        const ExpertPlacement placement =
            redundant == 0 ? initial_placement(256, 0, ranks)
                           : balance_experts(demand->inclusion, {.redundant = 32, .ranks = ranks});
        const LayerLoads loads(demand, placement);
        const int tokens = 1024, batches = sanitized ? 30 : 200;
        const Batches brute = brute_force(w, placement, tokens, batches);
        const double within = sanitized ? 0.05 : 0.02;
        INFO("zipf " << exponent << ", " << ranks << " ranks, " << redundant << " redundant");
        CHECK(loads.expected(tokens).rows == Approx(brute.mean_rows).epsilon(within));
        CHECK(loads.expected(tokens).distinct == Approx(brute.mean_distinct).epsilon(within).margin(0.3));
        std::vector<double> sampled;
        double mean = 0;
        RandomStream stream = named(5);
        for (int i = 0; i < 4000; ++i) {
          sampled.push_back(loads.sampled(0, {}, tokens, stream).rows);
          mean += sampled.back() / 4000;
        }
        std::sort(sampled.begin(), sampled.end());
        CHECK(mean == Approx(brute.mean_rows).epsilon(within));
        CHECK(sampled[3960] == Approx(brute.p99_rows).epsilon(within));
      }
    }
  }
}

// What docs/experts.md says of even scores: 3.97 of 8 groups instead of 5.31, 6.85 of 32 ranks instead of
// 7.28, and a rank's rows 1.60 (8 ranks) and 1.12 (32) times their variance. (With uniform, normal or sigmoid
// scores in place of log-weights and noise: 3.95 to 3.98, 6.84 to 6.86, 1.58 to 1.60, 1.12.)
TEST_CASE("DeepSeek-V3 with even scores: groups and ranks of a token, variance of a rank's rows [groups]") {
  const std::vector<double> even(256, 1.0);
  const LayerLoads eight(even, 8, initial_placement(256, 0, 8), {.ranks_of_node = 8, .by_rank = true},
                         deepseek_v3);
  const LayerLoads plain(even, 8, initial_placement(256, 0, 8), {.ranks_of_node = 8, .by_rank = true});
  const auto demand = eight.demand();
  double groups = 0, ranks = 0, square = 0, square_of_four = 0;
  for (std::size_t t = 0; t < demand->sample.size(); t += 8) {
    std::set<int> met, of_32;
    std::vector<int> rows(8, 0), rows_32(32, 0);
    for (std::size_t i = t; i < t + 8; ++i) {
      met.insert(demand->sample[i] / 32);
      of_32.insert(demand->sample[i] / 8);
      ++rows[demand->sample[i] / 32u];
      ++rows_32[demand->sample[i] / 8u];
    }
    groups += static_cast<double>(met.size()) / sampled_tokens;
    ranks += static_cast<double>(of_32.size()) / sampled_tokens;
    for (const int n : rows) square += (n - 1.0) * (n - 1.0) / 8 / sampled_tokens;
    for (const int n : rows_32) square_of_four += (n - 0.25) * (n - 0.25) / 32 / sampled_tokens;
  }
  CHECK(groups == Approx(3.97).margin(0.02));
  CHECK(ranks == Approx(6.85).margin(0.02));
  // Without groups: T·k/R·(E − k)/(E − 1)·(1 − 1/R), as docs/cost_model.md has it.
  CHECK(square / (248.0 / 255 * 7 / 8) == Approx(1.59).margin(0.03));
  CHECK(square_of_four / (0.25 * 248.0 / 255 * 31 / 32) == Approx(1.12).margin(0.02));
  CHECK(eight.expected(256).rows / plain.expected(256).rows == Approx(1.02).margin(0.005));
  CHECK(eight.expected(256).received < plain.expected(256).received);  // fewer ranks of a token
}

TEST_CASE("weights of measured counts under groups give the counted shares back [groups]") {
  std::vector<double> counts;
  for (int i = 0; i < 64; ++i) counts.push_back(100 + 40.0 * ((i * 37) % 64) + (i == 10 ? 4000 : 0));
  const double sum = std::accumulate(counts.begin(), counts.end(), 0.0);
  const GroupLimit limit{.groups = 8, .chosen = 3, .best = 1};  // DeepSeek-V2's
  const ExpertDemand demand(weights_of_counts(counts, 6, limit), 6, limit);
  double error = 0;
  for (std::size_t i = 0; i < counts.size(); ++i) {
    const double off = demand.inclusion[i] / (6 * counts[i] / sum) - 1;
    error += off * off / 64;
    CHECK(std::abs(off) < 0.15);
  }
  CHECK(std::sqrt(error) < 0.05);
}
