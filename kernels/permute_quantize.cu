#include "kernels/permute_quantize.h"

#include "kernels/row.h"

namespace orrery::kernels {

namespace {

// Threads are dealt over all vectors of the tokens; sixteen neighbours share a scale.
__global__ void __launch_bounds__(256) permute_groups_kernel(PermuteQuantizeLaunch a) {
  const int vectors = a.columns / 8;
  const unsigned at = gpu_thread_index();
  const auto [token, vector] = gpu_place(at, static_cast<unsigned>(vectors));
  const bool inside = token < static_cast<unsigned>(a.tokens);
  const GpuFloat8 values = inside ? gpu_unpack_bf16(gpu_load<GpuBytes16>(a.x, at)) : GpuFloat8{};
  const float scale = scale_for(gpu_group_max<lanes_of_group>(largest_magnitude(values)));
  if (!inside) return;
  const GpuBytes8 packed = gpu_pack8_fp8(values, gpu_reciprocal(scale));
  const std::size_t choices = std::size_t{token} * static_cast<unsigned>(a.k);
  for (int j = 0; j < a.k; ++j) {
    const std::int64_t row = a.positions[choices + static_cast<unsigned>(j)];
    if (row < 0) continue;
    gpu_store(a.out.values, static_cast<std::size_t>(row * vectors + vector), packed);
    if (vector % lanes_of_group == 0)
      a.out.scales[row * a.out.row_stride + vector / lanes_of_group * a.out.group_stride] = scale;
  }
}

// A block a token: its largest magnitude is asked for once.
template <int vectors>
__global__ void __launch_bounds__(1024) permute_tokens_kernel(PermuteQuantizeLaunch a) {
  const std::size_t token = blockIdx.x;
  const Row<vectors> row = load_row<vectors>(a.x + token * static_cast<std::size_t>(a.columns), a.columns);
  float largest = 0;
  GPU_UNROLL for (int v = 0; v < vectors; ++v) largest = gpu_max(largest, largest_magnitude(row.part[v]));
  const float scale = scale_for(gpu_block_max(largest)), factor = gpu_reciprocal(scale);
  for (int j = 0; j < a.k; ++j) {
    const std::int64_t to = a.positions[token * static_cast<unsigned>(a.k) + static_cast<unsigned>(j)];
    if (to < 0) continue;
    if (threadIdx.x == 0) a.out.scales[to * a.out.row_stride] = scale;
    GPU_UNROLL for (int v = 0; v < vectors; ++v) {
      const int at = static_cast<int>(threadIdx.x + v * blockDim.x);
      if (at < a.columns / 8)
        gpu_store(a.out.values, static_cast<std::size_t>(to * (a.columns / 8) + at),
                  gpu_pack8_fp8(row.part[v], factor));
    }
  }
}

}  // namespace

void launch_permute_quantize(const PermuteQuantizeLaunch& a, void* stream) {
  if (a.out.scaling == Fp8Scaling::group) {
    const GpuGrid flat = {gpu_blocks_for(std::int64_t{a.tokens} * a.columns / 8, 256)};
    return gpu_launch(permute_groups_kernel, flat, 256, stream, a);
  }
  for_row(a.columns, [&](auto vectors, unsigned threads) {
    gpu_launch(permute_tokens_kernel<decltype(vectors)::count>, {static_cast<unsigned>(a.tokens)}, threads,
               stream, a);
  });
}

}  // namespace orrery::kernels
