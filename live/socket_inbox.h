// Requests that come from outside while the loop runs: other threads hand them in, the loop takes them.
#pragma once

#include <deque>
#include <mutex>
#include <unordered_set>
#include <vector>

#include "live/wall_clock.h"
#include "sim/inbox.h"
#include "workloads/priority.h"

namespace orrery {

// What a client asked for, as far as an engine cares.
struct SocketRequest {
  std::int32_t prompt_tokens = 0, max_tokens = 0;  // ≥ 1; the answer has exactly max_tokens
  std::int32_t priority = no_priority;
  std::int32_t hash_block_size = 16;
  std::vector<std::uint64_t> hash_ids;  // names of the prompt's blocks, by content
};

class SocketInbox final : public Inbox {
 public:
  // The clock is woken when something comes.
  explicit SocketInbox(WallClock& clock) : clock_(clock) {}
  // From the client to the engine's input queue; before anybody comes.
  void set_input_delay(SimDuration delay) { input_delay_ = delay; }

  // From any thread: it has arrived now; its number, from 0. None: closed.
  RequestId push(SocketRequest request);
  void leave(RequestId request);  // its client is gone; told once, while it is under way
  void close();                   // nothing more will come; the run ends when all has been answered

  // While it is open somebody may come at any time: the next arrival is then as late as can be, not never.
  SimTime next() const override;
  void poll(SimTime now, Arrivals& arrivals) override;
  void poll_departures(SimTime now, std::vector<RequestId>& gone) override;
  void on_finished(RequestId request, SimTime at) override;

 private:
  WallClock& clock_;
  SimDuration input_delay_;
  mutable std::mutex mutex_;
  std::deque<Request> waiting_;
  std::vector<RequestId> gone_;
  SimTime gone_at_;                              // the first of them
  std::unordered_set<std::uint64_t> under_way_;  // never iterated
  std::uint64_t count_ = 0;
  bool open_ = true;
};

}  // namespace orrery
