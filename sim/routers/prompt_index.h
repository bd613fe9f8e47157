// What a router keeps by the names of prompts' beginnings: what a cache holds, and which prompts run.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <unordered_map>

#include "sim/cache_events.h"
#include "sim/request.h"

namespace orrery {

struct Beginning {
  std::uint64_t name = 0;
  std::int64_t end = 0;  // tokens of the prompt up to here
};

// The prompt's beginnings, shortest first. A session's stream is one, as long as the prompt. Private content
// has none.
template <class Each>
void each_beginning(const Request& request, Each each) {
  if (request.hash_ids.empty()) {
    if (request.stream != 0)
      each(longer_beginning(beginning_by_stream(), request.stream), std::int64_t{request.prompt_tokens});
    return;
  }
  std::uint64_t name = beginning_by_ids(request.hash_block_size);
  std::int64_t end = 0;
  for (const std::uint64_t id : request.hash_ids) {
    if (end >= request.prompt_tokens) return;
    name = longer_beginning(name, id);
    end = std::min<std::int64_t>(end + request.hash_block_size, request.prompt_tokens);
    each(name, end);
  }
}

// A copy of what one cache holds, kept up by its events.
class PromptIndex {
 public:
  explicit PromptIndex(std::int32_t block_size) : block_size_(block_size) {}

  void set(const Reach& reach) {
    if (reach.to == reach.from) {
      const auto it = reach_.find(reach.beginning);
      if (it == reach_.end()) return;
      tokens_ -= it->second - reach.from;
      reach_.erase(it);
    } else {
      const auto it = reach_.try_emplace(reach.beginning, reach.from).first;
      tokens_ += reach.to - it->second;
      it->second = reach.to;
    }
  }
  // Tokens of the prompt that the engine will find: whole blocks, and never its last token.
  std::int64_t matched(std::span<const Beginning> beginnings, std::int64_t prompt_tokens) const {
    std::int64_t found = 0;
    for (const Beginning& b : beginnings) {
      const std::int64_t end = whole_blocks(b.end);
      if (end <= found) continue;  // no block ends in it
      const auto it = reach_.find(b.name);
      if (it == reach_.end()) break;
      found = std::max(found, std::min(it->second, end));
      if (it->second < end) break;
    }
    return std::min(found, whole_blocks(prompt_tokens - 1));
  }
  std::int64_t tokens() const { return tokens_; }  // of everything that it holds under a name

 private:
  std::int64_t whole_blocks(std::int64_t tokens) const { return tokens / block_size_ * block_size_; }

  std::int32_t block_size_;
  std::int64_t tokens_ = 0;
  std::unordered_map<std::uint64_t, std::int64_t> reach_;  // looked up, never iterated
};

// How many of the prompts that run somewhere have a beginning in common.
class RunningPrompts {
 public:
  // Blocks of this beginning's last name, if somebody has it.
  std::int64_t blocks(std::uint64_t name) const {
    const auto it = all_.find(name);
    return it == all_.end() ? 0 : it->second.blocks;
  }
  // One more, or one fewer; the blocks that are new, or nobody's any more.
  std::int64_t enter(std::uint64_t name, std::int64_t blocks) {
    Shared& s = all_[name];
    ++s.prompts;
    const std::int64_t fresh = std::max<std::int64_t>(0, blocks - s.blocks);
    s.blocks += fresh;
    return fresh;
  }
  std::int64_t leave(std::uint64_t name) {
    const auto it = all_.find(name);
    if (--it->second.prompts > 0) return 0;
    const std::int64_t blocks = it->second.blocks;
    all_.erase(it);
    return blocks;
  }

 private:
  struct Shared {
    std::int64_t prompts = 0, blocks = 0;
  };
  std::unordered_map<std::uint64_t, Shared> all_;  // looked up, never iterated
};

}  // namespace orrery
