#include "kernels/cases/matrix_operands.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "base/random.h"
#include "kernels/cases/parallel.h"
#include "kernels/small_floats.h"

namespace orrery::kernels {

namespace {

double power_of_two(int exponent) { return std::ldexp(1.0, exponent); }

void encode(Element element, double value, unsigned char* to) {
  if (element == Element::bf16) {
    const std::uint16_t bits = float_to_bf16(static_cast<float>(value));
    std::memcpy(to, &bits, 2);
  } else if (element == Element::fp8) {
    *to = float_to_fp8(static_cast<float>(value), device_fp8());
  } else {
    const auto single = static_cast<float>(value);
    std::memcpy(to, &single, 4);
  }
}

const char* type_name(Element element) {
  if (element == Element::bf16) return "bf16";
  return element == Element::fp8 ? "fp8" : "fp32";
}

void fill_saturating(const Matrix& m, DeviceMemory& memory, float scale, std::uint64_t seed) {
  const std::size_t each = element_bytes(m.element);
  const std::size_t row_bytes = static_cast<std::size_t>(m.columns) * each;
  // The rows repeat after a number that no tile or block divides: draws of gigabytes would take minutes.
  const std::int64_t period = std::min<std::int64_t>(m.rows, 255);
  std::vector<unsigned char> rows(static_cast<std::size_t>(period) * row_bytes);
  in_parallel(static_cast<std::size_t>(period), [&](std::size_t r) {
    RandomStream random(seed, RandomPurpose::property_test, r);
    const double factor = scale * power_of_two(static_cast<int>(r % 17) - 8);
    for (std::int64_t c = 0; c < m.columns; ++c) {
      double value = random.normal() * factor;
      if (c % 7 == 0) value = m.element == Element::fp8 ? (value < 0 ? -1e9 : 1e9) : value * 65536;
      encode(m.element, value, rows.data() + r * row_bytes + static_cast<std::size_t>(c) * each);
    }
  });
  for (std::int64_t first = 0; first < m.rows; first += period) {
    const auto count = static_cast<std::size_t>(std::min(period, m.rows - first));
    auto* to = static_cast<unsigned char*>(m.data) + static_cast<std::size_t>(first) * row_bytes;
    memory.upload(to, rows.data(), count * row_bytes);
  }
}

void put_nan(const Matrix& m, DeviceMemory& memory) {
  const std::int64_t rows[3] = {0, m.rows / 2, m.rows - 1};
  for (int i = 0; i < 3; ++i) {
    unsigned char value[4];
    encode(m.element, std::numeric_limits<double>::quiet_NaN(), value);
    const std::size_t each = element_bytes(m.element);
    const std::int64_t column = (m.columns * (2 * i + 1)) / 6;
    const auto at = static_cast<std::size_t>(rows[i] * m.columns + column) * each;
    memory.upload(static_cast<unsigned char*>(m.data) + at, value, each);
  }
}

}  // namespace

double decode_element(Element element, const unsigned char* from) {
  if (element == Element::fp8) return fp8_to_float(*from, device_fp8());
  if (element == Element::bf16) {
    std::uint16_t bits = 0;
    std::memcpy(&bits, from, 2);
    return bf16_to_float(bits);
  }
  float value = 0;
  std::memcpy(&value, from, 4);
  return value;
}

std::size_t element_bytes(Element element) {
  if (element == Element::fp8) return 1;
  return element == Element::bf16 ? 2 : 4;
}

bool Matrix::allocate(DeviceMemory& memory) {
  data = memory.allocate(std::max<std::size_t>(bytes(), 16));
  return data != nullptr;
}

void Matrix::fill(DeviceMemory& memory, Fill how, float scale, std::uint64_t seed) const {
  if (rows == 0 || columns == 0) return;
  if (how == Fill::zeros) {
    memory.fill(data, 0, bytes());
  } else if (how == Fill::saturating) {
    fill_saturating(*this, memory, scale, seed);
  } else {
    memory.fill_random(data, static_cast<std::size_t>(rows * columns), type_name(element), scale, seed);
    if (how == Fill::with_nan) put_nan(*this, memory);
  }
}

std::vector<double> Matrix::elements(DeviceMemory& memory, std::int64_t first, std::int64_t count) const {
  const std::size_t each = element_bytes(element);
  std::vector<unsigned char> raw(static_cast<std::size_t>(count) * each);
  memory.download(raw.data(),
                  static_cast<const unsigned char*>(data) + static_cast<std::size_t>(first) * each,
                  raw.size());
  std::vector<double> values(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = decode_element(element, raw.data() + i * each);
  return values;
}

std::vector<std::vector<double>> Matrix::some_rows(DeviceMemory& memory,
                                                   const std::vector<std::int64_t>& indices) const {
  constexpr std::size_t most_at_once = 256U << 20;
  std::vector<std::vector<double>> out(indices.size());
  const std::size_t row_bytes = static_cast<std::size_t>(columns) * element_bytes(element);
  // A download costs as much as some ten kilobytes of it.
  const bool whole = bytes() <= most_at_once && bytes() < indices.size() * (row_bytes + (64U << 10));
  std::vector<unsigned char> raw(whole ? bytes() : indices.size() * row_bytes);
  if (whole) memory.download(raw.data(), data, raw.size());
  for (std::size_t i = 0; !whole && i < indices.size(); ++i) {
    const std::size_t at = static_cast<std::size_t>(indices[i]) * row_bytes;
    memory.download(raw.data() + i * row_bytes, static_cast<const unsigned char*>(data) + at, row_bytes);
  }
  in_parallel(indices.size(), [&](std::size_t i) {
    const unsigned char* from = raw.data() + (whole ? static_cast<std::size_t>(indices[i]) : i) * row_bytes;
    out[i].resize(static_cast<std::size_t>(columns));
    for (std::size_t c = 0; c < out[i].size(); ++c)
      out[i][c] = decode_element(element, from + c * element_bytes(element));
  });
  return out;
}

std::vector<double> Matrix::row(DeviceMemory& memory, std::int64_t index) const {
  return elements(memory, index * columns, columns);
}

std::vector<float> make_scales(std::int64_t count, float typical, Fill how, std::uint64_t seed) {
  std::vector<float> scales(static_cast<std::size_t>(count));
  RandomStream random(seed, RandomPurpose::property_test, 7);
  const std::uint64_t steps = how == Fill::saturating ? 13 : 3;
  for (float& scale : scales) {
    const int exponent = static_cast<int>(random.below(steps)) - static_cast<int>(steps / 2);
    const double value = typical * (1 + random.uniform()) * power_of_two(exponent);
    scale = how == Fill::zeros ? 0.0F : static_cast<float>(value);
  }
  return scales;
}

void* upload_new(DeviceMemory& memory, const void* host, std::size_t bytes) {
  void* device = memory.allocate(std::max<std::size_t>(bytes, 16));
  if (device != nullptr && bytes > 0) memory.upload(device, host, bytes);
  return device;
}

std::vector<std::int64_t> sample(std::int64_t below, std::int64_t count, std::uint64_t seed) {
  std::vector<std::int64_t> chosen;
  if (below <= count) {
    for (std::int64_t i = 0; i < below; ++i) chosen.push_back(i);
    return chosen;
  }
  RandomStream random(seed, RandomPurpose::property_test, 11);
  // One in each of `count` equal stretches: different by construction.
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int64_t begin = below * i / count, end = below * (i + 1) / count;
    chosen.push_back(begin +
                     static_cast<std::int64_t>(random.below(static_cast<std::uint64_t>(end - begin))));
  }
  chosen.front() = 0;
  chosen.back() = below - 1;
  return chosen;
}

DotProduct dot(const std::vector<double>& a, const std::vector<double>& b) {
  DotProduct sum;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double product = a[i] * b[i];
    sum.value += product;
    sum.magnitude += std::fabs(product);
  }
  return sum;
}

double sum_error(Element operand, std::int64_t k) {
  const double truncated = operand == Element::fp8 ? 0x1p-11 : 0x1p-22;
  return truncated + 0x1p-24 * std::sqrt(static_cast<double>(k)) * 4;
}

void MatrixComparison::add(double actual, double expected, double tolerance, const std::string& where) {
  ++result_.compared;
  double off = 0;
  if (std::isnan(expected) || std::isnan(actual)) {
    off = std::isnan(expected) == std::isnan(actual) ? 0 : std::numeric_limits<double>::infinity();
  } else if (std::fabs(expected) + tolerance >= bf16_largest && std::fabs(actual) >= bf16_largest) {
    off = std::signbit(actual) == std::signbit(expected) ? 0 : std::numeric_limits<double>::infinity();
  } else if (actual != expected) {
    off = tolerance > 0 ? std::fabs(actual - expected) / tolerance : std::numeric_limits<double>::infinity();
  }
  if (off > result_.worst) result_.worst = off;
  if (off > 1 && result_.passed) {
    result_.passed = false;
    result_.detail = where + ": " + std::to_string(actual) + " instead of " + std::to_string(expected) +
                     ", tolerance " + std::to_string(tolerance);
  }
}

void MatrixComparison::guards(DeviceMemory& memory) {
  std::string what;
  if (!memory.guards_intact(what)) fail(what);
}

void MatrixComparison::fail(const std::string& what) {
  if (result_.passed) result_.detail = what;
  result_.passed = false;
}

}  // namespace orrery::kernels
