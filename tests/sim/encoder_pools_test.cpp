// Images encoded on instances of their own: who does what, what travels, and that nothing is lost.
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "base/random.h"
#include "catch.h"
#include "sim/collector.h"
#include "sim/costed/run.h"

using namespace orrery;

namespace {

struct Records final : RecordSink {
  std::vector<RequestRecord> all;
  void on_request(const RequestRecord& r) override { all.push_back(r); }
};

struct Line {
  double at_ms = 0;
  int text = 100, output = 40;
  std::vector<std::string> images = {};
  std::string more = {};
};

// A trace file that lives as long as this.
class Trace {
 public:
  explicit Trace(const std::vector<Line>& lines) {
    std::ofstream out(file);
    for (const Line& line : lines) {
      out << "{\"timestamp\": " << line.at_ms << ", \"input_length\": " << line.text
          << ", \"output_length\": " << line.output;
      if (!line.images.empty()) {
        out << ", \"images\": [";
        for (std::size_t i = 0; i < line.images.size(); ++i) out << (i > 0 ? ", " : "") << line.images[i];
        out << "]";
      }
      out << line.more << "}\n";
    }
  }
  ~Trace() { std::remove(file.c_str()); }
  std::string file = std::filesystem::temp_directory_path() / "orrery-encoder_pools_test.jsonl";
};

std::string image(int width, int height, int id = 0) {
  std::string text = "{\"width\": " + std::to_string(width) + ", \"height\": " + std::to_string(height);
  if (id > 0) text += ", \"id\": " + std::to_string(id);
  return text + "}";
}

const std::string vl = "model: qwen2.5-vl-7b, engine: vllm-0.24, hardware: h200";
const std::string alone = "{" + vl + "}";

std::string pools(const std::string& language, const std::string& encoder,
                  const std::string& topology = "{preset: hopper-8}") {
  return "{topology: " + topology + ", pools: [{name: language, " + vl + language +
         "}, {name: eyes, role: encoder, " + vl + encoder + "}]}";
}
const std::string apart = pools("", "");

Result<Scenario> load(const std::string& deployment, const Trace& trace) {
  ScenarioOptions options;
  options.overrides = {"deployment=" + deployment, "workload={}"};
  options.trace = trace.file;
  return load_scenario(std::string(ORRERY_SOURCE_DIR) + "/examples/qwen3-8b-h200.yaml", options);
}

RunResult run(const std::string& deployment, const Trace& trace, Records* records = nullptr,
              bool stretches = true) {
  auto scenario = load(deployment, trace);
  if (!scenario.ok()) {
    for (const Error& e : scenario.errors())
      std::fprintf(stderr, "%s: %s\n", e.key.c_str(), e.message.c_str());
  }
  RunOptions options;
  options.stretches = stretches;
  options.sink = records;
  return run_scenario(*scenario, options).value();
}

// Bursts of text and images, some of them seen before, some clients in a hurry.
std::vector<Line> mixture(std::size_t count, bool hurry = false) {
  RandomStream r(4, RandomPurpose::property_test, 61);
  std::vector<Line> lines;
  double at = 0;
  for (std::size_t i = 0; i < count; ++i) {
    at += r.exponential(25);
    Line line;
    line.at_ms = at;
    line.text = static_cast<int>(20 + r.below(600));
    line.output = static_cast<int>(1 + r.below(120));
    const std::uint64_t images = r.below(3);
    for (std::uint64_t k = 0; k < images; ++k) {
      const int width = static_cast<int>(56 + r.below(1400)), id = static_cast<int>(r.below(12));
      line.images.push_back(id < 6 ? image(640, 28 * (id + 2), id + 1) : image(width, 900));
    }
    if (hurry && r.below(3) == 0) line.more = ", \"timeout_ms\": " + std::to_string(1 + r.below(500));
    lines.push_back(line);
  }
  return lines;
}

std::string error_of(const std::string& deployment, const Trace& trace) {
  const auto loaded = load(deployment, trace);
  REQUIRE(!loaded.ok());
  std::string all;
  for (const Error& e : loaded.errors()) all += e.key + ": " + e.message + "\n";
  return all;
}

}  // namespace

TEST_CASE("text alone passes an encoder pool by: everything as without it [encoder pools]") {
  std::vector<Line> lines = mixture(120);
  for (Line& line : lines) line.images.clear();
  const Trace trace(lines);
  Records without, with;
  const RunResult a = run(alone, trace, &without), b = run(apart, trace, &with);
  REQUIRE(without.all.size() == 120);
  REQUIRE(with.all.size() == 120);
  for (std::size_t i = 0; i < 120; ++i) {
    CHECK(with.all[i].request == without.all[i].request);
    CHECK(with.all[i].ttft == without.all[i].ttft);
    CHECK(with.all[i].e2e == without.all[i].e2e);
  }
  CHECK(b.steps == a.steps);
  CHECK(b.images.fetches == 0);
}

TEST_CASE("images are encoded by the encoder pool, once each, and their embeddings travel [encoder pools]") {
  const Trace trace(mixture(150));
  Records records, before;
  const RunResult b = run(apart, trace, &records), a = run(alone, trace, &before);
  CHECK(b.completed == 150);
  std::vector<int> ends(150, 0);
  std::uint64_t output = 0;
  for (const RequestRecord& r : records.all) {
    ++ends[r.request];
    CHECK(r.instance == InstanceId(0));  // whoever answers is the language instance
    output += static_cast<std::uint64_t>(r.output_tokens);
  }
  CHECK(std::all_of(ends.begin(), ends.end(), [](int n) { return n == 1; }));
  CHECK(output == b.output_tokens);
  CHECK(b.output_tokens == a.output_tokens);
  CHECK(b.input_tokens == a.input_tokens);
  CHECK(b.images.arrived == a.images.arrived);
  CHECK(b.images.tokens == a.images.tokens);
  CHECK(b.images.encoded == a.images.encoded);  // by one encoder instance with the same cache
  CHECK(b.images.embeddings == a.images.embeddings);
  CHECK(b.images.fetches > 60);
  CHECK(b.images.fetched_bytes >= static_cast<std::int64_t>(b.images.embeddings) * 3584 * 2);
  // Two language ranks read all of it twice.
  const RunResult wide = run(pools(", parallel: {tp: 2}", ""), trace);
  CHECK(wide.completed == 150);
  CHECK(wide.images.fetched_bytes == 2 * b.images.fetched_bytes);
  CHECK(run(apart, trace, nullptr, false).digest == b.digest);
  // Several of each, whichever router chooses.
  const RunResult many =
      run(pools(", replicas: 2, router: round-robin", ", replicas: 3, router: round-robin"), trace);
  CHECK(many.completed == 150);
  CHECK(many.images.fetches == b.images.fetches);
}

TEST_CASE("two encoder pools of one are one of two, and so are language pools [encoder pools]") {
  const Trace trace(mixture(120));
  const std::string top = "{topology: {preset: hopper-8}, pools: [";
  const auto pool = [](const std::string& keys) { return "{" + vl + ", " + keys + "}"; };
  const RunResult one = run(
      top + pool("name: a, replicas: 2") + ", " + pool("name: e, role: encoder, replicas: 2") + "]}", trace);
  const RunResult two = run(top + pool("name: a") + ", " + pool("name: b") + ", " +
                                pool("name: e, role: encoder") + ", " + pool("name: f, role: encoder") + "]}",
                            trace);
  CHECK(one.digest == two.digest);
  CHECK(one.images.arrived > 0);
  CHECK(one.images.arrived == two.images.arrived);
  CHECK(one.images.prepare_wait_ns == two.images.prepare_wait_ns);
  CHECK(one.images.encoder_ns == two.images.encoder_ns);
  CHECK(one.images.passes == two.images.passes);
}

TEST_CASE("one request: a slower way costs what its bytes take longer [encoder pools]") {
  const Trace trace({{.at_ms = 0, .images = {image(1920, 1080)}}});
  // Eight language instances fill a node, so that the encoder stands on the next one, behind one NIC of 100
  // Gb/s.
  const std::string far = "{preset: hopper-8, nodes: 2, nics_per_node: 1, nic_gbps: ";
  const auto ttft = [&](const std::string& gbps, Records& records) {
    const RunResult r = run(pools(", replicas: 8", "", far + gbps + "}"), trace, &records);
    REQUIRE(records.all.size() == 1);
    // 1920 × 1080 becomes 69 × 39 tokens of 3,584 values.
    CHECK(r.images.fetched_bytes == 69 * 39 * 3584 * 2);
    return records.all[0].ttft.seconds();
  };
  Records slow, fast, near, alone_;
  const double at_100 = ttft("100", slow), at_400 = ttft("400", fast);
  const double bytes = 69 * 39 * 3584 * 2;
  CHECK(at_100 - at_400 == Approx(bytes / 12.5e9 - bytes / 50e9).margin(1e-8));
  run(apart, trace, &near);
  CHECK(near.all[0].ttft.seconds() < at_400);
  // One request at a time gains nothing: it is encoded as fast as before, and takes the way in twice.
  run(alone, trace, &alone_);
  CHECK(near.all[0].ttft > alone_.all[0].ttft);
}

TEST_CASE("encoding no longer holds decodes up [encoder pools]") {
  // A few long answers, and large images arriving all the while.
  std::vector<Line> lines;
  for (int i = 0; i < 8; ++i) lines.push_back({.at_ms = 0, .text = 50, .output = 600});
  for (int i = 0; i < 30; ++i)
    lines.push_back({.at_ms = 100 + 150.0 * i, .text = 20, .output = 1, .images = {image(1800, 1800)}});
  const Trace trace(lines);
  const RunResult a = run(alone, trace), b = run(apart, trace);
  CHECK(b.completed == 38);
  CAPTURE(a.itl.p99, b.itl.p99, a.itl.mean, b.itl.mean);
  CHECK(b.itl.mean < a.itl.mean);
  CHECK(b.device_busy_ns > 0);
}

TEST_CASE("clients that give up at any stage end once, and the run ends [encoder pools]") {
  const Trace trace(mixture(150, true));
  Records records;
  const RunResult r = run(apart, trace, &records);
  CHECK(r.completed + r.timed_out == 150);
  CHECK(r.timed_out > 10);
  CHECK(records.all.size() == 150);
  CHECK(run(apart, trace, nullptr, false).digest == r.digest);
}

namespace {

RunResult run_faults(const std::string& language, const std::string& encoder, const std::string& faults,
                     const Trace& trace, bool stretches = true) {
  const std::string start = ", start: {engine_s: 1, load_gb_per_s: 100}";
  ScenarioOptions options;
  options.overrides = {"deployment=" + pools(start + language, start + encoder), "workload={}"};
  if (!faults.empty()) options.overrides.push_back("faults=" + faults);
  options.trace = trace.file;
  const auto scenario =
      load_scenario(std::string(ORRERY_SOURCE_DIR) + "/examples/qwen3-8b-h200.yaml", options);
  if (!scenario.ok()) FAIL(scenario.errors().front().message);
  RunOptions how;
  how.stretches = stretches;
  return run_scenario(*scenario, how).value();  // leaks, and requests left over, are errors
}

std::uint64_t ended(const RunResult& r) {
  return r.completed + r.timed_out + r.failed + r.cancelled + r.rejected;
}

}  // namespace

TEST_CASE(
    "instances on either side of an encoder go and come back; images are encoded again [encoder pools]") {
  const Trace trace(mixture(150, true));
  std::uint64_t lost = 0, retries = 0;
  for (const char* faults : {"[{at_s: 1, kind: gpu, target: {pool: eyes, replica: 0}, for_s: 1}]",
                             "[{at_s: 1.5, kind: gpu, target: {pool: language, replica: 1}, for_s: 1}]",
                             "[{at_s: 1, kind: gpu, target: {pool: eyes, replica: 1}, factor: 0.3}, {at_s: "
                             "1.2, kind: link, target: "
                             "node0.gpu2–node0.nvswitch0, for_s: 2}, {at_s: 1.2, kind: link, target: "
                             "node0.gpu2–node0.pcie_switch1, "
                             "for_s: 2}]",
                             "[{at_s: 0.6, kind: gpu, target: {pool: language, replica: 1}}]",  // chosen
                                                                                                // unnoticed
                             "[{kind: gpu, target: all, mtbf_h: 0.0006, repair_s: 0.3}]"}) {
    CAPTURE(faults);
    const RunResult r = run_faults(", replicas: 2", ", replicas: 2", faults, trace);
    CHECK(ended(r) == 150);
    CHECK(run_faults(", replicas: 2", ", replicas: 2", faults, trace, false).digest == r.digest);
    lost += r.fleet.requests_lost;
    retries += r.fleet.retries;
  }
  CHECK(lost > 10);
  CHECK(retries > 5);
  const RunResult rolled = run_faults(", replicas: 2, rolling_update: {at_s: 0.5}",
                                      ", replicas: 2, rolling_update: {at_s: 0.5}", "", trace);
  CHECK(ended(rolled) == 150);
  CHECK(rolled.fleet.updated == 4);
  CHECK(rolled.fleet.requests_lost == 0);
  const RunResult scaled =
      run_faults(", replicas: 2, rolling_update: {at_s: 1}",
                 ", autoscale: {metric: outstanding, target: 0.3, max: 3, interval_s: 0.2}", "", trace);
  CHECK(ended(scaled) == 150);
  CHECK(!scaled.fleet.scalings.empty());
}

TEST_CASE("what does not go with encoder pools is said at its key [encoder pools]") {
  const Trace trace(std::vector<Line>(1));
  const auto says = [&](const std::string& deployment, const std::string& text) {
    const std::string all = error_of(deployment, trace);
    CAPTURE(all, text);
    return all.find(text) != std::string::npos;
  };
  const std::string eyes = "{name: eyes, role: encoder, " + vl + "}",
                    language = "{name: language, " + vl + "}";
  CHECK(says("{pools: [" + language + ", " + eyes + "]}", "need deployment.topology"));
  CHECK(says("{topology: {preset: hopper-8}, pools: [" + eyes + "]}", "needs a pool with role: mixed"));
  CHECK(says("{topology: {preset: hopper-8}, pools: [" + eyes + ", " + language + "]}", "behind the pools"));
  CHECK(says("{topology: {preset: hopper-8}, pools: [{name: p, role: prefill, " + vl + "}, " + eyes + "]}",
             "a prefill pool needs a decode pool"));
  CHECK(says(
      "{topology: {preset: hopper-8}, pools: [{name: l, model: qwen2.5-vl-7b, engine: sglang-0.5, hardware: "
      "h200}, " +
          eyes + "]}",
      "on vllm only"));
  CHECK(says(pools(", engine_args: {language_model_only: true}", ""), "takes none"));
  CHECK(says(pools("", ", router: slots"), "keeps no KV"));
  CHECK(says("{topology: {preset: hopper-8}, pools: [" + language + ", " + eyes +
                 ", {name: f, role: encoder, " + vl + ", engine_args: {limit_mm_per_prompt: {image: 3}}}]}",
             "prepared alike"));
  CHECK(says("{pools: [" + language + ", {name: b, " + vl + "}]}", "with encoder pools, or"));
  CHECK(says(
      "{topology: {preset: hopper-8}, pools: [{name: l, model: qwen3-8b, engine: vllm-0.24, hardware: h200}, "
      "{name: e, role: encoder, model: qwen3-8b, engine: vllm-0.24, hardware: h200}]}",
      "takes images"));
}
