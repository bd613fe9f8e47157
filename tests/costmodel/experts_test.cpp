// Popularity, choice, loads and placement of experts against brute force, enumeration and published results.
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>
#include <numeric>
#include <set>
#include <tuple>
#include <vector>

#include "catch.h"
#include "costmodel/experts/balancer.h"
#include "costmodel/experts/choice.h"
#include "costmodel/experts/popularity.h"
#include "costmodel/experts/rank_loads.h"

using namespace orrery;

namespace {

std::vector<double> zipf(std::size_t experts, double exponent) {
  std::vector<double> w;
  for (std::size_t i = 0; i < experts; ++i) w.push_back(std::pow(static_cast<double>(i + 1), -exponent));
  // Dealt out, so that ranks do not get the popular ones in a row.
  std::vector<double> out(experts);
  for (std::size_t i = 0; i < experts; ++i) out[(i * 29) % experts] = w[i];
  return out;
}

// Every ordered choice of k, by the definition.
std::vector<double> enumerated(const std::vector<double>& w, int k) {
  std::vector<double> p(w.size(), 0.0);
  std::vector<bool> taken(w.size(), false);
  const std::function<void(int, double)> choose = [&](int left, double probability) {
    if (left == 0) return;
    double sum = 0;
    for (std::size_t i = 0; i < w.size(); ++i) sum += taken[i] ? 0 : w[i];
    for (std::size_t i = 0; i < w.size(); ++i) {
      if (taken[i]) continue;
      p[i] += probability * w[i] / sum;
      taken[i] = true;
      choose(left - 1, probability * w[i] / sum);
      taken[i] = false;
    }
  };
  choose(k, 1);
  return p;
}

// Names of the tokens of a batch.
std::vector<std::uint64_t> keys(int batch, int tokens) {
  std::vector<std::uint64_t> keys;
  for (int t = 0; t < tokens; ++t)
    keys.push_back(token_key(6, static_cast<std::uint64_t>(batch), static_cast<std::uint64_t>(t)));
  return keys;
}

struct Batches {
  double mean_rows = 0, p99_rows = 0, mean_distinct = 0;
};

// Largest number of rows and of experts with rows on any rank, token by token, batch by batch.
Batches brute_force(const std::vector<double>& w, int k, const ExpertPlacement& placement, int tokens,
                    int batches) {
  const ExpertChoice choice(w);
  const auto replicas = placement.replicas(static_cast<std::int32_t>(w.size()));
  std::vector<std::vector<std::size_t>> slots(w.size());
  for (std::size_t s = 0; s < placement.expert_of_slot.size(); ++s)
    slots[static_cast<std::size_t>(placement.expert_of_slot[s])].push_back(s);
  std::vector<double> rows, distinct;
  std::vector<std::int32_t> chosen(static_cast<std::size_t>(k));
  for (int b = 0; b < batches; ++b) {
    std::vector<int> load(placement.expert_of_slot.size(), 0);
    for (int t = 0; t < tokens; ++t) {
      RandomStream stream = token_choices(3, static_cast<std::uint64_t>(b), static_cast<std::uint64_t>(t), 0);
      choice.draw(stream, chosen);
      for (const std::int32_t e : chosen) {
        const auto& mine = slots[static_cast<std::size_t>(e)];
        ++load[mine[stream.below(mine.size())]];
      }
    }
    int most = 0, touched = 0;
    for (int r = 0; r < placement.ranks; ++r) {
      int n = 0, d = 0;
      for (int s = 0; s < placement.slots(); ++s) {
        const int l = load[static_cast<std::size_t>(r * placement.slots() + s)];
        n += l;
        d += l > 0;
      }
      most = std::max(most, n);
      touched = std::max(touched, d);
    }
    rows.push_back(most);
    distinct.push_back(touched);
  }
  std::sort(rows.begin(), rows.end());
  const double n = static_cast<double>(batches);
  return {std::accumulate(rows.begin(), rows.end(), 0.0) / n, rows[static_cast<std::size_t>(0.99 * n)],
          std::accumulate(distinct.begin(), distinct.end(), 0.0) / n};
}

}  // namespace

TEST_CASE("probability to be among k distinct experts: enumeration agrees") {
  for (const auto& w :
       {std::vector<double>{1, 1, 1, 1}, {8, 4, 2, 1, 1, 0.5}, {1000, 10, 1, 1, 0.01, 3, 2}}) {
    for (int k = 1; k <= 4; ++k) {
      const auto exact = enumerated(w, k);
      const auto p = inclusion_probabilities(w, k);
      for (std::size_t i = 0; i < w.size(); ++i) {
        INFO("expert " << i << " of " << w.size() << ", k = " << k);
        CHECK(p[i] == Approx(exact[i]).epsilon(1e-6));
      }
    }
  }
}

TEST_CASE("probability to be among k distinct experts: draws agree") {
  const auto w = zipf(128, 1.1);
  const auto p = inclusion_probabilities(w, 8);
  CHECK(std::accumulate(p.begin(), p.end(), 0.0) == Approx(8));
  const ExpertChoice choice(w);
  std::vector<double> count(w.size(), 0.0);
  constexpr int tokens = 60000;
  std::vector<std::int32_t> chosen(8);
  for (int t = 0; t < tokens; ++t) {
    RandomStream stream = token_choices(1, 0, static_cast<std::uint64_t>(t), 5);
    choice.draw(stream, chosen);
    REQUIRE(std::set<std::int32_t>(chosen.begin(), chosen.end()).size() == 8);
    for (const std::int32_t e : chosen) count[static_cast<std::size_t>(e)] += 1;
  }
  for (std::size_t i = 0; i < w.size(); ++i) {
    const double deviation = std::sqrt(p[i] * (1 - p[i]) / tokens);
    CHECK(std::abs(count[i] / tokens - p[i]) < 4.5 * deviation);
  }
}

TEST_CASE("a token's experts are named by request, token and layer, and by nothing else") {
  const ExpertChoice choice(zipf(64, 1));
  const auto drawn = [&](std::uint64_t request, std::uint64_t token, std::uint64_t layer) {
    RandomStream stream = token_choices(9, request, token, layer);
    std::vector<std::int32_t> chosen(6);
    choice.draw(stream, chosen);
    return chosen;
  };
  const auto first = drawn(4, 7, 2);
  drawn(1, 1, 1);
  CHECK(drawn(4, 7, 2) == first);
  CHECK(drawn(7, 4, 2) != first);
  CHECK(drawn(4, 2, 7) != first);
}

TEST_CASE("weights of measured counts give the counted shares back") {
  std::vector<double> counts;
  for (int i = 0; i < 64; ++i) counts.push_back(100 + 40.0 * i + (i == 10 ? 10000 : 0));
  const double sum = std::accumulate(counts.begin(), counts.end(), 0.0);
  const auto p = inclusion_probabilities(weights_of_counts(counts, 6), 6);
  for (std::size_t i = 0; i < counts.size(); ++i) CHECK(p[i] == Approx(6 * counts[i] / sum).epsilon(2e-4));
}

TEST_CASE("chunks: the most loaded rank agrees with brute force within 2 percent") {
  for (const double exponent : {0.0, 0.6, 1.1}) {
    for (const int ranks : {4, 8, 32}) {
      for (const int redundant : {0, 32}) {
        const auto w = zipf(128, exponent);
        const ExpertPlacement placement = redundant == 0 ? initial_placement(128, 0, ranks)
                                                         : balance_experts(inclusion_probabilities(w, 8),
                                                                           {.redundant = 32, .ranks = ranks});
        const LayerLoads loads(w, 8, placement);
        const int tokens = 1024, batches = 400;
        const Batches brute = brute_force(w, 8, placement, tokens, batches);
        INFO("zipf " << exponent << ", " << ranks << " ranks, " << redundant << " redundant");
        CHECK(loads.expected(tokens).rows == Approx(brute.mean_rows).epsilon(0.02));
        CHECK(loads.expected(tokens).distinct == Approx(brute.mean_distinct).epsilon(0.02).margin(0.3));
        std::vector<double> sampled;
        double mean = 0;
        RandomStream stream(5, RandomPurpose::property_test);
        for (int i = 0; i < 4000; ++i) {
          sampled.push_back(loads.sampled(0, {}, tokens, stream).rows);
          mean += sampled.back() / 4000;
        }
        std::sort(sampled.begin(), sampled.end());
        CHECK(mean == Approx(brute.mean_rows).epsilon(0.02));
        CHECK(sampled[3960] == Approx(brute.p99_rows).epsilon(0.02));
      }
    }
  }
}

TEST_CASE("small batches: counted draws are the law, and the expectation follows it") {
  for (const double exponent : {0.0, 1.1}) {
    for (const int tokens : {1, 8, 64}) {
      const auto w = zipf(128, exponent);
      const ExpertPlacement placement = initial_placement(128, 0, 8);
      const LayerLoads loads(w, 8, placement);
      const Batches brute = brute_force(w, 8, placement, tokens, 4000);
      RankLoad mean;
      for (int i = 0; i < 4000; ++i) {
        RandomStream stream(6, RandomPurpose::property_test, static_cast<std::uint64_t>(i));
        const RankLoad one = loads.sampled(0, keys(i, tokens), 0, stream);
        mean.rows += one.rows / 4000;
        mean.distinct += one.distinct / 4000;
      }
      INFO("zipf " << exponent << ", " << tokens << " tokens");
      CHECK(mean.rows == Approx(brute.mean_rows).epsilon(0.02));
      CHECK(mean.distinct == Approx(brute.mean_distinct).epsilon(0.02));
      // As the uniform formula of costmodel/moe.h: half a row for discreteness, 4 % for the normals.
      CHECK(std::abs(loads.expected(tokens).rows - brute.mean_rows) < 0.5 + 0.04 * brute.mean_rows);
      CHECK(std::abs(loads.expected(tokens).distinct - brute.mean_distinct) <
            0.5 + 0.04 * brute.mean_distinct);
    }
  }
}

TEST_CASE("one rank has all rows; skew leaves it fewer distinct experts") {
  const ExpertPlacement whole = initial_placement(128, 0, 1);
  const LayerLoads even(zipf(128, 0), 8, whole), skewed(zipf(128, 1.2), 8, whole);
  CHECK(even.expected(16).rows == 128);
  CHECK(even.expected(16).distinct == Approx(128 * (1 - std::pow(1 - 8.0 / 128, 16))));
  CHECK(skewed.expected(16).distinct < 0.8 * even.expected(16).distinct);
}

TEST_CASE("EPLB: the example that DeepSeek publishes") {
  // README of github.com/deepseek-ai/EPLB (d52c72d, "Interface and Example"): 12 experts, 4 redundant, 4
  // groups, 2 nodes of 4 GPUs; the printed phy2log.
  const std::vector<double> layers[2] = {{90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86},
                                         {20, 107, 104, 64, 19, 197, 187, 157, 172, 86, 16, 27}};
  const std::vector<std::int32_t> published[2] = {{5, 6, 5, 7, 8, 4, 3, 4, 10, 9, 10, 2, 0, 1, 11, 1},
                                                  {7, 10, 6, 8, 6, 11, 8, 9, 2, 4, 5, 1, 5, 0, 3, 1}};
  for (int layer = 0; layer < 2; ++layer) {
    const auto p = balance_experts(layers[layer], {.redundant = 4, .ranks = 8, .groups = 4, .nodes = 2});
    CHECK(p.expert_of_slot == published[layer]);
  }
}

TEST_CASE("EPLB: invariants over random loads") {
  RandomStream random(11, RandomPurpose::property_test);
  for (int round = 0; round < 200; ++round) {
    const std::int32_t nodes = 1 + static_cast<std::int32_t>(random.below(2)), ranks = 8, groups = 4;
    const std::int32_t redundant = 8 * static_cast<std::int32_t>(random.below(4));
    std::vector<double> loads;
    for (int e = 0; e < 64; ++e) loads.push_back(random.gamma(0.5, 100));
    const auto p =
        balance_experts(loads, {.redundant = redundant, .ranks = ranks, .groups = groups, .nodes = nodes});
    REQUIRE(p.expert_of_slot.size() == static_cast<std::size_t>(64 + redundant));
    const auto replicas = p.replicas(64);
    CHECK(*std::min_element(replicas.begin(), replicas.end()) >= 1);
    // A group stays on one node.
    for (std::size_t s = 0; nodes == 2 && s < p.expert_of_slot.size(); ++s) {
      const std::size_t half = p.expert_of_slot.size() / 2;
      for (std::size_t o = 0; o < p.expert_of_slot.size(); ++o) {
        if (p.expert_of_slot[s] / 16 == p.expert_of_slot[o] / 16) REQUIRE((s < half) == (o < half));
      }
    }
    if (nodes == 2) continue;
    std::vector<double> of_rank(8, 0.0);
    double largest = 0;
    for (std::size_t s = 0; s < p.expert_of_slot.size(); ++s) {
      const auto e = static_cast<std::size_t>(p.expert_of_slot[s]);
      of_rank[s / static_cast<std::size_t>(p.slots())] += loads[e] / replicas[e];
      largest = std::max(largest, loads[e] / replicas[e]);
    }
    const double sum = std::accumulate(loads.begin(), loads.end(), 0.0);
    CHECK(*std::max_element(of_rank.begin(), of_rank.end()) <= sum / 8 + largest + 1e-9);
    // No other numbers of replicas: taking one from any expert and giving it to the worst makes it no better.
    for (std::size_t e = 0; e < 64; ++e) {
      if (replicas[e] > 1) CHECK(loads[e] / (replicas[e] - 1) >= largest - 1e-9);
    }
  }
}

TEST_CASE("moves: what stays on a rank is not sent") {
  const ExpertPlacement from = initial_placement(8, 0, 2);  // 0 1 2 3 | 4 5 6 7
  const ExpertPlacement to{2, {3, 4, 1, 0, 2, 7, 6, 5}};
  const PlacementMove move = move_to(from, to);
  CHECK(move.placement.expert_of_slot == std::vector<std::int32_t>{0, 1, 4, 3, 2, 5, 6, 7});
  CHECK(move.moved == 2);
  CHECK(move.busiest_rank == 1);
  CHECK(move_to(from, from).moved == 0);
}

TEST_CASE("popularity is a function of layer, time and seed") {
  PopularitySpec spec;
  spec.law = PopularitySpec::Law::zipf;
  spec.parameter = 1.1;
  spec.every_s = 60;
  spec.steps = 4;
  const ExpertPopularity a(spec, 4, 64, 6, 1), b(spec, 4, 64, 6, 1), other(spec, 4, 64, 6, 2);
  const auto late = a.weights(3, 40);
  CHECK(a.weights(0, 0) == b.weights(0, 0));
  CHECK(b.weights(3, 40) == late);
  CHECK(other.weights(3, 40) != late);
  CHECK(a.weights(2, 40) != late);
  CHECK(a.epoch(SimTime(15'000'000'000)) == 1);
  CHECK(a.epoch_end(1) == SimTime(30'000'000'000));
  // What is popular changes, how unequal it is does not.
  for (const std::int64_t epoch : {0, 1, 2, 3, 4, 77}) {
    auto w = a.weights(1, epoch);
    std::sort(w.begin(), w.end());
    auto first = a.weights(1, 0);
    std::sort(first.begin(), first.end());
    CHECK(w == first);
    CHECK(std::accumulate(w.begin(), w.end(), 0.0) == Approx(1));
  }
  // Within a topic change the popularity moves by pieces: neighbours are closer than topics.
  const auto distance = [&](std::int64_t x, std::int64_t y) {
    double d = 0;
    for (std::int32_t l = 0; l < 4; ++l) {
      const auto p = a.weights(l, x), q = a.weights(l, y);
      for (std::size_t i = 0; i < p.size(); ++i) d += std::abs(p[i] - q[i]);
    }
    return d;
  };
  CHECK(distance(0, 1) < distance(0, 4));
}

TEST_CASE("layers are hot in the same places as far as they are correlated") {
  PopularitySpec spec;
  spec.law = PopularitySpec::Law::dirichlet;
  spec.parameter = 0.3;
  const auto likeness = [&](double correlation) {
    spec.layer_correlation = correlation;
    const ExpertPopularity p(spec, 40, 64, 6, 3);
    double same = 0;
    for (std::int32_t l = 1; l < 40; ++l) {
      const auto u = p.weights(l - 1, 0), v = p.weights(l, 0);
      same += std::max_element(u.begin(), u.end()) - u.begin() ==
              std::max_element(v.begin(), v.end()) - v.begin();
    }
    return same / 39;
  };
  CHECK(likeness(0) < 0.2);
  CHECK(likeness(1) == 1);
}

TEST_CASE("files of counts: read, or refused with the line") {
  const std::string path = (std::filesystem::temp_directory_path() / "orrery_expert_counts.csv").string();
  const auto load = [&](const std::string& text) {
    std::ofstream(path) << text;
    return load_expert_counts(path);
  };
  const auto good = load("task,layer,expert,count\nlaw,1,0,5\nlaw,1,1,0\nmath,1,0,2\nmath,1,1,9\n");
  REQUIRE(good.ok());
  CHECK(good->topics == std::vector<std::string>{"law", "math"});
  CHECK(good->rows[0][0] == std::vector<double>{5, 0.5});
  CHECK(good->rows[1][0] == std::vector<double>{2, 9});
  for (const auto& [text, line, key] : {std::tuple{"layer,expert\n1,0\n", 1, "count"},
                                        {"layer,expert,count\n1,0,x\n", 2, "count"},
                                        {"layer,expert,count\n1,0,1\n1,0,2\n", 3, "expert"},
                                        {"layer,expert,count\n1,1,1\n", 0, "expert"},
                                        {"layer,expert,count\n1,0\n", 2, ""}}) {
    const auto bad = load(text);
    INFO(text);
    REQUIRE(!bad.ok());
    CHECK(bad.errors().front().where.line == line);
    CHECK(bad.errors().front().key == key);
  }
  std::filesystem::remove(path);
}
