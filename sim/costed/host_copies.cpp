#include "sim/costed/host_copies.h"

#include <cmath>

#include "base/check.h"
#include "base/time.h"

namespace orrery {

namespace {
// Key of a flow: lane, the copy's number in it (mod 2^20), GPU.
constexpr std::uint64_t gpu_bits = 12, serial_bits = 20;
constexpr std::uint64_t serial_mask = (std::uint64_t{1} << serial_bits) - 1;
}  // namespace

void HostCopies::add(std::size_t instance, const TransferWork& work, SimTime ready) {
  const bool up = work.direction == TransferWork::Direction::to_device;
  const std::size_t lane = 2 * instance + (up ? 0 : 1);
  lanes_[lane].queue.push_back({work.id, work.blocks, ready});
  look_again(lane);
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
  HostLink alone(seat.bytes_per_block, seat.bytes_per_second);
  lane.end = alone.end_of({.direction = {}, .id = 0, .blocks = copy.blocks, .behind_step = false}, now);
  lane.begun = true;
  ++lane.serial;
  for (std::size_t g = 0; g < seat.gpus.size(); ++g) {
    const DeviceId gpu = seat.gpus[g], host = seat.hosts[g];
    const std::uint64_t key =
        ((index << serial_bits | (lane.serial & serial_mask)) << gpu_bits) | static_cast<std::uint64_t>(g);
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
      done_.push_back({InstanceId(static_cast<std::uint32_t>(i / 2)), lane.queue.front().id, lane.end});
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
  std::vector<std::uint64_t> under_way;
  for (std::size_t i = 2 * instance; i < 2 * instance + 2; ++i) {
    Lane& lane = lanes_[i];
    for (std::size_t g = 0; g < seats_[instance].gpus.size() && lane.flows > 0; ++g)
      under_way.push_back(((i << serial_bits | (lane.serial & serial_mask)) << gpu_bits) | g);
    flowing_ -= lane.flows;
    lane.flows = 0;
    lane.begun = false;
    lane.queue.clear();
    look_again(i);
  }
  std::erase_if(done_, [&](const TransferDone& d) { return d.instance.value() == instance; });
  return under_way;
}

}  // namespace orrery
