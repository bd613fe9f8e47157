// Rows of tokens to where their experts take them, quantised on the way: a token is read and scaled once and
// written to every row of a choice of its own. In place of gathering bf16 rows (moe_permute) and quantising
// them, which reads, writes and reads again top_k times as many.
#pragma once

#include "kernels/fp8_output.h"

namespace orrery::kernels {

struct PermuteQuantizeLaunch {
  const std::uint16_t* x = nullptr;         // bf16, tokens × columns
  const std::int32_t* positions = nullptr;  // tokens · k: the row of out, as moe_align says it or in the
                                            // slots of an expert; negative: nobody's here
  Fp8Output out;  // a scale a token or group; rows without a position are left alone
  std::int32_t tokens = 0, k = 0;
  std::int32_t columns = 0;  // multiple of 8, of 128 in groups; at most norm_most_columns when scaled per
                             // token
};

void launch_permute_quantize(const PermuteQuantizeLaunch& launch, void* stream);

}  // namespace orrery::kernels
