#include "kernels/rotary.h"

#include "kernels/rotary_head.h"

namespace orrery::kernels {

namespace {

// Neighbouring heads of a token share its cosines through the cache.
template <unsigned lanes, bool norm>
__global__ void __launch_bounds__(256) rotary_kernel(RotaryLaunch a) {
  const unsigned vector = threadIdx.x % lanes;
  const unsigned all_heads = static_cast<unsigned>(a.heads + a.kv_heads);
  const GpuPlace place = gpu_place(blockIdx.x * (blockDim.x / lanes) + threadIdx.x / lanes, all_heads);
  const std::int64_t token = place.row;
  const int head = static_cast<int>(place.vector);
  const bool inside = token < a.tokens;
  const std::int64_t offset = std::int64_t{head} * lanes + vector;  // in vectors of eight
  GpuFloat8 x{};
  if (inside) {
    x = gpu_unpack_bf16(
        gpu_load<GpuBytes16>(a.qkv, static_cast<std::size_t>(token * a.in_stride / 8 + offset)));
  }
  if constexpr (norm) normalise_head<lanes>(x, head < a.heads ? a.q_weight : a.k_weight, vector, a.epsilon);
  const GpuFloat8 partner = partner_of<lanes>(x);
  if (!inside) return;
  rotate_head<lanes>(x, partner, a.cos_sin + a.positions[token] * (8 * lanes), vector);
  if (a.k_out != nullptr && head >= a.heads) {
    const std::int64_t to = token * a.in_stride / 8 + offset - std::int64_t{a.heads} * lanes;
    return gpu_store(a.k_out, static_cast<std::size_t>(to), gpu_pack8_bf16(x));
  }
  gpu_store(a.out, static_cast<std::size_t>(token * a.out_stride / 8 + offset), gpu_pack8_bf16(x));
}

template <unsigned lanes>
void launch_lanes(const RotaryLaunch& a, void* stream) {
  const GpuGrid grid = {gpu_blocks_for(std::int64_t{a.tokens} * (a.heads + a.kv_heads), 256 / lanes)};
  auto* kernel = a.q_weight != nullptr ? rotary_kernel<lanes, true> : rotary_kernel<lanes, false>;
  gpu_launch(kernel, grid, 256, stream, a);
}

}  // namespace

void launch_rotary(const RotaryLaunch& a, void* stream) {
  if (a.head_dim == 64) return launch_lanes<8>(a, stream);
  if (a.head_dim == 128) return launch_lanes<16>(a, stream);
  launch_lanes<32>(a, stream);
}

}  // namespace orrery::kernels
