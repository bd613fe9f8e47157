#include "sim/costed/pool_spec.h"

#include <algorithm>
#include <cmath>

#include "base/text.h"
#include "costmodel/draft_trees.h"
#include "costmodel/host_block.h"
#include "costmodel/stages.h"
#include "sim/costed/disaggregation.h"
#include "sim/costed/faults.h"
#include "sim/costed/image_processor.h"

namespace orrery {

PoolSpec read_pool(const Yaml& node, const std::string& folder, Errors& errors, const Yaml& figures) {
  PoolSpec pool;
  pool.instance = read_instance_spec(node, folder, errors, figures);
  pool.replicas = static_cast<std::int32_t>(node.optional("replicas").integer(1, 1, 100000));
  if (const Yaml first = node.optional("first_request_effects")) {
    pool.first_request_effects = first.boolean(false);
    if (pool.first_request_effects && !pool.instance.engine.first_use && errors.empty()) {
      first.fail("the profile of engine " + quote(pool.instance.engine.name) +
                 " has no first_use figures; give it some, or say false");
    }
    if (pool.first_request_effects && pool.instance.plan.pp > 1)
      first.fail(
          "what a fresh server pays once is not modelled with pipeline stages; say false, or use pp: 1");
  }
  read_changes(node, pool);
  if (const Yaml router = node.optional("router"); router.present()) pool.router = read_router(router);
  return pool;
}

namespace {

// What a pool's keys mean when they stand beside `pools` nobody could say.
void refuse_keys_beside(const Yaml& deployment) {
  for (const char* key : {"hardware", "model", "engine", "quantization", "kv_cache_dtype", "parallel",
                          "engine_args", "kernels", "tiles", "replicas", "router", "speculation", "experts",
                          "first_request_effects", "name", "role", "start", "autoscale", "rolling_update"}) {
    const Yaml node = deployment.optional(key);
    if (!node.present()) continue;
    node.fail("beside `pools` this key belongs to nobody; write it in every pool that it is meant for");
    if (node.is_map()) node.entries();
  }
}

// Requests may go to any of these pools, or from one to the other: they must mean the same model.
bool same_model(const ModelSpec& a, const ModelSpec& b) {
  return a.name == b.name && a.architecture == b.architecture && a.layers == b.layers &&
         a.hidden == b.hidden && a.kv_heads == b.kv_heads && a.head_dim == b.head_dim &&
         a.vocabulary == b.vocabulary;
}

// `apart`: some of the pools are prefill or decode pools.
void check_beside_others(const Yaml& node, const PoolSpec& pool, const PoolSpec& first, bool apart) {
  if (!same_model(pool.instance.model, first.instance.model))
    node.optional("model").fail("all pools serve one model, and pool " + quote(first.name) + " has " +
                                first.instance.model.name + "; give this one the same");
  if (pool.instance.engines > 1)
    node.optional("parallel")
        .optional("dp")
        .fail(
            "engines of a dense model behind one front end, in a deployment of several pools, are not "
            "modelled; use "
            "replicas");
  if (takes_images(pool.instance) && !pool.images_elsewhere && pool.role == PoolRole::mixed && !apart)
    node.optional("model").fail(
        "images in a deployment of several pools are modelled with encoder pools, or prefill and decode "
        "pools, only; take engine_args: {language_model_only: true}, one pool, or a pool with role: encoder");
  // A prompt's images are told apart, and its placeholders counted, on every side.
  if (takes_images(pool.instance) != takes_images(first.instance))
    node.optional("model").fail("pool " + quote(first.name) +
                                (takes_images(first.instance) ? " takes images and this one does not"
                                                              : " takes no images and this one does") +
                                "; give both the same limits of images");
}

void check_pools(const std::vector<Yaml>& nodes, const std::vector<PoolSpec>& pools) {
  const bool apart = std::any_of(pools.begin(), pools.end(), [](const PoolSpec& p) {
    return p.role == PoolRole::prefill || p.role == PoolRole::decode;
  });
  for (std::size_t i = 0; i < pools.size(); ++i) {
    const PoolSpec& pool = pools[i];
    check_beside_others(nodes[i], pool, pools.front(), apart);
    const auto same_name = [&](const PoolSpec& other) { return other.name == pool.name; };
    const auto before = pools.begin() + static_cast<std::ptrdiff_t>(i);
    if (std::any_of(pools.begin(), before, same_name))
      nodes[i].optional("name").fail("two pools are called " + quote(pool.name) + "; names must differ");
  }
}

// Its role and profiles are as the file says: else an error says so already, and what others say of it beside
// the other pools would not be true.
bool is_as_written(const Yaml& node, const PoolSpec& pool) {
  for (const char* key : {"hardware", "model", "engine"}) {
    if (node.optional(key).scalar_text().empty()) return false;
  }
  const Yaml role = node.optional("role");
  return !role.present() || role.scalar_text() == to_string(pool.role);
}

}  // namespace

std::vector<PoolSpec> read_pools(const Yaml& deployment, const std::string& folder, Errors& errors,
                                 const Yaml& figures) {
  refuse_keys_beside(deployment);
  const Yaml list = deployment.optional("pools");
  const std::vector<Yaml> nodes = list.items();
  if (list.is_list() && nodes.empty()) list.fail("a deployment needs at least one pool");
  std::vector<PoolSpec> pools;
  const std::size_t problems = errors.size();
  for (const Yaml& node : nodes) {
    PoolSpec pool = read_pool(node, folder, errors, figures);
    pool.name = node.require("name").text();
    if (const Yaml role = node.optional("role"))
      pool.role = static_cast<PoolRole>(role.choice({"mixed", "prefill", "decode", "encoder"}));
    pools.push_back(std::move(pool));
  }
  if (errors.size() > problems) return pools;
  for (std::size_t i = 0; i < pools.size(); ++i) {
    if (!is_as_written(nodes[i], pools[i])) return pools;
  }
  const bool encoders =
      std::any_of(pools.begin(), pools.end(), [](const PoolSpec& p) { return p.role == PoolRole::encoder; });
  // To decode pools no embeddings go: they encode what they compute again.
  for (PoolSpec& pool : pools)
    pool.images_elsewhere = encoders && pool.role != PoolRole::encoder && pool.role != PoolRole::decode;
  if (pools.size() > 1) check_pools(nodes, pools);
  check_roles(nodes, pools);
  return pools;
}

namespace {

SpeculationRules sglang_rules(const InstanceSpec& instance) {
  const SpeculationSpec& s = instance.speculation;
  if (!s.on()) return {};
  return {.tokens = s.drafts(),
          .depth = s.tokens,
          .slots = slots_of_decode(s, instance.engine.settings.block_size),
          .context = s.has_network() ? slots_of_decode(s, 1) : 0,  // compute_num_reserved_tokens
          .lookahead = s.has_network() ? s.tokens : 0,
          .drops_last_hit = s.has_network()};
}

SpeculationRules speculation_rules(const InstanceSpec& instance) {
  const SpeculationSpec& s = instance.speculation;
  if (instance.engine.engine == "tensorrt-llm") {
    // get_num_extra_kv_tokens of 1.2: one-model EAGLE-3 alone has some.
    const bool extra = s.method == SpeculationMethod::eagle && s.one_model;
    return {.tokens = s.tokens,
            .lookahead = extra ? s.tokens - 1 : 0,
            .padded = s.method == SpeculationMethod::ngram,
            .max_concurrency = s.max_concurrency};
  }
  if (instance.engine.engine == "sglang") return sglang_rules(instance);
  return {.tokens = s.tokens, .lookahead = s.has_network() ? s.tokens : 0, .drops_last_hit = s.has_network()};
}

PipelineRules pipeline_rules(const InstanceSpec& instance) {
  return {.stages = instance.plan.pp,
          .cadence = token_cadence(instance),
          .asynchronous = instance.engine.settings.async_scheduling,
          .micro_batches =
              instance.plan.pp > 1 && in_a_ring(instance.engine) ? instance.engine.steps_in_flight : 0};
}

// TensorRT-LLM's padded graphs: the rows that fill them up are one request, which takes a block when it is
// first needed and keeps it (cuda_graph_runner.py, `_get_padded_batch`), from each pool. Here it has it from
// the beginning; not where the longest request needs all there are (the engine then pads nothing).
std::int64_t blocks_of_padding(const SchedulerSettings& s, bool tensorrt_llm, std::int64_t blocks) {
  const bool pads = tensorrt_llm && s.pad_to_graph && !s.cudagraph_sizes.empty();
  return pads && blocks * s.block_size > s.max_model_len + s.block_size ? 1 : 0;
}

}  // namespace

SchedulerConfig PoolSpec::scheduler_config() const {
  SchedulerConfig config = language_config();
  config.encoder.elsewhere = images_elsewhere;
  if (role != PoolRole::encoder) return config;
  // It keeps no KV (gpu_model_runner.py `get_kv_cache_spec` of a producer): no prompt ever waits for memory.
  config.enable_prefix_caching = false;
  config.offload = {};
  config.num_gpu_blocks = 1 + config.max_num_seqs * (config.max_model_len / config.block_size + 1);
  config.num_gpu_blocks = std::min(config.num_gpu_blocks, std::int64_t{1} << 30);
  return config;
}

SchedulerConfig PoolSpec::language_config() const {
  const SchedulerSettings& s = instance.engine.settings;
  const LayerParts parts = cached_parts(instance);
  const bool trt = instance.engine.engine == "tensorrt-llm";
  const std::int64_t windowed = memory.windowed_blocks;
  return {.max_num_batched_tokens = s.max_num_batched_tokens,
          .max_num_seqs = memory.max_sequences > 0 ? memory.max_sequences : s.max_num_seqs,
          .max_model_len = s.max_model_len,
          .num_gpu_blocks = memory.kv_blocks - blocks_of_padding(s, trt, memory.kv_blocks),
          .block_size = static_cast<std::int32_t>(s.block_size),
          .enable_prefix_caching = s.enable_prefix_caching,
          .enable_chunked_prefill = s.enable_chunked_prefill,
          .scheduler_reserve_full_isl = s.scheduler_reserve_full_isl,
          .long_prefill_token_threshold = s.long_prefill_token_threshold,
          .watermark = s.watermark,
          .by_priority = s.by_priority,
          .steps_in_flight = instance.engine.steps_in_flight,
          .options = s.options,
          .stretches = true,
          .tensorrt_llm = {.max_utilization = s.tensorrt_llm.max_utilization,
                           .equal_progress = s.tensorrt_llm.equal_progress,
                           .partial_reuse = s.tensorrt_llm.enable_partial_reuse,
                           .copy_on_partial_reuse = s.tensorrt_llm.copy_on_partial_reuse,
                           .store_at_first_chunk = s.tensorrt_llm.store_at_first_chunk,
                           .window = s.tensorrt_llm.window,
                           .window_blocks = windowed - blocks_of_padding(s, trt, windowed),
                           .window_host_blocks = memory.windowed_host_blocks,
                           .full_parts = parts.full,
                           .window_parts = parts.windowed,
                           .enable_balance = s.tensorrt_llm.enable_balance,
                           .timeout_iters = s.tensorrt_llm.timeout_iters,
                           .batching_wait_iters = s.tensorrt_llm.batching_wait_iters,
                           .states = instance.model.state.present()},
          .encoder = {.compute_budget = s.encoder.compute_budget,
                      .cache_size = s.encoder.cache_size,
                      .disable_chunked_input = s.encoder.disable_chunked_mm_input},
          .offload = {.blocks = memory.host_blocks, .prompt_only = s.kv_offload_prompt_only},
          .kv_groups = {.full = static_cast<std::int32_t>(memory.groups.full),
                        .windowed = static_cast<std::int32_t>(memory.groups.windowed),
                        .window = static_cast<std::int32_t>(memory.groups.window),
                        .windowed_tokens = memory.windowed_pool_tokens,
                        .state_slots = memory.state_slots,
                        .slots_of_sequence = memory.slots_of_sequence,
                        .state_chunk =
                            instance.model.state.rule == StateRule::mamba2 ? instance.model.state.chunk : 64,
                        .state_pages = static_cast<std::int64_t>(std::ceil(
                            memory.state_bytes.value() / host_block_bytes(instance, memory).value())),
                        .states = static_cast<std::int32_t>(memory.groups.states),
                        .blocks_of_state = static_cast<std::int32_t>(1 + s.draft_tokens),
                        .cached_states = memory.groups.cached_states,
                        .chunk_ends = memory.groups.chunk_ends},
          .speculation = speculation_rules(instance),
          .pipeline = pipeline_rules(instance),
          .pulls_kv = role == PoolRole::decode};
}

}  // namespace orrery
