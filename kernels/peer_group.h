// Several GPUs of one node that can write into each other's memory, one process, one thread that launches; in
// the simulator ranks are OS threads, so that one can be late. Rank 0 is the device of the memory it is made
// with.
//
// Like a RankGroup it is launched on rank 0's stream: the others fork from it and it waits for them, so a
// capture takes in all devices.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "kernels/kernel_case.h"

namespace orrery::kernels {

struct PeerCopy {
  const void* from = nullptr;
  void* to = nullptr;
};
enum class CopyCalls : std::uint8_t { one_each, batch };  // calls of the driver

class PeerGroup {
 public:
  virtual ~PeerGroup() = default;
  virtual std::int32_t ranks() const = 0;
  virtual DeviceMemory& memory(std::int32_t rank) = 0;
  // body(rank, stream) for every rank with its device current; launches only. `times` rounds of that, forked
  // and joined once: no rank's queue fills while it waits for one that has not been launched.
  using Body = std::function<void(std::int32_t, Stream)>;
  virtual bool launch(const Body& body, Stream stream, std::string& why, int times = 1) = 0;
  virtual bool synchronize(std::string& why) = 0;  // all ranks' devices
  // A word of the host's memory that every rank's kernels can read, 0 at first (PeerMemory::given_up). Null
  // when there is no room.
  virtual std::uint32_t* word() = 0;
  // By the copy engines instead of a kernel: every pair is `bytes` of `from` rank's memory to `to` rank's.
  // Not to be captured as a batch.
  virtual bool copy(std::int32_t from, std::int32_t to, std::span<const PeerCopy> copies, std::size_t bytes,
                    CopyCalls calls, Stream stream, std::string& why) = 0;
};

// Null with a reason when there are too few devices, or two that have no access to each other's memory.
std::unique_ptr<PeerGroup> make_peer_group(std::int32_t ranks, DeviceMemory& first, std::string& why);

}  // namespace orrery::kernels
