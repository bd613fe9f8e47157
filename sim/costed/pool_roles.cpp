// Which pools go together, and what a prefill, decode or encoder pool cannot be: errors at their keys.
#include <algorithm>

#include "base/text.h"
#include "sim/costed/disaggregation.h"
#include "sim/costed/image_processor.h"

namespace orrery {

namespace {

// Layers whose window has a pool, or groups of blocks, of its own.
bool keeps_windows(const PoolSpec& pool) {
  const EngineProfile& engine = pool.instance.engine;
  const ModelSpec& model = pool.instance.model;
  if (engine.engine == "vllm") return kv_cache_groups(model, engine).windowed > 0;
  if (engine.engine == "tensorrt-llm") return engine.settings.tensorrt_llm.window > 0;
  const NamedOptions& options = engine.settings.options;
  const char* const one_pool = "disable_hybrid_swa_memory";
  return window_of(model) > 0 && !(options.has(one_pool) && options.flag(one_pool));
}

void check_sglang(const Yaml& node, const PoolSpec& pool) {
  const NamedOptions& options = pool.instance.engine.settings.options;
  const char* const tier = "enable_hierarchical_cache";
  if (pool.role == PoolRole::decode && options.has(tier) && options.flag(tier))
    node.optional("role").fail(
        "HiCache on a decode server keeps what its radix cache holds (enable_decode_hicache), which is not "
        "modelled; leave enable_hierarchical_cache to the prefill pool");
  if (options.has(tier) && options.flag(tier) && pool.instance.speculation.on())
    node.optional("role").fail(
        "HiCache beside drafts is not modelled with prefill and decode apart; leave one of them out");
  if (options.has("rules_of_0_5_17") && options.flag("rules_of_0_5_17"))
    node.optional("role").fail(
        "rules_of_0_5_17 with prefill and decode apart are not modelled; leave it out");
}

void check_tensorrt_llm(const Yaml& node, const PoolSpec& pool) {
  const SchedulerSettings& settings = pool.instance.engine.settings;
  if (pool.role == PoolRole::prefill && settings.async_scheduling)
    node.optional("role").fail(
        "context servers run without overlap (disagg-serving.md); expected engine_args: "
        "{disable_overlap_scheduler: true}");
  if (pool.role == PoolRole::decode && settings.tensorrt_llm.max_utilization)
    node.optional("role").fail(
        "MAX_UTILIZATION on a generation server is not modelled; take GUARANTEED_NO_EVICT, the default");
}

void check_engine(const Yaml& node, const PoolSpec& pool) {
  const EngineProfile& engine = pool.instance.engine;
  const Yaml role = node.optional("role");
  if (engine.engine == "sglang") check_sglang(node, pool);
  if (engine.engine == "tensorrt-llm") check_tensorrt_llm(node, pool);
  if (engine.engine == "tensorrt-llm" && engine.settings.kv_offload_bytes > 0)
    role.fail(
        "KV blocks in host memory beside prefill and decode apart are not modelled on tensorrt-llm; leave "
        "host_cache_size out");
  if (engine.engine == "sglang" && keeps_windows(pool))
    node.optional("model").fail(
        "a pool of their own for layers with a sliding window is not modelled with prefill and decode "
        "apart on sglang; engine_args: {disable_hybrid_swa_memory: true} keeps all tokens");
  const bool drafts = pool.instance.speculation.on();
  if (engine.engine == "vllm" && engine.settings.kv_offload_bytes > 0 && (keeps_windows(pool) || drafts))
    role.fail(
        "KV blocks in host memory beside drafts or layers with a sliding window are not modelled with "
        "prefill "
        "and decode apart; leave kv_offloading_size out");
  if (engine.engine == "tensorrt-llm" && takes_images(pool.instance))
    node.optional("model").fail("images with prefill and decode apart are not modelled on tensorrt-llm");
  if (pool.instance.model.state.present())
    node.optional("model").fail("layers with a state with prefill and decode apart are not modelled");
  const ContextSettings& context = engine.settings.context;
  if (context.splits_cache() || (context.shares_prompts() && pool.role == PoolRole::decode))
    role.fail(
        "context parallelism with prefill and decode apart is modelled in prefill pools of SGLang only "
        "(parallel.cp; its decode servers assert 1)");
  if (engine.settings.stream_interval > 1)
    role.fail("stream_interval above 1 with prefill and decode apart is not modelled");
}

// What NIXL's handshake compares (nixl/base_worker.py), and what its rank mapping asserts.
void check_pair(const Yaml& node, const PoolSpec& pool, const PoolSpec& other) {
  const auto unlike = [&](const char* what, const std::string& mine, const std::string& theirs,
                          const char* key) {
    const Yaml at = node.optional(key);
    (at.present() ? at : node.optional("role"))
        .fail(std::string(what) + " must be that of pool " + quote(other.name) + " (" + theirs + "), not " +
              mine + ": blocks travel as they are");
  };
  if (pool.instance.engine.engine != other.instance.engine.engine)
    return unlike("the engine", pool.instance.engine.engine, other.instance.engine.engine, "engine");
  const SchedulerSettings &a = pool.instance.engine.settings, &b = other.instance.engine.settings;
  if (a.block_size != b.block_size)
    unlike("the block size", std::to_string(a.block_size), std::to_string(b.block_size), "engine_args");
  const DType mine = pool.instance.model.kv_dtype, theirs = other.instance.model.kv_dtype;
  if (mine != theirs) unlike("the KV cache's type", to_string(mine), to_string(theirs), "kv_cache_dtype");
  if (pool.instance.engine.engine == "vllm" && keeps_windows(pool) != keeps_windows(other))
    unlike("disable_hybrid_kv_cache_manager", keeps_windows(pool) ? "false" : "true",
           keeps_windows(other) ? "false" : "true", "engine_args");
  const std::int64_t window = a.tensorrt_llm.window, window_other = b.tensorrt_llm.window;
  if (window != window_other)
    unlike("max_attention_window", std::to_string(window), std::to_string(window_other), "engine_args");
  // The drafting network's layers are layers of the cache like others (`register_kv_caches`).
  const SpeculationSpec &drafts = pool.instance.speculation, &drafted = other.instance.speculation;
  if ((drafts.has_network() || drafted.has_network()) && drafts.method != drafted.method)
    unlike("the drafting network, whose KV travels too,", to_string(drafts.method), to_string(drafted.method),
           "speculation");
  const std::int32_t pp = pool.instance.plan.pp, pp_other = other.instance.plan.pp;
  if (pool.instance.engine.engine == "sglang" && pp != pp_other && pp != 1)
    node.optional("role").fail(
        "SGLang's decode servers assert pp = 1 or their prefill server's "
        "(disaggregation/common/conn.py), and pool " +
        quote(other.name) + " has pp = " + std::to_string(pp_other) + ", not " + std::to_string(pp));
  const std::int32_t tp = pool.instance.plan.tp, tp_other = other.instance.plan.tp;
  if (std::max(tp, tp_other) % std::min(tp, tp_other) != 0)
    node.optional("role").fail("tp = " + std::to_string(tp) + " and tp = " + std::to_string(tp_other) +
                               " of pool " + quote(other.name) + " do not divide one another");
}

// Images are prepared before a router chooses, as the first pool that takes them in does it; behind a proxy's
// answer decode pools prepare them again.
void check_eyes(const Yaml& node, const PoolSpec& pool, const PoolSpec& first) {
  const EngineProfile &own = pool.instance.engine, &other = first.instance.engine;
  if (own.name != other.name || own.settings.encoder.image_limit != other.settings.encoder.image_limit)
    node.optional("engine").fail(
        "images are prepared alike in all pools that take them in; take the engine profile and the limit of "
        "images of pool " +
        quote(first.name));
}

// Encoder pools (vLLM's ec_producer) beside mixed or prefill ones (ec_consumer).
void check_encoders(const std::vector<Yaml>& nodes, const std::vector<PoolSpec>& pools) {
  bool language = false;
  const PoolSpec* first = nullptr;
  for (std::size_t i = 0; i < pools.size(); ++i) {
    const PoolSpec& pool = pools[i];
    if (pool.role == PoolRole::encoder && first == nullptr) first = &pool;
    if (pool.role == PoolRole::encoder) check_eyes(nodes[i], pool, *first);
    const Yaml role = nodes[i].optional("role");
    const EngineProfile& engine = pool.instance.engine;
    language |= pool.role == PoolRole::mixed || pool.role == PoolRole::prefill;
    if (engine.engine != "vllm")
      nodes[i].optional("engine").fail(
          "encoder pools are modelled on vllm only (ec_transfer_config), not on " + engine.engine +
          "; take vllm-0.24");
    if (!takes_images(pool.instance))
      nodes[i].optional("model").fail("encoder pools need a model that takes images, and " +
                                      pool.instance.model.name + " as it is told takes none");
    const Yaml at = role.present() ? role : nodes[i].optional("name");
    if (pool.instance.plan.dp > 1 || pool.instance.engines > 1 || pool.instance.plan.pp > 1)
      at.fail("dp or pp above 1 in or beside an encoder pool is not modelled");
    if (pool.role == PoolRole::encoder && engine.settings.by_priority)
      at.fail("an encoder pool that schedules by priority is not modelled; leave scheduling_policy out");
    if (pool.role == PoolRole::encoder && engine.settings.stream_interval > 1)
      at.fail("an encoder pool answers one token; leave stream_interval out");
    if (pool.instance.speculation.on())
      at.fail("speculation in or beside an encoder pool is not modelled; use method: off");
    if (pool.first_request_effects) at.fail("first_request_effects beside an encoder pool is not modelled");
  }
  if (pools.front().role == PoolRole::encoder && language)
    nodes.front().optional("role").fail("write encoder pools behind the pools that they serve");
  if (!language)
    nodes.front().optional("role").fail("an encoder pool needs a pool with role: mixed or prefill");
}

// Requests carry a bootstrap room between prefill and decode servers only
// (`follow_bootstrap_room_scheduler`).
void check_rooms(const Yaml& node, const PoolSpec& pool) {
  const NamedOptions& options = pool.instance.engine.settings.options;
  const char* const cache = "disaggregation_decode_enable_radix_cache";
  if (pool.role != PoolRole::decode && options.has(cache) && options.flag(cache))
    node.optional("engine_args")
        .fail(std::string(cache) + " is for decode pools, whose radix cache is off without it; leave it out");
  for (const auto& [name, none] : {std::pair{"disaggregation_decode_extra_slots", std::int64_t{-1}},
                                   {"disaggregation_decode_polling_interval", std::int64_t{1}}}) {
    if (pool.role != PoolRole::decode && options.has(name) && options.integer(name) != none)
      node.optional("engine_args").fail(std::string(name) + " is for decode pools; leave it out");
  }
  if (pool.role != PoolRole::mixed || !options.has("load_balance_method")) return;
  if (options.text("load_balance_method") == "follow_bootstrap_room")
    node.optional("engine_args")
        .fail(
            "load_balance_method: follow_bootstrap_room is for prefill and decode pools, whose requests have "
            "a room; expected round_robin, total_requests or total_tokens");
}

}  // namespace

void check_roles(const std::vector<Yaml>& nodes, const std::vector<PoolSpec>& pools) {
  for (std::size_t i = 0; i < pools.size() && i < nodes.size(); ++i) check_rooms(nodes[i], pools[i]);
  const auto first = [&](PoolRole role) {
    return std::find_if(pools.begin(), pools.end(), [&](const PoolSpec& p) { return p.role == role; });
  };
  const auto prefill = first(PoolRole::prefill), decode = first(PoolRole::decode);
  const auto node_of = [&](auto pool) { return nodes[static_cast<std::size_t>(pool - pools.begin())]; };
  const auto encoder = first(PoolRole::encoder);
  if (encoder != pools.end()) check_encoders(nodes, pools);
  if (prefill == pools.end() && decode == pools.end()) return;
  if (prefill == pools.end()) node_of(decode).optional("role").fail("a decode pool needs a prefill pool");
  if (decode == pools.end()) node_of(prefill).optional("role").fail("a prefill pool needs a decode pool");
  for (std::size_t i = 0; i < pools.size(); ++i) {
    if (pools[i].role == PoolRole::prefill || pools[i].role == PoolRole::decode)
      check_engine(nodes[i], pools[i]);
    if (encoder == pools.end() && prefill != pools.end() && takes_images(pools[i].instance))
      check_eyes(nodes[i], pools[i], *prefill);
    for (const PoolSpec& other : pools) {
      if (pools[i].role == PoolRole::decode && other.role == PoolRole::prefill)
        check_pair(nodes[i], pools[i], other);
    }
  }
}

}  // namespace orrery
