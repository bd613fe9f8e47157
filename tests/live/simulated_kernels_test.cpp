// The executor over real kernels, in the CPU simulator: schedule, blocks, forward pass, tape.
#include <unistd.h>

#include <filesystem>

#include "catch.h"
#include "costmodel/experts/token_draws.h"
#include "kernels/guarded_memory.h"
#include "live/forward/forward_runner.h"
#include "live/kernel_run.h"
#include "sim/example_scenario.h"

namespace {

using namespace orrery;

TraceRequest request(std::uint64_t index, std::int32_t prompt, std::int32_t output,
                     std::vector<std::uint64_t> names) {
  TraceRequest r;
  r.index = index;
  r.arrival = SimTime(static_cast<std::int64_t>(index) * 100'000);
  r.prompt_tokens = prompt;
  r.output_tokens = r.max_output_tokens = output;
  r.hash_ids = std::move(names);
  r.hash_block_size = 16;
  return r;
}

// Chunks of at most 24 tokens; requests that begin alike; with few blocks somebody is preempted.
Scenario tiny(int blocks, const std::string& more = "", const std::string& model = "tiny_model") {
  auto s =
      small_example("{hardware: h200, model: " + std::string(ORRERY_SOURCE_DIR) + "/tests/live/" + model +
                        "/config.json, engine: orrery" + more +
                        ", engine_args: {max_model_len: 80, "
                        "max_num_batched_tokens: 24, max_num_seqs: 4, cudagraph_capture_sizes: [1, 2, 4], "
                        "num_gpu_blocks_override: " +
                        std::to_string(blocks) + "}}",
                    {"workload.limit={requests: 10}"});
  INFO((s.ok() ? "" : to_string(s.errors())));
  REQUIRE(s.ok());
  s->workload.limit_requests = 0;
  s->workload.time_scale = 1;
  s->workload.requests = std::make_shared<const std::vector<TraceRequest>>(std::vector<TraceRequest>{
      request(0, 40, 6, {1, 2, 3}), request(1, 40, 9, {1, 2, 4}), request(2, 17, 8, {1, 5}),
      request(3, 30, 10, {6, 7}), request(4, 45, 3, {1, 2, 3})});
  return std::move(*s);
}

struct Ran {
  KernelRun run;
  bool intact = false;
};

// Keys of rows by their place in their request.
using Keys = std::vector<std::pair<std::int32_t, std::uint64_t>>;

// Notes what experts are drawn by.
class Watched final : public StepRunner {
 public:
  Watched(std::unique_ptr<StepRunner> runner, Keys& keys) : runner_(std::move(runner)), keys_(keys) {}
  bool run(const StepBatch& batch, StepResult& result, std::string& why) override {
    for (std::size_t i = 0; i < batch.expert_keys.size(); ++i)
      keys_.emplace_back(batch.positions[i], batch.expert_keys[i]);
    return runner_->run(batch, result, why);
  }

 private:
  std::unique_ptr<StepRunner> runner_;
  Keys& keys_;
};

Ran on_simulator(const Scenario& s, bool waits = false, TapeRecorder* tape = nullptr, Keys* keys = nullptr) {
  kernels::HostMemory memory;
  KernelRunOptions options;
  options.waits = waits;
  options.tape = tape;
  options.make_device = [&](const KernelDemand& d) -> Result<KernelDevice> {
    ForwardOptions forward;
    forward.seed = d.seed;
    forward.kv_blocks = d.blocks;
    forward.max_rows = d.max_rows;
    forward.max_sequences = d.max_sequences;
    forward.max_positions = d.max_positions;
    forward.count_launches = true;
    forward.popularity = d.popularity;
    const RankedForward::Options ranks{d.ranks, AllReduce::peers, d.shares_experts};
    ORRERY_TRY(runner, ForwardRunner::create(d.instance->model, forward, memory, false, ranks));
    if (keys != nullptr) runner = std::make_unique<Watched>(std::move(runner), *keys);
    return KernelDevice{std::move(runner), true, "CPU simulator"};
  };
  auto run = run_on_kernels(s, options);
  INFO((run.ok() ? "" : to_string(run.errors())));
  REQUIRE(run.ok());
  CHECK(run->missed_blocks == 0);
  CHECK(run->result.completed == 5);
  std::string broken;
  Ran out{std::move(*run), memory.guards_intact(broken)};
  INFO(broken);
  CHECK(out.intact);
  return out;
}

}  // namespace

TEST_CASE("what kernels work through in a step is what the cost model prices, class by class") {
  // One device; two ranks, each with what the plan says of one; with experts whole on each.
  const int which = GENERATE(0, 1, 2);
  CAPTURE(which);
  const Scenario s = which == 0   ? tiny(8)
                     : which == 1 ? tiny(8, ", parallel: {tp: 2}")
                                  : tiny(8, ", parallel: {tp: 2, ep: 2}", "tiny_experts");
  const Ran ran = on_simulator(s);
  CHECK(ran.run.result.preemptions > 0);
  CHECK(ran.run.result.cached_tokens > 0);
  const StepPricer pricer = StepPricer::create(s.pool.instance).value();
  std::int64_t graphs = 0;
  for (const KernelStep& step : ran.run.steps) {
    StepShape shape = step.shape;
    shape.prefill = step.chunks;
    graphs += step.padded_rows > 0;
    std::array<double, op_class_count> flops{}, bytes{}, sent{};
    for (const OpLine& line : pricer.explain(shape).ops) {
      flops[static_cast<std::size_t>(line.op_class)] += line.flops;
      bytes[static_cast<std::size_t>(line.op_class)] += line.bytes;
      sent[static_cast<std::size_t>(line.op_class)] += line.link_bytes;
    }
    for (std::size_t c = 0; c < op_class_count; ++c) {
      CAPTURE(step.step, to_string(static_cast<OpClass>(c)), step.chunks.size(), step.shape.decode_sequences);
      CHECK(step.work.flops[c] == Approx(flops[c]));
      CHECK(step.work.link_bytes[c] == Approx(sent[c]));
      CHECK(step.work.memory_bytes[c] == Approx(bytes[c]));  // all activations stay in the cache
    }
  }
  CHECK(graphs > 5);
}

TEST_CASE("under a hotspot every row's experts are drawn by its request's name and its place in it") {
  const Scenario s = tiny(8, ", parallel: {tp: 2, ep: 2}, experts: {popularity: {zipf: 1}, routing: sampled}",
                          "tiny_experts");
  Keys keys;
  const Ran ran = on_simulator(s, false, nullptr, &keys);
  std::int64_t rows = 0;
  for (const KernelStep& step : ran.run.steps) {
    rows += step.shape.decode_sequences;
    for (const PrefillChunk& c : step.chunks) rows += c.new_tokens;
  }
  CHECK(static_cast<std::int64_t>(keys.size()) == rows);
  std::vector<bool> seen(5);
  for (const auto& [place, key] : keys) {
    std::int64_t named = 0;
    for (std::uint64_t request = 0; request < seen.size(); ++request) {
      if (token_key(s.seed, request, static_cast<std::uint64_t>(place)) != key) continue;
      seen[request] = true;
      ++named;
    }
    CHECK(named == 1);
  }
  CHECK(seen == std::vector<bool>(5, true));
}

TEST_CASE("a tape of kernels in real time is replayed without them") {
  const std::string folder =
      std::filesystem::temp_directory_path() / ("orrery-simulated-kernels-" + std::to_string(::getpid()));
  std::filesystem::create_directories(folder);
  const Scenario s = tiny(8);
  auto tape = TapeRecorder::create(folder + "/run.tape", s, "test", "live", false).value();
  const Ran ran = on_simulator(s, true, &tape);
  REQUIRE(tape.finish(ran.run.result).ok());
  const auto replay = replay_tape(folder + "/run.tape");
  std::filesystem::remove_all(folder);
  INFO((replay.ok() ? "" : to_string(replay.errors())));
  REQUIRE(replay.ok());
  CHECK(replay->run.digest == ran.run.result.digest);
  CHECK(replay->run.e2e.max == ran.run.result.e2e.max);
}
