#include "kernels/qk_norm_rotary_kv.h"

#include <algorithm>

#include "kernels/case_table.h"
#include "kernels/cases/case_support.h"
#include "kernels/cases/head_operands.h"

namespace orrery::kernels {

namespace {

class QkNormRotaryKvCase : public CaseOf<QkNormRotaryKvLaunch> {
 public:
  explicit QkNormRotaryKvCase(const CaseSpec& spec)
      : CaseOf(spec, "orrery.qk_norm_rotary_kv.v1", launch_qk_norm_rotary_kv), fp8_(spec.kv_dtype == "fp8") {}

  CheckResult check(DeviceMemory& memory) override {
    Comparison comparison(kernel());
    const QkNormRotaryKvLaunch& a = first();
    const auto q_weight = fetch_bf16(memory, a.q_weight, spec_.head_dim);
    const auto k_weight = fetch_bf16(memory, a.k_weight, spec_.head_dim);
    const auto slots = fetch(memory, a.slots, spec_.m);
    std::vector<bool> written(static_cast<std::size_t>(cache_slots(spec_)), false);
    for (const std::int64_t slot : slots) {
      if (slot >= 0) written[static_cast<std::size_t>(slot)] = true;
    }
    for (const std::int64_t token : sampled_rows(spec_.m, a.in_stride, spec_.seed)) {
      const std::int64_t position = fetch(memory, a.positions + token, 1).front();
      const auto table = fetch_fp32(memory, a.cos_sin + position * spec_.head_dim, spec_.head_dim);
      const auto in = fetch_bf16(memory, a.qkv + token * a.in_stride, a.in_stride);
      const auto queries = fetch_bf16(memory, a.queries + token * a.out_stride, q_width());
      for (std::int64_t head = 0; head < spec_.heads; ++head) {
        const auto expected = turn_head(reference_rms_norm(head_of(in, head), q_weight, a.epsilon), table);
        const auto stored = head_of(queries, head);
        for (std::size_t i = 0; i < stored.size(); ++i) {
          comparison.value("q", token, column(head, i), stored[i], expected[i].value,
                           bf16_tolerance(expected[i].value, expected[i].magnitude));
        }
      }
      const std::int64_t slot = slots[static_cast<std::size_t>(token)];
      if (slot < 0) continue;
      const auto keys = cached(memory, a.key_cache, slot), values = cached(memory, a.value_cache, slot);
      for (std::int64_t head = 0; head < spec_.kv_heads; ++head) {
        const auto k = head_of(in, spec_.heads + head), v = head_of(in, spec_.heads + spec_.kv_heads + head);
        compare_cached(comparison, "key", slot, head, keys,
                       turn_head(reference_rms_norm(k, k_weight, a.epsilon), table), a.key_scale);
        std::vector<TurnedElement> as_is(v.size());
        for (std::size_t i = 0; i < v.size(); ++i) as_is[i] = {v[i], 0};
        compare_cached(comparison, "value", slot, head, values, as_is, a.value_scale);
      }
    }
    for (const std::int64_t slot : sampled_rows(cache_slots(spec_), kv_width(), spec_.seed + 1)) {
      if (!written[static_cast<std::size_t>(slot)]) compare_untouched(comparison, memory, slot);
    }
    return comparison.result();
  }
  double flops() const override { return 7 * static_cast<double>(spec_.m * (q_width() + kv_width())); }
  double bytes() const override {
    const std::int64_t in = q_width() + 2 * kv_width();
    return static_cast<double>(spec_.m) *
           static_cast<double>(2 * in + 2 * q_width() + 2 * kv_width() * element_bytes());
  }

 protected:
  QkNormRotaryKvLaunch operands(Operands& make) const override {
    QkNormRotaryKvLaunch a;
    a.in_stride = q_width() + 2 * kv_width();
    a.out_stride = q_width();
    a.qkv = make.bf16(spec_.m, a.in_stride);
    a.queries = make.output<std::uint16_t>(spec_.m * q_width());
    a.q_weight = make.weight_bf16(spec_.head_dim, true);
    a.k_weight = make.weight_bf16(spec_.head_dim, true);
    a.positions = make.given(draw_positions(spec_.m, make.next_seed()));
    a.cos_sin = make.given(rotary_angles(spec_.head_dim));
    a.slots = make.given(draw_slots(spec_, make.next_seed()));
    a.key_cache = make.output<std::uint8_t>(cache_slots(spec_) * kv_width() * element_bytes());
    a.value_cache = make.output<std::uint8_t>(cache_slots(spec_) * kv_width() * element_bytes());
    a.tokens = static_cast<std::int32_t>(spec_.m);
    a.heads = static_cast<std::int32_t>(spec_.heads);
    a.kv_heads = static_cast<std::int32_t>(spec_.kv_heads);
    a.head_dim = static_cast<std::int32_t>(spec_.head_dim);
    a.fp8 = fp8_;
    if (fp8_) a.key_scale = 0.03F, a.value_scale = 0.05F;
    return a;
  }

 private:
  std::int64_t q_width() const { return spec_.heads * spec_.head_dim; }
  std::int64_t kv_width() const { return spec_.kv_heads * spec_.head_dim; }
  std::int64_t element_bytes() const { return fp8_ ? 1 : 2; }
  std::int64_t column(std::int64_t head, std::size_t i) const {
    return head * spec_.head_dim + static_cast<std::int64_t>(i);
  }
  std::vector<double> head_of(const std::vector<double>& row, std::int64_t head) const {
    const auto begin = row.begin() + static_cast<std::ptrdiff_t>(head * spec_.head_dim);
    return {begin, begin + static_cast<std::ptrdiff_t>(spec_.head_dim)};
  }
  std::vector<double> cached(DeviceMemory& memory, const void* cache, std::int64_t slot) const {
    if (fp8_)
      return fetch_fp8(memory, static_cast<const std::uint8_t*>(cache) + slot * kv_width(), kv_width());
    return fetch_bf16(memory, static_cast<const std::uint16_t*>(cache) + slot * kv_width(), kv_width());
  }
  void compare_cached(Comparison& comparison, const char* name, std::int64_t slot, std::int64_t head,
                      const std::vector<double>& row, const std::vector<TurnedElement>& expected,
                      double scale) const {
    const auto stored = head_of(row, head);
    const double largest = fp8_largest(device_fp8()) * scale;
    for (std::size_t i = 0; i < stored.size(); ++i) {
      const double e = expected[i].value;
      const double clamped = fp8_ && e == e ? std::clamp(e, -largest, largest) : e;
      const double slack = fp32_tolerance(e, expected[i].magnitude);
      comparison.value(
          name, slot, column(head, i), fp8_ ? stored[i] * scale : stored[i], clamped,
          fp8_ ? fp8_tolerance(clamped, scale) + slack : bf16_tolerance(e, expected[i].magnitude));
    }
  }
  void compare_untouched(Comparison& comparison, DeviceMemory& memory, std::int64_t slot) const {
    const std::int64_t bytes = kv_width() * element_bytes();
    for (const void* cache : {first().key_cache, first().value_cache}) {
      const auto raw = fetch(memory, static_cast<const std::uint8_t*>(cache) + slot * bytes, bytes);
      for (std::int64_t i = 0; i < bytes; ++i) {
        comparison.exact("untouched byte", slot, i, raw[static_cast<std::size_t>(i)], 0xFF);
      }
    }
  }

  bool fp8_;
};

}  // namespace

std::unique_ptr<KernelCase> make_qk_norm_rotary_kv_case(const CaseSpec& spec, std::string& why) {
  const bool good = spec.m >= 1 && spec.heads >= 1 && spec.kv_heads >= 1 && spec.block_size >= 1 &&
                    (spec.head_dim == 64 || spec.head_dim == 128 || spec.head_dim == 256) &&
                    (spec.kv_dtype == "bf16" || spec.kv_dtype == "fp8");
  if (!needs(good, spec, "m, heads, kv_heads, block_size >= 1, head_dim 64, 128 or 256, kv_dtype bf16 or fp8",
             why)) {
    return nullptr;
  }
  return std::make_unique<QkNormRotaryKvCase>(spec);
}

}  // namespace orrery::kernels
