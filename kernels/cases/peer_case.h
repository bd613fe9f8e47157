// What the cases of several ranks share: operands for every rank in its own memory, pointers handed to all,
// and launches on all ranks. A chain is the same launch several times on each rank without waiting between:
// what it takes for one is what a captured step of an engine pays.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "kernels/cases/case_support.h"
#include "kernels/peer_group.h"
#include "kernels/peer_memory.h"

namespace orrery::kernels {

class ChainedCase : public KernelCase {
 public:
  virtual void launch_chain(int set, int times, Stream stream) = 0;
  void launch(int set, Stream stream) override { launch_chain(set, 1, stream); }

  // For calls of two cases of one shape with other operands over the same words and slots, where bytes of an
  // earlier call are wrong ones: takes the first set's from `other`. False when the case is of another kind.
  virtual bool share_exchange(ChainedCase& other) = 0;
  virtual void start_on(std::int32_t rank, Stream stream) = 0;  // one call of one rank of the first set
  virtual PeerGroup& group() const = 0;
  // What peers had stored for this rank when its last call was through, if that is what the call is for.
  virtual std::vector<unsigned char> received(std::int32_t) { return {}; }
};

// Call i of every rank is of `second` where this says so. Halves by an epoch's last bit hold both in turn.
constexpr int alternated_calls = 8;
constexpr bool alternates(int call) { return call / 2 % 2 == 1; }
// Calls of two cases that share an exchange, none waited for.
bool launch_alternated(ChainedCase& first, ChainedCase& second, Stream stream, std::string& why);

// Launch has what one rank needs. What remains to write: operands() of a rank, connect() which hands out
// pointers, start() which launches a rank's part, and the check.
template <class Launch>
class PeerCaseOf : public ChainedCase {
 public:
  PeerCaseOf(const CaseSpec& spec, std::string kernel) : spec_(spec), kernel_(std::move(kernel)) {}

  std::string kernel() const override { return kernel_; }
  std::size_t bytes_per_set() const override {
    Operands counting(nullptr, spec_, 0);
    static_cast<void>(operands(counting, 0));
    return counting.bytes();
  }
  bool prepare(DeviceMemory& memory, int sets, std::string& why) override {
    sets_.clear();
    group_ = make_peer_group(spec_.ranks, memory, why);
    if (group_ == nullptr) return false;
    for (int set = 0; set < sets; ++set) {
      sets_.emplace_back();
      for (std::int32_t rank = 0; rank < spec_.ranks; ++rank) {
        Operands make(&group_->memory(rank), spec_, set * peer_most_ranks + rank);
        sets_.back().push_back(operands(make, rank));
        if (make.complete()) continue;
        why = "no room for the buffers of rank " + std::to_string(rank);
        return false;
      }
      connect(sets_.back());
    }
    return group_->synchronize(why) && begin(why);
  }
  void launch_chain(int set, int times, Stream stream) override {
    const auto at = static_cast<std::size_t>(set);
    const auto body = [&](std::int32_t rank, Stream on) {
      start(rank, sets_[at][static_cast<std::size_t>(rank)], on);
    };
    std::string why;
    if (!group_->launch(body, stream, why, times)) refused_ = why;
  }
  std::string refusal() const override { return refused_; }
  PeerGroup& group() const override { return *group_; }
  void start_on(std::int32_t rank, Stream stream) override { start(rank, of_rank(rank), stream); }
  bool share_exchange(ChainedCase& other) override {
    const auto* same = dynamic_cast<const PeerCaseOf*>(&other);
    if (same == nullptr) return false;
    for (std::int32_t r = 0; r < spec_.ranks; ++r)
      take_exchange(sets_.front()[static_cast<std::size_t>(r)], same->of_rank(r));
    return true;
  }

 protected:
  virtual Launch operands(Operands& make, std::int32_t rank) const = 0;
  virtual void connect(std::vector<Launch>& of_ranks) const = 0;
  virtual void start(std::int32_t rank, const Launch& launch, Stream stream) = 0;
  virtual void take_exchange(Launch& to, const Launch& from) const = 0;
  virtual bool begin(std::string&) { return true; }  // what must have run before

  const Launch& of_rank(std::int32_t rank) const { return sets_.front()[static_cast<std::size_t>(rank)]; }
  std::vector<Launch>& set(std::size_t at) { return sets_[at]; }
  DeviceMemory& memory(std::int32_t rank) { return group_->memory(rank); }
  void refuse(const std::string& why) { refused_ = why; }
  // A comparison's result, guard zones of the other ranks with it.
  CheckResult finish(Comparison& comparison) {
    std::string what;
    for (std::int32_t r = 1; r < spec_.ranks; ++r) {
      if (!memory(r).guards_intact(what))
        comparison.fail("guard zone of rank " + std::to_string(r) + ": " + what);
    }
    return comparison.result();
  }

  CaseSpec spec_;

 private:
  std::string kernel_, refused_;
  std::unique_ptr<PeerGroup> group_;
  std::vector<std::vector<Launch>> sets_;  // of ranks
};

// A rank's own areas of what `shape` says (ranks, rank, blocks, bytes), and then all ranks'.
PeerMemory own_peer_memory(Operands& make, PeerMemory shape);
template <class Launch>
void connect_peer_memory(std::vector<Launch>& of_ranks) {
  for (Launch& a : of_ranks) {
    for (const Launch& b : of_ranks) {
      const auto r = static_cast<std::size_t>(b.peers.rank);
      a.peers.flags[r] = b.peers.flags[r];
      a.peers.slots[r] = b.peers.slots[r];
      a.peers.lines[r] = b.peers.lines[r];
    }
  }
}

}  // namespace orrery::kernels
