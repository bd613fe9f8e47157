// Matrix cores as one kernel source uses them on every target: products of 16 rows and 16 columns by mma.sync
// (tensor_core.h), MFMA or WMMA (matrix_core_amd.h). Rows of both operands lie along k, 16-byte chunks in
// shared memory.
//
// A *step* is as much of k as fills four registers of a lane: 32 bytes, 64 on gfx942. A lane of AMD's holds
// one chunk of one row for both operands, so any order of k within a step will do as long as both follow it,
// and one 16-byte load serves two instructions that take eight bytes. The operands go in swapped: the
// instruction's D has a lane hold one column, and as the columns of Bᵀ · Aᵀ are rows of the product, a lane
// ends with neighbouring columns of one row, which it stores at once and which share a scale.
#pragma once

#include "kernels/gpu_runtime.h"

// 0: NVIDIA; 942, 1201: AMD. The simulator stands for gfx942 at 64 lanes, at 32 for NVIDIA or, asked to,
// gfx1201.
#if defined(__gfx942__) || (defined(ORRERY_SIMULATED_WARP) && ORRERY_SIMULATED_WARP == 64)
#define ORRERY_MATRIX_TARGET 942
#elif defined(__HIP__) || defined(ORRERY_SIMULATED_GFX1201)
#define ORRERY_MATRIX_TARGET 1201
#else
#define ORRERY_MATRIX_TARGET 0
#endif

#if ORRERY_MATRIX_TARGET == 0
#include "kernels/tensor_core.h"
#else
#include "kernels/matrix_core_amd.h"
#endif

namespace orrery::kernels {

constexpr bool copies_run_ahead = ORRERY_MATRIX_TARGET == 0;  // copy_async returns before the copy
constexpr int tile_step_bytes = ORRERY_MATRIX_TARGET == 942 ? 64 : 32,
              tile_step_chunks = tile_step_bytes / 16;
constexpr int tile_parts = ORRERY_MATRIX_TARGET == 942 ? 1 : 2;  // of four values that a lane holds of a
                                                                 // product
// Different rows among a lane's values, and neighbouring columns that it holds of one of them: so many, so
// often.
constexpr int tile_rows_held = ORRERY_MATRIX_TARGET == 0 ? 2 : 1;
constexpr int tile_runs = ORRERY_MATRIX_TARGET == 0 ? 2 : 1,
              tile_run = ORRERY_MATRIX_TARGET == 0 ? 2 : 4 * tile_parts;

struct MatrixTile {
  float value[tile_parts][4];
};
// Which of a lane's rows value [·][c] belongs to, and where row `held` and value [part][c] stand in the tile.
GPU_DEVICE constexpr int tile_held(int c) { return ORRERY_MATRIX_TARGET == 0 ? c / 2 : 0; }
GPU_DEVICE int tile_row(int held) {
  const int lane = static_cast<int>(threadIdx.x % GPU_WARP);
  return ORRERY_MATRIX_TARGET == 0 ? lane / 4 + 8 * held : lane % 16;
}
GPU_DEVICE constexpr int tile_part_column(int part, int c) {  // counted from value [0][0]'s
  return ORRERY_MATRIX_TARGET == 0 ? 8 * part + c % 2 : 4 * part + c;
}
GPU_DEVICE int tile_column(int part, int c) {
  const int lane = static_cast<int>(threadIdx.x % GPU_WARP);
  const int first = ORRERY_MATRIX_TARGET == 0 ? lane % 4 * 2 : lane / 16 * (4 * tile_parts);
  return first + tile_part_column(part, c);
}

// Maximum and sum over the lanes that hold values of the same row; and one lane of them.
GPU_DEVICE float tile_row_max(float value) {
#if ORRERY_MATRIX_TARGET == 0
  return gpu_group_max<4>(value);
#else
  GPU_UNROLL for (unsigned mask = GPU_WARP / 2; mask >= 16; mask /= 2) {
    value = gpu_max(value, gpu_shuffle_xor(value, mask));
  }
  return value;
#endif
}
GPU_DEVICE float tile_row_sum(float value) {
#if ORRERY_MATRIX_TARGET == 0
  return gpu_group_sum<4>(value);
#else
  GPU_UNROLL for (unsigned mask = GPU_WARP / 2; mask >= 16; mask /= 2) value += gpu_shuffle_xor(value, mask);
  return value;
#endif
}
GPU_DEVICE bool tile_row_first() { return ORRERY_MATRIX_TARGET == 0 ? gpu_lane() % 4 == 0 : gpu_lane() < 16; }

// Neighbouring columns of one row of n that a lane holds, from `column` on, as bf16.
template <int Count>
GPU_DEVICE void store_run(std::uint16_t* row, int column, int n, const float* values) {
  struct alignas(2 * Count) Run {
    std::uint32_t two[Count / 2];
  } run;
  GPU_UNROLL for (int i = 0; i < Count / 2; i++) run.two[i] = gpu_pack_bf16(values[2 * i], values[2 * i + 1]);
  if (n % Count == 0 && column < n) {
    *reinterpret_cast<Run*>(row + column) = run;
    return;
  }
  GPU_UNROLL for (int i = 0; i < Count; i++) {
    if (column + i < n) row[column + i] = static_cast<std::uint16_t>(run.two[i / 2] >> (16 * (i % 2)));
  }
}

// One step of k of 16 rows: the lane names the chunk at (row, chunk) of its operand, counted from the tile's
// first row and the step's first chunk.
struct MatrixOperand {
  std::uint32_t word[4];

  GPU_DEVICE_MEMBER void load(SharedAddress chunk) {
#if ORRERY_MATRIX_TARGET == 0
    load_matrix_x4(word, chunk);
#else
    const GpuBytes16 bytes = load_shared<GpuBytes16>(chunk);
    GPU_UNROLL for (int i = 0; i < 4; i++) word[i] = bytes.word[i];
#endif
  }
};
struct OperandChunk {
  int row, chunk;
};
GPU_DEVICE OperandChunk left_chunk() {
  const int lane = static_cast<int>(threadIdx.x % GPU_WARP);
  return {lane % 16, lane / 16};
}
GPU_DEVICE OperandChunk right_chunk() {  // ldmatrix gives the two halves of B's columns one behind the other
  const int lane = static_cast<int>(threadIdx.x % GPU_WARP);
  if constexpr (ORRERY_MATRIX_TARGET == 0) return {lane / 16 * 8 + lane % 8, lane / 8 % 2};
  return left_chunk();
}

// product += left · rightᵀ over one step.
template <bool Fp8>
GPU_DEVICE void multiply_step(MatrixTile& product, const MatrixOperand& left, const MatrixOperand& right) {
  const std::uint32_t(&a)[4] = left.word;
  const std::uint32_t(&b)[4] = right.word;
#if ORRERY_MATRIX_TARGET == 0
  GPU_UNROLL for (int part = 0; part < 2; part++) {
    if constexpr (Fp8) {
      mma_e4m3(product.value[part], a, b[2 * part], b[2 * part + 1]);
    } else {
      mma_bf16(product.value[part], a, b[2 * part], b[2 * part + 1]);
    }
  }
#else
  const std::uint32_t x[2][2] = {{a[0], a[1]}, {a[2], a[3]}}, y[2][2] = {{b[0], b[1]}, {b[2], b[3]}};
#if ORRERY_MATRIX_TARGET == 1201
  if constexpr (Fp8) {
    GPU_UNROLL for (int half = 0; half < 2; half++) wmma_16x16x16_fp8(product.value, y[half], x[half]);
  } else {
    wmma_16x16x16_bf16(product.value, b, a);
  }
#else
  GPU_UNROLL for (int half = 0; half < 2; half++) {
    if constexpr (Fp8) {
      mfma_16x16x32_fp8(product.value[0], y[half], x[half]);
    } else {
      mfma_16x16x16_bf16(product.value[0], y[half], x[half]);
    }
  }
#endif
#endif
}

}  // namespace orrery::kernels
