// Prefill and decode apart, as vLLM's NixlConnector does it by pulling (0.24.0: distributed/kv_transfer/
// kv_connector/v1/nixl/pull_scheduler.py; ../shared/reference/vllm_0_24.md §8).
//
// The prefill instance runs the prompt with max_tokens 1 and keeps its blocks when it has answered. The
// decode instance takes blocks for the whole prompt first (WAITING_FOR_REMOTE_KVS), fetches what its own
// cache does not have, and then computes the prompt's last token again to have something to sample from. Both
// learn that a transfer has ended when a step that was launched after the end has been processed: the worker
// asks its connector once a step, and the scheduler reads the answer with the step's output. An engine with
// nothing to run asks every millisecond; here it knows at once.
//
// Where KV is sent (MoRIIOConnector in write mode, moriio_connector.py, moriio_engine.py) both legs run at
// once. The decode instance takes its blocks and says so; the prefill instance writes in the step with the
// prompt's last chunk (`build_connector_meta` waits for it), each layer when its event has come, whatever the
// other side has cached. Both notice as above.
//
// A transfer that failed (`_handle_invalid_blocks`, kv_load_failure_policy): the request is ended with an
// error, or computes its prompt itself. There the engine keeps the blocks that it has beyond those found in
// its cache, and here it takes them again.
#include <algorithm>

#include "sim/schedulers/vllm_v1.h"

namespace orrery {

// Instead of the end of an answered prefill leg; the slot stays taken. What the step in flight still had of
// it is over (its limit was one token).
void VllmV1Scheduler::hold(Slot slot, std::int64_t computed) {
  Sequence& s = sequences_[slot];
  s.computed = walks() ? s.prompt : computed;
  s.state = State::held;
  ++remote_.held;
}

void VllmV1Scheduler::give_back_held(Slot slot) {
  Sequence& s = sequences_[slot];
  release_blocks(slot, blocks_held(s, s.computed), s.prompt / config_.block_size);
  digest_.add(s.request.value() * 4);
  digest_.add(s.computed);
  --remote_.held;
  head_blocked_ = false;
  drop_slot(slot);
}

// Blocks for the prompt and none for drafts (`limit_lookahead_tokens`); the local cache has the first ones,
// the rest is asked for: in groups of layers with a window the window's (`get_sw_clipped_blocks`).
VllmV1Scheduler::Admit VllmV1Scheduler::begin_pull(Slot slot, KvBlockManager::Hit hit) {
  Sequence& s = sequences_[slot];
  const std::int64_t total = blocks_for(s.target), begin = windows_ ? windows_->left_behind(s.target) : 0;
  const KvBlockManager::Fetch fetch = kv_.fetch_of(s.kv, hit, total, begin);
  const std::int64_t travel = config_.sends_kv ? total : fetch.blocks;
  if (const Admit fits = fits_for_load(fetch, fetch.blocks); fits != Admit::admitted) return fits;
  take_for_load(s, hit, total, begin);
  if (windows_) windows_->admit(slot, s.target);
  s.computed = s.target;
  s.fetched = static_cast<std::int32_t>(s.target - 1 - hit.blocks * config_.block_size);  // the last: again
  s.leg = RequestLeg::whole;  // from now on it is like any other: a preempted one computes its prompt itself
  s.pulled = true;
  ++remote_.pulling;
  remote_.pulls.push_back({.request = s.request, .sequence = SequenceId(slot), .blocks = travel});
  digest_.add(s.request.value() * 4);
  digest_.add(travel);
  return Admit::set_aside;
}

std::span<const PullWork> VllmV1Scheduler::take_pulls() {
  remote_.issued.swap(remote_.pulls);
  remote_.pulls.clear();
  return remote_.issued;
}

std::span<const SendWork> VllmV1Scheduler::take_sends() {
  remote_.sent.swap(remote_.sends);
  remote_.sends.clear();
  return remote_.sent;
}

bool VllmV1Scheduler::on_remote_end(SequenceId sequence, bool) {
  remote_.ended.push_back({.slot = sequence.value()});
  return true;
}

bool VllmV1Scheduler::on_remote_failure(SequenceId sequence) {
  remote_.ended.push_back({.slot = sequence.value(), .failed = true});
  return true;
}

// What has ended and been noticed by now: held blocks are free, fetched ones can be used.
void VllmV1Scheduler::notice_remote_ends() {
  const bool asleep = running_count_ == 0 && open_steps() == 0;
  std::size_t kept = 0;
  for (Remote::Ended& end : remote_.ended) {
    const bool asked = end.step >= 0;
    if (!asleep && !(asked && updated_steps_ > end.step)) {
      if (!asked) end.step = next_step_;  // the step about to be composed is launched after it
      remote_.ended[kept++] = end;
      continue;
    }
    if (sequences_[end.slot].state == State::held) {
      give_back_held(end.slot);
    } else {
      sequences_[end.slot].pulled = false;
      --remote_.pulling;
      if (end.failed) lose_pulled(end.slot);
    }
  }
  remote_.ended.resize(kept);
}

// What a sequence waited for will not come. Only what its own cache had is good.
void VllmV1Scheduler::lose_pulled(Slot slot) {
  Sequence& s = sequences_[slot];
  const std::int64_t found = (s.target - 1 - s.fetched) / config_.block_size;
  release_blocks(slot, blocks_for(s.target), found);
  s.computed = s.fetched = 0;
  s.state = State::waiting;
  head_blocked_ = false;
  digest_.add(s.request.value() * 4 + 1);
  if (config_.recompute_failed_loads) return;
  std::erase(skipped_, slot);
  aborted_.push_back(SequenceId(slot));
  drop_slot(slot);
}

// The client of a decode leg left before anything was fetched: word to the prefill instance that it need not
// wait (`request_finished` with do_remote_prefill still set).
void VllmV1Scheduler::refuse_pull(Slot slot) {
  if (sequences_[slot].leg != RequestLeg::decode) return;
  remote_.pulls.push_back({.request = sequences_[slot].request, .sequence = SequenceId::none(), .blocks = 0});
}

}  // namespace orrery
