#include "live/forward/forward_runner.h"

#include <chrono>
#include <utility>

namespace orrery {

Result<std::unique_ptr<StepRunner>> ForwardRunner::create(const ModelSpec& model,
                                                          const ForwardOptions& options,
                                                          kernels::DeviceMemory& memory, bool again,
                                                          const RankedForward::Options& ranks) {
  Result<std::unique_ptr<RankedForward>> forward = RankedForward::create(model, options, ranks, memory);
  if (!forward) return forward.errors();
  return std::unique_ptr<StepRunner>(new ForwardRunner(std::move(*forward), again));
}

bool ForwardRunner::run(const StepBatch& batch, StepResult& result, std::string& why) {
  const std::int64_t before = forward_->first_uses();
  if (!run_once(batch, result, why)) return false;
  result.first_use = forward_->first_uses() != before;
  return !(again_ && result.first_use) || run_once(batch, result, why);
}

// As it is otherwise first: nothing that was planned or captured for it the first time is in that.
bool ForwardRunner::profile(const StepBatch& batch, StepProfile& profile, std::string& why) {
  if (forward_->ranks() > 1) {
    why = "launches are timed one by one on one device";
    return false;
  }
  StepResult again;
  if (!run_once(batch, again, why)) return false;
  Result<StepProfile> made = forward_->of_rank(0).profile(batch);
  if (!made) {
    why = to_string(made.errors());
    return false;
  }
  profile = std::move(*made);
  profile.own_ns = static_cast<double>(again.device_ns);
  profile.launch_ns = static_cast<double>(again.launch_ns);
  return true;
}

bool ForwardRunner::run_once(const StepBatch& batch, StepResult& result, std::string& why) {
  using Clock = std::chrono::steady_clock;
  const auto ns = [](Clock::duration d) {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(d).count();
  };
  const Clock::time_point begin = Clock::now();
  if (Result<Unit> launched = forward_->launch(batch); !launched) {
    why = to_string(launched.errors());
    return false;
  }
  result.launch_ns = ns(Clock::now() - begin);
  Result<std::span<const std::int32_t>> sampled = forward_->sampled();
  if (!sampled) {
    why = to_string(sampled.errors());
    return false;
  }
  result.sampled.assign(sampled->begin(), sampled->end());
  result.device_ns = static_cast<std::int64_t>(forward_->step_ns());
  // The simulator has no clock of its own; what the host took stands there, and means nothing.
  if (result.device_ns <= 0) result.device_ns = ns(Clock::now() - begin);
  result.work = {};
  for (const LaunchCount& c : forward_->of_rank(0).counts()) {
    const auto i = static_cast<std::size_t>(c.op_class);
    result.work.flops[i] += c.flops;
    result.work.memory_bytes[i] += c.memory_bytes;
    result.work.activation_bytes[i] += c.activation_bytes;
    result.work.link_bytes[i] += c.link_bytes;
  }
  return true;
}

}  // namespace orrery
