// Scores of the lightning indexer. A warp holds a query's heads in registers and walks over tiles of 16
// tokens, whose keys go from memory into fragments as they are: any order of the 128 dimensions will do as
// long as queries follow it, so a lane loads 16 bytes at a time and no shared memory is needed. Keys are rows
// of the product, heads its columns, so that a token's sum over heads ends in the lanes of one row.
#include "kernels/gpu_runtime.h"
#include "kernels/matrix_tile.h"
#include "kernels/sparse_index.h"

namespace orrery::kernels {
namespace {

constexpr int warps = 4, threads = warps * GPU_WARP;
constexpr int steps = index_width / tile_step_bytes;
// 16-byte chunks of a row that a lane holds, of two rows on NVIDIA and one on AMD.
constexpr int lane_rows = ORRERY_MATRIX_TARGET == 0 ? 2 : 1,
              lane_chunks = ORRERY_MATRIX_TARGET == 0 ? 2 : steps;

// 16 rows of 128 bytes as an operand: lane t of four has chunks t and t + 4 of rows g and g + 8, on AMD the
// chunks that the instruction's lanes count.
struct Rows16 {
  GpuBytes16 chunk[lane_rows][lane_chunks];

  template <class Address>
  GPU_DEVICE_MEMBER void load(Address address) {  // of a row, null for zeros
    const int lane = static_cast<int>(gpu_lane());
    GPU_UNROLL for (int r = 0; r < lane_rows; r++) {
      const int row = ORRERY_MATRIX_TARGET == 0 ? lane / 4 + 8 * r : lane % 16;
      bool valid = true;
      const std::uint8_t* from = address(row, valid);
      GPU_UNROLL for (int c = 0; c < lane_chunks; c++) {
        const int place = ORRERY_MATRIX_TARGET == 0 ? lane % 4 + 4 * c : tile_step_chunks * c + lane / 16;
        chunk[r][c] = load_or_zeros(from + place * 16, valid);
      }
    }
  }
  GPU_DEVICE_MEMBER MatrixOperand left(int step) const {
    MatrixOperand out;
    GPU_UNROLL for (int i = 0; i < 4; i++) {
#if ORRERY_MATRIX_TARGET == 0  // word 2 · step + i / 2 of the eight that a lane has of a row
      out.word[i] = chunk[i % 2][step / 2].word[step % 2 * 2 + i / 2];
#else
      out.word[i] = chunk[0][step].word[i];
#endif
    }
    return out;
  }
  GPU_DEVICE_MEMBER MatrixOperand right(int step) const {
    MatrixOperand out;
    GPU_UNROLL for (int i = 0; i < 4; i++) {
#if ORRERY_MATRIX_TARGET == 0
      out.word[i] = chunk[i / 2][step / 2].word[step % 2 * 2 + i % 2];
#else
      out.word[i] = chunk[0][step].word[i];
#endif
    }
    return out;
  }
};

// The weights of the heads that a lane's values of 16 columns belong to.
constexpr int lane_columns = 4 * tile_parts / tile_rows_held;
GPU_DEVICE constexpr int column_part(int i) { return ORRERY_MATRIX_TARGET == 0 ? i / 2 : i / 4; }
GPU_DEVICE constexpr int column_value(int i) { return ORRERY_MATRIX_TARGET == 0 ? i % 2 : i % 4; }

template <int Heads>
struct QueryRow {
  static constexpr int tiles = Heads / 16;
  Rows16 heads[tiles];
  float weight[tiles][lane_columns];

  GPU_DEVICE_MEMBER void load(const IndexScoresLaunch& p, std::int64_t row) {
    GPU_UNROLL for (int tile = 0; tile < tiles; tile++) {
      heads[tile].load(
          [&](int head, bool&) { return p.queries + (row * Heads + 16 * tile + head) * index_width; });
      GPU_UNROLL for (int i = 0; i < lane_columns; i++) {
        weight[tile][i] = p.weights[row * Heads + 16 * tile + tile_column(column_part(i), column_value(i))];
      }
    }
  }
  // Sums over heads of the lane's rows, of its own columns.
  GPU_DEVICE_MEMBER void score(const Rows16& keys, float (&sum)[tile_rows_held]) const {
    GPU_UNROLL for (int half = 0; half < tile_rows_held; half++) sum[half] = 0;
    GPU_UNROLL for (int tile = 0; tile < tiles; tile++) {
      MatrixTile product;
      GPU_UNROLL for (int i = 0; i < 4 * tile_parts; i++) product.value[i / 4][i % 4] = 0;
      GPU_UNROLL for (int step = 0; step < steps; step++) {
        multiply_step<true>(product, keys.left(step), heads[tile].right(step));
      }
      GPU_UNROLL for (int half = 0; half < tile_rows_held; half++) {
        GPU_UNROLL for (int i = 0; i < lane_columns; i++) {
          sum[half] +=
              weight[tile][i] * gpu_max(product.value[column_part(i)][2 * half + column_value(i)], 0.0F);
        }
      }
      keep_order();
    }
  }
};

struct TileOfKeys {
  Rows16 keys;
  float scale[tile_rows_held];

  GPU_DEVICE_MEMBER void load(const IndexCache& cache, const IndexRow& row, int first) {
    const int block = first / cache.block_size, place = first - block * cache.block_size;
    const std::int64_t number = cache.block_table[row.sequence * cache.table_stride + block];
    const std::uint8_t* of_block = cache.blocks + number * cache.block_size * (index_width + 4);
    keys.load([&](int token, bool& valid) {
      valid = first + token < row.tokens;
      return of_block + (place + token) * index_width;
    });
    const auto* scales = reinterpret_cast<const float*>(of_block + cache.block_size * index_width);
    GPU_UNROLL for (int half = 0; half < tile_rows_held; half++) scale[half] = scales[place + tile_row(half)];
  }
};

template <int Heads>
__global__ void __launch_bounds__(threads)
    index_scores_kernel(const IndexScoresLaunch p, int tokens_of_block) {
  const std::int64_t row_number = blockIdx.y;
  const IndexRow row = p.rows[row_number];
  const int begin = static_cast<int>(blockIdx.x) * tokens_of_block;
  const int end = begin + tokens_of_block < row.tokens ? begin + tokens_of_block : row.tokens;
  int first = begin + 16 * static_cast<int>(gpu_warp_index());
  if (first >= end) return;
  TileOfKeys next;
  next.load(p.cache, row, first);
  QueryRow<Heads> query;
  query.load(p, row_number);
  float* scores = p.scores + row_number * p.score_stride;
  for (; first < end; first += 16 * warps) {
    const TileOfKeys tile = next;
    if (first + 16 * warps < end) next.load(p.cache, row, first + 16 * warps);
    float sum[tile_rows_held];
    query.score(tile.keys, sum);
    GPU_UNROLL for (int half = 0; half < tile_rows_held; half++) {
      const float score = tile_row_sum(sum[half]) * tile.scale[half];
      const int token = first + tile_row(half);
      if (tile_row_first() && token < end) scores[token] = score;
    }
  }
}

}  // namespace

void launch_index_scores(const IndexScoresLaunch& p, void* stream) {
  if (p.row_count == 0 || p.most_tokens == 0) return;
  // Long enough that loading the queries is little beside the keys; short enough to fill the part.
  const std::int64_t blocks_wanted = 12 * static_cast<std::int64_t>(gpu_compute_units());
  int tokens = 2048;
  while (tokens > 128 && std::int64_t{p.row_count} * p.most_tokens < blocks_wanted * tokens) tokens /= 2;
  constexpr std::int32_t most_rows = 65535;  // of a grid's second extent
  for (std::int32_t row = 0; row < p.row_count; row += most_rows) {
    IndexScoresLaunch part = p;
    part.row_count = p.row_count - row < most_rows ? p.row_count - row : most_rows;
    part.queries += std::int64_t{row} * p.heads * index_width;
    part.weights += std::int64_t{row} * p.heads;
    part.rows += row;
    part.scores += row * p.score_stride;
    const GpuGrid grid = {gpu_blocks_for(p.most_tokens, tokens), static_cast<unsigned>(part.row_count)};
    gpu_launch(p.heads == 64 ? index_scores_kernel<64> : index_scores_kernel<32>, grid, threads, stream, part,
               tokens);
  }
}

}  // namespace orrery::kernels
