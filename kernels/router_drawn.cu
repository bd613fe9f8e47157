#include "kernels/router_drawn.h"

#include "kernels/gpu_runtime.h"

namespace orrery::kernels {

namespace {

constexpr float log2_e = 1.44269504F;
constexpr int patience = 32;  // as NamedChoice's

// TokenNumbers, of a token and a layer.
class Numbers {
 public:
  GPU_DEVICE_MEMBER Numbers(std::uint64_t key, std::uint64_t layer)
      : state_(mix(key + (layer + 1) * 0xd1342543de82ef95ULL)) {}
  GPU_DEVICE_MEMBER std::uint64_t next() { return mix(state_ += 0x9e3779b97f4a7c15ULL); }

 private:
  GPU_DEVICE_MEMBER static std::uint64_t mix(std::uint64_t z) {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    return z ^ (z >> 31);
  }
  std::uint64_t state_;
};

// Rounded by itself: fused into a subtraction it would be another number than the host's.
GPU_DEVICE double rounded_product(double a, double b) {
#if defined(__CUDA_ARCH__)
  return __dmul_rn(a, b);
#else
#if defined(__clang__)
#pragma clang fp contract(off)
#endif
  const double product = a * b;
  return product;
#endif
}

// A row's experts, by all lanes of a warp alike; a lane holds 32 of the marks.
class Draw {
 public:
  GPU_DEVICE_MEMBER Draw(const RouterDrawnLaunch& a, std::uint64_t key) : a_(a), numbers_(key, a.layer) {}

  GPU_DEVICE_MEMBER int next() {
    int expert = 0, tries = 0;
    for (; tries < patience; ++tries) {
      word_ = half_ ? word_ >> 32 : numbers_.next();
      half_ = !half_;
      const std::uint64_t place = (word_ & 0xffffffffU) * static_cast<unsigned>(a_.experts);
      const DrawnExpert entry = a_.table[place >> 32];
      expert = static_cast<std::uint32_t>(place) < entry.keep ? entry.own : entry.other;
      if (!taken(expert)) break;
    }
    if (tries == patience) expert = left_over();
    if (gpu_lane() == static_cast<unsigned>(expert) / 32) taken_ |= 1U << (expert % 32);
    return expert;
  }

 private:
  GPU_DEVICE_MEMBER bool taken(int expert) const {
    return (gpu_shuffle(taken_, static_cast<unsigned>(expert) / 32) >> (expert % 32) & 1U) != 0;
  }
  GPU_DEVICE_MEMBER int left_over() {
    double left = 0;
    for (int e = 0; e < a_.experts; ++e) left += taken(e) ? 0 : a_.popularity[e];
    double x = rounded_product(static_cast<double>(numbers_.next() >> 11) * 0x1p-53, left);
    int expert = 0;
    for (int e = 0; e < a_.experts; ++e) {
      if (taken(e)) continue;
      expert = e;
      x -= a_.popularity[e];
      if (x < 0) break;
    }
    return expert;
  }

  const RouterDrawnLaunch& a_;
  Numbers numbers_;
  std::uint64_t word_ = 0;
  bool half_ = false;
  std::uint32_t taken_ = 0;
};

GPU_DEVICE void choose(const RouterDrawnLaunch& a, std::int64_t row) {
  const int lane = static_cast<int>(gpu_lane());
  const float* logits = a.logits + row * a.experts;
  float largest = -3.0e38F;
  for (int e = lane; e < a.experts; e += GPU_WARP) largest = gpu_max(largest, logits[e]);
  largest = gpu_group_max(largest);
  Draw draw(a, a.keys[row]);
  int mine = 0;  // lane j keeps the j-th choice
  for (int j = 0; j < a.k; ++j) {
    const int expert = draw.next();
    if (lane == j) mine = expert;
  }
  const float weight = lane < a.k ? gpu_exp2((logits[mine] - largest) * log2_e) : 0;
  const float sum = gpu_group_sum(weight);
  if (lane >= a.k) return;
  a.weights[row * a.k + lane] = weight / sum;
  a.chosen[row * a.k + lane] = mine;
}

__global__ void __launch_bounds__(128) router_drawn_kernel(RouterDrawnLaunch a) {
  const std::int64_t warps = std::int64_t{gridDim.x} * (blockDim.x / GPU_WARP);
  for (std::int64_t row = std::int64_t{blockIdx.x} * (blockDim.x / GPU_WARP) + gpu_warp_index(); row < a.rows;
       row += warps) {
    choose(a, row);
  }
}

}  // namespace

void launch_router_drawn(const RouterDrawnLaunch& a, void* stream) {
  gpu_launch(router_drawn_kernel, {gpu_blocks_for(a.rows, 4)}, 128, stream, a);
}

}  // namespace orrery::kernels
