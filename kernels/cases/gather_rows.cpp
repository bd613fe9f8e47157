#include "kernels/gather_rows.h"

#include <algorithm>

#include "base/random.h"
#include "kernels/case_table.h"
#include "kernels/cases/case_support.h"
#include "kernels/moe_align.h"

namespace orrery::kernels {

namespace {

enum class Use : std::uint8_t { embedding, rows, permute };

class GatherCase : public CaseOf<GatherRowsLaunch> {
 public:
  GatherCase(const CaseSpec& spec, Use use)
      : CaseOf(spec, "orrery." + spec.op + ".v1", launch_gather_rows), use_(use) {}

  CheckResult check(DeviceMemory& memory) override {
    Comparison comparison(kernel());
    const GatherRowsLaunch& a = first();
    const auto* source = static_cast<const std::uint16_t*>(a.source);
    const auto* out = static_cast<const std::uint16_t*>(a.out);
    const std::int64_t used = a.used_rows != nullptr ? fetch(memory, a.used_rows, 1).front() : a.rows;
    for (const std::int64_t row : sampled_rows(a.rows, spec_.n, spec_.seed)) {
      const std::int64_t from = fetch(memory, a.indices + row, 1).front() / a.divisor - a.first_index;
      std::vector<std::uint16_t> expected(static_cast<std::size_t>(spec_.n), 0);
      if (row >= used)
        std::fill(expected.begin(), expected.end(), std::uint16_t{0xFFFF});  // as it was: poison
      else if (from >= 0 && from < a.source_rows)
        expected = fetch(memory, source + from * spec_.n, spec_.n);
      const auto actual = fetch(memory, out + row * spec_.n, spec_.n);
      for (std::size_t i = 0; i < expected.size(); ++i) {
        comparison.exact("out", row, static_cast<std::int64_t>(i), actual[i], expected[i]);
      }
    }
    return comparison.result();
  }
  double flops() const override { return 0; }
  double bytes() const override {
    const std::int64_t rows = use_ == Use::permute ? spec_.m * spec_.top_k : spec_.m;
    return 2 * 2 * static_cast<double>(rows * spec_.n);
  }

 protected:
  GatherRowsLaunch operands(Operands& make) const override {
    GatherRowsLaunch a;
    a.row_bytes = 2 * spec_.n;
    if (use_ == Use::permute) {
      permuted(make, a);
    } else {
      const std::int64_t all = source_rows();
      a.source_rows = static_cast<std::int32_t>(all);
      a.source = make.bf16(all, spec_.n);
      RandomStream random(make.next_seed(), RandomPurpose::kernel_operands);
      std::vector<std::int32_t> indices(static_cast<std::size_t>(spec_.m));
      // A vocabulary's shard: with extreme operands a third of the tokens belongs to other ranks.
      const std::int64_t spread =
          use_ == Use::embedding && spec_.fill == Fill::saturating ? 3 * all / 2 : all;
      if (spread > all) a.first_index = static_cast<std::int32_t>(all / 4);
      for (auto& i : indices) i = static_cast<std::int32_t>(random.below(static_cast<std::uint64_t>(spread)));
      a.indices = make.given(indices);
      a.rows = static_cast<std::int32_t>(spec_.m);
    }
    a.out = make.output<std::uint16_t>(a.rows * spec_.n);
    return a;
  }

 private:
  std::int64_t source_rows() const {
    if (spec_.k > 0) return spec_.k;
    return use_ == Use::embedding ? 151'936 : 4 * spec_.m;
  }

  // What moe_align says of a routing: each expert's rows, padded to blocks with a number behind the last.
  void permuted(Operands& make, GatherRowsLaunch& a) const {
    const auto chosen = draw_chosen(spec_, make.next_seed());
    const auto flat = static_cast<std::int32_t>(chosen.size());
    std::vector<std::int32_t> sorted;
    for (std::int32_t e = 0; e < spec_.experts; ++e) {
      for (std::int32_t row = 0; row < flat; ++row) {
        if (chosen[static_cast<std::size_t>(row)] == e) sorted.push_back(row);
      }
      while (sorted.size() % static_cast<std::size_t>(spec_.block_size) != 0) sorted.push_back(flat);
    }
    a.used_rows = make.given(std::vector<std::int32_t>{static_cast<std::int32_t>(sorted.size())});
    sorted.resize(static_cast<std::size_t>(moe_align_capacity(flat, spec_.experts, spec_.block_size)), -1);
    a.rows = static_cast<std::int32_t>(sorted.size());
    a.indices = make.given(sorted);
    a.divisor = static_cast<std::int32_t>(spec_.top_k);
    a.source_rows = static_cast<std::int32_t>(spec_.m);
    a.source = make.bf16(spec_.m, spec_.n);
  }

  Use use_;
};

std::unique_ptr<KernelCase> make_gather(const CaseSpec& spec, Use use, std::string& why) {
  const bool good = spec.m >= 1 && spec.n >= 8 && spec.n % 8 == 0;
  if (!needs(good, spec, "m >= 1 and n a multiple of 8", why)) return nullptr;
  return std::make_unique<GatherCase>(spec, use);
}

}  // namespace

std::unique_ptr<KernelCase> make_embedding_case(const CaseSpec& spec, std::string& why) {
  return make_gather(spec, Use::embedding, why);
}
std::unique_ptr<KernelCase> make_gather_rows_case(const CaseSpec& spec, std::string& why) {
  return make_gather(spec, Use::rows, why);
}
std::unique_ptr<KernelCase> make_moe_permute_case(const CaseSpec& spec, std::string& why) {
  if (!needs(good_routing(spec), spec, routing_need, why)) return nullptr;
  return make_gather(spec, Use::permute, why);
}

}  // namespace orrery::kernels
