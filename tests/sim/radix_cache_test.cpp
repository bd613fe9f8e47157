// SGLang's radix cache against a model that does what the engine does (§4 of
// ../shared/reference/sglang_0_5.md): keys are lists of tokens, leaves are sought anew for every eviction.
// After each operation both must have the same hits, counts and cached content.
//
// Seen to fail with one line of sim/radix_cache.cpp changed: a suffix that is not freshened on a split; a
// match that does not touch; eviction without the parent; duplicates not given back; a hit counted on content
// that the sequence had inserted before.
#include "sim/radix_cache.h"

#include <algorithm>
#include <array>
#include <map>
#include <memory>

#include "base/random.h"
#include "catch.h"

using namespace orrery;

namespace {

using Tokens = std::vector<std::int64_t>;

// The tree of §4 over literal tokens.
struct Model {
  struct Node {
    Node* parent = nullptr;
    Tokens key;
    std::map<Tokens, std::unique_ptr<Node>> children;  // by first page
    double used = 0;
    std::int64_t hits = 0, priority = 0, locks = 0;
    std::int64_t history = 0;  // the deepest end below it, ever
  };

  Model(std::int64_t page_size, Eviction eviction, std::int64_t spare)
      : page(page_size), kind(eviction), spare_tail(spare) {}

  static std::size_t common(const Tokens& a, const Tokens& b, std::size_t from, std::size_t page) {
    std::size_t n = 0;
    while (n < a.size() && from + n < b.size() && a[n] == b[from + n]) ++n;
    return n / page * page;
  }
  Tokens page_at(const Tokens& key, std::size_t at) const {
    return Tokens(key.begin() + static_cast<std::ptrdiff_t>(at),
                  key.begin() + static_cast<std::ptrdiff_t>(at + static_cast<std::size_t>(page)));
  }
  Tokens floor(Tokens key) const {
    key.resize(key.size() / static_cast<std::size_t>(page) * static_cast<std::size_t>(page));
    return key;
  }

  Node* split(Node* child, std::size_t length) {
    Node* parent = child->parent;
    const Tokens first = page_at(child->key, 0);
    std::unique_ptr<Node> lower = std::move(parent->children[first]);
    auto upper = std::make_unique<Node>();
    upper->parent = parent;
    upper->key = Tokens(child->key.begin(), child->key.begin() + static_cast<std::ptrdiff_t>(length));
    upper->hits = child->hits;
    upper->priority = child->priority;
    upper->locks = child->locks;
    upper->history = child->history;
    upper->used = clock++;
    child->key.erase(child->key.begin(), child->key.begin() + static_cast<std::ptrdiff_t>(length));
    child->parent = upper.get();
    child->used = clock++;
    Node* result = upper.get();
    upper->children[page_at(child->key, 0)] = std::move(lower);
    parent->children[first] = std::move(upper);
    return result;
  }

  std::pair<std::int64_t, Node*> match(const Tokens& all) {
    const Tokens key = floor(all);
    if (key.empty()) return {0, &root};
    Node* node = &root;
    std::size_t at = 0;
    while (at < key.size()) {
      const auto it = node->children.find(page_at(key, at));
      if (it == node->children.end()) break;
      Node* child = it->second.get();
      const std::size_t n = common(child->key, key, at, static_cast<std::size_t>(page));
      at += n;
      if (n < child->key.size()) {
        node = split(child, n);
        break;
      }
      node = child;
    }
    double time = clock++;
    for (Node* up = node; up != &root; up = up->parent, time -= 1e-5) up->used = time;
    return {static_cast<std::int64_t>(at), node};
  }

  Node* insert(const Tokens& all, std::int64_t begin, std::int64_t counted, std::int64_t priority) {
    const Tokens key = floor(all);
    Node* node = &root;
    std::size_t at = 0;
    while (at < key.size()) {
      const auto it = node->children.find(page_at(key, at));
      if (it == node->children.end()) break;
      Node* child = it->second.get();
      child->used = clock++;
      const std::size_t n = common(child->key, key, at, static_cast<std::size_t>(page));
      if (n < child->key.size()) child = split(child, n);
      child->priority = std::max(child->priority, priority);
      const auto end = static_cast<std::int64_t>(at + n);
      if (end > counted) ++child->hits;
      free += std::max<std::int64_t>(0, end - std::max(static_cast<std::int64_t>(at), begin));
      at += n;
      node = child;
    }
    if (at == key.size()) return node;
    auto leaf = std::make_unique<Node>();
    leaf->parent = node;
    leaf->key = Tokens(key.begin() + static_cast<std::ptrdiff_t>(at), key.end());
    leaf->used = clock++;
    leaf->priority = priority;
    if (static_cast<std::int64_t>(key.size()) > counted) ++leaf->hits;
    Node* result = leaf.get();
    node->children[page_at(leaf->key, 0)] = std::move(leaf);
    for (Node* up = result; up != nullptr; up = up->parent)
      up->history = std::max(up->history, static_cast<std::int64_t>(key.size()));
    return result;
  }

  void lock(Node* node, std::int64_t by) {
    for (; node != &root; node = node->parent) node->locks += by;
  }

  static std::int64_t before(const Node& n) {
    std::int64_t tokens = 0;
    for (const Node* up = n.parent; up != nullptr; up = up->parent)
      tokens += static_cast<std::int64_t>(up->key.size());
    return tokens;
  }
  std::tuple<double, double> rank(const Node& n) const {
    switch (kind) {
      case Eviction::lru: return {n.used, 0};
      case Eviction::lfu: return {static_cast<double>(n.hits), n.used};
      case Eviction::slru: return {n.hits >= 2 ? 1 : 0, n.used};
      case Eviction::priority: return {static_cast<double>(n.priority), n.used};
      case Eviction::tlru:
        return {before(n) >= std::max<std::int64_t>(n.history - spare_tail, 0) ? -1 : 0, n.used};
    }
    return {0, 0};
  }
  void find_victim(Node& node, Node*& best) const {
    for (auto& [first, child] : node.children) {
      find_victim(*child, best);
      if (child->locks > 0 || !child->children.empty()) continue;
      if (best == nullptr || rank(*child) < rank(*best)) best = child.get();
    }
  }
  bool make_room(std::int64_t tokens) {
    while (free < tokens) {
      Node* victim = nullptr;
      find_victim(root, victim);
      if (victim == nullptr) return false;
      free += static_cast<std::int64_t>(victim->key.size());
      victim->parent->children.erase(page_at(victim->key, 0));
    }
    return true;
  }
  void count(const Node& node, std::int64_t& idle, std::int64_t& held) const {
    for (const auto& [first, child] : node.children) {
      (child->locks > 0 ? held : idle) += static_cast<std::int64_t>(child->key.size());
      count(*child, idle, held);
    }
  }

  std::int64_t page;
  Eviction kind;
  std::int64_t spare_tail;
  Node root;
  double clock = 1;
  std::int64_t free = 0;
};

struct Sequence {
  TokenRuns names;
  Tokens tokens;
  std::int64_t prompt = 0, length = 0, in_tree = 0, inserted = 0, held = 0;
  RadixCache::Node node = RadixCache::root;
  Model::Node* model = nullptr;
};

struct Coverage {
  std::int64_t hits = 0, evicted = 0;
};

class Comparison {
 public:
  Comparison(std::uint64_t seed, Coverage& coverage)
      : r_(seed, RandomPurpose::property_test, 9), coverage_(coverage),
        page_(std::array<std::int64_t, 3>{1, 1, 4}[r_.below(3)]),
        eviction_(static_cast<Eviction>(r_.below(5))), spare_tail_(pick(1, 12) * page_),
        capacity_(pick(20, 120) * page_), block_(pick(3, 9)),
        cache_({.tokens = capacity_,
                .page_size = static_cast<std::int32_t>(page_),
                .prefix_sharing = true,
                .eviction = eviction_,
                .spare_tail = spare_tail_}),
        model_(page_, eviction_, spare_tail_) {
    model_.free = capacity_;
  }

  void run(int operations) {
    for (; operations > 0; --operations) {
      if (running_.size() < 5 && r_.below(2) == 0) {
        admit(fresh());
      } else if (!running_.empty()) {
        go_on(r_.below(running_.size()));
      }
      std::int64_t idle = 0, locked = 0;
      model_.count(model_.root, idle, locked);
      REQUIRE(cache_.available() == model_.free);
      REQUIRE(cache_.evictable() == idle);
      REQUIRE(cache_.protected_tokens() == locked);
      cache_.check_invariants();
    }
    coverage_.evicted += cache_.evicted_in_total();
  }

 private:
  std::int64_t pick(std::int64_t low, std::int64_t high) {
    return low + static_cast<std::int64_t>(r_.below(static_cast<std::uint64_t>(high - low + 1)));
  }

  // A prompt that shares some blocks with its family, and outputs of its own.
  Sequence fresh() {
    Sequence s;
    s.prompt = pick(1, 20 * page_);
    std::vector<std::uint64_t> ids;
    const std::uint64_t family = r_.below(3), shared = r_.below(8);
    ++serial_;
    for (std::int64_t i = 0; i * block_ < s.prompt; ++i) {
      const auto k = static_cast<std::uint64_t>(i);
      ids.push_back(k < shared ? family * 100 + k : serial_ * 1000 + k);
    }
    s.names = name_tokens(ids, static_cast<std::int32_t>(block_), 0, s.prompt, serial_);
    s.length = s.prompt + pick(0, 8 * page_);
    for (std::int64_t t = 0; t < s.length; ++t) {
      const auto id = t < s.prompt ? static_cast<std::int64_t>(ids[static_cast<std::size_t>(t / block_)])
                                   : -static_cast<std::int64_t>(serial_);
      s.tokens.push_back(id * 100000 + t);
    }
    return s;
  }

  void admit(Sequence s) {
    const RadixCache::Match hit = cache_.match(s.names, s.prompt - 1);
    const auto [tokens, node] = model_.match(Tokens(s.tokens.begin(), s.tokens.begin() + s.prompt - 1));
    REQUIRE(hit.tokens == tokens);
    coverage_.hits += tokens;
    s.in_tree = tokens;
    s.node = hit.node;
    s.model = node;
    cache_.lock(s.node);
    model_.lock(s.model, 1);
    s.held = cache_.page_ceil(s.length) - tokens;
    const bool fits = cache_.make_room(s.held);
    REQUIRE(model_.make_room(s.held) == fits);
    if (!fits) {
      cache_.unlock(s.node);
      model_.lock(s.model, -1);
      return;
    }
    cache_.take(s.held);
    model_.free -= s.held;
    running_.push_back(std::move(s));
  }

  void go_on(std::size_t i) {
    Sequence& s = running_[i];
    const bool finish = r_.below(2) == 0, keep = r_.below(5) != 0;
    if (keep) checkpoint(s, finish ? s.length : pick(s.in_tree, s.length));
    if (!finish) return;
    cache_.give_back(s.held);
    model_.free += s.held;
    cache_.unlock(s.node);
    model_.lock(s.model, -1);
    running_.erase(running_.begin() + static_cast<std::ptrdiff_t>(i));
  }

  void checkpoint(Sequence& s, std::int64_t upto) {
    const auto priority = static_cast<std::int64_t>(r_.below(2));
    const RadixCache::Node node =
        cache_.insert(s.names, upto, {.begin = s.in_tree, .counted = s.inserted, .priority = priority});
    Model::Node* other =
        model_.insert(Tokens(s.tokens.begin(), s.tokens.begin() + upto), s.in_tree, s.inserted, priority);
    cache_.unlock(s.node);
    cache_.lock(node);
    model_.lock(s.model, -1);
    model_.lock(other, 1);
    s.node = node;
    s.model = other;
    const std::int64_t kept = cache_.page_floor(upto);
    s.held -= kept - s.in_tree;
    s.in_tree = kept;
    s.inserted = std::max(s.inserted, kept);
  }

  RandomStream r_;
  Coverage& coverage_;
  std::int64_t page_;
  Eviction eviction_;
  std::int64_t spare_tail_, capacity_, block_;
  RadixCache cache_;
  Model model_;
  std::vector<Sequence> running_;
  std::uint64_t serial_ = 0;
};

}  // namespace

TEST_CASE("random operations: the cache does what a tree of tokens does") {
  Coverage coverage;
  for (std::uint64_t seed = 1; seed <= 300; ++seed) {
    CAPTURE(seed);
    Comparison(seed, coverage).run(300);
  }
  CHECK(coverage.hits > 10000);
  CHECK(coverage.evicted > 10000);
}

TEST_CASE("§4 eviction takes whole leaves, oldest first, and then their parents") {
  RadixCache cache({.tokens = 100});
  const auto add = [&](std::vector<std::uint64_t> ids, std::int64_t tokens) {
    const TokenRuns names = name_tokens(ids, 10, 0, tokens, 1);
    const RadixCache::Match hit = cache.match(names, tokens);
    cache.take(tokens - hit.tokens);
    cache.insert(names, tokens, {.begin = hit.tokens, .counted = 0, .priority = 0});
  };
  add({1, 2}, 20);
  add({1, 3}, 20);  // splits at 10
  CHECK(cache.nodes() == 3);
  CHECK(cache.available() == 70);
  CHECK(cache.make_room(71));  // the older leaf {2}, whole
  CHECK(cache.available() == 80);
  CHECK(cache.match(name_tokens(std::vector<std::uint64_t>{1, 2}, 10, 0, 20, 2), 20).tokens == 10);
  CHECK(cache.make_room(91));  // {3}, then {1}, a leaf by then
  CHECK(cache.available() == 100);
  CHECK(cache.nodes() == 0);
}

TEST_CASE("§4 what is locked stays, with everything above it") {
  RadixCache cache({.tokens = 40});
  const TokenRuns names = name_tokens(std::vector<std::uint64_t>{1, 2}, 10, 0, 20, 1);
  cache.take(20);
  const RadixCache::Node end = cache.insert(names, 20, {});
  cache.lock(end);
  CHECK(cache.protected_tokens() == 20);
  CHECK_FALSE(cache.make_room(21));
  cache.unlock(end);
  CHECK(cache.make_room(21));
  CHECK(cache.match(names, 20).tokens == 0);
}

// TLRUStrategy.get_priority (mem_cache/evict_policy.py), threshold 300, next_prompt_estimate 100: of a
// conversation of 500 tokens what begins at 500 + 100 − 300 = 300 or later is given up before anything else,
// and no more of it when that is gone.
TEST_CASE("§4 tlru gives up the tail of a long conversation first, then goes by time") {
  RadixCache cache({.tokens = 700, .page_size = 1, .eviction = Eviction::tlru, .spare_tail = 200});
  const auto content = [](std::uint64_t id) {
    return name_tokens(std::vector<std::uint64_t>{id}, 1000, 0, 1000, id);
  };
  const auto insert = [&](std::uint64_t id, std::int64_t begin, std::int64_t end) {
    REQUIRE(cache.make_room(end - begin));
    cache.take(end - begin);
    cache.insert(content(id), end, {.begin = begin, .counted = 0});
  };
  const auto kept = [&](std::uint64_t id) { return cache.match(content(id), 1000).tokens; };
  insert(1, 0, 100);  // 100 − 200 is below nothing: all of a short one could go
  insert(2, 0, 200);
  insert(2, 200, 400);
  insert(2, 400, 500);
  cache.lock(cache.match(content(1), 1000).node);
  REQUIRE(cache.make_room(101));  // 100 are free
  CHECK(kept(2) == 400);
  REQUIRE(cache.make_room(201));
  CHECK(kept(2) == 200);  // nothing else is there to go: by time
  cache.unlock(cache.match(content(1), 1000).node);
  REQUIRE(cache.make_room(401));
  CHECK(kept(1) == 0);  // used last, and still the first to go
  CHECK(kept(2) == 200);
  cache.check_invariants();
}
