// A client beside vLLM's AsyncLLM: images are prepared on the event loop that outputs come through, so what
// the engine says meanwhile is read when they are prepared (v1/engine/async_llm.py, add_request). An API
// server has a thread for it.
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "catch.h"
#include "sim/costed/run.h"

using namespace orrery;
namespace fs = std::filesystem;

namespace {

struct Records final : RecordSink {
  std::vector<RequestRecord> all;
  void on_request(const RequestRecord& r) override { all.push_back(r); }
};

// Text at 1 s, an image of 1920 x 1080 half way through its prefill, text again long after.
struct Run {
  RunResult result;
  std::vector<RequestRecord> records;  // in the trace's order
};
Run run_with(const std::string& front_end, bool with_image, bool stretches = true) {
  const fs::path folder = fs::temp_directory_path() / ("orrery-client-loop-" + std::to_string(::getpid()));
  fs::create_directories(folder);
  std::ofstream trace(folder / "t.jsonl");
  trace << R"({"timestamp": 1000, "input_length": 512, "output_length": 40})"
        << "\n"
        << R"({"timestamp": 1008, "input_length": 64, "output_length": 8)"
        << (with_image ? R"(, "images": [{"width": 1920, "height": 1080, "position": 16}])" : "") << "}\n"
        << R"({"timestamp": 4000, "input_length": 512, "output_length": 40})"
        << "\n";
  trace.close();
  ScenarioOptions options;
  options.overrides = {"deployment={hardware: h200, model: qwen3-vl-8b, engine: vllm-0.24}",
                       "workload={trace: " + (folder / "t.jsonl").string() + front_end + "}"};
  const Scenario s =
      load_scenario(std::string(ORRERY_SOURCE_DIR) + "/examples/qwen3-8b-h200.yaml", options).value();
  Records sink;
  RunOptions run_options;
  run_options.stretches = stretches;
  run_options.sink = &sink;
  Run r{run_scenario(s, run_options).value(), {}};
  fs::remove_all(folder);
  r.records = sink.all;
  return r;
}

}  // namespace

TEST_CASE("outputs wait in the client's loop for images that it prepares, behind an API server they do not") {
  const Run alone = run_with("", false), beside = run_with("", true);
  REQUIRE(beside.records.size() == 3);
  // 2 ms a call, 5 ms a megapixel as it comes, 34 ms a megapixel as the encoder takes it (profile).
  const double prepared = 2 + 5 * 1.92 * 1.08, most = prepared + 34 * 1.92 * 1.08;
  const auto ms = [](SimDuration d) { return static_cast<double>(d.ns()) / 1e6; };
  CHECK(ms(alone.records[0].ttft) < 25);
  CHECK(ms(beside.records[0].ttft) > prepared);
  CHECK(ms(beside.records[0].ttft) == Approx(8 + most).margin(3));  // it reads when the image is prepared
  // What the engine does is the same, and so is what comes when nothing is prepared.
  CHECK(beside.records[0].e2e > alone.records[0].e2e);
  CHECK(beside.records[2].ttft == alone.records[2].ttft);
  CHECK(beside.records[2].e2e == alone.records[2].e2e);
  CHECK(run_with("", true, false).result.digest == beside.result.digest);
  const Run served = run_with(", frontend: openai", true);
  CHECK(ms(served.records[0].ttft) < 40);
}
