// A scheduler's turns round the ring of micro-batches, as lines and without time: "0:100@0 1 2 then; end 3"
// is a batch of a chunk of request 0 and decodes of 1 and 2, launched, and then the result of the next
// place's batch, which ended 3. "on": the next place has none in flight. "wait": the loop stands at a place
// whose result is not here yet, and gets it. "idle": there is none.
#pragma once

#include <memory>
#include <string>

#include "sim/scheduler.h"
#include "sim/speculation.h"

namespace orrery::world {

class Loop {
 public:
  explicit Loop(std::unique_ptr<Scheduler> scheduler)
      : scheduler_(std::move(scheduler)), own_(std::make_unique<Own>()) {}
  void add(std::int32_t prompt, std::int32_t output, std::int32_t eos = 0) {
    Request r;
    r.id = RequestId(requests_++);
    r.prompt_tokens = prompt;
    r.max_output_tokens = output;
    if (eos > 0) own_->lengths.set(r.id, eos);
    scheduler_->add(r);
  }
  std::string turn() {
    const StepPlan& plan = scheduler_->schedule();
    std::string line;
    for (const PrefillWork& w : plan.prefill)
      line += std::to_string(w.request.value()) + ":" + std::to_string(w.new_tokens) + "@" +
              std::to_string(w.context) + " ";
    for (const VerifyWork& w : plan.verify) line += std::to_string(w.request.value()) + " ";
    free_ = plan.free_blocks;
    if (plan.tokens() == 0) return scheduler_->open_steps() == 0 ? "idle" : "wait" + update();
    own_->speech.begin(plan);
    return plan.hands_on_after_update ? line + "then" + update() : line + "on";
  }
  std::int64_t free() const { return free_; }

 private:
  struct Own {
    NoDrafts none;
    OutputLengths lengths;
    SpokenSteps speech{none, lengths};
  };
  std::string update() {
    const SimTime at = SimTime(1);
    StepOutcome outcome;
    outcome.first = StepId(updated_++);
    outcome.scheduled = 1;
    outcome.updates = {&at, 1};
    outcome.spoken = own_->speech.end();
    std::string line;
    for (const Finished& f : scheduler_->on_outcome(outcome).finished)
      line += "; end " + std::to_string(f.request.value());
    return line;
  }

  std::unique_ptr<Scheduler> scheduler_;
  std::unique_ptr<Own> own_;  // stays where it is
  std::uint64_t requests_ = 0, updated_ = 0;
  std::int64_t free_ = 0;
};

}  // namespace orrery::world
