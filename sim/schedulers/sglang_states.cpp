// Layers that keep a state (components/mamba.py, managers/schedule_batch.py,
// scheduler_components/batch_result_processor.py and mem_cache/allocation.py of 0.5.23). A running sequence
// holds a slot for the state it computes with. With extra_buffer it has others that prompts and decodes fill
// in turn, at places which the tree can name, and which it leaves to the tree when it leaves its tokens; so
// only tokens up to such a place are cached. Without (no_buffer) it leaves the state of the end.
#include <algorithm>

#include "sim/schedulers/sglang.h"

namespace orrery {

// A hit's state is copied into a slot of the request's own while it is looked up, before anybody knows
// whether it can be admitted (`finalize_match_result_in_cache`). Where the tokens of other layers go on, the
// prompt leaves a state at the last chunk of them (`mamba_branching_seqlen`).
void SglangScheduler::take_matched_state(Sequence& s, const RadixCache::Match& hit) {
  const std::int64_t chunk = config_.states.chunk, beyond = hit.full_tokens / chunk * chunk;
  s.branch = beyond > hit.best_tokens ? beyond : 0;
  // What host memory has comes when it is loaded (`prepare_load_back`).
  if (hit.tokens > 0 && hit.best_tokens == hit.tokens) copy_state(s, hit.node);
}

void SglangScheduler::copy_state(Sequence& s, RadixCache::Node node) {
  cache_.lock(node);
  cache_.lock_state(node);
  const bool room = cache_.make_state_room(1);
  cache_.unlock_state(node);
  cache_.unlock(node);
  ORRERY_CHECK(room, "SGLang: no slot for the state of a hit");  // the engine asserts it
  cache_.take_states(1);
  s.states = 1;
}

void SglangScheduler::give_back_states(Sequence& s) {
  cache_.give_back_states(s.states);
  s.states = s.tracked = 0;
}

// `alloc_req_slots`: all that the batch lacks at once.
bool SglangScheduler::take_batch_states(const Adder& adder) {
  std::int64_t need = 0;
  for (const Slot slot : adder.batch) need += config_.states.of_sequence - sequences_[slot].states;
  if (!cache_.make_state_room(need)) return false;
  cache_.take_states(need);
  for (const Slot slot : adder.batch) {
    sequences_[slot].states = config_.states.of_sequence;
    track_states(sequences_[slot]);
  }
  return true;
}

// `_mamba_radix_cache_v2_req_prepare_for_extend`: the last whole chunk of what is computed now, counted from
// where it begins, or the branch if that lies before.
void SglangScheduler::track_states(Sequence& s) const {
  const std::int64_t chunk = config_.states.chunk, whole = (s.extend_end - s.prefix) / chunk * chunk;
  if (!config_.states.in_turn || whole == 0) return;
  s.tracked = s.prefix + whole;
  if (s.branch > s.prefix && s.branch < s.extend_end && (s.branch - s.prefix) % chunk == 0)
    s.tracked = s.branch;
}

// Beside prompts decodes leave no state (`mix_with_running` clears their mask).
void SglangScheduler::miss_state(Sequence& s, std::int64_t tokens) const {
  const std::int64_t interval = config_.states.interval;
  if (!config_.states.in_turn || tokens % interval != 0) return;
  const std::int64_t before = tokens - interval;
  if (before != s.missed) s.kept = before > s.input() ? before : 0;
  s.missed = tokens;
}

// The last place among the first `up_to` tokens where decoding left a state. Of a run of accepted drafts that
// passes a boundary behind the end only the state there was kept, and the one before it where two are filled
// in turn (`_select_finished_checkpoint`).
std::int64_t SglangScheduler::last_boundary(const Sequence& s, std::int64_t up_to) const {
  const std::int64_t interval = config_.states.interval;
  const std::int64_t last = up_to / interval * interval;
  if (config_.speculating() && s.speech.committed / interval * interval > last &&
      config_.states.of_sequence < 3)
    return 0;
  return s.missed > 0 && last <= s.missed ? std::min(last, s.kept) : last;
}

// `prepare_for_caching_req`: how far the tree can be given tokens, and a slot beside the state that it gets
// then, which takes the place of that one. Who ends leaves the state of the last boundary that its decodes
// passed; without one, nothing more than the tree has. False: nothing is inserted.
bool SglangScheduler::checkpoint_states(Sequence& s, std::int64_t up_to, bool ends) {
  if (!config_.states.in_turn) {
    s.tracked = up_to;
  } else if (ends) {
    if (const std::int64_t boundary = last_boundary(s, up_to); boundary > s.input()) s.tracked = boundary;
  }
  if (s.tracked == 0 || s.tracked > up_to) {
    s.tracked = 0;
    return false;
  }
  if (ends) return true;
  ORRERY_CHECK(cache_.make_state_room(1), "SGLang: no slot beside a state that the tree gets");
  cache_.take_states(1);
  ++s.states;
  return true;
}

}  // namespace orrery
