#include "kernels/kv_write.h"

#include <algorithm>

#include "kernels/case_table.h"
#include "kernels/cases/case_support.h"
#include "kernels/cases/head_operands.h"

namespace orrery::kernels {

namespace {

class KvWriteCase : public CaseOf<KvWriteLaunch> {
 public:
  explicit KvWriteCase(const CaseSpec& spec)
      : CaseOf(spec, "orrery.kv_write.v1", launch_kv_write), fp8_(spec.kv_dtype == "fp8") {}

  CheckResult check(DeviceMemory& memory) override {
    Comparison comparison(kernel());
    const KvWriteLaunch& a = first();
    const auto slots = fetch(memory, a.slots, spec_.m);
    std::vector<bool> written(static_cast<std::size_t>(cache_slots(spec_)), false);
    for (const std::int64_t slot : slots) {
      if (slot >= 0) written[static_cast<std::size_t>(slot)] = true;
    }
    for (const std::int64_t token : sampled_rows(spec_.m, 2 * width(), spec_.seed)) {
      const std::int64_t slot = slots[static_cast<std::size_t>(token)];
      if (slot < 0) continue;
      compare(comparison, memory, "key", a.keys, a.key_cache, token, slot, a.key_scale);
      compare(comparison, memory, "value", a.values, a.value_cache, token, slot, a.value_scale);
    }
    for (const std::int64_t slot : sampled_rows(cache_slots(spec_), width(), spec_.seed + 1)) {
      if (written[static_cast<std::size_t>(slot)]) continue;
      const std::int64_t bytes = width() * element_bytes();
      for (const void* cache : {a.key_cache, a.value_cache}) {
        const auto raw = fetch(memory, static_cast<const std::uint8_t*>(cache) + slot * bytes, bytes);
        for (std::int64_t i = 0; i < bytes; ++i) {
          comparison.exact("untouched byte", slot, i, raw[static_cast<std::size_t>(i)], 0xFF);
        }
      }
    }
    return comparison.result();
  }
  double flops() const override { return 0; }
  double bytes() const override { return 2 * static_cast<double>(spec_.m * width() * (2 + element_bytes())); }

 protected:
  KvWriteLaunch operands(Operands& make) const override {
    KvWriteLaunch a;
    a.in_stride = 2 * width();  // k and v of a token lie in one row, as a fused projection leaves them
    a.keys = make.bf16(spec_.m, a.in_stride);
    a.values = a.keys == nullptr ? nullptr : a.keys + width();
    a.slots = make.given(draw_slots(spec_, make.next_seed()));
    a.key_cache = make.output<std::uint8_t>(cache_slots(spec_) * width() * element_bytes());
    a.value_cache = make.output<std::uint8_t>(cache_slots(spec_) * width() * element_bytes());
    a.tokens = static_cast<std::int32_t>(spec_.m);
    a.width = static_cast<std::int32_t>(width());
    a.fp8 = fp8_;
    if (fp8_) a.key_scale = 0.03F, a.value_scale = 0.05F;
    return a;
  }

 private:
  std::int64_t width() const { return spec_.kv_heads * spec_.head_dim; }
  std::int64_t element_bytes() const { return fp8_ ? 1 : 2; }
  void compare(Comparison& comparison, DeviceMemory& memory, const char* name, const std::uint16_t* in,
               const void* cache, std::int64_t token, std::int64_t slot, double scale) const {
    const auto x = fetch_bf16(memory, in + token * first().in_stride, width());
    const auto stored =
        fp8_ ? fetch_fp8(memory, static_cast<const std::uint8_t*>(cache) + slot * width(), width())
             : fetch_bf16(memory, static_cast<const std::uint16_t*>(cache) + slot * width(), width());
    const double largest = fp8_largest(device_fp8()) * scale;
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double expected = fp8_ && x[i] == x[i] ? std::clamp(x[i], -largest, largest) : x[i];
      comparison.value(name, token, static_cast<std::int64_t>(i), fp8_ ? stored[i] * scale : stored[i],
                       expected, fp8_ ? fp8_tolerance(expected, scale) : 0);
    }
  }

  bool fp8_;
};

}  // namespace

std::unique_ptr<KernelCase> make_kv_write_case(const CaseSpec& spec, std::string& why) {
  const bool good = spec.m >= 1 && spec.kv_heads >= 1 && spec.head_dim >= 8 && spec.head_dim % 8 == 0 &&
                    spec.block_size >= 1 && (spec.kv_dtype == "bf16" || spec.kv_dtype == "fp8");
  if (!needs(good, spec, "m, kv_heads, block_size >= 1, head_dim a multiple of 8, kv_dtype bf16 or fp8",
             why)) {
    return nullptr;
  }
  return std::make_unique<KvWriteCase>(spec);
}

}  // namespace orrery::kernels
