#include "kernels/cases/case_support.h"

#include <cmath>

#include "base/random.h"
#include "kernels/moe_align.h"

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

bool scaling_of(const CaseSpec& spec, Fp8Scaling& scaling) {
  if (spec.dtype == "fp8-tensor") return scaling = Fp8Scaling::tensor, true;
  if (spec.dtype == "fp8-channel") return scaling = Fp8Scaling::token, true;
  if (spec.dtype == "fp8-block") return scaling = Fp8Scaling::group, true;
  return false;
}

namespace {
std::int64_t groups_of(Fp8Scaling scaling, std::int64_t columns) {
  return scaling == Fp8Scaling::group ? columns / fp8_group : 1;
}
}  // namespace

Fp8Output fp8_output(Operands& make, Fp8Scaling scaling, std::int64_t rows, std::int64_t columns) {
  Fp8Output out;
  out.scaling = scaling;
  out.values = make.output<std::uint8_t>(rows * columns);
  out.row_stride = groups_of(scaling, columns);
  out.group_stride = 1;
  // A static scale that lets the largest of normal deviates saturate now and then.
  out.scales = scaling == Fp8Scaling::tensor ? make.given(std::vector<float>{0.0123F})
                                             : make.output<float>(rows * out.row_stride);
  return out;
}

double fp8_output_bytes(Fp8Scaling scaling, std::int64_t rows, std::int64_t columns) {
  const double scales =
      scaling == Fp8Scaling::tensor ? 0 : 4.0 * static_cast<double>(groups_of(scaling, columns));
  return static_cast<double>(rows) * (static_cast<double>(columns) + scales);
}

void compare_fp8_row(Comparison& comparison, DeviceMemory& memory, const Fp8Output& out, std::int64_t row,
                     const std::vector<double>& expected, const std::vector<double>& slack) {
  const auto columns = static_cast<std::int64_t>(expected.size());
  const double largest = fp8_largest(device_fp8());
  const std::int64_t groups = groups_of(out.scaling, columns), width = columns / groups;
  const auto values = fetch_fp8(memory, out.values + row * columns, columns);
  for (std::int64_t g = 0; g < groups; ++g) {
    const bool given = out.scaling == Fp8Scaling::tensor;
    const std::int64_t at = given ? 0 : row * out.row_stride + g * out.group_stride;
    const double scale = fetch_fp32(memory, out.scales + at, 1).front();
    double most = fp8_least_magnitude, most_slack = 0;
    for (auto i = static_cast<std::size_t>(g * width); i < static_cast<std::size_t>((g + 1) * width); ++i) {
      if (std::fabs(expected[i]) > most) most = std::fabs(expected[i]);
      if (slack[i] > most_slack) most_slack = slack[i];
    }
    if (!given) {
      comparison.value("scale", row, g, scale, most / largest,
                       fp32_tolerance(most / largest) + most_slack / largest);
    }
    for (auto i = static_cast<std::size_t>(g * width); i < static_cast<std::size_t>((g + 1) * width); ++i) {
      double e = expected[i];
      if (std::fabs(e) > largest * scale) e = std::copysign(largest * scale, e);
      comparison.value("fp8", row, static_cast<std::int64_t>(i), values[i] * scale, e,
                       fp8_tolerance(e, scale) + slack[i]);
    }
  }
}

bool good_routing(const CaseSpec& spec) {
  if (spec.m < 1 || spec.block_size < 1 || spec.experts < 1 || spec.experts > moe_most_experts) return false;
  if (spec.top_k < 1 || spec.top_k > spec.experts) return false;
  if (spec.rows.empty()) return true;
  std::int64_t all = 0;
  for (const std::int64_t r : spec.rows) all += r;
  return static_cast<std::int64_t>(spec.rows.size()) == spec.experts && all == spec.m * spec.top_k;
}

std::vector<std::int32_t> draw_chosen(const CaseSpec& spec, std::uint64_t seed) {
  RandomStream random(seed, RandomPurpose::kernel_operands, 1);
  std::vector<std::int32_t> chosen;
  const auto shuffle = [&](std::vector<std::int32_t>& v, std::size_t settled) {  // the first `settled` places
    for (std::size_t i = 0; i < settled; ++i) std::swap(v[i], v[i + random.below(v.size() - i)]);
  };
  if (!spec.rows.empty()) {
    for (std::size_t e = 0; e < spec.rows.size(); ++e) {
      chosen.insert(chosen.end(), static_cast<std::size_t>(spec.rows[e]), static_cast<std::int32_t>(e));
    }
    shuffle(chosen, chosen.size());
    return chosen;
  }
  std::vector<std::int32_t> experts(static_cast<std::size_t>(spec.experts));
  for (std::size_t e = 0; e < experts.size(); ++e) experts[e] = static_cast<std::int32_t>(e);
  const auto k = static_cast<std::size_t>(spec.top_k);
  for (std::int64_t token = 0; token < spec.m; ++token) {
    if (token == 0 || spec.fill != Fill::saturating) shuffle(experts, k);
    chosen.insert(chosen.end(), experts.begin(), experts.begin() + static_cast<std::ptrdiff_t>(k));
  }
  return chosen;
}

bool needs(bool condition, const CaseSpec& spec, const char* need, std::string& why) {
  if (!condition) why = "operator " + spec.op + " needs " + need;
  return condition;
}

bool quantises(const CaseSpec& spec, Fp8Scaling& scaling, std::string& why) {
  return needs(scaling_of(spec, scaling), spec, "dtype fp8-tensor, fp8-channel or fp8-block", why);
}

}  // namespace orrery::kernels
