// Tapes: a recorded run is the run, its replay needs nothing of what it ran on, and no damage passes.
#include <fstream>
#include <iterator>

#include "catch.h"
#include "live/tape.h"
#include "sim/example_scenario.h"

namespace {

using namespace orrery;

std::string tape_path() { return std::filesystem::temp_directory_path() / "orrery-test.tape"; }

std::string read_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

void write_file(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

// `told`: the scenario that the tape claims to be of.
RunResult record(const Scenario& ran, const Scenario& told, bool stretches = true) {
  auto recorder = TapeRecorder::create(tape_path(), told, "test", "simulation", stretches).value();
  RunOptions options;
  options.stretches = stretches;
  options.arrange = [&](SimulationSetup& setup) { recorder.arrange(setup); };
  RunResult result = run_scenario(ran, options).value();
  REQUIRE(recorder.finish(result).ok());
  return result;
}

void replays(const Scenario& scenario, bool stretches = true) {
  const RunResult ran = record(scenario, scenario, stretches);
  CHECK(ran.digest == run(scenario, stretches).digest);  // recording changes nothing
  const auto replay = replay_tape(tape_path());
  INFO((replay.ok() ? "" : to_string(replay.errors())));
  REQUIRE(replay.ok());
  CHECK(replay->run.digest == ran.digest);
  CHECK(replay->run.steps == ran.steps);
  CHECK(replay->run.completed == ran.completed);
  CHECK(replay->run.ttft.p99 == ran.ttft.p99);
  CHECK(replay->run.itl.p99 == ran.itl.p99);
  CHECK(replay->recorded.requests == ran.completed + ran.failed + ran.rejected);
}

Scenario small(const std::string& keys, const std::vector<std::string>& more = {}) {
  std::vector<std::string> all = {"workload.limit={requests: 40}"};
  all.insert(all.end(), more.begin(), more.end());
  auto scenario = small_example(qwen3_8b_part("hardware: h200" + keys), all);
  INFO((scenario.ok() ? "" : to_string(scenario.errors())));
  REQUIRE(scenario.ok());
  return std::move(scenario).value();
}

}  // namespace

TEST_CASE("a replayed tape gives the run's digest, whatever scheduled it") {
  replays(small(""));
  replays(small(""), false);
  replays(small(", replicas: 3, router: least-loaded"));
  replays(small(", engine_args: {num_gpu_blocks_override: 700, max_model_len: 11200}"));  // preempts
  replays(small("", {"workload.frontend=openai", "workload.closed_loop={concurrency: 8}"}));
  replays(small("", {"deployment.engine=sglang-0.5"}));
  replays(small("", {"deployment.engine=tensorrt-llm-1.2"}));
  replays(small(", speculation: {method: ngram, tokens: 3, acceptance: [0.7, 0.5, 0.3], match_rate: 0.5}"));
}

TEST_CASE("a replayed tape needs neither network nor faulty parts") {
  const std::string part = "{hardware: h200, model: qwen3-8b, engine: vllm-0.24, ";
  auto apart = small_example("{topology: {preset: hopper-8}, pools: [" + part + "name: p, role: prefill}, " +
                                 part + "name: d, role: decode}]}",
                             {"workload.limit={requests: 40}"});
  REQUIRE(apart.ok());
  replays(*apart);
  replays(small(", replicas: 2", {"faults=[{at_s: 3, kind: gpu, target: {instance: 0, gpu: 0}}]"}));
}

TEST_CASE("a tape that is cut off anywhere is refused, and the last good step named") {
  const Scenario scenario = small("");
  record(scenario, scenario);
  const std::string whole = read_file(tape_path());
  REQUIRE(whole.size() > 2000);
  for (const double part : {0.0, 0.3, 0.5, 0.9, 1.0}) {
    const std::size_t length =
        std::min(whole.size() - 1, static_cast<std::size_t>(part * static_cast<double>(whole.size())));
    write_file(tape_path(), whole.substr(0, length));
    const auto replay = replay_tape(tape_path());
    REQUIRE_FALSE(replay.ok());
    CHECK(replay.errors().front().kind == ErrorKind::invalid_input);
    if (part > 0.4) CHECK(to_string(replay.errors()).find("last good step: ") != std::string::npos);
  }
}

TEST_CASE("no changed byte of a tape passes, nor do frames in another order or behind the end") {
  const Scenario scenario = small("");
  record(scenario, scenario);
  const std::string whole = read_file(tape_path());
  for (std::size_t i = 0; i < 24; ++i) {
    std::string changed = whole;
    const std::size_t place = i * (whole.size() - 1) / 23;
    changed[place] = static_cast<char>(changed[place] ^ (1 << (i % 8)));
    write_file(tape_path(), changed);
    INFO(place);
    const auto replay = replay_tape(tape_path());
    REQUIRE_FALSE(replay.ok());
    CHECK(replay.errors().front().kind == ErrorKind::invalid_input);
  }
  write_file(tape_path(), whole + "x");
  CHECK_FALSE(replay_tape(tape_path()).ok());
  write_file(tape_path(), "");
  CHECK_FALSE(replay_tape(tape_path()).ok());
  CHECK_FALSE(replay_tape(tape_path() + "-nobody").ok());
}

TEST_CASE("checksums are chained: two frames of a kind cannot change places") {
  const Scenario scenario = small("");
  {
    TapeHeader header;
    header.scenario = "x: 1";
    auto writer = TapeWriter::create(tape_path(), header).value();
    writer.frame("aa");
    writer.frame("bb");
    REQUIRE(writer.finish({}).ok());
  }
  std::string bytes = read_file(tape_path());
  const std::size_t a = bytes.find("\2aa"), b = bytes.find("\2bb");
  REQUIRE(b == a + 7);
  std::swap_ranges(bytes.begin() + static_cast<std::ptrdiff_t>(a),
                   bytes.begin() + static_cast<std::ptrdiff_t>(b),
                   bytes.begin() + static_cast<std::ptrdiff_t>(b));
  write_file(tape_path(), bytes);
  auto reader = TapeReader::open(tape_path()).value();
  std::string_view frame;
  CHECK(reader.next(frame) == TapeReader::Found::damaged);
}

TEST_CASE("a run that decides otherwise is found, and where") {
  const Scenario ran = small(""), other = small(", engine_args: {max_num_seqs: 4}");
  record(ran, other);
  const auto replay = replay_tape(tape_path());
  REQUIRE_FALSE(replay.ok());
  CHECK(replay.errors().front().kind == ErrorKind::check_failed);
  CHECK(to_string(replay.errors()).find("reading ") != std::string::npos);
}
