#include "costmodel/ops/encoder_attention.h"

#include <algorithm>
#include <cmath>

#include "costmodel/encoder_pricer.h"

namespace orrery {

namespace {

constexpr double tile = 128;  // query rows and keys of a tile, as in attention_prefill.cpp

double up_to_tile(double length) { return std::ceil(length / tile) * tile; }

// What segments of the packed sequence add up to.
struct Segments {
  double rows = 0, pairs = 0, padded_pairs = 0, longest = 0;
  void add(double length, double count) {
    rows += count * length;
    pairs += count * length * length;
    padded_pairs += count * up_to_tile(length) * up_to_tile(length);
    longest = std::max(longest, length);
  }
};

// A side of n cut into windows of w: so many whole ones and what is left.
struct Cut {
  std::int64_t whole = 0, rest = 0;
  Cut(std::int64_t n, std::int64_t w) : whole(n / w), rest(n % w) {}
};

void add_windows(const VisionSpec& v, const EncoderImage& image, Segments& out) {
  // Windows are cut in merged patches (qwen2_5_vl.py get_window_index_thw).
  const std::int64_t side = std::max<std::int64_t>(1, v.window / v.merge / v.patch) * v.merge;
  const Cut rows(image.rows, side), columns(image.columns, side);
  const auto add = [&](std::int64_t r, std::int64_t c, std::int64_t count) {
    if (r * c * count > 0) out.add(static_cast<double>(r * c), static_cast<double>(count * image.tiles));
  };
  add(side, side, rows.whole * columns.whole);
  add(side, columns.rest, rows.whole);
  add(rows.rest, side, columns.whole);
  add(rows.rest, columns.rest, 1);
}

}  // namespace

// FlashAttention pads a head to a multiple of 32 (72 and 80 run as 96).
EncoderAttention::EncoderAttention(const VisionSpec& vision, std::int64_t tp, DType math,
                                   const Roofline& roofline)
    : vision_(vision), heads_(vision.heads / tp), padded_dim_((vision.head_dim + 31) / 32 * 32),
      roofline_(roofline), per_operation_ns_(1 / (roofline.matrix_rate(math) *
                                                  roofline.efficiency(KernelClass::attention_prefill))) {}

OpCost EncoderAttention::cost(std::span<const EncoderImage> images, bool windows) const {
  Segments all;
  for (const EncoderImage& image : images) {
    if (windows) {
      add_windows(vision_, image, all);
      continue;
    }
    const std::int64_t length = std::int64_t{image.rows} * image.columns + (vision_.class_token ? 1 : 0);
    all.add(static_cast<double>(length), image.tiles);
  }
  const double heads = static_cast<double>(heads_), dim = static_cast<double>(vision_.head_dim);
  const double per_pair = 4.0 * static_cast<double>(padded_dim_);  // q·kᵀ and p·v, one head
  OpCost cost;
  cost.flops = 4.0 * dim * heads * all.pairs;
  // The device is as slow as its busiest unit: a tile of rows against the longest segment's keys.
  const double critical = per_pair * tile * up_to_tile(all.longest) * static_cast<double>(roofline_.units());
  cost.compute_ns = std::max(per_pair * heads * all.padded_pairs, critical) * per_operation_ns_;
  const double bytes = all.rows * 4 * heads * dim * 2;  // q, k, v and the output
  const bool cached = roofline_.stays_in_cache(bytes);
  cost.bytes = cached ? 0 : bytes;
  cost.memory_ns = roofline_.stream_ns(bytes, cached, 0, KernelClass::memory);
  cost.latency_ns = attention_start * roofline_.kernel_floor_ns();
  return cost;
}

}  // namespace orrery
