// What an engine step is to run, and what happened to it.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/ids.h"
#include "base/time.h"
#include "sim/images.h"

namespace orrery {

// New tokens of one sequence that extend its prompt, or re-compute it after a preemption.
struct PrefillWork {
  SequenceId sequence;
  RequestId request;
  std::int32_t new_tokens = 0;
  std::int64_t context = 0;         // tokens already in the KV cache
  bool samples = false;             // the last chunk: a token is sampled after it
  std::int32_t outputs_before = 0;  // output tokens that the sequence had when it was (re)admitted
};

// Prefill and decode apart: a sequence whose first token came with its KV, and is passed on at once.
struct HandedWork {
  SequenceId sequence;
  RequestId request;
  std::int32_t tokens = 0;  // of the prompt
  bool ends = false;        // it is its last one, and the sequence is gone
};

// Speculation: a decode with the drafts that it verifies.
struct VerifyWork {
  SequenceId sequence;
  RequestId request;
  std::int32_t drafts = 0;
  bool padded = false;  // so many are computed however few were proposed; the rest is rejected
};

// Speculation: what a sequence said in an updated step.
struct SpokenTokens {
  SequenceId sequence;
  RequestId request;
  std::int32_t drafts = 0, accepted = 0;  // verified, and of them accepted
  std::int32_t tokens = 0;                // accepted + 1, or up to an EOS
  std::int32_t next_drafts = 0;           // proposed to follow
  bool eos = false;
  bool first = false;  // after a prompt
};

// A token that a decode computes, by its name: its place in the request, from 0. Speculation: that many
// places in a row.
struct DecodingToken {
  RequestId request;
  std::int64_t place = 0;
  std::int32_t tokens = 1;
  friend bool operator==(const DecodingToken&, const DecodingToken&) = default;
};

// Knows the members of the plan that a scheduler just made, whose sum it is. Asked only where tokens matter
// one by one (experts drawn for each), at most once a plan, before the scheduler's next call.
class DecodingTokens {
 public:
  virtual ~DecodingTokens() = default;
  virtual void append_decoding(std::vector<DecodingToken>& tokens) const = 0;
};

// Attention data parallelism: one rank's part of a joint step.
struct RankPlan {
  std::size_t first_prefill = 0, prefills = 0;  // its part of StepPlan::prefill
  std::size_t first_joined = 0, joins = 0;      // and of StepPlan::joined
  std::int32_t decode_sequences = 0;
  std::int64_t decode_context_tokens = 0;
  std::int32_t new_requests = 0, running = 0;
  bool runs = false;                         // false: it sits the step out
  bool stalls_decodes = false;               // as StepPlan's, of this rank
  const DecodingTokens* decoding = nullptr;  // as StepPlan's
};

// A view of the step: the decode set as sums, kept incrementally by the scheduler, and a short list of
// prefill chunks. Valid until the scheduler's next call.
struct StepPlan {
  std::span<const PrefillWork> prefill;    // in schedule order
  std::int32_t decode_sequences = 0;       // one token each
  std::int64_t decode_context_tokens = 0;  // sum over decodes of tokens in the KV cache before the step
  std::int32_t decode_irregular = 0;      // decodes whose previous token was not sampled in the previous step
  std::int32_t new_requests = 0;          // admitted in this step, resumed ones included
  std::int32_t running = 0, waiting = 0;  // after scheduling
  std::int64_t prefill_tokens = 0;
  std::int64_t free_blocks = 0;        // after this step's allocations
  std::span<const EncodeWork> encode;  // images that the encoder computes before this step's chunks
  std::span<const SequenceId> preempted;
  std::span<const SequenceId> preempted_for;  // whose blocks each of them had to make room for
  std::span<const SequenceId> paused;         // decodes passed over in this step (no budget left for them)
  // Ended without an answer by the engine itself (SGLang: not even one sequence fits).
  std::span<const SequenceId> aborted;
  std::span<const HandedWork> handed;
  // Who joins the decode set without a chunk in this engine's steps; `outputs_before`: with so many outputs,
  // and `context` tokens in the KV cache.
  std::span<const PrefillWork> joined;
  std::size_t turned_away = 0;  // the first of them: a full queue has no place for them (any more)
  // No member of the decode set runs in this step, whoever is in it: all ends move back by one step.
  bool stalls_decodes = false;
  // The token that an open step samples for a preempted sequence is thrown away and sampled again later.
  bool preemption_drops_token = false;
  // Speculation: all decodes of the step, in running order, and the drafts among them; contexts are then what
  // the scheduler allows for, which steps in flight may not reach. Empty otherwise.
  std::span<const VerifyWork> verify;
  std::int64_t draft_tokens = 0;  // of the rows, padding included where the engine pads them
  bool without_drafting = false;  // nobody drafts for the step after this one
  // Blocks that cross the host link layer by layer while the step runs, which does not end before them, and
  // copies that the core thread waited for before it could compose the step.
  std::int64_t load_blocks = 0, blocking_store_blocks = 0;
  // KV blocks that cross the host link between the step before and this one, which waits for them.
  std::int64_t onboarded_blocks = 0, offloaded_blocks = 0;
  // Pipeline stages (vLLM): nobody may run, and the batch of nobody takes a place in flight all the same.
  bool empty_batch = false;
  // Pipeline stages in a ring: the first stage hands this step on when it has processed the oldest open one.
  bool hands_on_after_update = false;
  // > 1 offers a stretch: the same decode set, contexts growing by one each step, may be run so many times in
  // a row, each update followed by the next step. The executor may take fewer.
  std::int64_t repeat = 1;
  // Attention data parallelism: every rank's part, in order; the rest of the plan is their sums and lists.
  // Empty without. Sequence slots of rank r are r modulo the number of ranks.
  std::span<const RankPlan> ranks;
  // Who decodes; null where `verify` or `ranks` say it, or nobody can.
  const DecodingTokens* decoding = nullptr;
  bool after_idle = false;  // with ranks: none of them had a request some time since the step before
  std::int64_t tokens() const { return prefill_tokens + decode_sequences + draft_tokens; }
};

// When the resources of an instance took up one step.
struct StepStamp {
  SimTime schedule_begin, launch_begin, device_begin, device_end;
};

// Outcome of `updates.size()` consecutive steps of one instance, oldest first, whose outputs the core thread
// has processed. A stretch of n steps reports n updates at once, at the boundary where the core thread may
// schedule again.
struct StepOutcome {
  InstanceId instance;
  StepId first;                      // first updated step
  std::int64_t scheduled = 0;        // steps of the last submitted plan that were begun (1, or the stretch's
                                     // length)
  std::span<const SimTime> updates;  // end of update, per step
  std::span<const SequenceId> eos;   // sequences that emitted EOS in the last updated step
  std::span<const SpokenTokens> spoken;  // speculation: of the one updated step, everybody who said something
  SimTime at;                            // when the core thread is free again
  // For records: of the first updated step, the one after it (stretches), and the last.
  StepStamp first_stamp, second_stamp, last_stamp;
};

// The core thread is free although fewer steps than allowed are open (after an idle start).
struct HostFree {
  InstanceId instance;
  SimTime at;
};

// A transfer over an instance's host link has ended.
struct TransferDone {
  InstanceId instance;
  std::uint64_t id = 0;  // as issued
  SimTime at;
};

struct Outcomes {
  std::vector<HostFree> host_free;
  std::vector<StepOutcome> steps;
  std::vector<TransferDone> transfers;
  void clear() {
    host_free.clear();
    steps.clear();
    transfers.clear();
  }
  bool empty() const { return host_free.empty() && steps.empty() && transfers.empty(); }
};

}  // namespace orrery
