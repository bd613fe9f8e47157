#include "kernels/cases/normed_row.h"

#include <cmath>

#include "kernels/cases/case_support.h"

namespace orrery::kernels {

void compare_normed_row(Comparison& comparison, DeviceMemory& memory, const NormedOutput& output,
                        std::int64_t row, const std::vector<double>& expected) {
  if (output.quantized.scaling != Fp8Scaling::none) {
    std::vector<double> slack;
    slack.reserve(expected.size());
    for (const double e : expected) slack.push_back(fp32_tolerance(e));
    return compare_fp8_row(comparison, memory, output.quantized, row, expected, slack);
  }
  const auto columns = static_cast<std::int64_t>(expected.size());
  const auto actual = fetch_bf16(memory, output.out + row * columns, columns);
  for (std::size_t i = 0; i < expected.size(); ++i) {
    comparison.value("out", row, static_cast<std::int64_t>(i), actual[i], expected[i],
                     bf16_tolerance(expected[i]));
  }
}

std::vector<double> compare_sum(Comparison& comparison, std::int64_t row,
                                const std::vector<std::vector<double>>& terms, std::vector<double> written) {
  for (std::size_t i = 0; i < written.size(); ++i) {
    double sum = 0, magnitude = 0;
    for (const auto& term : terms) sum += term[i], magnitude += std::fabs(term[i]);
    comparison.value("sum", row, static_cast<std::int64_t>(i), written[i], sum,
                     bf16_tolerance(sum, magnitude));
  }
  return written;
}

}  // namespace orrery::kernels
