// What a launch struct allows and the cases do not use: results in place, scales in column-major order, and
// that sampling draws from the distribution it claims.
#include <cmath>
#include <vector>

#include "base/random.h"
#include "catch.h"
#include "kernels/cpu_simulator.h"
#include "kernels/guarded_memory.h"
#include "kernels/quantize.h"
#include "kernels/reference.h"
#include "kernels/rms_norm.h"
#include "kernels/rotary.h"
#include "kernels/sample.h"
#include "kernels/stream.h"

using namespace orrery;
using namespace orrery::kernels;

namespace {

template <class T>
T* array(HostMemory& memory, std::size_t count) {
  return static_cast<T*>(memory.allocate(count * sizeof(T)));
}
template <class T>
T* array_of(HostMemory& memory, const std::vector<T>& values) {
  T* device = array<T>(memory, values.size());
  memory.upload(device, values.data(), values.size() * sizeof(T));
  return device;
}
std::uint16_t* random_bf16(HostMemory& memory, std::size_t count, std::uint64_t seed) {
  auto* device = array<std::uint16_t>(memory, count);
  memory.fill_random(device, count, "bf16", 1, seed);
  return device;
}

}  // namespace

TEST_CASE("add and norm give the same in place", "[kernels]") {
  HostMemory memory;
  constexpr std::size_t rows = 3, columns = 1032, count = rows * columns;
  RmsNormLaunch apart;
  apart.x = random_bf16(memory, count, 1);
  apart.residual = random_bf16(memory, count, 2);
  apart.residual_out = array<std::uint16_t>(memory, count);
  apart.weight = random_bf16(memory, columns, 3);
  apart.out = array<std::uint16_t>(memory, count);
  apart.rows = rows;
  apart.columns = columns;
  launch_rms_norm(apart, nullptr);
  RmsNormLaunch in_place = apart;
  auto* x = random_bf16(memory, count, 1);
  auto* residual = random_bf16(memory, count, 2);
  in_place.x = in_place.out = x;
  in_place.residual = in_place.residual_out = residual;
  launch_rms_norm(in_place, nullptr);
  CHECK(fetch(memory, x, count) == fetch(memory, apart.out, count));
  CHECK(fetch(memory, residual, count) == fetch(memory, apart.residual_out, count));
  CHECK(simulator::take_error() == "");
}

TEST_CASE("rotary gives the same in place and leaves v alone", "[kernels]") {
  HostMemory memory;
  constexpr std::size_t tokens = 3, head_dim = 64, width = (2 + 1 + 1) * head_dim;
  RotaryLaunch apart;
  auto* qkv = random_bf16(memory, tokens * width, 1);
  apart.qkv = qkv;
  apart.out = array<std::uint16_t>(memory, tokens * 3 * head_dim);
  apart.positions = array_of<std::int64_t>(memory, {0, 1, 1});
  auto* table = array<float>(memory, 2 * head_dim);
  memory.fill_random(table, 2 * head_dim, "fp32", 1, 5);
  apart.cos_sin = table;
  apart.in_stride = width;
  apart.out_stride = 3 * head_dim;
  apart.tokens = tokens;
  apart.heads = 2;
  apart.kv_heads = 1;
  apart.head_dim = head_dim;
  launch_rotary(apart, nullptr);
  const auto before = fetch(memory, qkv, tokens * width);
  RotaryLaunch in_place = apart;
  in_place.out = qkv;
  in_place.out_stride = width;
  launch_rotary(in_place, nullptr);
  for (std::size_t t = 0; t < tokens; ++t) {
    for (std::size_t i = 0; i < width; ++i) {
      const bool is_v = i >= 3 * head_dim;
      CHECK(qkv[t * width + i] == (is_v ? before[t * width + i] : apart.out[t * 3 * head_dim + i]));
    }
  }
}

TEST_CASE("scales can stand in column-major order", "[kernels]") {
  HostMemory memory;
  constexpr std::size_t rows = 5, columns = 384, groups = columns / fp8_group;
  QuantizeLaunch a;
  a.x = random_bf16(memory, rows * columns, 1);
  a.rows = rows;
  a.columns = columns;
  a.out.scaling = Fp8Scaling::group;
  a.out.values = array<std::uint8_t>(memory, rows * columns);
  a.out.scales = array<float>(memory, rows * groups);
  a.out.row_stride = groups;
  a.out.group_stride = 1;
  launch_quantize(a, nullptr);
  QuantizeLaunch b = a;
  b.out.values = array<std::uint8_t>(memory, rows * columns);
  b.out.scales = array<float>(memory, rows * groups);
  b.out.row_stride = 1;
  b.out.group_stride = rows;
  launch_quantize(b, nullptr);
  CHECK(fetch(memory, a.out.values, rows * columns) == fetch(memory, b.out.values, rows * columns));
  for (std::size_t r = 0; r < rows; ++r) {
    for (std::size_t g = 0; g < groups; ++g)
      CHECK(a.out.scales[r * groups + g] == b.out.scales[g * rows + r]);
  }
  std::string what;
  CHECK(memory.guards_intact(what));
}

TEST_CASE("sample draws from the softmax at its temperature", "[kernels]") {
  HostMemory memory;
  constexpr std::size_t rows = 500, vocabulary = 8;
  const std::vector<float> one_row = {0, 1, 2, 0.5F, -1, 3, -INFINITY, 2.5F};
  constexpr float temperature = 1.5F;
  std::vector<float> logits;
  std::vector<std::uint64_t> seeds(rows, 99);
  std::vector<std::uint32_t> steps;
  for (std::size_t r = 0; r < rows; ++r) {
    logits.insert(logits.end(), one_row.begin(), one_row.end());
    steps.push_back(static_cast<std::uint32_t>(r));
  }
  SampleLaunch a;
  a.logits = array_of(memory, logits);
  a.temperatures = array_of(memory, std::vector<float>(rows, temperature));
  a.seeds = array_of(memory, seeds);
  a.steps = array_of(memory, steps);
  a.tokens = array<std::int32_t>(memory, rows);
  a.partial = array<std::uint64_t>(memory, rows * sample_most_splits);
  a.arrived = array_of(memory, std::vector<std::uint32_t>(rows, 0));
  a.rows = rows;
  a.vocabulary = vocabulary;
  launch_sample(a, nullptr);
  std::vector<int> seen(vocabulary, 0);
  for (std::size_t r = 0; r < rows; ++r) ++seen[static_cast<std::size_t>(a.tokens[r])];
  double sum = 0, chi_square = 0;
  for (const float l : one_row) sum += std::exp(l / temperature);
  for (std::size_t t = 0; t < vocabulary; ++t) {
    const double expected = rows * std::exp(one_row[t] / temperature) / sum;
    const int n = seen[t];
    if (expected == 0)
      CHECK(n == 0);
    else
      chi_square += (n - expected) * (n - expected) / expected;
  }
  CHECK(chi_square < 22.5);  // 6 degrees of freedom: exceeded once in a thousand seeds, and this seed is
                             // fixed
}

TEST_CASE("a bandwidth kernel with fewer blocks than work goes round again", "[kernels]") {
  HostMemory memory;
  constexpr std::size_t words = 4 * 10'007;
  StreamLaunch a;
  auto* source = array<std::uint32_t>(memory, words);
  auto* destination = array<std::uint32_t>(memory, words);
  memory.fill_random(source, words, "fp32", 1, 3);
  a.source = source;
  a.destination = destination;
  a.bytes = 4 * words;
  a.blocks = 2;
  launch_stream(a, nullptr);
  CHECK(fetch(memory, source, words) == fetch(memory, destination, words));
  std::string what;
  CHECK(memory.guards_intact(what));
}
