// Normal deviates as operands of a case, generated on the device: gigabytes of weights for timing would take
// minutes on the host.
#pragma once

#include <cstdint>

namespace orrery::kernels {

enum class RandomType : std::uint8_t { bf16, fp32, fp8 };  // fp8: e4m3 in the device's own format

struct FillRandomLaunch {
  void* out = nullptr;  // 16-byte aligned
  std::int64_t elements = 0;
  RandomType type = RandomType::bf16;
  float scale = 1;  // standard deviation; the generator's range is ±5.8 deviations
  std::uint64_t seed = 0;
};
void launch_fill_random(const FillRandomLaunch& launch, void* stream);

}  // namespace orrery::kernels
