#include "calibrate/axes.h"

#include <cmath>

#include "base/check.h"

namespace orrery::calibrate {

namespace {

template <std::size_t n>
Axes::Values all(const std::array<std::int64_t, n>& values) {
  return {values.begin(), values.end()};
}

// Byte counts stay multiples of 16.
template <std::size_t n>
Axes::Values between(const std::array<std::int64_t, n>& values, std::int64_t multiple = 1) {
  Axes::Values out;
  for (std::size_t i = 1; i < n; ++i) {
    const double mean = std::sqrt(static_cast<double>(values[i - 1]) * static_cast<double>(values[i]));
    const std::int64_t value = std::llround(mean / static_cast<double>(multiple)) * multiple;
    if (value > values[i - 1] && value < values[i]) out.push_back(value);
  }
  return out;
}

}  // namespace

Axes grid_axes() {
  Axes axes;
  axes.gemm_rows = all(gemm_rows);
  axes.gemm_knees = all(gemm_knees);
  axes.expert_tokens = all(expert_tokens);
  axes.expert_thirds = all(expert_thirds);
  axes.decode_batches = all(decode_batches);
  axes.decode_thirds = all(decode_thirds);
  axes.decode_contexts = all(decode_contexts);
  axes.prefill_tokens = all(prefill_tokens);
  axes.prompt_thirds = all(prompt_thirds);
  axes.prefill_contexts = all(prefill_contexts);
  axes.prefill_sequences = all(prefill_sequences);
  axes.elementwise_rows = all(elementwise_rows);
  axes.collective_bytes = all(collective_bytes);
  axes.copy_bytes = all(copy_bytes);
  return axes;
}

Axes axes_between() {
  Axes axes;
  axes.gemm_rows = between(gemm_rows);
  axes.expert_tokens = between(expert_tokens);
  axes.decode_batches = between(decode_batches);
  axes.decode_contexts = between(decode_contexts);
  axes.prefill_tokens = between(prefill_tokens);
  axes.prompt_thirds = between(prompt_thirds);
  axes.prefill_contexts = between(prefill_contexts);
  axes.prefill_sequences = between(prefill_sequences);
  axes.elementwise_rows = between(elementwise_rows);
  axes.collective_bytes = between(collective_bytes, 16);
  axes.copy_bytes = between(copy_bytes, 16);
  axes.prefill_contexts.insert(axes.prefill_contexts.begin(), 0);
  axes.prefill_sequences.insert(axes.prefill_sequences.begin(), 1);
  return axes;
}

int axis_level(std::size_t i, std::size_t n) {
  ORRERY_CHECK(i < n, "a value off its axis");
  if (i == 0 || i + 1 == n) return 0;
  std::size_t low = 0, high = n - 1;
  for (int level = 0;; ++level) {
    const std::size_t middle = low + (high - low) / 2;
    if (i == middle) return level;
    (i < middle ? high : low) = middle;
  }
}

}  // namespace orrery::calibrate
