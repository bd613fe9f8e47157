// The experts of a layer: choice, sorting, two products of all experts at once, and their weighted sum. Two
// launches that the step graph has not: logits to fp32 for our choice, and the copy of rows to where their
// experts take them, which vLLM's kernel does while it reads (8 bits: one launch quantises and copies).
#include <algorithm>

#include "costmodel/moe.h"
#include "kernels/gather_rows.h"
#include "kernels/latent_heads.h"
#include "kernels/logits_copy.h"
#include "kernels/moe_align.h"
#include "kernels/moe_combine.h"
#include "kernels/permute_quantize.h"
#include "kernels/quantize.h"
#include "kernels/router_topk.h"
#include "kernels/silu_mul.h"
#include "live/forward/step_forward.h"

namespace orrery {

std::int32_t StepForward::expert_rows(const DeviceStep& step) const {
  const std::int64_t ranks = shape_.shares_experts ? shape_.ranks : 1;
  return static_cast<std::int32_t>((step.rows * shape_.experts_per_token + ranks - 1) / ranks);
}

const std::int32_t* StepForward::used_expert_rows() const {
  return shape_.shares_experts ? experts_.offsets + shape_.own_experts() : nullptr;
}

bool StepForward::allocate_experts() {
  const std::int64_t tokens = ForwardProducts::launched_rows(options_.max_rows) + 1,
                     rows = tokens * shape_.experts_per_token, inner = shape_.expert_intermediate;
  bool room = allocate(experts_.router, tokens * shape_.experts) &&
              allocate(experts_.router_fp32, tokens * shape_.experts) && allocate(experts_.weights, rows) &&
              allocate(experts_.gate_up, rows * 2 * inner) && allocate(experts_.inner, rows * inner) &&
              allocate(experts_.out, rows * shape_.hidden) && allocate(experts_.positions, rows) &&
              allocate(experts_.sorted, kernels::moe_align_capacity(rows, shape_.experts, 1)) &&
              allocate(experts_.block_experts, kernels::moe_align_capacity(rows, shape_.experts, 1)) &&
              allocate(experts_.offsets, shape_.experts + 1) && allocate(experts_.counts, shape_.experts) &&
              allocate(experts_.workspace, kernels::moe_align_workspace(rows, shape_.experts));
  for (std::int64_t l = 0; l < shape_.layers && room; ++l) {
    experts_.chosen.push_back(nullptr);
    room = allocate(experts_.chosen.back(), rows);
  }
  if (shape_.shared_intermediate > 0) room = room && allocate(experts_.shared, tokens * shape_.hidden);
  if (!shape_.fp8) return room && allocate(experts_.rows, rows * shape_.hidden);
  const std::int64_t width = std::max(shape_.hidden, inner);
  return room && allocate(experts_.eight, rows * width) &&
         allocate(experts_.scales, rows * width / kernels::fp8_group);
}

std::vector<std::int32_t> StepForward::chosen_experts(std::size_t layer, std::int32_t rows) {
  std::vector<std::int32_t> chosen(static_cast<std::size_t>(rows * shape_.experts_per_token));
  memory_.download(chosen.data(), experts_.chosen[layer], chosen.size() * sizeof(std::int32_t));
  return chosen;
}

void StepForward::feed_experts(std::size_t index, const DeviceStep& step, kernels::Stream stream) {
  const LayerWeights& layer = weights_.layers[index];
  const std::int32_t all = step.rows * static_cast<std::int32_t>(shape_.experts_per_token);
  const std::int64_t inner = shape_.expert_intermediate;
  if (shape_.shared_intermediate > 0)
    feed_forward(layer.shared_gate_up, layer.shared_down, true, step, stream);
  route(index, step, stream);
  sort_by_expert(index, step, stream);
  multiply_experts("moe_gate_up", layer.gate_up, experts_.rows, experts_.gate_up, step, stream);
  count("moe_silu_mul", OpClass::elementwise, 0, 0,
        expert_rows(step) * static_cast<double>(inner) * 3 * bf16_bytes);
  if (launching_) {
    kernels::SiluMulLaunch launch;
    launch.gate_up = experts_.gate_up;
    launch.out = experts_.inner;
    launch.rows = all;
    launch.columns = static_cast<std::int32_t>(inner);
    launch.used_rows = used_expert_rows();
    kernels::launch_silu_mul(launch, stream);
  }
  if (layer.down.fp8()) quantise_experts(step, stream);
  multiply_experts("moe_down", layer.down, experts_.inner, experts_.out, step, stream);
  combine_experts(step, stream);
  if (shape_.shared_intermediate == 0) return;
  const double width = static_cast<double>(shape_.hidden);
  count("shared_add", OpClass::elementwise, 0, 0, step.rows * width * 3 * bf16_bytes);
  if (launching_)
    kernels::launch_add_rows(scratch_.x, experts_.shared, std::int64_t{step.rows} * shape_.hidden, stream);
}

void StepForward::route(std::size_t index, const DeviceStep& step, kernels::Stream stream) {
  const double experts = static_cast<double>(shape_.experts),
               chosen = static_cast<double>(shape_.experts_per_token);
  multiply("router", weights_.layers[index].router, scratch_.normed, experts_.router, step.rows,
           step.row_range, stream);
  count("router_fp32", OpClass::routing, 0, 0, step.rows * experts * (bf16_bytes + 4));
  count("topk", OpClass::routing, 0, 0, step.rows * (4 * experts + 8 * chosen));
  if (!launching_) return;
  kernels::launch_logits_copy(
      {experts_.router, experts_.router_fp32, std::int64_t{step.rows} * shape_.experts}, stream);
  if (drawn_.on()) return draw_experts(index, step, stream);
  kernels::RouterTopkLaunch launch;
  launch.logits = experts_.router_fp32;
  launch.weights = experts_.weights;
  launch.chosen = experts_.chosen[index];
  launch.rows = step.rows;
  launch.experts = static_cast<std::int32_t>(shape_.experts);
  launch.k = static_cast<std::int32_t>(shape_.experts_per_token);
  kernels::launch_router_topk(launch, stream);
}

// As the simulation draws them; reads and writes what the choice by logits does, and 8 bytes a row.
void StepForward::draw_experts(std::size_t index, const DeviceStep& step, kernels::Stream stream) {
  const auto& with_experts = shape_.experts_of_layer;
  kernels::RouterDrawnLaunch launch;
  launch.logits = experts_.router_fp32;
  launch.keys = step.expert_keys;
  launch.weights = experts_.weights;
  launch.chosen = experts_.chosen[index];
  launch.rows = step.rows;
  launch.experts = static_cast<std::int32_t>(shape_.experts);
  launch.k = static_cast<std::int32_t>(shape_.experts_per_token);
  drawn_.of_layer(
      std::count(with_experts.begin(), with_experts.begin() + static_cast<std::ptrdiff_t>(index), true),
      launch);
  kernels::launch_router_drawn(launch, stream);
}

void StepForward::quantise_experts(const DeviceStep& step, kernels::Stream stream) {
  const std::int64_t inner = shape_.expert_intermediate;
  count("moe_down_quantize", OpClass::elementwise, 0, 0,
        expert_rows(step) * static_cast<double>(inner) * (bf16_bytes + 1));
  if (!launching_) return;
  kernels::QuantizeLaunch launch;
  launch.x = experts_.inner;
  launch.out = {kernels::Fp8Scaling::group, experts_.eight, experts_.scales, inner / kernels::fp8_group, 1};
  launch.rows = step.rows * static_cast<std::int32_t>(shape_.experts_per_token);
  launch.columns = static_cast<std::int32_t>(inner);
  launch.used_rows = used_expert_rows();
  kernels::launch_quantize(launch, stream);
}

void StepForward::sort_by_expert(std::size_t index, const DeviceStep& step, kernels::Stream stream) {
  const auto k = static_cast<std::int32_t>(shape_.experts_per_token), rows = step.rows * k;
  const double width = static_cast<double>(shape_.hidden);
  count("moe_align", OpClass::routing, 0, 0, rows * 12.0);
  if (shape_.fp8)
    count("moe_quantize", OpClass::elementwise, 0, 0,
          step.rows * width * bf16_bytes + expert_rows(step) * width);
  else
    count("moe_permute", OpClass::routing, 0, 0, expert_rows(step) * width * 2 * bf16_bytes);
  if (!launching_) return;
  kernels::MoeAlignLaunch align;
  align.chosen = experts_.chosen[index];
  align.sorted = experts_.sorted;
  align.positions = experts_.positions;
  align.block_experts = experts_.block_experts;
  align.offsets = experts_.offsets;
  align.counts = experts_.counts;
  align.workspace = experts_.workspace;
  align.rows = rows;
  align.experts = static_cast<std::int32_t>(shape_.own_experts());
  align.first_expert = static_cast<std::int32_t>(shape_.first_expert());
  align.block = 1;  // our product pads in its own tiles
  kernels::launch_moe_align(align, stream);
  if (shape_.fp8) {
    kernels::PermuteQuantizeLaunch permute;
    permute.x = scratch_.normed;
    permute.positions = experts_.positions;
    permute.out = {kernels::Fp8Scaling::group, experts_.eight, experts_.scales,
                   shape_.hidden / kernels::fp8_group, 1};
    permute.tokens = step.rows;
    permute.k = k;
    permute.columns = static_cast<std::int32_t>(shape_.hidden);
    kernels::launch_permute_quantize(permute, stream);
    return;
  }
  kernels::GatherRowsLaunch permute;
  permute.source = scratch_.normed;
  permute.indices = experts_.sorted;
  permute.out = experts_.rows;
  permute.row_bytes = shape_.hidden * 2;
  permute.rows = rows;
  permute.source_rows = step.rows;
  permute.divisor = k;
  permute.used_rows = used_expert_rows();
  kernels::launch_gather_rows(permute, stream);
}

// Which experts have rows the device alone knows: counted are those that an even choice meets, and where
// ranks have experts of their own, those of the rank that meets most (costmodel/moe.h).
void StepForward::multiply_experts(const char* use, const Weight& weight, const std::uint16_t* in,
                                   std::uint16_t* out, const DeviceStep& step, kernels::Stream stream) {
  const double n = static_cast<double>(weight.n), k = static_cast<double>(weight.k);
  const RankLoad met = expected_slowest_rank(static_cast<double>(shape_.experts),
                                             static_cast<double>(shape_.experts_per_token), step.rows,
                                             shape_.shares_experts ? shape_.ranks : 1);
  count(use, OpClass::grouped_gemm, 2 * met.rows * n * k, met.distinct * weight.bytes(),
        met.rows * (k * (weight.fp8() ? 1 : bf16_bytes) + n * bf16_bytes));
  if (!launching_) return;
  ActivationRows operand{in, nullptr, 0};
  if (weight.fp8()) operand = {experts_.eight, experts_.scales, 0};
  products_->multiply_experts(weight, operand, out,
                              step.rows * static_cast<std::int32_t>(shape_.experts_per_token),
                              experts_.offsets, stream, expert_rows(step));
}

void StepForward::combine_experts(const DeviceStep& step, kernels::Stream stream) {
  const double width = static_cast<double>(shape_.hidden);
  count("moe_combine", OpClass::routing, 0, 0,
        step.rows * width * bf16_bytes * static_cast<double>(shape_.experts_per_token + 1));
  if (!launching_) return;
  kernels::MoeCombineLaunch launch;
  launch.y = experts_.out;
  launch.positions = experts_.positions;
  launch.weights = experts_.weights;
  launch.out = scratch_.x;
  launch.tokens = step.rows;
  launch.k = static_cast<std::int32_t>(shape_.experts_per_token);
  launch.columns = static_cast<std::int32_t>(shape_.hidden);
  kernels::launch_moe_combine(launch, stream);
}

}  // namespace orrery
