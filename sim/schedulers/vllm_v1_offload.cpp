// Requests that wait for a part of their prefix from host memory or another instance (vllm_0_24.md §1.2 rule
// 3, §8): set aside, holding their blocks, while others pass them.
#include <algorithm>

#include "sim/schedulers/vllm_v1.h"

namespace orrery {

// `skipped_waiting` goes first; who cannot go on now returns to its front in the old order.
void VllmV1Scheduler::admit_around_transfers(std::int64_t& budget) {
  aside_.clear();
  while ((!skipped_.empty() || !waiting_.empty()) && budget > 0 && running_count_ < config_.max_num_seqs) {
    std::deque<Slot>& queue = queue_to_serve();
    const Slot slot = queue.front();
    if (sequences_[slot].in_flight_when_preempted || (staged() && sequences_[slot].speech.in_flight > 0))
      break;
    Admit done = try_admit(slot, budget);
    if (done == Admit::blocked && waits_for_loaded()) done = Admit::set_aside;
    if (done == Admit::blocked) break;
    queue.pop_front();
    if (done == Admit::set_aside) aside_.push_back(slot);
  }
  skipped_.insert(skipped_.begin(), aside_.begin(), aside_.end());
  aside_.clear();
  if (config_.by_priority)
    std::stable_sort(skipped_.begin(), skipped_.end(), [&](Slot a, Slot b) { return before(a, b); });
}

// A prompt without room may stand before one whose blocks have come: by priority, or because it waited longer
// for what others store or load. It holds that one up for good when nobody runs, by the engine's source. Here
// the other one gets its turn.
bool VllmV1Scheduler::waits_for_loaded() const {
  if (running_count_ > 0 || awaits_transfer()) return false;
  return std::any_of(skipped_.begin(), skipped_.end(),
                     [&](Slot slot) { return sequences_[slot].state == State::loading; });
}

// `_select_waiting_queue_for_scheduling`: who was set aside, but by priority whoever is first in either
// queue.
std::deque<VllmV1Scheduler::Slot>& VllmV1Scheduler::queue_to_serve() {
  if (skipped_.empty()) return waiting_;
  if (!config_.by_priority || waiting_.empty()) return skipped_;
  return before(waiting_.front(), skipped_.front()) ? waiting_ : skipped_;
}

// All blocks of the local and the loaded prefix are held from now on, without a place among the running: let
// in only beside what prefills under way still need, since nobody can preempt it. In groups with a window
// only the window's blocks (`allocate_external_computed_blocks`), and none for drafts
// (`limit_lookahead_tokens`).
VllmV1Scheduler::Admit VllmV1Scheduler::begin_load(Slot slot, KvBlockManager::Hit hit, std::int64_t blocks) {
  Sequence& s = sequences_[slot];
  const std::int64_t total = hit.blocks + blocks;
  const std::int64_t tokens = std::min(total * config_.block_size, windows_ ? s.target - 1 : s.target);
  const std::int64_t begin = windows_ ? windows_->left_behind(tokens) : 0;
  const KvBlockManager::Fetch fetch = kv_.fetch_of(s.kv, hit, total, begin);
  std::int64_t gate = fetch.blocks;
  if (config_.scheduler_reserve_full_isl) {
    const std::int64_t whole = std::min(s.target, config_.max_model_len);
    gate = std::max(gate, gate_blocks(hit.blocks, whole, begin));
  }
  if (const Admit fits = fits_for_load(fetch, gate); fits != Admit::admitted) return fits;
  take_for_load(s, hit, total, begin);
  if (windows_) windows_->admit(slot, tokens);
  s.computed = tokens;
  s.speech.blocks = total;
  const std::int64_t travel = offload_->load(slot, hit.blocks, blocks, begin);
  host_loads_.push_back({s.request, blocks * config_.block_size});
  digest_.add(s.request.value() * 4);
  digest_.add(travel);
  return Admit::set_aside;
}

// kv_cache_manager.allocate_slots: the whole sequence against what is free, what is taken now against what is
// free beside the reservations.
VllmV1Scheduler::Admit VllmV1Scheduler::fits_for_load(KvBlockManager::Fetch fetch, std::int64_t gate) const {
  const std::int64_t free = kv_.free_blocks() - fetch.idle - watermark_blocks();
  if (gate > free) return Admit::blocked;
  if (fetch.blocks > free - reserved_for_prefills()) {
    // The reservation may be that of a loaded request behind this one. By its source the engine would then
    // stand still for good; here the other one gets its turn.
    const bool stuck = running_count_ == 0 && !awaits_transfer();
    return stuck ? Admit::set_aside : Admit::blocked;
  }
  return Admit::admitted;
}

void VllmV1Scheduler::take_for_load(Sequence& s, KvBlockManager::Hit hit, std::int64_t total,
                                    std::int64_t begin) {
  kv_.take_fetched(s.kv, s.target, hit, total, begin);
  counters_.queried_tokens += static_cast<std::uint64_t>(s.target);
  counters_.hit_tokens += static_cast<std::uint64_t>(hit.blocks * config_.block_size);
  s.state = State::loading;
}

std::int64_t VllmV1Scheduler::watermark_blocks() const {
  if (running_count_ == 0) return 0;
  return static_cast<std::int64_t>(config_.watermark * static_cast<double>(kv_.usable_blocks() + 1));
}

// `_inflight_prefill_reserved_blocks`: as much as the gate reckons for what is left.
std::int64_t VllmV1Scheduler::reserved_for_prefills() const {
  std::int64_t blocks = 0;
  const auto rest = [&](Slot slot) {
    const Sequence& s = sequences_[slot];
    const std::int64_t held = std::min(blocks_held(s, s.computed), blocks_for(s.target));
    blocks += gate_blocks(held, s.target);
  };
  for (const Slot slot : prefilling_) rest(slot);
  for (const Slot slot : skipped_) {
    if (sequences_[slot].state == State::loading) rest(slot);
  }
  for (const Slot slot : aside_) {
    if (sequences_[slot].state == State::loading) rest(slot);
  }
  return blocks;
}

std::span<const TransferWork> VllmV1Scheduler::take_transfers() {
  if (offload_ == nullptr) return {};
  transfers_ = offload_->issued();
  offload_->clear_issued();
  return transfers_;
}

bool VllmV1Scheduler::on_transfer(std::uint64_t transfer) {
  offload_->ended(transfer);
  // Apart: a stretch reports its steps after what ended inside it.
  transfer_digest_.add(transfer);
  return !skipped_.empty() || !waiting_.empty();
}

std::uint64_t VllmV1Scheduler::digest() const {
  if (offload_ == nullptr) return digest_.value();
  Digest both = digest_;
  both.add(transfer_digest_.value());
  return both.value();
}

}  // namespace orrery
