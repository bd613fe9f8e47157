#include "kernels/rotary.h"

#include "kernels/gpu_runtime.h"

namespace orrery::kernels {

namespace {

GPU_DEVICE GpuFloat8 load8_fp32(const float* from, unsigned vector) {
  GpuFloat8 out;
  GPU_UNROLL for (unsigned part = 0; part < 2; ++part) {
    const GpuBytes16 raw = gpu_load<GpuBytes16>(from, 2 * vector + part);
    GPU_UNROLL for (int i = 0; i < 4; ++i) out.value[4 * part + i] = gpu_bit_cast<float>(raw.word[i]);
  }
  return out;
}

template <unsigned lanes>
GPU_DEVICE void normalise_head(GpuFloat8& x, const std::uint16_t* weight, unsigned vector, float epsilon) {
  float squares = 0;
  GPU_UNROLL for (int i = 0; i < 8; ++i) squares += x.value[i] * x.value[i];
  const float factor = gpu_rsqrt(gpu_group_sum<lanes>(squares) * (1.0F / (8 * lanes)) + epsilon);
  const GpuFloat8 w = gpu_unpack_bf16(gpu_load<GpuBytes16>(weight, vector));
  GPU_UNROLL for (int i = 0; i < 8; ++i) x.value[i] *= factor * w.value[i];
}

// A head is `lanes` neighbouring lanes, eight elements each; the partner of a lane's elements sits lanes/2
// away. Neighbouring heads of a token share its cosines through the cache.
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
  GpuFloat8 partner;
  GPU_UNROLL for (int i = 0; i < 8; ++i) partner.value[i] = gpu_shuffle_xor(x.value[i], lanes / 2);
  if (!inside) return;
  const float* table = a.cos_sin + a.positions[token] * (8 * lanes);
  const unsigned angle = vector % (lanes / 2);
  const GpuFloat8 cosine = load8_fp32(table, angle), sine = load8_fp32(table, angle + lanes / 2);
  const float sign = vector < lanes / 2 ? -1.0F : 1.0F;
  GPU_UNROLL for (int i = 0; i < 8; ++i) {
    x.value[i] = x.value[i] * cosine.value[i] + sign * partner.value[i] * sine.value[i];
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
