// Experts shared out over ranks: what the slowest rank has to do, and what its layer costs beside the whole
// one's.
#include <algorithm>
#include <cmath>
#include <map>
#include <vector>

#include "base/random.h"
#include "catch.h"
#include "costmodel/csv_table.h"
#include "costmodel/hand_spec.h"
#include "costmodel/instance_spec.h"
#include "costmodel/moe.h"
#include "costmodel/step_pricer.h"

using namespace orrery;

namespace {

// Means over random batches of the largest number of rows and of experts with rows on any rank.
ExpertShare sampled_slowest(std::int64_t experts, std::int64_t per_token, std::int64_t tokens,
                            std::int64_t ranks, int batches) {
  RandomStream random(7, RandomPurpose::property_test, static_cast<std::uint64_t>(tokens * 1000 + ranks));
  const std::int64_t held = experts / ranks;
  double rows = 0, distinct = 0;
  std::vector<std::int64_t> order(static_cast<std::size_t>(experts));
  for (int batch = 0; batch < batches; ++batch) {
    std::vector<std::int64_t> load(order.size(), 0);
    for (std::int64_t t = 0; t < tokens; ++t) {
      for (std::size_t i = 0; i < order.size(); ++i) order[i] = static_cast<std::int64_t>(i);
      for (std::size_t i = 0; i < static_cast<std::size_t>(per_token); ++i) {  // a draw without replacement
        std::swap(order[i], order[i + random.below(order.size() - i)]);
        ++load[static_cast<std::size_t>(order[i])];
      }
    }
    std::int64_t most_rows = 0, most_distinct = 0;
    for (std::int64_t rank = 0; rank < ranks; ++rank) {
      std::int64_t r = 0, d = 0;
      for (std::int64_t e = rank * held; e < (rank + 1) * held; ++e) {
        r += load[static_cast<std::size_t>(e)];
        d += load[static_cast<std::size_t>(e)] > 0 ? 1 : 0;
      }
      most_rows = std::max(most_rows, r);
      most_distinct = std::max(most_distinct, d);
    }
    rows += static_cast<double>(most_rows);
    distinct += static_cast<double>(most_distinct);
  }
  return {rows / batches, distinct / batches};
}

InstanceSpec instance(const std::string& hardware, const std::string& model, const std::string& plan) {
  YamlDocument document =
      YamlDocument::parse("hardware: " + hardware + "\nmodel: " + model + "\nengine: vllm-0.24\n" + plan,
                          "s.yaml")
          .value();
  Errors errors;
  InstanceSpec spec = read_instance_spec(document.root(), ".", errors);
  if (!errors.empty()) FAIL(to_string(errors));
  return spec;
}

double layer_us(const StepPricer& pricer, std::int64_t tokens) {
  const std::vector<PrefillChunk> chunk{{static_cast<std::int32_t>(tokens), 0}};
  StepShape shape{
      .prefill = {}, .decode_sequences = 0, .decode_context_tokens = 0, .new_requests = 0, .running = 0};
  shape.prefill = chunk;
  for (const OpLine& line : pricer.explain(shape).ops) {
    if (line.name == "moe_experts")
      return static_cast<double>(line.time_ns) / static_cast<double>(line.count) / 1e3;
  }
  FAIL("no fused expert layer");
  return 0;
}

}  // namespace

TEST_CASE("one rank has all rows and all distinct experts") {
  for (const double tokens : {1.0, 7.0, 300.0}) {
    const ExpertShare all = expected_slowest_rank(128, 8, tokens, 1);
    CHECK(all.rows == 8 * tokens);
    CHECK(all.distinct == expected_distinct_experts(128, 8, tokens));
  }
}

TEST_CASE("the slowest rank: random batches agree with the formula") {
  for (const std::int64_t ranks : {2, 4, 8, 16}) {
    for (const std::int64_t tokens : {1, 4, 16, 64, 256}) {
      const int batches = 600;
      const ExpertShare sampled = sampled_slowest(128, 8, tokens, ranks, batches);
      const ExpertShare expected =
          expected_slowest_rank(128, 8, static_cast<double>(tokens), static_cast<double>(ranks));
      INFO(tokens << " tokens on " << ranks << " ranks");
      // Half a row or expert for the discreteness of the smallest counts, 4 % for the normal approximation.
      CHECK(std::abs(expected.rows - sampled.rows) < 0.5 + 0.04 * sampled.rows);
      CHECK(std::abs(expected.distinct - sampled.distinct) < 0.5 + 0.04 * sampled.distinct);
    }
  }
}

TEST_CASE("the slowest rank never has less than its share, nor more than it can hold") {
  for (const double experts : {16.0, 128.0, 256.0}) {
    for (const double ranks : {2.0, 8.0, 16.0}) {
      for (double tokens = 1; tokens < 20000; tokens *= 3) {
        const ExpertShare s = expected_slowest_rank(experts, 8, tokens, ranks);
        CHECK(s.rows >= tokens * 8 / ranks);
        CHECK(s.rows <= tokens * 8);
        CHECK(s.distinct >= expected_distinct_experts(experts, 8, tokens) / ranks * (1 - 1e-12));
        CHECK(s.distinct <= experts / ranks);
      }
    }
  }
}

// Not fitted point by point: the whole layer's price comes from published tables, the rank's from it by what
// is shared out and what is not. Beside it stands vLLM's own layer, held whole and in halves.
TEST_CASE("a rank of two takes the measured part of the whole layer") {
  const auto timed =
      CsvTable::load(std::string(ORRERY_SOURCE_DIR) + "/reports/cases/h100_vllm_0_24_experts/layers.csv");
  REQUIRE(timed.ok());
  for (const auto& [format, model] :
       {std::pair{"bf16", "qwen3-30b-a3b"}, std::pair{"fp8-block", "qwen3-30b-a3b-fp8"}}) {
    const StepPricer whole = StepPricer::create(instance("h100", model, "")).value();
    const StepPricer half = StepPricer::create(instance("h100", model, "parallel: {tp: 2, ep: 2}\n")).value();
    std::map<std::int64_t, double> whole_us, half_us;
    Errors errors;
    for (const CsvTable::Row& row : timed->rows()) {
      if (timed->text(row, "format") != format || timed->text(row, "config") != "default" ||
          timed->text(row, "intermediate") != "768")
        continue;
      auto& column = timed->text(row, "local_experts") == "64" ? half_us : whole_us;
      column[timed->whole(row, "tokens", errors)] = timed->positive(row, "us", errors);
    }
    REQUIRE(errors.empty());
    REQUIRE(half_us.size() == 16);
    for (const auto& [tokens, us] : half_us) {
      if (tokens < 16)
        continue;  // below, the slowest rank differs from the timed one by more than the price's error
      INFO(format << ", " << tokens << " tokens");
      CHECK(layer_us(half, tokens) / layer_us(whole, tokens) ==
            Approx(us / whole_us.at(tokens)).epsilon(0.13));
    }
  }
}
