// How the wgmma form of block products cuts a problem, and the thread of it that orders copies by the tensor
// copy engine into a ring of stages (sm_90a). S is a Shape of block_gemm_wgmma.cu.
#pragma once

#include "kernels/block_gemm.h"
#include "kernels/block_gemm_scales.h"
#include "kernels/block_gemm_store.h"
#include "kernels/block_tiles.h"
#include "kernels/cluster.h"
#include "kernels/tensor_map.h"

namespace orrery::kernels::block_wgmma {

struct Maps {  // for the copy engine
  CUtensorMap activations, weights;
};
struct Cut {
  std::int32_t stages = 0, shares_weights = 0, shares_activations = 0, splits = 1, blocks_each = 1;
  std::int32_t band = 0;
  BlockTail tail{};
  __host__ __device__ int sharing() const { return 1 + shares_weights + shares_activations; }
  __host__ __device__ int blocks() const { return sharing() * splits; }  // of a cluster; one of both is 1
  __host__ __device__ BlockTileUnit unit() const {
    return {1 + shares_weights, 1 + shares_activations, splits, band, tail};
  }
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

// Runs over stages and knows in which phase their barriers are.
template <class S>
struct Ring {
  SharedAddress base, barriers;
  unsigned stages, slot = 0, parity = 0;

  GPU_DEVICE_MEMBER Ring(SharedAddress shared, int count)
      : base(shared), barriers(shared + bytes(count) + 4 * S::groups * staging_bytes), stages(count) {}
  GPU_DEVICE_MEMBER static int bytes(int count) { return count * (S::stage_bytes + S::scale_bytes); }
  GPU_DEVICE_MEMBER SharedAddress scales() const {  // behind all stages
    return base + stages * S::stage_bytes + slot * S::scale_bytes;
  }
  GPU_DEVICE_MEMBER SharedAddress stage() const { return base + slot * S::stage_bytes; }
  GPU_DEVICE_MEMBER SharedAddress filled() const { return barriers + slot * S::barrier_bytes; }
  GPU_DEVICE_MEMBER SharedAddress emptied() const { return filled() + 8; }
  GPU_DEVICE_MEMBER void advance() {
    if (++slot == stages) {
      slot = 0;
      parity ^= 1U;
    }
  }
  GPU_DEVICE_MEMBER void prepare(int blocks) const {
    for (unsigned s = 0; s < stages; s++) {
      barrier_init(barriers + s * S::barrier_bytes, 1);  // filled: the thread that ordered the copies
      barrier_init(barriers + s * S::barrier_bytes + 8, 4 * S::groups * blocks);  // emptied: every warp that
                                                                                  // read
    }
    barrier_init_fence();
  }
  // Every warp that has read a stage says so, to both blocks when they share.
  GPU_DEVICE_MEMBER void give_back(int blocks) const {
    const unsigned lane = gpu_lane();
    if (blocks == 1) {
      if (lane == 0) barrier_arrive(emptied());
    } else if (lane < 2) {
      barrier_arrive_at(emptied(), lane);
    }
  }
};

template <class S>
GPU_DEVICE StepRange steps_of(const BlockGemm& p, const Cut& cut, const typename S::Walk& walk) {
  const int steps = (p.k + 127) / 128;
  if (S::in_parts && walk.in_parts(cut.unit())) {
    const int part = walk.part(cut.unit());
    return {steps * part / cut.tail.parts, steps * (part + 1) / cut.tail.parts};
  }
  if (!S::looks_ahead || cut.splits == 1) return {0, steps};
  const int rank = static_cast<int>(cluster_rank());
  return {steps * rank / cut.splits, steps * (rank + 1) / cut.splits};
}

// One operand's part of a stage: in whole, or this block's half of what both get.
GPU_DEVICE void copy_operand(SharedAddress to, const CUtensorMap* map, int k, int row, SharedAddress filled,
                             int shared_half, int rank) {
  if (shared_half == 0) {
    copy_box(to, map, k, row, filled);
  } else {
    copy_box_to_all(to + rank * shared_half * 128, map, k, row + rank * shared_half, filled, 3);
  }
}

template <class S>
GPU_DEVICE unsigned scale_bytes_of(const BlockGemm& p, const Tile& tile) {
  const int left = p.scale_block - tile.first_row / 4 * 4;
  return S::by_channel || left <= 0 ? 0 : 4 * min(left, S::scale_rows);
}

// Into as many stages as there are; how many steps' weights that was.
template <class S>
GPU_DEVICE int bring_first_weights(const BlockGemm& p, const Cut& cut, const Maps& maps,
                                   const typename S::Walk& walk, Ring<S> ring) {
  const StepRange range = steps_of<S>(p, cut, walk);
  const int count = min(cut.stages, range.end - range.first);
  for (int i = 0; i < count; i++, ring.advance()) {
    barrier_expect(ring.filled(), S::stage_bytes + scale_bytes_of<S>(p, walk.tile));
    copy_box(ring.stage() + S::weights_at, &maps.weights, (range.first + i) * 128,
             walk.tile.expert * p.n + walk.tile.first_column, ring.filled());
  }
  return count;
}

// By one thread.
template <class S>
GPU_DEVICE void order_copies(const BlockGemm& p, const Cut& cut, const Maps& maps,
                             const BlockTileTable& table, Ring<S> ring) {
  typename S::Walk walk(table, p, cut.unit(), static_cast<int>(cluster_rank()));
  constexpr int activations_at = S::swapped ? S::right_offset : 0;
  const int activation_half = cut.shares_activations != 0 ? S::tile_rows / 2 : 0;
  const int weight_half = cut.shares_weights != 0 ? S::tile_columns / 2 : 0;
  int brought = 0;  // of the first steps, whose weights do not wait for the launch in front
  if constexpr (S::early) {
    if (!walk.done()) brought = bring_first_weights<S>(p, cut, maps, walk, ring);
    gpu_wait_for_previous();
  }
  for (; !walk.done(); walk.next(table, p, cut.unit())) {
    const StepRange range = steps_of<S>(p, cut, walk);
    const int weight_row = walk.tile.expert * p.n + walk.tile.first_column;
    const unsigned scale_bytes = scale_bytes_of<S>(p, walk.tile);
    const float* scales = p.activation_scales + walk.tile.first_row / 4 * 4 +
                          static_cast<std::int64_t>(range.first) * p.scale_block;
    for (int step = range.first; step < range.end; step++, scales += p.scale_block) {
      barrier_wait(ring.emptied(), ring.parity ^ 1U);  // the first round finds all stages empty
      const bool there = S::early && brought-- > 0;
      if (!there) barrier_expect(ring.filled(), S::stage_bytes + scale_bytes);
      if (scale_bytes > 0) { copy_bytes(ring.scales(), scales, scale_bytes, ring.filled()); }
      copy_operand(ring.stage() + activations_at, &maps.activations, step * 128, walk.tile.first_row,
                   ring.filled(), activation_half, walk.rank);
      if (!there) {
        copy_operand(ring.stage() + S::weights_at, &maps.weights, step * 128, weight_row, ring.filled(),
                     weight_half, walk.rank);
      }
      ring.advance();
    }
  }
}

#endif

}  // namespace orrery::kernels::block_wgmma
