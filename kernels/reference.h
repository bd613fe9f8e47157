// Double-precision references that several kernels share, how far a result may be from one, and the
// comparison that every case's check goes through. A tolerance comes from the data type: half a step of its
// rounding, plus what fp32 arithmetic in another order may add; it is never fitted to what a kernel does.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/kernel_case.h"
#include "kernels/small_floats.h"

namespace orrery::kernels {

// The fp8 of the device that the linked kernels run on.
Fp8Format device_fp8();

// Largest relative error of rounding to nearest: 2⁻ᵖ with p significant bits.
constexpr double bf16_rounding = 1.0 / 256, fp8_rounding = 1.0 / 16, fp32_rounding = 1.0 / 16777216;
// Relative error of an fp32 sum, product chain or special function, however ordered: 64 roundings' worth.
// Sums of n random terms stay within √n roundings; blocks add them in trees.
constexpr double fp32_arithmetic = 64 * fp32_rounding;

// Around `expected`, for a value computed in fp32 and rounded once. `magnitude`: of the terms that were added
// up to it, when they cancel.
double bf16_tolerance(double expected, double magnitude = 0);
double fp32_tolerance(double expected, double magnitude = 0);
// For what fp8 · scale is worth; `scale` as the kernel stored it.
double fp8_tolerance(double expected, double scale);

class Comparison {
 public:
  explicit Comparison(std::string what) : what_(std::move(what)) {}

  // NaN is expected where the reference has NaN, and nowhere else; infinities must agree.
  void value(const char* name, std::int64_t row, std::int64_t column, double actual, double expected,
             double tolerance);
  void exact(const char* name, std::int64_t row, std::int64_t column, std::int64_t actual,
             std::int64_t expected);
  void fail(const std::string& detail);  // something that is no number
  CheckResult result() const;

 private:
  std::string what_;
  CheckResult result_;
  bool failed_ = false;
};

// Rows to compare of `rows` rows of `columns` outputs: all of a small result, else first, last and a
// pseudo-random choice that covers at least 4096 outputs.
std::vector<std::int64_t> sampled_rows(std::int64_t rows, std::int64_t columns, std::uint64_t seed);

// Downloads `count` elements from `from`.
template <class T>
std::vector<T> fetch(DeviceMemory& memory, const T* from, std::int64_t count) {
  std::vector<T> out(static_cast<std::size_t>(count));
  memory.download(out.data(), from, out.size() * sizeof(T));
  return out;
}
std::vector<double> fetch_bf16(DeviceMemory& memory, const std::uint16_t* from, std::int64_t count);
std::vector<double> fetch_fp32(DeviceMemory& memory, const float* from, std::int64_t count);
std::vector<double> fetch_fp8(DeviceMemory& memory, const std::uint8_t* from, std::int64_t count);

// x / √(mean(x²) + ε) · weight.
std::vector<double> reference_rms_norm(const std::vector<double>& x, const std::vector<double>& weight,
                                       double epsilon);

}  // namespace orrery::kernels
