// Products with weights of four bits with Hopper's wgmma. Weights are the operand that has 64 rows an
// instruction and comes from registers: a lane reads its 16 bytes of a packed unit (w4_fragments.h), turns
// them into e4m3 or bf16, and while the instructions of a step run makes the operands of the next. One warp
// orders copies by the copy engine into a ring of stages: 128 features in of a tile's units, their scales,
// and the rows of activations. Sums over the 128 are kept apart and added in fp32. Up to 16 rows of bf16 go
// by mma.sync instead, whose operands and sums lie alike in the lanes (79 µs in place of 85 for 8 rows each
// of 128 experts, 1536 × 2048, on an H200).
#include <algorithm>

#include "kernels/block_gemm_store.h"
#include "kernels/block_tiles.h"
#include "kernels/tensor_map.h"
#include "kernels/w4_fragments.h"
#include "kernels/w4_gemm.h"
#include "kernels/wgmma_registers.h"

namespace orrery::kernels {
namespace w4_wgmma {  // named: on sm_89 much of it is unused, which the compiler reports of unnamed ones

template <bool Wide, int Rows>
struct Shape {
  static constexpr bool wide = Wide;
  static constexpr int groups = 2, rows = Rows, columns = 64 * groups, accumulators = Rows / 2;
  // mma.sync: bf16 needs twice as many instructions of a warpgroup as e4m3, however few rows there are.
  static constexpr bool by_warps = Wide && Rows <= 16;
  // What the warps that only order copies do not need goes to those that multiply, where these are short.
  static constexpr bool trades_registers = Rows == 128;
  static constexpr int threads = 128 * groups + (trades_registers ? 128 : 32);
  // Few rows: two or three blocks, so that one multiplies while another waits.
  static constexpr int blocks_per_unit = !Wide && Rows == 8 ? 3 : (Rows <= 32 ? 2 : 1);
  static constexpr int halves = Wide ? 2 : 1, half_bytes = Rows * 128;  // 128 bytes of a row each
  static constexpr int weights_offset = halves * half_bytes, weight_bytes = columns / 16 * w4_unit_bytes;
  static constexpr int scales_offset = weights_offset + weight_bytes, scale_bytes = columns * 2;
  static constexpr int stage_bytes = (scales_offset + scale_bytes + 1023) / 1024 * 1024;
  static constexpr int staged_rows = Rows < 16 ? 16 : (Rows < 64 ? Rows : 64),
                       warp_staging = staged_rows * 32;
  static constexpr int barrier_bytes = 16, most_stages = 16;
  static constexpr int fixed_bytes =
      4 * groups * warp_staging + most_stages * barrier_bytes + static_cast<int>(sizeof(BlockTileTable));
  static constexpr int room = (227 / blocks_per_unit - (blocks_per_unit > 1 ? 1 : 0)) * 1024 - fixed_bytes;
  static constexpr int stages = room / stage_bytes < most_stages ? room / stage_bytes : most_stages;
  static constexpr int staging_offset = stages * stage_bytes;
  static constexpr int barriers_offset = staging_offset + 4 * groups * warp_staging;
  static constexpr int table_offset = barriers_offset + most_stages * barrier_bytes;
  static constexpr int shared_bytes = stages * stage_bytes + fixed_bytes;
  using Walk = BlockWalk<rows, columns>;
  static_assert(stages >= 3 && half_bytes % 1024 == 0);
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

template <class S>
struct Ring {
  SharedAddress base;
  unsigned slot = 0, parity = 0;

  GPU_DEVICE_MEMBER explicit Ring(SharedAddress shared) : base(shared) {}
  GPU_DEVICE_MEMBER SharedAddress stage() const { return base + slot * S::stage_bytes; }
  GPU_DEVICE_MEMBER SharedAddress filled() const {
    return base + S::barriers_offset + slot * S::barrier_bytes;
  }
  GPU_DEVICE_MEMBER SharedAddress emptied() const { return filled() + 8; }
  GPU_DEVICE_MEMBER void advance() {
    if (++slot == S::stages) {
      slot = 0;
      parity ^= 1U;
    }
  }
  GPU_DEVICE_MEMBER void prepare() const {
    for (unsigned s = 0; s < S::stages; s++) {
      const SharedAddress barrier = base + S::barriers_offset + s * S::barrier_bytes;
      barrier_init(barrier, 1);                  // filled: the thread that ordered the copies
      barrier_init(barrier + 8, 4 * S::groups);  // emptied: every warp that read
    }
    barrier_init_fence();
  }
};

// By one thread.
template <class S>
GPU_DEVICE void order_copies(const W4Gemm& p, const CUtensorMap& activations, const BlockTileTable& table,
                             Ring<S> ring) {
  const BlockGemm& q = p.product;
  const int steps = q.k / w4_group;
  const std::int64_t units = w4_units(q.n);
  const auto* weights = static_cast<const unsigned char*>(q.weights);
  for (typename S::Walk walk(table, q, BlockTileUnit{}, 0); !walk.done();
       walk.next(table, q, BlockTileUnit{})) {
    const int left = static_cast<int>(units) - walk.tile.first_column / 16;
    const unsigned count = min(left, S::columns / 16);
    std::int64_t unit = std::int64_t{walk.tile.expert} * steps * units + walk.tile.first_column / 16;
    for (int step = 0; step < steps; step++, unit += units) {
      barrier_wait(ring.emptied(), ring.parity ^ 1U);  // the first round finds all stages empty
      barrier_expect(ring.filled(), S::weights_offset + count * (w4_unit_bytes + 32));
      copy_bytes(ring.stage() + S::weights_offset, weights + unit * w4_unit_bytes, count * w4_unit_bytes,
                 ring.filled());
      copy_bytes(ring.stage() + S::scales_offset, p.group_scales + unit * 16, count * 32, ring.filled());
      GPU_UNROLL for (int half = 0; half < S::halves; half++) {
        copy_box(ring.stage() + half * S::half_bytes, &activations, step * w4_group + half * 64,
                 walk.tile.first_row, ring.filled());
      }
      ring.advance();
    }
  }
}

GPU_DEVICE float read_scale(SharedAddress from) {
  std::uint16_t bits;
  asm volatile("ld.shared.u16 %0, [%1];" : "=h"(bits) : "r"(from) : "memory");
  return gpu_from_bf16(bits);
}

// This warp's weights for half a stage, as operands.
template <class S>
struct HeldWeights {
  static constexpr int steps = W4Order<S::wide>::steps / 2, steps_a_chunk = W4Order<S::wide>::steps_a_chunk;
  std::uint32_t left[steps][4];

  GPU_DEVICE_MEMBER void load(SharedAddress stage, unsigned half) {
    static_assert(w4_chunks == 2 && steps == steps_a_chunk);
    const GpuBytes16 packed = w4_chunk(stage + static_cast<unsigned>(S::weights_offset) +
                                       gpu_warp_index() * w4_unit_bytes + half * 512 + gpu_lane() * 16);
    GPU_UNROLL for (int step = 0; step < steps; step++) {
      MatrixOperand held;
      w4_operand<S::wide>(held, packed, step);
      // The halves of the rows change places: packed is as the right operand of mma.sync has them.
      left[step][0] = held.word[0], left[step][1] = held.word[2];
      left[step][2] = held.word[1], left[step][3] = held.word[3];
    }
  }
  // block (+)= (64 features of this warpgroup) · (rows)ᵀ over the half; under way on return.
  GPU_DEVICE_MEMBER void multiply(SharedAddress stage, int half, float (&block)[S::accumulators]) const {
    if constexpr (S::by_warps) return multiply_by_warps(stage, half, block);
    wgmma_fence();
    GPU_UNROLL for (int i = 0; i < steps; i++) {
      const int step = half * steps + i;
      const SharedAddress rows = stage + static_cast<unsigned>(step / 4 * S::half_bytes);
      WgmmaFromRegisters<S::wide, S::rows>::multiply(
          block, left[i], matrix_descriptor(rows) + static_cast<unsigned>(step % 4) * 2, step > 0 ? 1 : 0);
    }
    wgmma_commit();
  }

 private:
  // The same by mma.sync, whose fragments lie alike: ldmatrix gives two steps' operands of eight rows.
  GPU_DEVICE_MEMBER void multiply_by_warps(SharedAddress stage, int half,
                                           float (&block)[S::accumulators]) const {
    const SharedAddress rows = stage + static_cast<unsigned>(half * S::half_bytes);
    const unsigned row = gpu_lane() % 8, chunk = gpu_lane() / 8;
    GPU_UNROLL for (unsigned j = 0; j < S::rows / 8; j++) {
      float sums[4] = {0, 0, 0, 0};
      GPU_UNROLL for (int c = 0; c < 4 && half > 0; c++) sums[c] = block[4 * j + c];
      GPU_UNROLL for (unsigned pair = 0; pair < steps / 2; pair++) {
        std::uint32_t right[4];
        load_matrix_x4(right, rows + swizzled_128(8 * j + row, 4 * pair + chunk));
        mma_bf16(sums, left[2 * pair], right[0], right[1]);
        mma_bf16(sums, left[2 * pair + 1], right[2], right[3]);
      }
      GPU_UNROLL for (int c = 0; c < 4; c++) block[4 * j + c] = sums[c];
    }
  }
};

// While products of one half are under way, the weights of the next are made.
template <class S>
GPU_DEVICE void multiply_tile(int steps, Ring<S>& ring, float (&total)[S::accumulators]) {
  GPU_UNROLL for (int i = 0; i < S::accumulators; i++) total[i] = 0;
  HeldWeights<S> first, second;
  barrier_wait(ring.filled(), ring.parity);
  first.load(ring.stage(), 0);
  for (int step = 1; step <= steps; step++) {
    float block[S::accumulators];
    first.multiply(ring.stage(), 0, block);
    second.load(ring.stage(), 1);
    second.multiply(ring.stage(), 1, block);
    const SharedAddress scales = ring.stage() + S::scales_offset + gpu_warp_index() * 32 + gpu_lane() / 4 * 2;
    const float scale[2] = {read_scale(scales), read_scale(scales + 16)};
    const SharedAddress emptied = ring.emptied();
    ring.advance();
    if constexpr (!S::by_warps) wgmma_wait<1>();
    if (step < steps) {
      barrier_wait(ring.filled(), ring.parity);
      first.load(ring.stage(), 0);
    }
    if constexpr (S::by_warps) {
      __syncwarp();  // every lane has read the stage
    } else {
      wgmma_wait<0>();
    }
    if (gpu_lane() == 0) barrier_arrive(emptied);
    GPU_UNROLL for (int i = 0; i < S::accumulators; i++) total[i] += block[i] * scale[i % 4 / 2];
  }
}

// Of a tile's rows, as a lane has them as columns.
template <class S>
struct RowScales {
  float of[S::rows / 4];

  GPU_DEVICE_MEMBER void load(const BlockGemm& p, const Tile& tile) {
    GPU_UNROLL for (int i = 0; i < S::rows / 4; i++) {
      of[i] = S::wide ? 1
                      : row_scale(p, tile, i / 2 * 8 + static_cast<int>(gpu_lane()) % 4 * 2 + i % 2) *
                            w4_e4m3_worth;
    }
  }
};

template <class S>
GPU_DEVICE void store_tile(const BlockGemm& p, Tile tile, const RowScales<S>& scales,
                           float (&total)[S::accumulators], unsigned char* staging) {
  GPU_UNROLL for (int i = 0; i < S::accumulators && !S::wide; i++) total[i] *= scales.of[i / 4 * 2 + i % 2];
  const int feature = static_cast<int>(gpu_warp_index()) / 4 * 64;
  constexpr int count = S::staged_rows / 2;
  GPU_UNROLL for (int part = 0; part < (S::rows + 63) / 64; part++) {
    float sums[count];
    GPU_UNROLL for (int i = 0; i < count; i++) sums[i] = i < S::accumulators ? total[part * count + i] : 0.0F;
    store_transposed<false>(p, tile, feature, sums, staging);
    tile.first_row += S::staged_rows;
    tile.rows -= S::staged_rows;
  }
}

template <class S>
GPU_DEVICE void multiply_tiles(const BlockGemm& p, const BlockTileTable& table, Ring<S> ring,
                               unsigned char* staging) {
  typename S::Walk next(table, p, BlockTileUnit{}, 0);
  while (!next.done()) {
    // Asked for before the products: either takes as long to come as a step of k.
    const Tile tile = next.tile;
    next.next(table, p, BlockTileUnit{});
    RowScales<S> scales;
    if constexpr (S::rows <= 32) scales.load(p, tile);
    float total[S::accumulators];
    multiply_tile<S>(p.k / w4_group, ring, total);
    if constexpr (S::rows > 32) scales.load(p, tile);
    store_tile<S>(p, tile, scales, total, staging);
  }
}

#endif

template <class S>
__global__ void __launch_bounds__(S::threads, S::blocks_per_unit)
    w4_gemm_kernel(const __grid_constant__ CUtensorMap activations, const __grid_constant__ W4Gemm p) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  ORRERY_DYNAMIC_SHARED(shared, 0);
  Ring<S> ring(shared_address(shared));
  BlockTileTable& table = *reinterpret_cast<BlockTileTable*>(shared + S::table_offset);
  if (threadIdx.x == 0) {
    ring.prepare();
    prefetch_map(&activations);
  }
  prepare_block_walk<S::threads, S::rows, S::columns>(table, p.product, BlockTileUnit{});
  gpu_barrier();
  if (gpu_warp_index() >= 4 * S::groups) {
    if constexpr (S::trades_registers) give_registers<40>();
    if (threadIdx.x == 128 * S::groups) order_copies<S>(p, activations, table, ring);
  } else {
    if constexpr (S::trades_registers) take_registers<232>();
    multiply_tiles<S>(p.product, table, ring,
                      shared + S::staging_offset + gpu_warp_index() * S::warp_staging);
  }
#endif
}

// How many blocks share a multiprocessor: more of them hide what a tile costs beside its steps, but the last
// round of tiles may leave more of them idle. Nanoseconds as timed on an H200.
template <class S>
std::int64_t blocks_at_once(const BlockGemm& p) {
  constexpr double step = 250, alone = 450, tile = 1600;
  const std::int64_t each = std::max(p.rows_each, 1), units = gpu_compute_units();
  const std::int64_t busy = p.layout == BlockGemmExperts::contiguous
                                ? std::min<std::int64_t>(p.experts, (p.rows + each - 1) / each)
                                : p.experts;
  const std::int64_t tiles = busy * ((each + S::rows - 1) / S::rows) * ((p.n + S::columns - 1) / S::columns);
  std::int64_t best = S::blocks_per_unit;
  double least = 0;
  for (std::int64_t blocks = S::blocks_per_unit; blocks >= 1; --blocks) {
    const double of_a_step = blocks == 1 ? alone : step * static_cast<double>(blocks);
    const double ns = static_cast<double>((tiles + units * blocks - 1) / (units * blocks)) *
                      (p.k / double{w4_group} * of_a_step + tile);
    if (least > 0 && ns >= least) continue;
    least = ns;
    best = blocks;
  }
  return units * best;
}

template <class S>
void launch_shape(const W4Gemm& p, void* stream) {
  TensorMapShape shape;
  shape.fp8 = !S::wide;
  shape.extent[0] = static_cast<cuuint64_t>(p.product.k);
  shape.extent[1] = static_cast<cuuint64_t>(p.product.rows);
  shape.stride[0] = static_cast<cuuint64_t>(p.product.k) * S::halves;
  shape.box[0] = 128 / S::halves;
  shape.box[1] = static_cast<cuuint32_t>(S::rows);
  static_cast<void>(
      cudaFuncSetAttribute(w4_gemm_kernel<S>, cudaFuncAttributeMaxDynamicSharedMemorySize, S::shared_bytes));
  // Rows are cut by expert, so each may add one tile.
  const std::int64_t tiles = (std::int64_t{p.product.rows} / S::rows + p.product.experts) *
                             ((p.product.n + S::columns - 1) / S::columns);
  w4_gemm_kernel<S>
      <<<static_cast<unsigned>(std::min(tiles, blocks_at_once<S>(p.product))), S::threads, S::shared_bytes,
         static_cast<cudaStream_t>(stream)>>>(tensor_map(p.product.activations, shape), p);
}

template <bool Wide>
void launch_rows(const W4Gemm& p, void* stream) {
  const BlockGemm& q = p.product;
  const std::int32_t each = q.rows_each > 0 ? q.rows_each : (q.rows + q.experts - 1) / q.experts;
  if (each <= 8) return launch_shape<Shape<Wide, 8>>(p, stream);
  if (each <= 16) return launch_shape<Shape<Wide, 16>>(p, stream);
  if (each <= 32) return launch_shape<Shape<Wide, 32>>(p, stream);
  if (each <= 64) return launch_shape<Shape<Wide, 64>>(p, stream);
  launch_shape<Shape<Wide, 128>>(p, stream);
}

}  // namespace w4_wgmma

const char* w4_gemm_wgmma_refusal() { return wgmma_refusal(); }

void w4_gemm_wgmma(const W4Gemm& problem, void* stream) {
  if (problem.product.rows == 0 || problem.product.n == 0 || problem.product.k == 0) return;
  problem.bf16 ? w4_wgmma::launch_rows<true>(problem, stream) : w4_wgmma::launch_rows<false>(problem, stream);
}

}  // namespace orrery::kernels
