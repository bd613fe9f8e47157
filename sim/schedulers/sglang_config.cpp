#include "sim/schedulers/sglang_config.h"

#include <algorithm>
#include <array>
#include <numeric>
#include <string_view>
#include <utility>

namespace orrery {

namespace {

constexpr std::array policies{
    std::pair<std::string_view, QueuePolicy>{"fcfs", QueuePolicy::fcfs},
    std::pair<std::string_view, QueuePolicy>{"lpm", QueuePolicy::lpm},
    std::pair<std::string_view, QueuePolicy>{"lof", QueuePolicy::lof},
    std::pair<std::string_view, QueuePolicy>{"shortest-prefill-first", QueuePolicy::shortest_prefill_first},
    std::pair<std::string_view, QueuePolicy>{"dfs-weight", QueuePolicy::dfs_weight},
    std::pair<std::string_view, QueuePolicy>{"random", QueuePolicy::random},
    std::pair<std::string_view, QueuePolicy>{"hrrn", QueuePolicy::hrrn},
    std::pair<std::string_view, QueuePolicy>{"routing-key", QueuePolicy::routing_key},
};
constexpr std::array evictions{
    std::pair<std::string_view, Eviction>{"lru", Eviction::lru},
    std::pair<std::string_view, Eviction>{"lfu", Eviction::lfu},
    std::pair<std::string_view, Eviction>{"slru", Eviction::slru},
    std::pair<std::string_view, Eviction>{"priority", Eviction::priority},
    std::pair<std::string_view, Eviction>{"tlru", Eviction::tlru},
};
constexpr std::array write_policies{
    std::pair<std::string_view, std::int64_t>{"write_through", 1},
    std::pair<std::string_view, std::int64_t>{"write_through_selective", 2},
    std::pair<std::string_view, std::int64_t>{"write_back", 0},
};
constexpr std::array retractions{
    std::pair<std::string_view, bool>{"length", false},
    std::pair<std::string_view, bool>{"priority", true},
};

template <class Table, class Value>
void read_name(const NamedOptions& options, const char* name, const Table& table, Value& value) {
  if (!options.has(name)) return;
  for (const auto& [text, meaning] : table) {
    if (text == options.text(name)) {
      value = meaning;
      return;
    }
  }
  ORRERY_CHECK(false, "SGLang: a policy that the engine profile should have refused");
}

void read(const NamedOptions& options, const char* name, std::int64_t& value) {
  if (options.has(name)) value = options.integer(name);
}
void read(const NamedOptions& options, const char* name, double& value) {
  if (options.has(name)) value = options.number(name);
}
void read(const NamedOptions& options, const char* name, bool& value) {
  if (options.has(name)) value = options.flag(name);
}

// mamba_cache_chunk_size, mamba_checkpoint_grid and mamba_track_grid (arg_groups/overrides.py,
// runtime_context.py): one of page and chunk divides the other, and the page divides the interval.
void read_states(const SchedulerConfig& config, SglangConfig& c) {
  const KvGroups& groups = config.kv_groups;
  if (groups.state_slots == 0) return;
  c.cache.state_slots = groups.state_slots;
  c.states.of_sequence = groups.slots_of_sequence;
  c.states.in_turn = groups.slots_of_sequence > 1;
  c.states.chunk = std::max<std::int64_t>(groups.state_chunk, config.block_size);
  read(config.options, "mamba_track_interval", c.states.interval);
  c.states.interval = std::lcm(c.states.interval, c.states.chunk);
}

// `_validate_and_adjust_policy`: without a cache its policies are fcfs.
void read_policy(const NamedOptions& options, SglangConfig& c) {
  read_name(options, "schedule_policy", policies, c.schedule_policy);
  const bool cached = c.schedule_policy == QueuePolicy::lpm || c.schedule_policy == QueuePolicy::dfs_weight ||
                      c.schedule_policy == QueuePolicy::hrrn;
  if (cached && !c.cache.prefix_sharing) c.schedule_policy = QueuePolicy::fcfs;
}

void read_eviction(const NamedOptions& o, RadixCache::Config& cache) {
  read_name(o, "radix_eviction_policy", evictions, cache.eviction);
  read(o, "radix_eviction_policy_config.protected_threshold", cache.protected_hits);
  std::int64_t estimate = 0;
  read(o, "radix_eviction_policy_config.threshold", cache.spare_tail);
  read(o, "radix_eviction_policy_config.next_prompt_estimate", estimate);
  cache.spare_tail -= estimate;
}

// `handle_pd_disaggregation`: a few running requests, if so many were asked for, leave room for twice as many
// that receive.
void read_decode_role(const NamedOptions& o, SglangConfig& c) {
  const bool few = o.has("max_running_requests") && c.max_running_requests <= 32;
  c.extra_rows = few ? 2 * c.max_running_requests : 0;
  read(o, "disaggregation_decode_extra_slots", c.extra_rows);
  read(o, "disaggregation_decode_polling_interval", c.polling_interval);
}

void read_delays(const NamedOptions& o, PrefillDelays& d) {
  read(o, "enable_prefill_delayer", d.on);
  read(o, "prefill_delayer_max_delay_passes", d.passes);
  read(o, "prefill_delayer_token_usage_low_watermark", d.low_usage);
  read(o, "prefill_delayer_queue_min_ratio", d.queue_ratio);
  read(o, "prefill_delayer_max_delay_ms", d.most_ms);
  read(o, "min_free_slots_delay", d.free_slots);
}

// `build_hybrid_swa_group`: as many windowed slots, or states, in host memory for one of the device's as of
// the others.
void tier_windows(const SchedulerConfig& config, SglangConfig& c) {
  if (c.cache.host_tokens == 0) return;
  const double ratio =
      static_cast<double>(config.offload.blocks) / static_cast<double>(config.num_gpu_blocks);
  c.cache.host_states = static_cast<std::int64_t>(static_cast<double>(c.cache.state_slots) * ratio);
  c.state_pages = config.kv_groups.state_pages;
  if (c.cache.window == 0) return;
  c.cache.host_windowed_tokens =
      static_cast<std::int64_t>(static_cast<double>(c.cache.windowed_tokens) * ratio) / config.block_size *
      config.block_size;
  c.full_parts = config.tensorrt_llm.full_parts;
  c.window_parts = config.tensorrt_llm.window_parts;
}

}  // namespace

SglangConfig sglang_config(const SchedulerConfig& config) {
  const NamedOptions& o = config.options;
  SglangConfig c;
  c.cache.tokens = config.num_gpu_blocks * config.block_size;
  c.cache.page_size = config.block_size;
  if (config.kv_groups.windowed_tokens > 0) {
    // `get_attention_sliding_window_size`: without the token itself.
    c.cache.window = config.kv_groups.window - 1;
    c.cache.windowed_tokens = config.kv_groups.windowed_tokens / config.block_size * config.block_size;
  }
  c.context_length = config.max_model_len;
  c.max_running_requests = config.max_num_seqs;
  c.micro_batches = std::max(1, config.pipeline.micro_batches);
  c.overlap = config.steps_in_flight > 1 && !c.staged();
  // Scheduler.init: pp_max_micro_batch_size, by default an even share of the running requests.
  c.micro_batch_size =
      std::max<std::int64_t>(1, c.max_running_requests / std::max(1, config.pipeline.stages));
  read(o, "pp_max_micro_batch_size", c.micro_batch_size);
  read(o, "rules_of_0_5_17", c.rules_of_0_5_17);
  c.stretches = config.stretches && !c.rules_of_0_5_17;
  read_states(config, c);
  c.encoder = config.encoder;
  c.speculation = config.speculation;
  bool no_sharing = false;
  read(o, "disable_radix_cache", no_sharing);
  if (config.sends_kv) c.role = config.pulls_kv ? SglangRole::decode : SglangRole::prefill;
  // pd_disaggregation_hook.py: off on the decode side, unless asked for.
  read(o, "disaggregation_decode_enable_radix_cache", c.decode_radix_cache);
  if (c.role == SglangRole::decode) no_sharing = !c.decode_radix_cache;
  if (c.role == SglangRole::decode) read_decode_role(o, c);
  c.cache.prefix_sharing = !no_sharing;
  if (!no_sharing) c.cache.host_tokens = config.offload.blocks * config.block_size;
  tier_windows(config, c);
  read_name(o, "hicache_write_policy", write_policies, c.cache.backup_at_hits);
  read_eviction(o, c.cache);
  read_policy(o, c);
  c.seed = config.seed;
  read_delays(o, c.delays);
  read(o, "max_prefill_tokens", c.max_prefill_tokens);
  read(o, "chunked_prefill_size", c.chunked_prefill_size);
  read(o, "prefill_max_requests", c.prefill_max_requests);
  read(o, "prefill_decode_interval", c.prefill_decode_interval);
  read(o, "prefill_decode_interval_min_bs", c.prefill_decode_interval_min_bs);
  read(o, "enable_mixed_chunk", c.enable_mixed_chunk);
  read(o, "enable_priority_scheduling", c.enable_priority_scheduling);
  read(o, "disable_priority_preemption", c.disable_priority_preemption);
  read(o, "schedule_low_priority_values_first", c.schedule_low_priority_values_first);
  read(o, "priority_scheduling_preemption_threshold", c.priority_scheduling_preemption_threshold);
  if (o.has("default_priority_value")) c.default_priority_value = o.integer("default_priority_value");
  read_name(o, "retraction_policy", retractions, c.retraction_by_priority);
  // `_add_request_to_queue`: apart no queue has a limit.
  if (c.role == SglangRole::whole) read(o, "max_queued_requests", c.max_queued_requests);
  read(o, "schedule_conservativeness", c.schedule_conservativeness);
  read(o, "init_new_token_ratio", c.init_new_token_ratio);
  read(o, "min_new_token_ratio_factor", c.min_new_token_ratio_factor);
  read(o, "new_token_ratio_decay_steps", c.new_token_ratio_decay_steps);
  read(o, "retract_decode_steps", c.retract_decode_steps);
  read(o, "clip_max_new_tokens", c.clip_max_new_tokens);
  read(o, "num_reserved_decode_tokens", c.num_reserved_decode_tokens);
  read(o, "swa_eviction_interval", c.swa_eviction_interval);
  // speculative_hook.py, `_handle_ngram`; SpeculativeAlgorithm.supports_mixed_chunk.
  if (c.speculating() && !c.drafting_network()) c.enable_mixed_chunk = false;
  // §2.2: cache-aware policies are fcfs without a cache.
  if (no_sharing && c.schedule_policy != QueuePolicy::lof) c.schedule_policy = QueuePolicy::fcfs;
  return c;
}

}  // namespace orrery
