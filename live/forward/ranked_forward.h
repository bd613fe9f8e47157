// A forward pass over the devices of one process: a rank on each, with a thread of its own (the first is the
// caller's), its share of the weights and its heads of the KV pool. One rank is a StepForward and no more.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "kernels/peer_group.h"
#include "kernels/rank_calls.h"
#include "live/forward/step_forward.h"
#include "live/forward/step_watch.h"

namespace orrery {

// Our kernels (kernels/peer_all_reduce.h); the library; or no sums at all, whose results mean nothing: what
// ranks take by themselves.
enum class AllReduce : std::uint8_t { peers, nccl, none };

// What a test breaks: a rank's sum of this number, counted from the first step, is refused by who makes it,
// or, silently, never made.
struct RankFault {
  std::int32_t rank = -1;  // -1: nobody's
  std::int64_t sum = 0;
  bool silent = false;
};

class RankThreads {
 public:
  explicit RankThreads(std::size_t ranks);
  RankThreads(const RankThreads&) = delete;
  RankThreads& operator=(const RankThreads&) = delete;
  ~RankThreads();
  // job(rank) on every rank's thread; begin() returns when the caller's own is through, end() when all are.
  void begin(std::function<void(std::size_t)> job);
  void end();
  void run(std::function<void(std::size_t)> job) {
    begin(std::move(job));
    end();
  }

 private:
  void work(std::size_t rank);

  std::function<void(std::size_t)> job_;
  std::atomic<std::uint64_t> round_ = 0;
  std::atomic<std::size_t> running_ = 0;
  std::atomic<bool> ended_ = false;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::thread> threads_;
};

class RankedForward {
 public:
  struct Options {
    std::int32_t ranks = 1;
    AllReduce all_reduce = AllReduce::peers;
    bool shares_experts = false;  // whole experts by rank (EP), instead of a slice of each (TP)
    double patience_s = 120;      // for a step: then the ranks are given up, so that none waits for ever
    RankFault fault = {};
  };
  // `memory` is the first rank's. Errors: as StepForward::create; too few devices, or none that reach each
  // other's memory; no NCCL where it is asked for.
  static Result<std::unique_ptr<RankedForward>> create(const ModelSpec& model, const ForwardOptions& options,
                                                       const Options& ranks, kernels::DeviceMemory& memory);
  ~RankedForward();

  // As StepForward's. Tokens and logits are those of the first rank; all ranks have the same. A rank that
  // fails is named, and takes the others with it: what waits for it on their devices is given up, and so is
  // the whole group, for good.
  Result<Unit> launch(const StepBatch& batch);
  Result<std::span<const std::int32_t>> sampled();
  double step_ns();  // of the slowest rank
  std::vector<std::int32_t> chosen_experts(std::size_t layer, std::int32_t rows) {
    return forwards_.front()->chosen_experts(layer, rows);
  }
  std::vector<float> logits() { return forwards_.front()->logits(); }
  std::int64_t graphs() const { return forwards_.front()->graphs(); }
  std::int64_t first_uses() const { return forwards_.front()->first_uses(); }

  std::size_t ranks() const { return forwards_.size(); }
  StepForward& of_rank(std::size_t rank) { return *forwards_[rank]; }
  const StepForward& of_rank(std::size_t rank) const { return *forwards_[rank]; }
  kernels::DeviceMemory& memory_of(std::size_t rank) {
    return rank == 0 ? memory_ : peers_->memory(static_cast<std::int32_t>(rank));
  }
  // Whether the last step's tokens are the same on all ranks.
  bool agreed() const;

 private:
  class Link;
  RankedForward(const Options& options, kernels::DeviceMemory& memory);
  Result<Unit> connect();
  Result<Unit> prepare(const ModelSpec& model, const ForwardOptions& options);
  Errors what_failed();
  void fail(std::size_t rank, Errors errors);
  // Of the group: kernels and NCCL's stop waiting. The first one says why.
  void give_up(const Errors& why);

  Options options_;
  kernels::DeviceMemory& memory_;
  std::unique_ptr<kernels::PeerGroup> peers_;
  std::unique_ptr<kernels::RankCalls> calls_;
  std::vector<std::unique_ptr<Link>> links_;
  std::vector<std::unique_ptr<StepForward>> forwards_;
  std::vector<Errors> errors_;  // of ranks, in the step under way
  std::vector<std::vector<std::int32_t>> tokens_;
  StepBatch batch_;  // of the step under way, for the other ranks
  // Where ranks meet: how many have come, and how often all had.
  std::atomic<std::int32_t> met_ = 0;
  std::atomic<std::uint64_t> meetings_ = 0;
  std::atomic<bool> broken_ = false;  // a rank has failed
  std::mutex cause_mutex_;
  Errors cause_;
  std::unique_ptr<RankThreads> threads_;
  std::unique_ptr<StepWatch> watch_;
};

}  // namespace orrery
