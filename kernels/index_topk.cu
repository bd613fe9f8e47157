// The best k of a row of scores: the key of the k-th is found digit by digit from histograms of a block, then
// everything above it is written down, and of those equal to it the first.
#include "kernels/gpu_order.h"
#include "kernels/gpu_runtime.h"
#include "kernels/sparse_index.h"

namespace orrery::kernels {
namespace {

constexpr int threads = 1024, digit_bits = 11, bins = 1 << digit_bits;

GPU_DEVICE std::int32_t place_of(const IndexCache& cache, const IndexRow& row, int token) {
  const int block = token / cache.block_size;
  return cache.block_table[row.sequence * cache.table_stride + block] * cache.block_size +
         (token - block * cache.block_size);
}

GPU_DEVICE unsigned ones(std::uint64_t bits) {
  bits -= bits >> 1 & 0x5555555555555555U;
  bits = (bits & 0x3333333333333333U) + (bits >> 2 & 0x3333333333333333U);
  bits = (bits + (bits >> 4)) & 0x0F0F0F0F0F0F0F0FU;
  return static_cast<unsigned>(bits * 0x0101010101010101U >> 56);
}

// Which bin the `wanted`-th largest falls into, and how many are wanted of it. All threads of the block
// call it.
struct Found {
  unsigned bin, wanted, count;
};
GPU_DEVICE Found find_bin(unsigned* counts, unsigned wanted, unsigned* shared_found) {
  const unsigned thread = threadIdx.x;
  GPU_SHARED(unsigned, of_warp, gpu_most_warps);
  // Bins from the top: thread i has two of them.
  const unsigned top = bins - 1 - 2 * thread, below = top - 1;
  const unsigned in_top = counts[top], in_below = counts[below];
  unsigned before = in_top + in_below;  // of this thread and those before it in the warp
  for (unsigned step = 1; step < GPU_WARP; step *= 2) {
    const unsigned other = gpu_shuffle(before, (gpu_lane() - step) % GPU_WARP);
    if (gpu_lane() >= step) before += other;
  }
  if (gpu_lane() == GPU_WARP - 1) of_warp[gpu_warp_index()] = before;
  gpu_barrier();
  for (unsigned w = 0; w < gpu_warp_index(); w++) before += of_warp[w];
  before -= in_top + in_below;
  if (before < wanted && wanted <= before + in_top) {
    shared_found[0] = top, shared_found[1] = wanted - before, shared_found[2] = in_top;
  } else if (before + in_top < wanted && wanted <= before + in_top + in_below) {
    shared_found[0] = below, shared_found[1] = wanted - before - in_top, shared_found[2] = in_below;
  }
  gpu_barrier();
  return {shared_found[0], shared_found[1], shared_found[2]};
}

// Of the tokens whose key is `key`, the first `wanted`, to picks from `at` on.
GPU_DEVICE void take_first(const IndexTopkLaunch& p, const IndexRow& row, const float* scores,
                           std::int32_t* picks, std::uint32_t key, unsigned wanted, unsigned at) {
  GPU_SHARED(unsigned, of_warp, gpu_most_warps);
  unsigned done = 0;
  for (int first = 0; first < row.tokens && done < wanted; first += threads) {
    const int token = first + static_cast<int>(threadIdx.x);
    const bool equal = token < row.tokens && order_key(scores[token]) == key;
    const std::uint64_t all = gpu_ballot(equal);
    unsigned rank = ones(all & ((std::uint64_t{1} << gpu_lane()) - 1));
    if (gpu_lane() == 0) of_warp[gpu_warp_index()] = ones(all);
    gpu_barrier();
    unsigned of_block = 0;
    for (unsigned w = 0; w < blockDim.x / GPU_WARP; w++) {
      rank += w < gpu_warp_index() ? of_warp[w] : 0;
      of_block += of_warp[w];
    }
    gpu_barrier();
    if (equal && done + rank < wanted) picks[at + done + rank] = place_of(p.cache, row, token);
    done += of_block;
  }
}

__global__ void __launch_bounds__(threads) index_topk_kernel(const IndexTopkLaunch p) {
  GPU_SHARED(unsigned, counts, bins);
  GPU_SHARED(unsigned, found, 4);
  const IndexRow row = p.rows[blockIdx.x];
  const float* scores = p.scores + static_cast<std::int64_t>(blockIdx.x) * p.score_stride;
  std::int32_t* picks = p.picks + static_cast<std::int64_t>(blockIdx.x) * p.k;
  const int thread = static_cast<int>(threadIdx.x);
  if (row.tokens <= p.k) {
    for (int i = thread; i < p.k; i += threads) picks[i] = i < row.tokens ? place_of(p.cache, row, i) : -1;
    return;
  }
  std::uint32_t key = 0;  // its upper digits, as far as they are known
  unsigned wanted = static_cast<unsigned>(p.k), equal = 0;
  int left = 32;
  while (left > 0) {
    const int bits = left < digit_bits ? left : digit_bits, shift = left - bits;
    for (int i = thread; i < bins; i += threads) counts[i] = 0;
    gpu_barrier();
    for (int token = thread; token < row.tokens; token += threads) {
      const std::uint32_t of_token = order_key(scores[token]);
      const bool same = left == 32 || of_token >> left == key >> left;
      if (same) gpu_atomic_add(&counts[of_token >> shift & ((1U << bits) - 1)], 1U);
    }
    gpu_barrier();
    const Found at = find_bin(counts, wanted, found);
    key |= at.bin << shift;
    wanted = at.wanted;
    equal = at.count;
    left = shift;
    gpu_barrier();
  }
  if (thread == 0) found[3] = 0;
  gpu_barrier();
  const bool all_equal = equal == wanted;  // no choice among equals
  for (int token = thread; token < row.tokens; token += threads) {
    const std::uint32_t of_token = order_key(scores[token]);
    if (of_token > key || (all_equal && of_token == key)) {
      picks[gpu_atomic_add(&found[3], 1U)] = place_of(p.cache, row, token);
    }
  }
  if (!all_equal) take_first(p, row, scores, picks, key, wanted, static_cast<unsigned>(p.k) - wanted);
}

}  // namespace

void launch_index_topk(const IndexTopkLaunch& p, void* stream) {
  if (p.row_count == 0) return;
  gpu_launch(index_topk_kernel, {static_cast<unsigned>(p.row_count)}, threads, stream, p);
}

}  // namespace orrery::kernels
