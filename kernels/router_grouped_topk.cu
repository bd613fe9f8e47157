#include "kernels/router_grouped_topk.h"

#include "kernels/gpu_order.h"
#include "kernels/router_topk.h"

namespace orrery::kernels {

namespace {

constexpr float log2_e = 1.44269504F, below_all = -1e30F;  // scores lie in [0, 1], biases beside them
constexpr unsigned threads = 128, most_warps = threads / 32;

// What a row's warp keeps in shared memory: choices, a group padded so that groups begin in different banks.
struct RouterRow {
  float choice[router_most_experts + router_most_groups];
};

// Two best of the group that the lane stands for, added; the best alone without a bias.
GPU_DEVICE float worth_of_group(const RouterRow& row, int group, int each, bool two) {
  float best = below_all, second = below_all;
  for (int i = 0; i < each; ++i) {
    const float c = row.choice[group * (each + 1) + i];
    second = gpu_max(second, gpu_min(best, c));
    best = gpu_max(best, c);
  }
  return two ? best + second : best;
}

// The lane's group is one of the best `top_groups`.
GPU_DEVICE bool group_chosen(float worth, bool is_group, int top_groups) {
  bool mine = false;
  const unsigned lane = gpu_lane();
  for (int j = 0; j < top_groups; ++j) {
    const std::uint64_t best = gpu_warp_max(is_group && !mine ? order_pair(order_key(worth), lane) : 0);
    mine = mine || index_of_pair(best) == lane;
  }
  return mine;
}

// One warp a row, experts dealt to lanes, at most `each` scores in a lane's registers.
template <int each>
GPU_DEVICE void choose(const RouterGroupedTopkLaunch& a, std::int64_t row, RouterRow& shared) {
  const int lane = static_cast<int>(gpu_lane()), in_group = a.experts / a.groups;
  const float* logits = a.logits + row * a.experts;
  float score[each];
  float largest = -3.0e38F;
  GPU_UNROLL for (int i = 0; i < each; ++i) {
    const int expert = lane + i * GPU_WARP;
    score[i] = expert < a.experts ? logits[expert] : -3.0e38F;
    largest = gpu_max(largest, score[i]);
  }
  largest = a.sigmoid ? 0.0F : gpu_group_max(largest);
  float sum = 0, poison = 0;
  GPU_UNROLL for (int i = 0; i < each; ++i) {
    if (lane + i * GPU_WARP >= a.experts) continue;
    if (score[i] != score[i]) poison = score[i];
    score[i] = a.sigmoid ? gpu_reciprocal(1.0F + gpu_exp2(-score[i] * log2_e))
                         : gpu_exp2((score[i] - largest) * log2_e);
    sum += score[i];
  }
  poison = gpu_group_sum(poison);
  if (!a.sigmoid) {
    const float inverse = gpu_reciprocal(gpu_group_sum(sum));
    GPU_UNROLL for (int i = 0; i < each; ++i) score[i] *= inverse;
  }
  GPU_UNROLL for (int i = 0; i < each; ++i) {
    const int expert = lane + i * GPU_WARP;
    if (expert >= a.experts) continue;
    const float choice = score[i] + (a.bias != nullptr ? a.bias[expert] : 0.0F);
    shared.choice[expert + expert / in_group] = choice != choice ? below_all : choice;
  }
  gpu_warp_fence();
  const bool is_group = lane < a.groups;
  const float worth = is_group ? worth_of_group(shared, lane, in_group, a.bias != nullptr) : below_all;
  const std::uint64_t open = gpu_ballot(group_chosen(worth, is_group, a.top_groups));

  std::uint32_t key[each];
  GPU_UNROLL for (int i = 0; i < each; ++i) {
    const int expert = lane + i * GPU_WARP;
    const bool available = expert < a.experts && (open >> (expert / in_group) & 1U) != 0;
    key[i] = available ? order_key(shared.choice[expert + expert / in_group]) : 0;
  }
  float mine = 0, chosen_sum = 0;  // lane j keeps the j-th choice
  int mine_expert = 0;
  for (int j = 0; j < a.k; ++j) {
    std::uint64_t best = 0;
    GPU_UNROLL for (int i = 0; i < each; ++i) {
      best = larger(best, order_pair(key[i], static_cast<std::uint32_t>(lane + i * GPU_WARP)));
    }
    const int expert = static_cast<int>(index_of_pair(gpu_warp_max(best)));
    float weight = 0;
    GPU_UNROLL for (int i = 0; i < each; ++i) {
      if (lane + i * GPU_WARP != expert) continue;
      weight = score[i];
      key[i] = 0;
    }
    weight = gpu_shuffle(weight, static_cast<unsigned>(expert) % GPU_WARP);
    chosen_sum += weight;
    if (lane == j) mine = weight, mine_expert = expert;
  }
  gpu_warp_fence();  // the next row may be written
  if (lane >= a.k) return;
  const std::int64_t at = row * a.k + lane;
  a.weights[at] = (a.renormalize ? mine / chosen_sum : mine) * a.factor + poison;
  a.chosen[at] = mine_expert;
}

template <int chunks>
__global__ void __launch_bounds__(threads) router_grouped_topk_kernel(RouterGroupedTopkLaunch a) {
  GPU_SHARED(RouterRow, rows, most_warps);
  const std::int64_t warps = std::int64_t{gridDim.x} * (blockDim.x / GPU_WARP);
  for (std::int64_t row = std::int64_t{blockIdx.x} * (blockDim.x / GPU_WARP) + gpu_warp_index(); row < a.rows;
       row += warps) {
    choose<chunks * 64 / GPU_WARP>(a, row, rows[gpu_warp_index()]);
  }
}

}  // namespace

void launch_router_grouped_topk(const RouterGroupedTopkLaunch& a, void* stream) {
  const int chunks = (a.experts + 63) / 64;
  auto* kernel = router_grouped_topk_kernel<8>;
  if (chunks <= 4) kernel = router_grouped_topk_kernel<4>;
  if (chunks <= 2) kernel = router_grouped_topk_kernel<2>;
  if (chunks <= 1) kernel = router_grouped_topk_kernel<1>;
  gpu_launch(kernel, {gpu_blocks_for(a.rows, most_warps)}, threads, stream, a);
}

}  // namespace orrery::kernels
