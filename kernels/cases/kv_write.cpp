#include "kernels/kv_write.h"

#include <algorithm>

#include "kernels/case_table.h"
#include "kernels/cases/case_support.h"
#include "kernels/cases/head_operands.h"
#include "kernels/cases/paged_operands.h"

namespace orrery::kernels {

namespace {

class KvWriteCase : public CaseOf<KvWriteLaunch> {
 public:
  explicit KvWriteCase(const CaseSpec& spec)
      : CaseOf(spec, "orrery." + spec.op + ".v1", launch_kv_write), fp8_(spec.kv_dtype == "fp8"),
        layout_({}, spec.kv_heads, spec.head_dim, spec.seed, spec.block_size) {
    if (spec.op.ends_with("_vectorised")) layout_.layout = KvLayout::vectorised;
  }

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
      compare(comparison, memory, a.keys, false, token, slot, a.key_scale);
      compare(comparison, memory, a.values, true, token, slot, a.value_scale);
    }
    for (const std::int64_t slot : sampled_rows(cache_slots(spec_), width(), spec_.seed + 1)) {
      if (written[static_cast<std::size_t>(slot)]) continue;
      for (const bool of_values : {false, true}) {
        const auto raw = stored_bytes(memory, slot, of_values);
        for (std::size_t i = 0; i < raw.size(); ++i) {
          comparison.exact("untouched byte", slot, static_cast<std::int64_t>(i), raw[i], 0xFF);
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
    a.layout = layout_.layout;
    a.block_size = static_cast<std::int32_t>(spec_.block_size);
    a.head_dim = static_cast<std::int32_t>(spec_.head_dim);
    if (fp8_) a.key_scale = 0.03F, a.value_scale = 0.05F;
    return a;
  }

 private:
  std::int64_t width() const { return spec_.kv_heads * spec_.head_dim; }
  std::int64_t element_bytes() const { return fp8_ ? 1 : 2; }
  // What the cache holds of a slot, in the order of its heads and their dimensions.
  std::vector<std::uint8_t> stored_bytes(DeviceMemory& memory, std::int64_t slot, bool of_values) const {
    const std::int64_t block_bytes = spec_.block_size * width() * element_bytes(), d = spec_.head_dim;
    const std::int64_t block = slot / spec_.block_size;
    const auto* cache = static_cast<const std::uint8_t*>(of_values ? first().value_cache : first().key_cache);
    const auto raw = fetch(memory, cache + block * block_bytes, block_bytes);
    std::vector<std::uint8_t> out;
    for (std::int64_t i = 0; i < width(); ++i) {
      const std::int64_t at =
          layout_.element(slot % spec_.block_size, i / d, i % d, of_values, 16 / element_bytes());
      for (std::int64_t byte = 0; byte < element_bytes(); ++byte)
        out.push_back(raw[static_cast<std::size_t>(at * element_bytes() + byte)]);
    }
    return out;
  }
  void compare(Comparison& comparison, DeviceMemory& memory, const std::uint16_t* in, bool of_values,
               std::int64_t token, std::int64_t slot, double scale) const {
    const char* name = of_values ? "value" : "key";
    const auto x = fetch_bf16(memory, in + token * first().in_stride, width());
    const auto raw = stored_bytes(memory, slot, of_values);
    std::vector<double> stored;
    for (std::size_t i = 0; i < x.size(); ++i) {
      stored.push_back(decode_element(fp8_ ? Element::fp8 : Element::bf16,
                                      raw.data() + i * static_cast<std::size_t>(element_bytes())));
    }
    const double largest = fp8_largest(device_fp8()) * scale;
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double expected = fp8_ && x[i] == x[i] ? std::clamp(x[i], -largest, largest) : x[i];
      comparison.value(name, token, static_cast<std::int64_t>(i), fp8_ ? stored[i] * scale : stored[i],
                       expected, fp8_ ? fp8_tolerance(expected, scale) : 0);
    }
  }

  bool fp8_;
  PagedLayout layout_;  // of heads in a block; slots are drawn apart
};

}  // namespace

std::unique_ptr<KernelCase> make_kv_write_case(const CaseSpec& spec, std::string& why) {
  const bool good = spec.m >= 1 && spec.kv_heads >= 1 && spec.head_dim >= 8 && spec.head_dim % 8 == 0 &&
                    spec.block_size >= 1 && (spec.kv_dtype == "bf16" || spec.kv_dtype == "fp8");
  if (!needs(good, spec, "m, kv_heads, block_size >= 1, head_dim a multiple of 8, kv_dtype bf16 or fp8",
             why)) {
    return nullptr;
  }
  const bool vectorised = spec.op.ends_with("_vectorised");
  if (!needs(!vectorised || (spec.head_dim % 16 == 0 && spec.block_size % 16 == 0), spec,
             "head_dim and block_size in multiples of 16", why)) {
    return nullptr;
  }
  return std::make_unique<KvWriteCase>(spec);
}

}  // namespace orrery::kernels
