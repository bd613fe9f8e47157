// What a token chooses follows from its name, by the law of popularity, wherever experts live.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>
#include <vector>

#include "catch.h"
#include "costmodel/experts/balancer.h"
#include "costmodel/experts/choice.h"
#include "costmodel/experts/rank_loads.h"

using namespace orrery;

namespace {

constexpr GroupLimit deepseek_v3{.groups = 8, .chosen = 4, .best = 2};

std::vector<double> zipf(std::size_t experts, double exponent) {
  std::vector<double> w(experts);
  for (std::size_t i = 0; i < experts; ++i)
    w[(i * 29) % experts] = std::pow(static_cast<double>(i + 1), -exponent);
  return w;
}

std::vector<std::uint64_t> keys(std::uint64_t request, int tokens) {
  std::vector<std::uint64_t> all;
  for (int t = 0; t < tokens; ++t) all.push_back(token_key(3, request, static_cast<std::uint64_t>(t)));
  return all;
}

RandomStream any_stream() { return RandomStream(8, RandomPurpose::property_test); }

}  // namespace

TEST_CASE(
    "a token's experts: distinct, the same when asked again, others in another layer, place or request") {
  for (const bool grouped : {false, true}) {
    const ExpertDemand demand(zipf(256, 0.8), 8, grouped ? deepseek_v3 : GroupLimit{});
    std::set<std::vector<std::uint16_t>> seen;
    for (const std::uint64_t request : {0u, 1u, 7u}) {
      for (const std::uint64_t place : {0u, 1u, 900u}) {
        for (const std::uint64_t layer : {0u, 1u, 57u}) {
          std::vector<std::uint16_t> one(8), again(8);
          demand.draw(token_key(1, request, place), layer, one);
          demand.draw(token_key(1, request, place), layer, again);
          CHECK(one == again);
          CHECK(std::set<std::uint16_t>(one.begin(), one.end()).size() == 8);
          CHECK(seen.insert(one).second);
          demand.draw(token_key(2, request, place), layer, again);
          CHECK(one != again);
        }
      }
    }
  }
}

TEST_CASE("named choices follow the law: each expert as often as it should be") {
  constexpr int tokens = 40000;
  for (const double exponent : {0.0, 0.6, 1.4}) {
    const auto w = zipf(128, exponent);
    const ExpertDemand demand(w, 8);
    std::vector<double> share(128, 0.0);
    std::vector<std::uint16_t> one(8);
    for (const std::uint64_t key : keys(5, tokens)) {
      demand.draw(key, 3, one);
      for (const std::uint16_t e : one) share[e] += 1.0 / tokens;
    }
    const auto p = inclusion_probabilities(w, 8);
    for (std::size_t e = 0; e < w.size(); ++e) {
      INFO("zipf " << exponent << ", expert " << e);
      CHECK(std::abs(share[e] - p[e]) < 4.5 * std::sqrt(p[e] * (1 - p[e]) / tokens) + 1e-6);
    }
  }
}

TEST_CASE("one expert far ahead: the others are still found, by what is left") {
  std::vector<double> w(16, 1e-12);
  w[3] = 1;
  const NamedChoice choice(w);
  std::vector<double> share(16, 0.0);
  std::vector<std::uint16_t> one(4);
  for (const std::uint64_t key : keys(2, 3000)) {
    choice.draw(TokenNumbers(key, 0), one);
    CHECK(one.front() == 3);
    for (const std::uint16_t e : one) share[e] += 1.0 / 3000;
  }
  for (std::size_t e = 0; e < 16; ++e) CHECK(share[e] == Approx(e == 3 ? 1 : 0.2).margin(0.04));
}

// Rows of every width add up to the same choices: an expert's rows are on the rank that holds it.
TEST_CASE("EP1, EP8 and EP16 count the same tokens' rows, whatever their order") {
  for (const bool grouped : {false, true}) {
    const ExpertDemand demand(zipf(256, 0.6), 8, grouped ? deepseek_v3 : GroupLimit{});
    const auto shared = std::make_shared<const ExpertDemand>(demand);
    std::vector<std::uint64_t> batch = keys(11, 40);
    std::vector<int> of_expert(256, 0);
    std::vector<std::uint16_t> one(8);
    for (const std::uint64_t key : batch) {
      demand.draw(key, 9, one);
      for (const std::uint16_t e : one) ++of_expert[e];
    }
    std::reverse(batch.begin(), batch.end());
    for (const std::int32_t ranks : {1, 8, 16}) {
      const LayerLoads loads(shared, initial_placement(256, 0, ranks));
      RandomStream stream = any_stream();
      const RankLoad load = loads.sampled(9, batch, 0, stream);
      int most = 0, distinct = 0;
      for (int r = 0; r < ranks; ++r) {
        const auto first = of_expert.begin() + r * (256 / ranks), end = first + 256 / ranks;
        most = std::max(most, std::accumulate(first, end, 0));
        distinct = std::max(distinct, static_cast<int>(256 / ranks - std::count(first, end, 0)));
      }
      INFO(ranks << " ranks");
      CHECK(load.rows == most);
      CHECK(load.distinct == distinct);
    }
  }
}

TEST_CASE("replicas share an expert's tokens by name, each about equally often") {
  std::vector<double> w(8, 1e-9);
  w[0] = 1;
  const LayerLoads loads(w, 1, initial_placement(8, 8, 2));  // expert 0 on both ranks
  RandomStream stream = any_stream();
  const RankLoad load = loads.sampled(0, keys(1, 4000), 0, stream);
  CHECK(load.rows >= 2000);
  CHECK(load.rows < 2150);
}

// 40 tokens that decode beside a prompt's 700, of which the moments are taken, against all 740 drawn.
TEST_CASE("named tokens beside others: mean and p99 of the busiest rank within 2 % of drawing all") {
  for (const double exponent : {0.0, 0.8}) {
    const LayerLoads loads(zipf(128, exponent), 8, initial_placement(128, 0, 8));
    constexpr int batches = 3000;
    double mean[2] = {0, 0}, distinct[2] = {0, 0}, p99[2];
    for (const int all : {0, 1}) {
      std::vector<double> rows;
      for (int i = 0; i < batches; ++i) {
        RandomStream stream(4, RandomPurpose::property_test, static_cast<std::uint64_t>(i));
        const auto name = static_cast<std::uint64_t>(i);
        const RankLoad load = all == 1 ? loads.sampled(2, keys(name, 740), 0, stream)
                                       : loads.sampled(2, keys(name, 40), 700, stream);
        rows.push_back(load.rows);
        mean[all] += load.rows / batches;
        distinct[all] += load.distinct / batches;
      }
      std::sort(rows.begin(), rows.end());
      p99[all] = rows[batches * 99 / 100];
    }
    INFO("zipf " << exponent);
    CHECK(mean[0] == Approx(mean[1]).epsilon(0.02));
    CHECK(p99[0] == Approx(p99[1]).epsilon(0.02));
    CHECK(distinct[0] == Approx(distinct[1]).epsilon(0.02));
  }
}
