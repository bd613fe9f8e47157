#include "kernels/kv_write.h"

#include "kernels/gpu_runtime.h"

namespace orrery::kernels {

namespace {

// Where the first of eight neighbouring elements of a vectorised cache lies, and the step to the next.
struct VectorPlace {
  std::int64_t first;
  int step;
};
template <bool fp8>
GPU_DEVICE VectorPlace vector_place(const KvWriteLaunch& a, std::int64_t slot, unsigned element,
                                    bool of_values) {
  constexpr int each = fp8 ? 16 : 8;  // elements in 16 bytes
  const int dim = a.head_dim, size = a.block_size;
  const int head = static_cast<int>(element) / dim, d = static_cast<int>(element) % dim;
  const std::int64_t block = slot / size;
  const int token = static_cast<int>(slot - block * size);
  const std::int64_t start = (block * (a.width / dim) + head) * dim * size;
  if (of_values) return {start + (token / each * dim + d) * each + token % each, each};
  return {start + (d / each * size + token) * each + d % each, 1};
}

// blockIdx.y 0 writes keys, 1 values; threads are dealt over tokens · width / 8.
template <bool fp8, KvLayout Layout>
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
  if constexpr (Layout == KvLayout::vectorised) {
    const VectorPlace place = vector_place<fp8>(a, slot, 8 * vector, of_values);
    if constexpr (fp8) {
      const float factor = gpu_reciprocal(of_values ? a.value_scale : a.key_scale);
      const GpuBytes8 bytes = gpu_pack8_fp8(gpu_unpack_bf16(packed), factor);
      auto* cache = static_cast<std::uint8_t*>(to) + place.first;
      if (!of_values) return gpu_store(cache, 0, bytes);
      GPU_UNROLL for (int i = 0; i < 8; ++i) {
        cache[i * place.step] = static_cast<std::uint8_t>(bytes.word[i / 4] >> (8 * (i % 4)));
      }
    } else {
      auto* cache = static_cast<std::uint16_t*>(to) + place.first;
      if (!of_values) return gpu_store(cache, 0, packed);
      GPU_UNROLL for (int i = 0; i < 8; ++i) {
        cache[i * place.step] = static_cast<std::uint16_t>(packed.word[i / 2] >> (16 * (i % 2)));
      }
    }
  } else if constexpr (fp8) {
    const float factor = gpu_reciprocal(of_values ? a.value_scale : a.key_scale);
    gpu_store(to, at, gpu_pack8_fp8(gpu_unpack_bf16(packed), factor));
  } else {
    gpu_store(to, at, packed);
  }
}

}  // namespace

void launch_kv_write(const KvWriteLaunch& a, void* stream) {
  const GpuGrid grid = {gpu_blocks_for(std::int64_t{a.tokens} * (a.width / 8), 256), 2};
  const auto plain = a.fp8 ? kv_write_kernel<true, KvLayout::plain> : kv_write_kernel<false, KvLayout::plain>;
  const auto vectorised =
      a.fp8 ? kv_write_kernel<true, KvLayout::vectorised> : kv_write_kernel<false, KvLayout::vectorised>;
  gpu_launch(a.layout == KvLayout::plain ? plain : vectorised, grid, 256, stream, a);
}

}  // namespace orrery::kernels
