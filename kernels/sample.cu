#include "kernels/sample.h"

#include <algorithm>

#include "kernels/gpu_order.h"
#include "kernels/gpu_random.h"

namespace orrery::kernels {

namespace {

constexpr unsigned threads = 256;
constexpr float ln2 = 0.693147181F;

GPU_DEVICE float gumbel(std::uint32_t bits) { return -ln2 * gpu_log2(-ln2 * gpu_log2(gpu_uniform(bits))); }

// The best of a block, in every thread's hand that asks after the barrier: thread 0's.
GPU_DEVICE std::uint64_t block_best(std::uint64_t mine) {
  GPU_SHARED(std::uint64_t, parts, gpu_most_warps);
  const std::uint64_t of_warp = gpu_warp_max(mine);
  if (gpu_lane() == 0) parts[gpu_warp_index()] = of_warp;
  gpu_barrier();
  std::uint64_t best = 0;
  for (unsigned i = 0; i < threads / GPU_WARP; ++i) best = larger(best, parts[i]);
  gpu_barrier();
  return best;
}

template <bool noisy>
GPU_DEVICE std::uint64_t best_of_quads(const SampleLaunch& a, std::int64_t row, unsigned split,
                                       unsigned splits) {
  const float* logits = a.logits + row * a.vocabulary;
  const float temperature = noisy ? a.temperatures[row] : 0;
  const bool draw = temperature > 0;
  const float inverse = draw ? gpu_reciprocal(temperature) : 1.0F;
  std::uint64_t best = 0;
  const unsigned quads = static_cast<unsigned>(a.vocabulary) / 4;
  for (unsigned quad = split * threads + threadIdx.x; quad < quads; quad += splits * threads) {
    const GpuBytes16 raw = gpu_load<GpuBytes16>(logits, quad);
    GpuRandom4 random{};
    if (noisy && draw) random = gpu_philox(a.seeds[row], quad, a.steps[row]);
    GPU_UNROLL for (unsigned i = 0; i < 4; ++i) {
      float score = gpu_bit_cast<float>(raw.word[i]) * inverse;
      if (noisy && draw) score += gumbel(random.bits[i]);
      const std::uint32_t key = score != score ? 0xFFFFFFFFU : order_key(score);
      best = larger(best, order_pair(key, 4 * quad + i));
    }
  }
  return best;
}

// blockIdx.y is the row. Each block finds the best of its share; the row's last block to come compares the
// shares. The comparison is of integers, so that it does not matter who comes last.
template <bool noisy>
__global__ void __launch_bounds__(threads) sample_kernel(SampleLaunch a) {
  GPU_SHARED(unsigned, before, 1);
  const std::int64_t row = blockIdx.y;
  const unsigned splits = gridDim.x;
  std::uint64_t best = block_best(best_of_quads<noisy>(a, row, blockIdx.x, splits));
  if (threadIdx.x == 0) {
    gpu_atomic_write(&a.partial[row * sample_most_splits + blockIdx.x], best);
    gpu_fence();
    before[0] = gpu_atomic_add(&a.arrived[row], 1U);
  }
  gpu_barrier();
  if (before[0] + 1 < splits || threadIdx.x >= GPU_WARP) return;
  gpu_fence();
  best = 0;
  for (unsigned i = threadIdx.x; i < splits; i += GPU_WARP) {
    best = larger(best, gpu_atomic_read(&a.partial[row * sample_most_splits + i]));
  }
  best = gpu_warp_max(best);
  if (threadIdx.x > 0) return;
  a.tokens[row] = static_cast<std::int32_t>(index_of_pair(best));
  a.arrived[row] = 0;
}

}  // namespace

void launch_sample(const SampleLaunch& a, void* stream) {
  // Eight blocks a compute unit fill it; none with less than two rounds of work.
  const unsigned wanted = gpu_blocks_for(8 * gpu_compute_units(), a.rows);
  const unsigned useful = gpu_blocks_for(a.vocabulary / 4, 2 * threads);
  const unsigned splits = std::min({wanted, useful, static_cast<unsigned>(sample_most_splits)});
  auto* kernel = a.temperatures != nullptr ? sample_kernel<true> : sample_kernel<false>;
  gpu_launch(kernel, {std::max(splits, 1U), static_cast<unsigned>(a.rows)}, threads, stream, a);
}

}  // namespace orrery::kernels
