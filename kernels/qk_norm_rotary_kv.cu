#include "kernels/qk_norm_rotary_kv.h"

#include "kernels/rotary_head.h"

namespace orrery::kernels {

namespace {

template <bool fp8>
GPU_DEVICE void store_cache(void* cache, std::size_t at, const GpuFloat8& x, float scale) {
  if constexpr (fp8) {
    gpu_store(cache, at, gpu_pack8_fp8(x, gpu_reciprocal(scale)));
  } else {
    gpu_store(cache, at, gpu_pack8_bf16(x));
  }
}

// A token's heads of q, k and v one behind the other, `lanes` lanes each.
template <unsigned lanes, bool norm, bool fp8>
__global__ void __launch_bounds__(256) qk_norm_rotary_kv_kernel(QkNormRotaryKvLaunch a) {
  const unsigned vector = threadIdx.x % lanes;
  const auto q_heads = static_cast<unsigned>(a.heads), kv_heads = static_cast<unsigned>(a.kv_heads);
  const GpuPlace place =
      gpu_place(blockIdx.x * (blockDim.x / lanes) + threadIdx.x / lanes, q_heads + 2 * kv_heads);
  const std::int64_t token = place.row;
  const unsigned head = place.vector;
  const bool inside = token < a.tokens, is_query = head < q_heads, is_value = head >= q_heads + kv_heads;
  GpuFloat8 x{};
  if (inside) {
    const std::int64_t from = token * a.in_stride / 8 + std::int64_t{head} * lanes + vector;
    x = gpu_unpack_bf16(gpu_load<GpuBytes16>(a.qkv, static_cast<std::size_t>(from)));
  }
  // Lanes of all heads meet in the exchanges; what they give a head of v is not used.
  GpuFloat8 turned = x;
  if constexpr (norm) normalise_head<lanes>(turned, is_query ? a.q_weight : a.k_weight, vector, a.epsilon);
  const GpuFloat8 partner = partner_of<lanes>(turned);
  if (!inside) return;
  if (!is_value) rotate_head<lanes>(turned, partner, a.cos_sin + a.positions[token] * (8 * lanes), vector);
  if (is_query) {
    const std::int64_t to = token * a.out_stride / 8 + std::int64_t{head} * lanes + vector;
    gpu_store(a.queries, static_cast<std::size_t>(to), gpu_pack8_bf16(turned));
    return;
  }
  const std::int64_t slot = a.slots[token];
  if (slot < 0) return;
  const unsigned kv_head = (head - q_heads) % kv_heads;
  const auto at = static_cast<std::size_t>((slot * a.kv_heads + kv_head) * lanes + vector);
  store_cache<fp8>(is_value ? a.value_cache : a.key_cache, at, is_value ? x : turned,
                   is_value ? a.value_scale : a.key_scale);
}

template <unsigned lanes, bool norm>
void launch_lanes(const QkNormRotaryKvLaunch& a, void* stream) {
  const std::int64_t heads = std::int64_t{a.tokens} * (a.heads + 2 * a.kv_heads);
  auto* kernel =
      a.fp8 ? qk_norm_rotary_kv_kernel<lanes, norm, true> : qk_norm_rotary_kv_kernel<lanes, norm, false>;
  gpu_launch(kernel, {gpu_blocks_for(heads, 256 / lanes)}, 256, stream, a);
}

template <unsigned lanes>
void launch_norm(const QkNormRotaryKvLaunch& a, void* stream) {
  a.q_weight != nullptr ? launch_lanes<lanes, true>(a, stream) : launch_lanes<lanes, false>(a, stream);
}

}  // namespace

void launch_qk_norm_rotary_kv(const QkNormRotaryKvLaunch& a, void* stream) {
  if (a.head_dim == 64) return launch_norm<8>(a, stream);
  if (a.head_dim == 128) return launch_norm<16>(a, stream);
  launch_norm<32>(a, stream);
}

}  // namespace orrery::kernels
