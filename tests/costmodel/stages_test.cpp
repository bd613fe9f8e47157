// Pipeline stages: who holds which layers, what a stage's memory and time are, and the recurrence's bubbles.
#include "costmodel/stages.h"

#include <string>

#include "catch.h"
#include "costmodel/hand_spec.h"
#include "costmodel/memory_plan.h"
#include "costmodel/read_instance.h"

using namespace orrery;

namespace {

InstanceSpec staged(ModelSpec model, std::int32_t pp, std::int32_t tp = 1) {
  InstanceSpec spec = hand::instance(std::move(model), tp);
  spec.plan.pp = pp;
  spec.engine.runner = "v2";
  spec.engine.pipeline = PipelineCosts{hand::plain(0.5), hand::us(200), hand::us(1000)};
  spec.engine.steps_in_flight = batches_in_flight(spec.engine, pp);
  spec.engine.settings.max_model_len = 40960;
  return spec;
}

bool holds(const Errors& errors, const std::string& piece) {
  return to_string(errors).find(piece) != std::string::npos;
}

Errors errors_of(const std::string& model, const std::string& more, const std::string& engine = "vllm-0.24") {
  return read("hardware: h200\nmodel: " + model + "\nengine: " + engine + "\n" + more).errors;
}

StagedTiming equal_stages(std::int32_t pp, std::int64_t busy, std::int64_t handoff = 0,
                          bool samples = false) {
  StagedTiming t;
  t.stages.assign(static_cast<std::size_t>(pp), StageTiming{.busy = busy, .handoff = handoff});
  t.stages.front().handoff = 0;
  t.samples = samples;
  return t;
}

// Layers of Qwen3-8B in bytes, and its embedding; sums by hand.
constexpr double layer_bytes = 2.0 * (2 * 4096.0 * 4096 + 2 * 1024.0 * 4096 + 3 * 12288.0 * 4096);
constexpr double embedding_bytes = 2.0 * 151936 * 4096;

}  // namespace

TEST_CASE("layers that do not divide go to stages before the last, as vLLM's comments say") {
  using Stages = std::vector<std::int64_t>;
  CHECK(layers_of_stages(36, 2) == Stages{18, 18});
  CHECK(layers_of_stages(37, 2) == Stages{19, 18});
  CHECK(layers_of_stages(61, 4) == Stages{15, 15, 16, 15});  // one left: neither first nor last
  CHECK(layers_of_stages(62, 4) == Stages{15, 16, 16, 15});
  CHECK(layers_of_stages(63, 4) == Stages{16, 16, 16, 15});
  CHECK(layers_of_stages(3, 3) == Stages{1, 1, 1});
}

TEST_CASE("a stage's spec has its layers, the first the embedding, the last the head") {
  ModelSpec model = hand::dense();
  model.layer_kinds.push_back(model.layer_kinds[0]);
  model.layer_kinds[0].count = 3;
  model.layer_kinds[1].count = 33;
  model.layer_kinds[1].moe = true;
  const InstanceSpec spec = staged(model, 2);
  const InstanceSpec first = stage_spec(spec, 0), last = stage_spec(spec, 1);
  REQUIRE(first.model.layer_kinds.size() == 2);
  CHECK(first.model.layer_kinds[0].count == 3);
  CHECK(first.model.layer_kinds[1].count == 15);
  REQUIRE(last.model.layer_kinds.size() == 1);
  CHECK(last.model.layer_kinds[0].count == 18);
  REQUIRE(first.model.global_weights.size() == 1);
  CHECK(first.model.global_weights[0].name == "embed_tokens");
  REQUIRE(last.model.global_weights.size() == 1);
  CHECK(last.model.global_weights[0].name == "lm_head");
  // Kinds that alternate are counted where they stand.
  model.kind_of_layer.assign(36, 1);
  for (const std::size_t dense : {0u, 20u, 21u}) model.kind_of_layer[dense] = 0;
  const InstanceSpec mixed = stage_spec(staged(model, 2), 1);
  REQUIRE(mixed.model.layer_kinds.size() == 2);
  CHECK(mixed.model.layer_kinds[0].count == 2);
  CHECK(mixed.model.layer_kinds[1].count == 16);
}

TEST_CASE("memory of a tied model by hand: the embedding on both ends, blocks of the stage with least room") {
  ModelSpec model = hand::dense();
  model.tied_embeddings = true;
  model.global_weights.pop_back();  // lm_head
  const InstanceSpec spec = staged(model, 3);
  const double page = 2.0 * 8 * 128 * 2 * 16;  // keys and values of 16 tokens in one layer
  std::int64_t least = INT64_MAX;
  for (std::int32_t s = 0; s < 3; ++s) {
    const MemoryPlan stage = plan_memory(stage_spec(spec, s)).value();
    CHECK(stage.weights.value() == 12 * layer_bytes + (s == 1 ? 0 : embedding_bytes));
    const double left = stage.requested.value() - stage.weights.value() - stage.activation_peak.value();
    CHECK(stage.kv_blocks == static_cast<std::int64_t>(left / page) / 12);
    least = std::min(least, stage.kv_blocks);
  }
  const MemoryPlan plan = plan_memory(spec).value();
  CHECK(plan.kv_blocks == least);
  REQUIRE(plan.stage_blocks.size() == 3);
  CHECK(plan.stage_blocks[1] > least);  // without an embedding it has more room
  CHECK(plan.stage.index == 2);         // embedding and received buffers
  // Buffers for what comes: hidden states and residual of a largest step, not on the first stage.
  const double buffers = 8192.0 * 4096 * 2 * 2;
  const double middle = plan_memory(stage_spec(spec, 1)).value().activation_peak.value();
  CHECK(middle - plan_memory(stage_spec(spec, 0)).value().activation_peak.value() == buffers);
}

TEST_CASE("m micro-batches through pp equal stages leave the textbook's bubble") {
  for (const std::int32_t pp : {2, 3, 4, 8}) {
    for (const std::int64_t m : {1, 2, 5, 16}) {
      StagedPipeline pipeline(
          {.stages = pp, .cadence = pp, .message = {}, .tokens_back = {}, .empty_wait = {}});
      const StagedTiming t = equal_stages(pp, 1'000'000);
      SimTime end;
      for (std::int64_t i = 0; i < m; ++i) end = pipeline.begin(t, SimTime(0)).device_end;
      CHECK(end.ns() == (m + pp - 1) * 1'000'000);
      const double bubble = 1 - static_cast<double>(m * 1'000'000) / static_cast<double>(end.ns());
      CHECK(bubble == Approx(static_cast<double>(pp - 1) / static_cast<double>(m + pp - 1)));
    }
  }
}

TEST_CASE("a sequence's next step waits for its token, others fill the stages meanwhile") {
  const StageRules rules{
      .stages = 2, .cadence = 2, .message = {}, .tokens_back = SimDuration(30), .empty_wait = {}};
  StagedPipeline pipeline(rules);
  const StagedTiming t = equal_stages(2, 1000, 100, true);
  const StepTimes a = pipeline.begin(t, SimTime(0));
  const StepTimes b = pipeline.begin(t, SimTime(0));
  const StepTimes c = pipeline.begin(t, SimTime(0));
  CHECK(a.device_end.ns() == 2100);
  CHECK(b.device_end.ns() == 3200);  // the second stage is free again, then the hand-off, then its work
  // Token of the first back at 2,130, through the first stage by 3,130; the second one is busy until 3,200.
  CHECK(c.device_end.ns() == 3200 + 100 + 1000);
  // Alone, every second step is nobody's.
  StagedPipeline alone(rules);
  alone.begin(t, SimTime(0));
  alone.begin_empty({}, SimTime(0), false);
  CHECK(alone.begin(t, SimTime(0)).device_end.ns() == 4230);
}

TEST_CASE("the sender goes on when what it sent was taken") {
  StagedPipeline pipeline({.stages = 2, .cadence = 2, .message = {}, .tokens_back = {}, .empty_wait = {}});
  StagedTiming uneven = equal_stages(2, 100);
  uneven.stages[1].busy = 10'000;
  pipeline.begin(uneven, SimTime(0));  // second stage busy until 10,100
  pipeline.begin(uneven, SimTime(0));  // first stage done at 200, taken at 10,100
  uneven.stages[0].busy = 15'000;      // begins at 10,100, is done at 25,100
  CHECK(pipeline.begin(uneven, SimTime(0)).device_end.ns() == 25'100 + 10'000);
}

TEST_CASE("a launcher waits for the one behind it to take the message") {
  const StageRules rules{
      .stages = 2, .cadence = 2, .message = SimDuration(50), .tokens_back = {}, .empty_wait = {}};
  StagedPipeline pipeline(rules);
  StagedTiming t = equal_stages(2, 10);
  t.stages[0].launch = 100;
  t.stages[1].launch = 1000;
  CHECK(pipeline.begin(t, SimTime(0)).launch_end.ns() == 100 + 50 + 1000);
  // The first launcher is done with the second step at 250, the second one free at 1,150; then the message.
  CHECK(pipeline.begin(t, SimTime(0)).launch_end.ns() == 1150 + 50 + 1000);
  // And with the third not before 1,200 + 100.
  const StepTimes third = pipeline.begin(t, SimTime(0));
  CHECK(third.launch_begin.ns() == 1200);
  CHECK(third.launch_end.ns() == 2200 + 50 + 1000);
}

TEST_CASE("an empty batch costs the core a pass and a sleep, and its result comes behind the one before") {
  const StageRules rules{
      .stages = 2, .cadence = 2, .message = {}, .tokens_back = {}, .empty_wait = SimDuration(1'000'000)};
  StagedPipeline pipeline(rules);
  StepTiming host;
  host.schedule = 50;
  StepTimes real = pipeline.begin(equal_stages(2, 10'000), SimTime(0));
  StepTimes empty = pipeline.begin_empty(host, SimTime(0), false);
  CHECK(pipeline.core_free().ns() == 1'000'050);
  CHECK(empty.device_end == real.device_end);
  StagedPipeline full(rules);
  real = full.begin(equal_stages(2, 10'000), SimTime(0));
  full.begin_empty(host, SimTime(0), true);
  CHECK(full.core_free().ns() == 50);
  CHECK(full.core_free_after({}, real).ns() == 1'020'000);
  full.update({}, real);
  CHECK(full.core_free().ns() == 1'020'000);
}

TEST_CASE("prices: stages add up to the whole and what passes between them") {
  const InstanceSpec whole = hand::instance(hand::dense());
  const StepShape shape = hand::decode(64, 64 * 1024);
  const std::int64_t alone = StepPricer::create(whole).value().price(shape).busy;
  for (const std::int32_t pp : {2, 4}) {
    const auto pricer = StepPricer::create(staged(hand::dense(), pp)).value();
    StagedTiming t;
    pricer.price_stages(shape, true, t);
    REQUIRE(t.stages.size() == static_cast<std::size_t>(pp));
    CHECK(t.stages[0].handoff == 0);
    CHECK(t.stages[1].handoff > 0);
    std::int64_t busy = 0;
    for (const StageTiming& s : t.stages) busy += s.busy;
    CHECK(busy > alone);  // copies of what was received
    CHECK(static_cast<double>(busy) < 1.02 * static_cast<double>(alone));
    const StepBreakdown b = pricer.explain(shape);
    std::int64_t lines = 0;
    for (const OpLine& line : b.ops) lines += line.time_ns;
    CHECK(lines == b.timing.busy);
    CHECK(b.timing.busy == t.total());
    CHECK(pricer.summarize(shape).device_ns == b.device_ns);
    CHECK(b.device_ns >= b.timing.busy);
    CHECK(b.bubble > 0);
    CHECK(b.bubble < 0.3);  // the head makes the last stage longer
    CHECK(b.step_ns < alone);
  }
  // Middle stages are alike and priced once.
  CHECK(StepPricer::create(staged(hand::dense(), 4)).value().explain(shape).stages.size() == 3);
}

TEST_CASE("the hand-off is two tensors of the padded tokens; tensor-parallel ranks send slices and gather") {
  const auto handoff = [](std::int32_t tp, std::int32_t tokens) {
    const auto pricer = StepPricer::create(staged(hand::dense(), 2, tp)).value();
    const PrefillChunk chunk{tokens, 0};
    StagedTiming t;
    pricer.price_stages(hand::prefill({&chunk, 1}), true, t);
    return t.stages[1].handoff;
  };
  // 2 · (start of a library transfer between two, 1.8 · 3.5 µs, and the bytes at 0.75 · 450 GB/s)
  const double bytes = 4096.0 * 4096 * 2;
  CHECK(static_cast<double>(handoff(1, 4096)) == Approx(2 * (6300 + bytes / (0.75 * 450))).epsilon(0.02));
  CHECK(handoff(1, 8192) > 3 * handoff(1, 2048));
  CHECK(handoff(2, 4096) > handoff(1, 4096) / 2);  // half the bytes in the slices, as much again to gather
}

TEST_CASE("what pipeline stages do not go with is refused by name") {
  CHECK(errors_of("qwen3-8b", "parallel: {pp: 2}").empty());
  CHECK(errors_of("qwen3-8b", "parallel: {pp: 2, tp: 2}").empty());
  CHECK(errors_of("qwen3-30b-a3b", "parallel: {pp: 2, tp: 2, ep: 2}").empty());
  CHECK(
      holds(errors_of("qwen3-8b", "parallel: {pp: 37}"), "36 layers, which 37 pipeline stages cannot share"));
  CHECK(holds(errors_of("qwen3-8b", "parallel: {pp: 65}"), "more than 64 pipeline stages"));
  CHECK(errors_of("qwen3-8b", "parallel: {pp: 2}", "sglang-0.5").empty());
  CHECK(errors_of("qwen3-8b", "parallel: {pp: 2, tp: 2}", "tensorrt-llm-1.2").empty());
  CHECK(holds(errors_of("deepseek-v3", "parallel: {pp: 2, dp: 4}", "sglang-0.5"),
              "attention data parallelism is not modelled with pipeline stages"));
  CHECK(errors_of("gpt-oss-20b", "parallel: {pp: 2}").empty());
  CHECK(holds(errors_of("gpt-oss-20b", "parallel: {pp: 2}", "sglang-0.5"),
              "a sliding window is not modelled with pipeline"));
  CHECK(holds(
      errors_of("qwen3-8b", "parallel: {pp: 2}\nspeculation: {method: ngram, tokens: 2, acceptance: 0.5}"),
      "speculation is not modelled with pipeline stages"));
  CHECK(holds(errors_of("qwen3-8b", "parallel: {pp: 2}\nengine_args: {scheduling_policy: priority}"),
              "scheduling_policy: priority is not modelled with pipeline stages"));
  CHECK(holds(errors_of("qwen3-8b", "parallel: {pp: 2}\nengine_args: {kv_offloading_size: 10}"),
              "offloading of the KV cache is not modelled with pipeline stages"));
}

TEST_CASE("steps in flight: one more than stages with the V2 runner, as many as stages otherwise") {
  const auto flight = [](const std::string& model, const std::string& more) {
    const Read r = read("hardware: h200\nmodel: " + model + "\nengine: vllm-0.24\n" + more);
    return std::pair(r.spec.engine.steps_in_flight, token_cadence(r.spec));
  };
  CHECK(flight("qwen3-8b", "parallel: {pp: 4}") == std::pair(5, 4));
  CHECK(flight("qwen3-30b-a3b", "parallel: {pp: 4}") == std::pair(4, 1));  // V1 runner
  CHECK(flight("qwen3-8b", "parallel: {pp: 4}\nengine_args: {async_scheduling: false}") == std::pair(4, 0));
  CHECK(flight("qwen3-8b", "") == std::pair(2, 1));
}
