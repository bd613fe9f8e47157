// Groups of layers beside the one that keeps every token: what of the pool a prompt asks for, and, where
// layers keep a state that can be found again, where its chunks end (v1/core/sched/scheduler.py and
// v1/core/single_type_kv_cache_manager.py of vLLM 0.24).
#include <algorithm>

#include "sim/schedulers/vllm_v1.h"

namespace orrery {

// The whole-sequence gate over all groups of layers. In one with a window a sequence never holds more than a
// window and a step's chunk (`max_admission_blocks_per_request`). States have no such limit: with one for
// every block the engine reckons them all, with one for every chunk a single one
// (`get_num_blocks_to_allocate` of MambaManager). `begin`: blocks that the window has left when all that is
// loaded has come.
std::int64_t VllmV1Scheduler::gate_blocks(std::int64_t hit_blocks, std::int64_t tokens,
                                          std::int64_t begin) const {
  const std::int64_t whole = blocks_for(tokens);
  if (config_.kv_groups.cached_states) return chunk_blocks(whole - hit_blocks) + state_blocks();
  std::int64_t blocks = config_.kv_groups.full * (whole - hit_blocks) + state_blocks();
  if (windows_) {
    const std::int64_t most = windows_->most_blocks(config_.max_num_batched_tokens, config_.max_model_len);
    blocks += config_.kv_groups.windowed *
              std::max<std::int64_t>(0, std::min(whole, most) - std::max(hit_blocks, begin));
  }
  return blocks;
}

// Of the pool, for a chunk that needs so many blocks more in the groups that keep every token.
std::int64_t VllmV1Scheduler::chunk_blocks(std::int64_t blocks) const {
  const KvGroups& groups = config_.kv_groups;
  if (!groups.chunk_ends || blocks <= 1) return in_all_groups(blocks);
  return groups.full * blocks + groups.windowed;
}

// `_mamba_block_aligned_split`: a state is written at the end of a chunk, so chunks end where blocks do, and
// the last block of a prompt is not left behind the last chunk but one. `attended`: tokens beyond the hit
// that the layers which attend would have had; where they end others will begin too, so the chunk ends there.
std::int64_t VllmV1Scheduler::at_block_ends(const Sequence& s, std::int64_t tokens,
                                            std::int64_t attended) const {
  if (!config_.kv_groups.chunk_ends || s.computed >= std::max<std::int64_t>(s.prompt, s.target - 1))
    return tokens;
  const std::int64_t block = config_.block_size;
  const auto whole = [&](std::int64_t n) { return n / block * block; };
  std::int64_t last = whole(s.target);
  if (config_.speculation.drops_last_hit) last = std::max<std::int64_t>(0, last - block);
  const std::int64_t end = s.computed + tokens;
  if (end < last) {
    tokens = whole(tokens);
  } else if (s.computed < last && last < end) {
    tokens = last - s.computed;
  }
  return attended >= block && tokens > attended ? whole(attended) : tokens;
}

// What a window may have left behind. Of states none that the step in flight may turn out to need, should it
// reject all of its drafts (`MambaManager.remove_skipped_blocks`).
std::int64_t VllmV1Scheduler::certain(std::int64_t computed) const {
  if (!config_.kv_groups.cached_states) return computed;
  return std::max<std::int64_t>(0, computed - config_.speculation.tokens);
}

}  // namespace orrery
