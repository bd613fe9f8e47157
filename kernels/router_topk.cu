#include "kernels/router_topk.h"

#include "kernels/gpu_order.h"

namespace orrery::kernels {

namespace {

constexpr std::uint32_t key_taken = 0, key_nan = 1, key_outside = 0;
constexpr float log2_e = 1.44269504F;

// One warp a row, experts dealt to lanes; a lane holds at most `each` logits in registers.
template <int each>
GPU_DEVICE void choose(const RouterTopkLaunch& a, std::int64_t row) {
  const int lane = static_cast<int>(gpu_lane());
  const float* logits = a.logits + row * a.experts;
  float value[each];
  std::uint32_t key[each];
  float largest = -3.0e38F, poison = 0;
  GPU_UNROLL for (int i = 0; i < each; ++i) {
    const int expert = lane + i * GPU_WARP;
    value[i] = expert < a.experts ? logits[expert] : -3.0e38F;
    key[i] = expert >= a.experts ? key_outside : value[i] != value[i] ? key_nan : order_key(value[i]);
    largest = gpu_max(largest, value[i]);
  }
  largest = gpu_group_max(largest);
  float sum = 0;
  GPU_UNROLL for (int i = 0; i < each; ++i) {
    const float weight = gpu_exp2((value[i] - largest) * log2_e);
    if (lane + i * GPU_WARP < a.experts) sum += weight;
  }
  sum = gpu_group_sum(sum);
  poison = sum != sum ? sum : 0;  // a NaN anywhere in the row is a NaN in its sum

  float mine = 0, chosen_sum = 0;  // lane j keeps the j-th choice
  int mine_expert = 0;
  for (int j = 0; j < a.k; ++j) {
    std::uint64_t best = 0;
    GPU_UNROLL for (int i = 0; i < each; ++i) {
      best = larger(best, order_pair(key[i], static_cast<std::uint32_t>(lane + i * GPU_WARP)));
    }
    best = gpu_warp_max(best);
    const int expert = static_cast<int>(index_of_pair(best));
    float weight = 0;
    GPU_UNROLL for (int i = 0; i < each; ++i) {
      if (lane + i * GPU_WARP != expert) continue;
      weight = gpu_exp2((value[i] - largest) * log2_e);
      key[i] = key_taken;
    }
    weight = gpu_shuffle(weight, static_cast<unsigned>(expert) % GPU_WARP);
    chosen_sum += weight;
    if (lane == j) mine = weight, mine_expert = expert;
  }
  if (lane >= a.k) return;
  const std::int64_t at = row * a.k + lane;
  a.weights[at] = mine / (a.renormalize ? chosen_sum : sum) + poison;
  a.chosen[at] = mine_expert;
}

template <int chunks>
__global__ void __launch_bounds__(128) router_topk_kernel(RouterTopkLaunch a) {
  const std::int64_t warps = std::int64_t{gridDim.x} * (blockDim.x / GPU_WARP);
  for (std::int64_t row = std::int64_t{blockIdx.x} * (blockDim.x / GPU_WARP) + gpu_warp_index(); row < a.rows;
       row += warps) {
    choose<chunks * 64 / GPU_WARP>(a, row);
  }
}

}  // namespace

void launch_router_topk(const RouterTopkLaunch& a, void* stream) {
  const int chunks = (a.experts + 63) / 64;
  auto* kernel = router_topk_kernel<8>;
  if (chunks <= 4) kernel = router_topk_kernel<4>;
  if (chunks <= 2) kernel = router_topk_kernel<2>;
  if (chunks <= 1) kernel = router_topk_kernel<1>;
  // Four rows a block on 32 lanes; on 64 a warp goes round twice.
  gpu_launch(kernel, {gpu_blocks_for(a.rows, 4)}, 128, stream, a);
}

}  // namespace orrery::kernels
