// Groups of layers that keep a state, with prefix caching, as vLLM 0.24's MambaManager keeps them
// (v1/core/single_type_kv_cache_manager.py): only the newest state of a sequence is needed, so such a group
// is one with a window of 2 tokens, and a hit needs one block of it, at the hit's end. What is special:
//   - mamba_cache_mode `align`: a chunk writes one state, at its end, so it takes one block, wherever it ends
//     (`allocate_new_blocks`); the state before it is kept for a step, to be copied from
//     (`last_state_block_idx`);
//   - a state that is registered in a step cannot be used in it: the sequence waits for the next
//     (`cached_blocks_this_step`).
#include <algorithm>

#include "sim/kv_pool_state.h"

namespace orrery {

using kv::Id;
using kv::kNone;

// The block that it holds of its own stands apart, as a block that it found would: what it takes next does
// not follow it.
void KvBlockManager::State::keep_apart(Sequence& sequence) {
  const std::int32_t own = sequence.own_begin(), end = sequence.own_end;
  if (own == end) return;
  ORRERY_CHECK(end - own == 1 && sequence.last_run == kNone, "KV pool: more than one state before a chunk");
  Id id = sequence.last_own;
  if (sequence.private_begin() == own) {
    if (sequence.private_node == kNone) {
      sequence.private_node = pool.tree.make_private(sequence.serial);
      pool.tree[sequence.private_node].users = 1;
    }
    id = pool.add(sequence.private_node, own, end, 1, kNone);
  }
  sequence.last_run = runs.make(kv::PrefixRun{id, own, kNone});
  sequence.last_own = kNone;
  sequence.hits = end;
}

// A chunk of several blocks.
void KvBlockManager::State::take_chunk_end(Sequence& sequence, std::int32_t blocks) {
  keep_apart(sequence);
  sequence.gap_end = sequence.own_end + blocks - 1;
}

void KvBlockManager::begin_step() { state_->fresh.clear(); }

// Blocks from `begin` on have just been registered.
void KvBlockManager::State::note_fresh(const Sequence& sequence, std::int32_t begin) {
  std::int32_t ignored = 0;
  const std::int32_t end = std::min(sequence.published, sequence.named_blocks);
  for (std::int32_t block = std::max(begin, sequence.own_begin()); block < end; ++block)
    fresh.emplace_back(node_of(sequence, block, &ignored), block);
}

bool KvBlockManager::State::is_fresh(const Sequence& sequence, std::int32_t block) const {
  std::int32_t ignored = 0;
  return std::find(fresh.begin(), fresh.end(), std::pair(node_of(sequence, block, &ignored), block)) !=
         fresh.end();
}

}  // namespace orrery
