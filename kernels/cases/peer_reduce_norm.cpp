#include "kernels/peer_reduce_norm.h"

#include <algorithm>

#include "kernels/case_table.h"
#include "kernels/cases/normed_row.h"
#include "kernels/cases/peer_case.h"

namespace orrery::kernels {

namespace {

// As lines up to here: the small batches of a decode, where the trip is what counts (measured on two H200).
constexpr std::int64_t most_bytes_as_lines = 128 * 1024;
constexpr std::int64_t most_slot_bytes = 64 * 1024;

// spec.variant: 0 flags, 1 lines, −1 by size.
class PeerReduceNormCase : public PeerCaseOf<PeerReduceNormLaunch> {
 public:
  PeerReduceNormCase(const CaseSpec& spec, Fp8Scaling scaling)
      : PeerCaseOf(spec, "orrery." + spec.op + ".v1"), scaling_(scaling) {}

  CheckResult check(DeviceMemory&) override {
    Comparison comparison(kernel());
    const auto rows = sampled_rows(spec_.m, spec_.n, spec_.seed);
    for (std::int32_t r = 0; r < spec_.ranks; ++r) {
      const PeerReduceNormLaunch& a = of_rank(r);
      const std::vector<double> weight = fetch_bf16(memory(r), a.weight, spec_.n);
      for (const std::int64_t row : rows) {
        const auto expected = reference_rms_norm(checked_sum(comparison, r, row), weight, a.epsilon);
        compare_normed_row(comparison, memory(r), {a.out, a.quantized}, row, expected);
      }
    }
    return finish(comparison);
  }
  double flops() const override { return (5 + spec_.ranks - 1) * static_cast<double>(spec_.m * spec_.n); }
  double bytes() const override {
    const double row = 2 * static_cast<double>(spec_.m * spec_.n);
    const double out = scaling_ == Fp8Scaling::none ? row : fp8_output_bytes(scaling_, spec_.m, spec_.n);
    return (spec_.ranks + 2) * row + out;
  }

 protected:
  PeerReduceNormLaunch operands(Operands& make, std::int32_t rank) const override {
    PeerReduceNormLaunch a;
    a.lines = spec_.variant < 0 ? 2 * spec_.m * spec_.n <= most_bytes_as_lines : spec_.variant == 1;
    const std::int64_t row = (2 * spec_.n + 31) / 32 * 32;
    a.peers.ranks = spec_.ranks;
    a.peers.rank = rank;
    a.peers.blocks = static_cast<std::int32_t>(std::min<std::int64_t>(spec_.m, peer_most_blocks));
    const std::int64_t rows = (spec_.m + a.peers.blocks - 1) / a.peers.blocks;
    const std::int64_t slot = std::max(std::min(rows * row, most_slot_bytes), row);
    (a.lines ? a.peers.line_bytes : a.peers.slot_bytes) = a.lines ? 2 * slot : slot;
    a.peers = own_peer_memory(make, a.peers);
    a.part = make.bf16(spec_.m, spec_.n);
    a.residual = make.bf16(spec_.m, spec_.n);
    a.residual_out = make.output<std::uint16_t>(spec_.m * spec_.n);
    a.weight = make.weight_bf16(spec_.n, true);
    set_rows(a, make, scaling_, spec_);
    return a;
  }
  void connect(std::vector<PeerReduceNormLaunch>& of_ranks) const override { connect_peer_memory(of_ranks); }
  void take_exchange(PeerReduceNormLaunch& to, const PeerReduceNormLaunch& from) const override {
    to.peers = from.peers;
  }
  void start(std::int32_t, const PeerReduceNormLaunch& launch, Stream stream) override {
    launch_peer_reduce_norm(launch, stream);
  }

 private:
  // Compares the sum with what was written, and returns what was written: the norm's input.
  std::vector<double> checked_sum(Comparison& comparison, std::int32_t rank, std::int64_t row) {
    const std::int64_t at = row * spec_.n;
    const PeerReduceNormLaunch& a = of_rank(rank);
    std::vector<std::vector<double>> terms = {fetch_bf16(memory(rank), a.residual + at, spec_.n)};
    for (std::int32_t r = 0; r < spec_.ranks; ++r)
      terms.push_back(fetch_bf16(memory(r), of_rank(r).part + at, spec_.n));
    return compare_sum(comparison, row, terms, fetch_bf16(memory(rank), a.residual_out + at, spec_.n));
  }

  Fp8Scaling scaling_;
};

std::unique_ptr<KernelCase> make_any(const CaseSpec& spec, Fp8Scaling scaling, std::string& why) {
  const bool good = spec.ranks >= peer_least_ranks && spec.ranks <= peer_most_ranks && spec.m >= 1 &&
                    spec.n >= 8 && spec.n % 8 == 0 && spec.n <= peer_norm_most_columns &&
                    (scaling != Fp8Scaling::group || spec.n % fp8_group == 0);
  if (!needs(good, spec, "2 to 8 ranks, m >= 1 and n up to 8192, a multiple of 8, of 128 for fp8-block", why))
    return nullptr;
  return std::make_unique<PeerReduceNormCase>(spec, scaling);
}

}  // namespace

std::unique_ptr<KernelCase> make_peer_reduce_norm_case(const CaseSpec& spec, std::string& why) {
  return make_any(spec, Fp8Scaling::none, why);
}
std::unique_ptr<KernelCase> make_peer_reduce_norm_quantize_case(const CaseSpec& spec, std::string& why) {
  Fp8Scaling scaling = Fp8Scaling::none;
  if (!quantises(spec, scaling, why)) return nullptr;
  return make_any(spec, scaling, why);
}

}  // namespace orrery::kernels
