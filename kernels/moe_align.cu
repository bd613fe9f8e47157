#include "kernels/moe_align.h"

#include "kernels/gpu_runtime.h"

namespace orrery::kernels {

namespace {

// A counting sort in pieces of `piece` rows: count per piece and expert, turn the counts into begins, place.
// A single piece (decode batches) does all three in one launch.
constexpr int piece = 512;
constexpr unsigned threads = 512;

// Of a row, by this rank's numbers; −1: another rank's.
GPU_DEVICE int expert_of(const MoeAlignLaunch& a, int row) {
  const int expert = a.chosen[row] - a.first_expert;
  return expert >= 0 && expert < a.experts ? expert : -1;
}

GPU_DEVICE void count_piece(const MoeAlignLaunch& a, int index, int* counts) {
  GPU_SHARED(int, found, moe_most_experts);
  const int me = static_cast<int>(threadIdx.x);
  found[me] = 0;
  gpu_barrier();
  const int row = index * piece + me;
  const int expert = row < a.rows ? expert_of(a, row) : -1;
  if (expert >= 0) gpu_atomic_add(&found[expert], 1);  // integers: any order gives the same sum
  gpu_barrier();
  if (me < a.experts) counts[me] = found[me];
}

// counts[piece][expert] become the ranks, within the expert, of the piece's first row; then offsets, counts,
// the blocks' experts and the padding follow. One block.
GPU_DEVICE void scan(const MoeAlignLaunch& a, int pieces, int* counts) {
  GPU_SHARED(int, ends, moe_most_experts);
  const int expert = static_cast<int>(threadIdx.x);
  int total = 0;
  if (expert < a.experts) {
    for (int p = 0; p < pieces; ++p) {
      const int here = counts[p * a.experts + expert];
      counts[p * a.experts + expert] = total;
      total += here;
    }
    a.counts[expert] = total;
  }
  const int padded = (total + a.block - 1) / a.block * a.block;
  ends[expert] = padded;
  gpu_barrier();
  for (int step = 1; step < moe_most_experts; step *= 2) {
    const int before = expert >= step ? ends[expert - step] : 0;
    gpu_barrier();
    ends[expert] += before;
    gpu_barrier();
  }
  const int used = ends[a.experts - 1];
  if (expert < a.experts) {
    a.offsets[expert] = ends[expert] - padded;
    for (int i = ends[expert] - padded + total; i < ends[expert]; ++i) a.sorted[i] = a.rows;
  }
  if (expert == 0) a.offsets[a.experts] = used;
  const int blocks =
      static_cast<int>((std::int64_t{a.rows} + std::int64_t{a.experts} * (a.block - 1)) / a.block);
  for (int b = expert; b < blocks; b += static_cast<int>(threads)) {
    int low = 0, high = a.experts;  // the first expert that ends behind this block's begin
    while (low < high) {
      const int middle = (low + high) / 2;
      if (ends[middle] > b * a.block)
        high = middle;
      else
        low = middle + 1;
    }
    a.block_experts[b] = b * a.block < used ? low : -1;
  }
}

GPU_DEVICE void place_piece(const MoeAlignLaunch& a, int index, const int* begins) {
  GPU_SHARED(int, experts, piece);
  const int me = static_cast<int>(threadIdx.x);
  const int row = index * piece + me;
  const int expert = row < a.rows ? expert_of(a, row) : -1;
  experts[me] = expert;
  gpu_barrier();
  if (row >= a.rows) return;
  if (expert < 0) {
    a.positions[row] = -1;
    return;
  }
  int rank = begins[expert];
  for (int i = 0; i < me; ++i) rank += experts[i] == expert;  // all lanes read the same word: a broadcast
  const int at = a.offsets[expert] + rank;
  a.sorted[at] = row;
  a.positions[row] = at;
}

__global__ void __launch_bounds__(threads) align_small_kernel(MoeAlignLaunch a) {
  count_piece(a, 0, a.workspace);
  scan(a, 1, a.workspace);
  gpu_barrier();
  place_piece(a, 0, a.workspace);
}
__global__ void __launch_bounds__(threads) align_count_kernel(MoeAlignLaunch a) {
  const int index = static_cast<int>(blockIdx.x);
  count_piece(a, index, a.workspace + index * a.experts);
}
__global__ void __launch_bounds__(threads) align_scan_kernel(MoeAlignLaunch a, int pieces) {
  scan(a, pieces, a.workspace);
}
__global__ void __launch_bounds__(threads) align_place_kernel(MoeAlignLaunch a) {
  const int index = static_cast<int>(blockIdx.x);
  place_piece(a, index, a.workspace + index * a.experts);
}

}  // namespace

std::int64_t moe_align_capacity(std::int64_t rows, std::int64_t experts, std::int64_t block) {
  return (rows + experts * (block - 1)) / block * block;
}
std::int64_t moe_align_workspace(std::int64_t rows, std::int64_t experts) {
  return (rows + piece - 1) / piece * experts;
}

void launch_moe_align(const MoeAlignLaunch& a, void* stream) {
  const unsigned pieces = gpu_blocks_for(a.rows, piece);
  if (pieces == 1) return gpu_launch(align_small_kernel, {1}, threads, stream, a);
  gpu_launch(align_count_kernel, {pieces}, threads, stream, a);
  gpu_launch(align_scan_kernel, {1}, threads, stream, a, static_cast<int>(pieces));
  gpu_launch(align_place_kernel, {pieces}, threads, stream, a);
}

}  // namespace orrery::kernels
