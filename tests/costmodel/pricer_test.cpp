// Contracts of StepPricer: the decode line, monotonicity, padding borders, scales, the breakdown.
#include "costmodel/step_pricer.h"

#include <vector>

#include "base/digest.h"
#include "base/random.h"
#include "catch.h"
#include "costmodel/hand_spec.h"

using namespace orrery;

namespace {

StepPricer pricer_of(const InstanceSpec& spec, const PriceScales& scales = {}) {
  auto pricer = StepPricer::create(spec, scales);
  INFO(to_string(pricer.ok() ? Errors{} : pricer.errors()));
  REQUIRE(pricer.ok());
  return std::move(pricer).value();
}

std::vector<InstanceSpec> instances() {
  ModelSpec windowed = hand::dense();
  windowed.layer_kinds.push_back(windowed.layer_kinds[0]);
  windowed.layer_kinds[0].count = windowed.layer_kinds[1].count = 18;
  windowed.layer_kinds[1].sliding_window = 128;
  return {hand::instance(hand::dense()), hand::instance(hand::dense(DType::fp8), 2),
          hand::instance(hand::mixture()), hand::instance(hand::mixture(DType::fp8), 2),
          hand::instance(windowed)};
}

}  // namespace

TEST_CASE("price of a decode step is its decode line") {
  RandomStream random(7, RandomPurpose::property_test);
  for (const InstanceSpec& spec : instances()) {
    const StepPricer pricer = pricer_of(spec);
    for (int i = 0; i < 2000; ++i) {
      const auto n = static_cast<std::int32_t>(1 + random.below(700));
      const auto context =
          static_cast<std::int64_t>(random.below(std::uint64_t{1} << (1 + random.below(26))));
      StepShape shape = hand::decode(n, context);
      shape.running = n + 3;
      const DecodeLine line = pricer.decode_line(n, context, n + 3);
      REQUIRE(line.low <= context);
      REQUIRE(context <= line.high);
      REQUIRE(line.slope >= 0);
      const StepTiming timing = pricer.price(shape);
      REQUIRE(timing.busy == line.busy(context));
      StepTiming rest = timing;
      rest.busy = 0;
      REQUIRE(rest == line.timing);
      // The ends of the stretch too: a decode stretch prices them on this line.
      for (const std::int64_t end : {line.low, line.high}) {
        REQUIRE(pricer.price(hand::decode(n, end)).busy == line.busy(end));
      }
    }
  }
}

TEST_CASE("decode lines join: never down and less than 2 ns off at a knot") {
  for (const InstanceSpec& spec : instances()) {
    const StepPricer pricer = pricer_of(spec);
    for (const std::int32_t n : {1, 64, 512}) {
      std::int64_t knot = 0;
      while (knot < 40'000'000) {
        const DecodeLine line = pricer.decode_line(n, knot, 0);
        REQUIRE(line.low == knot);
        const DecodeLine next = pricer.decode_line(n, line.high + 1, 0);
        const std::int64_t extended = line.busy(line.high + 1);
        REQUIRE(next.busy(next.low) >= line.busy(line.high));
        REQUIRE(next.busy(next.low) >= extended);
        REQUIRE(next.busy(next.low) - extended <= 1);
        knot = line.high + 1;
      }
    }
  }
}

TEST_CASE("more work is never faster") {
  for (const InstanceSpec& spec : instances()) {
    const StepPricer pricer = pricer_of(spec);
    SECTION("decode: batch and context") {
      for (const std::int64_t per_sequence : {0, 100, 5000}) {
        std::int64_t before = 0;
        for (std::int32_t n = 1; n <= 600; ++n) {
          const std::int64_t busy = pricer.price(hand::decode(n, n * per_sequence)).busy;
          REQUIRE(busy >= before);
          before = busy;
        }
      }
      std::int64_t before = 0;
      for (std::int64_t context = 0; context < 3'000'000; context += 997) {
        const std::int64_t busy = pricer.price(hand::decode(32, context)).busy;
        REQUIRE(busy >= before);
        before = busy;
      }
    }
    SECTION("prefill: tokens and context") {
      std::int64_t before = 0;
      for (std::int32_t tokens = 2; tokens <= 9000; tokens += 13) {
        const PrefillChunk chunk{tokens, 0};
        const std::int64_t busy = pricer.price(hand::prefill({&chunk, 1})).busy;
        REQUIRE(busy >= before);
        before = busy;
      }
      before = 0;
      for (std::int64_t context = 0; context < 200'000; context += 1111) {
        const PrefillChunk chunk{512, context};
        const std::int64_t busy = pricer.price(hand::prefill({&chunk, 1})).busy;
        REQUIRE(busy >= before);
        before = busy;
      }
    }
  }
}

TEST_CASE("§3 graph modes change at the borders of the captured sizes") {
  const StepPricer pricer = pricer_of(hand::instance(hand::dense()));
  const auto padded = [&](std::int32_t decodes, std::vector<PrefillChunk> chunks) {
    StepShape shape = hand::decode(decodes, decodes * 100);
    shape.prefill = chunks;
    const StepBreakdown b = pricer.explain(shape);
    return b.graph_mode + " " + std::to_string(b.padded_tokens);
  };
  CHECK(padded(1, {}) == "full 1");
  CHECK(padded(3, {}) == "full 4");
  CHECK(padded(257, {}) == "full 272");  // engine_semantics.md §10.4
  CHECK(padded(512, {}) == "full 512");
  CHECK(padded(513, {}) == "none 513");
  CHECK(padded(0, {{500, 0}}) == "piecewise 512");
  CHECK(padded(0, {{512, 0}}) == "piecewise 512");
  CHECK(padded(0, {{513, 0}}) == "none 513");
  CHECK(padded(9, {{1, 700}}) == "full 16");  // a one-token tail of a prompt counts as a decode
  InstanceSpec eager = hand::instance(hand::dense());
  eager.engine.settings.enforce_eager = true;
  CHECK(pricer_of(eager).explain(hand::decode(3, 300)).graph_mode == "none");
}

TEST_CASE("§3 launch time follows the graph mode") {
  const StepPricer pricer = pricer_of(hand::instance(hand::dense()));
  const PrefillChunk small{512, 0};
  const PrefillChunk large{513, 0};
  CHECK(pricer.price(hand::decode(8, 800)).launch == 300'000);
  CHECK(pricer.price(hand::prefill({&small, 1})).launch == 300'000 + 37 * 50'000 + 2 * 36 * 5'000);
  // A layer: norm, qkv, rotary, KV write, attention, o, norm, gate_up, activation, down. Outside: embedding,
  // final norm, gather, lm_head, fp32 copy, argmax.
  CHECK(pricer.price(hand::prefill({&large, 1})).launch == 300'000 + (36 * 10 + 6) * 5'000);
}

TEST_CASE("a layer without the host's RPC: one process launches its own kernels") {
  const StepPricer one = pricer_of(hand::instance(hand::dense()));
  const StepPricer two = pricer_of(hand::instance(hand::dense(), 2));
  CHECK(one.launcher_is_core());
  CHECK_FALSE(two.launcher_is_core());
  CHECK(two.price(hand::decode(8, 800)).prepare - one.price(hand::decode(8, 800)).prepare == 150'000);
}

TEST_CASE("the breakdown sums to the price and prices what it says") {
  const std::vector<PrefillChunk> chunks{{2048, 0}, {512, 4096}};
  for (const InstanceSpec& spec : instances()) {
    const StepPricer pricer = pricer_of(spec);
    for (const std::int32_t decodes : {0, 1, 64, 600}) {
      StepShape shape = hand::decode(decodes, decodes * 1024);
      if (decodes != 64) shape.prefill = chunks;
      const StepBreakdown b = pricer.explain(shape);
      std::int64_t sum = 0;
      for (const OpLine& line : b.ops) {
        CHECK(line.time_ns > 0);
        sum += line.time_ns;
      }
      CHECK(sum == b.timing.busy);
      CHECK(b.timing == pricer.price(shape));
      CHECK(b.device_ns == std::max(b.timing.busy, b.timing.launch + b.timing.last_kernel));
      CHECK(b.host_ns == b.timing.schedule + b.timing.prepare + b.timing.launch + b.timing.update);
      CHECK(b.low_ns < b.device_ns);
      CHECK(b.device_ns < b.high_ns);
      CHECK(b.step_ns >= b.timing.busy);
      const StepSummary summary = pricer.summarize(shape);
      CHECK(summary.timing == b.timing);
      CHECK(summary.device_ns == b.device_ns);
      CHECK(summary.step_ns == b.step_ns);
      CHECK(summary.low_ns == b.low_ns);
      CHECK(summary.high_ns == b.high_ns);
      CHECK(summary.bound == b.bound);
    }
  }
}

TEST_CASE("prices are the same numbers on every compiler and at every optimisation level") {
  // Q20 bases and slopes carry the last bits of every sum, so a fused multiply-add anywhere shows here.
  Digest digest;
  for (const InstanceSpec& spec : instances()) {
    const StepPricer pricer = pricer_of(spec);
    for (std::int32_t n = 1; n <= 4096; ++n) {
      const DecodeLine line = pricer.decode_line(n, n * std::int64_t{977}, 0);
      digest.add(line.base);
      digest.add(line.slope);
      const PrefillChunk chunk{n * 3, n};
      digest.add(pricer.price(hand::prefill({&chunk, 1})).busy);
    }
  }
  // Changes when the model or hand_spec.h changes, and then for a reason; never with the build.
  CHECK(digest_text(digest.value()) == "c62c69caa00b5ec2");
}

TEST_CASE("factors scale the price") {
  const InstanceSpec spec = hand::instance(hand::mixture());
  const PrefillChunk chunk{3000, 200};
  StepShape shape = hand::decode(20, 30'000);
  shape.prefill = {&chunk, 1};
  const StepTiming nominal = pricer_of(spec).price(shape);
  SECTION("all operators and the host by the same factor") {
    PriceScales scales;
    scales.op.fill(1.5);
    scales.host = 2;
    const StepTiming scaled = pricer_of(spec, scales).price(shape);
    CHECK(scaled.busy == Approx(1.5 * static_cast<double>(nominal.busy)).margin(2));
    CHECK(scaled.launch == 2 * nominal.launch);
    CHECK(scaled.schedule == 2 * nominal.schedule);
    CHECK(scaled.last_kernel == Approx(1.5 * static_cast<double>(nominal.last_kernel)).margin(1));
  }
  SECTION("each class by itself adds up to all") {
    double added = 0;
    for (std::size_t i = 0; i < op_class_count; ++i) {
      PriceScales scales;
      scales.op[i] = 2;
      added += static_cast<double>(pricer_of(spec, scales).price(shape).busy - nominal.busy);
    }
    CHECK(added == Approx(static_cast<double>(nominal.busy)).margin(10));
  }
  SECTION("a factor that is not positive is refused") {
    PriceScales scales;
    scales.op[0] = 0;
    const auto refused = StepPricer::create(spec, scales);
    REQUIRE_FALSE(refused.ok());
    CHECK(refused.errors()[0].key == "op_scale.gemm");
  }
}

TEST_CASE("a pricer says what an instance lacks") {
  InstanceSpec spec = hand::instance(hand::dense(DType::fp8), 3);
  const auto not_divisible = StepPricer::create(spec);
  REQUIRE_FALSE(not_divisible.ok());
  CHECK(not_divisible.errors()[0].key == "parallel.tp");
  spec.plan.tp = 1;
  spec.hardware.efficiency.erase("attention_decode");
  spec.hardware.kernel_floor = {};
  const auto no_figure = StepPricer::create(spec);
  REQUIRE_FALSE(no_figure.ok());
  CHECK(no_figure.errors().size() == 2);  // all at once
  CHECK(no_figure.errors()[0].key == "efficiency.attention_decode");
}

TEST_CASE(
    "a part without 8-bit instructions multiplies quantised weights in bf16, without quantising "
    "activations") {
  InstanceSpec spec = hand::instance(hand::dense(DType::fp8));
  spec.hardware.matrix_rate.erase(DType::fp8);
  for (const OpLine& line : pricer_of(spec).explain(hand::decode(8, 800)).ops)
    CHECK(line.name != "o_quantize");
}
