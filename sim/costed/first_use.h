// First-request effects, where a scenario asks for them. A kernel that is compiled when first needed holds up
// the launching of that step, once in the life of an instance. What was seen of vLLM 0.24, and the rules read
// in its source: reports/results/first_request_effects.md. And sampling that needs more memory than ever
// before waits until the device is idle: seen in our step logs (reports/results/host_figures.md) of the V2
// model runner in 51 of 162 steps with more sequences than any before and in none of 2,922 others.
#pragma once

#include <cstdint>
#include <vector>

#include "base/time.h"
#include "costmodel/step_pricer.h"

namespace orrery {

class FirstUse {
 public:
  FirstUse() = default;  // none: nothing is ever charged
  // Experts compile, the V2 runner's sampler grows. `host_scale`: on the profile's times.
  FirstUse(const InstanceSpec& spec, double host_scale, std::size_t instances);

  // Whether a step of so many tokens would be charged on `instance`.
  bool is_new(std::size_t instance, std::int64_t tokens) const {
    return stall_ns_ > 0 && tokens > captured_ && !seen_[instance][variant(tokens)];
  }
  // Nanoseconds more that its launching takes; from then on it is not new.
  std::int64_t charge(std::size_t instance, std::int64_t tokens) {
    if (!is_new(instance, tokens)) return 0;
    seen_[instance][variant(tokens)] = true;
    held(stall_ns_);
    return stall_ns_;
  }
  // Whether the launching of a step with prompts ends only with the step: its logits, of `rows` sequences,
  // are larger than any before on `instance`. Takes note of them. Small ones share a segment of memory.
  bool grows(std::size_t instance, std::int64_t tokens, std::int64_t rows) {
    if (most_rows_.empty() || rows <= most_rows_[instance]) return false;
    most_rows_[instance] = rows;
    return tokens > captured_;  // what was seen are steps launched kernel by kernel
  }
  // A fresh process: nothing has been compiled.
  void reset(std::size_t instance);
  void held(std::int64_t ns) { ++count_, held_ns_ += ns; }
  std::int64_t count() const { return count_; }      // steps held up, all instances,
  std::int64_t held_ns() const { return held_ns_; }  // and how much longer their launching took

 private:
  std::size_t variant(std::int64_t tokens) const;

  std::int64_t stall_ns_ = 0;
  std::int64_t captured_ = 0;  // the largest captured size: up to it graphs hold compiled kernels
  std::int64_t experts_per_token_ = 0;
  bool mxfp4_ = false;
  std::vector<std::vector<bool>> seen_;  // by instance and variant
  std::vector<bool> fresh_;              // what a process has seen when it is ready
  std::int64_t fresh_rows_ = 0;
  std::vector<std::int64_t> most_rows_;  // by instance, at least what fits without; empty: nothing grows
  std::int64_t count_ = 0, held_ns_ = 0;
};

}  // namespace orrery
