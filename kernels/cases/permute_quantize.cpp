#include "kernels/permute_quantize.h"

#include <algorithm>

#include "kernels/case_table.h"
#include "kernels/cases/case_support.h"
#include "kernels/moe_align.h"
#include "kernels/rms_norm.h"

namespace orrery::kernels {

namespace {

class PermuteQuantizeCase : public CaseOf<PermuteQuantizeLaunch> {
 public:
  PermuteQuantizeCase(const CaseSpec& spec, Fp8Scaling scaling)
      : CaseOf(spec, "orrery.permute_quantize.v1", launch_permute_quantize), scaling_(scaling) {}

  CheckResult check(DeviceMemory& memory) override {
    Comparison comparison(kernel());
    const PermuteQuantizeLaunch& a = first();
    const auto positions = fetch(memory, a.positions, flat());
    for (const std::int64_t choice : sampled_rows(flat(), spec_.n, spec_.seed)) {
      const std::int64_t row = positions[static_cast<std::size_t>(choice)];
      if (row < 0) continue;
      const auto expected = fetch_bf16(memory, a.x + choice / spec_.top_k * spec_.n, spec_.n);
      compare_fp8_row(comparison, memory, a.out, row, expected, std::vector<double>(expected.size()));
    }
    for (std::int64_t row = 0; row < out_rows(); ++row) {  // the first that is nobody's is left as it was
      if (std::find(positions.begin(), positions.end(), row) != positions.end()) continue;
      for (const std::uint8_t byte : fetch(memory, a.out.values + row * spec_.n, spec_.n))
        comparison.exact("unused", row, 0, byte, 0xFF);
      break;
    }
    return comparison.result();
  }
  double flops() const override { return 0; }
  double bytes() const override {
    return 2 * static_cast<double>(spec_.m * spec_.n) + fp8_output_bytes(scaling_, flat(), spec_.n);
  }

 protected:
  PermuteQuantizeLaunch operands(Operands& make) const override {
    PermuteQuantizeLaunch a;
    const auto chosen = draw_chosen(spec_, make.next_seed());
    a.positions = make.given(positions_of(chosen));
    a.x = make.bf16(spec_.m, spec_.n);
    a.out = fp8_output(make, scaling_, out_rows(), spec_.n);
    if (scaling_ == Fp8Scaling::group) {  // column-major, rows in fours: as the wgmma products take scales
      a.out.row_stride = 1;
      a.out.group_stride = (out_rows() + 3) / 4 * 4;
      a.out.scales = make.output<float>(a.out.group_stride * (spec_.n / fp8_group));
    }
    a.tokens = static_cast<std::int32_t>(spec_.m);
    a.k = static_cast<std::int32_t>(spec_.top_k);
    a.columns = static_cast<std::int32_t>(spec_.n);
    return a;
  }

 private:
  std::int64_t flat() const { return spec_.m * spec_.top_k; }
  std::int64_t out_rows() const {
    if (spec_.slots > 0) return spec_.slots * spec_.experts;
    return moe_align_capacity(flat(), spec_.experts, spec_.block_size);
  }
  // Each expert's rows in order: padded to blocks, or in its slots, where what finds no room is dropped.
  std::vector<std::int32_t> positions_of(const std::vector<std::int32_t>& chosen) const {
    std::vector<std::int32_t> positions(chosen.size());
    std::int64_t first = 0;
    for (std::int32_t e = 0; e < spec_.experts; ++e) {
      std::int64_t next = spec_.slots > 0 ? e * spec_.slots : first;
      const std::int64_t end = spec_.slots > 0 ? next + spec_.slots : out_rows();
      for (std::size_t i = 0; i < chosen.size(); ++i) {
        if (chosen[i] == e) positions[i] = next < end ? static_cast<std::int32_t>(next++) : -1;
      }
      first = (next + spec_.block_size - 1) / spec_.block_size * spec_.block_size;
    }
    return positions;
  }

  Fp8Scaling scaling_;
};

}  // namespace

std::unique_ptr<KernelCase> make_permute_quantize_case(const CaseSpec& spec, std::string& why) {
  Fp8Scaling scaling = Fp8Scaling::none;
  if (!quantises(spec, scaling, why) || !needs(good_routing(spec), spec, routing_need, why)) return nullptr;
  const bool good = spec.n >= 8 && spec.n % 8 == 0 &&
                    (scaling == Fp8Scaling::token || scaling == Fp8Scaling::group) &&
                    (scaling != Fp8Scaling::group || spec.n % fp8_group == 0) &&
                    (scaling != Fp8Scaling::token || spec.n <= norm_most_columns);
  const char* need =
      "fp8-channel with n a multiple of 8, at most 32768, or fp8-block with n a multiple of 128";
  if (!needs(good, spec, need, why)) return nullptr;
  return std::make_unique<PermuteQuantizeCase>(spec, scaling);
}

}  // namespace orrery::kernels
