// Steps that were composed and not yet updated, for schedulers in which every step runs the decode set: what
// each will mean for sequences when its outcome comes.
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <utility>
#include <vector>

#include "sim/scheduler.h"

namespace orrery {

struct OpenStep {
  std::int32_t regular_decodes = 0;
  std::vector<FirstToken> sampled;  // prompts that end in this step
  std::vector<SequenceId> irregular;
  void clear() {
    regular_decodes = 0;
    sampled.clear();
    irregular.clear();
  }
};

template <class Step>  // an OpenStep or more
class OpenSteps {
 public:
  Step blank() {
    if (spare_.empty()) return Step{};
    Step step = std::move(spare_.back());
    spare_.pop_back();
    step.clear();
    return step;
  }
  void push(Step step) { steps_.push_back(std::move(step)); }
  std::int32_t size() const { return static_cast<std::int32_t>(steps_.size()); }
  auto begin() const { return steps_.begin(); }
  auto end() const { return steps_.end(); }

  // The oldest `updates` steps have been updated. Those of a stretch were never pushed: they ran its
  // `members`. `seen(step)` is shown each of the others before it is gone.
  template <class Seen>
  void update(std::size_t updates, std::int32_t members, UpdateEffects& effects, Seen seen) {
    for (std::size_t i = 0; i < updates; ++i) {
      if (steps_.empty()) {
        effects.regular_decodes.push_back(members);
        continue;
      }
      Step& step = steps_.front();
      effects.regular_decodes.push_back(step.regular_decodes);
      for (FirstToken token : step.sampled) {
        token.update = i;
        effects.first_tokens.push_back(token);
      }
      for (const SequenceId id : step.irregular) effects.irregular.push_back({.sequence = id, .update = i});
      seen(step);
      spare_.push_back(std::move(step));
      steps_.pop_front();
    }
  }
  // A sequence that is dropped while its steps are in flight: what they sample for it reaches nobody.
  // `decoded(i)`: it was in the decode set of the i-th open step, counted from the oldest.
  template <class Decoded>
  void forget(SequenceId sequence, Decoded decoded) {
    for (std::size_t i = 0; i < steps_.size(); ++i) {
      Step& step = steps_[i];
      if (std::erase_if(step.sampled, [&](const FirstToken& t) { return t.sequence == sequence; }) > 0)
        continue;
      if (std::erase(step.irregular, sequence) == 0 && decoded(static_cast<std::int64_t>(i)))
        --step.regular_decodes;
    }
  }
  // The last steps of a stretch, until there are `count`.
  void fill_up(std::int64_t count, std::int32_t members) {
    while (static_cast<std::int64_t>(steps_.size()) < count) {
      steps_.emplace_back();
      steps_.back().regular_decodes = members;
    }
  }
  // The token that the newest step computes behind an EOS reaches nobody.
  void forget_wasted_token(SequenceId sequence) {
    if (steps_.empty()) return;
    Step& step = steps_.back();
    if (std::erase(step.irregular, sequence) == 0) --step.regular_decodes;
  }

 private:
  std::deque<Step> steps_;
  std::vector<Step> spare_;
};

}  // namespace orrery
