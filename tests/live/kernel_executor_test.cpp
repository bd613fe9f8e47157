// The executor of real kernels over a device on paper: blocks, tokens, time, tapes.
#include <unistd.h>

#include <filesystem>
#include <map>
#include <thread>

#include "base/random.h"
#include "catch.h"
#include "live/endpoint_comparison.h"
#include "live/kernel_run.h"
#include "live/paper_device.h"
#include "sim/example_scenario.h"

namespace {

using namespace orrery;

struct Ran {
  KernelRun run;
  std::unique_ptr<PaperDevice> paper;
};

Result<KernelRun> try_paper(const Scenario& scenario, std::unique_ptr<PaperDevice>& paper,
                            KernelRunOptions options, std::int64_t fails_at = -1) {
  options.make_device = [&](const KernelDemand& d) -> Result<KernelDevice> {
    paper = std::make_unique<PaperDevice>(d.blocks * d.instances, d.instance->model.vocabulary);
    paper->fails_at = fails_at;
    return KernelDevice{std::make_unique<Borrowed>(*paper), true, "paper"};
  };
  return run_on_kernels(scenario, options);
}

Ran on_paper(const Scenario& scenario, bool waits = false, TapeRecorder* tape = nullptr) {
  Ran out;
  KernelRunOptions options;
  options.waits = waits;
  options.tape = tape;
  auto run = try_paper(scenario, out.paper, options);
  INFO((run.ok() ? "" : to_string(run.errors())));
  REQUIRE(run.ok());
  out.run = std::move(*run);
  INFO((out.paper->faults.empty() ? "" : out.paper->faults.front()));
  CHECK(out.paper->faults.empty());
  CHECK(out.run.missed_blocks == 0);
  return out;
}

Scenario scenario_of(const std::string& keys, const std::vector<std::string>& more = {}) {
  std::vector<std::string> all = {"workload.limit={requests: 40}"};
  all.insert(all.end(), more.begin(), more.end());
  auto scenario = small_example("{hardware: h200, model: qwen3-8b, engine: vllm-0.24" + keys + "}", all);
  INFO((scenario.ok() ? "" : to_string(scenario.errors())));
  REQUIRE(scenario.ok());
  return std::move(scenario).value();
}

enum class Names { none, hashes, sessions };

// Requests close together, some of whose prompts begin alike. `eos`: some end before their limit, or their
// clients give up.
std::vector<TraceRequest> world(std::uint64_t seed, Names names, bool eos,
                                std::uint64_t requests_wanted = 40) {
  RandomStream random(seed, RandomPurpose::property_test);
  std::vector<TraceRequest> requests;
  std::map<std::uint64_t, std::int32_t> sessions;  // tokens so far
  std::int64_t at = 0;
  const std::int32_t hash_block = std::vector<std::int32_t>{16, 48, 512, 24}[random.below(4)];
  for (std::uint64_t i = 0; i < requests_wanted; ++i) {
    TraceRequest r;
    r.index = i;
    at += static_cast<std::int64_t>(random.below(40'000'000));
    r.arrival = SimTime(at);
    r.prompt_tokens = 1 + static_cast<std::int32_t>(random.below(700));
    r.output_tokens = 1 + static_cast<std::int32_t>(random.below(200));
    if (names == Names::sessions && random.below(4) != 0) {
      r.session = 1 + random.below(5);
      std::int32_t& before = sessions[r.session];
      if (before > 3000) before = 0;
      r.prompt_tokens += before;
      before = r.prompt_tokens + r.output_tokens;
    }
    if (names == Names::hashes) {
      r.hash_block_size = hash_block;
      const std::int32_t count = (r.prompt_tokens + hash_block - 1) / hash_block;
      const std::uint64_t family = random.below(3),
                          shared = random.below(static_cast<std::uint64_t>(count) + 1);
      for (std::int32_t k = 0; k < count; ++k)
        r.hash_ids.push_back(static_cast<std::uint64_t>(k) < shared
                                 ? family * 1000 + static_cast<std::uint64_t>(k)
                                 : (i + 10) * 1000 + static_cast<std::uint64_t>(k));
    }
    if (eos && random.below(6) == 0)
      r.cancel_after = SimDuration(static_cast<std::int64_t>(random.below(200'000'000)));
    r.max_output_tokens =
        eos ? r.output_tokens + static_cast<std::int32_t>(random.below(50)) : r.output_tokens;
    requests.push_back(std::move(r));
  }
  return requests;
}

Scenario in_world(std::vector<TraceRequest> requests, const std::string& keys) {
  Scenario s = scenario_of(keys);
  s.workload.limit_requests = 0;
  s.workload.time_scale = 1;
  s.workload.requests = std::make_shared<const std::vector<TraceRequest>>(std::move(requests));
  return s;
}

const std::string ample =
    ", engine_args: {num_gpu_blocks_override: 20000, max_model_len: 4800, "
    "enable_prefix_caching: false}";
std::string scarce(int blocks) {
  return ", engine_args: {num_gpu_blocks_override: " + std::to_string(blocks) +
         ", max_model_len: " + std::to_string(blocks > 320 ? 4800 : 912) + ", max_num_batched_tokens: 640}";
}

}  // namespace

TEST_CASE("no block has two writers, and who shares one reads the same, whatever is evicted or preempted") {
  std::uint64_t preemptions = 0, found = 0;
  for (std::uint64_t seed = 1; seed <= 6; ++seed) {
    const Names names = std::vector{Names::none, Names::hashes, Names::sessions}[seed % 3];
    const std::vector<TraceRequest> requests = world(seed, names, false);
    const int blocks = names == Names::sessions ? 330 : 60 + 5 * static_cast<int>(seed);
    const Ran plain = on_paper(in_world(requests, ample));
    const Ran tight = on_paper(in_world(requests, scarce(blocks)));
    CHECK(plain.run.result.completed == 40);
    CHECK(tight.run.result.completed == 40);
    CHECK(plain.run.result.preemptions == 0);
    // The same tokens after the same tokens, and no others: an answer does not depend on how it was computed.
    // (A session's next prompt holds what had been said when it came.)
    if (names != Names::sessions) CHECK(tight.paper->contents == plain.paper->contents);
    preemptions += tight.run.result.preemptions;
    found += tight.run.result.cached_tokens;
    on_paper(in_world(world(seed, names, true), scarce(blocks)));
  }
  CHECK(preemptions > 50);
  CHECK(found > 5'000);
}

namespace {

// A device that takes as long as the cost model says.
class PricedDevice final : public StepRunner {
 public:
  PricedDevice(const InstanceSpec& spec) : pricer_(StepPricer::create(spec).value()) {}
  bool run(const StepBatch& b, StepResult& result, std::string&) override {
    StepShape shape;
    std::vector<PrefillChunk> chunks;
    for (std::size_t i = 0; i < b.sequences.size(); ++i) {
      const StepBatch::Sequence& s = b.sequences[i];
      if (i < static_cast<std::size_t>(b.decodes)) {
        ++shape.decode_sequences;
        shape.decode_context_tokens += s.context - 1;
      } else {
        chunks.push_back({s.rows, s.context - s.rows});
      }
    }
    shape.prefill = chunks;
    result.device_ns = pricer_.price(shape).busy;
    result.sampled.assign(b.sampled_rows.size(), 1);
    return true;
  }

 private:
  StepPricer pricer_;
};

}  // namespace

TEST_CASE("a device that takes what the price list says makes measured simulation the simulation") {
  for (const char* keys :
       {"", ", replicas: 3", ", engine_args: {num_gpu_blocks_override: 700, max_model_len: 11200}",
        ", engine_args: {async_scheduling: false}"}) {
    Scenario s = scenario_of(keys, {"deployment.engine=orrery"});
    s.workload.openai_frontend = std::string(keys).empty();
    KernelRunOptions options;
    options.waits = false;
    options.make_device = [](const KernelDemand& d) -> Result<KernelDevice> {
      return KernelDevice{std::make_unique<PricedDevice>(*d.instance), true, "priced"};
    };
    const auto measured = run_on_kernels(s, options);
    INFO(keys << (measured.ok() ? "" : to_string(measured.errors())));
    REQUIRE(measured.ok());
    CHECK(measured->result.digest == run(s, false).digest);
    CHECK(measured->steps.size() == measured->result.steps);
    // And so to a comparison, which counts no blocks that it planned itself.
    const auto compared = compare_with_endpoint(s, measured->seen, {.runs = 0});
    REQUIRE(compared.ok());
    CHECK_FALSE(endpoint_json(*compared, measured->seen).contains("kv_cache.blocks"));
    for (const ComparedMetric& m : compared->compared.metrics) {
      CAPTURE(m.name);
      CHECK(m.predicted == Approx(m.measured).epsilon(1e-3));
    }
  }
}

TEST_CASE("decode steps have a captured size of graphs, others have none") {
  const Scenario s = scenario_of("", {"deployment.engine=orrery"});
  const Ran ran = on_paper(s);
  std::int64_t decodes = 0;
  for (const KernelStep& step : ran.run.steps) {
    if (!step.chunks.empty()) {
      CHECK(step.padded_rows == 0);
      continue;
    }
    ++decodes;
    const std::int64_t n = step.shape.decode_sequences;  // vllm/config/vllm.py: 1, 2, 4, then eights
    CHECK(step.padded_rows == (n <= 2 ? n : n <= 4 ? 4 : (n + 7) / 8 * 8));
  }
  CHECK(decodes > 100);
  CHECK(ran.paper->graphs == decodes);
  // The price list agrees: a chunk beside decodes runs in no graph, and keeps its tokens.
  const StepPricer pricer = StepPricer::create(s.pool.instance).value();
  const std::vector<PrefillChunk> chunk = {{100, 0}};
  StepShape shape{.prefill = chunk, .decode_sequences = 3, .decode_context_tokens = 300};
  CHECK(pricer.explain(shape).graph_mode == "none");
  CHECK(pricer.explain(shape).padded_tokens == 103);
  shape.prefill = {};
  CHECK(pricer.explain(shape).graph_mode == "full");
}

namespace {

std::string own_folder() {
  return std::filesystem::temp_directory_path() / ("orrery-kernels-" + std::to_string(::getpid()));
}

void replays(const Scenario& s, bool waits) {
  std::filesystem::create_directories(own_folder());
  const std::string path = own_folder() + "/run.tape";
  auto tape = TapeRecorder::create(path, s, "test", waits ? "live" : "measured simulation", false).value();
  const Ran ran = on_paper(s, waits, &tape);
  REQUIRE(tape.finish(ran.run.result).ok());
  const auto replay = replay_tape(path);
  std::filesystem::remove_all(own_folder());
  INFO((replay.ok() ? "" : to_string(replay.errors())));
  REQUIRE(replay.ok());
  CHECK(replay->run.digest == ran.run.result.digest);
  CHECK(replay->run.completed == ran.run.result.completed);
  CHECK(replay->run.ttft.p99 == ran.run.result.ttft.p99);
}

}  // namespace

TEST_CASE("a run on kernels is replayed from its tape, without them") {
  replays(in_world(world(1, Names::hashes, true), scarce(80)), false);
  auto quick = world(2, Names::hashes, true, 12);
  for (TraceRequest& r : quick) {  // in real time
    r.arrival = SimTime(r.arrival.ns() / 20);
    r.output_tokens = 1 + r.output_tokens % 20;
    r.max_output_tokens = r.output_tokens + 3;
  }
  replays(in_world(quick, scarce(80)), true);
}

TEST_CASE("a device that fails ends the run with its words") {
  for (const bool waits : {false, true}) {
    std::unique_ptr<PaperDevice> paper;
    auto quick = world(3, Names::none, false, 5);
    for (TraceRequest& r : quick) r.arrival = SimTime(0);
    quick.back().arrival = SimTime(3'600'000'000'000);  // who comes in an hour is not waited for
    KernelRunOptions options;
    options.waits = waits;
    const auto run = try_paper(in_world(quick, scarce(80)), paper, options, 7);
    REQUIRE_FALSE(run.ok());
    CHECK(run.errors().front().kind == ErrorKind::unavailable);
    CHECK(run.errors().front().message == "paper: the paper burns");
    CHECK(paper->steps == 7);
  }
}

namespace {

class SlowDevice final : public StepRunner {
 public:
  explicit SlowDevice(int& steps) : steps_(steps) {}
  bool run(const StepBatch& b, StepResult& result, std::string&) override {
    ++steps_;
    std::this_thread::sleep_for(std::chrono::milliseconds(3));
    result.device_ns = 3'000'000;
    result.sampled.assign(b.sampled_rows.size(), 1);
    return true;
  }

 private:
  int& steps_;
};

}  // namespace

// The loop itself asks every 65,536 events, which are minutes of a GPU's steps.
TEST_CASE("a run that is broken off ends at once, with a step on the device") {
  auto quick = world(3, Names::none, false, 5);
  for (TraceRequest& r : quick) r.arrival = SimTime(0);
  KernelRunOptions options;
  options.waits = GENERATE(false, true);
  int asked = 0, steps = 0;
  options.keep_going = [&](std::uint64_t) { return ++asked < 4; };
  options.make_device = [&](const KernelDemand&) -> Result<KernelDevice> {
    return KernelDevice{std::make_unique<SlowDevice>(steps), true, "slow"};
  };
  const auto run = run_on_kernels(in_world(quick, scarce(80)), options);
  REQUIRE_FALSE(run.ok());
  CHECK(run.errors().front().kind == ErrorKind::interrupted);
  CHECK(steps < 4);
}

TEST_CASE("what does not run on kernels is refused by its key") {
  const auto key_of = [](const Scenario& s, bool waits) {
    const Status status = check_kernel_scenario(s, waits);
    return status.ok() ? "" : status.errors().front().key;
  };
  CHECK(key_of(scenario_of(""), true) == "");
  CHECK(key_of(scenario_of(", parallel: {tp: 4}"), false) == "deployment.parallel");
  CHECK(key_of(scenario_of(", parallel: {tp: 2}"), false) == "");
  const std::string experts = "qwen3-30b-a3b";
  const auto with_experts = [&](const std::string& more) {
    return key_of(scenario_of(more, {"deployment.model=" + experts}), false);
  };
  CHECK(with_experts(", parallel: {tp: 2, ep: 2}, experts: {popularity: {zipf: 1}, drift: {every_s: 9}}") ==
        "");
  CHECK(with_experts(", parallel: {tp: 2, ep: 2}, experts: {eplb: {policy: static}}") ==
        "deployment.experts.eplb");
  CHECK(key_of(scenario_of(", replicas: 2"), true) == "deployment.replicas");
  CHECK(key_of(scenario_of(", replicas: 2"), false) == "");
  CHECK(key_of(scenario_of("", {"deployment.engine=sglang-0.5"}), false) == "deployment.engine");
  CHECK(key_of(scenario_of(", engine_args: {block_size: 32}"), false) == "deployment.engine_args.block_size");
  CHECK(key_of(scenario_of(", replicas: 2, router: kv-aware"), false) == "deployment.router");
  CHECK(key_of(scenario_of("", {"workload.frontend=openai"}), true) == "workload.frontend");
  CHECK(key_of(scenario_of(
                   ", speculation: {method: ngram, tokens: 3, acceptance: [0.7, 0.5, 0.3], match_rate: 0.5}"),
               false) == "deployment.speculation");
}

TEST_CASE("steps in a table add up to the run") {
  const Scenario s = scenario_of("", {"deployment.engine=orrery"});
  const Ran ran = on_paper(s);
  const std::string csv = kernel_steps_csv(s, ran.run).value();
  CHECK(std::count(csv.begin(), csv.end(), '\n') == static_cast<std::ptrdiff_t>(ran.run.steps.size()) + 1);
  const Json json = kernel_steps_json(s, ran.run).value();
  std::int64_t ns = 0, tokens = 0;
  for (const KernelStep& step : ran.run.steps) {
    ns += step.device_ns;
    for (const PrefillChunk& c : step.chunks) tokens += c.new_tokens;
    CHECK(step.host_ns > 0);
  }
  double ms = 0;
  for (const char* kind : {"prefill", "mixed", "decode"})
    if (json.contains(kind)) ms += json[kind]["measured_ms"].get<double>();
  CHECK(ms == Approx(static_cast<double>(ns) * 1e-6));
  CHECK(tokens >= static_cast<std::int64_t>(ran.run.result.input_tokens - ran.run.result.cached_tokens) -
                      static_cast<std::int64_t>(ran.run.result.completed) * 16);
}
