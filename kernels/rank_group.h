// Several GPUs of one host as the ranks of a communicator, NCCL loaded at run time, one process, one thread.
//
// A case is launched on one stream, rank 0's. launch() forks from it: an event recorded there is what the
// other ranks' streams wait for; then all ranks' calls go out as one NCCL group; then rank 0's stream waits
// for an event of each other rank. So a capture of rank 0's stream takes in all devices, and time between
// events on that stream is the time until the slowest rank is through, with two waits across devices added.
//
// NVLink multicast (NVLS) stays off: NCCL_NVLS_ENABLE is set to 0 unless the environment has it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kernels/kernel_case.h"

namespace orrery::kernels {

// `count` below is what one rank holds in full, in bf16 elements.
enum class Collective : std::uint8_t {
  all_reduce,      // every rank: count in, their sum of count out
  all_gather,      // count / ranks in, all ranks' parts out: count
  reduce_scatter,  // count in, this rank's part of the sum out: count / ranks
  all_to_all,      // part j of every rank goes to rank j; count in, count out
  send_recv,       // even ranks send count to the next rank
};

struct RankBuffers {
  const void* send = nullptr;
  void* receive = nullptr;
};

class RankGroup {
 public:
  virtual ~RankGroup() = default;
  // Of a rank other than 0, whose memory the case was given.
  virtual DeviceMemory& memory(std::int32_t rank) = 0;
  // Launches only; may be captured after a first launch outside of a capture, which makes the connections.
  // `times` calls, one after the other on every rank, forked and joined once.
  virtual bool launch(Collective what, std::int64_t count, const std::vector<RankBuffers>& buffers,
                      Stream stream, std::string& why, int times = 1) = 0;
  virtual bool synchronize(std::string& why) = 0;  // all ranks' devices
};

// Rank 0 is the device `first`, the others are the rest in the driver's order; launch(), synchronize() and
// the group's end leave `first` current. Null with a reason when there are too few devices or NCCL is
// missing. Communicators are made once per list of devices and kept.
std::unique_ptr<RankGroup> make_rank_group(std::int32_t ranks, int first, std::string& why);

}  // namespace orrery::kernels
