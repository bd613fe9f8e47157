// Where the build has no CUDA toolkit.
#include "kernels/rank_group.h"

namespace orrery::kernels {

std::unique_ptr<RankGroup> make_rank_group(std::int32_t, int, std::string& why) {
  why = "built without a CUDA toolkit: no NCCL";
  return nullptr;
}

}  // namespace orrery::kernels
