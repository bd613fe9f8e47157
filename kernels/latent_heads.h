// What stands around absorbed latent attention (mla_decode.h), and what adds two branches of a layer up.
//   heads   a token's latent, normed, and its rotary key, turned, to their slot of the cache; of each query
//   the
//           turned part to where attention reads it, the other part to rows of its head, for the product into
//           the latent's space
//   swap    rows of heads behind one another, [heads][rows][width], to [rows][heads] with a stride, or back
//   add     to += from, in fp32, rounded once
#pragma once

#include <cstdint>

namespace orrery::kernels {

struct LatentHeads {
  const std::uint16_t* queries = nullptr;      // [rows][heads][plain + latent_rotary]
  const std::uint16_t* latents = nullptr;      // [rows][latent_key], as the product left them
  const std::uint16_t* norm_weight = nullptr;  // latent_width
  const std::int64_t* positions = nullptr;
  const float* cos_sin = nullptr;          // positions × latent_rotary: cosines, then sines
  const std::int64_t* slots = nullptr;     // a negative one is not written
  std::uint16_t* cache = nullptr;          // [slots][latent_key]
  std::uint16_t* plain_queries = nullptr;  // [heads][rows][plain]
  std::uint16_t* out = nullptr;            // [rows][heads][latent_key], of which the last latent_rotary
  std::int32_t rows = 0, heads = 0, plain = 0;
  float epsilon = 1e-6F;
};
void launch_latent_heads(const LatentHeads& launch, void* stream);

struct HeadSwap {
  std::uint16_t* by_head = nullptr;  // [heads][rows][width]
  std::uint16_t* by_row = nullptr;   // [rows][heads][stride], of which the first `width`
  bool to_rows = true;               // else from rows
  std::int32_t rows = 0, heads = 0;
  std::int32_t width = 0, stride = 0;  // multiples of 8
};
void launch_head_swap(const HeadSwap& launch, void* stream);

void launch_add_rows(std::uint16_t* to, const std::uint16_t* from, std::int64_t elements, void* stream);

}  // namespace orrery::kernels
