#include "kernels/moe_combine.h"

#include "kernels/gpu_runtime.h"

namespace orrery::kernels {

namespace {

__global__ void __launch_bounds__(256) moe_combine_kernel(MoeCombineLaunch a) {
  const int width = a.columns / 8;
  const unsigned at = gpu_thread_index();
  const auto [token, vector] = gpu_place(at, static_cast<unsigned>(width));
  if (token >= static_cast<unsigned>(a.tokens)) return;
  const std::size_t choices = std::size_t{token} * static_cast<unsigned>(a.k);
  GpuFloat8 sum{};
  for (int j = 0; j < a.k; ++j) {
    const std::int64_t row = a.positions[choices + static_cast<unsigned>(j)];
    if (row < 0) continue;
    const float weight = a.weights[choices + static_cast<unsigned>(j)];
    const GpuFloat8 y =
        gpu_unpack_bf16(gpu_load<GpuBytes16>(a.y, static_cast<std::size_t>(row * width + vector)));
    GPU_UNROLL for (int i = 0; i < 8; ++i) sum.value[i] += weight * y.value[i];
  }
  gpu_store(a.out, at, gpu_pack8_bf16(sum));
}

}  // namespace

void launch_moe_combine(const MoeCombineLaunch& a, void* stream) {
  const std::int64_t work = std::int64_t{a.tokens} * (a.columns / 8);
  gpu_launch(moe_combine_kernel, {gpu_blocks_for(work, 256)}, 256, stream, a);
}

}  // namespace orrery::kernels
