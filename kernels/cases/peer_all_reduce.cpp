#include "kernels/peer_all_reduce.h"

#include <algorithm>

#include "kernels/case_table.h"
#include "kernels/cases/normed_row.h"
#include "kernels/cases/peer_case.h"

namespace orrery::kernels {

namespace {

struct Operation {
  const char* op;
  PeerForm form;
};
constexpr Operation operations[] = {{"peer_all_reduce_lines", PeerForm::one_shot_lines},
                                    {"peer_all_reduce_one_shot", PeerForm::one_shot},
                                    {"peer_all_reduce_two_shot", PeerForm::two_shot}};

// spec.bytes is what a rank holds; spec.variant the blocks of threads, −1: the kernel's
// choice; spec.slots the bytes of a slot, 0: what suits.
class PeerAllReduceCase : public PeerCaseOf<PeerAllReduceLaunch> {
 public:
  PeerAllReduceCase(const CaseSpec& spec, PeerForm form)
      : PeerCaseOf(spec, "orrery." + spec.op + ".v1"), form_(form), count_(spec.bytes / 2) {}

  CheckResult check(DeviceMemory&) override {
    Comparison comparison(kernel());
    std::vector<std::vector<double>> parts;
    for (std::int32_t r = 0; r < spec_.ranks; ++r)
      parts.push_back(fetch_bf16(memory(r), of_rank(r).in, count_));
    std::vector<std::uint16_t> bits;
    for (std::int32_t r = 0; r < spec_.ranks; ++r) {
      const auto out = fetch(memory(r), of_rank(r).out, count_);
      if (r == 0) {
        bits = out;
        compare_sum(comparison, 0, parts, fetch_bf16(memory(r), of_rank(r).out, count_));
      }
      // The order of addition is the ranks', so nobody's bits differ.
      for (std::size_t i = 0; i < out.size(); ++i) {
        comparison.exact("bits", r, static_cast<std::int64_t>(i), out[i], bits[i]);
      }
    }
    return finish(comparison);
  }
  double flops() const override { return (spec_.ranks - 1) * static_cast<double>(count_); }
  // What a rank sends.
  double bytes() const override {
    const double all = static_cast<double>(spec_.bytes), n = spec_.ranks;
    return form_ == PeerForm::two_shot ? 2 * all * (n - 1) / n : all * (n - 1);
  }

 protected:
  PeerAllReduceLaunch operands(Operands& make, std::int32_t rank) const override {
    PeerAllReduceLaunch a;
    a.blocks = std::max(spec_.variant, 0);
    a.peers.ranks = spec_.ranks;
    a.peers.rank = rank;
    a.peers.blocks = a.blocks > 0 ? a.blocks : peer_all_reduce_blocks;
    const std::int64_t slot =
        spec_.slots > 0 ? spec_.slots : std::min<std::int64_t>(65536, aligned(spec_.bytes));
    (form_ == PeerForm::one_shot_lines ? a.peers.line_bytes : a.peers.slot_bytes) = slot;
    a.peers = own_peer_memory(make, a.peers);
    a.in = make.bf16(1, count_);
    a.out = make.output<std::uint16_t>(count_);
    a.count = count_;
    a.form = form_;
    return a;
  }
  void connect(std::vector<PeerAllReduceLaunch>& of_ranks) const override { connect_peer_memory(of_ranks); }
  void take_exchange(PeerAllReduceLaunch& to, const PeerAllReduceLaunch& from) const override {
    to.peers = from.peers;
  }
  void start(std::int32_t, const PeerAllReduceLaunch& launch, Stream stream) override {
    launch_peer_all_reduce(launch, stream);
  }

 private:
  // A slot holds no more than the whole message, lines twice that.
  static std::int64_t aligned(std::int64_t bytes) { return 2 * ((bytes + 31) / 32 * 32); }

  PeerForm form_;
  std::int64_t count_;
};

}  // namespace

std::unique_ptr<KernelCase> make_peer_all_reduce_case(const CaseSpec& spec, std::string& why) {
  const bool good = spec.ranks >= peer_least_ranks && spec.ranks <= peer_most_ranks && spec.bytes >= 2 &&
                    spec.bytes % 2 == 0 && spec.variant <= peer_all_reduce_blocks && spec.slots >= 0 &&
                    spec.slots % 32 == 0 && spec.dtype == "bf16";
  if (!needs(good, spec, "2 to 8 ranks, even bytes, dtype bf16 and variant, its blocks, up to 128", why))
    return nullptr;
  if (spec.op == "peer_all_reduce") {
    return std::make_unique<PeerAllReduceCase>(spec, peer_form(spec.ranks, spec.bytes));
  }
  for (const Operation& operation : operations) {
    if (spec.op == operation.op) return std::make_unique<PeerAllReduceCase>(spec, operation.form);
  }
  why = "no all-reduce '" + spec.op + "'";
  return nullptr;
}

}  // namespace orrery::kernels
