// The tables of AMD's matrix instructions: that they are bijections, that they say what AMD's documents
// print, and, where the simulator stands for the part, that an emulated instruction is the product.
#include "kernels/matrix_layout.h"

#include <vector>

#include "catch.h"
#include "kernels/matrix_tile.h"
#include "kernels/small_floats.h"

using namespace orrery::kernels;

namespace {

constexpr MatrixLayout layouts[] = {mfma_16x16x16_bf16_layout, mfma_16x16x32_fp8_layout,
                                    wmma_16x16x16_bf16_layout, wmma_16x16x16_fp8_layout};

bool same(MatrixPlace a, MatrixPlace b) { return a.line == b.line && a.k == b.k; }
bool same(ResultPlace a, ResultPlace b) { return a.row == b.row && a.column == b.column; }

}  // namespace

TEST_CASE("every element of a matrix operand and of a result lies in exactly one register", "[kernels]") {
  for (const MatrixLayout& layout : layouts) {
    CAPTURE(layout.name);
    CHECK(layout.words() * 32 == layout.each() * layout.operand_bits);
    std::vector<int> operand(static_cast<std::size_t>(layout.rows * layout.k));
    std::vector<int> result(static_cast<std::size_t>(layout.rows * layout.columns));
    for (int lane = 0; lane < layout.lanes; ++lane) {
      for (int e = 0; e < layout.each(); ++e) {
        const MatrixPlace place = layout.operand(lane, e);
        ++operand.at(static_cast<std::size_t>(place.line * layout.k + place.k));
      }
      for (int e = 0; e < layout.results(); ++e) {
        const ResultPlace place = layout.result(lane, e);
        ++result.at(static_cast<std::size_t>(place.row * layout.columns + place.column));
      }
    }
    CHECK(operand == std::vector<int>(operand.size(), 1));
    CHECK(result == std::vector<int>(result.size(), 1));
  }
}

TEST_CASE("layouts of matrix instructions say what AMD's documents print", "[kernels]") {
  // Matrix Instruction Calculator 1.3.2, --architecture cdna3, --matrix-layout: of A (B: transposed) and D.
  const MatrixLayout& mfma = mfma_16x16x16_bf16_layout;
  CHECK(same(mfma.operand(0, 0), {0, 0}));
  CHECK(same(mfma.operand(5, 3), {5, 3}));   // v1.[31:16]
  CHECK(same(mfma.operand(16, 0), {0, 4}));  // the second sixteen lanes go on in k
  CHECK(same(mfma.operand(63, 2), {15, 14}));
  CHECK(same(mfma.result(0, 3), {3, 0}));
  CHECK(same(mfma.result(17, 0), {4, 1}));
  CHECK(same(mfma.result(63, 3), {15, 15}));
  const MatrixLayout& mfma8 = mfma_16x16x32_fp8_layout;
  CHECK(same(mfma8.operand(2, 7), {2, 7}));  // v1.[31:24]
  CHECK(same(mfma8.operand(18, 0), {2, 8}));
  CHECK(same(mfma8.operand(63, 7), {15, 31}));
  CHECK(same(mfma8.result(33, 2), {10, 1}));
  // --architecture rdna4: of 16 bits a lane holds two runs of four, of eight one of eight; D: VGPR i is row
  // i, in the upper lanes i + 8.
  const MatrixLayout& wmma = wmma_16x16x16_bf16_layout;
  CHECK(same(wmma.operand(0, 3), {0, 3}));
  CHECK(same(wmma.operand(1, 4), {1, 8}));  // v2.[15:0]
  CHECK(same(wmma.operand(16, 0), {0, 4}));
  CHECK(same(wmma.operand(17, 7), {1, 15}));
  const MatrixLayout& wmma8 = wmma_16x16x16_fp8_layout;
  CHECK(same(wmma8.operand(3, 7), {3, 7}));
  CHECK(same(wmma8.operand(19, 0), {3, 8}));
  for (const MatrixLayout& layout : {wmma, wmma8}) {
    CHECK(same(layout.result(4, 7), {7, 4}));
    CHECK(same(layout.result(20, 0), {8, 4}));
  }
}

#if ORRERY_MATRIX_TARGET != 0
namespace {

// Registers filled by the documents' own words, not by the tables under test.
constexpr int each_bf16 = GPU_WARP == 64 ? 4 : 8, k_fp8 = GPU_WARP == 64 ? 32 : 16,
              rows_of_lane = GPU_WARP == 64 ? 4 : 8;

float left(int row, int k) { return static_cast<float>(row * 16 + k - 100); }  // all different, exact in bf16
float right(int column, int k) { return static_cast<float>((column * 37 + k * 11) % 251 - 77); }
std::uint8_t left_fp8(int row, int k) {
  const int code = (row * 32 + k) * 7 % 256;
  return static_cast<std::uint8_t>((code & 0x7F) == 0x7F || code == 0x80 ? 1 : code);  // no NaN of either
                                                                                       // format
}
std::uint8_t right_fp8(int column, int k) { return left_fp8(15 - column, (k * 5 + 3) % 32); }

void bf16_product(float* out) {
  const int lane = static_cast<int>(gpu_lane()), line = lane % 16;
  std::uint32_t a[each_bf16 / 2], b[each_bf16 / 2];
  for (int i = 0; i < each_bf16 / 2; ++i) {
    const int k = 4 * (lane / 16) + i % 2 * 2 + i / 2 * 8;  // VGPR i: a pair; the third and fourth eight
                                                            // further on
    a[i] = gpu_pack_bf16(left(line, k), left(line, k + 1));
    b[i] = gpu_pack_bf16(right(line, k), right(line, k + 1));
  }
#if ORRERY_MATRIX_TARGET == 942
  float d[4] = {1000, 1000, 1000, 1000};
  mfma_16x16x16_bf16(d, a, b);
  const float* results = d;
#else
  float d[2][4] = {{1000, 1000, 1000, 1000}, {1000, 1000, 1000, 1000}};
  wmma_16x16x16_bf16(d, a, b);
  const float* results = d[0];
#endif
  for (int i = 0; i < rows_of_lane; ++i) out[(rows_of_lane * (lane / 16) + i) * 16 + line] = results[i];
}
void fp8_product(float* out) {
  const int lane = static_cast<int>(gpu_lane()), line = lane % 16, first = 8 * (lane / 16);
  std::uint32_t a[2] = {0, 0}, b[2] = {0, 0};
  for (int i = 0; i < 8; ++i) {
    a[i / 4] |= std::uint32_t{left_fp8(line, first + i)} << (8 * (i % 4));
    b[i / 4] |= std::uint32_t{right_fp8(line, first + i)} << (8 * (i % 4));
  }
#if ORRERY_MATRIX_TARGET == 942
  float d[4] = {};
  mfma_16x16x32_fp8(d, a, b);
  const float* results = d;
#else
  float d[2][4] = {};
  wmma_16x16x16_fp8(d, a, b);
  const float* results = d[0];
#endif
  for (int i = 0; i < rows_of_lane; ++i) out[(rows_of_lane * (lane / 16) + i) * 16 + line] = results[i];
}

}  // namespace

TEST_CASE("an emulated matrix instruction is the product of its operands", "[kernels]") {
  static_cast<void>(simulator::take_error());
  std::vector<float> out(256, -1), out8(256, -1);
  gpu_launch(bf16_product, {1}, 64 / GPU_WARP * GPU_WARP, nullptr, out.data());
  gpu_launch(fp8_product, {1}, 64 / GPU_WARP * GPU_WARP, nullptr, out8.data());
  CHECK(simulator::take_error().empty());
  for (int row = 0; row < 16; ++row) {
    for (int column = 0; column < 16; ++column) {
      double expected = 1000, expected8 = 0;
      for (int k = 0; k < 16; ++k) expected += static_cast<double>(left(row, k)) * right(column, k);
      for (int k = 0; k < k_fp8; ++k) {
        expected8 += static_cast<double>(fp8_to_float(left_fp8(row, k), gpu_fp8_format)) *
                     fp8_to_float(right_fp8(column, k), gpu_fp8_format);
      }
      CAPTURE(row, column);
      const auto at = static_cast<std::size_t>(row * 16 + column);
      CHECK(out[at] == expected);
      CHECK(out8[at] == Approx(expected8).epsilon(1e-5).margin(1e-3));
    }
  }
}
#endif

namespace {

// What the kernels use: two tiles of rows in shared memory, one step of k, the product where tile_row says.
float tile_left(int row, int k) { return static_cast<float>((row * 32 + k) % 256 - 99); }
float tile_right(int column, int k) { return static_cast<float>((column * 41 + k * 17) % 253 - 120); }

void tile_product(float* out) {
  GPU_SHARED(unsigned char, rows, 2 * 16 * 128);
  for (int i = static_cast<int>(threadIdx.x); i < 16 * 32; i += static_cast<int>(blockDim.x)) {
    const int row = i / 32, pair = i % 32;
    const std::uint32_t at =
        swizzled_128(static_cast<unsigned>(row), static_cast<unsigned>(pair / 4)) + pair % 4 * 4;
    gpu_store(rows + at, 0, gpu_pack_bf16(tile_left(row, 2 * pair), tile_left(row, 2 * pair + 1)));
    gpu_store(rows + 16 * 128 + at, 0,
              gpu_pack_bf16(tile_right(row, 2 * pair), tile_right(row, 2 * pair + 1)));
  }
  gpu_barrier();
  MatrixTile tile{};
  MatrixOperand a, b;
  const OperandChunk left_at = left_chunk(), right_at = right_chunk();
  const SharedAddress base = shared_address(rows);
  a.load(base + swizzled_128(left_at.row, tile_step_chunks + left_at.chunk));  // the second step
  b.load(base + 16 * 128 + swizzled_128(right_at.row, tile_step_chunks + right_at.chunk));
  multiply_step<false>(tile, a, b);
  if (gpu_warp_index() > 0) return;
  for (int part = 0; part < tile_parts; ++part) {
    for (int c = 0; c < 4; ++c)
      out[tile_row(tile_held(c)) * 16 + tile_column(part, c)] += tile.value[part][c];
  }
}

}  // namespace

TEST_CASE("a step of a matrix tile is the product of its rows on every target", "[kernels]") {
  static_cast<void>(simulator::take_error());
  std::vector<float> out(256, 0);
  gpu_launch(tile_product, {1}, 64, nullptr, out.data());
  CHECK(simulator::take_error().empty());
  constexpr int step = tile_step_bytes / 2;
  for (int row = 0; row < 16; ++row) {
    for (int column = 0; column < 16; ++column) {
      double expected = 0;
      for (int k = step; k < 2 * step; ++k)
        expected += static_cast<double>(tile_left(row, k)) * tile_right(column, k);
      CAPTURE(row, column);
      CHECK(out[static_cast<std::size_t>(row * 16 + column)] == expected);
    }
  }
}
