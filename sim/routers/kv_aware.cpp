// NVIDIA Dynamo's KV router, mode `kv` with its defaults (docs: docs.nvidia.com/dynamo, "KV Router", cost
// function; sources: lib/kv-router, scheduling/selector.rs `DefaultWorkerSelector`, sequence.rs
// `potential_blocks_and_tokens`): the instance with the least
//     overlap_weight · (prompt tokens to compute ÷ block size) + active blocks,
// both as they would be with the request there. To compute: what is not in its cache, of this prompt and of
// those that it was sent and that have no first token yet. Active: blocks of the prompts that it was sent and
// that are not over; blocks that it shares with one of them count once, outputs do not
// (`router_track_output_blocks` is off). Its load is the router's own books, never late. What caches hold
// comes from the engines' events, as late as telemetry is.
//
// Among equals the one with the smallest cache, as there; among those the lowest number, where Dynamo draws.
// With overlap_weight 0 caches count for nothing, sizes included. router_temperature is 0.
#include <algorithm>
#include <unordered_map>
#include <vector>

#include "base/check.h"
#include "sim/policies.h"
#include "sim/routers/prompt_index.h"

namespace orrery {
namespace {

class KvAware final : public Router {
 public:
  explicit KvAware(const RouterConfig& config) : config_(config), instances_(config.instances.size()) {
    for (std::size_t i = 0; i < instances_.size(); ++i)
      instances_[i].cache = PromptIndex(config.instances[i].block_size);
  }

  InstanceId choose(const Request& request, std::span<const InstanceView> instances) override {
    ORRERY_CHECK(instances_.size() == instances.size(), "kv-aware: caches of the instances are known");
    beginnings_.clear();
    each_beginning(request, [&](std::uint64_t name, std::int64_t end) {
      beginnings_.push_back({name, end});
    });
    std::size_t best = instances.size();
    Option least;
    for (std::size_t i = 0; i < instances.size(); ++i) {
      if (!instances[i].open) continue;
      const Option option = weigh(request, i, instances[i].outstanding);
      if (best < instances.size() && !(option < least)) continue;
      best = i;
      least = option;
    }
    book(request, best, least);
    return InstanceId(static_cast<std::uint32_t>(best));
  }

  bool watches_answers() const override { return true; }
  bool watches_caches() const override { return config_.overlap_weight > 0; }
  bool watches_steps() const override { return config_.overlap_weight > 0; }
  void first_token(RequestId request, std::size_t instance) override {
    Booked& b = booked_.at(request.value());
    instances_[instance].to_compute -= b.to_compute;
    b.to_compute = 0;
  }
  void over(RequestId request, std::size_t instance, std::int32_t) override {
    first_token(request, instance);
    const auto it = booked_.find(request.value());
    Known& known = instances_[instance];
    known.active -= it->second.own_blocks;
    for (const Beginning& b : it->second.beginnings) known.active -= known.running.leave(b.name);
    booked_.erase(it);
  }
  void cache_lost(std::size_t instance) override {
    instances_[instance].cache = PromptIndex(config_.instances[instance].block_size);
  }
  void cache_holds(std::size_t instance, const Reach& reach) override {
    instances_[instance].cache.set(reach);
  }

 private:
  struct Known {
    PromptIndex cache{1};
    RunningPrompts running;       // that have names
    std::int64_t active = 0;      // blocks
    std::int64_t to_compute = 0;  // tokens
  };
  struct Option {
    double cost = 0;
    std::int64_t cached = 0;      // tokens in the whole cache
    std::int64_t to_compute = 0;  // tokens, of this request
    friend bool operator<(const Option& a, const Option& b) {
      return a.cost != b.cost ? a.cost < b.cost : a.cached < b.cached;
    }
  };
  struct Booked {
    std::int64_t to_compute = 0, own_blocks = 0;
    std::vector<Beginning> beginnings;
  };

  // The first instance's blocks are everybody's unit.
  std::int64_t unit() const { return config_.instances.front().block_size; }
  std::int64_t blocks_of(std::int64_t tokens) const { return (tokens + unit() - 1) / unit(); }

  Option weigh(const Request& request, std::size_t i, std::int64_t outstanding) const {
    const Known& known = instances_[i];
    Option option;
    option.to_compute = request.prompt_tokens;
    if (config_.overlap_weight > 0) {
      option.to_compute -= known.cache.matched(beginnings_, request.prompt_tokens);
      option.cached = known.cache.tokens();
    }
    const double prefill =
        static_cast<double>(known.to_compute + option.to_compute) / static_cast<double>(unit());
    std::int64_t load = outstanding;
    if (config_.load_in_blocks) {
      load = known.active + blocks_of(request.prompt_tokens);
      std::int64_t named = 0;
      for (const Beginning& b : beginnings_) {
        const std::int64_t blocks = blocks_of(b.end) - named;
        named += blocks;
        load -= std::min(blocks, known.running.blocks(b.name));
      }
    }
    option.cost = config_.overlap_weight * prefill + static_cast<double>(load);
    return option;
  }

  void book(const Request& request, std::size_t instance, const Option& option) {
    Known& known = instances_[instance];
    Booked& b = booked_[request.id.value()];
    b.to_compute = option.to_compute;
    b.beginnings = beginnings_;
    known.to_compute += b.to_compute;
    std::int64_t named = 0;
    for (const Beginning& beginning : beginnings_) {
      const std::int64_t blocks = blocks_of(beginning.end) - named;
      named += blocks;
      known.active += known.running.enter(beginning.name, blocks);
    }
    b.own_blocks = blocks_of(request.prompt_tokens) - named;
    known.active += b.own_blocks;
  }

  RouterConfig config_;
  std::vector<Known> instances_;
  std::unordered_map<std::uint64_t, Booked> booked_;  // by request; looked up, never iterated
  std::vector<Beginning> beginnings_;                 // of the prompt that is being routed
};

}  // namespace

std::unique_ptr<Router> make_kv_aware(const RouterConfig& config) {
  return std::make_unique<KvAware>(config);
}

}  // namespace orrery
