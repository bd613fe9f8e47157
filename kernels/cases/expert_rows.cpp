#include "kernels/expert_rows.h"

#include <algorithm>
#include <cstring>

#include "kernels/case_table.h"
#include "kernels/cases/exchange_case.h"

namespace orrery::kernels {

namespace {

struct RowsLaunch {
  ExpertRowsDispatchLaunch dispatch;
  ExpertRowsCombineLaunch combine;
};

// m tokens of the rank that has most, rows of n bf16 columns. A combine's case has dispatched once before.
class ExpertRowsCase final : public ExchangeCaseOf<RowsLaunch> {
 public:
  using ExchangeCaseOf::ExchangeCaseOf;

  std::vector<unsigned char> received(std::int32_t rank) override {
    if (combines_) return {};
    const auto rows = static_cast<std::int64_t>(ExpertRoutes(spec_).of_owner(rank).size());
    const ExpertRows& e = of_rank(rank).dispatch.exchange;
    return fetch(memory(rank), e.rows[rank], rows * e.row_bytes);
  }
  double flops() const override { return static_cast<double>(spec_.m * spec_.ranks * spec_.n); }
  // What a rank sends where every token has an expert on every rank.
  double bytes() const override { return 2 * static_cast<double>(spec_.m * distinct() * spec_.n); }

 protected:
  RowsLaunch operands(Operands& make, std::int32_t rank) const override {
    const ExpertRoutes routes(spec_);
    ExpertRows e;
    e.ranks = spec_.ranks;
    e.rank = rank;
    e.experts = static_cast<std::int32_t>(spec_.experts);
    e.top_k = static_cast<std::int32_t>(spec_.top_k);
    e.most_tokens = static_cast<std::int32_t>(spec_.m);
    e.columns = static_cast<std::int32_t>(spec_.n);
    e.row_bytes = 2 * e.columns;
    e.route_words = static_cast<std::int32_t>(words());
    const std::int64_t most = spec_.ranks * spec_.m;
    e.rows[rank] = make.output<unsigned char>(most * e.row_bytes);
    e.routes[rank] = make.output<std::int32_t>(most * words());
    e.counts[rank] = make.zeroed<std::uint64_t>(e.ranks * e.ranks);
    e.returned[rank] = make.output<std::uint16_t>(2 * most * e.columns);
    e.flags[rank] = make.zeroed<std::uint32_t>(2 * e.ranks);
    e.places = make.output<std::int32_t>(most);
    e.begins = make.output<std::int32_t>(e.ranks + 1);
    e.words = make.zeroed<std::uint32_t>(expert_rows_words);
    RowsLaunch a;
    a.dispatch.exchange = e;
    a.dispatch.tokens = routes.tokens(rank);
    a.dispatch.x =
        reinterpret_cast<const unsigned char*>(make.bf16(std::max(a.dispatch.tokens, 1), e.columns));
    a.dispatch.chosen = make.given(routes.chosen(rank));
    a.dispatch.weights = make.given(routes.weights(rank));
    a.combine.tokens = a.dispatch.tokens;
    if (combines_) a.combine.y = make.bf16(most, e.columns);
    a.combine.out = make.output<std::uint16_t>(std::max<std::int64_t>(a.combine.tokens, 1) * e.columns);
    return a;
  }
  void connect(std::vector<RowsLaunch>& of_ranks) const override {
    for (RowsLaunch& a : of_ranks) {
      ExpertRows& e = a.dispatch.exchange;
      for (const RowsLaunch& b : of_ranks) {
        const ExpertRows& other = b.dispatch.exchange;
        const auto r = static_cast<std::size_t>(other.rank);
        e.rows[r] = other.rows[r];
        e.routes[r] = other.routes[r];
        e.counts[r] = other.counts[r];
        e.returned[r] = other.returned[r];
        e.flags[r] = other.flags[r];
      }
      a.combine.exchange = e;
    }
  }
  // Rows and where they go are a case's own: what a combine finds of its dispatch, and what is checked.
  void take_exchange(RowsLaunch& to, const RowsLaunch& from) const override {
    ExpertRows& e = to.dispatch.exchange;
    const ExpertRows& other = from.dispatch.exchange;
    std::copy(std::begin(other.counts), std::end(other.counts), e.counts);
    std::copy(std::begin(other.returned), std::end(other.returned), e.returned);
    std::copy(std::begin(other.flags), std::end(other.flags), e.flags);
    e.words = other.words;
    to.combine.exchange = e;
  }
  void dispatch(const RowsLaunch& a, Stream stream) const override {
    launch_expert_rows_plan(a.dispatch, stream);
    launch_expert_rows_send(a.dispatch, stream);
    launch_expert_rows_receive(a.dispatch, stream);
  }
  void combine(const RowsLaunch& a, Stream stream) const override {
    launch_expert_rows_return(a.combine, stream);
    launch_expert_rows_combine(a.combine, stream);
  }

 private:
  std::int64_t words() const { return expert_route_words(spec_.top_k); }
  std::int64_t distinct() const { return std::min<std::int64_t>(spec_.ranks, spec_.top_k); }

  void check_arrived(Comparison& comparison, const ExpertRoutes& routes, std::int32_t rank) override {
    const ExpertRows& e = of_rank(rank).dispatch.exchange;
    const auto expected = routes.of_owner(rank);
    const auto rows = static_cast<std::int64_t>(expected.size());
    comparison.exact("rows", rank, 0, fetch(memory(rank), e.begins + e.ranks, 1).front(), rows);
    if (rows == 0) return;
    for (const std::int64_t i : sampled_rows(rows, spec_.n, spec_.seed)) {
      const ExpertRoute& route = expected[static_cast<std::size_t>(i)];
      const auto actual = fetch(memory(rank), e.routes[rank] + i * words(), words());
      comparison.exact("source", i, 0, actual.front(), route.rank * spec_.m + route.token);
      for (std::int64_t j = 0; j < spec_.top_k; ++j) {
        const auto flat = static_cast<std::size_t>(route.token * spec_.top_k + j);
        const auto at = static_cast<std::size_t>(1 + j), weight = at + static_cast<std::size_t>(spec_.top_k);
        comparison.exact("expert", i, j, actual[at], routes.chosen(route.rank)[flat]);
        float carried = 0;
        std::memcpy(&carried, &actual[weight], sizeof carried);
        comparison.value("weight", i, j, carried, routes.weights(route.rank)[flat], 0);
      }
      const auto* x = of_rank(route.rank).dispatch.x + route.token * e.row_bytes;
      const auto sent = fetch(memory(route.rank), x, e.row_bytes);
      const auto got = fetch(memory(rank), e.rows[rank] + i * e.row_bytes, e.row_bytes);
      for (std::size_t b = 0; b < sent.size(); ++b)
        comparison.exact("byte", i, static_cast<std::int64_t>(b), got[b], sent[b]);
    }
  }

  void check_combined(Comparison& comparison, const ExpertRoutes& routes, std::int32_t rank) override {
    std::vector<std::vector<ExpertRoute>> of_owner;
    for (std::int32_t r = 0; r < spec_.ranks; ++r) of_owner.push_back(routes.of_owner(r));
    for (const std::int64_t token : sampled_rows(routes.tokens(rank), spec_.n, spec_.seed)) {
      SummedRow sum(spec_.n);
      for (std::int32_t owner = 0; owner < spec_.ranks; ++owner) {
        const auto& arrived = of_owner[static_cast<std::size_t>(owner)];
        const auto found = std::find_if(arrived.begin(), arrived.end(), [&](const ExpertRoute& route) {
          return route.rank == rank && route.token == token;
        });
        if (found == arrived.end()) continue;
        const std::int64_t row = found - arrived.begin();
        const auto y = fetch_bf16(memory(owner), of_rank(owner).combine.y + row * spec_.n, spec_.n);
        sum.add(y, 1);
      }
      const auto out = fetch_bf16(memory(rank), of_rank(rank).combine.out + token * spec_.n, spec_.n);
      sum.compare(comparison, token, out);
    }
  }
};

std::unique_ptr<KernelCase> make_any(const CaseSpec& spec, bool combines, std::string& why) {
  const bool good = good_exchange(spec) && spec.n >= 8 && spec.n % 8 == 0 &&
                    spec.top_k <= expert_rows_most_choices && spec.m <= expert_rows_most_tokens;
  const char* need =
      "2 to 8 ranks, m up to 65535, n a multiple of 8, experts a multiple of ranks, up to 512, top_k up to "
      "16";
  if (!needs(good, spec, need, why)) return nullptr;
  return std::make_unique<ExpertRowsCase>(spec, combines);
}

}  // namespace

std::unique_ptr<KernelCase> make_expert_dispatch_rows_case(const CaseSpec& spec, std::string& why) {
  return make_any(spec, false, why);
}
std::unique_ptr<KernelCase> make_expert_combine_rows_case(const CaseSpec& spec, std::string& why) {
  return make_any(spec, true, why);
}

}  // namespace orrery::kernels
