// What travels on the fabric beside KV of requests: copies to and from host memory, and weights of experts.
#include <algorithm>

#include "base/check.h"
#include "sim/costed/fabric_transport.h"

namespace orrery {

namespace {
constexpr double least_left = 1e-3;  // of a link: a copy that all but stands still is foretold all the same
// Requests' keys stay below 2^62.
constexpr std::uint64_t move_keys = std::uint64_t{1} << 62, copy_keys = std::uint64_t{1} << 63;
}  // namespace

void FabricTransport::add_other(const fabric::FlowSpec& spec, SimTime now) {
  const auto flow = flows_.add(spec, now);
  ORRERY_CHECK(flow.ok(), "a flow over links that were asked for");
  others_[spec.key] = flow.value();
  meet(flow.value(), now);
}

void FabricTransport::other_arrived(const fabric::Arrival& arrival) {
  others_.erase(arrival.key);
  if (is_load(arrival.key)) return load_arrived(arrival.key, arrival.at);
  if (arrival.key >= copy_keys) return copies_->arrived(arrival.key - copy_keys, arrival.at);
  moves_[arrival.key - move_keys].at = arrival.at;
}

// A move goes on over the links that are left, a copy whose way is gone is over: nobody waits for ever.
void FabricTransport::other_cut(const fabric::CutFlow& cut, SimTime now) {
  if (shared_) part(cut.flow, now);
  others_.erase(cut.key);
  if (is_load(cut.key)) return load_cut(cut.key, cut.bytes_left, now);
  if (cut.key >= copy_keys) return copies_->arrived(cut.key - copy_keys, now);
  move_over(cut.key - move_keys, cut.bytes_left, now);
}

// -------------------------------------------------------------------------------------------------- weights

void FabricTransport::begin_move(std::size_t instance, const LinkUse& use, SimTime now) {
  ORRERY_CHECK(!moves_[instance].at.is_never(), "one move at a time");
  const bool network = use.network_bytes > 0;
  moves_[instance] = {.side = network ? network_side() : inside_side(), .at = SimTime::never()};
  const double bytes =
      network ? use.network_bytes : shared_->bytes_of(instance, inside_side(), use.inside_ns);
  move_over(instance, round_half_even(bytes), now);
}

void FabricTransport::move_over(std::size_t instance, std::int64_t bytes, SimTime now) {
  std::vector<fabric::LinkId> links = shared_->side(instance, moves_[instance].side).links;
  if (!cut_.empty())
    std::erase_if(links, [&](fabric::LinkId l) {
      return cut_[l.value()] || cut_[fabric::Topology::reverse(l).value()];
    });
  if (links.empty() || bytes == 0) {
    moves_[instance].at = now;
    return;
  }
  add_other({.from = {}, .to = {}, .bytes = bytes, .key = move_keys + instance, .links = std::move(links)},
            now);
}

// --------------------------------------------------------------------------------------------------- copies

void FabricTransport::share_copies(std::vector<HostCopies::Seat> seats) {
  copies_.emplace(std::move(seats), [this](DeviceId from, DeviceId to, std::int64_t bytes, std::uint64_t key,
                                           SimTime now) {
    const auto flow = flows_.add({.from = from, .to = to, .bytes = bytes, .key = copy_keys + key}, now);
    if (!flow.ok()) return false;
    others_[copy_keys + key] = flow.value();
    meet(flow.value(), now);
    return true;
  });
}

void FabricTransport::copy(std::size_t instance, const TransferWork& work, SimTime ready, SimTime now) {
  pump(now);
  copies_->add(instance, work, ready);
  copies_->start_and_end(now);
}

// What is under way in its direction ends first, and leaves the copy the share that it has.
SimTime FabricTransport::copy_foretold(std::size_t instance, const TransferWork& work, SimTime ready,
                                       SimTime now) {
  pump(now);
  const bool to_device = work.direction == TransferWork::Direction::to_device;
  const double alone = copies_->seat(instance).bytes_per_second;
  SimTime ends = now;
  double slowdown = 0;
  for (const std::uint64_t key : copies_->under_way(instance, to_device)) {
    const auto it = others_.find(copy_keys + key);
    if (it == others_.end() || flows_.rate(it->second) <= 0) continue;  // it has drained
    const double rate = std::max(alone * least_left, static_cast<double>(flows_.rate(it->second)));
    const auto left = static_cast<double>(flows_.bytes_left(it->second, now));
    ends = later(ends, now + SimDuration(round_half_even(left / rate * 1e9)));
    slowdown = std::max({slowdown, 1.0, alone / rate});
  }
  if (slowdown == 0) slowdown = copy_slowdown(instance, to_device, now);
  const SimTime end = copies_->add_foretold(instance, work, ready, slowdown, ends);
  copies_->start_and_end(now);
  return end;
}

SimTime FabricTransport::next_copy() {
  const SimTime next = copies_->next_event();
  return copies_->flowing() ? earlier(next, flows_.next_end()) : next;
}

void FabricTransport::take_copies(std::size_t first, std::size_t count, std::vector<TransferDone>& done) {
  copies_->take(first, count, done);
}

void FabricTransport::drop_copies(std::size_t instance, SimTime now) {
  for (const std::uint64_t key : copies_->drop(instance)) {
    const auto it = others_.find(copy_keys + key);
    if (it == others_.end()) continue;
    flows_.remove(it->second, now);
    part(it->second, now);
    others_.erase(it);
  }
}

double FabricTransport::copy_slowdown(std::size_t instance, bool to_device, SimTime now) {
  pump(now);
  const std::size_t side = to_device ? to_device_side : to_host_side;
  const double per_byte = shared_->side(instance, side).wire * shared_->pace(instance, side, now).slowdown;
  return std::max(1.0, copies_->seat(instance).bytes_per_second * per_byte);
}

}  // namespace orrery
