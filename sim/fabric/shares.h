// Max-min fair integer shares, kept up to date for the part of the system that a change reaches.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "sim/fabric/topology.h"

namespace orrery::fabric {

// Flows here are dense slots, reused by the owner.
class Shares {
 public:
  explicit Shares(const Topology& topology);

  void insert(std::uint32_t slot, const std::vector<LinkId>& links);  // links not empty, no duplicates
  void erase(std::uint32_t slot);
  void set_capacity(LinkId link, std::int64_t bytes_per_second);  // ≥ 0
  bool settled() const { return dirty_.empty(); }
  // Computes shares after the changes since the last call. Returns the slots whose rate was computed anew,
  // each once; their old rates are in old_rate until the next call. The list is valid until then.
  const std::vector<std::uint32_t>& settle();

  std::int64_t rate(std::uint32_t slot) const { return flows_[slot].rate; }
  std::int64_t old_rate(std::uint32_t slot) const { return flows_[slot].old_rate; }
  std::int64_t used(LinkId link) const { return links_[link.value()].used; }
  const std::vector<LinkId>& links_of(std::uint32_t slot) const { return flows_[slot].links; }
  std::size_t flows_on(LinkId link) const { return links_[link.value()].flows.size(); }
  std::uint32_t flow_on(LinkId link, std::size_t i) const { return links_[link.value()].flows[i].first; }

 private:
  struct FlowState {
    std::vector<LinkId> links;
    std::vector<std::uint32_t> places;  // where it stands in each link's list
    std::int64_t rate = 0, old_rate = 0;
    bool in_region = false, frozen = false;
  };
  struct LinkState {
    std::int64_t capacity = 0, used = 0;                         // used: sum of its flows' rates
    std::vector<std::pair<std::uint32_t, std::uint32_t>> flows;  // slot, index into the flow's links
    bool binding = false;  // fewer than one spare byte per second for each flow
    bool in_region = false, dirty = false, expanded = false;
    std::int64_t left = 0;  // while filling
    std::uint32_t unfrozen = 0;
  };

  void mark(std::uint32_t link);
  void expand(std::uint32_t link);
  void take(std::uint32_t slot);
  void grow_region();
  void fill();
  void freeze(std::uint32_t link, std::int64_t level);
  bool closed();

  std::vector<FlowState> flows_;
  std::vector<LinkState> links_;
  std::vector<std::uint32_t> dirty_;  // links whose flows or capacity changed
  std::vector<std::uint32_t> fresh_;  // flows inserted since
  std::vector<std::uint32_t> region_, region_links_, queue_;
  std::vector<std::pair<std::int64_t, std::uint32_t>> heap_;  // level, link: least first
};

}  // namespace orrery::fabric
