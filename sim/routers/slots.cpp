// By remaining decode slots at the average output length (as case C5's orchestrator does): how many more
// requests like this one, at its prompt and the mean output so far, an instance has KV and places in its
// batch for. The formula is ours; the case says no more than that.
//
// The books are the router's own: what it sent and what has not ended, at full length from the start, since
// it will need that room. Nothing is told late. Until the first answer has ended, the mean is what the client
// allows.
#include <algorithm>
#include <unordered_map>

#include "base/check.h"
#include "sim/policies.h"

namespace orrery {
namespace {

class Slots final : public Router {
 public:
  explicit Slots(const RouterConfig& config) : config_(config), held_(config.instances.size()) {}

  InstanceId choose(const Request& request, std::span<const InstanceView> instances) override {
    ORRERY_CHECK(held_.size() == instances.size(), "slots: what the instances hold is known");
    const std::int64_t output =
        ended_ == 0 ? request.max_output_tokens : std::max<std::int64_t>(1, output_ / ended_);
    std::size_t best = instances.size();
    std::int64_t most = 0;
    for (std::size_t i = 0; i < instances.size(); ++i) {
      if (!instances[i].open) continue;
      const std::int64_t slots = remaining(i, request.prompt_tokens, output);
      if (best < instances.size() && slots <= most) continue;
      best = i;
      most = slots;
    }
    ++held_[best].requests;
    held_[best].prompt_tokens += request.prompt_tokens;
    prompts_[request.id.value()] = request.prompt_tokens;
    return InstanceId(static_cast<std::uint32_t>(best));
  }

  bool watches_answers() const override { return true; }
  void over(RequestId request, std::size_t instance, std::int32_t output_tokens) override {
    const auto it = prompts_.find(request.value());
    ORRERY_CHECK(it != prompts_.end(), "slots: a request ends once");
    --held_[instance].requests;
    held_[instance].prompt_tokens -= it->second;
    prompts_.erase(it);
    if (output_tokens == 0) return;  // it was never answered
    ++ended_;
    output_ += output_tokens;
  }

 private:
  struct Held {
    std::int64_t requests = 0, prompt_tokens = 0;
  };

  // May be below 0: by so many it is over-full, and who is so by least is the best.
  std::int64_t remaining(std::size_t i, std::int64_t prompt, std::int64_t output) const {
    const RoutedInstance& instance = config_.instances[i];
    const std::int64_t taken = held_[i].prompt_tokens + held_[i].requests * output;
    const std::int64_t room = instance.kv_tokens - taken, one = prompt + output;
    const std::int64_t by_memory = room >= 0 ? room / one : -((-room + one - 1) / one);
    return std::min(by_memory, instance.max_sequences - held_[i].requests);
  }

  RouterConfig config_;
  std::vector<Held> held_;
  std::unordered_map<std::uint64_t, std::int32_t> prompts_;  // by request; looked up, never iterated
  std::int64_t ended_ = 0, output_ = 0;
};

}  // namespace

std::unique_ptr<Router> make_slots(const RouterConfig& config) { return std::make_unique<Slots>(config); }

}  // namespace orrery
