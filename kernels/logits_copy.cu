#include "kernels/logits_copy.h"

#include "kernels/gpu_runtime.h"

namespace orrery::kernels {

namespace {

__global__ void __launch_bounds__(256) logits_copy_kernel(LogitsCopyLaunch a) {
  // Four values a thread, so that a warp's stores are one run of memory.
  const std::int64_t quad = gpu_thread_index();
  if (4 * quad >= a.elements) return;
  const GpuBytes8 in = gpu_load<GpuBytes8>(a.in, static_cast<std::size_t>(quad));
  gpu_store(
      a.out, static_cast<std::size_t>(quad),
      GpuBytes16{{in.word[0] << 16, in.word[0] & 0xFFFF0000U, in.word[1] << 16, in.word[1] & 0xFFFF0000U}});
}

}  // namespace

void launch_logits_copy(const LogitsCopyLaunch& a, void* stream) {
  gpu_launch(logits_copy_kernel, {gpu_blocks_for(a.elements / 4, 256)}, 256, stream, a);
}

}  // namespace orrery::kernels
