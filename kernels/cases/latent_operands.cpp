#include "kernels/cases/latent_operands.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>

#include "base/random.h"

namespace orrery::kernels {

namespace {

constexpr float fp8_scale = 0.25F;
// Packed rows repeat after a number that no tile or block divides: draws of gigabytes would take minutes.
constexpr std::int64_t packed_period = 1021;

Matrix as_matrix(const PagedLayout& layout, LatentFormat format, void* rows) {
  const Element element = format == LatentFormat::bf16 ? Element::bf16 : Element::fp8;
  return {rows, element, layout.blocks * layout.block_tokens, latent_key};
}

void draw_packed(unsigned char* row, std::int64_t index, Fill how, std::uint64_t seed) {
  RandomStream random(seed, RandomPurpose::kernel_operands, static_cast<std::uint64_t>(index));
  const bool extreme = how == Fill::saturating;
  std::fill(row, row + latent_row_bytes(LatentFormat::packed), static_cast<unsigned char>(0));
  if (how == Fill::zeros) return;
  for (int i = 0; i < latent_width; ++i) {
    const double value = extreme && i % 7 == 0 ? 1e9 : random.normal() * 64;
    row[i] = float_to_fp8(static_cast<float>(value), device_fp8());
  }
  for (int group = 0; group < 4; ++group) {
    const float typical = static_cast<float>(0.5 + random.uniform()) / 64;
    const float scale = extreme ? typical * static_cast<float>(1 << (index + group) % 9) : typical;
    std::memcpy(row + latent_scales_at + 4 * group, &scale, 4);
  }
  for (int i = 0; i < latent_rotary; ++i) {
    const std::uint16_t bits = float_to_bf16(static_cast<float>(random.normal() * (extreme ? 256 : 1)));
    std::memcpy(row + latent_rotary_at + 2 * i, &bits, 2);
  }
}

void fill_packed(DeviceMemory& memory, void* rows, std::int64_t count, Fill how, std::uint64_t seed) {
  constexpr auto each = static_cast<std::size_t>(latent_row_bytes(LatentFormat::packed));
  const std::int64_t period = std::min(count, packed_period);
  std::vector<unsigned char> drawn(static_cast<std::size_t>(period) * each);
  for (std::int64_t i = 0; i < period; ++i)
    draw_packed(drawn.data() + static_cast<std::size_t>(i) * each, i, how, seed);
  for (std::int64_t first = 0; first < count; first += period) {
    const auto some = static_cast<std::size_t>(std::min(period, count - first));
    memory.upload(static_cast<unsigned char*>(rows) + static_cast<std::size_t>(first) * each, drawn.data(),
                  some * each);
  }
  if (how != Fill::with_nan) return;
  const float nan = std::numeric_limits<float>::quiet_NaN();
  memory.upload(
      static_cast<unsigned char*>(rows) + static_cast<std::size_t>(count / 2) * each + latent_scales_at + 4,
      &nan, 4);
}

}  // namespace

bool latent_format(const std::string& kv_dtype, LatentFormat& format) {
  if (kv_dtype == "bf16") return format = LatentFormat::bf16, true;
  if (kv_dtype == "fp8") return format = LatentFormat::fp8, true;
  if (kv_dtype == "fp8_ds_mla") return format = LatentFormat::packed, true;
  return false;
}

std::size_t LatentOperands::bytes(const PagedLayout& layout, LatentFormat format) {
  return static_cast<std::size_t>(layout.blocks * layout.block_tokens * latent_row_bytes(format));
}

bool LatentOperands::allocate(DeviceMemory& memory, const PagedLayout& layout, LatentFormat stored) {
  format = stored;
  scale = stored == LatentFormat::fp8 ? fp8_scale : 1.0F;
  rows = memory.allocate(bytes(layout, stored));
  return rows != nullptr;
}

void LatentOperands::fill(DeviceMemory& memory, const PagedLayout& layout, Fill how, std::uint64_t seed,
                          bool spoil_tails) const {
  if (format == LatentFormat::packed) {
    fill_packed(memory, rows, layout.blocks * layout.block_tokens, how, seed);
  } else {
    as_matrix(layout, format, rows).fill(memory, how, 1 / scale, seed);
  }
  if (!spoil_tails) return;
  const bool fnuz = format == LatentFormat::fp8 && device_fp8() == Fp8Format::fnuz;  // its only NaN is 0x80
  const auto each = static_cast<std::size_t>(latent_row_bytes(format));
  layout.behind_ends([&](std::int64_t place, std::int64_t count) {
    memory.fill(static_cast<unsigned char*>(rows) + static_cast<std::size_t>(place) * each,
                fnuz ? 0x80 : 0xFF, static_cast<std::size_t>(count) * each);
  });
}

LatentTokens::LatentTokens(const std::vector<unsigned char>& cache, LatentFormat format, double scale,
                           std::vector<std::int64_t> places)
    : cache_(cache), format_(format), scale_(scale), places_(std::move(places)), key_(latent_key),
      value_(latent_width) {}

const std::vector<double>& LatentTokens::key(std::size_t token) {
  read(token);
  return key_;
}
const std::vector<double>& LatentTokens::value(std::size_t token) {
  read(token);
  return value_;
}

void LatentTokens::read(std::size_t token) {
  if (token == at_) return;
  at_ = token;
  const unsigned char* row =
      cache_.data() + static_cast<std::size_t>(places_[token] * latent_row_bytes(format_));
  for (std::size_t i = 0; i < key_.size(); ++i) {
    if (format_ == LatentFormat::bf16) {
      key_[i] = decode_element(Element::bf16, row + 2 * i);
    } else if (format_ == LatentFormat::fp8) {
      key_[i] = decode_element(Element::fp8, row + i) * scale_;
    } else if (i < latent_width) {
      float scale = 0;
      std::memcpy(&scale, row + latent_scales_at + i / 128 * 4, 4);
      const auto stored = static_cast<float>(decode_element(Element::fp8, row + i));
      key_[i] = bf16_to_float(float_to_bf16(stored * scale));  // as the kernels multiply them out
    } else {
      key_[i] = decode_element(Element::bf16, row + latent_rotary_at + 2 * (i - latent_width));
    }
  }
  std::copy_n(key_.begin(), latent_width, value_.begin());
}

}  // namespace orrery::kernels
