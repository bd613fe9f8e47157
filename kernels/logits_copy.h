// Logits from bf16 to fp32, exactly.
#pragma once

#include <cstdint>

namespace orrery::kernels {

struct LogitsCopyLaunch {
  const std::uint16_t* in = nullptr;  // bf16
  float* out = nullptr;
  std::int64_t elements = 0;  // multiple of 8
};

void launch_logits_copy(const LogitsCopyLaunch& launch, void* stream);

}  // namespace orrery::kernels
