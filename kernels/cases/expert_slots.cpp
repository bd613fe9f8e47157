#include "kernels/expert_slots.h"

#include <algorithm>

#include "kernels/case_table.h"
#include "kernels/cases/exchange_case.h"

namespace orrery::kernels {

namespace {

struct SlotsLaunch {
  ExpertDispatchLaunch dispatch;
  ExpertCombineLaunch combine;
};

// m tokens of the rank that has most, n columns. A combine's case has dispatched once before.
class ExpertSlotsCase final : public ExchangeCaseOf<SlotsLaunch> {
 public:
  using ExchangeCaseOf::ExchangeCaseOf;

  double flops() const override { return 2 * static_cast<double>(spec_.m * spec_.top_k * spec_.n); }
  // What a rank sends, to its own experts too.
  double bytes() const override {
    const std::int64_t row = combines_ ? 2 * spec_.n : expert_row_bytes(spec_.n);
    return static_cast<double>(spec_.m * spec_.top_k * row);
  }

 protected:
  SlotsLaunch operands(Operands& make, std::int32_t rank) const override {
    const ExpertRoutes routes(spec_);
    ExpertSlots s;
    s.ranks = spec_.ranks;
    s.rank = rank;
    s.experts = static_cast<std::int32_t>(spec_.experts);
    s.top_k = static_cast<std::int32_t>(spec_.top_k);
    s.most_tokens = static_cast<std::int32_t>(spec_.m);
    s.columns = static_cast<std::int32_t>(spec_.n);
    s.row_bytes = static_cast<std::int32_t>(expert_row_bytes(spec_.n));
    const std::int64_t local = s.experts / s.ranks, capacity = std::int64_t{s.ranks} * s.most_tokens;
    s.rows[rank] = make.output<unsigned char>(expert_rows_bytes(s));
    s.counts[rank] = make.zeroed<std::uint64_t>(std::int64_t{2} * s.experts);
    s.returned[rank] = make.output<std::uint16_t>(expert_returned_bytes(s) / 2);
    s.flags[rank] = make.zeroed<std::uint32_t>(s.ranks);
    s.epochs = make.zeroed<std::uint32_t>(expert_epochs);
    s.sent = make.zeroed<unsigned>(s.experts + 2);
    SlotsLaunch a;
    a.dispatch.slots = s;
    a.dispatch.tokens = routes.tokens(rank);
    a.dispatch.x = make.bf16(std::max(a.dispatch.tokens, 1), s.columns);
    a.dispatch.chosen = make.given(routes.chosen(rank));
    a.dispatch.arrived = {make.output<std::uint8_t>(local * capacity * s.columns),
                          make.output<float>(local * capacity * (s.columns / fp8_group)),
                          make.output<std::int32_t>(local * capacity), make.output<std::int32_t>(local)};
    a.combine.arrived = a.dispatch.arrived;
    a.combine.chosen = a.dispatch.chosen;
    a.combine.tokens = a.dispatch.tokens;
    a.combine.weights = make.given(routes.weights(rank));
    if (combines_) a.combine.y = make.bf16(local * capacity, s.columns);
    a.combine.out = make.output<std::uint16_t>(std::max<std::int64_t>(a.combine.tokens, 1) * s.columns);
    return a;
  }
  void connect(std::vector<SlotsLaunch>& of_ranks) const override {
    for (SlotsLaunch& a : of_ranks) {
      ExpertSlots& s = a.dispatch.slots;
      for (const SlotsLaunch& b : of_ranks) {
        const ExpertSlots& other = b.dispatch.slots;
        const auto r = static_cast<std::size_t>(other.rank);
        s.rows[r] = other.rows[r];
        s.counts[r] = other.counts[r];
        s.returned[r] = other.returned[r];
        s.flags[r] = other.flags[r];
      }
      a.combine.slots = s;
    }
  }
  void take_exchange(SlotsLaunch& to, const SlotsLaunch& from) const override {
    to.dispatch.slots = to.combine.slots = from.dispatch.slots;
  }
  void dispatch(const SlotsLaunch& a, Stream stream) const override {
    launch_expert_send(a.dispatch, stream);
    launch_expert_receive(a.dispatch, stream);
  }
  void combine(const SlotsLaunch& a, Stream stream) const override {
    launch_expert_return(a.combine, stream);
    launch_expert_combine(a.combine, stream);
  }

 private:
  std::int64_t local() const { return spec_.experts / spec_.ranks; }
  std::int64_t capacity() const { return spec_.ranks * spec_.m; }

  void check_arrived(Comparison& comparison, const ExpertRoutes& routes, std::int32_t rank) override {
    const ArrivedRows& a = of_rank(rank).dispatch.arrived;
    const auto counts = fetch(memory(rank), a.counts, local());
    for (std::int64_t e = 0; e < local(); ++e) {
      const auto expected = routes.of_expert(rank * local() + e);
      const auto rows = static_cast<std::int64_t>(expected.size());
      comparison.exact("rows", rank, e, counts[static_cast<std::size_t>(e)], rows);
      if (rows == 0) continue;
      const auto sources = fetch(memory(rank), a.sources + e * capacity(), rows);
      for (std::size_t i = 0; i < expected.size(); ++i) {
        const ExpertRoute& route = expected[i];
        comparison.exact("source", e, static_cast<std::int64_t>(i), sources[i],
                         (route.rank * spec_.m + route.token) * spec_.top_k + route.choice);
      }
      for (const std::int64_t i : sampled_rows(rows, spec_.n * local(), spec_.seed)) {
        const ExpertRoute& route = expected[static_cast<std::size_t>(i)];
        const auto x =
            fetch_bf16(memory(route.rank), of_rank(route.rank).dispatch.x + route.token * spec_.n, spec_.n);
        Fp8Output out;
        out.scaling = Fp8Scaling::group;
        out.values = a.values;
        out.scales = a.scales;
        out.row_stride = spec_.n / fp8_group;
        out.group_stride = 1;
        compare_fp8_row(comparison, memory(rank), out, e * capacity() + i, x, std::vector<double>(x.size()));
      }
    }
  }

  void check_combined(Comparison& comparison, const ExpertRoutes& routes, std::int32_t rank) override {
    const auto& weights = routes.weights(rank);
    for (const std::int64_t token : sampled_rows(routes.tokens(rank), spec_.n, spec_.seed)) {
      SummedRow sum(spec_.n);
      for (std::int64_t j = 0; j < spec_.top_k; ++j) {
        const std::int64_t flat = token * spec_.top_k + j;
        const std::int32_t expert = routes.chosen(rank)[static_cast<std::size_t>(flat)];
        if (expert < 0) continue;
        const auto owner = static_cast<std::int32_t>(expert / local());
        const std::int64_t place = expert % local() * capacity() + routes.place(rank, token, expert);
        const auto y = fetch_bf16(memory(owner), of_rank(owner).combine.y + place * spec_.n, spec_.n);
        sum.add(y, weights[static_cast<std::size_t>(flat)]);
      }
      const auto out = fetch_bf16(memory(rank), of_rank(rank).combine.out + token * spec_.n, spec_.n);
      sum.compare(comparison, token, out);
    }
  }
};

std::unique_ptr<KernelCase> make_any(const CaseSpec& spec, bool combines, std::string& why) {
  const bool good = good_exchange(spec) && spec.n % fp8_group == 0 && spec.top_k <= expert_most_choices &&
                    spec.experts <= expert_most_blocks;
  const char* need =
      "2 to 8 ranks, m >= 1, n a multiple of 128, experts a multiple of ranks, up to 512, top_k up to 16";
  if (!needs(good, spec, need, why)) return nullptr;
  return std::make_unique<ExpertSlotsCase>(spec, combines);
}

}  // namespace

std::unique_ptr<KernelCase> make_expert_dispatch_slots_case(const CaseSpec& spec, std::string& why) {
  return make_any(spec, false, why);
}
std::unique_ptr<KernelCase> make_expert_combine_slots_case(const CaseSpec& spec, std::string& why) {
  return make_any(spec, true, why);
}

}  // namespace orrery::kernels
