#include "sim/fabric/shares.h"

#include <algorithm>
#include <functional>

// Why stopping at links that do not bind is exact. Let every link that some recomputed and some kept flow
// share end with capacity − Σ rates ≥ n, n its flows. In water filling over everything, at any level m at
// which flows of that link stop, what is left for k others is at least Σ over them of (rate + 1) ≥ k (m + 1):
// its own level lies above m, so it stops nobody and may as well be absent. Without such links the system
// falls apart into pieces whose fillings do not know each other. A shared link that ends with less spare than
// that joins the region, and the filling is done again: at worst over every flow.

namespace orrery::fabric {

Shares::Shares(const Topology& topology) : links_(topology.link_count()) {
  for (std::size_t i = 0; i < links_.size(); ++i)
    links_[i].capacity = topology.link(LinkId(static_cast<std::uint32_t>(i))).bytes_per_second;
}

void Shares::mark(std::uint32_t link) {
  if (links_[link].dirty) return;
  links_[link].dirty = true;
  dirty_.push_back(link);
}

void Shares::insert(std::uint32_t slot, const std::vector<LinkId>& links) {
  if (slot >= flows_.size()) flows_.resize(slot + 1);
  FlowState& flow = flows_[slot];
  flow.links = links;
  flow.places.resize(links.size());
  flow.rate = flow.old_rate = 0;
  fresh_.push_back(slot);
  for (std::uint32_t i = 0; i < links.size(); ++i) {
    LinkState& link = links_[links[i].value()];
    flow.places[i] = static_cast<std::uint32_t>(link.flows.size());
    link.flows.emplace_back(slot, i);
    mark(links[i].value());
  }
}

void Shares::erase(std::uint32_t slot) {
  FlowState& flow = flows_[slot];
  for (std::uint32_t i = 0; i < flow.links.size(); ++i) {
    LinkState& link = links_[flow.links[i].value()];
    link.used -= flow.rate;
    const auto last = link.flows.back();
    link.flows[flow.places[i]] = last;
    flows_[last.first].places[last.second] = flow.places[i];
    link.flows.pop_back();
    mark(flow.links[i].value());
  }
  flow.links.clear();
  flow.rate = 0;
}

void Shares::set_capacity(LinkId link, std::int64_t bytes_per_second) {
  links_[link.value()].capacity = bytes_per_second;
  mark(link.value());
}

void Shares::take(std::uint32_t slot) {
  FlowState& flow = flows_[slot];
  if (flow.in_region) return;
  flow.in_region = true;
  region_.push_back(slot);
  queue_.push_back(slot);
}

void Shares::expand(std::uint32_t link) {
  LinkState& state = links_[link];
  if (state.expanded) return;
  state.expanded = true;
  for (const auto& [slot, place] : state.flows) take(slot);
}

// Everything that flows in the queue reach over binding links.
void Shares::grow_region() {
  while (!queue_.empty()) {
    const std::uint32_t slot = queue_.back();
    queue_.pop_back();
    for (const LinkId id : flows_[slot].links) {
      LinkState& link = links_[id.value()];
      if (!link.in_region) {
        link.in_region = true;
        region_links_.push_back(id.value());
      }
      if (link.binding) expand(id.value());
    }
  }
}

void Shares::freeze(std::uint32_t link, std::int64_t level) {
  for (const auto& [slot, place] : links_[link].flows) {
    FlowState& flow = flows_[slot];
    if (!flow.in_region || flow.frozen) continue;
    flow.frozen = true;
    flow.rate = level;
    for (const LinkId id : flow.links) {
      links_[id.value()].left -= level;
      --links_[id.value()].unfrozen;
    }
  }
}

void Shares::fill() {
  for (const std::uint32_t id : region_links_) {
    links_[id].left = links_[id].capacity - links_[id].used;
    links_[id].unfrozen = 0;
  }
  for (const std::uint32_t slot : region_) {
    FlowState& flow = flows_[slot];
    flow.frozen = false;
    for (const LinkId id : flow.links) {
      links_[id.value()].left += flow.rate;  // what the region gives back before it is shared anew
      ++links_[id.value()].unfrozen;
    }
  }
  heap_.clear();
  const auto level_of = [this](std::uint32_t id) {
    return std::max<std::int64_t>(links_[id].left, 0) / links_[id].unfrozen;
  };
  for (const std::uint32_t id : region_links_)
    if (links_[id].unfrozen > 0) heap_.emplace_back(level_of(id), id);
  std::make_heap(heap_.begin(), heap_.end(), std::greater<>());
  std::vector<std::uint32_t>& full = queue_;  // idle while filling
  while (!heap_.empty()) {
    // A level only rises as flows stop below it, so an entry that is out of date is too low, never too high.
    full.clear();
    std::int64_t level = -1;
    while (!heap_.empty() && (level < 0 || heap_.front().first <= level)) {
      const std::uint32_t id = heap_.front().second;
      std::pop_heap(heap_.begin(), heap_.end(), std::greater<>());
      const std::int64_t written = heap_.back().first;
      heap_.pop_back();
      if (links_[id].unfrozen == 0) continue;
      const std::int64_t actual = level_of(id);
      if (actual == written) {
        level = actual;
        full.push_back(id);
        continue;
      }
      heap_.emplace_back(actual, id);
      std::push_heap(heap_.begin(), heap_.end(), std::greater<>());
    }
    for (const std::uint32_t id : full) freeze(id, level);
  }
  full.clear();
}

// Takes over the new rates into the links; false when a link that kept flows share now binds: the region was
// too small.
bool Shares::closed() {
  for (const std::uint32_t id : region_links_) {
    LinkState& link = links_[id];
    link.used = link.capacity - link.left;
    link.binding = link.left < static_cast<std::int64_t>(link.flows.size());
  }
  bool enough = true;
  for (const std::uint32_t id : region_links_) {
    if (!links_[id].binding || links_[id].expanded) continue;
    expand(id);
    if (!queue_.empty()) enough = false;
  }
  return enough;
}

const std::vector<std::uint32_t>& Shares::settle() {
  for (const std::uint32_t slot : region_) flows_[slot].in_region = false;
  region_.clear();
  for (const std::uint32_t id : dirty_) {
    LinkState& link = links_[id];
    link.dirty = false;
    const std::int64_t spare = link.capacity - link.used;
    // A link that bound, or that binds now, passes the change on; new flows are taken in any case.
    if (link.binding || spare < static_cast<std::int64_t>(link.flows.size())) expand(id);
    link.binding = link.binding && !link.flows.empty();
  }
  for (const std::uint32_t slot : fresh_)
    if (!flows_[slot].links.empty()) take(slot);
  fresh_.clear();
  do {
    grow_region();
    for (const std::uint32_t slot : region_)
      if (!flows_[slot].frozen) flows_[slot].old_rate = flows_[slot].rate;
    fill();
  } while (!closed());
  for (const std::uint32_t slot : region_) flows_[slot].frozen = false;
  for (const std::uint32_t id : region_links_) links_[id].in_region = links_[id].expanded = false;
  for (const std::uint32_t id : dirty_) links_[id].expanded = false;
  region_links_.clear();
  dirty_.clear();
  return region_;
}

}  // namespace orrery::fabric
