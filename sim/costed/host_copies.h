// KV on its way between GPUs and their host's memory, as flows over the links between them: what
// sim/host_link.h is where nothing else is on those links. One queue an instance and direction, first in,
// first out; a copy is a flow for each GPU, all begun at once, and takes at least what the host link takes
// alone. Copies that a step waits for stand in the same queues, as on an engine's copy stream (SGLang's
// `write_stream` and `load_stream`, managers/cache_controller.py of 0.5.23; TensorRT-LLM's
// mOnboardManager and mOffloadManager, batch_manager/kvCacheTransferManager.cpp): their end is foretold as
// they are issued.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <vector>

#include "base/ids.h"
#include "base/indexed_heap.h"
#include "sim/fabric/topology.h"
#include "sim/host_link.h"
#include "sim/step_plan.h"

namespace orrery {

class HostCopies {
 public:
  struct Seat {                         // of an instance; no GPUs: it has no such tier
    std::vector<DeviceId> gpus, hosts;  // the nearest host of each
    double bytes_per_block = 0;         // on one GPU
    double bytes_per_second = 0;        // of the host link alone
  };
  // Begins a flow; false: there is no way.
  using Begin =
      std::function<bool(DeviceId from, DeviceId to, std::int64_t bytes, std::uint64_t key, SimTime)>;
  HostCopies(std::vector<Seat> seats, Begin begin)
      : seats_(std::move(seats)), lanes_(2 * seats_.size()), due_(lanes_.size()), begin_(std::move(begin)) {}

  bool has(std::size_t instance) const { return !seats_[instance].gpus.empty(); }
  const Seat& seat(std::size_t instance) const { return seats_[instance]; }
  void add(std::size_t instance, const TransferWork& work, SimTime ready) {
    add(instance, work, ready, true);
  }
  // The same for a copy whose end nobody is told, because it was foretold: what is before it in its queue and
  // itself at `slowdown` times what they take alone, from `under_way_ends` on, when flows under way do.
  SimTime add_foretold(std::size_t instance, const TransferWork& work, SimTime ready, double slowdown,
                       SimTime under_way_ends);
  // Keys of an instance's flows under way in one direction.
  std::vector<std::uint64_t> under_way(std::size_t instance, bool to_device) const;
  // When start_and_end() has something next, beside ends of flows.
  SimTime next_event() const;
  void start_and_end(SimTime now);
  void arrived(std::uint64_t key, SimTime at);  // a key that was given to Begin
  bool flowing() const { return flowing_ > 0; }
  // Appends what has ended of instances [first, first + count), numbered from `first`.
  void take(std::size_t first, std::size_t count, std::vector<TransferDone>& done);
  // Nothing more of it is wanted; the keys of its flows that are under way.
  std::vector<std::uint64_t> drop(std::size_t instance);

 private:
  struct Copy {
    std::uint64_t id;
    std::int64_t blocks;
    SimTime ready;
    bool told;  // its end is reported
  };
  struct Lane {
    std::deque<Copy> queue;  // the first one is under way, where `begun`
    bool begun = false;
    std::size_t flows = 0;     // of it, not arrived
    std::uint64_t serial = 0;  // of the copy, so that a late end of a dropped one is none
    SimTime end;               // of the first: not before
  };
  static std::size_t lane_of(std::size_t instance, bool to_device) {
    return 2 * instance + (to_device ? 0 : 1);
  }
  void add(std::size_t instance, const TransferWork& work, SimTime ready, bool told);
  void start(std::size_t lane, SimTime now);
  void look_again(std::size_t lane);  // at when it has something next

  std::vector<Seat> seats_;
  std::vector<Lane> lanes_;  // by instance: to the device, to the host
  IndexedTimeHeap due_;      // by lane
  Begin begin_;
  std::vector<TransferDone> done_;
  std::size_t flowing_ = 0;  // flows under way
};

}  // namespace orrery
