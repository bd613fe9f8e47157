// The executor of real kernels over a device on paper: blocks, tokens, time, tapes.
#include <unistd.h>

#include <filesystem>
#include <map>

#include "base/random.h"
#include "catch.h"
#include "live/kernel_run.h"
#include "live/paper_device.h"
#include "sim/example_scenario.h"

namespace {

using namespace orrery;

// The run owns its device; what the device saw outlives it.
class Borrowed final : public StepRunner {
 public:
  explicit Borrowed(PaperDevice& paper) : paper_(paper) {}
  bool run(const StepBatch& b, StepResult& r, std::string& why) override { return paper_.run(b, r, why); }

 private:
  PaperDevice& paper_;
};

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

// Requests close together, some of whose prompts begin alike. `eos`: some end before their limit.
std::vector<TraceRequest> world(std::uint64_t seed, Names names, bool eos) {
  RandomStream random(seed, RandomPurpose::property_test);
  std::vector<TraceRequest> requests;
  std::map<std::uint64_t, std::int32_t> sessions;  // tokens so far
  std::int64_t at = 0;
  const std::int32_t hash_block = std::vector<std::int32_t>{16, 48, 512, 24}[random.below(4)];
  for (std::uint64_t i = 0; i < 60; ++i) {
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
      const std::uint64_t family = random.below(3), shared = random.below(static_cast<std::uint64_t>(count) + 1);
      for (std::int32_t k = 0; k < count; ++k)
        r.hash_ids.push_back(static_cast<std::uint64_t>(k) < shared ? family * 1000 + static_cast<std::uint64_t>(k)
                                                                    : (i + 10) * 1000 + static_cast<std::uint64_t>(k));
    }
    r.max_output_tokens = eos ? r.output_tokens + static_cast<std::int32_t>(random.below(50)) : r.output_tokens;
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

const std::string ample = ", engine_args: {num_gpu_blocks_override: 20000, max_model_len: 4800, "
                          "enable_prefix_caching: false}";
std::string scarce(int blocks) {
  return ", engine_args: {num_gpu_blocks_override: " + std::to_string(blocks) + ", max_model_len: " +
         std::to_string(blocks > 320 ? 4800 : 912) + ", max_num_batched_tokens: 640}";
}

}  // namespace

TEST_CASE("no block has two writers, and who shares one reads the same, whatever is evicted or preempted") {
  std::uint64_t preemptions = 0, found = 0;
  for (std::uint64_t seed = 1; seed <= 9; ++seed) {
    const Names names = std::vector{Names::none, Names::hashes, Names::sessions}[seed % 3];
    const std::vector<TraceRequest> requests = world(seed, names, false);
    const Ran plain = on_paper(in_world(requests, ample));
    const Ran tight = on_paper(in_world(requests, scarce(names == Names::sessions ? 360 : 60 + 15 * static_cast<int>(seed))));
    CHECK(plain.run.result.completed == 60);
    CHECK(tight.run.result.completed == 60);
    CHECK(plain.run.result.preemptions == 0);
    // The same tokens after the same tokens, and no others: an answer does not depend on how it was computed.
    if (names != Names::sessions) CHECK(tight.paper->contents == plain.paper->contents);
    preemptions += tight.run.result.preemptions;
    found += tight.run.result.cached_tokens;
    on_paper(in_world(world(seed, names, true), scarce(400)));
  }
  CHECK(preemptions > 100);
  CHECK(found > 10'000);
}
