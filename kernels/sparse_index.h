// What chooses the tokens of sparse attention (DeepSeek-V3.2's lightning indexer): scores of a query's tokens
// from small keys of their own, and the best of them. A query's heads of 128 in e4m3 against a token's one
// key: Σ over heads of weight · max(0, q · k), times the key's scale.
//
// The keys' cache is vLLM's (0.24.0, csrc/cache_kernels.cu, indexer_k_quant_and_cache_kernel): block by
// block, the keys of its tokens and then their scales in fp32.
#pragma once

#include <cstdint>

namespace orrery::kernels {

constexpr std::int32_t index_width = 128;

// A query: whose context it sees, and how many tokens of it.
struct IndexRow {
  std::int32_t sequence = 0, tokens = 0;
};

struct IndexCache {
  const std::uint8_t* blocks = nullptr;       // [blocks][block_size · 128 e4m3 | block_size fp32]
  const std::int32_t* block_table = nullptr;  // [sequences][table_stride]
  std::int64_t table_stride = 0;
  std::int32_t block_size = 0;  // a multiple of 16
};

struct IndexScoresLaunch {
  const std::uint8_t* queries = nullptr;  // [rows][heads][128], e4m3 in the device's format
  const float* weights = nullptr;         // [rows][heads], the queries' scales multiplied in
  const IndexRow* rows = nullptr;
  IndexCache cache;
  float* scores = nullptr;  // [rows][score_stride]; behind a row's tokens nothing is written
  std::int64_t score_stride = 0;
  std::int32_t row_count = 0, heads = 0;  // 32 or 64
  std::int32_t most_tokens = 0;           // of any row
};
void launch_index_scores(const IndexScoresLaunch& launch, void* stream);

struct IndexTopkLaunch {
  const float* scores = nullptr;
  const IndexRow* rows = nullptr;
  IndexCache cache;               // its table says where tokens lie: the same blocks as the latents'
  std::int32_t* picks = nullptr;  // [rows][k]: places of the best tokens, in no order; of equal scores the
                                  // earliest tokens; −1 behind them where a row sees fewer than k
  std::int64_t score_stride = 0;
  std::int32_t row_count = 0, k = 0;
};
void launch_index_topk(const IndexTopkLaunch& launch, void* stream);

}  // namespace orrery::kernels
