// Shared memory of a size that the launch says, in the CPU simulator, which gives every kernel as much as it
// asks for; the same for all matrix instructions that it emulates.
#pragma once

#include <cstddef>

#include "kernels/gpu_runtime.h"

namespace orrery::kernels {

#define ORRERY_UNROLL_BY(count)
#define ORRERY_DYNAMIC_SHARED(name, bytes) \
  static const char name##_site = 0;       \
  auto* name = static_cast<unsigned char*>(orrery::kernels::simulator::shared(&name##_site, bytes))

template <class Parameters>
void launch_shared(void (*kernel)(Parameters), GpuGrid grid, unsigned threads, std::size_t, void* stream,
                   const Parameters& parameters) {
  gpu_launch(kernel, grid, threads, stream, parameters);
}

}  // namespace orrery::kernels
