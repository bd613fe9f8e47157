// The paged KV pool of one engine instance as vLLM 0.24 keeps it: reference counts, a hashed prefix cache,
// and a free list whose order decides what is evicted (../shared/reference/vllm_0_24.md §2).
//
// What a simulator must get right is *content*, not addresses: which block a sequence is given changes
// nothing, which cached content is dropped for it changes every later hit. So the pool is kept as
//   - a count of blank free blocks: they always stand at the head of the free list, because un-hashed blocks
//     are prepended and hashed ones appended;
//   - a queue of free cached extents (runs of consecutive blocks of one owner, freed tail first, so that
//     eviction shortens the end of a run);
//   - for content that another sequence can name (hash ids, a session's stream), an index from content to
//     the resident copies, in order of registration.
// Allocation, growth, release and eviction therefore cost per extent, not per block.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "base/digest.h"
#include "base/ids.h"
#include "sim/cache_events.h"

namespace orrery {

// What a sequence's tokens are, as far as another sequence could have the same ones.
struct KvContent {
  // Prompt blocks by name: hash_ids[i] names tokens [i·hash_block_size, (i+1)·hash_block_size). Equal ids are
  // equal tokens; a prefix is equal when all its ids are. The last id may name a part of its block.
  std::span<const std::uint64_t> hash_ids;
  std::int32_t hash_block_size = 512;
  // A session's token stream (0 = none): every sequence of the stream has the same token at the same
  // position, outputs included. Ignored when hash_ids are given.
  std::uint64_t stream = 0;
  // Tokens that hash_ids name (the prompt's length); tokens after them (outputs) are private.
  std::int64_t named_tokens = 0;
};

class KvBlockManager {
 public:
  struct Config {
    std::int64_t num_blocks = 0;   // as the engine logs it: block 0 is the null block, the others are usable
    std::int32_t block_size = 16;  // tokens
    bool prefix_caching = true;    // off: every released block becomes blank, lookups find nothing
    // Groups of layers that have block tables of their own in this one pool (vLLM's KV cache groups). All
    // grow alike; those with a sliding window give back what the window has left behind.
    std::int32_t full_groups = 1, window_groups = 0;
    std::int32_t window = 0;  // tokens that a layer with a window sees, the newest included
    // The groups with a window keep states, of which only the newest is needed (a window of 2) and any at the
    // end of a block can be found again (kv_states.cpp). `chunk_ends`: a chunk takes a block at its end only.
    bool cached_states = false, chunk_ends = false;
    // With windows: a drafter has the last matched block computed again in every group, so a hit is a block
    // shorter than what is resident with its window (`drop_eagle_block`).
    bool drops_last = false;
    // Blocks of every admitted sequence, whatever its length, for layers that keep a state (vLLM's
    // MambaManager without prefix caching: one a group, blocks are as long as the longest sequence; and one
    // more for each draft, with prefix caching too).
    std::int32_t state_groups = 0;
  };
  using Handle = std::uint32_t;  // a sequence known to the pool; given by open()

  // Blocks at the start of a sequence that are resident under the same content. With windows: of each group;
  // of those with a window only the last ones need be resident, and only those are taken.
  struct Hit {
    std::int64_t blocks = 0;
    std::int64_t idle = 0;      // in all groups, those that no sequence holds: they leave the free list when
                                // taken
    std::int64_t attended = 0;  // with cached states: blocks that the other groups have, states or not
    bool fresh = false;         // the state was registered in the step under way: it cannot be used yet
  };

  explicit KvBlockManager(const Config& config);
  KvBlockManager(KvBlockManager&&) noexcept;
  ~KvBlockManager();

  Handle open(const KvContent& content);  // copies the content
  void close(Handle sequence);            // the sequence is gone; it must hold no block

  // The longest run of resident blocks from block 0, at most (tokens − 1) / block_size of them; `tokens` =
  // prompt + outputs known. Where content is resident twice the copy registered first counts. A preempted
  // sequence finds its own released blocks that survived, private ones too.
  Hit lookup(Handle sequence, std::int64_t tokens) const;

  std::int64_t usable_blocks() const;  // num_blocks − 1
  std::int64_t free_blocks() const;    // blank and cached-but-idle ones; what the engine logs as free_blocks

  // Takes references on the first `hit.blocks` blocks that lookup() just returned for this sequence.
  // Precondition: the sequence holds nothing, and nothing changed since that lookup. `hit.blocks` may be
  // lowered (a drafter drops the last matched block).
  void take_prefix(Handle sequence, std::int64_t tokens, Hit hit);
  // The same and all other blocks up to `total`, whose content will come from elsewhere. Groups with a window
  // have no block before `begin`, found or not (`allocate_external_computed_blocks`). What it takes: blocks
  // of all groups, and found ones that leave the free list.
  struct Fetch {
    std::int64_t blocks = 0, idle = 0;
  };
  Fetch fetch_of(Handle sequence, Hit hit, std::int64_t total, std::int64_t begin) const;
  void take_fetched(Handle sequence, std::int64_t tokens, Hit hit, std::int64_t total, std::int64_t begin);
  // Allocates `blocks` for each group from the head of the free list (dropping what was cached there) as the
  // next blocks of the sequence. Precondition: groups · blocks ≤ free_blocks(); with `chunk_ends` groups of
  // states take the last of them only, and what was before it has been slid away but for one.
  void grow(Handle sequence, std::int64_t blocks);
  // The blocks of a sequence's states, until release(). Precondition: it holds none, and state_groups ≤
  // free_blocks().
  void take_states(Handle sequence);
  // The same for decode growth, without saying whose: release() is told the sequence's total.
  void grow_unattributed(std::int64_t blocks);
  // The sequence's first `full_blocks` blocks are full and hashed: later lookups find them, in the same step
  // too. Monotone; calls that do not raise the count change nothing. Blocks beyond those that grow() gave
  // count as taken from grow_unattributed().
  void publish(Handle sequence, std::int64_t full_blocks);
  // The sequence gives back all its blocks: `total_blocks` in all (hits, grown and unattributed ones), of
  // which the first `hashed_blocks` carry a hash (what was not published yet is now). In reverse order;
  // references drop by one; blocks that reach zero are appended to the free list when hashed, and prepended
  // as blank when not. The handle stays open (preemption). Counts are of one group; `window_begin` is read
  // after count_window() only: the blocks that slide_counted() took of this sequence's front, and all before.
  void release(Handle sequence, std::int64_t total_blocks, std::int64_t hashed_blocks,
               std::int64_t window_begin = 0);

  // Windows. The blocks before block `begin` leave the window: references drop by one, tail first.
  void slide_window(Handle sequence, std::int64_t begin);
  // From here on the blocks in the sequence's window are a count, as those of grow_unattributed() are. Not
  // (false) while some of them are shared or could be found by others.
  bool count_window(Handle sequence);
  // So many sequences, of those counted, give back the first block in their windows. Its content is not
  // remembered: only the sequence itself could ask for it, and not before everything released later is gone.
  void slide_counted(std::int64_t sequences);

  // With cached states: what was registered so far can be used from here on.
  void begin_step();

  // From now on says what becomes findable and what is evicted, as far as others can name it. One group only.
  void watch(CacheEvents* events);

  // Drops all cached content; free list order stays (the engine's reset_prefix_cache). False when a block is
  // held.
  bool reset_prefix_cache();

  std::int64_t allocated_in_total() const;  // blocks handed out; ÷ usable_blocks() = times the pool wrapped
  std::int64_t evicted_in_total() const;    // cached blocks dropped to hand them out
  void check_invariants() const;            // O(everything): counts add up, list and index agree; for tests
  std::uint64_t state_digest() const;       // of counts and free-list content, for tests

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace orrery
