// A serving engine's scheduler: a pure function of what it was told. It sees no price list, no GPU, no
// output length and no clock other than the `now` it is given.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/named_options.h"
#include "sim/cache_events.h"
#include "sim/host_link.h"
#include "sim/request.h"
#include "sim/speculation_counters.h"
#include "sim/step_plan.h"

namespace orrery {

// What only TensorRT-LLM's scheduler reads.
struct TensorRtLlmRules {
  bool max_utilization = false;  // capacity_scheduler_policy; false: GUARANTEED_NO_EVICT
  bool equal_progress = false;   // context_chunking_policy; false: FIRST_COME_FIRST_SERVED
  bool partial_reuse = true, copy_on_partial_reuse = true;
  bool store_at_first_chunk = true;  // of a chunked prompt all blocks can be found after its first chunk
  // max_attention_window: layers that keep so many tokens have a pool of so many blocks; 0 = there are none.
  std::int64_t window = 0, window_blocks = 0, window_host_blocks = 0;
  // What is sent, or copied to host memory, goes by equal parts of the layers: so many keep everything, so
  // many a window.
  std::int64_t full_parts = 1, window_parts = 1;
  // Attention data parallelism (sim/schedulers/tensorrt_llm_ranks.h): attention_dp_config.
  bool enable_balance = false;
  std::int64_t timeout_iters = 50, batching_wait_iters = 10;
  bool dealt_to = false;  // a rank's scheduler: takes in at once what it is given
  bool states = false;    // layers that keep a state: max_batch_size of them, whatever the stages
};

// What the engine allows its vision encoder, in embeddings; all 0 = there is none.
struct EncoderRules {
  std::int64_t compute_budget = 0;  // of one step
  std::int64_t cache_size = 0;
  bool disable_chunked_input = false;  // an image is never split over two steps
  bool elsewhere = false;              // encoded by another instance: fetched before, never computed here
};

// A tier of KV blocks in host memory; 0 blocks = there is none.
struct OffloadRules {
  std::int64_t blocks = 0;
  bool prompt_only = false;  // outputs are not stored
};

// Groups of layers with block tables of their own in one pool (vLLM's KV cache groups).
struct KvGroups {
  std::int32_t full = 1, windowed = 0;
  std::int32_t window = 0;           // tokens; of all windowed groups
  std::int64_t windowed_tokens = 0;  // SGLang: of the windowed layers' own pool; 0 = they share the other one
  // SGLang: slots of the pool of states, of which a sequence holds so many; and what a scan takes at once.
  std::int64_t state_slots = 0, slots_of_sequence = 0, state_chunk = 0;
  std::int64_t state_pages = 0;  // on a host link a state is as long as so many pages of the cache
  // Groups of layers that keep a state: so many blocks each for every running sequence.
  std::int32_t states = 0, blocks_of_state = 1;
  // With prefix caching they grow with a sequence, of whose states the newest is needed: at the end of every
  // block, or (`chunk_ends`) of every chunk.
  bool cached_states = false, chunk_ends = false;
  std::int32_t count() const { return full + windowed; }  // that grow with a sequence
};

// Speculative decoding, as a scheduler has to know it.
struct SpeculationRules {
  std::int32_t tokens = 0;      // drafts of a decode, at most; 0 = off
  std::int32_t depth = 0;       // SGLang's trees: of them at most so many are accepted; 0 = all
  std::int64_t slots = 0;       // SGLang: that a decode may write; 0 = its drafts and the token before them
  std::int64_t context = 0;     // SGLang: tokens of the context length that no request may ask for
  std::int32_t lookahead = 0;   // slots that the drafting network writes ahead of what is scheduled
  bool drops_last_hit = false;  // the last block found in the prefix cache is computed again
  // TensorRT-LLM: rows are padded to all `tokens` drafts, proposed or not; and nobody drafts while more
  // requests than this are active (0 = no such limit).
  bool padded = false;
  std::int32_t max_concurrency = 0;
};

// Pipeline stages: who may run while steps are in flight.
struct PipelineRules {
  std::int32_t stages = 1;
  // A sequence may run again so many steps after the one that samples its token; 0 = when its token has been
  // processed.
  std::int32_t cadence = 0;
  bool asynchronous = true;
  std::int32_t micro_batches = 0;  // SGLang, TensorRT-LLM: a ring of so many instead (sim/micro_batch_ring.h)
};

// Settings that decide scheduling, by the engines' own names (see costmodel/engine_profile.h for defaults).
struct SchedulerConfig {
  std::int64_t max_num_batched_tokens = 8192;
  std::int64_t max_num_seqs = 1024;
  std::int64_t max_model_len = 40960;
  std::int64_t num_gpu_blocks = 0;  // includes the null block
  std::int32_t block_size = 16;
  bool enable_prefix_caching = true;
  bool enable_chunked_prefill = true;
  bool scheduler_reserve_full_isl = true;
  std::int64_t long_prefill_token_threshold = 0;
  double watermark = 0;
  bool by_priority = false;  // vLLM's scheduling_policy
  std::int32_t steps_in_flight = 2;
  std::int32_t front_ends = 1;  // API servers, each of which chooses among data-parallel ranks by itself
  std::uint64_t seed = 0;       // of the run: for what an engine or its gateway draws
  NamedOptions options = {};    // of this engine alone, by its own names
  bool stretches = true;        // false: offer one step at a time (same decisions, same digest)
  TensorRtLlmRules tensorrt_llm = {};
  EncoderRules encoder = {};
  OffloadRules offload = {};
  KvGroups kv_groups = {};  // vLLM; SGLang: window and windowed_tokens
  SpeculationRules speculation = {};
  PipelineRules pipeline = {};
  bool pulls_kv = false;  // prefill and decode apart: a decode instance
  bool sends_kv = false;  // a prefill instance that sends what it computes; a decode one that is sent it
  bool recompute_failed_loads = false;  // vLLM's kv_load_failure_policy: recompute; otherwise fail
};

struct FirstToken {
  SequenceId sequence;
  RequestId request;
  std::size_t update = 0;  // index into the outcome's updates
  bool resumed = false;    // not the request's first token: the first after a preemption
  bool apart = false;      // the sequence's next token is reported as irregular
};
struct Finished {
  SequenceId sequence;
  RequestId request;
  std::int32_t output_tokens = 0;
  std::size_t update = 0;
  std::int32_t drafts = 0, accepted = 0;  // speculation: verified in its life
  bool held = false;                      // a prefill leg: its blocks wait to be fetched
  bool said_eos = false;                  // of a held one: its token is the answer's last
};

struct Irregular {  // a token whose gap is no gap between two updates of the decode set
  SequenceId sequence;
  std::size_t update = 0;
  bool apart = false;  // so is its next one
};

struct Said {  // speculation: what a sequence was given by an update, its first token apart
  SequenceId sequence;
  std::int32_t tokens = 0;
};

// What an outcome meant for sequences; valid until the next call.
struct UpdateEffects {
  std::vector<FirstToken> first_tokens;
  std::vector<Finished> finished;
  // By lane (see Scheduler::lanes) and within it per updated step: decodes whose previous token came with the
  // last update that was not stalled.
  std::vector<std::int32_t> regular_decodes;
  std::vector<bool> stalled;  // likewise: it ran no decode although it might have; empty = none did
  std::vector<Irregular> irregular;
  std::vector<Said> said;           // speculation: by everybody who decoded
  std::int64_t further_tokens = 0;  // of it, beyond one a sequence
  bool was_stalled(std::size_t update) const { return !stalled.empty() && stalled[update]; }
  void clear();
};

struct Admission {  // a request entered `running` in the last schedule()
  SequenceId sequence;
  RequestId request;
  std::int32_t cached_tokens = 0;
  std::int32_t fetched_tokens = 0;  // of them, those that came from another instance
  bool resumed = false;
};

struct SchedulerView {
  std::int32_t running = 0, waiting = 0;
  std::int64_t free_blocks = 0, usable_blocks = 0;
};

struct SchedulerCounters {
  std::uint64_t preemptions = 0;
  std::uint64_t queried_tokens = 0, hit_tokens = 0;  // prefix cache, per admission
  std::int64_t min_free_blocks = 0;
  std::uint64_t empty_batches = 0;  // steps without tokens (StepPlan::empty_batch)
  SpeculationCounters speculation = {};
};

struct EncoderCounters {
  std::uint64_t encoded = 0, embeddings = 0;    // images that the encoder computed, and their outputs
  std::uint64_t found = 0;                      // images whose outputs were still there
  std::int64_t cache_size = 0, cache_peak = 0;  // embeddings
};

struct OffloadCounters {
  std::int64_t capacity = 0, used = 0;   // blocks
  std::uint64_t stored = 0, loaded = 0;  // blocks that crossed the link
  std::uint64_t dropped = 0;             // blocks evicted from the tier
  std::uint64_t loads = 0;               // requests that waited for blocks
  std::uint64_t deferrals = 0;           // look-ups put off because a transfer was under way
  std::uint64_t refused = 0;             // stores without room
};

// Prefill and decode apart: blocks that a decode instance wants from the prefill instance which holds them.
struct PullWork {
  RequestId request;
  SequenceId sequence;       // that waits for them; none: it is gone, and nobody wants them
  std::int64_t blocks = 0;   // the last ones of the prompt's
  std::int64_t skipped = 0;  // KV that is sent: so many parts before them are not wanted
};

// The reverse: what a prefill instance has computed of a prompt to be sent.
struct SendWork {
  RequestId request;
  SequenceId sequence;
  // Sent by layer: all of it, while this step runs. Otherwise: `parts` of `of` are computed by now.
  StepId step;
  std::int64_t parts = 0, of = 0;
};

struct HostLoad {  // a request began to wait for its prefix from host memory, in the last schedule()
  RequestId request;
  std::int64_t tokens = 0;
};

// What results say about the KV pool, whatever its unit of eviction is.
struct KvUsage {
  std::int64_t total_blocks = 0;   // as the engine logs it
  std::int64_t usable_blocks = 0;  // that sequences can be given
  std::int64_t allocated = 0;      // blocks handed out since the start
};

class Scheduler {
 public:
  virtual ~Scheduler() = default;
  // What time it is, before add(), schedule() and on_outcome() of an engine with several lanes.
  virtual void at(SimTime) {}
  virtual bool watches_time() const { return false; }
  // A slot for the request; none() when the engine refuses it (the prompt is too long for it).
  virtual SequenceId add(const Request& request) = 0;
  // Composes the next step. A plan without tokens means that nothing can run now. The plan stays valid until
  // the next call of any non-const member.
  virtual const StepPlan& schedule() = 0;
  virtual const std::vector<Admission>& admissions() const = 0;  // of the last schedule()
  virtual const UpdateEffects& on_outcome(const StepOutcome& outcome) = 0;
  // The client of a live sequence is gone, and the engine knows. Returns the output tokens that were
  // processed so far when the engine drops the sequence at once (its slot is free again); −1 when it drops it
  // with an outcome still to come, as a Finished. Asked again before every schedule() until it is gone.
  virtual std::int32_t drop_departed(SequenceId sequence) = 0;
  // Output tokens of a live sequence that have been processed so far; asked when its instance is lost.
  virtual std::int32_t outputs_of(SequenceId) const { return 0; }
  // A new request may stand before others that wait.
  virtual bool may_overtake() const { return false; }
  virtual void on_idle() {}           // the core thread found no request at all
  virtual bool has_work() const = 0;  // any request in any state
  virtual StepId next_step() const = 0;
  virtual std::int32_t open_steps() const = 0;
  // Ranks whose decode sets step, stall and rest on their own (attention data parallelism).
  virtual std::int32_t lanes() const { return 1; }
  // Of a sequence that has been admitted, or has blocks to be fetched or held.
  virtual std::size_t lane_of(SequenceId sequence) const {
    return sequence.value() % static_cast<std::size_t>(lanes());
  }
  virtual SchedulerView view() const = 0;
  virtual const SchedulerCounters& counters() const = 0;
  virtual KvUsage kv_usage() const = 0;
  virtual EncoderCounters encoder_counters() const { return {}; }
  virtual OffloadCounters offload_counters() const { return {}; }
  // Transfers over the host link that were decided since the last call; valid until the next one.
  virtual std::span<const TransferWork> take_transfers() { return {}; }
  virtual std::span<const HostLoad> host_loads() const { return {}; }
  // One of them has ended; true when somebody in the queue may have waited for it.
  virtual bool on_transfer(std::uint64_t) { return false; }
  virtual bool awaits_transfer() const { return false; }  // some are under way
  // Prefill and decode apart; an engine whose rules are not modelled is never asked. What was decided to be
  // fetched since the last call; valid until the next one.
  virtual std::span<const PullWork> take_pulls() { return {}; }
  virtual std::span<const SendWork> take_sends() { return {}; }
  // The blocks of a waiting sequence are here, or those of a held one are no longer needed; true when an idle
  // instance may go on. `said_eos`: the token that came with them is the answer's last.
  virtual bool on_remote_end(SequenceId, bool /*said_eos*/) { return false; }
  // The blocks of a waiting sequence will never be here; true likewise.
  virtual bool on_remote_failure(SequenceId) { return false; }
  // The decode instance has room for what this prefill leg's sequence will send; true likewise.
  virtual bool on_room(SequenceId) { return false; }
  // From now on says what its prefix cache holds. False: this engine's is not modelled to.
  virtual bool watch_cache(CacheEvents*) { return false; }
  // The last pass ran nothing, nothing runs, and yet another one at once may find something.
  virtual bool looks_again() const { return false; }
  // Whether a request that has just been queued might run in the next step although steps are offered as a
  // stretch: with a plain queue only when it is the first one in line.
  virtual bool newcomer_may_run() const { return view().waiting == 1; }
  virtual std::uint64_t digest() const = 0;  // of every decision so far
};

}  // namespace orrery
