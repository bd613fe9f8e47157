#include "kernels/kv_write.h"

#include "kernels/gpu_runtime.h"

namespace orrery::kernels {

namespace {

// blockIdx.y 0 writes keys, 1 values; threads are dealt over tokens · width / 8.
template <bool fp8>
__global__ void __launch_bounds__(256) kv_write_kernel(KvWriteLaunch a) {
  const unsigned vectors = static_cast<unsigned>(a.width) / 8;
  const auto [token, vector] = gpu_place(gpu_thread_index(), vectors);
  if (token >= static_cast<unsigned>(a.tokens)) return;
  const std::int64_t slot = a.slots[token];
  if (slot < 0) return;
  const bool of_values = blockIdx.y == 1;
  const std::uint16_t* from = of_values ? a.values : a.keys;
  void* to = of_values ? a.value_cache : a.key_cache;
  const GpuBytes16 packed =
      gpu_load<GpuBytes16>(from, static_cast<std::size_t>(token * a.in_stride / 8 + vector));
  const std::size_t at = static_cast<std::size_t>(slot * vectors + vector);
  if constexpr (fp8) {
    const float factor = gpu_reciprocal(of_values ? a.value_scale : a.key_scale);
    gpu_store(to, at, gpu_pack8_fp8(gpu_unpack_bf16(packed), factor));
  } else {
    gpu_store(to, at, packed);
  }
}

}  // namespace

void launch_kv_write(const KvWriteLaunch& a, void* stream) {
  const GpuGrid grid = {gpu_blocks_for(std::int64_t{a.tokens} * (a.width / 8), 256), 2};
  gpu_launch(a.fp8 ? kv_write_kernel<true> : kv_write_kernel<false>, grid, 256, stream, a);
}

}  // namespace orrery::kernels
