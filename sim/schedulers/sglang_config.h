// Settings of SGLang's scheduler, by the engine's own names where it has one. Defaults are those of 0.5.23
// on an H100 or H200; the engine profile gives the ones in force.
#pragma once

#include <cstdint>
#include <optional>

#include "sim/radix_cache.h"
#include "sim/scheduler.h"
#include "sim/sglang_delayer.h"

namespace orrery {

enum class SglangRole : std::uint8_t { whole, prefill, decode };  // disaggregation_mode

enum class QueuePolicy : std::uint8_t {
  fcfs,
  lpm,
  lof,
  shortest_prefill_first,
  dfs_weight,
  random,
  hrrn,
  routing_key
};

// Layers that keep a state (sglang_states.cpp); the pool is cache.state_slots.
struct StateSlots {
  std::int64_t of_sequence = 0;  // its own, and those that are filled in turn (mamba_radix_cache_strategy)
  std::int64_t chunk = 64;       // tokens after which a scan of a prompt can leave a state
  std::int64_t interval = 256;   // and a decoding sequence does (mamba_track_interval)
  bool in_turn = false;          // extra_buffer; else a state is of the end of what it is left with
};

struct SglangConfig {
  SglangRole role = SglangRole::whole;
  std::int64_t num_reserved_decode_tokens = 512;  // decode role: kept free for each request
  bool decode_radix_cache = false;                // disaggregation_decode_enable_radix_cache
  std::int64_t extra_rows = 0;                    // disaggregation_decode_extra_slots: for those who receive
  std::int64_t polling_interval = 1;              // disaggregation_decode_polling_interval, in passes
  RadixCache::Config cache;                       // max_total_num_tokens, page_size, disable_radix_cache, …
  std::int64_t context_length = 40960;
  std::int64_t max_running_requests = 2048;
  std::int64_t max_prefill_tokens = 16384;
  std::int64_t chunked_prefill_size = 8192;  // ≤ 0: no chunking
  std::int64_t prefill_max_requests = 0;     // 0 = no limit
  std::int64_t prefill_decode_interval = 0, prefill_decode_interval_min_bs = 0;
  QueuePolicy schedule_policy = QueuePolicy::fcfs;
  std::uint64_t seed = 0;  // for the policy `random`
  PrefillDelays delays = {};
  bool negotiates = false;  // with other ranks (sim/sglang_ranks.h)
  bool enable_mixed_chunk = false;
  bool enable_priority_scheduling = false, disable_priority_preemption = false;
  bool schedule_low_priority_values_first = false;
  std::int64_t priority_scheduling_preemption_threshold = 10;
  std::optional<std::int64_t> default_priority_value;
  bool retraction_by_priority = false;   // retraction_policy
  std::int64_t max_queued_requests = 0;  // 0 = no limit
  bool overlap = true;                   // not disable_overlap_schedule
  // Rules of 0.5.17, as its wheel has them and runs of it show (reports/cases/h200_sglang_0_5_17); 0.5.23 has
  // others. An end by length is learned with its token, as an EOS is: the next decode wastes a row on it. Who
  // ended stays in the running batch, and counts there, until a decode or a mixed step filters it. The ratio
  // of new tokens holds for fixed lengths too. The prefixes of those who wait are not touched.
  bool rules_of_0_5_17 = false;
  bool stretches = true;
  SpeculationRules speculation = {};
  // Pipeline stages (sglang_stages.cpp): pp_size + pp_async_batch_depth, and pp_max_micro_batch_size.
  std::int64_t micro_batches = 1, micro_batch_size = 0;
  StateSlots states = {};
  EncoderRules encoder = {};  // cache_size: embeddings of SGLANG_VLM_CACHE_SIZE_MB
  // HiCache beside windows: parts of equally many layers that keep all tokens, and a window (LayerParts).
  std::int64_t full_parts = 1, window_parts = 0;
  std::int64_t state_pages = 0;           // beside states: pages of the cache that are as many bytes as one
  std::int64_t load_back_threshold = 10;  // unified_radix_cache.py: fewer tokens are computed again
  std::int64_t swa_eviction_interval = 128;  // SGLANG_SWA_EVICTION_INTERVAL
  // environ.py: SGLANG_INIT_NEW_TOKEN_RATIO · schedule_conservativeness, SGLANG_MIN_NEW_TOKEN_RATIO_FACTOR,
  // SGLANG_NEW_TOKEN_RATIO_DECAY_STEPS, SGLANG_RETRACT_DECODE_STEPS, SGLANG_CLIP_MAX_NEW_TOKENS_ESTIMATION
  double init_new_token_ratio = 0.7, schedule_conservativeness = 1, min_new_token_ratio_factor = 0.14;
  std::int64_t new_token_ratio_decay_steps = 600, retract_decode_steps = 20, clip_max_new_tokens = 4096;

  std::int64_t rows() const { return max_running_requests + extra_rows; }  // of the decode role
  bool preempts() const { return enable_priority_scheduling && !disable_priority_preemption; }
  bool chunking() const { return chunked_prefill_size > 0; }
  bool speculating() const { return speculation.tokens > 0; }
  bool staged() const { return micro_batches > 1; }
  bool walking() const { return speculating() || staged(); }  // the running batch, in every step
  bool drafting_network() const { return speculation.lookahead > 0; }
  // UnifiedTreeCore.is_eagle: not beside layers with a state.
  bool pairs_of_tokens() const { return drafting_network() && cache.state_slots == 0; }
  // get_alloc_reserve_per_decode: twice what a decode writes (drafts and the token before them, or all
  // branches of a tree), for contexts are known one step late.
  std::int64_t decode_reserve() const {
    if (staged()) return 1;
    return 2 * (speculation.slots > 0 ? speculation.slots : std::int64_t{speculation.tokens} + 1);
  }
};

// From what every engine has (blocks, steps in flight) and the options of this one.
SglangConfig sglang_config(const SchedulerConfig& config);

}  // namespace orrery
