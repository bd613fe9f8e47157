// Merges the pieces of sequences that were split over their context. Include it from .cu files only.
#pragma once

#include "kernels/attention_decode.h"
#include "kernels/gpu_runtime.h"
#include "kernels/matrix_tile.h"

namespace orrery::kernels {

constexpr int merge_threads = 512;

struct PieceResults {
  const DecodeMerge* merges;
  const float *partial, *log_sum;  // [slots][heads][head_dim], [slots][heads]
  void* out;                       // [sequences][heads][head_dim] bf16
  std::int32_t merge_count, heads;
};

// One block a sequence with several pieces and head; threads are (group of slots, `Each` dimensions).
template <int HeadDim, int Each>
__global__ void __launch_bounds__(merge_threads) merge_kernel(const PieceResults p) {
  constexpr int across = HeadDim / Each, groups = merge_threads / across;
  struct alignas(4 * Each) Part {
    float value[Each];
  };
  GPU_SHARED(Part, values, merge_threads);
  GPU_SHARED(float, sums, groups);
  const DecodeMerge merge = p.merges[blockIdx.x];
  const std::int64_t head = blockIdx.y;
  const int place = static_cast<int>(threadIdx.x) % across, group = static_cast<int>(threadIdx.x) / across;
  gpu_wait_for_previous();
  float largest = -gpu_infinity;
  for (int s = static_cast<int>(gpu_lane()); s < merge.slots; s += GPU_WARP) {
    const std::int64_t at = (merge.first_slot + s) * static_cast<std::int64_t>(p.heads) + head;
    largest = gpu_max(largest, p.log_sum[at]);
  }
  largest = gpu_group_max(largest);
  Part mine{};
  float sum = 0;
  ORRERY_UNROLL_BY(4)
  for (int s = group; s < merge.slots; s += groups) {
    const std::int64_t at = (merge.first_slot + s) * static_cast<std::int64_t>(p.heads) + head;
    const float factor = gpu_exp2(p.log_sum[at] - largest);
    const Part of_slot = gpu_load<Part>(p.partial + at * HeadDim, static_cast<std::size_t>(place));
    sum += factor;
    GPU_UNROLL for (int i = 0; i < Each; i++) mine.value[i] += factor * of_slot.value[i];
  }
  values[threadIdx.x] = mine;
  if (place == 0) sums[group] = sum;
  gpu_barrier();
  if (group != 0) return;
  for (int other = 1; other < groups; other++) {
    GPU_UNROLL for (int i = 0; i < Each; i++) mine.value[i] += values[other * across + place].value[i];
    sum += sums[other];
  }
  const std::int64_t at =
      (static_cast<std::int64_t>(merge.sequence) * p.heads + head) * HeadDim + place * Each;
  auto* out = static_cast<std::uint16_t*>(p.out) + at;
  GPU_UNROLL for (int i = 0; i < Each; i++) out[i] = gpu_to_bf16(mine.value[i] / sum);
}

template <int HeadDim, int Each>
void launch_merge(const PieceResults& p, void* stream) {
  if (p.merge_count == 0) return;
  gpu_launch_early(merge_kernel<HeadDim, Each>,
                   {static_cast<unsigned>(p.merge_count), static_cast<unsigned>(p.heads)}, merge_threads,
                   stream, p);
}

}  // namespace orrery::kernels
