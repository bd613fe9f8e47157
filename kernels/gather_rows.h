// Rows by index, for any element type: token embeddings (also a vocabulary shard's), the sampled rows' hidden
// states, an MoE layer's rows sorted by expert.
#pragma once

#include <cstdint>

namespace orrery::kernels {

struct GatherRowsLaunch {
  const void* source = nullptr;             // source_rows × row_bytes
  const std::int32_t* indices = nullptr;    // one a row of out
  void* out = nullptr;                      // rows × row_bytes
  const std::int32_t* used_rows = nullptr;  // on the device; rows from there on are left alone. Null: all are
                                            // used
  std::int64_t row_bytes = 0;               // multiple of 16
  std::int32_t rows = 0;
  std::int32_t source_rows = 0;
  std::int32_t first_index = 0;  // index of the first source row; an index outside the source gives a row of
                                 // zeros
  std::int32_t divisor = 1;      // indices are divided by it: flat (token, choice) numbers to tokens
};

void launch_gather_rows(const GatherRowsLaunch& launch, void* stream);

}  // namespace orrery::kernels
