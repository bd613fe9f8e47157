// vLLM V1's rules for images in the scheduler (v1/core/sched/scheduler.py of 0.24.0,
// `_try_schedule_encoder_inputs` and `_free_encoder_inputs`; ../shared/reference/vllm_0_24.md §1.7): which
// images a chunk needs, what the encoder may compute in a step, and how a chunk shrinks before an image that
// does not fit.
#pragma once

#include <cstdint>
#include <vector>

#include "base/digest.h"
#include "sim/encoder_cache.h"
#include "sim/request.h"
#include "sim/scheduler.h"

namespace orrery {

class VllmEncoder {
 public:
  using Slot = EncoderCache::Holder;

  // `shift`: tokens that the drafting network looks further than the model (1 for EAGLE and MTP:
  // `shift_computed_tokens`, `spec_lookahead`).
  VllmEncoder(const EncoderRules& rules, std::int64_t shift = 0)
      : rules_(rules), shift_(shift), cache_(rules.cache_size) {}

  void open(Slot slot, const Request& request);  // the slot's images from now on; none is fine
  void close(Slot slot);                         // finished
  void preempted(Slot slot);                     // every reference is given back
  bool has_images(Slot slot) const { return slot < sequences_.size() && !sequences_[slot].images.empty(); }
  // Some image ends behind `computed` tokens.
  bool has_images_behind(Slot slot, std::int64_t computed) const {
    return has_images(slot) && sequences_[slot].images.back().end() > computed;
  }

  void begin_step();
  // How many of `tokens` new tokens behind `computed` may run in this step, given what the encoder can do.
  // References are taken on images that are there; commit() stores the others, abandon() gives the references
  // back (the chunk did not get its KV blocks).
  std::int64_t limit(Slot slot, std::int64_t computed, std::int64_t tokens);
  void commit(Slot slot);
  void abandon(Slot slot);
  const std::vector<EncodeWork>& encoded() const { return encoded_; }  // in this step, in schedule order

  // The sequence has a chunk in step `step`; `ends`: it is the prompt's last, `target` its tokens.
  void ran(Slot slot, std::int64_t step, bool ends, std::int64_t target);
  // Step `step` was updated: references to images that were passed are given back. `computed(slot)`: tokens
  // scheduled so far.
  template <class Computed>
  void updated(std::int64_t step, Computed computed) {
    std::size_t kept = 0;
    for (std::size_t i = 0; i < open_.size(); ++i) {
      const Ran ran = open_[i];
      if (ran.step > step) {
        open_[kept++] = ran;
        continue;
      }
      if (sequences_[ran.slot].epoch != ran.epoch) continue;
      pass(ran.slot, ran.ends ? ran.known : computed(ran.slot));
      // An image at the very end of the prompt is passed by the step behind the one that ended it.
      if (ran.ends && !cache_.held(ran.slot).empty() && ran.known < ran.target)
        open_[kept++] = {.slot = ran.slot,
                         .epoch = ran.epoch,
                         .step = step + 1,
                         .ends = true,
                         .known = ran.target,
                         .target = ran.target};
    }
    open_.resize(kept);
  }
  // Speculation: so many tokens of the sequence are known to be computed.
  void passed(Slot slot, std::int64_t known) {
    if (slot < sequences_.size() && !cache_.held(slot).empty()) pass(slot, known);
  }
  // Something will be given back by updates to come.
  bool has_references() const { return cache_.referenced() > 0; }

  EncoderCounters counters() const;
  const EncoderCache& cache() const { return cache_; }

 private:
  struct Sequence {
    RequestId request;
    std::vector<PlacedImage> images;  // by offset
    std::uint32_t epoch = 0;
  };
  struct Ran {
    Slot slot = 0;
    std::uint32_t epoch = 0;
    std::int64_t step = 0;
    bool ends = false;
    std::int64_t known = 0, target = 0;
  };
  void pass(Slot slot, std::int64_t known);

  EncoderRules rules_;
  std::int64_t shift_ = 0;
  EncoderCache cache_;
  std::vector<Sequence> sequences_;
  std::int64_t budget_ = 0;  // left in this step
  // Of the last limit():
  std::vector<std::int32_t> to_encode_;
  std::int64_t budget_after_ = 0;
  std::vector<EncodeWork> encoded_;
  std::vector<Ran> open_;
  EncoderCounters counters_;
};

}  // namespace orrery
