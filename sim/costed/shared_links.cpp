#include "sim/costed/shared_links.h"

#include <algorithm>

#include "base/check.h"

namespace orrery {

namespace {
constexpr std::uint64_t probe_key = UINT64_MAX;
constexpr double least_left = 1e-3;  // of a side that several cuts leave no way: its steps all but stand
                                     // still
}  // namespace

SharedLinks::SharedLinks(fabric::Flows& flows, const fabric::Topology& topology,
                         std::vector<std::vector<LinkSide>> sides)
    : flows_(flows), topology_(topology), routes_(topology), instances_(sides.size()),
      users_(topology.link_count()), held_(topology.link_count(), 0), left_(topology.link_count(), 1.0) {
  for (std::size_t i = 0; i < sides.size(); ++i) {
    for (std::size_t s = 0; s < sides[i].size(); ++s) {
      for (const fabric::LinkId link : sides[i][s].links)
        users_[link.value()].push_back({static_cast<std::uint32_t>(i), static_cast<std::uint32_t>(s)});
      instances_[i].watched |= !sides[i][s].links.empty();
      Side& side = instances_[i].sides.emplace_back();
      side.of = std::move(sides[i][s]);
      for (const fabric::LinkId link : side.of.links) {
        const auto rate = static_cast<double>(topology.link(link).bytes_per_second);
        side.narrowest = side.narrowest == 0 ? rate : std::min(side.narrowest, rate);
      }
    }
  }
}

std::int32_t SharedLinks::flows_on(std::size_t instance, std::size_t side) const {
  std::int32_t most = 0;
  for (const fabric::LinkId link : instances_[instance].sides[side].of.links)
    most = std::max(most, held_[link.value()]);
  return most;
}

bool SharedLinks::meets_traffic(std::size_t instance) const {
  for (const Side& side : instances_[instance].sides)
    for (const fabric::LinkId link : side.of.links)
      if (held_[link.value()] > 0 || left_[link.value()] < 1) return true;
  return false;
}

// `without`: as if that side put nothing on it.
void SharedLinks::reserve(fabric::LinkId link, const Side* without, SimTime now) {
  const std::vector<User>& users = users_[link.value()];
  const double flows = held_[link.value()];
  if (users.empty()) return;
  const double rate = static_cast<double>(topology_.link(link).bytes_per_second) * left_[link.value()];
  double wanted = 0;
  for (const User& user : users) {
    const Side& side = instances_[user.instance].sides[user.side];
    if (flows > 0 && &side != without)
      wanted += std::min(side.rate, rate / (flows + static_cast<double>(users.size())));
  }
  flows_.reserve(link, round_half_even(wanted), now);
}

// What a flow over all of the side's links gets beside those that are there, bytes a second; 0: none are.
double SharedLinks::probe(const Side& side, SimTime now) {
  std::vector<fabric::LinkId> held;
  double least = 0;
  for (const fabric::LinkId link : side.of.links) {
    const double rate = static_cast<double>(topology_.link(link).bytes_per_second) * left_[link.value()];
    if (rate > 0 && (least == 0 || rate < least)) least = rate;
    if (held_[link.value()] > 0 && rate > 0) held.push_back(link);
  }
  if (held.empty()) return 0;
  for (const fabric::LinkId link : held) reserve(link, &side, now);
  const auto flow =
      flows_.add({.from = {}, .to = {}, .bytes = INT64_C(1) << 62, .key = probe_key, .links = held}, now);
  ORRERY_CHECK(flow.ok(), "links that carry flows carry one more");
  least = std::min(least, static_cast<double>(std::max<std::int64_t>(1, flows_.rate(flow.value()))));
  flows_.remove(flow.value(), now);
  for (const fabric::LinkId link : held) reserve(link, nullptr, now);
  return least;
}

LinkPace::Side SharedLinks::pace(std::size_t instance, std::size_t index, SimTime now) {
  Side& side = instances_[instance].sides[index];
  if (side.known == version_) return side.pace;
  side.known = version_;
  side.pace = {};
  if (side.of.links.empty()) return side.pace;
  for (const fabric::LinkId link : side.of.links)
    if (left_[link.value()] > 0) side.pace.left = std::min(side.pace.left, left_[link.value()]);
  side.pace.left *= side.detour;
  const double share = probe(side, now);
  if (share > 0) side.pace.slowdown = side.of.of_priced * side.narrowest / (share * side.detour);
  return side.pace;
}

void SharedLinks::demand(std::size_t instance, std::size_t index, double bytes_per_second, SimTime now) {
  Side& side = instances_[instance].sides[index];
  if (side.rate == bytes_per_second) return;
  side.rate = bytes_per_second;
  for (const fabric::LinkId link : side.of.links)
    if (held_[link.value()] > 0) reserve(link, nullptr, now);
}

void SharedLinks::nothing_in_flight(std::size_t instance, SimTime now) {
  for (std::size_t s = 0; s < instances_[instance].sides.size(); ++s) demand(instance, s, 0, now);
}

void SharedLinks::begin(const std::vector<fabric::LinkId>& route, SimTime now,
                        std::vector<InstanceId>& touched) {
  ++version_;
  for (const fabric::LinkId link : route) {
    ++held_[link.value()];
    reserve(link, nullptr, now);
    for (const User& user : users_[link.value()]) touched.emplace_back(user.instance);
  }
}

void SharedLinks::end(const std::vector<fabric::LinkId>& route, SimTime now) {
  ++version_;
  for (const fabric::LinkId link : route) {
    --held_[link.value()];
    reserve(link, nullptr, now);
  }
}

// A side's bytes over what is left of its ways.
void SharedLinks::detour(fabric::LinkId link) {
  for (const fabric::LinkId direction : {link, fabric::Topology::reverse(link)}) {
    for (const User& user : users_[direction.value()]) {
      Side& side = instances_[user.instance].sides[user.side];
      const auto load = link_side(routes_, topology_, side.of.kind, side.of.groups);
      side.detour =
          load.ok() && load.value().wire > 0 ? std::min(1.0, side.of.wire / load.value().wire) : least_left;
    }
  }
}

void SharedLinks::set_left(fabric::LinkId link, double factor, SimTime now) {
  ++version_;
  const bool was_cut = left_[link.value()] == 0, cut = factor == 0;
  left_[link.value()] = factor;
  reserve(link, nullptr, now);
  if (cut == was_cut) return;
  for (const fabric::LinkId direction : {link, fabric::Topology::reverse(link)}) {
    cut ? routes_.fail(direction) : routes_.restore(direction);
    if (cut) left_[direction.value()] = 0;
    if (!cut && left_[direction.value()] == 0) left_[direction.value()] = 1;
  }
  detour(link);
}

}  // namespace orrery
