// The link between an instance's GPUs and their host: one queue per direction, first in, first out, in
// integer nanoseconds. PCIe is full duplex, so the directions do not take from one another; every GPU has a
// link of its own and moves its share of a block at the same time.
#pragma once

#include <cstdint>

#include "base/time.h"

namespace orrery {

struct TransferWork {
  enum class Direction : std::uint8_t { to_device, to_host } direction = Direction::to_device;
  std::uint64_t id = 0;      // of the instance, in the order of their issue
  std::int64_t blocks = 0;   // KV blocks
  bool behind_step = false;  // what the step just composed computes: not before it has ended on the device
};

class HostLink {
 public:
  // `bytes_per_block` on one GPU; `bytes_per_second` of one direction.
  HostLink(double bytes_per_block, double bytes_per_second)
      : ns_per_block_(bytes_per_block / bytes_per_second * 1e9) {}

  // When a transfer that may begin at `ready` has ended. Never faster than the bandwidth: rounded up.
  SimTime end_of(const TransferWork& work, SimTime ready) {
    SimTime& free = work.direction == TransferWork::Direction::to_device ? to_device_ : to_host_;
    const double ns = static_cast<double>(work.blocks) * ns_per_block_;
    const auto whole = static_cast<std::int64_t>(ns);
    free = later(free, ready) + SimDuration(whole + (static_cast<double>(whole) < ns ? 1 : 0));
    return free;
  }

 private:
  double ns_per_block_;
  SimTime to_device_ = SimTime(0), to_host_ = SimTime(0);
};

}  // namespace orrery
