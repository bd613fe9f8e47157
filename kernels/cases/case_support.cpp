#include "kernels/cases/case_support.h"

#include <cmath>

#include "base/random.h"

namespace orrery::kernels {

std::uint64_t Operands::next_seed() {
  return spec_.seed * 1'000'003 + static_cast<std::uint64_t>(set_) * 101 + operands_++;
}

void* Operands::allocate(std::size_t bytes) {
  bytes_ += bytes;
  if (memory_ == nullptr || !complete_) return nullptr;
  void* device = memory_->allocate(bytes);
  complete_ = device != nullptr;
  return device;
}

void* Operands::uploaded(const void* data, std::size_t bytes) {
  void* device = allocate(bytes);
  if (device != nullptr) memory_->upload(device, data, bytes);
  return device;
}

void* Operands::zeroed_bytes(std::size_t bytes) {
  void* device = allocate(bytes);
  if (device != nullptr) memory_->fill(device, 0, bytes);
  return device;
}

std::vector<float> Operands::extremes(std::int64_t rows, std::int64_t columns, float scale) {
  RandomStream random(next_seed(), RandomPurpose::kernel_operands);
  std::vector<float> out(static_cast<std::size_t>(rows * columns));
  std::size_t at = 0;
  for (std::int64_t r = 0; r < rows; ++r) {
    float row_scale = scale;
    if (spec_.fill == Fill::saturating)
      row_scale *= std::ldexp(1.0F, static_cast<int>(random.below(81)) - 30);
    const std::size_t begin = at;
    for (std::int64_t c = 0; c < columns; ++c) out[at++] = row_scale * static_cast<float>(random.normal());
    if (spec_.fill == Fill::with_nan && r % 3 == 0 && columns > 0) {
      out[begin + random.below(static_cast<std::uint64_t>(columns))] = std::nanf("");
    }
  }
  return out;
}

std::uint16_t* Operands::bf16(std::int64_t rows, std::int64_t columns, float scale) {
  const auto count = static_cast<std::size_t>(rows * columns);
  if (spec_.fill == Fill::zeros) return zeroed<std::uint16_t>(rows * columns);
  if (spec_.fill != Fill::random && memory_ != nullptr) {
    std::vector<std::uint16_t> bits;
    for (const float value : extremes(rows, columns, scale)) bits.push_back(float_to_bf16(value));
    return given(bits);
  }
  auto* device = static_cast<std::uint16_t*>(allocate(2 * count));
  const std::uint64_t seed = next_seed();
  if (device != nullptr) memory_->fill_random(device, count, "bf16", scale, seed);
  return device;
}

float* Operands::fp32(std::int64_t rows, std::int64_t columns, float scale) {
  const auto count = static_cast<std::size_t>(rows * columns);
  if (spec_.fill == Fill::zeros) return zeroed<float>(rows * columns);
  if (spec_.fill != Fill::random && memory_ != nullptr) return given(extremes(rows, columns, scale));
  auto* device = static_cast<float*>(allocate(4 * count));
  const std::uint64_t seed = next_seed();
  if (device != nullptr) memory_->fill_random(device, count, "fp32", scale, seed);
  return device;
}

std::uint8_t* Operands::fp8(std::int64_t rows, std::int64_t columns, float scale) {
  const auto count = static_cast<std::size_t>(rows * columns);
  if (spec_.fill == Fill::zeros) return zeroed<std::uint8_t>(rows * columns);
  auto* device = static_cast<std::uint8_t*>(allocate(count));
  const std::uint64_t seed = next_seed();
  if (device != nullptr) memory_->fill_random(device, count, "fp8", scale, seed);
  return device;
}

std::uint16_t* Operands::weight_bf16(std::int64_t count, bool around_one) {
  const auto size = static_cast<std::size_t>(count);
  if (around_one && memory_ != nullptr) {
    RandomStream random(next_seed(), RandomPurpose::kernel_operands);
    std::vector<std::uint16_t> bits(size);
    for (auto& b : bits) b = float_to_bf16(static_cast<float>(1 + 0.1 * random.normal()));
    return given(bits);
  }
  auto* device = static_cast<std::uint16_t*>(allocate(2 * size));
  const std::uint64_t seed = next_seed();
  if (device != nullptr) memory_->fill_random(device, size, "bf16", 0.02F, seed);
  return device;
}

bool needs(bool condition, const CaseSpec& spec, const char* need, std::string& why) {
  if (!condition) why = "operator " + spec.op + " needs " + need;
  return condition;
}

}  // namespace orrery::kernels
