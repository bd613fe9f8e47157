// The scheduler against what vLLM 0.24 really did on an H200 with what most runs lack: speculation, images,
// layers with a state, windows that alternate with full attention, latent attention.
#include "catch.h"
#include "reports/casebook/schedule_replay.h"

using namespace orrery;

namespace {

MeasuredRun load(const std::string& name) {
  auto run =
      load_measured_run(std::string(ORRERY_SOURCE_DIR) + "/reports/cases/h200_vllm_0_24_features/" + name);
  INFO((run.ok() ? "" : to_string(run.errors())));
  REQUIRE(run.ok());
  return std::move(run).value();
}

// All of them; the number is the log's.
void check_identical(const MeasuredRun& run, std::int64_t steps) {
  const ScheduleReplay replay = replay_schedule(run);
  INFO(schedule_replay_text(replay));
  CHECK(replay.identical == replay.steps);
  CHECK(replay.steps == steps);
}

template <class Count>
std::int64_t sum(const MeasuredRun& run, Count count) {
  std::int64_t n = 0;
  for (const MeasuredExperiment& e : run.experiments) {
    for (const MeasuredStep& s : e.steps) n += static_cast<std::int64_t>(count(s));
  }
  return n;
}

}  // namespace

TEST_CASE("speculating steps are composed as the engine composed them, drafts included") {
  SECTION("EAGLE3, two steps in flight: drafts are placeholders until the step before has run") {
    MeasuredRun run = load("qwen3-8b_eagle3");
    CHECK(run.engine.speculation.lookahead == 3);
    CHECK(sum(run, [](const MeasuredStep& s) { return s.drafts.size(); }) > 13'000);
    // One row of the log is lost but for what it said.
    CHECK(sum(run, [](const MeasuredStep& s) { return !s.said_before.empty(); }) == 1);
    check_identical(run, 1'176);
    for (MeasuredExperiment& e : run.experiments) {
      for (MeasuredStep& s : e.steps) s.said.clear();  // as if no draft had been accepted
    }
    const ScheduleReplay deaf = replay_schedule(run);
    CHECK(deaf.identical < deaf.steps / 2);
  }
  SECTION("again, other lengths and rates") { check_identical(load("qwen3-8b_eagle3_again"), 897); }
  SECTION("MTP, one draft and three; latent attention and a dense model, in a closed loop too") {
    const MeasuredRun run = load("deepseek-v3-5l_fp8_mtp3");
    CHECK(run.engine.speculation.lookahead == 3);
    CHECK_FALSE(run.engine.v2_runner);
    check_identical(run, 982);
    check_identical(load("deepseek-v3-5l_fp8_mtp1"), 1'352);
    check_identical(load("mimo-7b_bf16_mtp1"), 1'462);
  }
  SECTION("n-grams, one step in flight: a sequence brings what was found for it") {
    const MeasuredRun run = load("qwen3-8b_ngram");
    CHECK_FALSE(run.engine.async_scheduling);
    CHECK(run.engine.speculation.lookahead == 0);
    check_identical(run, 1'094);
  }
}

TEST_CASE("steps with images encode what the engine encoded, where it did") {
  MeasuredRun run = load("qwen3-vl-8b_images");
  CHECK(run.engine.encoder_budget == 16'384);
  CHECK(sum(run, [](const MeasuredStep& s) { return s.encoded.size(); }) == 99);
  check_identical(run, 1'527);
  check_identical(load("qwen3-vl-8b_images_again"), 156);
  SECTION("not with an encoder that may do one large image a step") {
    run.engine.encoder_budget = 2'040;
    CHECK(replay_schedule(run).identical < 1'527);
  }
}

TEST_CASE("layers with a state hold a block a sequence in each of their groups") {
  MeasuredRun run = load("qwen3.5-35b-a3b_bf16");
  CHECK(run.engine.kv_groups.states == 3);
  check_identical(run, 600);
  run.engine.kv_groups.states = 0;
  CHECK(replay_schedule(run).identical == 0);
}

TEST_CASE("windows beside full attention, and latent attention, are composed as the engine composed them") {
  MeasuredRun run = load("gemma-3-12b_bf16");
  CHECK(run.engine.kv_groups.window == 1'024);
  check_identical(run, 842);
  run.engine.kv_groups = {};
  CHECK(replay_schedule(run).identical < 842);
  check_identical(load("deepseek-v2-lite_bf16"), 818);
}
