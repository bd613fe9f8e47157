#include <algorithm>
#include <cmath>

#include "kernels/case_table.h"
#include "kernels/cases/matrix_operands.h"
#include "kernels/rank_group.h"

namespace orrery::kernels {

namespace {

struct Operation {
  const char* op;
  Collective what;
  const char* kernel;
};
constexpr Operation operations[] = {
    {"all_reduce", Collective::all_reduce, "nccl.all_reduce"},
    {"all_gather", Collective::all_gather, "nccl.all_gather"},
    {"reduce_scatter", Collective::reduce_scatter, "nccl.reduce_scatter"},
    {"all_to_all", Collective::all_to_all, "nccl.all_to_all"},
    {"send_recv", Collective::send_recv, "nccl.send_recv"},
};

struct RankOperands {
  Matrix send, receive;  // one row each
};

class CollectiveCase final : public KernelCase {
 public:
  CollectiveCase(const CaseSpec& spec, const Operation& operation)
      : spec_(spec), operation_(operation), count_(spec.bytes / 2), part_(count_ / spec.ranks) {}

  std::string kernel() const override { return operation_.kernel; }
  std::size_t bytes_per_set() const override { return static_cast<std::size_t>(2 * spec_.bytes); }

  bool prepare(DeviceMemory& memory, int sets, std::string& why) override {
    memory_ = &memory;
    for (int i = 0; i < sets; ++i) sets_.emplace_back(static_cast<std::size_t>(spec_.ranks));
    if (!allocate(0)) return no_room(why);
    group_ = make_rank_group(spec_.ranks, memory.device_index(), why);
    if (group_ == nullptr) return false;
    for (std::int32_t rank = 1; rank < spec_.ranks; ++rank) {
      if (!allocate(rank)) return no_room(why);
    }
    for (std::size_t i = 0; i < sets_.size(); ++i) {
      for (std::size_t rank = 0; rank < sets_[i].size(); ++rank) {
        const std::uint64_t seed = spec_.seed + 100 * i + rank;
        sets_[i][rank].send.fill(memory_of(static_cast<std::int32_t>(rank)), spec_.fill, 1.0F, seed);
      }
    }
    // Connections are made by the first call, which no capture survives.
    return group_->synchronize(why) && group_->launch(operation_.what, count_, buffers(0), nullptr, why) &&
           group_->synchronize(why);
  }

  void launch(int set, Stream stream) override {
    std::string why;
    if (!group_->launch(operation_.what, count_, buffers(static_cast<std::size_t>(set)), stream, why)) {
      refused_ = why;
    }
  }

  std::string refusal() const override { return refused_; }

  CheckResult check(DeviceMemory& memory) override {
    MatrixComparison comparison;
    std::string why;
    if (!group_->synchronize(why)) comparison.fail(why);
    std::vector<std::vector<double>> sent, received;
    for (std::int32_t rank = 0; rank < spec_.ranks; ++rank) {
      const RankOperands& o = sets_.front()[static_cast<std::size_t>(rank)];
      sent.push_back(o.send.row(memory_of(rank), 0));
      received.push_back(o.receive.row(memory_of(rank), 0));
    }
    for (std::int32_t rank = 0; rank < spec_.ranks; ++rank) {
      if (operation_.what == Collective::send_recv && rank % 2 == 0) continue;
      const std::vector<double>& out = received[static_cast<std::size_t>(rank)];
      for (const std::int64_t i : sample(static_cast<std::int64_t>(out.size()), 4096, spec_.seed)) {
        const DotProduct expected = reference(sent, rank, i);
        // A sum passes through bf16 on its way from rank to rank.
        const double tolerance = reduces() ? (spec_.ranks - 1) * bf16_rounding * expected.magnitude : 0;
        comparison.add(out[static_cast<std::size_t>(i)], expected.value, tolerance,
                       "rank " + std::to_string(rank) + ", element " + std::to_string(i));
      }
    }
    comparison.guards(memory);
    for (std::int32_t rank = 1; rank < spec_.ranks; ++rank) comparison.guards(group_->memory(rank));
    return comparison.result();
  }

  double flops() const override { return 0; }
  // What a rank sends over its links in a ring or pairwise: the convention of bus bandwidth.
  double bytes() const override {
    const double all = static_cast<double>(spec_.bytes), ranks = spec_.ranks;
    switch (operation_.what) {
      case Collective::all_reduce: return 2 * all * (ranks - 1) / ranks;
      case Collective::send_recv: return all;
      default: return all * (ranks - 1) / ranks;
    }
  }

 private:
  bool reduces() const {
    return operation_.what == Collective::all_reduce || operation_.what == Collective::reduce_scatter;
  }
  DeviceMemory& memory_of(std::int32_t rank) { return rank == 0 ? *memory_ : group_->memory(rank); }
  static bool no_room(std::string& why) {
    why = "no room for the buffers of a rank";
    return false;
  }

  bool allocate(std::int32_t rank) {
    const std::int64_t in = operation_.what == Collective::all_gather ? part_ : count_;
    const std::int64_t out = operation_.what == Collective::reduce_scatter ? part_ : count_;
    for (std::vector<RankOperands>& set : sets_) {
      RankOperands& o = set[static_cast<std::size_t>(rank)];
      o.send = {nullptr, Element::bf16, 1, in};
      o.receive = {nullptr, Element::bf16, 1, out};
      if (!o.send.allocate(memory_of(rank)) || !o.receive.allocate(memory_of(rank))) return false;
    }
    return true;
  }

  std::vector<RankBuffers> buffers(std::size_t set) const {
    std::vector<RankBuffers> result;
    for (const RankOperands& o : sets_[set]) result.push_back({o.send.data, o.receive.data});
    return result;
  }

  // Value and, for sums, Σ |term| of element i of what `rank` receives.
  DotProduct reference(const std::vector<std::vector<double>>& sent, std::int32_t rank,
                       std::int64_t i) const {
    const auto at = static_cast<std::size_t>(i), part = static_cast<std::size_t>(part_),
               me = static_cast<std::size_t>(rank);
    DotProduct sum;
    switch (operation_.what) {
      case Collective::all_gather: sum.value = sent[at / part][at % part]; break;
      case Collective::all_to_all: sum.value = sent[at / part][me * part + at % part]; break;
      case Collective::send_recv: sum.value = sent[me - 1][at]; break;
      case Collective::all_reduce:
      case Collective::reduce_scatter:
        for (const std::vector<double>& of_rank : sent) {
          const double value = of_rank[operation_.what == Collective::all_reduce ? at : me * part + at];
          sum.value += value;
          sum.magnitude += std::fabs(value);
        }
    }
    return sum;
  }

  CaseSpec spec_;
  Operation operation_;
  std::int64_t count_, part_;
  DeviceMemory* memory_ = nullptr;
  std::unique_ptr<RankGroup> group_;
  std::vector<std::vector<RankOperands>> sets_;
  std::string refused_;
};

}  // namespace

std::unique_ptr<KernelCase> make_collective_case(const CaseSpec& spec, std::string& why) {
  for (const Operation& operation : operations) {
    if (spec.op != operation.op) continue;
    if (spec.ranks < 2) {
      why = "operator " + spec.op + " needs at least 2 ranks";
    } else if (spec.bytes < 2 * spec.ranks || spec.bytes % (2 * spec.ranks) != 0) {
      why = "operator " + spec.op + " needs bytes, a multiple of 2 · ranks";
    } else if (spec.dtype != "bf16") {
      why = "operator " + spec.op + " needs dtype bf16";
    } else {
      return std::make_unique<CollectiveCase>(spec, operation);
    }
    return nullptr;
  }
  why = "no collective '" + spec.op + "'";
  return nullptr;
}

}  // namespace orrery::kernels
