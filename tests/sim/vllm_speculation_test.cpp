// vLLM V1's rules for speculation, on the scheduler alone: passes written down as lines and checked by hand.
// Rules: vllm 0.24.0, v1/core/sched/scheduler.py and async_scheduler.py (../shared/reference/vllm_0_24.md
// §1.8, §2).
#include <memory>
#include <string>
#include <vector>

#include "catch.h"
#include "sim/policies.h"
#include "sim/speculation.h"

using namespace orrery;

namespace {

// Accepts as many drafts as it was told, the same for everybody.
class Fixed final : public AcceptanceOracle {
 public:
  std::int32_t accepts = 0, proposes = 0;
  std::int32_t accepted(RequestId, std::int32_t, std::int32_t drafts) const override {
    return std::min(accepts, drafts);
  }
  std::int32_t proposed(RequestId, std::int32_t) const override { return proposes; }
};

// A line reads "0:100@0 | 1+3@57 2+0@80 | free 20; end 1": request 0 gets 100 prompt tokens; 1 decodes a
// token with three drafts, 2 without; 20 blocks are free after the step's allocations; 1 ended in the update
// that followed.
class Desk {
 public:
  Desk(SchedulerConfig config, Fixed& oracle)
      : depth_(config.steps_in_flight), scheduler_(make_vllm_v1(config)), speech_(oracle, lengths_) {}

  std::uint64_t add(std::int32_t prompt, std::int32_t output, std::int32_t eos = 0,
                    std::vector<std::uint64_t> ids = {}) {
    Request r;
    r.id = RequestId(requests_);
    r.prompt_tokens = prompt;
    r.max_output_tokens = output;
    r.hash_block_size = 16;
    r.hash_ids = std::move(ids);
    if (eos > 0) lengths_.set(r.id, eos);
    scheduler_->add(r);
    return requests_++;
  }

  std::string pass() {
    const StepPlan& plan = scheduler_->schedule();
    std::string line;
    for (const SequenceId id : plan.preempted) line += "out " + std::to_string(id.value()) + " ";
    for (const PrefillWork& w : plan.prefill) {
      line += std::to_string(w.request.value()) + ":" + std::to_string(w.new_tokens) + "@" +
              std::to_string(w.context) + " ";
    }
    line += "|";
    for (const VerifyWork& w : plan.verify)
      line += " " + std::to_string(w.request.value()) + "+" + std::to_string(w.drafts);
    line += " | free " + std::to_string(plan.free_blocks);
    tokens_ = plan.tokens();
    context_ = plan.decode_context_tokens;
    const bool ran = plan.tokens() > 0;
    if (ran) true_context_ = speech_.begin(plan);
    if (scheduler_->open_steps() == depth_ || (!ran && scheduler_->open_steps() > 0)) line += update();
    return line;
  }
  std::string update() {
    const SimTime at = SimTime(1);
    StepOutcome outcome;
    outcome.first = StepId(updated_++);
    outcome.scheduled = 1;
    outcome.updates = {&at, 1};
    outcome.spoken = speech_.end();
    std::string line;
    for (const Finished& f : scheduler_->on_outcome(outcome).finished)
      line += "; end " + std::to_string(f.request.value()) + " after " + std::to_string(f.output_tokens);
    return line;
  }
  std::int64_t tokens() const { return tokens_; }
  std::int64_t context() const { return context_; }
  std::int64_t true_context() const { return true_context_; }
  Scheduler& scheduler() { return *scheduler_; }

 private:
  std::int32_t depth_;
  OutputLengths lengths_;
  std::unique_ptr<Scheduler> scheduler_;
  SpokenSteps speech_;
  std::uint64_t requests_ = 0, updated_ = 0;
  std::int64_t tokens_ = 0, context_ = 0, true_context_ = 0;
};

SchedulerConfig config(std::int32_t tokens, std::int32_t depth, bool network, std::int64_t blocks = 101) {
  SchedulerConfig c{.max_num_batched_tokens = 8192,
                    .max_num_seqs = 64,
                    .max_model_len = 1600,
                    .num_gpu_blocks = blocks,
                    .block_size = 16};
  c.steps_in_flight = depth;
  c.speculation = {.tokens = tokens, .lookahead = network ? tokens : 0, .drops_last_hit = network};
  return c;
}

}  // namespace

TEST_CASE("§1.8 a decode takes one token and its drafts out of the token budget, cut by what is left of it") {
  Fixed oracle{};
  SchedulerConfig c = config(3, 1, true);
  c.max_num_batched_tokens = 6;
  oracle.proposes = 3;
  Desk desk(c, oracle);
  desk.add(2, 100);
  desk.add(2, 100);
  CHECK(desk.pass() == "0:2@0 1:2@0 | | free 98");
  CHECK(desk.pass() == "| 0+3 1+1 | free 98");
  CHECK(desk.tokens() == 6);
  c.max_num_batched_tokens = 4;
  Desk tight(c, oracle);
  tight.add(2, 100);
  tight.add(2, 100);
  tight.pass();
  CHECK(tight.pass() == "| 0+3 | free 98");  // nothing is left for request 1
}

TEST_CASE("§1.8 slots are taken for what the drafting network writes ahead; n-grams need none") {
  Fixed oracle{};
  Desk eagle(config(2, 1, true), oracle), ngram(config(2, 1, false), oracle);
  eagle.add(16, 100);
  ngram.add(16, 100);
  CHECK(eagle.pass() == "0:16@0 | | free 98");  // 16 + 2 tokens
  CHECK(ngram.pass() == "0:16@0 | | free 99");
}

TEST_CASE("§1.8 rejected drafts are taken back, their blocks stay") {
  Fixed oracle{};
  oracle.proposes = 3;
  Desk desk(config(3, 1, false), oracle);
  desk.add(31, 100);
  CHECK(desk.pass() == "0:31@0 | | free 98");
  CHECK(desk.pass() == "| 0+3 | free 97");  // 31 + 4 tokens: a third block
  CHECK(desk.context() == 31);
  CHECK(desk.pass() == "| 0+3 | free 97");
  CHECK(desk.context() == 32);  // one token came of it
  oracle.accepts = 2;
  desk.pass();
  CHECK(desk.context() == 33);
  desk.pass();
  CHECK(desk.context() == 36);
}

TEST_CASE(
    "§1.1 §1.2.5 §1.8 with two steps in flight drafts are placeholders, and contexts upper bounds until "
    "outcomes come") {
  Fixed oracle{};
  oracle.proposes = 2;
  Desk desk(config(2, 2, true), oracle);
  desk.add(100, 50);
  CHECK(desk.pass() == "0:100@0 | | free 93");
  CHECK(desk.pass() == "| 0+2 | free 93");  // before its first token is known; 103 tokens and 2 ahead
  CHECK(desk.context() == 100);
  CHECK(desk.pass() == "| 0+2 | free 93");
  CHECK(desk.context() == 103);       // as if the drafts in flight were accepted
  CHECK(desk.true_context() == 101);  // none was
  desk.pass();
  CHECK(desk.context() == 104);  // 101 known, 3 in flight
  CHECK(desk.true_context() == 102);
}

TEST_CASE(
    "§1.2.2 a sequence is skipped only when what is in flight must end it; drafts are not cut at the limit") {
  Fixed oracle{};
  oracle.proposes = 3;
  Desk desk(config(3, 2, true), oracle);
  desk.add(10, 3);
  CHECK(desk.pass() == "0:10@0 | | free 99");
  CHECK(desk.pass() == "| 0+3 | free 98");  // brings the second output at least; one known by its end
  CHECK(desk.pass() == "| 0+3 | free 98");  // the third
  CHECK(desk.pass() == "| | free 98; end 0 after 3");
  CHECK(desk.scheduler().view().free_blocks == 100);
}

TEST_CASE("tokens behind the client's limit or an EOS are thrown away, and a step under way is wasted") {
  Fixed oracle{};
  oracle.accepts = oracle.proposes = 3;
  Desk desk(config(3, 2, true), oracle);
  desk.add(10, 7);       // 1 + 4 + 2 of 4
  desk.add(10, 100, 4);  // EOS as fourth token: 1 + 3 of 4, no bonus
  desk.pass();
  CHECK(desk.pass() == "| 0+3 1+3 | free 96");
  CHECK(desk.pass() == "| 0+3 1+3 | free 96; end 1 after 4");
  CHECK(desk.pass() == "| 0+3 | free 98; end 0 after 7");
  CHECK(desk.scheduler().open_steps() == 1);
  CHECK(desk.update().empty());  // the wasted step says nothing to anybody
  CHECK(desk.scheduler().view().free_blocks == 100);
  CHECK(!desk.scheduler().has_work());
  CHECK(desk.scheduler().counters().speculation.verifications == 3);
}

TEST_CASE("n-gram: drafts follow what was found in the tokens that the outcome brought") {
  Fixed oracle{};
  Desk desk(config(3, 1, false), oracle);
  desk.add(10, 100);
  desk.pass();
  oracle.proposes = 3;
  CHECK(desk.pass() == "| 0+0 | free 99");  // nothing was found after the first token
  CHECK(desk.pass() == "| 0+3 | free 99");
}

TEST_CASE("§2.2 EAGLE and MTP compute the last block found in the prefix cache again") {
  for (const bool network : {false, true}) {
    Fixed oracle{};
    oracle.proposes = 1;
    Desk desk(config(1, 1, network), oracle);
    const std::vector<std::uint64_t> ids{1, 2, 3, 4};
    desk.add(64, 1, 0, ids);
    desk.pass();
    auto longer = ids;
    longer.push_back(5);
    desk.add(80, 1, 0, longer);
    const std::string line = desk.pass();
    CHECK(line.substr(0, line.find(' ')) == (network ? "1:32@48" : "1:16@64"));
  }
}

TEST_CASE("§1.3 a preempted sequence keeps the tokens that were in flight and computes them again") {
  Fixed oracle{};
  oracle.accepts = oracle.proposes = 1;
  Desk desk(config(1, 2, true, 9), oracle);  // 8 usable blocks
  desk.add(60, 40);
  desk.add(44, 40);
  CHECK(desk.pass() == "0:60@0 1:44@0 | | free 1");  // 4 blocks and 3
  CHECK(desk.pass() == "| 0+1 1+1 | free 1");        // 62 and 46 tokens, one ahead of each
  CHECK(desk.pass() == "out 1 | 0+1 | free 3");  // request 0's fifth block is the last: 1 finds none, goes
                                                 // itself
  // Two tokens of the step before arrive while it waits: with the first it has three. Two of its blocks were
  // registered, of which EAGLE computes the last again.
  CHECK(desk.pass() == "1:31@16 | 0+1 | free 0");
}

// MambaManager (v1/core/single_type_kv_cache_manager.py): num_speculative_blocks, no lookahead, states that
// may still be needed; `_mamba_block_aligned_split`: "eagle prune".
TEST_CASE(
    "§2.7 §1.8 cached states beside drafts: a block a draft and group, and the last hit is the layers' that "
    "attend") {
  Fixed oracle{};
  oracle.proposes = 2;
  SchedulerConfig c = config(2, 1, true);
  c.max_num_batched_tokens = 70;
  c.kv_groups = {.full = 1, .states = 2, .cached_states = true, .chunk_ends = true};
  Desk desk(c, oracle);
  std::vector<std::uint64_t> ids;
  for (std::uint64_t i = 0; i < 10; ++i) ids.push_back(100 + i);
  desk.add(150, 3, 0, ids);
  CHECK(desk.pass() == "0:64@0 | | free 90");    // 4 blocks, a state each of two groups, and two for drafts
  CHECK(desk.pass() == "0:64@64 | | free 84");   // 4 and 2; to 128, for what is found ends a block early
  CHECK(desk.pass() == "0:22@128 | | free 82");  // 2 and 2; the states at 64 go
  CHECK(desk.pass() == "| 0+2 | free 84");       // and those at 128
  desk.pass();
  CHECK(desk.pass() == "| | free 100");
  desk.add(150, 3, 0, ids);
  CHECK(desk.pass().starts_with("1:22@128 |"));
  // Whoever leaves gives all of them back.
  desk.pass();
  desk.scheduler().drop_departed(SequenceId(0));
  CHECK(desk.scheduler().view().free_blocks == 100);
}
