// Physical KV blocks of one instance. Its scheduler's pool keeps content and counts, no addresses
// (sim/kv_block_manager.h); kernels need addresses. Here sequences get numbers of blocks, by what a plan says
// (who begins, with how many tokens found; who grows, is preempted, ends) and by what the pool says can be
// found (CacheEvents). As many numbers as the pool has blocks are always enough:
//   - of content that others can name, one copy is kept as long as the pool can find it; several only while
//     each of them is somebody's, and one again when a number is needed (which of them somebody shares is the
//     pool's choice, by when it learned of them; the same content is in each);
//   - what only a preempted sequence could ask for goes in the order in which the pool drops it (released
//     first, and its end before its beginning), and only when a number is needed;
//   - everything else that is held by nobody is free.
#pragma once

#include <cstdint>
#include <deque>
#include <span>
#include <unordered_map>
#include <vector>

#include "base/ids.h"
#include "sim/cache_events.h"
#include "sim/request.h"

namespace orrery {

class KvBlockMap final : public CacheEvents {
 public:
  // Numbers 1 … blocks − 1; 0 is nobody's (vLLM's null block), where rows that stand for padding go.
  KvBlockMap(std::int64_t blocks, std::int32_t block_size);

  void holds(const Reach& reach) override;  // of the scheduler's pool

  // A plan, in this order: that there is one; who is preempted; who begins or goes on, with what was found (a
  // multiple of the block size); then, in the plan's order, blocks for `tokens` tokens in all.
  void next_plan() { ++plan_; }
  void preempt(SequenceId sequence);
  void begin(SequenceId sequence, const Request& request, std::int64_t found_tokens);
  void cover(SequenceId sequence, std::int64_t tokens);
  void end(SequenceId sequence);  // no effect where it has nothing

  // Whole blocks at the beginning of a prompt, but for its last token, that the pool can find and that are
  // here.
  std::int64_t findable(const Request& request) const;

  bool begun(SequenceId sequence) const {
    return sequence.value() < tables_.size() && tables_[sequence.value()].live;
  }
  std::span<const std::int32_t> table(SequenceId sequence) const { return tables_[sequence.value()].blocks; }
  // Tokens that the sequence's blocks hold or will when the steps submitted so far have run.
  std::int64_t tokens(SequenceId sequence) const { return tables_[sequence.value()].tokens; }

  std::int64_t usable_blocks() const { return static_cast<std::int64_t>(blocks_.size()) - 1; }
  std::int64_t free_blocks() const { return static_cast<std::int64_t>(free_.size()); }
  // Blocks that the pool found and this map had not; 0, or the content of what was read is not what it should
  // be.
  std::int64_t missed() const { return missed_; }
  void check_invariants() const;  // for tests: counts add up, nothing is lost or twice free

 private:
  struct Key {
    std::uint64_t beginning = 0;
    std::int32_t block = 0;
    friend bool operator==(const Key&, const Key&) = default;
  };
  struct KeyHash {
    std::size_t operator()(const Key& k) const {
      return static_cast<std::size_t>(k.beginning ^
                                      (static_cast<std::uint64_t>(k.block) * 0x9E3779B97F4A7C15ull));
    }
  };
  struct Block {
    std::int32_t holders = 0;
    bool kept = false;       // of a preempted sequence's private content
    bool named = false;      // stands under its key
    std::int32_t next = 0;   // likewise, the next copy; 0: none
    std::uint64_t plan = 0;  // that computes it
    Key key;
  };
  struct Table {
    bool live = false, awaits = false;  // awaits: some block is to come
    std::int64_t tokens = 0;
    std::vector<std::int32_t> blocks;                   // −1: found, and to be computed in this very plan
    std::vector<std::uint64_t> beginnings;              // names of the prompt, as a chain; one of a stream's
    std::int64_t named_blocks = 0, tokens_of_name = 0;  // 0: a stream's only one
    std::vector<std::int32_t> kept;  // private blocks of before a preemption, from block kept_from on
    std::int64_t kept_from = 0;
  };
  Table& table_of(SequenceId sequence);
  void name(Table& table, const Request& request) const;
  Key key_of(const Table& table, std::int64_t block) const;
  void resolve(Table& table);
  std::int32_t take();
  bool join_copies();
  void let_go(std::int32_t id);
  void give_back(std::int32_t id);
  void forget_name(std::int32_t id);
  void drop_kept(Table& table, std::size_t from);
  void register_full(Table& table, std::int64_t tokens);

  std::int32_t block_size_;
  std::vector<Block> blocks_;
  std::vector<std::int32_t> free_;
  std::vector<Table> tables_;
  std::deque<std::uint32_t> kept_order_;                   // tables; entries go stale
  std::unordered_map<Key, std::int32_t, KeyHash> named_;   // looked up, never iterated
  std::unordered_map<std::uint64_t, std::int64_t> reach_;  // by beginning: blocks; likewise
  std::vector<std::int32_t> copies_;  // that stood second under their key; entries go stale
  std::uint64_t plan_ = 0;
  std::int64_t missed_ = 0;
};

}  // namespace orrery
