// SGLang's gateway, policy cache_aware (sgl-router src/policies/cache_aware.rs with its defaults; read in
// ../shared/reference/engine_semantics.md §4.3): while the loads differ by more than 32 requests and by more
// than a tenth, the shortest queue; else the instance to which the longest beginning of this prompt was sent
// before, if that is more than half of it; else the least loaded.
//
// What it knows is what it sent, not what an instance still has in its cache. The gateway keeps text in a
// radix tree; here a prompt's names of blocks stand for it, and a session's stream for its own beginning. The
// gateway trims a tree by size every 30 s; here an instance's oldest names go beyond `most_names` (assumed).
#include <algorithm>
#include <deque>
#include <unordered_map>
#include <vector>

#include "base/digest.h"
#include "sim/policies.h"

namespace orrery {
namespace {

constexpr std::int32_t imbalance = 32;
constexpr std::size_t most_names = std::size_t{1} << 20;

class PrefixAware final : public Router {
 public:
  InstanceId choose(const Request& request, std::span<const InstanceView> instances) override {
    if (sent_.size() < instances.size()) sent_.resize(instances.size());
    const std::size_t chosen = pick(request, instances);
    remember(request, sent_[chosen]);
    return InstanceId(static_cast<std::uint32_t>(chosen));
  }

 private:
  struct Sent {
    std::unordered_map<std::uint64_t, std::int64_t> tokens;  // by name of a beginning; never iterated
    std::deque<std::uint64_t> order;                         // names, oldest first
  };

  std::size_t pick(const Request& request, std::span<const InstanceView> instances) {
    std::size_t first = 0;
    while (first + 1 < instances.size() && !instances[first].open) ++first;
    std::size_t least = first, most = first;
    for (std::size_t i = first + 1; i < instances.size(); ++i) {
      if (!instances[i].open) continue;
      if (instances[i].outstanding < instances[least].outstanding) least = i;
      if (instances[i].outstanding > instances[most].outstanding) most = i;
    }
    const std::int64_t low = instances[least].outstanding, high = instances[most].outstanding;
    if (high - low > imbalance && 10 * high > 11 * low) return least;
    std::size_t best = 0;
    std::int64_t longest = -1;
    for (std::size_t i = first; i < instances.size(); ++i) {
      if (!instances[i].open) continue;
      const std::int64_t match = matched(request, sent_[i]);
      if (match > longest) {
        longest = match;
        best = i;
      }
    }
    return 2 * longest > request.prompt_tokens ? best : least;
  }

  static std::int64_t matched(const Request& request, const Sent& sent) {
    std::int64_t tokens = 0;
    each_beginning(request, [&](std::uint64_t name, std::int64_t length) {
      const auto it = sent.tokens.find(name);
      if (it == sent.tokens.end()) return false;
      tokens = std::min(length, it->second);
      return true;
    });
    return tokens;
  }

  static void remember(const Request& request, Sent& sent) {
    each_beginning(request, [&](std::uint64_t name, std::int64_t length) {
      const auto [it, fresh] = sent.tokens.try_emplace(name, length);
      it->second = std::max(it->second, length);
      if (fresh) sent.order.push_back(name);
      return true;
    });
    while (sent.order.size() > most_names) {
      sent.tokens.erase(sent.order.front());
      sent.order.pop_front();
    }
  }

  // Names of the prompt's beginnings, shortest first, while `more` wants them.
  template <class More>
  static void each_beginning(const Request& request, More more) {
    Digest chain;
    if (request.hash_ids.empty()) {
      if (request.stream == 0) return;
      chain.add(request.stream);
      more(chain.value(), request.prompt_tokens);
      return;
    }
    chain.add(std::int64_t{request.hash_block_size});
    std::int64_t length = 0;
    for (const std::uint64_t id : request.hash_ids) {
      if (length >= request.prompt_tokens) return;
      chain.add(id);
      length = std::min<std::int64_t>(length + request.hash_block_size, request.prompt_tokens);
      if (!more(chain.value(), length)) return;
    }
  }

  std::vector<Sent> sent_;
};

}  // namespace

std::unique_ptr<Router> make_prefix_aware() { return std::make_unique<PrefixAware>(); }

}  // namespace orrery
