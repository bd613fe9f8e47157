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
  return {all(gemm_rows),        all(gemm_knees),       all(expert_tokens),    all(decode_batches),
          all(decode_contexts),  all(prefill_tokens),   all(prefill_contexts), all(prefill_sequences),
          all(elementwise_rows), all(collective_bytes), all(copy_bytes)};
}

Axes axes_between() {
  Axes axes{between(gemm_rows),        {},
            between(expert_tokens),    between(decode_batches),
            between(decode_contexts),  between(prefill_tokens),
            between(prefill_contexts), between(prefill_sequences),
            between(elementwise_rows), between(collective_bytes, 16),
            between(copy_bytes, 16)};
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
