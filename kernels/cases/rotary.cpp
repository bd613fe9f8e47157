#include "kernels/rotary.h"

#include "kernels/case_table.h"
#include "kernels/cases/case_support.h"
#include "kernels/cases/head_operands.h"

namespace orrery::kernels {

namespace {

class RotaryCase : public CaseOf<RotaryLaunch> {
 public:
  RotaryCase(const CaseSpec& spec, bool norm)
      : CaseOf(spec, "orrery." + spec.op + ".v1", launch_rotary), norm_(norm) {}

  CheckResult check(DeviceMemory& memory) override {
    Comparison comparison(kernel());
    const RotaryLaunch& a = first();
    std::vector<double> q_weight, k_weight;
    if (norm_) {
      q_weight = fetch_bf16(memory, a.q_weight, spec_.head_dim);
      k_weight = fetch_bf16(memory, a.k_weight, spec_.head_dim);
    }
    for (const std::int64_t token : sampled_rows(spec_.m, width(), spec_.seed)) {
      const std::int64_t position = fetch(memory, a.positions + token, 1).front();
      const auto table = fetch_fp32(memory, a.cos_sin + position * spec_.head_dim, spec_.head_dim);
      const auto in = fetch_bf16(memory, a.qkv + token * a.in_stride, width());
      const auto out = fetch_bf16(memory, a.out + token * a.out_stride, width());
      for (std::int64_t head = 0; head < spec_.heads + spec_.kv_heads; ++head) {
        const auto begin = static_cast<std::ptrdiff_t>(head * spec_.head_dim);
        std::vector<double> x(in.begin() + begin, in.begin() + begin + spec_.head_dim);
        if (norm_) x = reference_rms_norm(x, head < spec_.heads ? q_weight : k_weight, a.epsilon);
        compare_head(comparison, token, begin, x, table, out);
      }
    }
    return comparison.result();
  }
  double flops() const override { return (norm_ ? 7 : 3) * static_cast<double>(spec_.m * width()); }
  double bytes() const override { return 2 * 2 * static_cast<double>(spec_.m * width()); }

 protected:
  RotaryLaunch operands(Operands& make) const override {
    RotaryLaunch a;
    a.in_stride = width() + spec_.kv_heads * spec_.head_dim;  // v lies behind k
    a.out_stride = width();
    a.qkv = make.bf16(spec_.m, a.in_stride);
    a.out = make.output<std::uint16_t>(spec_.m * width());
    if (norm_) {
      a.q_weight = make.weight_bf16(spec_.head_dim, true);
      a.k_weight = make.weight_bf16(spec_.head_dim, true);
    }
    a.positions = make.given(draw_positions(spec_.m, make.next_seed()));
    a.cos_sin = make.given(rotary_angles(spec_.head_dim));
    a.tokens = static_cast<std::int32_t>(spec_.m);
    a.heads = static_cast<std::int32_t>(spec_.heads);
    a.kv_heads = static_cast<std::int32_t>(spec_.kv_heads);
    a.head_dim = static_cast<std::int32_t>(spec_.head_dim);
    return a;
  }

 private:
  std::int64_t width() const { return (spec_.heads + spec_.kv_heads) * spec_.head_dim; }

  void compare_head(Comparison& comparison, std::int64_t token, std::ptrdiff_t begin,
                    const std::vector<double>& x, const std::vector<double>& table,
                    const std::vector<double>& out) const {
    const auto expected = turn_head(x, table);
    for (std::size_t i = 0; i < x.size(); ++i) {
      const auto column = begin + static_cast<std::ptrdiff_t>(i);
      comparison.value("out", token, column, out[static_cast<std::size_t>(column)], expected[i].value,
                       bf16_tolerance(expected[i].value, expected[i].magnitude));
    }
  }

  bool norm_;
};

std::unique_ptr<KernelCase> make_any(const CaseSpec& spec, bool norm, std::string& why) {
  const bool good = spec.m >= 1 && spec.heads >= 1 && spec.kv_heads >= 1 &&
                    (spec.head_dim == 64 || spec.head_dim == 128 || spec.head_dim == 256);
  if (!needs(good, spec, "m, heads, kv_heads >= 1 and head_dim 64, 128 or 256", why)) return nullptr;
  return std::make_unique<RotaryCase>(spec, norm);
}

}  // namespace

std::unique_ptr<KernelCase> make_rotary_case(const CaseSpec& spec, std::string& why) {
  return make_any(spec, false, why);
}
std::unique_ptr<KernelCase> make_qk_norm_rotary_case(const CaseSpec& spec, std::string& why) {
  return make_any(spec, true, why);
}

}  // namespace orrery::kernels
