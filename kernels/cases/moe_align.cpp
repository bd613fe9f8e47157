#include "kernels/moe_align.h"

#include "kernels/case_table.h"
#include "kernels/cases/case_support.h"

namespace orrery::kernels {

namespace {

class MoeAlignCase : public CaseOf<MoeAlignLaunch> {
 public:
  explicit MoeAlignCase(const CaseSpec& spec) : CaseOf(spec, "orrery.moe_align.v1", launch_moe_align) {}

  CheckResult check(DeviceMemory& memory) override {
    Comparison comparison(kernel());
    const MoeAlignLaunch& a = first();
    const auto chosen = fetch(memory, a.chosen, a.rows);
    std::vector<std::vector<std::int32_t>> of_expert(static_cast<std::size_t>(a.experts));
    for (std::int32_t row = 0; row < a.rows; ++row) {
      of_expert[static_cast<std::size_t>(chosen[static_cast<std::size_t>(row)])].push_back(row);
    }
    std::vector<std::int32_t> sorted, offsets, blocks, counts, positions(chosen.size());
    for (std::int32_t e = 0; e < a.experts; ++e) {
      offsets.push_back(static_cast<std::int32_t>(sorted.size()));
      for (const std::int32_t row : of_expert[static_cast<std::size_t>(e)]) {
        positions[static_cast<std::size_t>(row)] = static_cast<std::int32_t>(sorted.size());
        sorted.push_back(row);
      }
      counts.push_back(static_cast<std::int32_t>(of_expert[static_cast<std::size_t>(e)].size()));
      while (sorted.size() % static_cast<std::size_t>(a.block) != 0) sorted.push_back(a.rows);
      while (blocks.size() < sorted.size() / static_cast<std::size_t>(a.block)) blocks.push_back(e);
    }
    offsets.push_back(static_cast<std::int32_t>(sorted.size()));
    blocks.resize(static_cast<std::size_t>(capacity() / a.block), -1);
    compare(comparison, memory, "sorted", a.sorted, sorted);
    compare(comparison, memory, "positions", a.positions, positions);
    compare(comparison, memory, "block_experts", a.block_experts, blocks);
    compare(comparison, memory, "offsets", a.offsets, offsets);
    compare(comparison, memory, "counts", a.counts, counts);
    return comparison.result();
  }
  double flops() const override { return 0; }
  double bytes() const override { return 12 * static_cast<double>(rows()); }  // read once, written twice

 protected:
  MoeAlignLaunch operands(Operands& make) const override {
    MoeAlignLaunch a;
    a.chosen = make.given(draw_chosen(spec_, make.next_seed()));
    a.sorted = make.output<std::int32_t>(capacity());
    a.positions = make.output<std::int32_t>(rows());
    a.block_experts = make.output<std::int32_t>(capacity() / spec_.block_size);
    a.offsets = make.output<std::int32_t>(spec_.experts + 1);
    a.counts = make.output<std::int32_t>(spec_.experts);
    a.workspace = make.output<std::int32_t>(moe_align_workspace(rows(), spec_.experts));
    a.rows = static_cast<std::int32_t>(rows());
    a.experts = static_cast<std::int32_t>(spec_.experts);
    a.block = static_cast<std::int32_t>(spec_.block_size);
    return a;
  }

 private:
  std::int64_t rows() const { return spec_.m * spec_.top_k; }
  std::int64_t capacity() const { return moe_align_capacity(rows(), spec_.experts, spec_.block_size); }

  static void compare(Comparison& comparison, DeviceMemory& memory, const char* name,
                      const std::int32_t* device, const std::vector<std::int32_t>& expected) {
    const auto actual = fetch(memory, device, static_cast<std::int64_t>(expected.size()));
    for (std::size_t i = 0; i < expected.size(); ++i) {
      comparison.exact(name, 0, static_cast<std::int64_t>(i), actual[i], expected[i]);
    }
  }
};

}  // namespace

std::unique_ptr<KernelCase> make_moe_align_case(const CaseSpec& spec, std::string& why) {
  if (!needs(good_routing(spec), spec, routing_need, why)) return nullptr;
  return std::make_unique<MoeAlignCase>(spec);
}

}  // namespace orrery::kernels
