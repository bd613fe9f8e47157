// The all-reduce of NCCL for ranks that are threads of one process, each on its own device and stream: no
// group of calls, a rank's thread calls for itself.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "kernels/kernel_case.h"

namespace orrery::kernels {

class RankCalls {
 public:
  virtual ~RankCalls() = default;
  // In place, bf16; launches only. The first call of all ranks makes connections: not inside a capture.
  virtual bool all_reduce(std::int32_t rank, std::uint16_t* x, std::int64_t count, Stream stream,
                          std::string& why) = 0;
  // False, with its words, when the library has met an error of its own since.
  virtual bool fine(std::string& why) = 0;
  // Ends what waits on all devices (ncclCommAbort); from any thread, and nothing is called after it.
  virtual void give_up() = 0;
};

// Rank 0 is the device `first`, the others are the rest in the driver's order, as of a PeerGroup. Null with a
// reason when there are too few devices or NCCL is missing. Leaves `first` current.
std::unique_ptr<RankCalls> make_rank_calls(std::int32_t ranks, int first, std::string& why);

}  // namespace orrery::kernels
