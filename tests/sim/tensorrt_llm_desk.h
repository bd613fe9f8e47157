// A scheduler on a desk: requests are put in, passes are taken one by one and written down as a line, so that
// a trace can be checked by hand. No time passes; a pass is schedule(k), then the update of step k − 1 (with
// two steps in flight) or of step k (with one).
//
// A line reads "0:5000@0 1:3168@0… +3 free 20": request 0 gets 5000 tokens at context 0 and samples;
// request 1 gets 3168 and has more to come; three sequences decode; 20 blocks are free after the step's
// allocations. "pause 2" before it: request 2 lost its blocks in this pass. "; end 4" after it: 4 ended in
// its update. With speculation generations stand by name with what they verify, "0+3 1+3" for "+2", and an
// end says after how many tokens. With ranks each stands in brackets: "[0:100@0 +1] [+2]".
#pragma once

#include <deque>
#include <optional>
#include <string>
#include <vector>

#include "sim/policies.h"
#include "sim/schedulers/tensorrt_llm.h"
#include "sim/speculation.h"

namespace orrery::desk {

struct Job {
  std::int32_t prompt = 1, max_output = 1;
  std::vector<std::uint64_t> hash_ids = {};  // of 32 tokens
  std::uint64_t stream = 0;
  std::int32_t eos = 0;  // after so many tokens, with speculation; 0 = at the limit
};

// Accepts as many drafts as it was told, the same for everybody.
class Fixed final : public AcceptanceOracle {
 public:
  std::int32_t accepts = 0, proposes = 0;
  std::int32_t accepted(RequestId, std::int32_t, std::int32_t drafts) const override {
    return std::min(accepts, drafts);
  }
  std::int32_t proposed(RequestId, std::int32_t) const override { return proposes; }
};

class Desk {
 public:
  explicit Desk(const SchedulerConfig& config, const char* scheduler = "tensorrt-llm")
      : depth_(config.steps_in_flight), scheduler_(find_scheduler(scheduler)->make(config)) {}
  Desk(std::unique_ptr<Scheduler> scheduler, std::int32_t depth)
      : depth_(depth), scheduler_(std::move(scheduler)) {}
  Desk(const SchedulerConfig& config, const AcceptanceOracle& oracle) : Desk(config) {
    speech_.emplace(oracle, lengths_);
  }
  Desk(const Desk&) = delete;
  Desk& operator=(const Desk&) = delete;

  std::uint64_t add(const Job& job) {
    if (job.eos > 0) lengths_.set(RequestId(requests_), job.eos);
    Request r;
    r.id = RequestId(requests_);
    r.prompt_tokens = job.prompt;
    r.max_output_tokens = job.max_output;
    r.hash_block_size = 32;
    r.hash_ids = job.hash_ids;
    r.stream = job.stream;
    const SequenceId sequence = scheduler_->add(r);
    sequences_.push_back(sequence);
    cached_.push_back(-1);
    refused_ = sequence.is_none();
    return requests_++;
  }
  bool refused() const { return refused_; }
  // The token that the oldest open step brings this request is its last one.
  void say_eos(std::uint64_t request) { eos_.push_back(sequences_[request]); }

  std::string pass() {
    const StepPlan& plan = scheduler_->schedule();
    std::string line;
    for (const SequenceId id : plan.preempted) line += "pause " + std::to_string(request_of(id)) + " ";
    for (const Admission& a : scheduler_->admissions()) cached_[a.request.value()] = a.cached_tokens;
    const auto write = [&](std::span<const PrefillWork> prefill) {
      for (const PrefillWork& w : prefill) {
        line += std::to_string(w.request.value()) + ":" + std::to_string(w.new_tokens) + "@" +
                std::to_string(w.context) + (w.samples ? " " : "... ");
      }
    };
    for (const RankPlan& rank : plan.ranks) {
      line += "[";
      write(plan.prefill.subspan(rank.first_prefill, rank.prefills));
      line += "+" + std::to_string(rank.decode_sequences) + "] ";
    }
    if (plan.ranks.empty()) write(plan.prefill);
    if (!speech_ && plan.ranks.empty()) line += "+" + std::to_string(plan.decode_sequences) + " ";
    for (const VerifyWork& w : plan.verify)
      line += std::to_string(w.request.value()) + "+" + std::to_string(w.drafts) + " ";
    line += "free " + std::to_string(plan.free_blocks);
    tokens_ = plan.tokens();
    drafting_ = !plan.without_drafting;
    offloaded_ = plan.offloaded_blocks;
    onboarded_ = plan.onboarded_blocks;
    const bool ran = plan.tokens() > 0;
    if (ran && speech_) speech_->begin(plan);
    if (scheduler_->open_steps() == depth_ || (!ran && scheduler_->open_steps() > 0)) line += update();
    return line;
  }
  std::string update() {
    const SimTime at = SimTime(1);
    StepOutcome outcome;
    outcome.first = StepId(updated_++);
    outcome.scheduled = 1;
    outcome.updates = {&at, 1};
    outcome.eos = eos_;
    if (speech_) outcome.spoken = speech_->end();
    std::string line;
    for (const Finished& f : scheduler_->on_outcome(outcome).finished)
      line += "; end " + std::to_string(f.request.value()) +
              (speech_ ? " after " + std::to_string(f.output_tokens) : std::string());
    eos_.clear();
    return line;
  }
  std::int64_t tokens() const { return tokens_; }
  bool drafting() const { return drafting_; }
  std::int64_t offloaded() const { return offloaded_; }
  std::int64_t onboarded() const { return onboarded_; }
  std::int64_t cached(std::uint64_t request) const { return cached_[request]; }
  Scheduler& scheduler() { return *scheduler_; }

 private:
  std::uint64_t request_of(SequenceId id) const {
    for (std::size_t i = sequences_.size(); i-- > 0;) {
      if (sequences_[i] == id) return i;
    }
    return ~std::uint64_t{0};
  }

  std::int32_t depth_;
  std::unique_ptr<Scheduler> scheduler_;
  std::vector<SequenceId> sequences_, eos_;
  std::vector<std::int64_t> cached_;
  OutputLengths lengths_;
  std::optional<SpokenSteps> speech_;
  std::int64_t tokens_ = 0, offloaded_ = 0, onboarded_ = 0;
  bool drafting_ = false;
  std::uint64_t requests_ = 0, updated_ = 0;
  bool refused_ = false;
};

inline SchedulerConfig config(std::int64_t blocks, std::int64_t tokens = 8192) {
  return {.max_num_batched_tokens = tokens,
          .max_num_seqs = 64,
          .max_model_len = 40960,
          .num_gpu_blocks = blocks,
          .block_size = 32,
          .enable_chunked_prefill = false};
}

using Rows = std::vector<std::string>;
inline Rows passes(Desk& desk, int n) {
  Rows rows;
  for (int i = 0; i < n; ++i) rows.push_back(desk.pass());
  return rows;
}

// Names for the blocks of a prompt that nobody else has.
inline std::vector<std::uint64_t> names(std::uint64_t from, std::int32_t tokens) {
  std::vector<std::uint64_t> ids;
  for (std::int32_t at = 0; at < tokens; at += 32) ids.push_back(from + static_cast<std::uint64_t>(at));
  return ids;
}

}  // namespace orrery::desk
