// All-reduce through RCCL, loaded at run time where ROCm is: NCCL's interface under another name, on HIP
// devices and streams. Written from RCCL's and HIP's headers and tested on libraries that stand in for them
// (tests/kernels/fake_rocm.cpp); no AMD part has run it, and this build opens no AMD device to call it for.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kernels/rank_group.h"
#include "kernels/vendor_library.h"

namespace orrery::kernels {

// The API level that RCCL says it has: NCCL's version as major · 10,000 + minor · 100 + patch. 2.9 gave the
// numbers their present meaning and has bf16 in all calls.
constexpr int least_rccl_version = 20'900;

class RcclRanks {
 public:
  virtual ~RcclRanks() = default;
  // Sums of `count` bf16 values over all ranks, a buffer and a stream of each: launches only. False with the
  // library's words.
  virtual bool all_reduce(std::int64_t count, const std::vector<RankBuffers>& buffers,
                          const std::vector<Stream>& streams, std::string& why) = 0;
};

// Rank r on device devices[r] of this process. Null with a reason.
std::unique_ptr<RcclRanks> make_rccl_ranks(const VendorLibrary& rccl, const VendorLibrary& hip,
                                           const std::vector<int>& devices, std::string& why);

}  // namespace orrery::kernels
