// KV between a prefill and a decode instance that run on two devices: blocks are really moved, one request's
// after another's. Under a clock that waits by a thread of its own, beside both instances' steps; under one
// that jumps at once, and what it took is when it has come.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>

#include "live/forward/kv_mover.h"
#include "live/kernel_executor.h"
#include "live/wall_clock.h"
#include "sim/kv_transport.h"

namespace orrery {

class KernelTransport final : public KvTransport {
 public:
  struct Options {
    KernelExecutor *from = nullptr, *to = nullptr;  // these outlive it
    KvMover* mover = nullptr;
    WallClock* clock = nullptr;  // null: the clock jumps
  };
  explicit KernelTransport(const Options& options);
  ~KernelTransport() override;

  void begin(const KvPull& pull, SimTime now) override;
  void send(const KvSend& part, SimTime now) override;
  void forget(RequestId request, SimTime now) override;
  SimTime next_event() override;
  void collect(SimTime now, std::vector<KvPullDone>& done) override;

  std::int64_t moves() const { return moves_; }
  std::int64_t blocks() const { return blocks_; }  // whole: of all layers
  std::int64_t busy_ns() const { return busy_ns_; }
  std::string failure() const;
  bool failed() const { return failed_; }  // takes no lock: a clock asks that the worker may be waking

 private:
  struct Move {
    RequestId request;
    KvMove what;
    SimTime at;  // over
    bool last = true, over = false, dropped = false, failed = false;
  };
  struct Way {  // of a request whose blocks are on their way
    std::uint64_t request = 0;
    std::vector<std::int32_t> from, to;
    bool nowhere = false;  // nobody has them any more
  };
  void put(RequestId request, KvMove what, bool nowhere, SimTime now);
  bool carry_out(const KvMove& what, std::int64_t& ns);
  void work();  // the thread

  Options options_;
  std::vector<Way> ways_;  // sent part by part
  SimTime free_;           // when the link is, under a clock that jumps
  std::int64_t moves_ = 0, blocks_ = 0, busy_ns_ = 0;

  mutable std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  std::deque<Move> open_;  // in order of their ends
  bool stop_ = false;
  std::string failure_;
  std::atomic<bool> failed_ = false;
  std::thread worker_;
};

}  // namespace orrery
