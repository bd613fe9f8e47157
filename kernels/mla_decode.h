// Absorbed multi-head latent attention of one new token per sequence (DeepSeek-V2 and V3): a token of the
// cache is one latent of 512 and one rotary key of 64, the same for all heads; keys are both, values are the
// latent. Over all of a paged context, or over tokens that were picked (sparse attention). Split over the
// context like attention_decode, with its plan and its merge.
#pragma once

#include <cstdint>

#include "kernels/attention_decode.h"

namespace orrery::kernels {

constexpr std::int32_t latent_width = 512, latent_rotary = 64, latent_key = latent_width + latent_rotary;

// A token's row in the cache. `packed` is vLLM's fp8_ds_mla, FlashMLA's FP8 cache: 512 e4m3, four fp32 scales
// of 128 of them each, 64 bf16 (vLLM 0.24.0, csrc/cache_kernels.cu, concat_and_cache_ds_mla_kernel). `fp8`
// has one scale for everything.
enum class LatentFormat : std::uint8_t { bf16, fp8, packed };
constexpr std::int32_t latent_scales_at = latent_width, latent_rotary_at = latent_width + 16;  // in `packed`
constexpr std::int32_t latent_row_bytes(LatentFormat format) {
  if (format == LatentFormat::bf16) return 2 * latent_key;
  return format == LatentFormat::fp8 ? latent_key : latent_rotary_at + 2 * latent_rotary;
}

struct LatentKv {
  const void* rows = nullptr;                 // [blocks · block_size] rows
  const std::int32_t* block_table = nullptr;  // device, [sequences][table_stride]
  std::int64_t table_stride = 0, blocks = 0;
  const std::int32_t* picks = nullptr;  // device, [sequences][picks_stride]: rows of the tokens to attend to;
  std::int64_t picks_stride = 0;        // null: all of the context, by the block table
  std::int32_t block_size = 0;          // any
  LatentFormat format = LatentFormat::bf16;
  float scale = 1;  // of `fp8`: what is stored · scale is meant
};

struct MlaDecode {
  const void* queries = nullptr;  // [sequences][heads][576] bf16, multiplied into the latent's space
  void* out = nullptr;            // [sequences][heads][512] bf16
  LatentKv kv;
  const DecodePiece* pieces = nullptr;  // device; of picks where there are some
  const DecodeMerge* merges = nullptr;  // device
  float* partial = nullptr;             // [slots][heads][512]
  float* partial_log_sum = nullptr;     // [slots][heads], base 2
  std::int32_t piece_count = 0, merge_count = 0, heads = 0;
  float softmax_scale = 1;
};

constexpr std::int32_t mla_plain_heads = 16, mla_wgmma_heads = 64;  // of a block of threads
// Tokens as attention sees them: of the context or of the picks.
DecodePlan plan_mla_decode(const std::vector<std::int64_t>& tokens, std::int64_t heads,
                           std::int64_t heads_of_block, std::int64_t compute_units,
                           std::int64_t tokens_per_piece = 0);  // as plan_attention_decode's

// Launches only: may be captured. `stream` is a cudaStream_t.
void mla_decode(const MlaDecode& problem, void* stream);

// The same with wgmma, for compute capability 9.0.
void mla_decode_wgmma(const MlaDecode& problem, void* stream);
const char* mla_decode_wgmma_refusal();  // why the current device cannot; null when it can

}  // namespace orrery::kernels
