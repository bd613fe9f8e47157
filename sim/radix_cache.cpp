#include "sim/radix_cache.h"

#include <algorithm>

#include "base/check.h"
#include "base/digest.h"

namespace orrery {

namespace {

// The run that holds token `place`, at or behind `run`.
std::size_t run_at(const TokenRuns& content, std::size_t run, std::int64_t place) {
  while (content[run].end <= place) ++run;
  return run;
}

TokenRuns cut(const TokenRuns& content, std::size_t run, std::int64_t end) {
  TokenRuns key;
  for (;; ++run) {
    key.push_back({content[run].name, std::min(content[run].end, end)});
    if (key.back().end == end) return key;
  }
}

}  // namespace

RadixCache::RadixCache(const Config& config) : config_(config), available_(config.tokens) {
  ORRERY_CHECK(config.page_size >= 1 && config.tokens >= 0 && config.tokens % config.page_size == 0,
               "radix cache: capacity in whole pages");
  ORRERY_CHECK(!stateful() || !windowed(), "radix cache: states beside windows");  // one taken for another
  windowed_.available = config.windowed_tokens;
  states_.available = config.state_slots;
  nodes_.make(Record{});
}

// -------------------------------------------------------------------------------------------------- look-up

RadixCache::Match RadixCache::match(const TokenRuns& content, std::int64_t limit) {
  Match found;
  limit = page_floor(limit);
  if (!config_.prefix_sharing || limit <= 0) return found;
  std::size_t run = 0;
  Node node = root;
  // From the root on everything counts as seen.
  std::int64_t live_from = -config_.window, there_from = -config_.window;
  while (found.full_tokens < limit) {
    const std::int64_t begin = found.full_tokens;
    run = run_at(content, run, begin);
    const Node next = child(node, content, run, begin);
    if (next == kv::kNone) break;
    const std::int64_t end = agreement(nodes_[next], content, run, limit);
    if (end == begin) break;
    const bool whole = end == nodes_[next].end;
    found.full_tokens = end;
    node = whole ? next : split(next, end);
    found.full_node = node;
    const bool live =
        nodes_[node].device && (!windowed() || nodes_[node].live) && (!stateful() || nodes_[node].state);
    if (!live) live_from = end;
    if (live && (!windowed() || end - live_from >= config_.window)) {
      found.tokens = end;
      found.node = node;
    }
    const bool there = live || (tiered() && (!windowed() || nodes_[node].live || nodes_[node].host_live) &&
                                (!stateful() || nodes_[node].state || nodes_[node].host_state));
    if (!there) there_from = end;
    if (there && (!windowed() || end - there_from >= config_.window)) {
      found.best_tokens = end;
      found.best_node = node;
    }
    if (!whole) break;
  }
  if (tiered()) count_on_host(found);
  if (windowed()) touch_window(found.best_node);
  if (stateful()) touch_state(found.best_node);
  std::int64_t time = now();
  for (Node id = found.best_node; id != root; id = nodes_[id].parent) {
    nodes_[id].used = time--;
    requeue(id);
  }
  return found;
}

// A child is found by its first page, as the engine's dictionaries do.
std::uint64_t RadixCache::page_name(const TokenRuns& content, std::size_t run, std::int64_t begin) const {
  Digest name;
  const std::int64_t page_end = begin + config_.page_size;
  for (;; ++run) {
    const std::int64_t end = std::min(content[run].end, page_end);
    name.add(content[run].name.id);
    name.add((std::uint64_t{content[run].name.kind} << 32) ^ static_cast<std::uint64_t>(end - begin));
    if (end == page_end) return name.value();
  }
}

RadixCache::Node RadixCache::child(Node parent, const TokenRuns& content, std::size_t run,
                                   std::int64_t begin) const {
  const auto it = children_.find({parent, page_name(content, run, begin)});
  return it == children_.end() ? kv::kNone : it->second;
}

// Where the node and the content, equal before the node, part: the position, in whole pages.
std::int64_t RadixCache::agreement(const Record& node, const TokenRuns& content, std::size_t run,
                                   std::int64_t limit) const {
  std::int64_t at = node.begin;
  const std::int64_t end = std::min(node.end, limit);
  for (std::size_t i = 0; at < end;) {
    if (node.key[i].name != content[run].name) break;
    at = std::min(node.key[i].end, content[run].end);
    if (node.key[i].end == at) ++i;
    if (content[run].end == at) ++run;
  }
  return node.begin + page_floor(std::min(at, end) - node.begin);
}

// [begin, place) becomes a new node above; the lower part keeps the id and counts as used just now, which the
// engine does too (§4 "freshened suffix on split").
RadixCache::Node RadixCache::split(Node id, std::int64_t place) {
  Record upper;
  {
    const Record& node = nodes_[id];
    upper.parent = node.parent;
    upper.begin = node.begin;
    upper.end = place;
    upper.key = cut(node.key, 0, place);
    upper.first_page = node.first_page;
    upper.locks = node.locks;
    upper.children = 1;
    upper.hits = node.hits;
    upper.priority = node.priority;
    upper.history = node.history;
    upper.born = node.born;
    upper.live = node.live;
    upper.device = node.device;
    upper.host = node.host;
    upper.host_pins = node.host_pins;
    upper.copying = node.copying;
    upper.host_live = node.host_live;
    upper.host_window_used = node.host_window_used - 1;
    upper.device_children = node.device ? 1 : 0;
    upper.window_locks = node.window_locks;
    upper.window_used = node.window_used - 1;
  }
  upper.used = now();
  const Node above = nodes_.make(upper);
  Record& lower = nodes_[id];
  const std::size_t run = run_at(lower.key, 0, place);
  lower.key.erase(lower.key.begin(), lower.key.begin() + static_cast<std::ptrdiff_t>(run));
  lower.begin = place;
  lower.parent = above;
  lower.first_page = page_name(lower.key, 0, place);
  lower.used = now();
  children_[{upper.parent, upper.first_page}] = above;
  children_[{above, lower.first_page}] = id;
  requeue(id);
  if (windowed()) requeue_window(above);
  if (lower.host_window_queued) {  // beside each other
    nodes_[above].host_window_queued = true;
    host_windows_.insert({nodes_[above].host_window_used, above});
  }
  return above;
}

// ------------------------------------------------------------------------------------------------- insertion

RadixCache::Node RadixCache::insert(const TokenRuns& content, std::int64_t length, const Insertion& how) {
  length = page_floor(length);
  std::int64_t at = 0, duplicate = 0, fresh_again = 0;
  Node node = root;
  std::size_t run = 0;
  while (at < length) {
    run = run_at(content, run, at);
    Node next = child(node, content, run, at);
    if (next == kv::kNone) break;
    nodes_[next].used = now();
    const std::int64_t end = agreement(nodes_[next], content, run, length);
    ORRERY_CHECK(end > at, "radix cache: two first pages with one name");
    if (end < nodes_[next].end) next = split(next, end);
    Record& walked = nodes_[next];
    walked.priority = std::max(walked.priority, how.priority);
    if (end > how.counted) ++walked.hits;
    duplicate += std::max<std::int64_t>(0, end - std::max(at, how.begin));
    requeue(next);
    if (!nodes_[next].device) {
      bring_back(next);  // with the sequence's own, which are no duplicates
      duplicate -= end - at;
      fresh_again += end - at;
    }
    if (end > how.counted) want_backup(next);
    if (windowed() && end > how.begin) take_over_windows(next, at, end, how);
    node = next;
    at = end;
  }
  std::int64_t fresh = 0;
  if (at < length) {
    ORRERY_CHECK(at >= how.begin, "radix cache: what a sequence leaves to the tree has left it");
    fresh = length - at;
    node = add_leaf(node, content, run, at, length, how.priority);
    if (length > how.counted) ++nodes_[node].hits;
    requeue(node);
    if (length > how.counted) want_backup(node);
    if (windowed()) make_leaf_live(node, how);
  }
  if (windowed()) touch_window(node);
  if (windowed() && fresh == 0) want_window_backup(node);
  held_ -= duplicate + fresh + fresh_again;
  available_ += duplicate;
  evictable_ += fresh + fresh_again;
  ORRERY_CHECK(held_ >= 0, "radix cache: inserted tokens that nobody held");
  if (!stateful()) start_backups();  // else when it has its state (leave_state)
  return node;
}

RadixCache::Node RadixCache::add_leaf(Node parent, const TokenRuns& content, std::size_t run,
                                      std::int64_t begin, std::int64_t end, std::int64_t priority) {
  Record leaf;
  leaf.parent = parent;
  leaf.begin = begin;
  leaf.end = end;
  leaf.key = cut(content, run, end);
  leaf.first_page = page_name(content, run, begin);
  leaf.priority = priority;
  leaf.used = now();
  leaf.born = births_++;
  const Node id = nodes_.make(leaf);
  if (config_.eviction == Eviction::tlru) raise_history(id);
  children_[{parent, leaf.first_page}] = id;
  ++nodes_[parent].children;
  ++nodes_[parent].device_children;
  requeue(parent);
  if (events_ != nullptr) report(content, begin, end, true);
  return id;
}

// ----------------------------------------------------------------------------------------- locks and counts

void RadixCache::lock(Node node) {
  for (Node id = node; id != root; id = nodes_[id].parent) {
    Record& record = nodes_[id];
    if (record.locks++ > 0) continue;
    evictable_ -= record.end - record.begin;
    protected_ += record.end - record.begin;
    requeue(id);
  }
}

void RadixCache::unlock(Node node) {
  for (Node id = node; id != root; id = nodes_[id].parent) {
    Record& record = nodes_[id];
    ORRERY_CHECK(record.locks > 0, "radix cache: unlocked more often than locked");
    if (--record.locks > 0) continue;
    protected_ -= record.end - record.begin;
    evictable_ += record.end - record.begin;
    requeue(id);
  }
}

void RadixCache::take(std::int64_t tokens) {
  ORRERY_CHECK(tokens <= available_, "radix cache: more tokens taken than are free");
  available_ -= tokens;
  held_ += tokens;
  allocated_ += tokens;
  if (!windowed()) return;
  ORRERY_CHECK(tokens <= windowed_.available, "radix cache: more windowed slots taken than are free");
  windowed_.available -= tokens;
  windowed_.held += tokens;
}

void RadixCache::give_back(std::int64_t tokens) {
  ORRERY_CHECK(tokens <= held_, "radix cache: more tokens given back than were taken");
  held_ -= tokens;
  available_ += tokens;
}

// -------------------------------------------------------------------------------------------------- eviction

bool RadixCache::make_room(std::int64_t tokens) {
  while (available_ < tokens && !leaves_.empty()) evict_first();
  if (!windowed()) return available_ >= tokens;
  while (windowed_.available < tokens && evict_first_window()) {}
  return available_ >= tokens && windowed_.available >= tokens;
}

// Whole nodes only; a parent without children is a leaf from then on.
void RadixCache::evict_first() { drop_leaf(std::get<3>(*leaves_.begin())); }

void RadixCache::drop_leaf(Node id) {
  const Node parent = nodes_[id].parent;
  const std::int64_t freed = size_of(id);
  if (events_ != nullptr) report(content_of(id), nodes_[id].begin, nodes_[id].end, false);
  const bool stays = tiered() && (nodes_[id].host || (config_.backup_at_hits == 0 && back_up(id)));
  if (!stays) drop_host_below(id);
  leaves_.erase(nodes_[id].place);
  nodes_[id].queued = false;
  if (stays) nodes_[id].device = false;
  if (nodes_[id].live) give_up_window(id);
  if (nodes_[id].state) give_up_state(id);
  if (stays) {
    requeue_host(id);
  } else {
    forget(id);
  }
  --nodes_[parent].device_children;
  requeue(parent);
  available_ += freed;
  evictable_ -= freed;
  evicted_ += freed;
}

// `_set_tlru_lens_and_raise_history`. Who is raised has the new leaf below it and is no leaf itself.
void RadixCache::raise_history(Node leaf) {
  const std::int64_t end = nodes_[leaf].end;
  for (Node id = leaf; id != root && nodes_[id].history < end; id = nodes_[id].parent)
    nodes_[id].history = end;
}

// Puts the node in or out of the evictable leaves, at the place that its fields give it now.
void RadixCache::requeue(Node id) {
  if (id == root) return;
  Record& node = nodes_[id];
  const bool leaf = node.device && node.locks == 0 && node.device_children == 0;
  if (!node.device) return requeue_host(id);
  if (!leaf && !node.queued) return;
  const EvictionKey place = key_of(id);
  if (leaf && node.queued && place == node.place) return;
  if (node.queued) leaves_.erase(node.place);
  node.queued = leaf;
  node.place = place;
  if (leaf) leaves_.insert(place);
}

void RadixCache::forget(Node id) {
  const Node parent = nodes_[id].parent;
  ORRERY_CHECK(nodes_[id].children == 0, "radix cache: a node goes before its children");
  if (nodes_[id].host_live) drop_host_window(id);
  if (nodes_[id].host_state) drop_host_state(id);
  children_.erase({parent, nodes_[id].first_page});
  nodes_[id] = Record{};
  nodes_.drop(id);
  --nodes_[parent].children;
}

// mem_cache/evict_policy.py; ties go to the older one.
RadixCache::EvictionKey RadixCache::key_of(Node id) const {
  const Record& n = nodes_[id];
  switch (config_.eviction) {
    case Eviction::lru: return {n.used, 0, n.used, id};
    case Eviction::lfu: return {n.hits, n.used, n.used, id};
    case Eviction::slru: return {n.hits >= config_.protected_hits ? 1 : 0, n.used, n.used, id};
    case Eviction::priority: return {n.priority, n.used, n.used, id};
    case Eviction::tlru: return {n.begin >= n.history - config_.spare_tail ? -1 : 0, n.used, n.used, id};
  }
  return {};
}

void RadixCache::check_invariants() const {
  ORRERY_CHECK(available_ >= 0 && evictable_ >= 0 && protected_ >= 0 && held_ >= 0,
               "radix cache: a count is negative");
  ORRERY_CHECK(available_ + evictable_ + protected_ + held_ == config_.tokens,
               "radix cache: counts do not add up");
  std::vector<std::int32_t> children(nodes_.slots(), 0), on_device(nodes_.slots(), 0);
  std::int64_t idle = 0, locked = 0, in_host = 0;
  std::size_t live = 0, queued = 0;
  for (Node id = 1; id < nodes_.slots(); ++id) {
    const Record& n = nodes_[id];
    if (n.end == 0) continue;  // dropped
    ++live;
    ++children[n.parent];
    if (n.device) ++on_device[n.parent];
    if (n.device) (n.locks > 0 ? locked : idle) += n.end - n.begin;
    if (n.host) in_host += n.end - n.begin;
    ORRERY_CHECK(n.device || (n.host && n.locks == 0),
                 "radix cache: a node that is nowhere, or locked there");
    ORRERY_CHECK(n.parent == root || !n.device || nodes_[n.parent].device,
                 "radix cache: above it is host memory");
    ORRERY_CHECK(n.parent == root || !n.host || nodes_[n.parent].host || config_.backup_at_hits == 0,
                 "radix cache: copied before its parent");
    ORRERY_CHECK(n.begin < n.end && n.key.back().end == n.end, "radix cache: a node's key");
    ORRERY_CHECK((n.end - n.begin) % config_.page_size == 0, "radix cache: a part of a page");
    ORRERY_CHECK(n.parent == root || nodes_[n.parent].end == n.begin, "radix cache: a gap in a path");
    ORRERY_CHECK(n.parent == root || nodes_[n.parent].locks >= n.locks, "radix cache: a lock ends half-way");
    const auto it = children_.find({n.parent, n.first_page});
    ORRERY_CHECK(it != children_.end() && it->second == id, "radix cache: a child cannot be found");
    if (n.queued) ++queued;
    ORRERY_CHECK(!n.queued || n.place == key_of(id), "radix cache: a leaf stands at an old place");
  }
  for (Node id = 1; id < nodes_.slots(); ++id) {
    const Record& n = nodes_[id];
    if (n.end == 0) continue;
    ORRERY_CHECK(n.children == children[id], "radix cache: children");
    ORRERY_CHECK(n.device_children == on_device[id], "radix cache: children on the device");
    ORRERY_CHECK(n.queued == (n.device && n.locks == 0 && n.device_children == 0),
                 "radix cache: evictable leaves");
    ORRERY_CHECK(n.host_queued == (!n.device && n.children == 0 && n.host_pins == 0),
                 "radix cache: evictable leaves of host memory");
  }
  ORRERY_CHECK(live == nodes() && children_.size() == live && leaves_.size() == queued,
               "radix cache: lost nodes");
  ORRERY_CHECK(idle == evictable_ && locked == protected_, "radix cache: tree and counts disagree");
  ORRERY_CHECK(in_host == host_used_ && host_used_ <= config_.host_tokens, "radix cache: host memory");
  if (windowed()) check_windows();
  if (stateful()) check_states();
  if (windowed() && tiered()) check_host_windows();
  if (stateful() && tiered()) check_host_states();
}

}  // namespace orrery
