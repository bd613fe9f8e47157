// Where the build has no CUDA toolkit: no device of AMD's can be opened either (device_none.cpp), whose ranks
// would call RCCL (kernels/rccl.h).
#include "kernels/rank_group.h"

#include "kernels/rank_calls.h"
#include "kernels/vendor_library.h"

namespace orrery::kernels {

std::unique_ptr<RankGroup> make_rank_group(std::int32_t, int, std::string& why) {
  const VendorLibrary& rccl = vendor_library(Vendor::rccl);
  why = "built without a CUDA toolkit: no NCCL; " +
        (rccl.loaded() ? rccl.file() + " is here, but this build opens no AMD device" : "and no RCCL here");
  return nullptr;
}

std::unique_ptr<RankCalls> make_rank_calls(std::int32_t, int, std::string& why) {
  why = "built without a CUDA toolkit: no NCCL";
  return nullptr;
}

}  // namespace orrery::kernels
