// The KV pool of one TensorRT-LLM 1.2 instance (../shared/reference/tensorrt_llm_1_2.md §4; cited as §…
// below): a radix tree of stored blocks, one free queue, reuse to the token.
//
// It differs from vLLM's pool (sim/kv_block_manager.h) in what is found and when: content is in the tree once
// (a duplicate stays outside), a hit may end inside a block, prompts are stored one pass after they were
// computed and outputs when the request ends, and blocks without content stand in the queue like any other.
// There is no null block. All priorities are the default 35, so there is one queue on the device and, with
// host_blocks, one in host memory: what a device block held that is handed out again is copied there (any
// block that was used before: the engine never clears a block's tokens), and found there it is copied back.
//
// Blocks that nobody will ever look up (outputs and prompts without a name) have no record: they are counted,
// and stand in the queue as runs. So costs are per block with a name, and per sequence.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "sim/kv_block_manager.h"

namespace orrery {

class TensorRtLlmKvPool {
 public:
  struct Config {
    std::int64_t num_blocks = 0;
    std::int32_t block_size = 32;
    bool block_reuse = true;
    bool partial_reuse = true;
    bool copy_on_partial_reuse = true;  // off: only a leaf that nobody holds may be matched in part
    std::int64_t host_blocks = 0;       // §4.5: the secondary pool
  };
  struct HostUse {
    std::int64_t capacity = 0, used = 0;  // blocks
    std::int64_t offloaded = 0, onboarded = 0, dropped = 0;
  };
  using Handle = std::uint32_t;

  explicit TensorRtLlmKvPool(const Config& config);
  TensorRtLlmKvPool(TensorRtLlmKvPool&&) noexcept;
  ~TensorRtLlmKvPool();

  Handle open(const KvContent& content);  // copies the content
  void close(Handle sequence);            // it must hold no block

  std::int64_t num_blocks() const;
  std::int64_t free_blocks() const;  // with and without content: what the capacity scheduler counts with

  // §4.1, §4.2: takes what is stored of the first tokens − 1 tokens and allocates the rest of
  // ceil(tokens / block size) blocks. Returns the tokens found. Precondition: enough free blocks, none held.
  std::int64_t add_sequence(Handle sequence, std::int64_t tokens);
  // Blocks of decoding sequences, without saying whose: release() is told the sequence's total.
  void grow_unattributed(std::int64_t blocks);
  // §8: some of them again, of rejected drafts: to the front of the queue (releaseLastBlock).
  void shrink_unattributed(std::int64_t blocks);
  // §4.3: the full blocks among the first `tokens` tokens can be found from now on.
  void store(Handle sequence, std::int64_t tokens);
  // Gives back all its blocks, tail first, after storing the first `stored_tokens` tokens (the last block may
  // be partial). `comes_back`: it was paused and may find its own outputs again.
  void release(Handle sequence, std::int64_t total_blocks, std::int64_t stored_tokens, bool comes_back);

  // Of a pool of layers with a window (tensorrt_llm_kv_windows.cpp): the first `blocks` blocks of a sequence
  // are out of its window, so they are free. release() counts them in its total.
  void detach_front(Handle sequence, std::int64_t blocks);
  std::int64_t blocks_left_behind(Handle sequence) const;

  // §2.4: a name for the prefix up to the first full block of `tokens` that is not in the tree; nothing when
  // all are. Equal names mean equal prefixes as long as tree_version() stays.
  std::optional<std::uint64_t> first_missing(Handle sequence, std::int64_t tokens);
  std::uint64_t tree_version() const;

  // §2.3: how many blocks the release of a sequence would free, after those simulated since
  // begin_simulation().
  void begin_simulation();
  std::int64_t simulate_release(Handle sequence, std::int64_t total_blocks);

  HostUse host() const;
  std::int64_t free_without_offload() const;  // so many may be taken without a copy to host memory

  std::int64_t allocated_in_total() const;
  void check_invariants() const;       // O(everything), for tests
  std::uint64_t state_digest() const;  // of counts, queue and tree, for tests

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace orrery
