// Tapes of runs on an H200 (reports/results/live_h200) are replayed where there is no GPU.
#include "base/digest.h"
#include "base/files.h"
#include "base/json.h"
#include "catch.h"
#include "live/tape.h"

TEST_CASE("what ran on a GPU is replayed to the same digest") {
  using namespace orrery;
  const std::string folder = std::string(ORRERY_SOURCE_DIR) + "/reports/results/live_h200/";
  for (const char* run :
       {"qwen3-0.6b_256_clients", "qwen3-30b-a3b-fp8_poisson", "deepseek-v2-lite_poisson"}) {
    const auto replay = replay_tape(folder + run + ".tape");
    INFO(run << ": " << (replay.ok() ? "" : to_string(replay.errors())));
    REQUIRE(replay.ok());
    const Json outcome = Json::parse(read_text_file(folder + run + ".comparison.json").value());
    CHECK(outcome["digest"].get<std::string>() == digest_text(replay->run.digest));
    CHECK(outcome["ttft_ms.mean"]["measured"].get<double>() == Approx(replay->run.ttft.mean * 1e-6));
  }
}
