// Operands of matrix and attention cases: filled where the memory is, read back by rows for references, and
// the comparison with a double-precision result.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/kernel_case.h"
#include "kernels/reference.h"

namespace orrery::kernels {

enum class Element : std::uint8_t { bf16, fp8, fp32 };
std::size_t element_bytes(Element element);
double decode_element(Element element, const unsigned char* from);

// A row-major matrix on the device.
struct Matrix {
  void* data = nullptr;
  Element element = Element::bf16;
  std::int64_t rows = 0, columns = 0;

  std::size_t bytes() const { return static_cast<std::size_t>(rows * columns) * element_bytes(element); }
  bool allocate(DeviceMemory& memory);
  // `scale` is the deviation of random values. Saturating: neighbouring rows differ by powers of two from 2⁻⁸
  // to 2⁸, repeat every 255 rows, and every 7th element is the largest of fp8 (bf16: 2¹⁶ times the rest).
  // NaN: one element of the first, a middle and the last row.
  void fill(DeviceMemory& memory, Fill how, float scale, std::uint64_t seed) const;
  std::vector<double> row(DeviceMemory& memory, std::int64_t index) const;
  std::vector<std::vector<double>> some_rows(DeviceMemory& memory,
                                             const std::vector<std::int64_t>& indices) const;
  std::vector<double> elements(DeviceMemory& memory, std::int64_t first, std::int64_t count) const;
};

// Positive scales around `typical`, spread over a factor of 4; over 2¹² when saturating; 0 when zeros.
std::vector<float> make_scales(std::int64_t count, float typical, Fill how, std::uint64_t seed);
void* upload_new(DeviceMemory& memory, const void* host, std::size_t bytes);  // null when there is no room

// At most `count` different indices below `below`, ascending, the first and the last among them.
std::vector<std::int64_t> sample(std::int64_t below, std::int64_t count, std::uint64_t seed);

struct DotProduct {
  double value = 0;
  double magnitude = 0;  // Σ |a · b|: what rounding errors of the sum scale with
};
DotProduct dot(const std::vector<double>& a, const std::vector<double>& b);

// What an fp32 sum of k products may be off by, over Σ |a · b|. Tensor cores add 8-bit products with about 14
// bits below the largest of an instruction's terms; bf16 products are added in fp32, truncated.
double sum_error(Element operand, std::int64_t k);

// rounding
constexpr double bf16_largest = 3.3895313892515355e38;

// Unlike Comparison, knows a place in words and that bf16 overflows.
class MatrixComparison {
 public:
  // `expected` NaN must be met by NaN, an infinity or more than bf16 holds by the largest value or infinity.
  void add(double actual, double expected, double tolerance, const std::string& where);
  void guards(DeviceMemory& memory);
  void fail(const std::string& what);
  CheckResult result() const { return result_; }

 private:
  CheckResult result_{true, 0, 0, ""};
};

}  // namespace orrery::kernels
