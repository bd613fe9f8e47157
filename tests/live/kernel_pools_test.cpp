// Prefill and decode apart on two devices on paper: KV is where the schedule says it has been moved, or the
// decode side reads what nobody wrote.
#include <unistd.h>

#include <filesystem>

#include "base/random.h"
#include "catch.h"
#include "live/kernel_run.h"
#include "live/paper_device.h"
#include "sim/example_scenario.h"

namespace {

using namespace orrery;

// Whole blocks when the last part has come. `loses`: the block that it forgets, of each request.
class PaperMover final : public KvMover {
 public:
  PaperMover(PaperDevice& from, PaperDevice& to, std::int64_t loses) : from_(from), to_(to), loses_(loses) {}
  bool move(const KvMove& m, std::int64_t& ns, std::string&) override {
    for (std::size_t i = 0; m.last == m.of && i < m.from.size(); ++i)
      if (static_cast<std::int64_t>(i) != loses_) to_.copy_block(from_, m.from[i], m.to[i]);
    ns = 1'000 * static_cast<std::int64_t>(m.from.size());
    return true;
  }

 private:
  PaperDevice &from_, &to_;
  std::int64_t loses_;
};

const std::string keys =
    "hardware: h200, model: qwen3-8b, engine: orrery, engine_args: {num_gpu_blocks_override: ";

Scenario with_requests(Scenario s) {
  RandomStream random(5, RandomPurpose::property_test);
  std::vector<TraceRequest> requests;
  std::int64_t at = 0;
  for (std::uint64_t i = 0; i < 40; ++i) {
    TraceRequest r;
    r.index = i;
    at += static_cast<std::int64_t>(random.below(30'000'000));
    r.arrival = SimTime(at);
    r.prompt_tokens = 1 + static_cast<std::int32_t>(random.below(500));
    r.output_tokens = r.max_output_tokens = 1 + static_cast<std::int32_t>(random.below(80));
    r.hash_block_size = 16;
    const std::uint64_t shared = random.below(12);
    for (std::uint64_t k = 0; k * 16 < static_cast<std::uint64_t>(r.prompt_tokens); ++k)
      r.hash_ids.push_back(k < shared ? k : (i + 10) * 1000 + k);
    requests.push_back(std::move(r));
  }
  s.workload.limit_requests = 0;
  s.workload.time_scale = 1;
  s.workload.requests = std::make_shared<const std::vector<TraceRequest>>(std::move(requests));
  return s;
}

Scenario apart(int blocks, const std::string& transfer) {
  const std::string pool = keys + std::to_string(blocks) + ", max_model_len: 900}}";
  auto s = small_example("{topology: {preset: hopper-8}, pd: {transfer: " + transfer +
                             "}, pools: [{name: p, role: prefill, " + pool + ", {name: d, role: decode, " +
                             pool + "]}",
                         {"workload.limit={requests: 40}"});
  INFO((s.ok() ? "" : to_string(s.errors())));
  REQUIRE(s.ok());
  return with_requests(std::move(*s));
}

struct Ran {
  KernelRun run;
  std::vector<std::unique_ptr<PaperDevice>> papers;
};

Ran on_paper(const Scenario& scenario, bool waits, std::int64_t loses = -1, TapeRecorder* tape = nullptr) {
  Ran out;
  KernelRunOptions options;
  options.waits = waits;
  options.tape = tape;
  options.make_device = [&](const KernelDemand& d) -> Result<KernelDevice> {
    out.papers.push_back(std::make_unique<PaperDevice>(d.blocks * d.instances, d.instance->model.vocabulary));
    return KernelDevice{std::make_unique<Borrowed>(*out.papers.back()), true, "paper"};
  };
  options.make_mover = [&]() -> Result<std::unique_ptr<KvMover>> {
    return std::unique_ptr<KvMover>(std::make_unique<PaperMover>(*out.papers[0], *out.papers[1], loses));
  };
  auto run = run_on_kernels(scenario, options);
  INFO((run.ok() ? "" : to_string(run.errors())));
  REQUIRE(run.ok());
  out.run = std::move(*run);
  return out;
}

}  // namespace

TEST_CASE(
    "what the decode side reads has come from the prefill side, and answers are those of one instance") {
  const std::string transfer = GENERATE("whole", "layerwise");
  const bool waits = GENERATE(false, true);
  const int blocks = GENERATE(4000, 130);  // with 130 somebody is preempted
  CAPTURE(transfer, waits, blocks);
  auto one = small_example("{" + keys + "4000, max_model_len: 900}}", {"workload.limit={requests: 40}"});
  REQUIRE(one.ok());
  const Ran whole = on_paper(with_requests(std::move(*one)), false);
  const Ran two = on_paper(apart(blocks, transfer), waits);
  for (const auto& paper : two.papers) {
    INFO((paper->faults.empty() ? "" : paper->faults.front()));
    CHECK(paper->faults.empty());
    CHECK(paper->steps > 30);
  }
  CHECK(two.run.missed_blocks == 0);
  CHECK(two.run.result.completed == 40);
  CHECK(two.run.result.output_tokens == whole.run.result.output_tokens);
  CHECK(two.run.moves > 30);
  CHECK(two.run.moved_blocks > 300);
  auto both = two.papers[0]->contents;
  both.insert(two.papers[1]->contents.begin(), two.papers[1]->contents.end());
  CHECK(both == whole.papers[0]->contents);
}

TEST_CASE("clients that leave a leg anywhere leave no blocks behind, and nobody reads what was theirs") {
  struct Case {
    const char* transfer;
    bool waits;
    std::int64_t within_ms;
  };
  const Case c = GENERATE(Case{"whole", false, 20}, Case{"layerwise", false, 5}, Case{"layerwise", false, 20},
                          Case{"whole", true, 5}, Case{"layerwise", true, 5});
  CAPTURE(c.transfer, c.waits, c.within_ms);
  Scenario s = apart(130, c.transfer);
  std::vector<TraceRequest> requests = *s.workload.requests;
  RandomStream random(9, RandomPurpose::property_test);
  for (TraceRequest& r : requests)
    if (random.below(2) == 0)
      r.cancel_after = SimDuration(
          1 + static_cast<std::int64_t>(random.below(static_cast<std::uint64_t>(c.within_ms) * 1'000'000)));
  s.workload.requests = std::make_shared<const std::vector<TraceRequest>>(std::move(requests));
  const Ran two = on_paper(s, c.waits);  // a number of a block that is not given back is missed soon
  for (const auto& paper : two.papers) {
    INFO((paper->faults.empty() ? "" : paper->faults.front()));
    CHECK(paper->faults.empty());
  }
  CHECK(two.run.missed_blocks == 0);
  CHECK(two.run.result.completed < 40);
  CHECK(two.run.seen.records.size() == 40);
}

TEST_CASE("a move that fails ends the run, and says why") {
  class Broken final : public KvMover {
   public:
    bool move(const KvMove&, std::int64_t&, std::string& why) override {
      why = "the link is cut";
      return false;
    }
  };
  const bool waits = GENERATE(false, true);
  std::vector<std::unique_ptr<PaperDevice>> papers;
  KernelRunOptions options;
  options.waits = waits;
  options.make_device = [&](const KernelDemand& d) -> Result<KernelDevice> {
    papers.push_back(std::make_unique<PaperDevice>(d.blocks * d.instances, d.instance->model.vocabulary));
    return KernelDevice{std::make_unique<Borrowed>(*papers.back()), true, "paper"};
  };
  options.make_mover = []() -> Result<std::unique_ptr<KvMover>> { return {std::make_unique<Broken>()}; };
  const auto run = run_on_kernels(apart(4000, "whole"), options);
  REQUIRE_FALSE(run.ok());
  CHECK(to_string(run.errors()).find("the link is cut") != std::string::npos);
}

TEST_CASE("a block that is not moved shows") {
  const Ran two = on_paper(apart(4000, "whole"), false, 0);
  CHECK_FALSE(two.papers[1]->faults.empty());
}

TEST_CASE("a tape of two pools is replayed without devices") {
  const std::string folder =
      std::filesystem::temp_directory_path() / ("orrery-kernel-pools-" + std::to_string(::getpid()));
  std::filesystem::create_directories(folder);
  const Scenario s = apart(4000, "whole");
  auto tape = TapeRecorder::create(folder + "/run.tape", s, "test", "live", false).value();
  const Ran ran = on_paper(s, true, -1, &tape);
  REQUIRE(tape.finish(ran.run.result).ok());
  const auto replay = replay_tape(folder + "/run.tape");
  std::filesystem::remove_all(folder);
  INFO((replay.ok() ? "" : to_string(replay.errors())));
  REQUIRE(replay.ok());
  CHECK(replay->run.digest == ran.run.result.digest);
}
