// Layers that keep a window of tokens have a pool of their own (max_attention_window; kvCacheManager.cpp of
// autumn 2025, cited as §2.1 and §4.1 of ../shared/reference/tensorrt_llm_1_2.md). Blocks are given in line,
// for a whole prompt as to the other layers, and given back from the front once tokens are added
// (`adjustBlocksIfNeeded`).
//
// Without reuse all blocks are alike, so the pool is a count. Each pass walks the active list, O(active):
// there is no sum of what windows leave behind.
#include <algorithm>

#include "sim/schedulers/tensorrt_llm.h"

namespace orrery {

// §2.1 with the temporary window, which lets a chunk be computed at once
// (`calculateTemporaryAttentionWindow`), and the block more that a window takes while it slides over a
// border. Two things the engine does not do: it reckons less than nothing for a sequence that outgrew its
// window, and for a prompt longer than both windows less than it then takes, at which it fails.
std::int64_t TensorRtLlmScheduler::window_to_completion(const Sequence& s) const {
  const std::int64_t all = std::int64_t{s.prompt} + s.max_output;
  const std::int64_t temporary = std::max<std::int64_t>(
      0, std::min(config_.max_num_batched_tokens, config_.max_model_len - 1 - rules_.window));
  const std::int64_t total = blocks_for(std::min(all, rules_.window + temporary));
  const std::int64_t known = is_generation(s) ? context_of(s) : s.target;
  const bool slides = all > rules_.window && blocks_for(all) > blocks_for(known) && blocks_for(all) > total;
  const std::int64_t extra = slides ? 1 : 0;
  if (s.state == State::receiving) return std::max<std::int64_t>(0, total - blocks_for(s.prompt)) + extra;
  if (!is_started(s)) return std::max(total + extra, blocks_for(s.target));
  const std::int64_t due = std::max<std::int64_t>(0, total - held_blocks(s)) + extra;
  return speculates() ? std::max(due, window_peak(s) - window_held(s)) : due;
}

// What a sequence with drafts may come to hold again: rejected ones give their blocks back, and the front
// that went for them does not return (`removeToken` releases the last block only). The engine reckons one
// block.
std::int64_t TensorRtLlmScheduler::window_peak(const Sequence& s) const {
  return std::min(reserve_of(s), blocks_for(rules_.window) + 1);
}

// §2.1 one_step: in line, as if nothing were given back; of a prompt what it takes.
std::int64_t TensorRtLlmScheduler::window_next_step(const Sequence& s) const {
  if (s.state == State::context) return blocks_for(s.target);
  if (s.state == State::prefilling) return 0;
  if (speculates()) return blocks_of_next_step(s);
  return needs_new_block(context_of(s)) ? 1 : 0;
}

// §4.1 add_token: the front goes once a whole block of it is out of the window, before a new block is taken.
void TensorRtLlmScheduler::grow_windows() {
  for (Slot slot = active_head_; slot != no_slot; slot = sequences_[slot].next) {
    Sequence& s = sequences_[slot];
    if (s.state != State::decoding) continue;
    const std::int64_t context = context_of(s), tokens = context + 1;
    const std::int64_t left = std::max<std::int64_t>(0, tokens - rules_.window) / config_.block_size;
    window_free_ += left - s.left_window - (needs_new_block(context) ? 1 : 0);
    s.left_window = left;
  }
  ORRERY_CHECK(window_free_ >= 0, "the windows' pool has a block for every token");
}

// The same for a row with drafts, whose tokens are added one by one (`add_token` of prepare_resources): those
// that will be rejected move the front too.
void TensorRtLlmScheduler::slide_speaking(Sequence& s) {
  const std::int64_t left = std::max<std::int64_t>(0, s.speech.tokens - rules_.window) / config_.block_size;
  if (left <= s.left_window) return;
  window_free_ += left - s.left_window;
  s.left_window = left;
}

// Blocks of the windows' pool that nobody is due.
std::int64_t TensorRtLlmScheduler::window_spare() const {
  std::int64_t spare = window_free_;
  for (Slot slot = active_head_; !rules_.max_utilization && slot != no_slot; slot = sequences_[slot].next) {
    if (is_started(sequences_[slot])) spare -= window_to_completion(sequences_[slot]);
  }
  return spare;
}

void TensorRtLlmScheduler::release_window(Sequence& s, std::int64_t held) {
  if (!windowed()) return;
  window_free_ += held - s.left_window;
  s.left_window = 0;
}

}  // namespace orrery
