// vLLM's native KV offloading to host memory (OffloadingConnector of 0.24.0: distributed/kv_transfer/
// kv_connector/v1/offloading/scheduler.py; ../shared/reference/vllm_0_24.md §8): what a prompt finds there,
// what is stored, and which transfers are under way.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "sim/host_link.h"
#include "sim/host_tier.h"
#include "sim/request.h"
#include "sim/scheduler.h"

namespace orrery {

class VllmOffload {
 public:
  using Slot = std::uint32_t;

  // Groups of layers as the pool has them (sim/kv_windows.cpp): a block of the tier is one group's. `drafts`:
  // the last block of what is known is a drafter's in every group, neither stored nor loaded (`use_eagle`).
  struct Groups {
    std::int32_t full = 1, windowed = 0;
    std::int64_t window = 0;  // tokens
    bool drafts = false;
    // Layers that keep a state stand among the windowed ones; a chunk has a state at its end only
    // (mamba_cache_mode align).
    bool chunk_ends = false;
  };

  VllmOffload(const OffloadRules& rules, std::int32_t block_size, const Groups& groups)
      : rules_(rules), block_size_(block_size), groups_(groups), tier_(rules.blocks) {}

  void open(Slot slot, const Request& request);
  void close(Slot slot);

  // Blocks behind the `local` ones found on the device that can be loaded, of `tokens` known tokens; none
  // when the answer must wait (some are being written, or being loaded by another request, or the request has
  // transfers of its own under way).
  std::optional<std::int64_t> match(Slot slot, std::int64_t local, std::int64_t tokens);
  // Loads [local, local + blocks), which match() just found; of groups with a window from `window_begin` on.
  // The blocks that travel, of all groups.
  std::int64_t load(Slot slot, std::int64_t local, std::int64_t blocks, std::int64_t window_begin);
  bool loading(Slot slot) const { return sequences_[slot].loads > 0; }
  // The first `blocks` blocks are full, or will be when the step just composed has run (`behind_step`; else
  // those of a sequence that ends, of which the engine stored each as it filled). Groups with a window have
  // none before `window_begin`.
  void store(Slot slot, std::int64_t blocks, std::int64_t prompt, bool behind_step,
             std::int64_t window_begin);
  void ended(std::uint64_t transfer);

  const std::vector<TransferWork>& issued() const { return issued_; }  // since clear_issued()
  void clear_issued() { issued_.clear(); }
  bool busy() const { return !open_.empty(); }
  OffloadCounters counters() const;
  const HostTier& tier() const { return tier_; }

 private:
  struct Sequence {
    std::vector<std::uint64_t> chain;  // digest of hash ids up to and with this one
    std::int64_t hash_block = 0, named_tokens = 0;
    std::uint64_t stream = 0, serial = 0;
    std::int64_t stored = 0;  // blocks that were offered to the tier
    std::int32_t loads = 0, stores = 0;
    std::uint32_t epoch = 0;
    bool refused = false;  // the last store found no room
  };
  struct Transfer {
    std::uint64_t id = 0;
    Slot slot = 0;
    std::uint32_t epoch = 0;
    bool is_load = false;
    std::vector<HostTier::Key> keys;
  };
  struct Look {  // of one look-up (`_lookup`)
    const Sequence& s;
    std::int64_t computed = 0, keys = 0, most = 0, hit = 0;  // tokens, blocks, tokens, tokens
    std::uint64_t verified = 0;                              // groups of a drafter that are a block shorter
    bool wait = false;
  };
  enum class Next : std::uint8_t { go_on, nothing, all_again, windows_again };
  HostTier::Key key(const Sequence& s, std::int64_t block, std::int32_t group = 0) const;
  std::int32_t count() const { return groups_.full + groups_.windowed; }
  bool windowed(std::int32_t group) const { return group >= groups_.full; }
  std::int64_t window_blocks() const { return (groups_.window + block_size_ - 1) / block_size_; }
  Next look_at(Look& look, std::int32_t group, bool after_window);
  std::int64_t prefix_at(Look& look, std::int32_t group, std::int64_t begin, std::int64_t end) const;
  std::int64_t window_at(Look& look, std::int32_t group, std::int64_t begin, std::int64_t end,
                         std::int64_t needed) const;
  bool find(Look& look);
  bool is_loading(const Look& look) const;
  void touch(const Look& look);
  void issue(Slot slot, bool is_load, bool behind_step, std::vector<HostTier::Key> keys);

  OffloadRules rules_;
  std::int32_t block_size_;
  Groups groups_;
  HostTier tier_;
  std::vector<Sequence> sequences_;
  std::vector<Transfer> open_;  // in order of issue
  std::vector<TransferWork> issued_;
  std::vector<HostTier::Key> keys_, to_store_;
  std::uint64_t next_id_ = 0, next_serial_ = 0;
  OffloadCounters counters_;
};

}  // namespace orrery
