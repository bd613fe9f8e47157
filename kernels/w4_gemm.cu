// Products with weights of four bits on matrix cores: mma.sync, MFMA, WMMA (matrix_tile.h), and the kernel
// that packs the weights for them. A block stays and walks over tiles; a stage is 128 features in: rows of
// activations, swizzled, and units of weights as they lie in memory, which each lane turns into operands as
// it needs them.
#include "kernels/w4_gemm.h"

#include "kernels/block_tiles.h"
#include "kernels/gpu_runtime.h"
#include "kernels/matrix_warp_tile.h"
#include "kernels/w4_fragments.h"

namespace orrery::kernels {
namespace {

template <bool Wide, int Rows, int WarpRows, int WarpColumns, int Stages>
struct Shape {
  static constexpr bool wide = Wide;
  static constexpr int rows = Rows, columns = 128, warp_rows = WarpRows, warp_columns = WarpColumns;
  static constexpr int threads = 256, stages = copies_run_ahead ? Stages : 1;
  static constexpr int warps_across = columns / WarpColumns;
  static constexpr int row_tiles = WarpRows / 16, column_tiles = WarpColumns / 16;
  static constexpr int halves = Wide ? 2 : 1, half_bytes = Rows * 128;   // 128 bytes of a row each
  static constexpr int row_copies = (Rows * 8 + threads - 1) / threads;  // of a half, by a thread
  static constexpr int weights_offset = halves * half_bytes, weight_bytes = columns / 16 * w4_unit_bytes;
  static constexpr int weight_copies = weight_bytes / 16 / threads;
  static constexpr int stage_bytes = weights_offset + weight_bytes, table_offset = stages * stage_bytes;
  static constexpr int shared_bytes = table_offset + static_cast<int>(sizeof(BlockTileTable));
  static constexpr int blocks_per_unit = Rows <= 16 ? 2 : 1;
  static_assert(Rows / WarpRows * warps_across * GPU_WARP == threads);
};

template <class S>
using Steps = BlockSteps<S::rows, S::columns>;
template <class S>
using Sums = WarpTile<S::row_tiles, S::column_tiles>;

GPU_DEVICE std::int64_t group_of(const W4Gemm& p, const Tile& tile, int step) {
  return std::int64_t{tile.expert} * (p.product.k / w4_group) + step;
}

// One stage in chunks of 16 bytes: calls copy(index, to, from, valid). What is not valid counts as zeros.
template <class S, class Copy>
GPU_DEVICE void for_stage(const W4Gemm& p, const Steps<S>& at, Copy copy) {
  const Tile& tile = at.walk.tile;
  const int thread = static_cast<int>(threadIdx.x), chunk = thread % 8;
  const std::int64_t row_bytes = std::int64_t{p.product.k} * S::halves;
  const auto* activations = static_cast<const unsigned char*>(p.product.activations);
  GPU_UNROLL for (int half = 0; half < S::halves; half++) {
    GPU_UNROLL for (int i = 0; i < S::row_copies; i++) {
      const int row = thread / 8 + i * (S::threads / 8);
      const bool valid = row < tile.rows && row < S::rows;
      const std::int64_t from = (std::int64_t{tile.first_row} + row) * row_bytes +
                                std::int64_t{at.step} * 128 * S::halves + half * 128 + chunk * 16;
      if (S::rows * 8 >= S::threads || row < S::rows)
        copy(half * S::row_copies + i, half * S::half_bytes + static_cast<int>(swizzled_128(row, chunk)),
             activations + (valid ? from : 0), valid);
    }
  }
  const std::int64_t units = w4_units(p.product.n), first = tile.first_column / 16;
  const auto* weights = static_cast<const unsigned char*>(p.product.weights) +
                        (group_of(p, tile, at.step) * units + first) * w4_unit_bytes;
  GPU_UNROLL for (int i = 0; i < S::weight_copies; i++) {
    const int byte = (thread + i * S::threads) * 16;
    const bool valid = first + byte / w4_unit_bytes < units;
    copy(S::halves * S::row_copies + i, S::weights_offset + byte, weights + (valid ? byte : 0), valid);
  }
}

template <class S>
GPU_DEVICE void load_stage(const W4Gemm& p, const Steps<S>& at, SharedAddress stage) {
  for_stage<S>(p, at, [&](int, int to, const unsigned char* from, bool valid) {
    copy_async(stage + static_cast<unsigned>(to), from, valid);
  });
}

// The stage that comes next, in registers, where there is no copy that runs ahead.
template <class S>
struct StageInRegisters {
  static constexpr int copies = S::halves * S::row_copies + S::weight_copies;
  GpuBytes16 chunk[copies];
  int place[copies];

  GPU_DEVICE_MEMBER void load(const W4Gemm& p, const Steps<S>& at) {
    GPU_UNROLL for (int i = 0; i < copies; i++) place[i] = -1;
    for_stage<S>(p, at, [&](int index, int to, const unsigned char* from, bool valid) {
      place[index] = to;
      chunk[index] = load_or_zeros(from, valid);
    });
  }
  GPU_DEVICE_MEMBER void lay_down(unsigned char* stage) const {
    GPU_UNROLL for (int i = 0; i < copies; i++) {
      if (place[i] >= 0) gpu_store(stage + place[i], 0, chunk[i]);
    }
  }
};

// sums = (rows of this warp) · (columns of this warp)ᵀ over the 128 features of a stage.
template <class S>
GPU_DEVICE void multiply_stage(SharedAddress stage, Sums<S>& sums) {
  using Order = W4Order<S::wide>;
  const int warp = static_cast<int>(threadIdx.x) / GPU_WARP;
  const int row0 = warp / S::warps_across * S::warp_rows, column0 = warp % S::warps_across * S::warp_columns;
  const OperandChunk left = left_chunk();
  const SharedAddress units =
      stage + static_cast<unsigned>(S::weights_offset + column0 * (w4_unit_bytes / 16)) + gpu_lane() * 16;
  sums.clear();
  ORRERY_UNROLL_BY(1)  // a chunk's operands are enough for the registers
  for (int part = 0; part < w4_chunks; part++) {
    GpuBytes16 packed[S::column_tiles];
    GPU_UNROLL for (int j = 0; j < S::column_tiles; j++) packed[j] =
        w4_chunk(units + static_cast<unsigned>(j * w4_unit_bytes + part * GPU_WARP * 16));
    GPU_UNROLL for (int step = 0; step < Order::steps_a_chunk; step++) {
      const int chunk = (part * Order::steps_a_chunk + step) * tile_step_chunks + left.chunk;
      MatrixOperand b[S::column_tiles];
      GPU_UNROLL for (int j = 0; j < S::column_tiles; j++) w4_operand<S::wide>(b[j], packed[j], step);
      GPU_UNROLL for (int i = 0; i < S::row_tiles; i++) {
        MatrixOperand a;
        a.load(stage + static_cast<unsigned>(chunk / 8 * S::half_bytes) +
               swizzled_128(row0 + left.row + 16 * i, chunk % 8));
        GPU_UNROLL for (int j = 0; j < S::column_tiles; j++)
            multiply_step<!S::wide>(sums.tile[i][j], a, b[j]);
      }
    }
  }
}

// The scales of a lane's columns at a step.
template <class S>
struct GroupScales {
  static constexpr int held = ORRERY_MATRIX_TARGET == 0 ? 2 : 4;  // different columns among four values
  float column[S::column_tiles][tile_parts][held];

  GPU_DEVICE_MEMBER GroupScales(const W4Gemm& p, const Tile& tile, int step) {
    const int warp = static_cast<int>(threadIdx.x) / GPU_WARP;
    const int column0 = tile.first_column + warp % S::warps_across * S::warp_columns;
    const std::int64_t padded = 16 * w4_units(p.product.n), first = group_of(p, tile, step) * padded;
    GPU_UNROLL for (int j = 0; j < S::column_tiles; j++) {
      GPU_UNROLL for (int part = 0; part < tile_parts; part++) {
        GPU_UNROLL for (int c = 0; c < held; c++) {
          const int at = column0 + 16 * j + tile_column(part, c);
          column[j][part][c] = at < padded ? gpu_from_bf16(p.group_scales[first + at]) : 0.0F;
        }
      }
    }
  }
  GPU_DEVICE_MEMBER void add(const Sums<S>& block, Sums<S>& total) const {
    GPU_UNROLL for (int i = 0; i < S::row_tiles; i++) {
      GPU_UNROLL for (int j = 0; j < S::column_tiles; j++) {
        GPU_UNROLL for (int part = 0; part < tile_parts; part++) {
          GPU_UNROLL for (int c = 0; c < 4; c++) total.tile[i][j].value[part][c] +=
              block.tile[i][j].value[part][c] * column[j][part][c % held];
        }
      }
    }
  }
};

template <class S>
GPU_DEVICE void store_tile(const W4Gemm& p, const Tile& tile, Sums<S>& sums) {
  const int warp = static_cast<int>(threadIdx.x) / GPU_WARP;
  const int row0 = warp / S::warps_across * S::warp_rows;
  const int column0 = tile.first_column + warp % S::warps_across * S::warp_columns;
  if constexpr (!S::wide) {
    GPU_UNROLL for (int i = 0; i < S::row_tiles; i++) {
      GPU_UNROLL for (int held = 0; held < tile_rows_held; held++) {
        const int row = row0 + 16 * i + tile_row(held);
        if (row >= tile.rows) continue;
        const float scale = p.product.activation_scales[tile.first_row + row] * w4_e4m3_worth;
        GPU_UNROLL for (int j = 0; j < S::column_tiles; j++) {
          GPU_UNROLL for (int c = 0; c < 4 * tile_parts; c++) {
            if (tile_held(c % 4) == held) sums.tile[i][j].value[c / 4][c % 4] *= scale;
          }
        }
      }
    }
  }
  store_warp_tile(static_cast<std::uint16_t*>(p.product.out) + std::int64_t{tile.first_row} * p.product.n,
                  p.product.n, tile.rows, row0, column0, sums);
}

template <class S>
GPU_DEVICE void compute_stage(const W4Gemm& p, const Steps<S>& at, SharedAddress stage, Sums<S>& total) {
  const GroupScales<S> scales(p, at.walk.tile, at.step);
  Sums<S> block;
  multiply_stage<S>(stage, block);
  scales.add(block, total);
  if (at.last()) store_tile<S>(p, at.walk.tile, total);
}

template <class S>
__global__ void __launch_bounds__(S::threads, S::blocks_per_unit) w4_gemm_kernel(const W4Gemm p) {
  ORRERY_DYNAMIC_SHARED(shared, S::shared_bytes);
  BlockTileTable& table = *reinterpret_cast<BlockTileTable*>(shared + S::table_offset);
  prepare_block_walk<S::threads, S::rows, S::columns>(table, p.product, BlockTileUnit{});
  const SharedAddress stages = shared_address(shared);
  Steps<S> loading(table, p.product), computing(table, p.product);
  Sums<S> total;
  if constexpr (copies_run_ahead) {
    for (int s = 0; s < S::stages - 1; s++) {
      if (!loading.done()) load_stage<S>(p, loading, stages + static_cast<unsigned>(s * S::stage_bytes));
      copy_async_commit();
      loading.advance(table, p.product);
    }
    int slot = 0, free_slot = S::stages - 1;
    while (!computing.done()) {
      if (computing.step == 0) total.clear();
      copy_async_wait<S::stages - 2>();
      gpu_barrier();  // the stage is there for all, and all are through with the one before
      if (!loading.done())
        load_stage<S>(p, loading, stages + static_cast<unsigned>(free_slot * S::stage_bytes));
      copy_async_commit();
      loading.advance(table, p.product);
      compute_stage<S>(p, computing, stages + static_cast<unsigned>(slot * S::stage_bytes), total);
      computing.advance(table, p.product);
      slot = slot + 1 == S::stages ? 0 : slot + 1;
      free_slot = free_slot + 1 == S::stages ? 0 : free_slot + 1;
    }
    copy_async_wait<0>();
  } else {
    StageInRegisters<S> next;
    if (!loading.done()) next.load(p, loading);
    while (!computing.done()) {
      if (computing.step == 0) total.clear();
      gpu_barrier();  // all are through with the stage before
      next.lay_down(shared);
      gpu_barrier();
      loading.advance(table, p.product);
      if (!loading.done()) next.load(p, loading);
      compute_stage<S>(p, computing, stages, total);
      computing.advance(table, p.product);
    }
  }
}

template <class S>
void launch_shape(const W4Gemm& p, void* stream) {
  // No more blocks than there can be tiles: rows are cut by expert, so each expert may add one.
  const std::int64_t row_tiles = p.product.rows / S::rows + p.product.experts;
  const std::int64_t tiles = row_tiles * ((p.product.n + S::columns - 1) / S::columns);
  const std::int64_t at_once = std::int64_t{gpu_compute_units()} * S::blocks_per_unit;
  const auto blocks = static_cast<unsigned>(tiles < at_once ? tiles : at_once);
  launch_shared(w4_gemm_kernel<S>, {blocks}, S::threads, S::shared_bytes, stream, p);
}

template <bool Wide>
void launch_rows(const W4Gemm& p, void* stream) {
  constexpr int wide = GPU_WARP / 32;  // 64 lanes: half the warps, each over twice the columns
  const BlockGemm& q = p.product;
  const std::int32_t each = q.rows_each > 0 ? q.rows_each : (q.rows + q.experts - 1) / q.experts;
  if (each <= 16) return launch_shape<Shape<Wide, 16, 16, 16 * wide, 6>>(p, stream);
  if (each <= 32) return launch_shape<Shape<Wide, 32, 32, 16 * wide, 6>>(p, stream);
  constexpr bool spills = Wide && ORRERY_MATRIX_TARGET == 1201;  // with 128 rows
  if (spills || each <= 96) return launch_shape<Shape<Wide, 64, 32, 32 * wide, 4>>(p, stream);
  if constexpr (!spills) launch_shape<Shape<Wide, 128, 64, 32 * wide, 3>>(p, stream);
}

// A thread makes a word: eight weights of the lane's.
template <bool Wide>
__global__ void __launch_bounds__(256) pack_kernel(W4Pack a) {
  const std::int64_t units = w4_units(a.n), groups = a.k / w4_group;
  const std::int64_t words = units * groups * a.experts * (w4_unit_bytes / 4);
  const std::int64_t stride = std::int64_t{gridDim.x} * blockDim.x;
  for (std::int64_t at = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x; at < words; at += stride) {
    const std::int64_t unit = at / (w4_unit_bytes / 4), group = unit / units;  // over all experts
    const int within = static_cast<int>(at % (w4_unit_bytes / 4));
    const int lane = within / 4 % GPU_WARP, word = within / 4 / GPU_WARP * 4 + within % 4;
    std::uint32_t packed = 0;
    for (int i = 0; i < 8; i++) {
      const W4Place place = w4_place<Wide>(lane, word, i);
      const std::int64_t row = unit % units * 16 + place.row, k = group % groups * w4_group + place.k;
      const std::int64_t byte = (group / groups * a.n + row) * (a.k / 2) + k / 2;
      const int raw = row < a.n ? a.from[byte] >> (4 * (k % 2)) & 15 : 0;
      packed |= w4_code<Wide>(raw < 8 ? raw : raw - 16) << (4 * i);
    }
    gpu_store(a.to, static_cast<std::size_t>(at), packed);
  }
}

}  // namespace

void launch_w4_pack(const W4Pack& a, void* stream) {
  const std::int64_t words = w4_padded(a.n) * (a.k / 8) * a.experts;
  if (words == 0) return;
  const std::int64_t blocks = (words + 255) / 256, most = std::int64_t{gpu_compute_units()} * 16;
  const GpuGrid grid = {static_cast<unsigned>(blocks < most ? blocks : most)};
  gpu_launch(a.for_bf16 ? pack_kernel<true> : pack_kernel<false>, grid, 256, stream, a);
}

void w4_gemm(const W4Gemm& problem, void* stream) {
  if (problem.product.rows == 0 || problem.product.n == 0 || problem.product.k == 0) return;
  problem.bf16 ? launch_rows<true>(problem, stream) : launch_rows<false>(problem, stream);
}

}  // namespace orrery::kernels
