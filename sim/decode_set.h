// The sequences that decode one token in every step, as sums. A member's context before step k is
// base + k, so nothing has to be touched when a step passes: architecture §3, "cost per step is O(changes)".
#pragma once

#include <cstdint>
#include <vector>

#include "base/check.h"

namespace orrery {

class DecodeSet {
 public:
  explicit DecodeSet(std::int32_t block_size) : block_size_(block_size), needs_block_(block_size, 0) {}

  void add(std::int64_t base) { change(base, +1); }
  void remove(std::int64_t base) { change(base, -1); }
  std::int32_t size() const { return size_; }
  // Sum over members of the tokens in the KV cache before step k.
  std::int64_t context_sum(std::int64_t step) const { return base_sum_ + size_ * step; }
  // Members that begin a new KV block in step k: those whose context is then a multiple of the block size.
  std::int32_t new_blocks(std::int64_t step) const { return needs_block_[modulo(step)]; }
  // New blocks of steps [first, first + count).
  std::int64_t new_blocks(std::int64_t first, std::int64_t count) const {
    std::int64_t sum = (count / block_size_) * size_;
    for (std::int64_t i = 0; i < count % block_size_; ++i) sum += new_blocks(first + i);
    return sum;
  }
  // The same, showing each step: `each(context sum, new blocks)`.
  template <class Each>
  std::int64_t walk(std::int64_t first, std::int64_t count, Each each) const {
    std::int64_t sum = 0, context = context_sum(first);
    for (std::int64_t i = 0; i < count; ++i) {
      const std::int64_t fresh = new_blocks(first + i);
      sum += fresh;
      each(context, fresh);
      context += size_;
    }
    return sum;
  }
  // How many steps from `first` on can be given blocks out of `free`; at most `limit`.
  std::int64_t steps_within(std::int64_t first, std::int64_t free, std::int64_t limit) const {
    if (size_ == 0) return limit;
    std::int64_t steps = (free / size_) * block_size_;
    if (steps >= limit) return limit;
    free -= (free / size_) * size_;
    while (steps < limit && new_blocks(first + steps) <= free) free -= new_blocks(first + steps++);
    return steps;
  }

 private:
  std::size_t modulo(std::int64_t step) const {
    const std::int64_t m = step % block_size_;
    return static_cast<std::size_t>(m < 0 ? m + block_size_ : m);
  }
  void change(std::int64_t base, std::int32_t by) {
    size_ += by;
    base_sum_ += by * base;
    needs_block_[modulo(-base)] += by;  // base + k ≡ 0 (mod block size) for k ≡ −base
    ORRERY_DCHECK(size_ >= 0, "a decode set has no negative size");
  }

  std::int32_t block_size_;
  std::int32_t size_ = 0;
  std::int64_t base_sum_ = 0;
  std::vector<std::int32_t> needs_block_;  // by step mod block size
};

}  // namespace orrery
