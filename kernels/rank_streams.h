// A stream on each of several devices, rank 0's given by the caller: what forks from it and joins it again.
// The CUDA side of RankGroup and PeerGroup.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kernels/device.h"

namespace orrery::kernels {

// True when fine; otherwise the driver's words go to `why`.
bool cuda_good(cudaError_t error, const char* what, std::string& why);

class RankStreams {
 public:
  // Made once per list of devices, rank 0's first, and kept for the life of the process; leaves rank 0's
  // device current. Null with a reason.
  static const RankStreams* of(const std::vector<int>& devices, std::string& why);

  std::size_t ranks() const { return devices_.size(); }
  int device(std::size_t rank) const { return devices_[rank]; }
  cudaStream_t stream(std::size_t rank, cudaStream_t first) const {
    return rank == 0 ? first : streams_[rank];
  }
  // Leave rank 0's device current.
  bool fork(cudaStream_t first, std::string& why) const;
  bool join(cudaStream_t first, std::string& why) const;
  bool synchronize(std::string& why) const;

 private:
  bool make(std::string& why);
  bool current(std::size_t rank, std::string& why) const {
    return cuda_good(cudaSetDevice(devices_[rank]), "cudaSetDevice", why);
  }

  std::vector<int> devices_;
  std::vector<cudaStream_t> streams_;  // not of rank 0
  std::vector<cudaEvent_t> events_;    // rank 0: forked; others: joined
};

// The devices of a group: `first`, then the rest in the driver's order; `others` owns all but the first.
// Empty with a reason when there are too few.
std::vector<int> devices_of_group(std::int32_t ranks, int first, std::vector<std::unique_ptr<Device>>& others,
                                  std::string& why);

}  // namespace orrery::kernels
