// Block-scaled products with Hopper's wgmma. One thread orders copies by the tensor copy engine into a ring
// of stages (128 features in of both operands); one or two warpgroups multiply, so that while one adds its
// block in fp32 the tensor cores have the other's; all walk over the same tiles and meet in barriers of the
// stages only, so that copies of the next tile run while this one is stored. A warpgroup makes 64 rows at a
// time: with `Parts` of them, one after the other, a stage is used more often. Two blocks of a cluster may
// share the copies of one operand, which then comes from L2 once.
//
// With few rows the operands change places: 64 weights a warpgroup, as many columns as there are rows, so
// that an instruction has no empty ones. Where that leaves fewer tiles than multiprocessors, the blocks of a
// cluster share one, each over a part of the features in.
#include <algorithm>
#include <array>

#include "kernels/block_gemm.h"
#include "kernels/block_gemm_copies.h"
#include "kernels/block_gemm_scales.h"
#include "kernels/block_gemm_split.h"
#include "kernels/block_gemm_store.h"
#include "kernels/block_gemm_tail.h"
#include "kernels/block_tiles.h"
#include "kernels/cluster.h"
#include "kernels/tensor_map.h"
#include "kernels/wgmma_e4m3.h"

namespace orrery::kernels {
namespace block_wgmma {  // named: on sm_89 much of it is unused, which the compiler reports of unnamed ones

// A kernel that makes its last tiles in parts, or may be launched early, is compiled apart: all others are 2
// to 5 % slower on an H200 for what these need.
enum class Form : std::uint8_t { plain, tail, early };

// What is compiled; stages and shared copies are chosen at run time.
template <bool Swapped, int Groups, int RowParts, int ColumnParts, int PartColumns, bool ByChannel,
          Form Is = Form::plain>
struct Shape {
  static constexpr bool swapped = Swapped, by_channel = ByChannel;
  static constexpr bool in_parts = Is == Form::tail, early = Is == Form::early;
  static constexpr int groups = Groups, row_parts = RowParts, column_parts = ColumnParts;
  static constexpr int parts = RowParts * ColumnParts, part_columns = PartColumns;
  static constexpr int accumulators = PartColumns / 2, threads = 128 * (Groups + 1);
  // 65,536 for a block: what the thread that only orders copies does not need goes to those that multiply.
  static constexpr bool trades_registers = Groups > 1 && (parts + 1) * accumulators >= 128;
  static constexpr int registers_left = Groups == 3 ? 48 : 56;
  static constexpr int registers_each = Groups == 3 ? 152 : 224;
  // Asks for the next tile ahead, and may split: where registers are left for it.
  static constexpr bool looks_ahead = parts == 1 && PartColumns <= 128 && Groups < 3;
  static constexpr int left_rows = 64 * Groups * RowParts;  // of the operand that is 64 rows an instruction
  static constexpr int right_rows = ColumnParts * PartColumns;  // of the other
  static constexpr int tile_rows = Swapped ? right_rows : left_rows,
                       tile_columns = Swapped ? left_rows : right_rows;
  static constexpr int weights_at = Swapped ? 0 : left_rows * 128;  // in a stage
  static constexpr int right_offset = left_rows * 128, stage_bytes = (left_rows + right_rows) * 128;
  // Scales of the tile's rows travel with a stage: from the last of 16 bytes on, as copies need it.
  static constexpr int scale_rows = tile_rows + 4;
  static constexpr int scale_bytes = ByChannel ? 0 : (scale_rows * 4 + 127) / 128 * 128;
  static constexpr int barrier_bytes = 16, most_stages = 16;
  static constexpr int fixed_bytes = 4 * Groups * staging_bytes + most_stages * barrier_bytes +
                                     (static_cast<int>(sizeof(BlockTileTable)) + 15) / 16 * 16;
  static constexpr int splitters = 128 * Groups;  // threads that hold sums
  static constexpr int split_bytes = looks_ahead ? splitters * accumulators * 4 : 0;  // of another block's
  // Whose registers two blocks of a multiprocessor have room for.
  static constexpr int most_blocks = Swapped && Groups == 2 && PartColumns <= 32 ? 2 : 1;
  static constexpr int chunks = parts * accumulators / 32;
  using Walk = BlockWalk<tile_rows, tile_columns, in_parts>;
  static_assert(!in_parts || block_gemm_has_tails({tile_rows, tile_columns, Swapped}));
  static_assert(!Swapped || parts == 1);
  static_assert(stage_bytes % 1024 == 0 && left_rows % 16 == 0);
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

template <class S>
GPU_DEVICE void multiply_tile(const Cut& cut, int group, const StepRange& range, ScaleReader<S>& reader,
                              Ring<S>& ring, float (&total)[S::parts][S::accumulators]) {
  GPU_UNROLL for (int part = 0; part < S::parts; part++) {
    GPU_UNROLL for (int i = 0; i < S::accumulators; i++) total[part][i] = 0;
  }
  StepScales<S> scales;
  for (int step = 0; step < range.end - range.first; step++) {
    barrier_wait(ring.filled(), ring.parity);
    if constexpr (!S::by_channel) reader.read_rows(scales, ring.scales());
    GPU_UNROLL for (int part = 0; part < S::parts; part++) {
      const int row_part = part / S::column_parts, column_part = part % S::column_parts;
      const std::uint64_t left =
          matrix_descriptor(ring.stage() + static_cast<unsigned>(group * S::row_parts + row_part) * 64 * 128);
      const std::uint64_t right = matrix_descriptor(
          ring.stage() + S::right_offset + static_cast<unsigned>(column_part * S::part_columns) * 128);
      float block[S::accumulators];
      wgmma_fence();
      GPU_UNROLL for (unsigned i = 0; i < 4; i++) {
        WgmmaE4m3<S::part_columns>::multiply(block, left + 2 * i, right + 2 * i, i > 0 ? 1 : 0);
      }
      wgmma_commit();
      if constexpr (!S::by_channel) {
        if (part == 0) reader.read_weights(scales, step);
      }
      wgmma_wait<0>();
      if (part == S::parts - 1) ring.give_back(cut.sharing());
      add_block<S>(total[part], block, scales, part);
    }
    ring.advance();
  }
}

template <class S>
GPU_DEVICE void store_tile(const BlockGemm& p, const Tile& tile, int group,
                           float (&total)[S::parts][S::accumulators], unsigned char* staging,
                           unsigned chunks = ~0U) {
  GPU_UNROLL for (int part = 0; part < S::parts; part++) {
    const int row = 64 * (group * S::row_parts + part / S::column_parts),
              column = part % S::column_parts * S::part_columns;
    if constexpr (S::swapped) {
      store_transposed<S::by_channel>(p, tile, row, total[part], staging);
    } else {
      store_rows<S::by_channel, S::in_parts>(p, tile, row, column, total[part], staging,
                                             chunks >> (part * (S::accumulators / 32)));
    }
  }
}

template <class S>
GPU_DEVICE void multiply_tiles(const BlockGemm& p, const Cut& cut, const BlockTileTable& table, int group,
                               Ring<S> ring, unsigned char* staging) {
  typename S::Walk walk(table, p, cut.unit(), static_cast<int>(cluster_rank()));
  for (; !walk.done(); walk.next(table, p, cut.unit())) {
    const StepRange range = steps_of<S>(p, cut, walk);
    ScaleReader<S> reader(p, walk.tile, group, range);
    float total[S::parts][S::accumulators];
    multiply_tile<S>(cut, group, range, reader, ring, total);
    if constexpr (S::in_parts) {
      if (walk.in_parts(cut.unit())) {
        const TailSums<S::splitters, S::chunks> tail(p.workspace, cut.tail);
        store_tile<S>(p, walk.tile, group, total, staging,
                      tail.combine(total, walk.tail_tile(cut.unit()), walk.part(cut.unit())));
        return;  // nothing comes behind the tail
      }
    }
    store_tile<S>(p, walk.tile, group, total, staging);
  }
}

// Where the next tile lies, and its first scales, are asked for while one is multiplied: each takes as long
// to come as a step of k. Large tiles have no registers for it (3 % slower on an H200).
template <class S>
GPU_DEVICE void multiply_tiles_ahead(const BlockGemm& p, const Cut& cut, const BlockTileTable& table,
                                     int group, Ring<S> ring, SplitSums<S::splitters, S::accumulators> split,
                                     unsigned char* staging) {
  typename S::Walk next(table, p, cut.unit(), static_cast<int>(cluster_rank()));
  const StepRange range = steps_of<S>(p, cut, next);
  ScaleReader<S> next_reader(p, next.tile, group, range);
  while (!next.done()) {
    const Tile tile = next.tile;
    ScaleReader<S> reader = next_reader;
    next.next(table, p, cut.unit());
    next_reader = ScaleReader<S>(p, next.tile, group, range);
    float total[S::parts][S::accumulators];
    multiply_tile<S>(cut, group, range, reader, ring, total);
    if (cut.splits > 1 && !split.combine(total[0])) continue;
    store_tile<S>(p, tile, group, total, staging);
  }
}

#endif

template <class S>
__global__ void __launch_bounds__(S::threads, S::most_blocks)
    block_gemm_kernel(const __grid_constant__ Maps maps, const __grid_constant__ BlockGemm p,
                      const __grid_constant__ Cut cut) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  ORRERY_DYNAMIC_SHARED(shared, 0);
  const int blocks = cut.blocks();
  const Ring<S> ring(shared_address(shared), cut.stages);
  const SplitSums<S::splitters, S::accumulators> split(
      shared_address(shared) + Ring<S>::bytes(cut.stages) + S::fixed_bytes, cut.splits);
  unsigned char* staging = shared + Ring<S>::bytes(cut.stages);
  BlockTileTable& table = *reinterpret_cast<BlockTileTable*>(staging + 4 * S::groups * staging_bytes +
                                                             S::most_stages * S::barrier_bytes);
  if constexpr (S::early) gpu_let_next_start();
  if (threadIdx.x == 0) {
    ring.prepare(cut.sharing());
    if (cut.splits > 1) split.prepare();
    prefetch_map(&maps.activations);
    prefetch_map(&maps.weights);
  }
  prepare_block_walk<S::threads, S::tile_rows, S::tile_columns>(table, p, cut.unit());
  blocks > 1 ? cluster_meet() : gpu_barrier();
  const int group = static_cast<int>(threadIdx.x) / 128;
  if (group == S::groups) {
    if constexpr (S::trades_registers) give_registers<S::registers_left>();
    if (threadIdx.x == 128 * S::groups) order_copies<S>(p, cut, maps, table, ring);
  } else {
    if constexpr (S::trades_registers) take_registers<S::registers_each>();
    if constexpr (S::early) gpu_wait_for_previous();
    unsigned char* own = staging + gpu_warp_index() * staging_bytes;
    if constexpr (S::looks_ahead) {
      multiply_tiles_ahead<S>(p, cut, table, group, ring, split, own);
    } else {
      multiply_tiles<S>(p, cut, table, group, ring, own);
    }
  }
  if (blocks > 1) {  // a block's memory stays until the other has said its last word to it
    __syncwarp();
    cluster_meet();
  }
#endif
}

// An operand in boxes of 128 features × `box_rows`.
CUtensorMap operand_map(const void* data, std::int64_t rows, std::int64_t k, int box_rows) {
  TensorMapShape shape;
  shape.fp8 = true;
  shape.extent[0] = static_cast<cuuint64_t>(k);
  shape.extent[1] = static_cast<cuuint64_t>(rows);
  shape.stride[0] = static_cast<cuuint64_t>(k);
  shape.box[0] = 128;
  shape.box[1] = static_cast<cuuint32_t>(box_rows);
  return tensor_map(data, shape);
}

// Blocks that can have something to do: rows of experts are cut by expert, so each may add one unit.
template <class S>
std::int64_t most_blocks(const BlockGemm& p, const Cut& cut) {
  const std::int64_t rows = std::int64_t{S::tile_rows} * (cut.shares_weights != 0 ? 2 : 1);
  const std::int64_t columns = std::int64_t{S::tile_columns} * (cut.shares_activations != 0 ? 2 : 1);
  const std::int64_t down =
      p.layout == BlockGemmExperts::none ? (p.rows + rows - 1) / rows : p.rows / rows + p.experts;
  return down * ((p.n + columns - 1) / columns) * cut.blocks();
}

template <class S>
void launch_shape(const BlockGemm& p, const Cut& cut, void* stream) {
  Maps maps;
  maps.activations =
      operand_map(p.activations, p.rows, p.k, S::tile_rows / (cut.shares_activations != 0 ? 2 : 1));
  maps.weights = operand_map(p.weights, std::int64_t{p.experts} * p.n, p.k,
                             S::tile_columns / (cut.shares_weights != 0 ? 2 : 1));
  const int bytes = S::fixed_bytes + cut.stages * (S::stage_bytes + S::scale_bytes) +
                    (cut.splits > 1 ? 16 + (cut.splits - 1) * S::split_bytes : 0);
  static_cast<void>(
      cudaFuncSetAttribute(block_gemm_kernel<S>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
  const std::int64_t at_once =
      std::int64_t{gpu_compute_units()} * cut.blocks_each / cut.blocks() * cut.blocks();
  const std::int64_t parts = S::in_parts ? (most_blocks<S>(p, cut) - cut.tail.first) * cut.tail.parts : 0;
  const std::int64_t blocks = S::in_parts && cut.tail.first == 0 ? parts
                              : S::in_parts                      ? at_once
                                                                 : std::min(most_blocks<S>(p, cut), at_once);
  cudaLaunchConfig_t launch{};
  launch.gridDim = dim3(static_cast<unsigned>(blocks));
  launch.blockDim = dim3(S::threads);
  launch.dynamicSmemBytes = static_cast<std::size_t>(bytes);
  launch.stream = static_cast<cudaStream_t>(stream);
  cudaLaunchAttribute attributes[3]{};
  attributes[0].id = cudaLaunchAttributeClusterDimension;
  attributes[0].val.clusterDim = {static_cast<unsigned>(cut.blocks()), 1, 1};
  launch.attrs = attributes;
  launch.numAttrs = 1;
  if (S::early) {
    attributes[launch.numAttrs].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[launch.numAttrs++].val.programmaticStreamSerializationAllowed = 1;
  }
  if (S::in_parts) {  // blocks of a tile wait for one another
    attributes[launch.numAttrs].id = cudaLaunchAttributeCooperative;
    attributes[launch.numAttrs++].val.cooperative = 1;
  }
  static_cast<void>(cudaLaunchKernelEx(&launch, block_gemm_kernel<S>, maps, p, cut));
}

using Launch = void (*)(const BlockGemm&, const Cut&, void*);
struct Entry {  // what is compiled
  bool swapped;
  std::int32_t rows, columns, stage_bytes, fixed_bytes, split_bytes, most_blocks;
  Launch by_block[3], by_channel[3];  // a Form each; null where there is none
};
// `Fits`: the registers.
template <bool Swapped, int Groups, int RowParts, int ColumnParts, int PartColumns, bool ByChannel, bool Fits>
constexpr void fill_launches(Launch (&launches)[3]) {
  using Plain = Shape<Swapped, Groups, RowParts, ColumnParts, PartColumns, ByChannel>;
  if constexpr (Fits) {
    launches[0] = launch_shape<Plain>;
    if constexpr (block_gemm_has_tails({Plain::tile_rows, Plain::tile_columns, Swapped})) {
      using Tail = Shape<Swapped, Groups, RowParts, ColumnParts, PartColumns, ByChannel, Form::tail>;
      launches[1] = launch_shape<Tail>;
    }
    if constexpr (Plain::most_blocks > 1) {
      using Early = Shape<Swapped, Groups, RowParts, ColumnParts, PartColumns, ByChannel, Form::early>;
      launches[2] = launch_shape<Early>;
    }
  }
}
template <bool Swapped, int Groups, int RowParts, int ColumnParts, int PartColumns>
constexpr Entry entry() {
  using Block = Shape<Swapped, Groups, RowParts, ColumnParts, PartColumns, false>;
  Entry e{Swapped,
          Block::tile_rows,
          Block::tile_columns,
          Block::stage_bytes + Block::scale_bytes,
          Block::fixed_bytes,
          Block::split_bytes,
          Block::most_blocks,
          {},
          {}};
  fill_launches<Swapped, Groups, RowParts, ColumnParts, PartColumns, false, ColumnParts == 1>(e.by_block);
  fill_launches<Swapped, Groups, RowParts, ColumnParts, PartColumns, true, RowParts == 1>(e.by_channel);
  return e;
}
constexpr std::array entries{
    entry<true, 1, 1, 1, 16>(),   entry<true, 1, 1, 1, 32>(),   entry<true, 1, 1, 1, 64>(),
    entry<true, 2, 1, 1, 16>(),   entry<true, 2, 1, 1, 32>(),   entry<true, 2, 1, 1, 64>(),
    entry<false, 1, 1, 1, 128>(), entry<false, 2, 1, 1, 64>(),  entry<false, 2, 1, 1, 128>(),
    entry<false, 2, 1, 1, 192>(), entry<false, 2, 1, 2, 128>(), entry<false, 2, 2, 1, 128>(),
    entry<false, 3, 1, 1, 128>(),
};

constexpr std::int32_t shared_memory = 227 * 1024, fewest_stages = 3, most_stages = 16, most_splits = 4;
constexpr std::int32_t of_the_system = 1024;  // of a block's shared memory
constexpr std::int32_t stages_that_fit(const Entry& e, std::int32_t splits = 1, std::int32_t blocks = 1) {
  const std::int32_t others = splits > 1 ? 16 + (splits - 1) * e.split_bytes : 0;
  const std::int32_t each = (shared_memory + of_the_system) / blocks - of_the_system;
  return std::min(most_stages, (each - e.fixed_bytes - others) / e.stage_bytes);
}
// Of tiles whose features in are split, one with as many stages as suit.
constexpr std::int32_t split_stages(const Entry& e, std::int32_t splits) {
  const std::int32_t fit = e.split_bytes > 0 ? stages_that_fit(e, splits) : 0;
  return fit < fewest_stages ? 0 : std::min(fit, 8);
}
template <class Take>
constexpr void for_tiles(Take take) {
  for (const Entry& e : entries) {
    for (std::int32_t stages = fewest_stages; stages <= stages_that_fit(e); ++stages) {
      for (const SharedCopies shared :
           {SharedCopies::none, SharedCopies::weights, SharedCopies::activations}) {
        take(BlockGemmTile{e.rows, e.columns, e.swapped, stages, shared});
      }
    }
    for (std::int32_t stages = fewest_stages; e.most_blocks > 1 && stages <= stages_that_fit(e, 1, 2);
         ++stages)
      take(BlockGemmTile{e.rows, e.columns, e.swapped, stages, SharedCopies::none, 1, 2});
    for (std::int32_t splits = 2; splits <= most_splits; ++splits) {
      if (const std::int32_t stages = split_stages(e, splits); stages > 0)
        take(BlockGemmTile{e.rows, e.columns, e.swapped, stages, SharedCopies::none, splits});
    }
  }
}
constexpr auto all_tiles() {
  constexpr std::size_t count = [] {
    std::size_t n = 0;
    for_tiles([&](const BlockGemmTile&) { ++n; });
    return n;
  }();
  std::array<BlockGemmTile, count> found{};
  std::size_t i = 0;
  for_tiles([&](const BlockGemmTile& tile) { found[i++] = tile; });
  return found;
}
constexpr auto tiles = all_tiles();

}  // namespace block_wgmma

std::span<const BlockGemmTile> block_gemm_tiles() { return block_wgmma::tiles; }

const char* block_gemm_wgmma_refusal() { return wgmma_refusal(); }

const char* block_gemm_wgmma(const BlockGemm& problem, const BlockGemmTile& tile, void* stream) {
  using namespace block_wgmma;
  if (problem.rows == 0 || problem.n == 0 || problem.k == 0) return nullptr;
  if (problem.n % 8 != 0 || problem.k % 16 != 0) return "wgmma form: n is a multiple of 8 and k of 16";
  if (!problem.by_channel && (problem.scale_row != 1 || problem.scale_block % 4 != 0))
    return "wgmma form: scales of rows lie side by side, blocks a multiple of 4 apart";
  for (const Entry& e : entries) {
    if (e.rows != tile.rows || e.columns != tile.columns || e.swapped != tile.swapped) continue;
    if (tile.splits < 1 || tile.splits > most_splits ||
        (tile.splits > 1 && (e.split_bytes == 0 || tile.shared != SharedCopies::none)))
      return "features in are split up to four ways, of tiles in one part and without shared copies";
    if (tile.blocks < 1 || tile.blocks > e.most_blocks ||
        (tile.blocks > 1 && (tile.splits > 1 || tile.shared != SharedCopies::none)))
      return "two blocks a multiprocessor: of few rows, in one part, without clusters";
    if (tile.stages < fewest_stages || tile.stages > stages_that_fit(e, tile.splits, tile.blocks))
      return "no such number of stages fits";
    Cut cut{tile.stages, tile.shared == SharedCopies::weights ? 1 : 0,
            tile.shared == SharedCopies::activations ? 1 : 0, tile.splits, tile.blocks};
    cut.band = block_gemm_band(problem.rows, tile.rows * (1 + cut.shares_weights));
    cut.tail = block_gemm_tail_of(problem, tile, static_cast<std::int32_t>(gpu_compute_units()));
    const Launch(&forms)[3] = problem.by_channel ? e.by_channel : e.by_block;
    if (forms[0] == nullptr) return "no such tile is compiled for these scales";
    const Form wanted = cut.tail.parts > 1                                   ? Form::tail
                        : problem.early && tile.shared == SharedCopies::none ? Form::early
                                                                             : Form::plain;
    const Launch launch = forms[static_cast<int>(wanted)];
    (launch != nullptr ? launch : forms[0])(problem, cut, stream);
    return nullptr;
  }
  return "no tile of this extent is compiled";
}

void block_gemm_wgmma(const BlockGemm& problem, void* stream) {
  static_cast<void>(block_gemm_wgmma(
      problem, block_gemm_tile(problem, static_cast<std::int32_t>(gpu_compute_units())), stream));
}

}  // namespace orrery::kernels
