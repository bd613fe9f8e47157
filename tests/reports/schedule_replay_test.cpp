// The scheduler against what vLLM 0.24 really did on an H200, step by step.
#include "reports/casebook/schedule_replay.h"

#include <filesystem>

#include "base/files.h"
#include "catch.h"

using namespace orrery;

namespace {

const std::string cases = std::string(ORRERY_SOURCE_DIR) + "/reports/cases/h200_vllm_0_24/";

MeasuredRun load(const std::string& name) {
  auto run = load_measured_run(cases + name);
  INFO((run.ok() ? "" : to_string(run.errors())));
  REQUIRE(run.ok());
  return std::move(run).value();
}

MeasuredExperiment& experiment(MeasuredRun& run, const std::string& name) {
  for (MeasuredExperiment& e : run.experiments) {
    if (e.name == name) return e;
  }
  FAIL("no experiment " << name);
  return run.experiments.front();
}

}  // namespace

TEST_CASE("every logged step is composed as the engine composed it") {
  std::int64_t steps = 0, preempting = 0;
  for (const char* name : {"qwen3-8b_bf16_tp1", "qwen3-30b-a3b_fp8_tp1", "qwen3-32b_bf16_tp2"}) {
    const MeasuredRun run = load(name);
    const ScheduleReplay replay = replay_schedule(run);
    INFO(schedule_replay_text(replay));
    CHECK(replay.identical == replay.steps);
    CHECK(replay.differences.empty());
    steps += replay.steps;
    for (const MeasuredExperiment& e : run.experiments) {
      for (const MeasuredStep& s : e.steps) preempting += !s.preempted.empty();
    }
  }
  CHECK(steps == 13'600);
  CHECK(preempting == 4);
}

// Runs that no rule was checked on before: another model, a pool so small that requests are preempted again
// and again, shared prefixes, and experts spread over two ranks.
TEST_CASE("every step of runs on another part is composed as the engine composed it") {
  std::int64_t steps = 0, preemptions = 0;
  for (const char* name :
       {"llama-3.1-8b_bf16_tp1", "qwen3-4b_bf16_tp1_small", "qwen3-30b-a3b_bf16_tp2_ep2"}) {
    const MeasuredRun run = load("../h100_vllm_0_24/" + std::string(name));
    const ScheduleReplay replay = replay_schedule(run);
    INFO(schedule_replay_text(replay));
    CHECK(replay.identical == replay.steps);
    steps += replay.steps;
    for (const MeasuredExperiment& e : run.experiments) {
      for (const MeasuredStep& s : e.steps) preemptions += static_cast<std::int64_t>(s.preempted.size());
    }
  }
  CHECK(steps == 11'372);
  CHECK(preemptions == 63);
}

// Layers that alternate between a window of 128 and full attention: blocks that left the window are free.
TEST_CASE("every step of a model with sliding windows is composed as the engine composed it") {
  MeasuredRun run = load("../h100_vllm_0_24/gpt-oss-20b_mxfp4_tp1");
  CHECK(run.engine.kv_groups.full == 1);
  CHECK(run.engine.kv_groups.windowed == 1);
  CHECK(run.engine.kv_groups.window == 128);
  const ScheduleReplay replay = replay_schedule(run);
  INFO(schedule_replay_text(replay));
  CHECK(replay.identical == replay.steps);
  CHECK(replay.steps == 1'286);
  SECTION("a window of one block more frees others") { run.engine.kv_groups.window = 144; }
  SECTION("without windows nothing is freed early") { run.engine.kv_groups = {}; }
  CHECK(replay_schedule(run).identical < replay.steps / 2);
}

TEST_CASE("a difference is found, once, in its field") {
  MeasuredRun run = load("qwen3-8b_bf16_tp1");
  MeasuredExperiment& e = experiment(run, "azure_conv");
  e.steps[100].free_blocks += 1;
  e.steps[200].tokens += 1;
  const ScheduleReplay replay = replay_schedule(run);
  CHECK(replay.identical == replay.steps - 2);
  REQUIRE(replay.differences.size() == 2);
  CHECK(replay.differences[0].step == e.steps[100].step);
  CHECK(replay.differences[0].field == "free_blocks");
  CHECK(replay.differences[1].field == "tokens");
  CHECK(replay.differences[1].got == std::to_string(e.steps[200].tokens - 1));
  const std::string text = schedule_replay_text(replay);
  CHECK(text.substr(text.find("identical ")) == "identical 9260 of 9262 steps\n");
}

// The rules that matter are seen to matter: another engine would not pass.
TEST_CASE("another configuration composes other steps") {
  MeasuredRun run = load("qwen3-8b_bf16_tp1");
  MeasuredRun mooncake = run;
  mooncake.experiments = {experiment(run, "mooncake")};
  CHECK(replay_schedule(mooncake).identical == 1459);
  SECTION("without the prefix cache") { mooncake.engine.enable_prefix_caching = false; }
  SECTION("with a smaller budget") { mooncake.engine.max_num_batched_tokens = 4096; }
  SECTION("with a smaller pool") { mooncake.engine.num_gpu_blocks -= 64; }
  SECTION("with prompts of one block more") {
    for (MeasuredRequest& r : mooncake.experiments[0].requests) r.prompt_tokens += 16;
  }
  CHECK(replay_schedule(mooncake).identical < 1459);
}

TEST_CASE("a damaged run is a located error") {
  const std::string folder = std::filesystem::temp_directory_path() / "orrery-damaged-run";
  std::filesystem::remove_all(folder);
  std::filesystem::copy(cases + "qwen3-32b_bf16_tp2", folder);
  const auto message = [&] {
    const auto run = load_measured_run(folder);
    return run.ok() ? std::string("no error") : to_string(run.errors());
  };
  REQUIRE(message() == "no error");
  SECTION("a missing file") {
    std::filesystem::remove(folder + "/steps.csv.gz");
    CHECK(message().find("no steps.csv") != std::string::npos);
  }
  SECTION("a missing column") {
    std::filesystem::remove(folder + "/steps.csv.gz");
    REQUIRE(write_file_atomically(folder + "/steps.csv", "experiment,step\nx,1\n").ok());
    CHECK(message().find("steps.csv:1: has no column \"schedule_start_us\"") != std::string::npos);
  }
  SECTION("a row that is cut off") {
    std::filesystem::remove(folder + "/requests.csv.gz");
    REQUIRE(write_file_atomically(folder + "/requests.csv", "experiment,request,submit_s\nprefill_single,0\n")
                .ok());
    CHECK(message().find("requests.csv:2: has 2 fields, the header 3") != std::string::npos);
  }
  SECTION("an engine.json without the pool's size") {
    REQUIRE(write_file_atomically(folder + "/engine.json", "{\"block_size\": 16}\n").ok());
    CHECK(message().find("num_gpu_blocks: expected a whole number") != std::string::npos);
  }
  std::filesystem::remove_all(folder);
}

// Written by tools/sglang_step_log.py. 0.5.17 differs from the release that the profile follows in four
// rules.
TEST_CASE("the steps of real SGLang runs are composed as the engine composed them") {
  std::int64_t steps = 0, identical = 0, retractions = 0;
  for (const char* name : {"qwen3-8b_bf16_tp1", "qwen3-8b_bf16_tp1_smallpool", "qwen3-8b_bf16_tp1_mixed"}) {
    MeasuredRun run = load("../h200_sglang_0_5_17/" + std::string(name));
    CHECK(run.engine.sglang);
    const ScheduleReplay replay = replay_schedule(run);
    INFO(schedule_replay_text(replay));
    steps += replay.steps;
    identical += replay.identical;
    for (const MeasuredExperiment& e : run.experiments) {
      for (const MeasuredStep& s : e.steps) retractions += static_cast<std::int64_t>(s.preempted.size());
    }
    MeasuredRun later = run;
    later.engine.version = "0.5.23";  // whose rules are others
    CHECK(replay_schedule(later).identical < replay.steps * 19 / 20);
  }
  CHECK(steps == 7'931 + 8'966 + 4'662);
  CHECK(identical == steps - 2);  // the README of the runs names the two
  CHECK(retractions == 7);
}

// Written by tools/vllm_step_log.py: requests that end by EOS, arrivals when the core process knew of them,
// blocks named by the engine's own hashes of 16 tokens, and a prefix cache kept from load to load.
TEST_CASE("every step of a server's own log is composed as the engine composed it") {
  std::int64_t steps = 0, stopped = 0, cached = 0, kept = 0;
  for (const char* name : {"qwen3-4b_bf16_loads", "qwen3-4b_bf16_api_server", "qwen3-4b_bf16_tp2_loads",
                           "qwen3-4b_bf16_tp2_api_server"}) {
    MeasuredRun run = load("../h100_vllm_0_24_server/" + std::string(name));
    const ScheduleReplay replay = replay_schedule(run);
    INFO(schedule_replay_text(replay));
    CHECK(replay.identical == replay.steps);
    steps += replay.steps;
    for (const MeasuredExperiment& e : run.experiments) {
      kept += e.keeps_cache;
      CHECK(e.hash_block_size == 16);
      for (const MeasuredRequest& r : e.requests) {
        stopped += r.stop_step >= 0;
        CHECK((r.known_ns >= r.submit_ns && r.output_tokens <= r.max_output_tokens));
      }
      for (const MeasuredStep& s : e.steps) {
        for (const MeasuredStep::Admission& a : s.admitted) cached += a.cached_tokens;
      }
    }
    if (std::string(name) == "qwen3-4b_bf16_loads") {
      // Told that they run to what the client allowed, the requests of the last load do not end where they
      // did.
      for (MeasuredRequest& r : run.experiments.back().requests) r.stop_step = -1;
      const ScheduleReplay other = replay_schedule(run);
      CHECK(other.experiments.back().identical < other.experiments.back().steps);
      CHECK(other.experiments.front().identical == other.experiments.front().steps);
    }
  }
  // Two ranks: 9,412 and 5,284, three clients that left among them.
  CHECK(steps == 7'588 + 3'952 + 9'412 + 5'284);
  CHECK(stopped >= 113 + 111);
  CHECK(cached > 600'000);
  CHECK(kept == 20);
}
