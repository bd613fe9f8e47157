// Launch times that vary: the stated distribution, by seed and instance, and none where none is asked for.
#include "sim/costed/launch_jitter.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "../costmodel/hand_spec.h"
#include "catch.h"
#include "sim/costed/cost_model_executor.h"

using namespace orrery;

namespace {

constexpr LaunchJitter::Spread even{.median = 1, .below = 0.15, .above = 0.15, .correlation = 0.6};

std::vector<double> logs(LaunchJitter jitter, std::size_t instance, int steps) {
  std::vector<double> out;
  for (int i = 0; i < steps; ++i)
    out.push_back(std::log(static_cast<double>(jitter.next(instance, 1'000'000'000)) / 1e9));
  return out;
}

double correlation(const std::vector<double>& x, std::size_t lag) {
  double mean = 0, variance = 0, product = 0;
  for (const double v : x) mean += v / static_cast<double>(x.size());
  for (const double v : x) variance += (v - mean) * (v - mean) / static_cast<double>(x.size());
  for (std::size_t i = lag; i < x.size(); ++i)
    product += (x[i] - mean) * (x[i - lag] - mean) / static_cast<double>(x.size() - lag);
  return product / variance;
}

}  // namespace

TEST_CASE("launch times: median 1, the stated deviation, memory that fades as stated") {
  std::vector<double> x = logs(LaunchJitter(even, 11, 1), 0, 40000);
  double square = 0;
  for (const double v : x) square += v * v / static_cast<double>(x.size());
  // 40,000 values with memory 0.6 are worth 10,000: four standard errors.
  CHECK(std::sqrt(square) == Approx(0.15).epsilon(0.03));
  CHECK(correlation(x, 1) == Approx(0.6).margin(0.03));
  CHECK(correlation(x, 3) == Approx(0.216).margin(0.04));
  std::nth_element(x.begin(), x.begin() + 20000, x.end());
  CHECK(std::abs(x[20000]) < 0.006);
}

TEST_CASE("launch times: further up than down, around the stated median") {
  std::vector<double> x =
      logs(LaunchJitter({.median = 1.06, .below = 0.1, .above = 0.3, .correlation = 0.6}, 11, 1), 0, 40000);
  std::sort(x.begin(), x.end());
  CHECK(x[20000] == Approx(std::log(1.06)).margin(0.006));
  CHECK(x[4000] == Approx(std::log(1.06) - 1.2816 * 0.1).margin(0.006));
  CHECK(x[36000] == Approx(std::log(1.06) + 1.2816 * 0.3).margin(0.015));
}

TEST_CASE("a seed and an instance name one stream, whatever the others do") {
  const auto a = logs(LaunchJitter(even, 11, 4), 2, 50);
  CHECK(a == logs(LaunchJitter(even, 11, 9), 2, 50));  // more instances beside it
  CHECK(a != logs(LaunchJitter(even, 12, 4), 2, 50));
  CHECK(a != logs(LaunchJitter(even, 11, 4), 1, 50));
}

TEST_CASE("no deviation, no change") {
  LaunchJitter none;
  LaunchJitter zero({}, 11, 3);
  for (const std::int64_t ns : {std::int64_t{0}, std::int64_t{1}, std::int64_t{123'456'789}}) {
    CHECK(none.next(2, ns) == ns);
    CHECK(zero.next(2, ns) == ns);
  }
}

TEST_CASE("a prompt's last token alone, beside decodes, is launched as they are; two are not") {
  const StepPricer pricer = StepPricer::create(hand::instance(hand::dense())).value();
  REQUIRE(pricer.single_token_is_decode());
  const OutputLengths oracle;
  const auto free_at = [&](std::int32_t tokens, const LaunchJitter& jitter) {
    CostModelExecutor executor({&pricer}, oracle, jitter);
    const PrefillWork chunk{SequenceId(1), RequestId(1), tokens, 500, true, 0};
    StepPlan plan;
    plan.prefill = {&chunk, 1};
    plan.prefill_tokens = tokens;
    plan.decode_sequences = plan.running = 4;
    plan.decode_context_tokens = 2000;
    executor.submit(StepId(0), InstanceId(0), plan, SimTime(0));
    return std::pair(executor.next_event().ns(), executor.device_span(InstanceId(0), StepId(0)).end.ns());
  };
  const LaunchJitter slow({.median = 50, .below = 0, .above = 0, .correlation = 0}, 11, 1);
  CHECK(free_at(1, slow) == free_at(1, {}));
  CHECK(free_at(2, slow) > free_at(2, {}));
}
