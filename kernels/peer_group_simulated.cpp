// Ranks as OS threads: a thread for each but the first, which is the caller's. The simulator's state is a
// thread's own, so ranks run their kernels at once and meet in memory alone.
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <thread>
#include <vector>

#include "kernels/cpu_simulator.h"
#include "kernels/guarded_memory.h"
#include "kernels/peer_group.h"

namespace orrery::kernels {

namespace {

// Threads that outlive a launch, because their fibres do: a thousand new stacks cost more than most kernels.
class RankThreads {
 public:
  RankThreads() = default;
  RankThreads(const RankThreads&) = delete;
  RankThreads& operator=(const RankThreads&) = delete;
  ~RankThreads() {
    {
      const std::lock_guard lock(mutex_);
      ended_ = true;
    }
    changed_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

  // body(1) … body(others) on threads of their own, body(0) here; until all have returned.
  void run(std::size_t others, const std::function<void(std::size_t)>& body) {
    {
      const std::lock_guard lock(mutex_);
      body_ = &body;
      running_ = wanted_ = others;
      ++round_;
      while (threads_.size() < others)
        threads_.emplace_back(&RankThreads::work, this, threads_.size() + 1, round_ - 1);
    }
    changed_.notify_all();
    body(0);
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return running_ == 0; });
  }

 private:
  void work(std::size_t rank, std::uint64_t seen) {
    std::unique_lock lock(mutex_);
    for (;;) {
      changed_.wait(lock, [&] { return ended_ || round_ != seen; });
      if (ended_) return;
      seen = round_;
      if (rank > wanted_) continue;
      const std::function<void(std::size_t)>& body = *body_;
      lock.unlock();
      body(rank);
      lock.lock();
      --running_;
      changed_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::thread> threads_;
  const std::function<void(std::size_t)>* body_ = nullptr;
  std::size_t running_ = 0, wanted_ = 0;
  std::uint64_t round_ = 0;
  bool ended_ = false;
};

RankThreads& rank_threads() {
  static RankThreads threads;
  return threads;
}

class SimulatedPeerGroup final : public PeerGroup {
 public:
  SimulatedPeerGroup(std::int32_t ranks, DeviceMemory& first) : first_(first) {
    for (std::int32_t r = 1; r < ranks; ++r) others_.push_back(std::make_unique<HostMemory>());
  }

  std::int32_t ranks() const override { return static_cast<std::int32_t>(others_.size()) + 1; }
  DeviceMemory& memory(std::int32_t rank) override {
    return rank == 0 ? first_ : *others_[static_cast<std::size_t>(rank - 1)];
  }

  bool launch(const Body& body, Stream, std::string& why, int times) override {
    std::vector<std::string> errors(others_.size());
    rank_threads().run(others_.size(), [&](std::size_t rank) {
      for (int i = 0; i < times; ++i) body(static_cast<std::int32_t>(rank), nullptr);
      if (rank > 0) errors[rank - 1] = simulator::take_error();  // rank 0's stays with the caller
    });
    for (std::size_t i = 0; i < errors.size(); ++i) {
      if (!errors[i].empty()) why = "rank " + std::to_string(i + 1) + ": " + errors[i];
    }
    return why.empty();
  }

  bool synchronize(std::string&) override { return true; }

  std::uint32_t* word() override { return &word_; }

  bool copy(std::int32_t, std::int32_t, std::span<const PeerCopy> copies, std::size_t bytes, CopyCalls,
            Stream, std::string&) override {
    for (const PeerCopy& c : copies) std::memcpy(c.to, c.from, bytes);
    return true;
  }

 private:
  DeviceMemory& first_;
  std::uint32_t word_ = 0;
  std::vector<std::unique_ptr<HostMemory>> others_;
};

}  // namespace

std::unique_ptr<PeerGroup> make_peer_group(std::int32_t ranks, DeviceMemory& first, std::string&) {
  return std::make_unique<SimulatedPeerGroup>(ranks, first);
}

}  // namespace orrery::kernels
