// Grouped GEMM with Hopper's wgmma. One warp orders copies by the tensor copy engine into a ring of stages,
// one or two warpgroups of 64 rows multiply; all walk over the same tiles (grouped_tiles.h) and meet in
// barriers of the stages only, so that copies of the next tile run while this one is stored. Rows of the next
// expert that a copy brings along cost nothing but their bytes: they are not stored.
//
// e4m3: the accumulators of a block of 128 are scaled into a second set in fp32. The tensor cores keep about
// 14 bits of 8-bit products; without this, errors would grow with k.
#include "kernels/grouped_gemm.h"
#include "kernels/grouped_tiles.h"
#include "kernels/tensor_map.h"
#include "kernels/wgmma.h"

namespace orrery::kernels {
namespace grouped_wgmma {  // named: on sm_89 much of it is unused, which the compiler reports of unnamed ones

using Table = TileTable<grouped_gemm_max_experts>;

template <bool Fp8, int Groups, int Columns, int Stages, int Resident = 1>
struct Shape {
  static constexpr bool fp8 = Fp8;
  static constexpr int groups = Groups, rows = 64 * Groups, columns = Columns, stages = Stages;
  static constexpr int threads = 128 * (Groups + 1), accumulators = Columns / 2;
  static constexpr int resident = Resident;  // blocks of a multiprocessor; their registers must fit
  static constexpr int weights_offset = rows * 128, stage_bytes = (rows + Columns) * 128;
  static constexpr int barriers_offset = Stages * stage_bytes, table_offset = barriers_offset + Stages * 16;
  static constexpr int shared_bytes = table_offset + static_cast<int>(sizeof(Table));
};

// Runs over stages and knows in which phase their barriers are.
template <class S>
struct Ring {
  SharedAddress base;
  unsigned slot = 0, parity = 0;

  GPU_DEVICE_MEMBER explicit Ring(SharedAddress shared) : base(shared) {}
  GPU_DEVICE_MEMBER SharedAddress stage() const { return base + slot * S::stage_bytes; }
  GPU_DEVICE_MEMBER SharedAddress filled() const { return base + S::barriers_offset + slot * 16; }
  GPU_DEVICE_MEMBER SharedAddress emptied() const { return filled() + 8; }
  GPU_DEVICE_MEMBER void advance() {
    if (++slot == S::stages) {
      slot = 0;
      parity ^= 1U;
    }
  }
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

// By one thread.
template <class S>
GPU_DEVICE void order_copies(const GroupedGemm& p, const CUtensorMap* activations, const CUtensorMap* weights,
                             const Table& table, int steps, Ring<S> ring) {
  TileCursor cursor;
  cursor.start(table, p.row_offsets, steps);
  constexpr int elements = S::fp8 ? 128 : 64;
  while (!cursor.done()) {
    barrier_wait(ring.emptied(), ring.parity ^ 1U);  // the first round finds all stages empty
    barrier_expect(ring.filled(), S::stage_bytes);
    copy_box(ring.stage(), activations, cursor.step * elements, cursor.tile.first_row, ring.filled());
    copy_box(ring.stage() + S::weights_offset, weights, cursor.step * elements,
             cursor.tile.expert * p.n + cursor.tile.first_column, ring.filled());
    ring.advance();
    cursor.advance(table, p.row_offsets);
  }
}

// The four instructions of a stage.
template <class S>
GPU_DEVICE void multiply_stage(float (&sums)[S::accumulators], SharedAddress stage, int group, bool add) {
  const std::uint64_t a = matrix_descriptor(stage + static_cast<unsigned>(group) * 64 * 128);
  const std::uint64_t b = matrix_descriptor(stage + S::weights_offset);
  wgmma_fence();
  GPU_UNROLL for (unsigned step = 0; step < 4; step++) {
    const int adds = add || step > 0 ? 1 : 0;
    if constexpr (S::fp8) {
      wgmma_e4m3(sums, a + 2 * step, b + 2 * step, adds);
    } else {
      wgmma_bf16(sums, a + 2 * step, b + 2 * step, adds);
    }
  }
  wgmma_commit();
}

template <class S>
GPU_DEVICE void store(const GroupedGemm& p, const Tile& tile, int group,
                      const float (&sums)[S::accumulators]) {
  const int lane = static_cast<int>(gpu_lane()), warp = static_cast<int>(gpu_warp_index()) % 4;
  const int column0 = tile.first_column + lane % 4 * 2;
  GPU_UNROLL for (int half = 0; half < 2; half++) {
    const int row = 64 * group + 16 * warp + lane / 4 + 8 * half;
    if (row >= tile.rows) continue;
    std::uint16_t* to =
        static_cast<std::uint16_t*>(p.out) + static_cast<std::int64_t>(tile.first_row + row) * p.n;
    GPU_UNROLL for (int j = 0; j < S::columns / 8; j++) {
      const int column = column0 + 8 * j;
      const std::uint32_t two = gpu_pack_bf16(sums[4 * j + 2 * half], sums[4 * j + 2 * half + 1]);
      if (p.n % 2 == 0 && column < p.n) {
        *reinterpret_cast<std::uint32_t*>(to + column) = two;
      } else {
        if (column < p.n) to[column] = static_cast<std::uint16_t>(two);
        if (column + 1 < p.n) to[column + 1] = static_cast<std::uint16_t>(two >> 16);
      }
    }
  }
}

// Products of one stage stay under way while the next is waited for.
template <class S>
GPU_DEVICE void multiply_tile_bf16(int steps, int group, Ring<S>& ring, float (&sums)[S::accumulators]) {
  SharedAddress before = 0;
  for (int step = 0; step < steps; step++) {
    barrier_wait(ring.filled(), ring.parity);
    multiply_stage<S>(sums, ring.stage(), group, step > 0);
    wgmma_wait<1>();
    if (step > 0 && gpu_lane() == 0) barrier_arrive(before);
    before = ring.emptied();
    ring.advance();
  }
  wgmma_wait<0>();
  if (gpu_lane() == 0) barrier_arrive(before);
}

template <class S>
GPU_DEVICE void multiply_tile_fp8(const GroupedGemm& p, const Tile& tile, int steps, int group, Ring<S>& ring,
                                  float (&total)[S::accumulators]) {
  const int row = 64 * group + static_cast<int>(gpu_warp_index()) % 4 * 16 + static_cast<int>(gpu_lane()) / 4;
  const float* of_weights =
      p.weight_scales +
      (static_cast<std::int64_t>(tile.expert) * ((p.n + 127) / 128) + tile.first_column / 128) * steps;
  const float* of_rows = p.activation_scales + static_cast<std::int64_t>(tile.first_row + row) * steps;
  GPU_UNROLL for (int i = 0; i < S::accumulators; i++) total[i] = 0;
  for (int step = 0; step < steps; step++) {
    const float weight = of_weights[step];  // asked for before the stage is waited for
    const float low = row < tile.rows ? of_rows[step] : 0.0F;
    const float high = row + 8 < tile.rows ? of_rows[8 * static_cast<std::int64_t>(steps) + step] : 0.0F;
    float block[S::accumulators];
    barrier_wait(ring.filled(), ring.parity);
    multiply_stage<S>(block, ring.stage(), group, false);
    wgmma_wait<0>();
    if (gpu_lane() == 0) barrier_arrive(ring.emptied());
    const float factor[2] = {low * weight, high * weight};
    GPU_UNROLL for (int i = 0; i < S::accumulators; i++) total[i] += block[i] * factor[i % 4 / 2];
    ring.advance();
  }
}

#endif

template <class S>
__global__ void __launch_bounds__(S::threads, S::resident)
    wgmma_kernel(const __grid_constant__ CUtensorMap activations, const __grid_constant__ CUtensorMap weights,
                 const __grid_constant__ GroupedGemm p) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  ORRERY_DYNAMIC_SHARED(shared, S::shared_bytes);
  Table& table = *reinterpret_cast<Table*>(shared + S::table_offset);
  Ring<S> ring(shared_address(shared));
  if (threadIdx.x == 0) {
    for (unsigned s = 0; s < S::stages; s++) {
      const SharedAddress barrier = shared_address(shared) + S::barriers_offset + s * 16;
      barrier_init(barrier, 1);                  // filled: the thread that ordered the copies
      barrier_init(barrier + 8, 4 * S::groups);  // emptied: every warp that read
    }
    barrier_init_fence();
    prefetch_map(&activations);
    prefetch_map(&weights);
  }
  fill_tile_table<S::threads>(table, p.row_offsets, p.experts, S::rows, S::columns, p.n);  // ends with a
                                                                                           // barrier
  const int steps = static_cast<int>((static_cast<std::int64_t>(p.k) * (S::fp8 ? 1 : 2) + 127) / 128);
  const int group = static_cast<int>(threadIdx.x) / 128;
  if (group == S::groups) {
    if (threadIdx.x == 128 * S::groups) order_copies<S>(p, &activations, &weights, table, steps, ring);
    return;
  }
  TileCursor cursor;
  cursor.start(table, p.row_offsets, 1);  // tile by tile
  for (; !cursor.done(); cursor.advance(table, p.row_offsets)) {
    float sums[S::accumulators];
    if constexpr (S::fp8) {
      multiply_tile_fp8<S>(p, cursor.tile, steps, group, ring, sums);
    } else {
      multiply_tile_bf16<S>(steps, group, ring, sums);
    }
    store<S>(p, cursor.tile, group, sums);
  }
#endif
}

// A row-major matrix in boxes of 128 bytes × `box_rows`.
CUtensorMap matrix_map(const void* data, bool fp8, std::int64_t rows, std::int64_t columns, int box_rows) {
  TensorMapShape shape;
  const std::int64_t element = fp8 ? 1 : 2;
  shape.fp8 = fp8;
  shape.extent[0] = static_cast<cuuint64_t>(columns);
  shape.extent[1] = static_cast<cuuint64_t>(rows);
  shape.stride[0] = static_cast<cuuint64_t>(columns * element);
  shape.box[0] = static_cast<cuuint32_t>(128 / element);
  shape.box[1] = static_cast<cuuint32_t>(box_rows);
  return tensor_map(data, shape);
}

template <class S>
void launch_shape(const GroupedGemm& p, void* stream) {
  const CUtensorMap activations = matrix_map(p.activations, S::fp8, p.rows, p.k, S::rows);
  const CUtensorMap weights =
      matrix_map(p.weights, S::fp8, static_cast<std::int64_t>(p.experts) * p.n, p.k, S::columns);
  const std::int64_t row_tiles = p.rows / S::rows + p.experts;
  const std::int64_t tiles = row_tiles * ((p.n + S::columns - 1) / S::columns);
  const std::int64_t at_once = std::int64_t{gpu_compute_units()} * S::resident;
  static_cast<void>(
      cudaFuncSetAttribute(wgmma_kernel<S>, cudaFuncAttributeMaxDynamicSharedMemorySize, S::shared_bytes));
  wgmma_kernel<S><<<static_cast<unsigned>(tiles < at_once ? tiles : at_once), S::threads, S::shared_bytes,
                    static_cast<cudaStream_t>(stream)>>>(activations, weights, p);
}

}  // namespace grouped_wgmma

const char* grouped_gemm_wgmma_refusal() { return wgmma_refusal(); }

void grouped_gemm_wgmma(const GroupedGemm& problem, void* stream) {
  using namespace grouped_wgmma;
  if (problem.rows == 0 || problem.n == 0 || problem.k == 0) return;
  const bool small = problem.tile_rows > 0 && problem.tile_rows <= 64;
  if (problem.fp8_block) {
    small ? launch_shape<Shape<true, 1, 128, 8>>(problem, stream)
          : launch_shape<Shape<true, 2, 128, 6>>(problem, stream);
  } else if (small) {
    launch_shape<Shape<false, 1, 128, 4, 2>>(problem, stream);
  } else if (problem.n % 256 == 0 || problem.n >= 2048) {
    launch_shape<Shape<false, 2, 256, 4>>(problem, stream);
  } else {
    launch_shape<Shape<false, 2, 128, 6>>(problem, stream);
  }
}

}  // namespace orrery::kernels
