// The KV pool of one SGLang 0.5 instance: a radix tree of cached content over pages of tokens, and counts
// (../shared/reference/sglang_0_5.md §4; facts from mem_cache/unified_cache/unified_tree_core.py and
// components/full.py of 0.5.23).
//
// Every token of the pool is free, held by a sequence alone (`take`), or in the tree: protected while a
// sequence has locked it or something below it, evictable otherwise. Addresses do not change what is batched,
// so that a count of free tokens serves. The engine builds a heap of leaves for every eviction; here an
// ordered set of the evictable ones is kept, which gives the same order.
//
// Layers with a sliding window have a second pool (sim/radix_windows.cpp; components/swa.py): a token has a
// slot in both, and the windowed one is given up earlier. A node whose windowed slots are gone ("not live")
// still serves the other layers; a prefix can be reused up to a node behind which a window's worth of nodes
// is live.
//
// Layers that keep a state have a pool of their own too (sim/radix_states.cpp; components/mamba.py): slots, a
// state each. A node may hold one, of its end, and a prefix can be reused where one is.
#pragma once

#include <cstdint>
#include <set>
#include <span>
#include <tuple>
#include <unordered_map>
#include <utility>
#include <vector>

#include "sim/cache_events.h"
#include "sim/kv_slab.h"
#include "sim/token_names.h"

namespace orrery {

// arg_groups/choices.py, mem_cache/evict_policy.py
enum class Eviction : std::uint8_t { lru, lfu, slru, priority, tlru };

class RadixCache {
 public:
  struct Config {
    std::int64_t tokens = 0;     // usable, a multiple of page_size
    std::int32_t page_size = 1;  // tokens
    bool prefix_sharing = true;  // off: nothing is ever in the tree
    Eviction eviction = Eviction::lru;
    std::int64_t protected_hits = 2;        // slru: radix_eviction_policy_config.protected_threshold
    std::int64_t spare_tail = 0;            // tlru: its threshold − next_prompt_estimate
    std::int64_t window = 0;                // tokens that a windowed layer looks back; 0 = there is none
    std::int64_t windowed_tokens = 0;       // of the second pool
    std::int64_t state_slots = 0;           // of the pool of states; 0 = no layer keeps one
    std::int64_t host_tokens = 0;           // of the tier in host memory; 0 = there is none
    std::int64_t host_windowed_tokens = 0;  // and of its part for windowed slots
    std::int64_t host_states = 0;           // and for states
    std::int64_t backup_at_hits = 1;        // a node is copied there when it was inserted so often; 0 = when
                                            // evicted
  };
  using Node = kv::Id;
  static constexpr Node root = 0;

  struct Match {
    std::int64_t tokens = 0;
    Node node = root;  // where it ends
    // How far the other layers alone, or host memory, would reach; without both the same.
    std::int64_t full_tokens = 0;
    Node full_node = root;
    // How far device and host memory reach together, windows and all, and what of it host memory has alone:
    // tokens whose slots are there, and of the window before the end those whose windowed slots are.
    std::int64_t best_tokens = 0;
    Node best_node = root;
    std::int64_t on_host = 0, windowed_on_host = 0;
    bool state_on_host = false;  // the state of that end, alone
  };
  struct Insertion {
    std::int64_t begin = 0;    // tokens before are the tree's already: the sequence holds none of them
    std::int64_t counted = 0;  // hits count on nodes that end behind here
    std::int64_t priority = 0;
    std::int64_t window_begin = 0;  // before, the sequence has no windowed slots any more
  };

  explicit RadixCache(const Config& config);

  // The longest cached prefix of the first `limit` tokens, in whole pages. Touches what it walks (the end is
  // the newest) and splits a node where it ends.
  Match match(const TokenRuns& content, std::int64_t limit);
  // The sequence's first `length` tokens, floored to pages, become the tree's. Of those from `begin` on,
  // which the sequence holds, the ones that are cached already are free again. Returns where the prefix ends.
  Node insert(const TokenRuns& content, std::int64_t length, const Insertion& how);
  void lock(Node node);  // the path from the root: it cannot be evicted
  void unlock(Node node);

  // Evicts whole leaves until `tokens` are free or nothing evictable remains; whether they are free.
  bool make_room(std::int64_t tokens);
  void take(std::int64_t tokens);       // free ones become a sequence's own
  void give_back(std::int64_t tokens);  // and the reverse

  // Host memory (sim/radix_host.cpp; unified_radix_cache.py). A node that was copied there can lose its slots
  // on the device and still be found; it holds a place in the host's pool until it is the least recently used
  // leaf.
  bool tiered() const { return config_.host_tokens > 0; }
  struct Backup {
    Node node = root;
    std::int64_t begin = 0, end = 0;                  // tokens; locked on the device until end_backup()
    std::int64_t full = 0, windowed = 0, states = 0;  // slots that are copied
    std::int64_t window_lock = 0;
  };
  // Since the last call; copies that an eviction had to wait for are only counted.
  std::vector<Backup> take_backups() { return std::exchange(backups_, {}); }
  std::int64_t take_blocking_backups() { return std::exchange(blocking_tokens_, 0); }
  std::int64_t take_blocking_windows() { return std::exchange(blocking_windowed_, 0); }
  std::int64_t take_blocking_states() { return std::exchange(blocking_states_, 0); }
  void end_backup(const Backup& backup);
  // The nodes of `end`'s path that are in host memory alone get slots; 0 when there are fewer than `least`
  // tokens of them, or no room. They are as if inserted; the copies stay. With windows also the windowed
  // slots of the window before the end, which may be all there is to load.
  struct Loaded {
    std::int64_t full = 0, windowed = 0, states = 0;
    bool any() const { return full + windowed + states > 0; }
  };
  Loaded load(Node end, std::int64_t least);
  // Windowed slots of the window before the end that are on the device and that nobody has locked.
  std::int64_t idle_window(Node end) const;
  std::int64_t host_used() const { return host_used_; }
  std::int64_t host_windowed_used() const { return host_windowed_used_; }
  std::int64_t host_dropped_in_total() const { return host_dropped_; }
  std::int64_t host_windowed_dropped_in_total() const { return host_windowed_dropped_; }
  std::int64_t host_states_used() const { return host_states_used_; }
  std::int64_t host_states_dropped_in_total() const { return host_states_dropped_; }

  // Indices of those whose prefixes end at these nodes, in the order of the policy dfs-weight.
  std::vector<std::size_t> weight_order(std::span<const Node> ends) const;  // sim/radix_weights.cpp

  // From now on says what becomes findable and what is evicted, as far as others can name it
  // (sim/radix_events.cpp). Without windows and host memory.
  void watch(CacheEvents* events);

  // Windows. take() and make_room() concern both pools, give_back() the first only.
  bool windowed() const { return config_.window > 0; }
  // Locks the nodes that cover the window before the node's end, whole ones; returns where they begin.
  std::int64_t lock_window(Node node);
  void unlock_window(Node node, std::int64_t begin);
  void give_back_windowed(std::int64_t tokens);
  std::int64_t windowed_available() const { return windowed_.available; }
  std::int64_t windowed_evictable() const { return windowed_.evictable; }
  std::int64_t windowed_protected() const { return windowed_.locked; }
  std::int64_t windowed_held() const { return windowed_.held; }

  // States. A slot is free, held by a sequence, or a node's: locked, or given up least recently used first
  // with its leaf, or from an inner node alone.
  bool stateful() const { return config_.state_slots > 0; }
  bool make_state_room(std::int64_t slots);
  void take_states(std::int64_t slots);
  void give_back_states(std::int64_t slots);
  // One that a sequence holds becomes the node's; false where the node has one already.
  bool leave_state(Node node);
  void lock_state(Node node);
  void unlock_state(Node node);
  std::int64_t free_states() const { return states_.available; }
  std::int64_t idle_states() const { return static_cast<std::int64_t>(idle_states_.size()); }
  std::int64_t locked_states() const { return states_.locked; }
  std::int64_t held_states() const { return states_.held; }

  const Config& config() const { return config_; }
  std::int64_t page_floor(std::int64_t tokens) const {
    return tokens / config_.page_size * config_.page_size;
  }
  std::int64_t page_ceil(std::int64_t tokens) const { return page_floor(tokens + config_.page_size - 1); }
  std::int64_t available() const { return available_; }
  std::int64_t evictable() const { return evictable_; }
  std::int64_t protected_tokens() const { return protected_; }
  std::int64_t held() const { return held_; }  // by sequences alone
  std::int64_t allocated_in_total() const { return allocated_; }
  std::int64_t evicted_in_total() const { return evicted_; }
  std::size_t nodes() const { return nodes_.live() - 1; }  // without the root
  std::int64_t size_of(Node node) const { return nodes_[node].end - nodes_[node].begin; }
  void check_invariants() const;  // O(everything); for tests

 private:
  using EvictionKey = std::tuple<std::int64_t, std::int64_t, std::int64_t, Node>;  // smallest goes first
  struct Record {
    Node parent = root;
    std::int64_t begin = 0, end = 0;  // token positions
    TokenRuns key;                    // names of [begin, end)
    std::uint64_t first_page = 0;
    std::int32_t locks = 0, children = 0;
    std::int64_t used = 0;  // logical time
    std::int64_t hits = 0, priority = 0;
    std::int64_t history = 0;           // tlru: the deepest end below it that there ever was
    std::int64_t born = 0;              // its place among its parent's children
    bool live = false;                  // has its windowed slots
    bool device = true;                 // its slots are on the device
    bool host = false;                  // and a copy of it in host memory
    bool host_queued = false;           // in host_leaves_, under `place`
    bool copying = false;               // its copy is crossing the link
    bool host_live = false;             // its windowed slots have a copy
    bool host_window_queued = false;    // in host_windows_
    std::int64_t host_window_used = 0;  // when it came there
    std::int32_t host_pins = 0;
    std::int32_t device_children = 0;
    std::int32_t window_locks = 0;
    std::int64_t window_used = 0;  // logical time of the windowed pool's own order
    bool window_queued = false;    // in idle_windows_
    bool state = false;            // holds the state of its end
    std::int32_t state_locks = 0;
    std::int64_t state_used = 0;       // logical time of the order of states
    bool state_queued = false;         // in idle_states_
    bool host_state = false;           // it has a copy in host memory
    bool host_state_queued = false;    // in host_states_
    std::int64_t host_state_used = 0;  // when the device gave it up
    bool queued = false;               // in leaves_, under `place`
    EvictionKey place{};
  };
  struct ChildKey {
    Node parent;
    std::uint64_t first_page;
    friend bool operator==(const ChildKey&, const ChildKey&) = default;
  };
  struct ChildHash {
    std::size_t operator()(const ChildKey& key) const {
      return static_cast<std::size_t>(key.first_page ^ (std::uint64_t{key.parent} * 0x9E3779B97F4A7C15ull));
    }
  };

  std::int64_t now() { return clock_++ << 20; }  // leaves room for the steps of one path below it
  std::uint64_t page_name(const TokenRuns& content, std::size_t run, std::int64_t begin) const;
  Node child(Node parent, const TokenRuns& content, std::size_t run, std::int64_t begin) const;
  std::int64_t agreement(const Record& node, const TokenRuns& content, std::size_t run,
                         std::int64_t limit) const;
  Node split(Node node, std::int64_t place);
  Node add_leaf(Node parent, const TokenRuns& content, std::size_t run, std::int64_t begin, std::int64_t end,
                std::int64_t priority);
  void requeue(Node node);
  void raise_history(Node leaf);
  EvictionKey key_of(Node id) const;
  void evict_first();
  void drop_leaf(Node id);
  void give_up_window(Node id);
  void requeue_window(Node id);
  void touch_window(Node end);
  bool evict_first_window();
  void revive(Node id);
  void take_over_windows(Node node, std::int64_t begin, std::int64_t end, const Insertion& how);
  void make_leaf_live(Node leaf, const Insertion& how);
  void check_windows() const;
  void requeue_state(Node id);
  void touch_state(Node id);
  void give_up_state(Node id);
  void check_states() const;
  void want_backup(Node id);
  bool back_up(Node id);
  void start_backups();
  bool make_host_room(std::int64_t tokens);
  void drop_host_below(Node id);
  // states in host memory (radix_host_states.cpp)
  void want_state_backup(Node id);
  bool back_up_state(Node id);
  bool make_host_state_room(std::int64_t slots);
  void requeue_host_state(Node id);
  void drop_host_state(Node id);
  void bring_back_state(Node id);
  void check_host_states() const;
  void requeue_host(Node id);
  // windowed slots in host memory (radix_host_windows.cpp)
  std::vector<Node> unbacked_windows(Node id) const;
  std::int64_t sizes_of(const std::vector<Node>& nodes) const;
  void want_window_backup(Node id);
  bool back_up_windows(const std::vector<Node>& nodes);
  bool make_host_window_room(std::int64_t tokens);
  void requeue_host_window(Node id);
  void drop_host_window(Node id);
  std::vector<Node> windows_to_load(Node end) const;
  void bring_back_window(Node id);
  void begin_backup(Node id, std::int64_t full, std::int64_t windowed, std::int64_t states);
  void count_on_host(Match& found) const;
  void check_host_windows() const;
  void drop_host_leaf(Node id);
  void forget(Node id);
  void bring_back(Node id);
  void report(const TokenRuns& content, std::int64_t begin, std::int64_t end, bool stored);
  TokenRuns content_of(Node id) const;

  Config config_;
  CacheEvents* events_ = nullptr;
  kv::Slab<Record> nodes_;
  std::unordered_map<ChildKey, Node, ChildHash> children_;  // looked up, never iterated
  std::set<EvictionKey> leaves_;
  std::int64_t available_ = 0, evictable_ = 0, protected_ = 0, held_ = 0;
  std::int64_t allocated_ = 0, evicted_ = 0;
  std::int64_t clock_ = 1, births_ = 0;
  struct Windowed {
    std::int64_t available = 0, evictable = 0, locked = 0, held = 0;
  };
  struct States {
    std::int64_t available = 0, locked = 0, held = 0;
  };
  std::vector<Backup> backups_;
  std::vector<Node> wanted_;  // reached the number of hits in the insertion under way
  std::int64_t host_used_ = 0, host_dropped_ = 0, blocking_tokens_ = 0, blocking_windowed_ = 0;
  std::int64_t host_states_used_ = 0, host_states_dropped_ = 0, blocking_states_ = 0;
  std::set<EvictionKey> host_leaves_;
  std::int64_t host_windowed_used_ = 0, host_windowed_dropped_ = 0;
  std::set<std::pair<std::int64_t, Node>> host_windows_;  // not on the device; the first to come first
  std::vector<Node> wanted_windows_, wanted_states_;
  std::set<std::pair<std::int64_t, Node>> host_states_;  // not on the device; the first to come first
  Windowed windowed_;
  States states_;
  std::set<std::pair<std::int64_t, Node>> idle_states_;   // not locked; least recently used first
  std::set<std::pair<std::int64_t, Node>> idle_windows_;  // live, not locked; least recently used first
};

}  // namespace orrery
