#include "kernels/reference.h"

#include <algorithm>
#include <cmath>

#include "base/random.h"

namespace orrery::kernels {

Fp8Format device_fp8() {
#if defined(ORRERY_SIMULATED_WARP) && ORRERY_SIMULATED_WARP == 64
  return Fp8Format::fnuz;
#else
  return Fp8Format::ocp;
#endif
}

namespace {
// Below the smallest normal fp32 (and bf16) number a device may flush to zero.
constexpr double fp32_smallest_normal = 1.1754943508222875e-38;

double arithmetic(double expected, double magnitude) {
  return fp32_arithmetic * std::max(std::fabs(expected), magnitude) + fp32_smallest_normal;
}
}  // namespace

double bf16_tolerance(double expected, double magnitude) {
  return bf16_rounding * std::fabs(expected) + 1.01 * arithmetic(expected, magnitude);
}
double fp32_tolerance(double expected, double magnitude) { return arithmetic(expected, magnitude); }
double fp8_tolerance(double expected, double scale) {
  const double half_step = 0.5 * fp8_smallest(device_fp8()) * scale;
  // A value that arithmetic moved across a tie lands one step away from where the exact one would.
  return std::max(fp8_rounding * std::fabs(expected), half_step) + 1.1 * arithmetic(expected, scale);
}

void Comparison::value(const char* name, std::int64_t row, std::int64_t column, double actual,
                       double expected, double tolerance) {
  ++result_.compared;
  double error = 0;  // over its tolerance
  if (std::isnan(expected) || std::isnan(actual)) {
    error = std::isnan(expected) && std::isnan(actual) ? 0 : HUGE_VAL;
  } else if (std::isinf(expected) || std::isinf(actual)) {
    error = expected == actual ? 0 : HUGE_VAL;
  } else if (actual != expected) {
    error = std::fabs(actual - expected) / tolerance;
  }
  result_.worst = std::max(result_.worst, error);
  if (error <= 1 || failed_) return;
  fail(std::string(name) + "[" + std::to_string(row) + ", " + std::to_string(column) + "] is " +
       std::to_string(actual) + ", expected " + std::to_string(expected) + " ± " + std::to_string(tolerance));
}

void Comparison::exact(const char* name, std::int64_t row, std::int64_t column, std::int64_t actual,
                       std::int64_t expected) {
  ++result_.compared;
  if (actual == expected || failed_) return;
  fail(std::string(name) + "[" + std::to_string(row) + ", " + std::to_string(column) + "] is " +
       std::to_string(actual) + ", expected " + std::to_string(expected));
}

void Comparison::fail(const std::string& detail) {
  if (failed_) return;
  failed_ = true;
  result_.worst = std::max(result_.worst, 2.0);
  result_.detail = what_ + ": " + detail;
}

CheckResult Comparison::result() const {
  CheckResult result = result_;
  result.passed = !failed_ && result.compared > 0;
  if (result.compared == 0 && !failed_) result.detail = what_ + ": nothing was compared";
  return result;
}

std::vector<std::int64_t> sampled_rows(std::int64_t rows, std::int64_t columns, std::uint64_t seed) {
  const std::int64_t enough = std::max<std::int64_t>(32, 4096 / std::max<std::int64_t>(columns, 1) + 1);
  std::vector<std::int64_t> chosen;
  if (rows <= 4 * enough) {
    for (std::int64_t i = 0; i < rows; ++i) chosen.push_back(i);
    return chosen;
  }
  RandomStream random(seed, RandomPurpose::kernel_operands, 0);
  chosen = {0, rows - 1};
  while (static_cast<std::int64_t>(chosen.size()) < enough) {
    chosen.push_back(static_cast<std::int64_t>(random.below(static_cast<std::uint64_t>(rows))));
  }
  std::sort(chosen.begin(), chosen.end());
  chosen.erase(std::unique(chosen.begin(), chosen.end()), chosen.end());
  return chosen;
}

std::vector<double> fetch_bf16(DeviceMemory& memory, const std::uint16_t* from, std::int64_t count) {
  std::vector<double> out;
  out.reserve(static_cast<std::size_t>(count));
  for (const std::uint16_t bits : fetch(memory, from, count)) out.push_back(bf16_to_float(bits));
  return out;
}
std::vector<double> fetch_fp32(DeviceMemory& memory, const float* from, std::int64_t count) {
  const std::vector<float> raw = fetch(memory, from, count);
  return {raw.begin(), raw.end()};
}
std::vector<double> fetch_fp8(DeviceMemory& memory, const std::uint8_t* from, std::int64_t count) {
  std::vector<double> out;
  out.reserve(static_cast<std::size_t>(count));
  const Fp8Format format = device_fp8();
  for (const std::uint8_t bits : fetch(memory, from, count)) out.push_back(fp8_to_float(bits, format));
  return out;
}

std::vector<double> reference_rms_norm(const std::vector<double>& x, const std::vector<double>& weight,
                                       double epsilon) {
  double squares = 0;
  for (const double value : x) squares += value * value;
  const double factor = 1 / std::sqrt(squares / static_cast<double>(x.size()) + epsilon);
  std::vector<double> out(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) out[i] = x[i] * factor * weight[i];
  return out;
}

}  // namespace orrery::kernels
