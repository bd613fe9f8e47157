// `engine_args` of an engine with typed arguments, and what follows from them: defaults by device, captured
// sizes, the static fraction of memory.
#include <algorithm>
#include <cmath>

#include "base/json.h"
#include "base/text.h"
#include "costmodel/argument_resolver.h"
#include "costmodel/hardware.h"
#include "costmodel/image_rules.h"
#include "costmodel/memory_plan.h"
#include "costmodel/model_spec.h"
#include "costmodel/queue_arguments.h"
#include "costmodel/state_pool.h"

namespace orrery {

namespace {

class TypedResolver final : ArgumentResolver {
 public:
  TypedResolver(EngineProfile& engine, const HardwareProfile& hardware, ModelSpec& model,
                const ParallelPlan& plan, const Yaml& args, const Yaml& place)
      : ArgumentResolver(engine, plan), profile_(*engine.typed), options_(engine.settings.options),
        hardware_(hardware), model_(model), args_(args), place_(place) {}

  void resolve() {
    engine_.runner = engine_.engine;
    options_ = profile_.constants;
    apply_all(args_);
    for (const TypedArgument& a : profile_.arguments) {
      if (!options_.has(a.name)) set_default(a);
    }
    // model_overrides/gemma2_gemma3.py: Gemma's layers share one pool, whatever was asked.
    if (const auto one_pool = profile_.roles.find("one_pool");
        one_pool != profile_.roles.end() && model_.output_norms)
      options_.set(one_pool->second, true);
    if (on_large_hopper()) set_qwen3_vl_defaults();
    for (const TypedArgument& a : profile_.arguments) check_needs(a);
    // §5.2: fewer run with speculation; the default of captured sizes was decided before that.
    const bool few = engine_.settings.draft_tokens > 0 && !given("sequences");
    if (few) options_.set(role("sequences"), profile_.speculating_sequences);
    check_queue_arguments(engine_, plan_, args_, place_);
    choose_state_pool({engine_, options_, plan_, args_, place_}, model_);
    // `_pipeline_parallel_overlap_disable`, which runs behind `_mamba_radix_cache_resolution`
    if (plan_.pp > 1) options_.set(role("one_step_in_flight"), true);
    fill_settings();
    choose_exchange();
    choose_context();
    build_graphs(few);
    if (!options_.has(role("static_fraction"))) options_.set(role("static_fraction"), fraction());
    engine_.settings.gpu_memory_utilization = options_.number(role("static_fraction"));
    if (plan_.dp > 1) share_over_ranks();
  }

 private:
  const std::string& role(const char* name) const { return profile_.roles.at(name); }
  std::int64_t integer(const char* name) const { return options_.integer(role(name)); }
  bool flag(const char* name) const { return options_.flag(role(name)); }
  bool given(const char* name) const { return options_.has(role(name)); }

  void apply_effective(const std::string& name, const Yaml& value) override {
    for (const TypedArgument& a : profile_.arguments) {
      if (a.name == name) options_.set(name, read(a, value));
    }
  }

  OptionValue read(const TypedArgument& a, const Yaml& value) const {
    switch (a.type) {
      case TypedArgument::Type::integer:
        return value.integer(static_cast<std::int64_t>(a.least), static_cast<std::int64_t>(a.least),
                             static_cast<std::int64_t>(a.most));
      case TypedArgument::Type::number: return value.number(a.least, a.least, a.most);
      case TypedArgument::Type::boolean: return value.boolean(false);
      case TypedArgument::Type::choice: break;
    }
    return a.choices[value.choice(a.choices)];
  }

  void set_default(const TypedArgument& a) {
    switch (a.fallback) {
      case TypedArgument::Default::fixed: options_.set(a.name, a.value); break;
      case TypedArgument::Default::by_model: options_.set(a.name, model_.max_positions); break;
      case TypedArgument::Default::by_device: set_by_device(a.name); break;
      case TypedArgument::Default::open: break;
    }
  }

  void check_needs(const TypedArgument& a) const {
    if (a.needs.empty() || !options_.flag(a.name)) return;
    const OptionValue& value = options_.all().at(a.needs);
    const auto* flag = std::get_if<bool>(&value);
    const std::string has = flag != nullptr ? (*flag ? "true" : "false") : std::get<std::string>(value);
    if (std::find(a.among.begin(), a.among.end(), has) != a.among.end()) return;
    args_.optional(a.name).fail("the engine does not start with " + a.needs + ": " + has + "; expected " +
                                a.needs + " to be one of " + join(a.among, ", "));
  }

  bool on_large_hopper() const { return is_qwen3_vl_on_large_hopper(model_, engine_, hardware_); }

  // model_overrides/qwen3_vl.py, `_qwen3vl_hopper_serving_overrides`: "the profiled Qwen3-VL serving path".
  // Its decode_attention_backend is FlashInfer, whose kernels have no table here.
  void set_qwen3_vl_defaults() {
    const auto said = [&](const char* name) { return args_.present() && args_.optional(name).present(); };
    if (!said("radix_eviction_policy")) options_.set("radix_eviction_policy", std::string("priority"));
    if (!said("prefill_decode_interval")) options_.set("prefill_decode_interval", std::int64_t{22});
  }

  Bytes driver_memory() const { return orrery::driver_memory(engine_, hardware_); }

  void set_by_device(const std::string& name) {
    for (const TypedProfile::Device& device : profile_.devices) {
      if (device.memory_below.value() > 0 && driver_memory() >= device.memory_below) continue;
      const auto it = device.values.find(name);
      if (it == device.values.end()) break;
      const bool wide = plan_.mlp_ranks() >= profile_.wide_from_tp;  // the engine's tp_size
      options_.set(name, wide ? it->second.back() : it->second.front());
      return;
    }
    place_.fail("the engine profile has no default of " + name + " for this device");
    options_.set(name, std::int64_t{1});
  }

  void fail(const char* at, const std::string& message) const {
    const Yaml argument = args_.optional(role(at));
    (argument.present() ? argument : place_).fail(message);
  }

  void fill_settings() {
    SchedulerSettings& s = engine_.settings;
    s.max_model_len = integer("context");
    if (s.max_model_len > model_.max_positions) {
      fail("context", "is longer than the model's " + std::to_string(model_.max_positions) + " positions");
      s.max_model_len = model_.max_positions;
    }
    s.block_size = integer("page");
    if (options_.has("stream_interval")) s.stream_interval = options_.integer("stream_interval");
    engine_.steps_in_flight = plan_.pp > 1 ? micro_batches() : flag("one_step_in_flight") ? 1 : 2;
    const StaticFraction& m = profile_.memory;
    const std::int64_t chunk = integer("step_tokens");
    if (chunk == 0) fail("step_tokens", "must be positive, or -1 for no chunks");
    // For tables of prices: what a step may hold.
    s.max_num_seqs =
        given("sequences") ? integer("sequences") : static_cast<std::int64_t>(m.most_sequences.value);
    s.max_num_batched_tokens =
        std::max(s.max_num_seqs, chunk > 0 ? chunk : std::max(integer("prefill_tokens"), s.max_model_len));
    s.enable_chunked_prefill = chunk > 0;
  }

  // `init_pp_loop_state`.
  std::int32_t micro_batches() const {
    const std::int64_t more =
        options_.has("pp_async_batch_depth") ? options_.integer("pp_async_batch_depth") : 0;
    return plan_.pp + static_cast<std::int32_t>(more);
  }

  // moe_hook.py, `handle_a2a_moe`; forward_batch_info.py: normal kernels in steps with a prompt on any rank.
  void choose_exchange() {
    JointSettings& joint = engine_.settings.joint;
    joint.dense_whole = options_.has("moe_dense_tp_size");
    joint.head_whole = options_.has("enable_dp_lm_head") && options_.flag("enable_dp_lm_head");
    if ((joint.dense_whole || joint.head_whole) && (plan_.dp == 1 || plan_.tp > 1))
      args_.optional(joint.dense_whole ? "moe_dense_tp_size" : "enable_dp_lm_head")
          .fail("is modelled with attention ranks of one GPU each only; expected parallel: {dp: N}, N > 1");
    if (!options_.has("moe_a2a_backend") || options_.text("moe_a2a_backend") == "none") return;
    const std::string& mode = options_.text("deepep_mode");
    joint.exchange_library = options_.text("moe_a2a_backend");
    joint.exchange = mode == "normal"        ? ExpertExchange::normal
                     : mode == "low_latency" ? ExpertExchange::low_latency
                                             : ExpertExchange::by_prompts;
    joint.two_batches.on = options_.flag("enable_two_batch_overlap");
    joint.two_batches.by_phase = true;
    if (plan_.dp == 1 || plan_.tp > 1 || plan_.ep != plan_.dp)
      args_.optional("moe_a2a_backend")
          .fail(
              "is modelled between attention ranks of one GPU each only; expected parallel: {dp: N, ep: N}, "
              "N > 1");
  }

  // arg_groups/parallel_hook.py, `handle_context_parallelism`; layers/cp/interleave.py runs on the DSA
  // backend.
  void choose_context() {
    ContextSettings& context = engine_.settings.context;
    context.prompt_ranks = plan_.cp;
    context.splits = options_.has("enable_prefill_cp") && options_.flag("enable_prefill_cp");
    if (context.splits && !options_.has("cp_strategy"))
      args_.optional("enable_prefill_cp")
          .fail(
              "needs cp_strategy (the engine does not start without); expected "
              "cp_strategy: zigzag");
    const std::int64_t moe = options_.has("moe_dp_size") ? options_.integer("moe_dp_size") : 1;
    if (moe != 1 && moe != plan_.cp)
      args_.optional("moe_dp_size")
          .fail("must be 1 or cp = " + std::to_string(plan_.cp) + " (parallel_hook.py asserts it)");
    if (plan_.cp == 1) {
      context.splits = false;
      return;
    }
    if (options_.has("enable_mixed_chunk") && options_.flag("enable_mixed_chunk"))
      args_.optional("enable_mixed_chunk").fail("is not modelled under context parallelism; leave it out");
    context.own_experts = moe > 1;
    if (moe > 1 && (model_.latent.present() || model_.shared_expert_intermediate > 0 || plan_.ep > 1))
      args_.optional("moe_dp_size")
          .fail(
              "above 1 is modelled for models with grouped-query attention and without shared experts, and "
              "ep: 1 only");
  }

  // Normal kernels make the host wait for counts; two batches are not captured with prompts
  // (cuda_graph_hook.py).
  void drop_graphs_for_exchange() {
    SchedulerSettings& s = engine_.settings;
    if (s.joint.exchange == ExpertExchange::normal) s.cudagraph_sizes.clear();
    if (s.joint.exchange == ExpertExchange::normal || s.joint.two_batches.on) s.prefill_graph_sizes.clear();
    if (!s.joint.exchanges()) return;
    for (std::int64_t& size : s.prefill_graph_sizes) size = (size + 7) / 8 * 8;  // `apply_deepep_adjustments`
    const auto end = std::unique(s.prefill_graph_sizes.begin(), s.prefill_graph_sizes.end());
    s.prefill_graph_sizes.erase(end, s.prefill_graph_sizes.end());
  }

  // `reserve_for_deepep_a2a_mb` and what prefill graphs with it take.
  double reserved_for_exchange() const {
    const SchedulerSettings& s = engine_.settings;
    if (!s.joint.exchanges()) return 0;
    constexpr double gib = 1024.0 * 1024 * 1024;
    return (s.cudagraph_sizes.empty() ? 0 : 2 * gib) + (s.prefill_graph_sizes.empty() ? 0 : gib);
  }

  // Arguments are the engine's, for all ranks together; what a rank's scheduler has of them
  // (arg_groups/parallel_hook.py, `_handle_data_parallelism`; `resolve_max_num_reqs`). Prefill graphs are
  // captured for a rank's chunk only.
  void share_over_ranks() {
    SchedulerSettings& s = engine_.settings;
    const DataParallelRules& rules = *engine_.data_parallel;
    const std::int64_t chunk = integer("step_tokens");
    if (chunk > 0) {
      const std::int64_t own = std::max<std::int64_t>(1, chunk / plan_.dp);
      options_.set(role("step_tokens"), own);
      std::erase_if(s.prefill_graph_sizes, [&](std::int64_t size) { return size > own; });
    }
    if (given("sequences"))
      options_.set(role("sequences"), std::max<std::int64_t>(1, integer("sequences") / plan_.dp));
    if (options_.has("schedule_conservativeness")) {
      options_.set("schedule_conservativeness",
                   options_.number("schedule_conservativeness") * rules.conservativeness.value);
    }
    fill_settings();
  }

  bool captured_here(const GraphSizes& sizes) const {
    return sizes.vendors.empty() ||
           std::find(sizes.vendors.begin(), sizes.vendors.end(), hardware_.vendor) != sizes.vendors.end();
  }

  void build_graphs(bool default_sequences) {
    SchedulerSettings& s = engine_.settings;
    s.graphs_by_phase = true;
    s.widest_padding = profile_.widest_padding;
    // A default limit gives way to fewer running requests; one that was asked for does not.
    std::int64_t decode = integer("decode_graphs");
    const bool asked = args_.present() && args_.optional(role("decode_graphs")).present();
    if (!asked && !default_sequences && given("sequences")) decode = std::min(decode, integer("sequences"));
    // `expand_multimodal_decode_graph_to_running_limit`
    if (!asked && given("sequences") && integer("sequences") <= 512 && on_large_hopper())
      decode = std::max(decode, integer("sequences"));
    options_.set(role("decode_graphs"), decode);
    decode_limit_ = decode;
    std::int64_t prefill = given("prefill_graphs") ? integer("prefill_graphs") : integer("step_tokens");
    if (!given("prefill_graphs") && given("kv_tokens")) prefill = std::min(prefill, integer("kv_tokens"));
    if (flag("no_graphs")) return;
    if (!flag("no_decode_graphs") && captured_here(profile_.decode_graphs))
      s.cudagraph_sizes = decode_sizes(decode);
    // cuda_graph_hook.py: prefill graphs and ranks of context parallelism, on the backends modelled here.
    if (!flag("no_prefill_graphs") && plan_.cp == 1 && captured_here(profile_.prefill_graphs))
      s.prefill_graph_sizes = profile_.prefill_graphs.up_to(prefill);
    // cuda_graph_hook.py: without an explicit backend none with pipeline stages.
    // Nor for a model that takes images (disable_breakable_cudagraph_if_incompatible): "multimodal prefill
    // replay faults"; none of those that the wheel excepts has an encoder here.
    if (plan_.pp > 1 || takes_images(model_, engine_)) s.prefill_graph_sizes.clear();
    drop_graphs_for_exchange();
  }

  // Of whole decodes, in tokens: with speculation each brings its drafts (§5.3: other sizes, none above the
  // running requests).
  std::vector<std::int64_t> decode_sizes(std::int64_t limit) const {
    const std::int64_t drafts = engine_.settings.draft_tokens;
    if (drafts == 0) {
      std::vector<std::int64_t> sizes = profile_.decode_graphs.up_to(limit);
      // A rank's rows are dealt to its GPUs in equal parts (`get_batch_sizes_to_capture`).
      if (plan_.dp > 1) std::erase_if(sizes, [&](std::int64_t size) { return size % plan_.tp != 0; });
      // `get_cuda_graph_batch_size_alignment`
      if (plan_.cp > 1) std::erase_if(sizes, [&](std::int64_t size) { return size % plan_.cp != 0; });
      return sizes;
    }
    std::vector<std::int64_t> sizes = profile_.speculating_graphs.up_to(limit);
    std::erase_if(sizes, [&](std::int64_t size) { return size > engine_.settings.max_num_seqs; });
    for (std::int64_t& size : sizes) size *= 1 + drafts;
    return sizes;
  }

  // §5.1, in bytes.
  double fraction() const {
    const StaticFraction& m = profile_.memory;
    const SchedulerSettings& s = engine_.settings;
    const std::int64_t chunk = integer("step_tokens");
    const double tokens =
        std::max(static_cast<double>(chunk > 0 ? chunk : integer("prefill_tokens")), m.least_tokens.value);
    double reserved = m.constant.value.value() + tokens * m.per_token.value.value() +
                      static_cast<double>(plan_.gpus()) * m.per_gpu.value.value();
    if (!s.cudagraph_sizes.empty())
      reserved += static_cast<double>(decode_limit_) * m.per_decode_slot.value.value();
    if (plan_.dp > 1) {
      const DataParallelRules& rules = *engine_.data_parallel;
      const auto slots = static_cast<double>(decode_limit_);
      reserved += slots * plan_.dp * rules.per_decode_slot.value.value();
      if (slots > rules.many_slots.value)
        reserved += slots * plan_.dp * rules.per_decode_slot_of_many.value.value();
    }
    reserved += static_cast<double>(s.prefill_graph_sizes.size()) * m.per_prefill_graph.value.value();
    const double total = driver_memory().value();
    if (total > m.floor_above.value.value()) reserved = std::max(reserved, m.floor.value.value());
    reserved += reserved_for_exchange();
    return std::round((total - reserved) / total * 1000) / 1000 * encoder_share();
  }

  // memory_hook.py, adjust_mem_fraction_for_vlm: less for the pool, by layers · width² of the encoder against
  // those of ViT-L. Configs that call their layers `depth` (Qwen) count as 24.
  double encoder_share() const {
    if (!takes_images(model_, engine_)) return 1;
    const VisionSpec& v = *model_.vision;
    const double layers = v.rule == ImageRule::qwen_vl ? 24 : static_cast<double>(v.layers);
    const double ratio = layers * static_cast<double>(v.hidden * v.hidden) / (24.0 * 1024 * 1024);
    return 0.95 * std::clamp(1 - 0.1 * (ratio - 1), 0.8, 1.05);
  }

  TypedProfile& profile_;
  NamedOptions& options_;
  const HardwareProfile& hardware_;
  ModelSpec& model_;
  const Yaml args_, place_;
  std::int64_t decode_limit_ = 0;
};

}  // namespace

void resolve_typed(EngineProfile& engine, const HardwareProfile& hardware, ModelSpec& model,
                   const ParallelPlan& plan, const Yaml& args, const Yaml& place) {
  TypedResolver(engine, hardware, model, plan, args, place).resolve();
}

namespace {

// HostKVCache: so many tokens of the device's, or of gigabytes a rank. EAGLE's layers stand beside it in a
// pool of their own with as many slots; MTP's are packed with the model's (`_can_pack_hicache_mtp`).
std::int64_t host_blocks(const InstanceSpec& spec, const MemoryPlan& plan, std::int64_t windowed) {
  const NamedOptions& options = spec.engine.settings.options;
  const auto& roles = spec.engine.typed->roles;
  const std::int64_t size = options.integer(roles.at("host_gigabytes"));
  const auto blocks = static_cast<double>(plan.kv_blocks);
  if (size <= 0) return static_cast<std::int64_t>(blocks * options.number(roles.at("host_ratio")));
  const std::int64_t drafting = draft_layers_cached(spec.speculation, spec.model, spec.engine.engine);
  const auto of_model = static_cast<double>(spec.model.layers);
  const auto layers = static_cast<double>(spec.model.layers + drafting);
  const double counted = spec.speculation.method == SpeculationMethod::eagle ? of_model / layers : 1;
  const double token = plan.kv_bytes_per_token.value();
  double block = token * static_cast<double>(plan.block_size) * counted;
  // `_split_hicache_size`: of two pools each has a part as of the device's bytes, which is the same ratio.
  if (plan.windowed_pool_tokens > 0) {
    const auto slots = static_cast<double>(plan.windowed_pool_tokens) / blocks;
    block = token / layers *
            ((of_model - static_cast<double>(windowed)) * static_cast<double>(plan.block_size) +
             static_cast<double>(windowed) * slots);
  }
  if (plan.state_slots > 0)
    block += plan.state_bytes.value() * static_cast<double>(plan.state_slots) / blocks;
  return static_cast<std::int64_t>(static_cast<double>(size) * 1e9 / block);
}

}  // namespace

// §5.2: what is free before loading, by the fraction, less the weights.
void share_by_fraction(const InstanceSpec& spec, MemoryPlan& plan) {
  const TypedProfile& profile = *spec.engine.typed;
  const StaticFraction& m = profile.memory;
  const NamedOptions& options = spec.engine.settings.options;
  const auto given = [&](const char* role) { return options.has(profile.roles.at(role)); };
  const auto integer = [&](const char* role) { return options.integer(profile.roles.at(role)); };
  const Bytes free_before = plan.total - m.before_load.value;
  const Bytes images = reserved_for_images(spec.model, spec.engine, spec.hardware);
  plan.residue = m.before_load.value + images;
  plan.requested = free_before * options.number(profile.roles.at("static_fraction"));
  plan.kv_available = plan.requested - plan.weights - images;
  if (plan.kv_available.value() <= 0) return;
  const Bytes cache = plan.kv_available - share_states(spec, plan);
  const auto role = [&](const char* name) {
    const auto it = profile.roles.find(name);
    return it == profile.roles.end() ? std::string() : it->second;
  };
  // _recompute_cell_size: a token has a slot in the windowed layers' pool for every `share` of the other one;
  // a drafting network's layers keep every token (`_draft_full_layers_num`).
  const std::string share_name = role("windowed_share"), one_pool = role("one_pool");
  const std::int64_t windowed = plan.groups.window_layers;
  const std::int64_t layers =
      spec.model.layers + draft_layers_cached(spec.speculation, spec.model, spec.engine.engine);
  const bool two_pools = windowed > 0 && windowed < spec.model.layers && !share_name.empty() &&
                         !(!one_pool.empty() && options.flag(one_pool));
  const double share = two_pools ? options.number(share_name) : 1;
  const double cell = plan.kv_bytes_per_token.value() *
                      (static_cast<double>(layers - windowed) + share * static_cast<double>(windowed)) /
                      static_cast<double>(layers);
  std::int64_t tokens =
      static_cast<std::int64_t>(cache.value() / (two_pools ? cell : plan.kv_bytes_per_token.value()));
  if (given("kv_tokens")) {
    plan.blocks_overridden = integer("kv_tokens") < tokens;
    tokens = std::min(tokens, integer("kv_tokens"));
  }
  plan.kv_blocks = tokens / plan.block_size;
  if (two_pools) {
    const auto slots =
        static_cast<std::int64_t>(static_cast<double>(plan.kv_blocks * plan.block_size) * share);
    plan.windowed_pool_tokens = slots / plan.block_size * plan.block_size;
    plan.groups.window = window_of(spec.model);
    plan.groups.window_layers = 0;
  }
  if (const std::string tier = role("host_tier"); !tier.empty() && options.flag(tier))
    plan.host_blocks = host_blocks(spec, plan, windowed);
  const double by_context = m.sequences_per_context.value * static_cast<double>(plan.kv_tokens()) /
                            static_cast<double>(spec.engine.settings.max_model_len);
  const auto by_pool =
      static_cast<std::int64_t>(static_cast<double>(plan.kv_tokens()) / m.tokens_per_sequence.value);
  const std::int64_t wanted = given("sequences")
                                  ? integer("sequences")
                                  : static_cast<std::int64_t>(std::clamp(by_context, m.least_sequences.value,
                                                                         m.most_sequences.value));
  plan.max_sequences =
      std::max<std::int64_t>(1, std::min({wanted, by_pool, sequences_by_states(spec, plan)}));
}

}  // namespace orrery
