// First-request effects, where a scenario asks for them: a kernel that is compiled when first needed holds up
// the launching of that step, once in the life of an instance. What was seen of vLLM 0.24, and the rules read
// in its source: reports/results/first_request_effects.md.
#pragma once

#include <cstdint>
#include <vector>

#include "base/time.h"
#include "costmodel/step_pricer.h"

namespace orrery {

class FirstUse {
 public:
  FirstUse() = default;  // none: nothing is ever charged
  // For a model without experts the same as none. `host_scale`: on the profile's times.
  FirstUse(const InstanceSpec& spec, double host_scale, std::size_t instances);

  // Whether a step of so many tokens would be charged on `instance`.
  bool is_new(std::size_t instance, std::int64_t tokens) const {
    return stall_ns_ > 0 && tokens > captured_ && !seen_[instance][variant(tokens)];
  }
  // Nanoseconds more that its launching takes; from then on it is not new.
  std::int64_t charge(std::size_t instance, std::int64_t tokens) {
    if (!is_new(instance, tokens)) return 0;
    seen_[instance][variant(tokens)] = true;
    ++count_;
    return stall_ns_;
  }
  std::int64_t count() const { return count_; }  // charges, all instances
  std::int64_t stall_ns() const { return stall_ns_; }

 private:
  std::size_t variant(std::int64_t tokens) const;

  std::int64_t stall_ns_ = 0;
  std::int64_t captured_ = 0;  // the largest captured size: up to it graphs hold compiled kernels
  std::int64_t experts_per_token_ = 0;
  bool mxfp4_ = false;
  std::vector<std::vector<bool>> seen_;  // by instance and variant
  std::int64_t count_ = 0;
};

}  // namespace orrery
