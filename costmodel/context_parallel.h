// Context parallelism (docs/context_parallel.md): what is resolved for an instance, and how a step's prompts
// and its KV are dealt to ranks.
#pragma once

#include <cstdint>
#include <vector>

#include "costmodel/step_shape.h"

namespace orrery {

struct ContextSettings {
  // vLLM's decode_context_parallel_size: of the tp GPUs so many hold parts of the same heads' KV,
  // `interleave` tokens in turn (cp_kv_cache_interleave_size). Blocks of the scheduler are then of all of
  // them together.
  std::int32_t cache_ranks = 1;
  std::int64_t interleave = 1;
  bool all_to_all = false;  // dcp_comm_backend: a2a
  // SGLang's attn_cp_size: copies of attention, each tp GPUs wide. `splits` (enable_prefill_cp): a step's
  // prompts are dealt to them; without it they all compute the same. `own_experts` (moe_dp_size =
  // attn_cp_size): each has the experts too, for its own rows.
  std::int32_t prompt_ranks = 1;
  bool splits = false, own_experts = false;
  bool splits_cache() const { return cache_ranks > 1; }
  bool shares_prompts() const { return prompt_ranks > 1; }
  bool on() const { return splits_cache() || shares_prompts(); }
};

// SGLang's zigzag (layers/cp/zigzag.py of 0.5.23): a sequence's new tokens are cut in 2·ranks blocks, of
// which rank r has block r and block 2·ranks − 1 − r, so that all ranks have as many pairs of tokens to look
// at. Whether a step can be dealt out so (`can_apply`): prompts only, each with a token for every block.
bool can_split(const StepShape& shape, std::int32_t ranks);
// Rows that every rank's buffers have (`pad_logical_token_to_physical`): those of the rank with most, padded.
std::int64_t split_rows(const StepShape& shape, std::int32_t ranks);
// What a rank's early (half 0) or late (half 1) blocks are to attention: new tokens after a longer context.
void add_blocks(const StepShape& shape, std::int32_t ranks, std::int32_t rank, int half,
                std::vector<PrefillChunk>& out);

// Tokens of KV on the fullest rank beyond an equal share, a sequence, whose length is any: token i lies on
// rank (i / interleave) mod ranks, so the first rank is ahead by interleave·(ranks − 1) / (2·ranks) on
// average.
inline double tokens_ahead(std::int32_t ranks, std::int64_t interleave) {
  return static_cast<double>(interleave) * (ranks - 1) / (2.0 * ranks);
}

// How an operator sees a step under context parallelism; of OpSpec::context.
enum class ContextUse : std::uint8_t {
  none,
  halves,         // of split prompts a rank's blocks, early and late in a launch each; the slowest rank's
  halves_only,    // the same; nothing in steps that are not split
  rows,           // of split prompts a rank's rows in one launch; nothing otherwise
  whole,          // prompts of steps that are not split; nothing otherwise
  part,           // decodes over one rank's part of their context, without the new token
  part_with_new,  // the same with it
  past,           // prompts over one rank's part of what they have in the cache, no mask
  fresh,          // the new tokens of prompts and decodes among themselves
  cached_rows,    // rows are the tokens that prompts have in the cache; nothing without any
  decode_rows,    // rows are decodes
};

}  // namespace orrery
