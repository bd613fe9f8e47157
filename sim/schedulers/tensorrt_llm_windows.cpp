// Layers that keep a window of tokens have a pool of their own (max_attention_window; kvCacheManager.cpp of
// autumn 2025, cited as §2.1 and §4.1 of ../shared/reference/tensorrt_llm_1_2.md). Blocks are given in line,
// for a whole prompt as to the other layers, and given back from the front once tokens are added
// (`adjustBlocksIfNeeded`).
//
// Without reuse all blocks are alike, so the pool is a count; with it there is a second TensorRtLlmKvPool.
// Each pass walks the active list, O(active): there is no sum of what windows leave behind.
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
  const bool receives = s.state == State::receiving;
  if (!receives && !is_started(s)) return std::max(total + extra, blocks_for(s.target));
  const std::int64_t held = receives ? blocks_for(s.prompt) : held_blocks(s);
  const std::int64_t due = std::max<std::int64_t>(0, total - held) + extra;
  if (!speculates() && s.window_hits <= s.left_window) return due;
  return std::max(due, window_peak(s) - held + std::max(s.window_hits, s.left_window));
}

// What a sequence with drafts may come to hold again: rejected ones give their blocks back, and the front
// that went for them does not return (`removeToken` releases the last block only). And what one holds beside
// blocks that it found: others may hold those too, and then leaving them behind frees nothing. The engine
// reckons one block.
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

// What is found counts as far as it is found in both pools: there is one position for all layers
// (`KVCacheManager::addSequence` takes the least; that of autumn 2025 took the last pool's, the full one's,
// so that windowed layers read what nobody had written). Blocks are given for the whole prompt, whatever a
// window needs.
std::int64_t TensorRtLlmScheduler::take_window(Sequence& s, std::int64_t tokens, std::int64_t hit) {
  if (!windowed()) return hit;
  if (!window_kv_) {
    window_free_ -= blocks_for(tokens);
    return hit;
  }
  const std::int64_t found = window_kv_->add_sequence(s.window_kv, tokens);
  s.window_hits = found / config_.block_size;
  return std::min(hit, found);
}

// §4.5 of both pools, each of which has a tier of its own (`WindowBlockManager::getFreeBlock`,
// `onboardBlock`), in blocks of one of the equal parts that the layers of either kind fall into. What a
// window left behind and somebody else is given goes there too, so that its sequence is stored whole all the
// same.
TensorRtLlmKvPool::HostUse TensorRtLlmScheduler::host_use() const {
  const TensorRtLlmKvPool::HostUse full = kv_.host();
  if (!window_kv_) return full;
  const TensorRtLlmKvPool::HostUse window = window_kv_->host();
  const auto both = [&](std::int64_t TensorRtLlmKvPool::HostUse::*count) {
    return full.*count * rules_.full_parts + window.*count * rules_.window_parts;
  };
  using Use = TensorRtLlmKvPool::HostUse;
  return {both(&Use::capacity), both(&Use::used), both(&Use::offloaded), both(&Use::onboarded),
          both(&Use::dropped)};
}

void TensorRtLlmScheduler::add_to_window(std::int64_t blocks) {
  if (window_kv_)
    window_kv_->grow_unattributed(blocks);
  else
    window_free_ -= blocks;
}

// `adjustBlocksIfNeeded` with so many tokens. Of a row with drafts those that will be rejected move the front
// too (`add_token` of prepare_resources, one by one).
void TensorRtLlmScheduler::slide_window(Sequence& s, std::int64_t tokens) {
  const std::int64_t left = std::max<std::int64_t>(0, tokens - rules_.window) / config_.block_size;
  if (left <= s.left_window) return;
  if (window_kv_)
    window_kv_->detach_front(s.window_kv, left);
  else
    window_free_ += left - s.left_window;
  s.left_window = left;
}

// §4.1 add_token: the front goes once a whole block of it is out of the window, before a new block is taken.
void TensorRtLlmScheduler::grow_windows() {
  for (Slot slot = active_head_; slot != no_slot; slot = sequences_[slot].next) {
    Sequence& s = sequences_[slot];
    if (s.state != State::decoding) continue;
    const std::int64_t context = context_of(s);
    slide_window(s, context + 1);
    if (needs_new_block(context)) add_to_window(1);
  }
  ORRERY_CHECK(window_free_ >= 0, "the windows' pool has a block for every token");
}

// Blocks of the windows' pool that nobody is due.
std::int64_t TensorRtLlmScheduler::window_spare() const {
  std::int64_t spare = window_free_blocks();
  for (Slot slot = active_head_; !rules_.max_utilization && slot != no_slot; slot = sequences_[slot].next) {
    const Sequence& s = sequences_[slot];
    if (is_started(s) || s.state == State::receiving) spare -= window_to_completion(s);
  }
  return spare;
}

// §4.3: only here is a window's sequence stored, and only if nobody got a block that it left behind.
void TensorRtLlmScheduler::release_window(Sequence& s, std::int64_t held, std::int64_t stored,
                                          bool comes_back) {
  if (!windowed()) return;
  if (window_kv_)
    window_kv_->release(s.window_kv, held, stored, comes_back);
  else
    window_free_ += held - s.left_window;
  s.left_window = s.window_hits = 0;
}

std::int64_t TensorRtLlmScheduler::simulate_window_release(const Sequence& s) {
  return window_kv_ ? window_kv_->simulate_release(s.window_kv, held_blocks(s)) : window_held(s);
}

}  // namespace orrery
