// Layers with a sliding window in a pool of their own (§4 "SWA hybrid"; `SWAPrefillBudget`,
// `maybe_evict_swa`, `free_swa_out_of_window_slots`): who is admitted by the smaller of the two pools, and
// when a running request gives up what its windows have left behind.
#include <algorithm>

#include "sim/schedulers/sglang.h"

namespace orrery {

void SglangScheduler::lock_prefix(Sequence& s, RadixCache::Node node) {
  cache_.lock(node);
  if (cache_.windowed()) s.window_lock = cache_.lock_window(node);
  if (cache_.stateful()) cache_.lock_state(node);
  s.node = node;
  s.locked = true;
}

void SglangScheduler::unlock_prefix(Sequence& s) {
  if (!s.locked) return;
  if (cache_.windowed()) cache_.unlock_window(s.node, s.window_lock);
  if (cache_.stateful()) cache_.unlock_state(s.node);
  cache_.unlock(s.node);
  s.locked = false;
}

// `estimate_swa_kv_tokens`: what a chunk allocates beyond a window, and a window or all that the request will
// ever have, and a page.
std::int64_t SglangScheduler::windowed_need(std::int64_t extend, std::int64_t future,
                                            std::int64_t limit) const {
  const std::int64_t window = config_.cache.window;
  const std::int64_t allocated = config_.chunking() ? std::min(extend, limit) : extend;
  return std::max<std::int64_t>(allocated - window, 0) + std::min(extend + future, window) +
         config_.cache.page_size;
}

// `SWAPrefillBudget.check_prefill`. A shortfall that would stay makes chunks smaller, any other waits.
// `on_host`: windowed slots that a load would bring back or lock.
bool SglangScheduler::windows_admit(const Adder& adder, std::int64_t extend, std::int64_t future,
                                    std::int64_t on_host, std::int64_t& limit) const {
  const std::int64_t loaded = cache_.page_ceil(on_host);
  const std::int64_t need = windowed_need(cache_.page_ceil(extend), future, limit) + loaded;
  const std::int64_t remaining = remaining_windowed(adder);
  if (need < remaining) return true;
  if (!config_.chunking() || need < config_.cache.windowed_tokens) return false;
  const std::int64_t cap =
      cache_.page_floor(std::max<std::int64_t>(0, remaining - windowed_need(0, future, limit) - loaded));
  limit = std::min(limit, cap);
  return cap > 0;
}

// Gives up what lies more than a window before `place`, once that is `interval` tokens. With a tree whole
// pages of a window stay, so that a key that ends there can be found again.
void SglangScheduler::slide(Sequence& s, std::int64_t place, std::int64_t interval) {
  const RadixCache::Config& c = config_.cache;
  if (place - c.window < s.window_begin + interval) return;
  const std::int64_t begin = std::max(s.window_begin, s.in_tree);
  const std::int64_t keep =
      c.prefix_sharing ? cache_.page_ceil(std::max<std::int64_t>(c.window, c.page_size)) : c.window;
  const std::int64_t end = cache_.page_floor(std::max(begin, place - keep));
  s.window_begin = std::max(begin, end);
  if (end > begin) cache_.give_back_windowed(end - begin);
}

// The first decode step at which `interval` tokens can have left the window.
void SglangScheduler::plan_slide(Slot slot) {
  const Sequence& s = sequences_[slot];
  const std::int64_t place = s.window_begin + config_.swa_eviction_interval + config_.cache.window;
  slides_.push({.step = std::max(decodes_launched_ + 1, place - s.base),
                .order = s.order,
                .slot = slot,
                .epoch = s.epoch});
}

// Before a decode allocates, not before a request's first one, whose prompt may still be computed. What is in
// flight is not known.
void SglangScheduler::slide_running() {
  const auto stale = [&](const DecodeEnds::End& end) {
    return !known({end.slot, end.epoch}) || sequences_[end.slot].state != State::decoding;
  };
  while (const auto due = slides_.take_before(decodes_launched_ + 1, stale)) {
    Sequence& s = sequences_[due->slot];
    const std::int64_t place = std::int64_t{s.prompt} + known_outputs(s) - 1;
    if (place - config_.cache.window >= s.window_begin + config_.swa_eviction_interval) slide(s, place, 1);
    plan_slide(due->slot);
  }
}

// The same of requests that verify drafts (`maybe_evict_swa` in `eagle_prepare_for_decode`, of EAGLE, NEXTN
// and NGRAM alike): their known tokens decide, so slots of two verifications stand beyond them in both pools.
void SglangScheduler::slide_speakers() {
  for (const Slot slot : speakers_) {
    Sequence& s = sequences_[slot];
    const std::int64_t place = std::int64_t{s.prompt} + s.speech.outputs - 1;
    if (s.speech.verified > 0 &&
        place - config_.cache.window >= s.window_begin + config_.swa_eviction_interval)
      slide(s, place, 1);
  }
}

// Without a tree, prompts slide as they are computed; under the overlap loop the chunk before is on the
// device.
void SglangScheduler::slide_prompts(const Adder& adder) {
  for (const Slot slot : adder.batch) {
    Sequence& s = sequences_[slot];
    const std::int64_t before = s.extends++;
    if (config_.cache.prefix_sharing || (config_.overlap && before < 2)) continue;
    const std::int64_t under_way =
        config_.overlap ? std::max<std::int64_t>(0, config_.chunked_prefill_size) : 0;
    slide(s, s.prefix - under_way, 1);
  }
}

}  // namespace orrery
