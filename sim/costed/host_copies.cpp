#include "sim/costed/host_copies.h"

#include <cmath>

#include "base/check.h"
#include "base/time.h"

namespace orrery {

namespace {
// Key of a flow: lane, the copy's number in it (mod 2^20), GPU.
constexpr std::uint64_t gpu_bits = 12, serial_bits = 20;
constexpr std::uint64_t serial_mask = (std::uint64_t{1} << serial_bits) - 1;

std::uint64_t key_of(std::size_t lane, std::uint64_t serial, std::size_t gpu) {
  return ((lane << serial_bits | (serial & serial_mask)) << gpu_bits) | static_cast<std::uint64_t>(gpu);
}

SimTime end_alone(const HostCopies::Seat& seat, std::int64_t blocks, SimTime begin) {
  HostLink alone(seat.bytes_per_block, seat.bytes_per_second);
  return alone.end_of({.direction = {}, .id = 0, .blocks = blocks, .behind_step = false}, begin);
}

SimTime end_slowed(const HostCopies::Seat& seat, std::int64_t blocks, double slowdown, SimTime begin) {
  const double alone = static_cast<double>(blocks) * seat.bytes_per_block / seat.bytes_per_second * 1e9;
  return end_alone(seat, blocks, begin) + SimDuration(round_half_even(alone * (slowdown - 1)));
}
}  // namespace

void HostCopies::add(std::size_t instance, const TransferWork& work, SimTime ready, bool told) {
  const std::size_t lane = lane_of(instance, work.direction == TransferWork::Direction::to_device);
  lanes_[lane].queue.push_back({work.id, work.blocks, ready, told});
  look_again(lane);
}

SimTime HostCopies::add_foretold(std::size_t instance, const TransferWork& work, SimTime ready,
                                 double slowdown, SimTime under_way_ends) {
  const Lane& lane = lanes_[lane_of(instance, work.direction == TransferWork::Direction::to_device)];
  const Seat& seat = seats_[instance];
  SimTime end = under_way_ends;
  for (const Copy& before : lane.queue) {
    const bool begun = lane.begun && &before == &lane.queue.front();
    end = begun ? later(end, lane.end) : end_slowed(seat, before.blocks, slowdown, later(end, before.ready));
  }
  end = end_slowed(seat, work.blocks, slowdown, later(end, ready));
  add(instance, work, ready, false);
  return end;
}

std::vector<std::uint64_t> HostCopies::under_way(std::size_t instance, bool to_device) const {
  const std::size_t index = lane_of(instance, to_device);
  const Lane& lane = lanes_[index];
  std::vector<std::uint64_t> keys;
  for (std::size_t g = 0; g < seats_[instance].gpus.size() && lane.flows > 0; ++g)
    keys.push_back(key_of(index, lane.serial, g));
  return keys;
}

// What has ended and was not taken is in the past, in whatever order.
SimTime HostCopies::next_event() const {
  return earlier(done_.empty() ? SimTime::never() : done_.front().at, due_.first_time());
}

void HostCopies::look_again(std::size_t index) {
  const Lane& lane = lanes_[index];
  SimTime next = SimTime::never();
  if (!lane.queue.empty() && !lane.begun) next = lane.queue.front().ready;
  if (lane.begun && lane.flows == 0) next = lane.end;
  due_.set(static_cast<std::uint32_t>(index), next);
}

void HostCopies::start(std::size_t index, SimTime now) {
  Lane& lane = lanes_[index];
  const Seat& seat = seats_[index / 2];
  const Copy& copy = lane.queue.front();
  const double bytes = static_cast<double>(copy.blocks) * seat.bytes_per_block;
  lane.end = end_alone(seat, copy.blocks, now);
  lane.begun = true;
  ++lane.serial;
  for (std::size_t g = 0; g < seat.gpus.size(); ++g) {
    const DeviceId gpu = seat.gpus[g], host = seat.hosts[g];
    const std::uint64_t key = key_of(index, lane.serial, g);
    const bool up = index % 2 == 0;
    if (!begin_(up ? host : gpu, up ? gpu : host, static_cast<std::int64_t>(std::ceil(bytes)), key, now))
      continue;  // cut off: its bytes are lost, and nobody asks for them
    ++lane.flows;
    ++flowing_;
  }
}

void HostCopies::start_and_end(SimTime now) {
  while (due_.first_time() <= now) {
    const std::size_t i = due_.first();
    Lane& lane = lanes_[i];
    while (!lane.queue.empty()) {
      if (!lane.begun && lane.queue.front().ready <= now) start(i, now);
      if (!lane.begun || lane.flows > 0 || lane.end > now) break;
      const Copy& copy = lane.queue.front();
      if (copy.told) done_.push_back({InstanceId(static_cast<std::uint32_t>(i / 2)), copy.id, lane.end});
      lane.queue.pop_front();
      lane.begun = false;
    }
    look_again(i);
  }
}

void HostCopies::arrived(std::uint64_t key, SimTime at) {
  const std::uint64_t serial = (key >> gpu_bits) & serial_mask;
  Lane& lane = lanes_[key >> (gpu_bits + serial_bits)];
  ORRERY_CHECK(lane.begun && (lane.serial & serial_mask) == serial && lane.flows > 0, "a copy under way");
  --lane.flows;
  --flowing_;
  lane.end = later(lane.end, at);
  look_again(key >> (gpu_bits + serial_bits));
}

void HostCopies::take(std::size_t first, std::size_t count, std::vector<TransferDone>& done) {
  for (const TransferDone& d : done_)
    if (d.instance.value() >= first && d.instance.value() < first + count)
      done.push_back({InstanceId(static_cast<std::uint32_t>(d.instance.value() - first)), d.id, d.at});
  std::erase_if(done_, [&](const TransferDone& d) {
    return d.instance.value() >= first && d.instance.value() < first + count;
  });
}

std::vector<std::uint64_t> HostCopies::drop(std::size_t instance) {
  std::vector<std::uint64_t> dropped;
  for (const bool to_device : {true, false}) {
    const std::size_t i = lane_of(instance, to_device);
    Lane& lane = lanes_[i];
    const std::vector<std::uint64_t> keys = under_way(instance, to_device);
    dropped.insert(dropped.end(), keys.begin(), keys.end());
    flowing_ -= lane.flows;
    lane.flows = 0;
    lane.begun = false;
    lane.queue.clear();
    look_again(i);
  }
  std::erase_if(done_, [&](const TransferDone& d) { return d.instance.value() == instance; });
  return dropped;
}

}  // namespace orrery
