// Two running figures that SGLang's admission rests on: how many output tokens the running requests may still
// write, and which share of them is reserved (../shared/reference/sglang_0_5.md §2.4, §2.10).
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>

namespace orrery {

// Sum over members of min(outputs still to come, clip), where a member's count goes down by one with each
// decode step that is known: last − known + 1. The engine sums over all requests at every attempt.
class OutputReserve {
 public:
  explicit OutputReserve(std::int64_t clip) : clip_(clip) {}

  void add(std::int64_t last) {
    if (left(last) > clip_) {
      ++clipped_[last];
      ++clipped_count_;
    } else {
      last_sum_ += last;
      ++count_;
    }
  }
  void remove(std::int64_t last) {
    if (left(last) <= clip_) {
      last_sum_ -= last;
      --count_;
      return;
    }
    const auto it = clipped_.find(last);
    --clipped_count_;
    if (--it->second == 0) clipped_.erase(it);
  }
  // `known` never decreases.
  std::int64_t sum(std::int64_t known) {
    known_ = known;
    while (!clipped_.empty() && left(clipped_.begin()->first) <= clip_) {
      const auto [last, members] = *clipped_.begin();
      last_sum_ += last * members;
      count_ += members;
      clipped_count_ -= members;
      clipped_.erase(clipped_.begin());
    }
    return last_sum_ + count_ * (1 - known_) + clipped_count_ * clip_;
  }

 private:
  std::int64_t left(std::int64_t last) const { return last - known_ + 1; }

  std::int64_t clip_;
  std::int64_t known_ = 0;
  std::int64_t last_sum_ = 0, count_ = 0, clipped_count_ = 0;
  std::map<std::int64_t, std::int64_t> clipped_;  // by last decode step
};

// The largest of its members' values.
class LargestMember {
 public:
  void add(std::int64_t value) { ++members_[value]; }
  void remove(std::int64_t value) {
    const auto it = members_.find(value);
    if (--it->second == 0) members_.erase(it);
  }
  std::int64_t largest() const { return members_.empty() ? 0 : members_.rbegin()->first; }

 private:
  std::map<std::int64_t, std::int32_t> members_;  // value, how many have it
};

// new_token_ratio: falls with every decode step that nobody had to leave, rises when somebody must.
class NewTokenRatio {
 public:
  NewTokenRatio(double initial, double conservativeness, double least_factor, std::int64_t decay_steps)
      : initial_(std::min(initial * conservativeness, 1.0)), least_(std::min(initial_ * least_factor, 1.0)),
        decay_((initial_ - least_) / static_cast<double>(decay_steps)), now_(initial_) {}

  double now() const { return now_; }
  void decay() { now_ = std::max(now_ - decay_, least_); }
  void reset() { now_ = initial_; }
  // What those that stay have written, and 20 tokens each, of what they may write in all.
  void after_retraction(std::int64_t outputs, std::int64_t headroom, std::int64_t limits) {
    now_ = std::min(1.0, static_cast<double>(outputs + headroom) / static_cast<double>(limits + 1));
  }

 private:
  double initial_, least_, decay_, now_;
};

}  // namespace orrery
