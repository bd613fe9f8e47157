// Which element of a matrix instruction's operands a lane holds, for the AMD instructions that the kernels
// use: what AMD's Matrix Instruction Calculator prints
// (github.com/ROCm/amd_matrix_instruction_calculator 1.3.2, --architecture cdna3 and rdna4, --matrix-layout;
// all entries of the four were compared). Plain host code: the emulation follows these tables, and the tests
// hold them against entries of that print.
//
// A lane's elements come in runs of neighbours; the lanes' runs of one row lie one behind the other, and
// after the last lane's the next run follows.
//   A (rows × k)     lane l holds row l % rows and runs of k
//   B (k × columns)  likewise, with columns for rows
//   D (rows × columns, fp32)  lane l holds column l % columns and runs of rows
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
  int operand_run;   // neighbours of k in A and B
  int result_run;    // neighbouring rows of D

  constexpr int each() const { return rows * k / lanes; }  // elements of A (and of B) in a lane
  constexpr int results() const { return rows * columns / lanes; }
  constexpr int words() const { return each() * operand_bits / 32; }
  constexpr MatrixPlace operand(int lane, int element) const {  // rows = columns in all of them
    return {lane % rows, place_in_runs(operand_run, lane / rows, lanes / rows, element)};
  }
  constexpr ResultPlace result(int lane, int element) const {
    return {place_in_runs(result_run, lane / columns, lanes / columns, element), lane % columns};
  }

 private:
  static constexpr int place_in_runs(int run, int turn, int turns, int element) {
    return run * (turn + turns * (element / run)) + element % run;
  }
};

inline constexpr MatrixLayout mfma_16x16x16_bf16_layout{"v_mfma_f32_16x16x16_bf16", 16, 16, 16, 64, 16, 4, 4};
inline constexpr MatrixLayout mfma_16x16x32_fp8_layout{
    "v_mfma_f32_16x16x32_fp8_fp8", 16, 16, 32, 64, 8, 8, 4};
inline constexpr MatrixLayout wmma_16x16x16_bf16_layout{"v_wmma_f32_16x16x16_bf16", 16, 16, 16, 32, 16, 4, 8};
inline constexpr MatrixLayout wmma_16x16x16_fp8_layout{
    "v_wmma_f32_16x16x16_fp8_fp8", 16, 16, 16, 32, 8, 8, 8};

}  // namespace orrery::kernels
