#include "sim/costed/shared_links.h"

#include <algorithm>
#include <utility>

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
      users_(topology.link_count()), held_(topology.link_count()), left_(topology.link_count(), 1.0) {
  for (std::size_t i = 0; i < sides.size(); ++i) {
    for (std::size_t s = 0; s < sides[i].size(); ++s) {
      for (const fabric::LinkId link : sides[i][s].links)
        users_[link.value()].push_back({static_cast<std::uint32_t>(i), static_cast<std::uint32_t>(s)});
      instances_[i].watched |= !sides[i][s].links.empty();
      Side& side = instances_[i].sides.emplace_back();
      side.of = std::move(sides[i][s]);
      side.ways = side.of.links;
      for (const fabric::LinkId link : side.of.links) {
        const auto rate = static_cast<double>(topology.link(link).bytes_per_second);
        side.narrowest = side.narrowest == 0 ? rate : std::min(side.narrowest, rate);
      }
    }
  }
}

std::int32_t SharedLinks::flows_on(std::size_t instance, std::size_t side) const {
  std::size_t most = 0;
  for (const fabric::LinkId link : instances_[instance].sides[side].ways)
    most = std::max(most, held_[link.value()].size());
  return static_cast<std::int32_t>(most);
}

bool SharedLinks::meets_traffic(std::size_t instance) const {
  for (const Side& side : instances_[instance].sides) {
    if (side.detour < 1) return true;
    for (const fabric::LinkId link : side.ways)
      if (!held_[link.value()].empty() || left_[link.value()] < 1) return true;
  }
  return false;
}

// `without`: as if that side put nothing on it.
void SharedLinks::reserve(fabric::LinkId link, const Side* without, SimTime now) {
  const std::vector<User>& users = users_[link.value()];
  const auto flows = static_cast<double>(held_[link.value()].size());
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
  for (const fabric::LinkId link : side.ways) {
    const double rate = static_cast<double>(topology_.link(link).bytes_per_second) * left_[link.value()];
    if (rate > 0 && (least == 0 || rate < least)) least = rate;
    if (!held_[link.value()].empty() && rate > 0) held.push_back(link);
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

// How long the link with most needs for what its flows have left, and nothing else.
double SharedLinks::drained_ns(const Side& side, SimTime now) {
  double most = 0;
  for (const fabric::LinkId link : side.ways) {
    const double rate = static_cast<double>(topology_.link(link).bytes_per_second) * left_[link.value()];
    if (rate <= 0) continue;
    double bytes = 0;
    for (const fabric::FlowId flow : held_[link.value()])
      bytes += static_cast<double>(flows_.bytes_left(flow, now));
    most = std::max(most, bytes / rate * 1e9);
  }
  return most;
}

double SharedLinks::left_of(const std::vector<fabric::LinkId>& links) const {
  double least = 1;
  for (const fabric::LinkId link : links) least = std::min(least, left_[link.value()]);
  return least;
}

LinkPace::Side SharedLinks::pace(std::size_t instance, std::size_t index, SimTime now) {
  Side& side = instances_[instance].sides[index];
  if (side.known != version_) {
    side.known = version_;
    side.pace = {};
    if (side.of.links.empty()) return side.pace;
    side.pace.left = side.detour < 1 ? side.detour : left_of(side.ways);
    const double share = probe(side, now);
    if (share > 0) side.pace.slowdown = side.of.of_priced * side.narrowest / (share * side.detour);
  }
  if (side.pace.slowdown > 1) side.pace.most_ns = drained_ns(side, now);
  return side.pace;
}

void SharedLinks::demand(std::size_t instance, std::size_t index, double bytes_per_second, SimTime now) {
  Side& side = instances_[instance].sides[index];
  if (side.rate == bytes_per_second) return;
  side.rate = bytes_per_second;
  for (const fabric::LinkId link : side.ways)
    if (!held_[link.value()].empty()) reserve(link, nullptr, now);
}

void SharedLinks::nothing_in_flight(std::size_t instance, SimTime now) {
  for (std::size_t s = 0; s < instances_[instance].sides.size(); ++s) demand(instance, s, 0, now);
}

void SharedLinks::begin(fabric::FlowId flow, const std::vector<fabric::LinkId>& route, SimTime now,
                        std::vector<InstanceId>& touched) {
  ++version_;
  for (const fabric::LinkId link : route) {
    held_[link.value()].push_back(flow);
    reserve(link, nullptr, now);
    for (const User& user : users_[link.value()]) touched.emplace_back(user.instance);
  }
}

void SharedLinks::end(fabric::FlowId flow, const std::vector<fabric::LinkId>& route, SimTime now) {
  ++version_;
  for (const fabric::LinkId link : route) {
    std::erase(held_[link.value()], flow);
    reserve(link, nullptr, now);
  }
}

void SharedLinks::take_ways(std::uint32_t instance, std::uint32_t index, std::vector<fabric::LinkId> ways,
                            SimTime now) {
  Side& side = instances_[instance].sides[index];
  if (side.ways == ways) return;
  const auto it_is = [&](const User& user) { return user.instance == instance && user.side == index; };
  const std::vector<fabric::LinkId> before = std::exchange(side.ways, std::move(ways));
  for (const fabric::LinkId link : before) std::erase_if(users_[link.value()], it_is);
  for (const fabric::LinkId link : side.ways) users_[link.value()].push_back({instance, index});
  for (const fabric::LinkId link : before) reserve(link, nullptr, now);
  for (const fabric::LinkId link : side.ways) reserve(link, nullptr, now);
}

// Of every side that faults have cut: its bytes over what is left of its ways, or none.
void SharedLinks::detour(SimTime now) {
  const auto is_cut = [&](fabric::LinkId link) { return left_[link.value()] == 0; };
  for (std::uint32_t i = 0; i < instances_.size(); ++i) {
    for (std::uint32_t s = 0; s < instances_[i].sides.size(); ++s) {
      Side& side = instances_[i].sides[s];
      const bool whole = std::none_of(side.of.links.begin(), side.of.links.end(), is_cut);
      if (whole) {
        side.detour = 1;
        take_ways(i, s, side.of.links, now);
        continue;
      }
      auto load = link_side(routes_, topology_, side.of.kind, side.of.groups);
      const bool goes = load.ok() && load.value().wire > 0;
      side.detour =
          goes ? std::min(1.0, side.of.wire / load.value().wire * left_of(load.value().links)) : least_left;
      take_ways(i, s, goes ? std::move(load.value().links) : std::vector<fabric::LinkId>(), now);
    }
  }
}

void SharedLinks::set_left(fabric::LinkId link, double factor, SimTime now) {
  ++version_;
  const bool was_cut = left_[link.value()] == 0, cut = factor == 0;
  left_[link.value()] = factor;
  reserve(link, nullptr, now);
  if (cut != was_cut) {
    for (const fabric::LinkId direction : {link, fabric::Topology::reverse(link)}) {
      cut ? routes_.fail(direction) : routes_.restore(direction);
      if (cut) left_[direction.value()] = 0;
      if (!cut && left_[direction.value()] == 0) left_[direction.value()] = 1;
    }
  }
  detour(now);
}

}  // namespace orrery
