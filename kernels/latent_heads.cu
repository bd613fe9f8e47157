#include "kernels/latent_heads.h"

#include "kernels/gpu_runtime.h"
#include "kernels/mla_decode.h"

namespace orrery::kernels {

namespace {

constexpr unsigned threads = 64, rotary_pairs = latent_rotary / 2;

// latent_rotary elements from `from`, turned, to `to`; a thread a pair.
GPU_DEVICE void turn(const LatentHeads& a, std::int64_t row, const std::uint16_t* from, std::uint16_t* to) {
  const unsigned pair = threadIdx.x;
  if (pair >= rotary_pairs) return;
  const float* table = a.cos_sin + a.positions[row] * latent_rotary;
  const float first = gpu_from_bf16(from[pair]), second = gpu_from_bf16(from[pair + rotary_pairs]);
  const float cosine = table[pair], sine = table[pair + rotary_pairs];
  to[pair] = gpu_to_bf16(first * cosine - second * sine);
  to[pair + rotary_pairs] = gpu_to_bf16(second * cosine + first * sine);
}

// A block a row and query head; the one behind the heads takes the latent.
__global__ void __launch_bounds__(threads) latent_heads_kernel(LatentHeads a) {
  const std::int64_t row = blockIdx.x, head = blockIdx.y;
  if (head < a.heads) {
    const std::uint16_t* query = a.queries + (row * a.heads + head) * (a.plain + latent_rotary);
    std::uint16_t* plain = a.plain_queries + (head * a.rows + row) * a.plain;
    for (unsigned i = threadIdx.x; i < static_cast<unsigned>(a.plain); i += threads) plain[i] = query[i];
    turn(a, row, query + a.plain, a.out + (row * a.heads + head) * latent_key + latent_width);
    return;
  }
  const std::uint16_t* latent = a.latents + row * latent_key;
  float squares = 0;
  for (unsigned i = threadIdx.x; i < latent_width; i += threads) {
    const float x = gpu_from_bf16(latent[i]);
    squares += x * x;
  }
  const float factor = gpu_rsqrt(gpu_block_sum(squares) * (1.0F / latent_width) + a.epsilon);
  if (a.slots[row] < 0) return;
  std::uint16_t* to = a.cache + a.slots[row] * latent_key;
  for (unsigned i = threadIdx.x; i < latent_width; i += threads) {
    to[i] = gpu_to_bf16(gpu_from_bf16(latent[i]) * factor * gpu_from_bf16(a.norm_weight[i]));
  }
  turn(a, row, latent + latent_width, to + latent_width);
}

__global__ void __launch_bounds__(threads) head_swap_kernel(HeadSwap a) {
  const unsigned vectors = static_cast<unsigned>(a.width) / 8;
  const GpuPlace place = gpu_place(gpu_thread_index(), vectors);  // row: of all heads'
  const std::int64_t index = place.row, head = index / a.rows, row = index % a.rows;
  if (head >= a.heads) return;
  const auto by_head = static_cast<std::size_t>(index * vectors + place.vector);
  const auto by_row = static_cast<std::size_t>((row * a.heads + head) * (a.stride / 8) + place.vector);
  if (a.to_rows)
    gpu_store(a.by_row, by_row, gpu_load<GpuBytes16>(a.by_head, by_head));
  else
    gpu_store(a.by_head, by_head, gpu_load<GpuBytes16>(a.by_row, by_row));
}

__global__ void __launch_bounds__(threads)
    add_rows_kernel(std::uint16_t* to, const std::uint16_t* from, std::int64_t vectors) {
  const std::int64_t at = gpu_thread_index();
  if (at >= vectors) return;
  GpuFloat8 sum = gpu_unpack_bf16(gpu_load<GpuBytes16>(to, static_cast<std::size_t>(at)));
  const GpuFloat8 more = gpu_unpack_bf16(gpu_load<GpuBytes16>(from, static_cast<std::size_t>(at)));
  GPU_UNROLL for (int i = 0; i < 8; ++i) sum.value[i] += more.value[i];
  gpu_store(to, static_cast<std::size_t>(at), gpu_pack8_bf16(sum));
}

}  // namespace

void launch_latent_heads(const LatentHeads& a, void* stream) {
  gpu_launch(latent_heads_kernel, {static_cast<unsigned>(a.rows), static_cast<unsigned>(a.heads) + 1},
             threads, stream, a);
}
void launch_head_swap(const HeadSwap& a, void* stream) {
  const std::int64_t work = std::int64_t{a.rows} * a.heads * (a.width / 8);
  gpu_launch(head_swap_kernel, {gpu_blocks_for(work, threads)}, threads, stream, a);
}
void launch_add_rows(std::uint16_t* to, const std::uint16_t* from, std::int64_t elements, void* stream) {
  gpu_launch(add_rows_kernel, {gpu_blocks_for(elements / 8, threads)}, threads, stream, to, from,
             elements / 8);
}

}  // namespace orrery::kernels
