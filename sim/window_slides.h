// When the windows of an engine's sequences leave a KV block behind, for models in which some layers see only
// the last tokens. vLLM frees such a block when it next gives the sequence slots (`remove_skipped_blocks`,
// called by `allocate_slots`), so a decoding sequence frees one every block_size steps.
//
// Like the decode set's growth this costs O(changes): a sequence whose window holds nothing that others could
// find is a count in a histogram over step mod block_size. Before that each of its slides is an event,
// because which block goes matters: a shared one is not free until its last holder lets go.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "base/check.h"
#include "sim/decode_ends.h"
#include "sim/kv_block_manager.h"

namespace orrery {

class WindowSlides {
 public:
  using Slot = std::uint32_t;

  WindowSlides(std::int64_t window, std::int32_t block_size, KvBlockManager& kv)
      : window_(window), block_size_(block_size), kv_(kv), slides_(static_cast<std::size_t>(block_size), 0) {}

  // Blocks that no token after `computed` ones can see.
  std::int64_t left_behind(std::int64_t computed) const {
    return std::max<std::int64_t>(0, computed - window_ + 1) / block_size_;
  }
  // The most blocks that one sequence of `tokens` holds in a group with a window (the engine's
  // `max_admission_blocks_per_request`: a window, a step's tokens, and one block for the odd end).
  std::int64_t most_blocks(std::int64_t tokens_per_step, std::int64_t max_model_len) const {
    const std::int64_t tokens = std::min(window_ - 1 + tokens_per_step, max_model_len);
    return (tokens + block_size_ - 1) / block_size_ + 1;
  }

  // A sequence enters the pool with a prefix of `computed` tokens, which the pool has windowed already.
  void admit(Slot slot, std::int64_t computed) {
    if (slot >= members_.size()) members_.resize(slot + 1);
    members_[slot] = Member{.begin = left_behind(computed), .stamp = members_[slot].stamp + 1};
  }
  // Before it is given slots for a chunk behind `computed` tokens.
  void before_chunk(Slot slot, KvBlockManager::Handle kv, std::int64_t computed) {
    Member& m = members_[slot];
    m.kv = kv;
    const std::int64_t begin = left_behind(computed);
    if (begin <= m.begin) return;
    kv_.slide_window(kv, begin);
    m.begin = begin;
  }

  // The same before a decode that verifies drafts, whose `computed` tokens count those in flight
  // (`allocate_slots` passes num_computed_tokens to `remove_skipped_blocks`). Its advance is no sum, so it is
  // no member of the decode set; block by block, because at some point the window holds a count alone.
  void before_verification(Slot slot, KvBlockManager::Handle kv, std::int64_t computed) {
    Member& m = members_[slot];
    m.kv = kv;
    const std::int64_t begin = left_behind(computed);
    while (m.begin < begin && !m.counted) {
      kv_.slide_window(kv, ++m.begin);
      m.counted = kv_.count_window(kv);
    }
    if (m.begin >= begin) return;
    kv_.slide_counted(begin - m.begin);
    m.begin = begin;
  }

  // It decodes from step `first` on; its context before step k is base + k.
  void start(Slot slot, KvBlockManager::Handle kv, std::uint64_t order, std::int64_t base,
             std::int64_t first) {
    Member& m = members_[slot];
    m.kv = kv;
    m.base = base;
    m.order = order;
    m.decoding = true;
    if (m.counted) {
      slides_[phase_of(base)] += 1;
    } else {
      expect(slot, first);
    }
  }
  // It leaves the decode set; `last` is the last step in which it was given slots.
  void stop(Slot slot, std::int64_t last) {
    Member& m = members_[slot];
    if (!m.decoding) return;
    m.decoding = false;
    ++m.stamp;
    if (!m.counted) return;
    slides_[phase_of(m.base)] -= 1;
    m.begin = left_behind(m.base + last);
  }
  // Blocks at its front that it has given back.
  std::int64_t begin(Slot slot) const { return members_[slot].begin; }

  // What a step frees when the whole decode set is given slots.
  void whole_step(std::int64_t step) {
    kv_.slide_counted(counted(step));
    const auto stale = [&](const DecodeEnds::End& end) { return members_[end.slot].stamp != end.epoch; };
    while (const auto event = events_.take_before(step + 1, stale)) slide(event->slot, step);
  }
  // The same for one member: when slots are given in order, because they are short.
  void member_step(Slot slot, std::int64_t step) {
    Member& m = members_[slot];
    if (m.counted) {
      if (phase_of(m.base) == modulo(step)) kv_.slide_counted(1);
    } else if (left_behind(m.base + step) > m.begin) {
      ++m.stamp;
      slide(slot, step);
    }
  }

  // Members that are a count and leave a block behind in this step.
  std::int64_t counted(std::int64_t step) const { return slides_[modulo(step)]; }
  // No slide but counted ones before this step; a stale event may make it too early.
  std::int64_t next_event() const {
    return events_.empty() ? std::numeric_limits<std::int64_t>::max() : events_.earliest();
  }

 private:
  struct Member {
    std::int64_t begin = 0;
    std::int64_t base = 0;
    std::uint64_t order = 0;
    KvBlockManager::Handle kv = 0;
    std::uint32_t stamp = 0;  // tells stale events
    bool decoding = false;
    bool counted = false;
  };

  std::size_t modulo(std::int64_t step) const {
    const std::int64_t m = step % block_size_;
    return static_cast<std::size_t>(m < 0 ? m + block_size_ : m);
  }
  // base + k − window + 1 ≡ 0 (mod block size) in the steps k of this phase.
  std::size_t phase_of(std::int64_t base) const { return modulo(window_ - 1 - base); }

  void expect(Slot slot, std::int64_t first) {
    const Member& m = members_[slot];
    const std::int64_t step = (m.begin + 1) * block_size_ + window_ - 1 - m.base;
    events_.push({.step = std::max(first, step),
                  .order = static_cast<std::int64_t>(m.order),
                  .slot = slot,
                  .epoch = m.stamp});
  }
  void slide(Slot slot, std::int64_t step) {
    Member& m = members_[slot];
    m.begin = left_behind(m.base + step);
    kv_.slide_window(m.kv, m.begin);
    m.counted = kv_.count_window(m.kv);
    if (m.counted) {
      slides_[phase_of(m.base)] += 1;
    } else {
      expect(slot, step + 1);
    }
  }

  std::int64_t window_;
  std::int32_t block_size_;
  KvBlockManager& kv_;
  std::vector<std::int32_t> slides_;  // counted members by step mod block size
  std::vector<Member> members_;       // by slot
  DecodeEnds events_;
};

}  // namespace orrery
