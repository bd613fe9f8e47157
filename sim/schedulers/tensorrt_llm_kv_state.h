// What a pool of TensorRT-LLM's KV blocks keeps: the tree with its queues, and what each sequence holds.
#pragma once

#include <algorithm>
#include <vector>

#include "sim/schedulers/tensorrt_llm_kv.h"
#include "sim/schedulers/tensorrt_llm_kv_tree.h"

namespace orrery {

namespace trtllm {

inline constexpr std::int64_t kEndless = std::int64_t{1} << 40;

struct Sequence {
  bool open = false;
  bool stream = false;
  std::uint64_t own_id = 0;  // names its own tokens
  std::uint64_t stream_id = 0;
  std::int64_t named = 0;      // tokens from here on are its own
  std::int32_t name_size = 1;  // tokens of a hash id
  std::vector<std::uint64_t> names;
  Id root = trtllm::kPrivateRoot;
  // Where first_missing() came to last time: its first `seen` blocks led to `seen_node`, while that has the
  // serial (a node in the tree has all its ancestors there).
  Id seen_node = kNone;
  std::uint64_t seen_serial = 0;
  std::int64_t seen = 0;
  std::vector<Id> blocks;   // records of its first blocks
  std::int64_t linked = 0;  // so many were found or stored, full ones; while the last is in the tree all are
  std::int64_t more = 0;    // blocks behind those that add_sequence() gave
  // The front of a window's sequence that it gave back (tensorrt_llm_kv_windows.cpp), with what tells whether
  // each still is what it was.
  std::int64_t gone() const { return static_cast<std::int64_t>(births.size()); }
  std::vector<std::uint64_t> births;
};

}  // namespace trtllm

struct TensorRtLlmKvPool::State {
  explicit State(const Config& c) : config(c) {
    tree.device.blank = c.num_blocks;
    if (c.block_reuse) tree.host.blank = c.host_blocks;  // else no block ever holds names of tokens (§4.5)
  }

  trtllm::Sequence& at(Handle handle) {
    ORRERY_CHECK(handle < sequences.size() && sequences[handle].open, "KV pool: not an open sequence");
    return sequences[handle];
  }
  std::int64_t blocks_for(std::int64_t tokens) const {
    return (tokens + config.block_size - 1) / config.block_size;
  }
  // Tokens of block `index` when the content ends at `end`.
  std::int32_t tokens_of(std::int64_t index, std::int64_t end) const {
    return static_cast<std::int32_t>(
        std::min<std::int64_t>(config.block_size, end - index * config.block_size));
  }
  // Leading blocks of `tokens` tokens that somebody else could name.
  std::int64_t named_blocks(const trtllm::Sequence& s, std::int64_t tokens) const {
    return blocks_for(std::min(s.named, tokens));
  }
  trtllm::BlockKey key_of(const trtllm::Sequence& s, std::int64_t index, std::int32_t tokens) const;
  trtllm::Id new_block();
  trtllm::Block fresh(std::int32_t refs) {  // a record of a block that is a sequence's own
    trtllm::Block b;
    b.refs = refs;
    b.birth = ++births;
    return b;
  }
  trtllm::Id claim(const trtllm::BlockTree::Match& match);
  void onboard(trtllm::Id id);
  trtllm::Id store(trtllm::Sequence& s, std::int64_t blocks, std::int64_t end);
  bool keeps_its_front(const trtllm::Sequence& s) const;  // nobody got what its window left

  Config config;
  trtllm::BlockTree tree;
  std::int64_t unattributed = 0, allocated = 0, onboarded = 0;
  std::uint64_t opened = 0, simulation = 0, births = 0;
  std::vector<trtllm::Sequence> sequences;
  std::vector<Handle> closed;
};

}  // namespace orrery
