// Which element of a matrix instruction's operands a lane holds, for the AMD instructions that the kernels
// use: written from the tables of the CDNA 3 instruction set (§7.1.4; AMD's Matrix Instruction Calculator
// prints the same) and of the RDNA 4 instruction set (§7.12.2; "Using the Matrix Cores of AMD RDNA 4",
// GPUOpen). Plain host code: the emulation follows these tables, and the tests hold them against entries read
// off the documents.
//
//   A (rows × k)     lane l holds row l % rows, its elements are `each` neighbours of k from each · (l /
//   rows) on B (k × columns)  likewise, with columns for rows D (rows × columns, fp32)  lane l holds column l
//   % columns; its rows come in runs of `run`, the lanes' runs of one
//                    column one behind the other: run · (l / columns) + e % run, plus a turn of all lanes for
//                    every run
#pragma once

#include <cstdint>

namespace orrery::kernels {

struct MatrixPlace {
  int line = 0, k = 0;  // row of A or column of B
};
struct ResultPlace {
  int row = 0, column = 0;
};

struct MatrixLayout {
  const char* name;
  int rows, columns, k;
  int lanes;         // of a wave
  int operand_bits;  // 16: bf16; 8: e4m3 in the device's format
  int run;           // neighbouring rows of D in one lane

  constexpr int each() const { return rows * k / lanes; }  // elements of A (and of B) in a lane
  constexpr int results() const { return rows * columns / lanes; }
  constexpr int words() const { return each() * operand_bits / 32; }
  constexpr MatrixPlace operand(int lane, int element) const {  // rows = columns in all of them
    return {lane % rows, each() * (lane / rows) + element};
  }
  constexpr ResultPlace result(int lane, int element) const {
    const int row = run * (lane / columns) + element % run + run * (lanes / columns) * (element / run);
    return {row, lane % columns};
  }
};

inline constexpr MatrixLayout mfma_16x16x16_bf16_layout{"v_mfma_f32_16x16x16_bf16", 16, 16, 16, 64, 16, 4};
inline constexpr MatrixLayout mfma_16x16x32_fp8_layout{"v_mfma_f32_16x16x32_fp8_fp8", 16, 16, 32, 64, 8, 4};
inline constexpr MatrixLayout wmma_16x16x16_bf16_layout{"v_wmma_f32_16x16x16_bf16", 16, 16, 16, 32, 16, 8};
inline constexpr MatrixLayout wmma_16x16x16_fp8_layout{"v_wmma_f32_16x16x16_fp8_fp8", 16, 16, 16, 32, 8, 8};

}  // namespace orrery::kernels
