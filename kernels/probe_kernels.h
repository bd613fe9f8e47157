// Kernels that probes time: nothing but memory traffic, or nothing at all.
#pragma once

#include <cstdint>

namespace orrery::kernels {

enum class Traffic : std::uint8_t { read, write, copy };

struct TrafficLaunch {
  Traffic traffic = Traffic::read;
  void* memory = nullptr;   // 16-byte aligned; copy: from the first half to the second
  std::int64_t bytes = 0;   // of the working set, a multiple of 32
  std::int32_t passes = 1;  // over the working set, within one launch
};
void launch_traffic(const TrafficLaunch& launch, void* stream);

void launch_empty(void* stream);  // one block of 32 threads that returns

}  // namespace orrery::kernels
