#include "sim/costed/shared_links.h"

#include <algorithm>

#include "base/check.h"

namespace orrery {

SharedLinks::SharedLinks(fabric::Flows& flows, const fabric::Topology& topology,
                         std::vector<std::vector<fabric::LinkId>> links)
    : flows_(flows), topology_(topology), owner_(topology.link_count(), -1), held_(topology.link_count(), 0) {
  for (std::size_t i = 0; i < links.size(); ++i) {
    for (const fabric::LinkId link : links[i]) {
      ORRERY_CHECK(owner_[link.value()] < 0, "a NIC carries the collectives of one instance");
      owner_[link.value()] = static_cast<std::int32_t>(i);
    }
    instances_.push_back({.links = std::move(links[i])});
  }
}

void SharedLinks::count(Sharer& sharer) const {
  sharer.flows = 0;
  for (const fabric::LinkId link : sharer.links) sharer.flows = std::max(sharer.flows, held_[link.value()]);
}

void SharedLinks::reserve(fabric::LinkId link, SimTime now) {
  const Sharer& sharer = instances_[static_cast<std::size_t>(owner_[link.value()])];
  const double flows = held_[link.value()];
  const auto rate = static_cast<double>(topology_.link(link).bytes_per_second);
  const double wanted = flows == 0 ? 0 : std::min(sharer.rate, rate / (flows + 1));
  flows_.reserve(link, round_half_even(wanted), now);
}

void SharedLinks::demand(std::size_t instance, double bytes_per_second, SimTime now) {
  Sharer& sharer = instances_[instance];
  sharer.rate = bytes_per_second;
  if (sharer.flows == 0) return;
  for (const fabric::LinkId link : sharer.links)
    if (held_[link.value()] > 0) reserve(link, now);
}

void SharedLinks::begin(const std::vector<fabric::LinkId>& route, SimTime now,
                        std::vector<InstanceId>& touched) {
  for (const fabric::LinkId link : route) {
    if (!shared(link)) continue;
    ++held_[link.value()];
    const auto owner = static_cast<std::uint32_t>(owner_[link.value()]);
    count(instances_[owner]);
    reserve(link, now);
    touched.emplace_back(owner);
  }
}

void SharedLinks::end(const std::vector<fabric::LinkId>& route, SimTime now) {
  for (const fabric::LinkId link : route) {
    if (!shared(link)) continue;
    --held_[link.value()];
    count(instances_[static_cast<std::size_t>(owner_[link.value()])]);
    reserve(link, now);
  }
}

}  // namespace orrery
