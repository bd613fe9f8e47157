#include "sim/kv_cache_reporter.h"

#include <limits>

namespace orrery::kv {

void CacheReporter::changed(const ExtentPool& pool, Id node) {
  if (pool.tree[node].parent == kPrivateRoot) return;  // nobody else can ask for it
  if (node >= places_.size()) places_.resize(std::size_t{node} + 1);
  if (!places_[node].known) places_[node] = place_of(pool.tree, node);
  Place& place = places_[node];
  const std::int32_t reach = pool.walk(node, place.begin, place.end, [](Id, std::int32_t, std::int32_t) {});
  if (reach != place.reach) {
    place.reach = reach;
    events_.holds({.beginning = place.beginning,
                   .from = std::int64_t{place.begin} * block_size_,
                   .to = std::int64_t{reach} * block_size_});
  }
  if (reach == place.begin) place.known = false;  // the node may go, and another take its id
}

CacheReporter::Place CacheReporter::place_of(const ContentTree& tree, Id node) const {
  std::vector<Id> path;  // from the node up to one whose place is known
  Id above = node;
  while (above < kHashRoot && (above >= places_.size() || !places_[above].known)) {
    path.push_back(above);
    above = tree[above].parent;
  }
  Place place;
  if (above == kStreamRoot) {
    place = {.known = true, .beginning = beginning_by_stream(), .index = -1};
  } else if (above >= kHashRoot) {
    const auto tokens = static_cast<std::int32_t>(above & ~kHashRoot);
    place = {.known = true, .beginning = beginning_by_ids(tokens), .tokens = tokens, .index = -1};
  } else {
    place = places_[above];
  }
  for (; !path.empty(); path.pop_back()) {
    place.beginning = longer_beginning(place.beginning, tree[path.back()].name);
    ++place.index;
  }
  place.end = std::numeric_limits<std::int32_t>::max();
  place.begin = static_cast<std::int32_t>(place.index * place.tokens / block_size_);
  if (place.tokens > 0) place.end = static_cast<std::int32_t>((place.index + 1) * place.tokens / block_size_);
  place.reach = place.begin;
  return place;
}

}  // namespace orrery::kv
