// Many small copies in one launch: packets from wherever they lie to wherever they go, as a transfer of many
// short pieces is merged into one message, or taken apart again. A launch each would cost more than the
// bytes.
#pragma once

#include <cstdint>

namespace orrery::kernels {

struct Packet {
  const void* from = nullptr;  // both multiples of 16; packets do not overlap
  void* to = nullptr;
  std::int64_t bytes = 0;  // any number
};

struct MergePacketsLaunch {
  const Packet* packets = nullptr;  // device
  std::int32_t count = 0;
};

void launch_merge_packets(const MergePacketsLaunch& launch, void* stream);

}  // namespace orrery::kernels
