// What a prompt finds in host memory, group of layers by group of layers (`_lookup` of the offloading
// connector's scheduler.py, vLLM 0.24.0): a prefix of those that keep every token, then a window's worth of
// blocks at its end of those with a window; whichever is shorter sends the others back to look again.
#include <algorithm>

#include "sim/schedulers/vllm_offload.h"

namespace orrery {

// `_maximal_prefix_lookup`: blocks from `begin` on; one that is being written makes the answer wait.
std::int64_t VllmOffload::prefix_at(Look& look, std::int32_t group, std::int64_t begin,
                                    std::int64_t end) const {
  std::int64_t at = begin;
  for (; at < end; ++at) {
    const HostTier::Found found = tier_.lookup(key(look.s, at, group));
    if (found == HostTier::Found::missing) break;
    look.wait |= found == HostTier::Found::being_written;
  }
  return look.wait ? -1 : at - begin;
}

// `_sliding_window_lookup`: from the right, the end of the last run of `needed` blocks; what reaches back to
// `begin` may be shorter, because the device has the rest.
std::int64_t VllmOffload::window_at(Look& look, std::int32_t group, std::int64_t begin, std::int64_t end,
                                    std::int64_t needed) const {
  std::int64_t run = 0;
  bool wait = false;
  for (std::int64_t at = end; at-- > begin;) {
    const HostTier::Found found = tier_.lookup(key(look.s, at, group));
    wait |= found == HostTier::Found::being_written;
    run = found == HostTier::Found::ready ? run + 1 : 0;
    if (run == needed) {
      run = at - begin + needed;
      break;
    }
  }
  look.wait |= wait;
  return wait ? -1 : run;
}

// One group's say. `after_window`: a group with a window has been looked at in this round.
VllmOffload::Next VllmOffload::look_at(Look& look, std::int32_t group, bool after_window) {
  const bool window = windowed(group), waited = look.wait;
  const bool shortens = groups_.drafts && ((look.verified >> group) & 1U) == 0;
  look.most = std::min(look.most, look.keys * block_size_);
  if (look.most - look.computed < block_size_) return Next::nothing;
  // A drafter's block more is looked for and left out again.
  const std::int64_t most = look.most + (shortens && window ? block_size_ : 0);
  const std::int64_t begin = look.computed / block_size_;
  const std::int64_t end = std::min((most + block_size_ - 1) / block_size_, look.keys);
  look.wait = false;
  std::int64_t found = window ? window_at(look, group, begin, end, window_blocks() + (shortens ? 1 : 0))
                              : prefix_at(look, group, begin, end);
  look.wait |= waited;
  if (found == 0) return Next::nothing;
  if (found > 0) {
    if (shortens) {
      --found;
      look.verified |= std::uint64_t{1} << group;
    }
    look.most = std::min(look.most, (begin + found) * block_size_);
  }
  const std::int64_t hit = look.most - look.computed;
  if (hit < block_size_) return Next::nothing;
  const bool shorter = hit < look.hit;
  look.hit = hit;
  if (!shorter) return Next::go_on;
  if (!groups_.drafts) look.verified = 0;
  if (look.wait) {
    look.wait = false;
    return Next::all_again;
  }
  return after_window ? Next::windows_again : Next::go_on;
}

// False: nothing can be loaded.
bool VllmOffload::find(Look& look) {
  for (std::int32_t first = 0; first < count();) {
    std::int32_t again = count();
    bool after_window = false;
    for (std::int32_t g = first; g < count(); ++g) {
      const Next next = look_at(look, g, after_window);
      if (next == Next::nothing) {
        look.wait = false;
        return false;
      }
      if (next == Next::all_again) again = 0;
      if (next == Next::windows_again) again = std::min(again, groups_.full);
      after_window |= windowed(g);
    }
    first = again;
  }
  return true;
}

// Whether another request brings some of it at this moment (`_blocks_being_loaded`).
bool VllmOffload::is_loading(const Look& look) const {
  if (look.hit == 0) return false;
  const std::int64_t begin = look.computed / block_size_;
  const std::int64_t end = (look.computed + look.hit + block_size_ - 1) / block_size_;
  for (const Transfer& t : open_) {
    if (!t.is_load) continue;
    for (std::int32_t g = 0; g < count(); ++g) {
      const std::int64_t from = windowed(g) ? std::max(begin, end - window_blocks()) : begin;
      for (std::int64_t i = from; i < end; ++i) {
        if (std::find(t.keys.begin(), t.keys.end(), key(look.s, i, g)) != t.keys.end()) return true;
      }
    }
  }
  return false;
}

}  // namespace orrery
