// What vLLM's effective `engine_args` mean, and the defaults that follow from them (vLLM 0.24:
// `arg_utils.py`, `config/vllm.py::_set_cudagraph_sizes`).
#include <algorithm>

#include "costmodel/argument_resolver.h"
#include "costmodel/context_check.h"
#include "costmodel/engine_profile.h"
#include "costmodel/hardware.h"
#include "costmodel/image_cuts.h"
#include "costmodel/model_spec.h"
#include "costmodel/parallel_plan.h"
#include "costmodel/profile_reader.h"
#include "costmodel/stages.h"
#include "costmodel/tensorrt_llm_profile.h"
#include "costmodel/typed_profile.h"

namespace orrery {

namespace {

constexpr std::int64_t most = 1'000'000'000;

class Resolver final : ArgumentResolver {
 public:
  Resolver(EngineProfile& engine, const HardwareProfile& hardware, ModelSpec& model, const ParallelPlan& plan,
           const Yaml& args, const Yaml& place)
      : ArgumentResolver(engine, plan), settings_(engine.settings), hardware_(hardware), model_(model),
        args_(args), place_(place) {}

  void resolve() {
    const auto& v2 = engine_.v2_architectures;
    // `_get_v2_model_runner_unsupported_features`: n-grams are V1's, EAGLE and MTP are in both.
    const bool v2_runs = std::find(v2.begin(), v2.end(), model_.architecture) != v2.end();
    engine_.runner = v2_runs && !engine_.speculates_on_host ? "v2" : "v1";
    settings_.max_model_len =
        model_.original_positions > 0 ? model_.original_positions : model_.max_positions;
    settings_.encoder.processor_cache_bytes = std::int64_t{4} << 30;  // mm_processor_cache_gb
    if (engine_.speculates_on_host) settings_.async_scheduling = false;
    choose_latent_backend(engine_, hardware_, model_, place_);
    set_state_defaults(engine_, model_);
    settings_.joint.two_batches.decodes_from = 32;
    settings_.joint.two_batches.prompts_from = 512;
    apply_all(args_);
    choose_state_blocks(engine_, model_, plan_, args_, place_);
    apply_defaults();
    check();
    check_state_blocks(engine_, model_, args_, place_);
    resolve_encoder(engine_, model_, plan_, args_.present() ? args_ : place_);
    build_graph_sizes();
    finish_split_cache(engine_, hardware_, model_, plan_, args_);
    engine_.steps_in_flight = batches_in_flight(engine_, plan_.pp);
  }

 private:
  void apply_effective(const std::string& name, const Yaml& value) override {
    SchedulerSettings& s = settings_;
    if (name == "max_num_batched_tokens")
      s.max_num_batched_tokens = tokens_given_ = value.integer(1, 1, most);
    else if (name == "max_num_seqs")
      s.max_num_seqs = sequences_given_ = value.integer(1, 1, 1'000'000);
    else if (name == "max_model_len")
      apply_max_model_len(value);
    else if (name == "block_size")
      apply_block_size(value);
    else if (name == "num_gpu_blocks_override")
      s.num_gpu_blocks_override = value.integer(2, 2, most);
    else if (name == "kv_cache_memory_bytes")
      s.kv_cache_memory_bytes = value.integer(1, 1);
    else if (name == "gpu_memory_utilization")
      s.gpu_memory_utilization = value.number(0.9, 0.01, 1);
    else if (name == "long_prefill_token_threshold")
      s.long_prefill_token_threshold = value.integer(0, 0, most);
    else if (name == "watermark")
      s.watermark = value.number(0, 0, 1);
    else if (name == "enable_prefix_caching")
      s.enable_prefix_caching = value.boolean(true);
    else if (name == "enable_chunked_prefill")
      s.enable_chunked_prefill = value.boolean(true);
    else if (name == "async_scheduling")
      apply_async(value);
    else if (name == "enforce_eager")
      s.enforce_eager = value.boolean(false);
    else if (name == "scheduler_reserve_full_isl")
      s.scheduler_reserve_full_isl = value.boolean(true);
    else if (name == "disable_hybrid_kv_cache_manager")
      s.disable_hybrid_kv_cache_manager = value.boolean(false);
    else if (name == "scheduling_policy")
      s.by_priority = value.choice({"fcfs", "priority"}) == 1;
    else if (name == "stream_interval")
      s.stream_interval = value.integer(1, 1, longest_stream_interval);
    else if (name == "api_server_count")
      apply_api_servers(value);
    else if (name == "cudagraph_capture_sizes")
      read_sizes(value);
    else if (name == "max_cudagraph_capture_size")
      largest_given_ = value.integer(1, 1, most);
    else if (name == "compilation_config")
      apply_compilation(value);
    else if (name == "dtype")
      apply_dtype(value);
    else if (name == "performance_mode")
      throughput_ = value.choice({"balanced", "throughput"}) == 1;
    else if (name == "enable_expert_parallel")
      refuse_expert_parallel(value);
    else if (name == "all2all_backend")
      apply_exchange(value);
    else if (name == "enable_dbo")  // config/parallel.py, v1/worker/ubatch_utils.py
      s.joint.two_batches.on = value.boolean(false);
    else if (name == "dbo_decode_token_threshold")
      s.joint.two_batches.decodes_from = value.integer(32, 0, most);
    else if (name == "dbo_prefill_token_threshold")
      s.joint.two_batches.prompts_from = value.integer(512, 0, most);
    else if (name == "disable_nccl_for_dp_synchronization")
      check_rank_sync(value);
    else if (name == "kv_offloading_size")
      s.kv_offload_bytes = static_cast<std::int64_t>(value.number(0, 0, 1e6) * 1024 * 1024 * 1024);
    else if (name == "kv_transfer_config")
      apply_connector(value);
    else if (name.starts_with("mamba_") || name == "gdn_prefill_backend")
      apply_state_argument(name, value, engine_, model_);
    else if (!apply_of_a_feature(name, value))
      value.fail(
          "the engine profile calls this argument effective, but this version of Orrery does not read it");
  }

  bool apply_of_a_feature(const std::string& name, const Yaml& value) {
    if (name == "prefill_schedule_interval") {
      apply_prefill_interval(value);
      return true;
    }
    return apply_context_argument(name, value, engine_) ||
           apply_encoder_argument(name, value, engine_, model_);
  }

  void apply_api_servers(const Yaml& value) {
    servers_given_ = true;
    const std::int64_t count = value.integer(1, 1, 1024);
    if (engine_.front_end) engine_.front_end->processes = count;
  }

  void apply_async(const Yaml& value) {
    settings_.async_scheduling = value.boolean(true);
    if (settings_.async_scheduling && engine_.speculates_on_host)
      value.fail("vLLM refuses asynchronous scheduling with n-gram drafts; remove the argument");
  }

  void apply_max_model_len(const Yaml& value) {
    const std::int64_t length = value.integer(1, 1, most);
    if (length > model_.max_positions) {
      value.fail("is longer than the model's " + std::to_string(model_.max_positions) + " positions");
    } else {
      settings_.max_model_len = length;
    }
  }

  void apply_block_size(const Yaml& value) {
    settings_.block_size = value.integer(16, 1, 4096);
    if (settings_.block_size % 16 != 0)
      value.fail("must be a multiple of 16 (FlashAttention and Triton attention)");
    else
      check_latent_blocks(engine_, value);
  }

  void read_sizes(const Yaml& value) {
    sizes_given_.clear();
    for (const Yaml& size : value.items()) sizes_given_.push_back(size.integer(1, 1, most));
    if (sizes_given_.empty()) value.fail("must hold a size; enforce_eager: true turns graphs off");
    std::sort(sizes_given_.begin(), sizes_given_.end());
    sizes_given_.erase(std::unique(sizes_given_.begin(), sizes_given_.end()), sizes_given_.end());
  }

  void apply_compilation(const Yaml& value) {
    for (const auto& [key, entry] : value.entries()) {
      if (key == "cudagraph_capture_sizes")
        read_sizes(entry);
      else if (key == "max_cudagraph_capture_size")
        largest_given_ = entry.integer(1, 1, most);
      else if (key == "cudagraph_mode")
        apply_graph_mode(entry);
      else if (key == "pass_config")
        apply_fusion_passes(entry, engine_);
      else {
        accept_all(entry);
        entry.fail(
            "this part of compilation_config is not modelled by this version of Orrery; modelled: "
            "cudagraph_capture_sizes, max_cudagraph_capture_size, cudagraph_mode, pass_config");
      }
    }
  }

  void apply_graph_mode(const Yaml& value) {
    const std::size_t mode = value.choice({"FULL_AND_PIECEWISE", "NONE", "FULL_DECODE_ONLY"});
    graphs_off_ = graphs_off_ || mode == 1;
    settings_.graphs_of_decodes_only = mode == 2;
  }

  // The native connector to host memory by its long name; the others are said by deployment.pd.
  void apply_connector(const Yaml& value) {
    const Yaml connector = value.require("kv_connector"), role = value.optional("kv_role");
    if (connector.text() != "OffloadingConnector") {
      accept_all(value);
      connector.fail(
          "only OffloadingConnector is modelled here; transfers between instances are said by the "
          "scenario's key deployment.pools, with the roles prefill and decode");
      return;
    }
    if (role.present()) role.choice({"kv_both"});
    const Yaml extra = value.require("kv_connector_extra_config");
    for (const auto& [key, entry] : extra.entries()) {
      if (key == "cpu_bytes_to_use")
        settings_.kv_offload_bytes = entry.integer(0, 1);
      else if (key == "offload_prompt_only")
        settings_.kv_offload_prompt_only = entry.boolean(false);
      else if (key == "eviction_policy")
        entry.choice({"lru"});
      else {
        accept_all(entry);
        entry.fail(
            "this part of the connector's configuration is not modelled; modelled: cpu_bytes_to_use, "
            "offload_prompt_only, eviction_policy: lru");
      }
    }
  }

  void apply_dtype(const Yaml& value) {
    const std::vector<std::string> names = {"auto", "bfloat16", "float16", "half"};
    const std::size_t chosen = value.choice(names);
    if (chosen == 0) return;
    const DType before = model_.activation_dtype, after = chosen == 1 ? DType::bf16 : DType::fp16;
    model_.activation_dtype = after;
    if (model_.kv_dtype == before) model_.kv_dtype = after;
    const auto change = [&](std::vector<WeightTensor>& tensors) {
      for (WeightTensor& t : tensors) {
        if (t.dtype == before) t.dtype = after;
      }
    };
    for (LayerKind& kind : model_.layer_kinds) change(kind.weights);
    change(model_.global_weights);
  }

  void refuse_expert_parallel(const Yaml& value) {
    if (value.boolean(false))
      value.fail("say it by the scenario's key deployment.parallel.ep");
    else
      engine_.ignored_args.emplace_back("enable_expert_parallel");
  }

  // Used between ranks that share out whole experts only (`use_all2all_kernels`); "naive" and "pplx" are
  // taken for the default.
  void apply_exchange(const Yaml& value) {
    const std::string name = value.text();
    JointSettings& joint = settings_.joint;
    if (plan_.dp == 1 || plan_.ep == 1 || name == "allgather_reducescatter" || name == "naive" ||
        name == "pplx") {
      engine_.ignored_args.emplace_back("all2all_backend");
    } else if (name == "deepep_low_latency") {
      joint.exchange = ExpertExchange::low_latency;
    } else if (name == "deepep_high_throughput") {
      joint.exchange = ExpertExchange::normal;
      graphs_off_ = true;  // `set_splitting_ops_for_v1`: not compatible with CUDA graphs
    } else if (name == "mori_high_throughput") {
      joint.exchange = ExpertExchange::normal;
    } else {
      value.fail("the all-to-all back end " + name +
                 " is not modelled by this version of Orrery, for want of published timings; expected "
                 "allgather_reducescatter (vLLM's default), deepep_low_latency, deepep_high_throughput or "
                 "mori_high_throughput");
    }
    if (joint.exchanges()) joint.exchange_library = name.substr(0, name.find('_'));
  }

  // Only DPEngineCoreProc looks at it: ranks of a model with experts.
  void apply_prefill_interval(const Yaml& value) {
    const std::int64_t interval = value.integer(1, 1, most);
    if (plan_.dp == 1 || model_.experts == 0)
      engine_.ignored_args.emplace_back("prefill_schedule_interval");
    else
      settings_.options.set("prefill_schedule_interval", interval);
  }

  void check_rank_sync(const Yaml& value) {
    if (!value.boolean(true) && plan_.dp > 1)
      value.fail(
          "ranks that exchange their shapes over the GPU, which makes the host wait for it, are not "
          "modelled; expected true, vLLM's default under asynchronous scheduling");
    else
      engine_.ignored_args.emplace_back("disable_nccl_for_dp_synchronization");
  }

  // cli/serve.py: as many API servers as ranks.
  void apply_server_default() {
    if (plan_.dp > 1 && !servers_given_ && engine_.front_end) engine_.front_end->processes = plan_.dp;
  }

  void apply_defaults() {
    apply_server_default();
    SchedulerSettings& s = settings_;
    for (const DeviceDefaults& d : engine_.device_defaults) {
      if (hardware_.memory_total.value < d.memory_at_least) continue;
      const std::int64_t factor = throughput_ ? 2 : 1;
      // DEFAULT_MAX_NUM_BATCHED_TOKENS_FOR_BATCHED_DP: buffers of low-latency kernels hold a step's tokens.
      const std::int64_t tokens =
          s.joint.exchange == ExpertExchange::low_latency ? 256 : d.max_num_batched_tokens;
      if (tokens_given_ == 0) s.max_num_batched_tokens = factor * tokens;
      if (sequences_given_ == 0) s.max_num_seqs = factor * d.max_num_seqs;
      break;
    }
    if (tokens_given_ == 0) {
      if (!s.enable_chunked_prefill)
        s.max_num_batched_tokens = std::max(s.max_num_batched_tokens, s.max_model_len);
      if (s.max_model_len > 0)
        s.max_num_batched_tokens = std::min(s.max_num_batched_tokens, s.max_num_seqs * s.max_model_len);
    }
    if (sequences_given_ == 0) s.max_num_seqs = std::min(s.max_num_seqs, s.max_num_batched_tokens);
  }

  void fail(const char* key, const std::string& message) const {
    const Yaml argument = args_.optional(key);
    (argument.present() ? argument : args_.present() ? args_ : place_).fail(message);
  }

  void check() const {
    const SchedulerSettings& s = settings_;
    if (s.joint.two_batches.on && s.joint.exchange_library != "deepep")
      fail("enable_dbo",
           "is modelled between ranks that exchange rows by DeepEP; expected all2all_backend: "
           "deepep_low_latency or deepep_high_throughput with dp and ep above 1 (vLLM asserts it too)");
    // A profile may say it too.
    if (s.graphs_of_decodes_only && plan_.dp > 1 && !s.enforce_eager && !graphs_off_)
      fail("compilation_config", "cudagraph_mode FULL_DECODE_ONLY (" + engine_.name +
                                     ") is not modelled beside parallel.dp; expected FULL_AND_PIECEWISE");
    if (s.max_num_batched_tokens < s.max_num_seqs) {
      fail("max_num_batched_tokens", "max_num_batched_tokens (" + std::to_string(s.max_num_batched_tokens) +
                                         ") must be at least max_num_seqs (" +
                                         std::to_string(s.max_num_seqs) + ")");
    }
    if (!s.enable_chunked_prefill && s.max_num_batched_tokens < s.max_model_len) {
      fail("max_num_batched_tokens",
           "without chunked prefill max_num_batched_tokens (" + std::to_string(s.max_num_batched_tokens) +
               ") must be at least max_model_len (" + std::to_string(s.max_model_len) + ")");
    }
    if (s.by_priority && s.kv_offload_bytes > 0)
      fail("scheduling_policy",
           "priority together with offloading of the KV cache is not modelled; expected fcfs");
    if (s.long_prefill_token_threshold > s.max_model_len) {
      fail("long_prefill_token_threshold",
           "must not be above max_model_len (" + std::to_string(s.max_model_len) + ")");
    }
  }

  void build_graph_sizes() {
    std::vector<std::int64_t>& sizes = settings_.cudagraph_sizes;
    sizes.clear();
    if (settings_.enforce_eager || graphs_off_) return;
    const std::int64_t tokens = settings_.max_num_batched_tokens;
    if (!sizes_given_.empty()) {
      for (const std::int64_t size : sizes_given_) {
        if (size <= tokens && (largest_given_ == 0 || size <= largest_given_)) sizes.push_back(size);
      }
      if (settings_.draft_tokens > 0) round_to_queries(1 + settings_.draft_tokens);
      return;
    }
    const GraphRule& rule = engine_.graph_rule;
    const std::int64_t query = 1 + settings_.draft_tokens;  // of a uniform decode
    const std::int64_t by_rule = std::min(rule.per_sequence * settings_.max_num_seqs * query, rule.maximum);
    std::int64_t unless_given = by_rule;
    for (const auto& [architecture, size] : rule.maximum_of) {
      if (architecture == model_.architecture) unless_given = size;
    }
    const std::int64_t largest = std::min(tokens, largest_given_ > 0 ? largest_given_ : unless_given);
    for (const std::int64_t size : rule.dense) {
      if (size <= largest) sizes.push_back(size);
    }
    for (std::size_t i = 0; i < rule.ranges.size(); ++i) {
      const std::int64_t end =
          i + 1 < rule.ranges.size() ? std::min(rule.ranges[i + 1].from, largest + 1) : largest + 1;
      for (std::int64_t size = rule.ranges[i].from; size < end; size += rule.ranges[i].step)
        sizes.push_back(size);
    }
    if (tokens <= largest) sizes.push_back(tokens);
    std::sort(sizes.begin(), sizes.end());
    sizes.erase(std::unique(sizes.begin(), sizes.end()), sizes.end());
    if (query > 1) round_to_queries(query);
  }

  // `adjust_cudagraph_sizes_for_spec_decode`: sizes that hold whole decodes only, up to the largest as it
  // was.
  void round_to_queries(std::int64_t query) {
    std::vector<std::int64_t>& sizes = settings_.cudagraph_sizes;
    if (sizes.empty()) return;
    const std::int64_t largest = sizes.back();
    for (std::int64_t& size : sizes) size = (size + query - 1) / query * query;
    std::erase_if(sizes, [&](std::int64_t size) { return size > largest; });
    if (sizes.empty() && query <= largest) sizes.push_back(query);
    std::sort(sizes.begin(), sizes.end());
    sizes.erase(std::unique(sizes.begin(), sizes.end()), sizes.end());
  }

  SchedulerSettings& settings_;
  const HardwareProfile& hardware_;
  ModelSpec& model_;
  const Yaml args_, place_;
  std::int64_t tokens_given_ = 0, sequences_given_ = 0, largest_given_ = 0;
  bool throughput_ = false, graphs_off_ = false, servers_given_ = false;
  std::vector<std::int64_t> sizes_given_;
};

// Those of this part, for sequences as long as this engine serves.
void resolve_kernel_laws(EngineProfile& engine, const HardwareProfile& hardware) {
  std::vector<KernelLaws>& laws = engine.kernel_laws;
  const auto another = [&](const KernelLaws& l) { return l.architecture != hardware.architecture; };
  laws.erase(std::remove_if(laws.begin(), laws.end(), another), laws.end());
  const char* const splits = "triton_attention_num_kv_splits";
  bool splits_apply = !engine.settings.options.has(splits);
  for (KernelLaws& l : laws) {
    if (l.decode) l.decode->resolve(engine.settings.max_model_len);
    if (l.split_decode && engine.settings.options.has(splits)) {
      l.split_decode->splits = engine.settings.options.integer(splits);
      splits_apply = true;
    }
    const auto rate = hardware.matrix_rate.find(DType::bf16);
    if (l.product && rate != hardware.matrix_rate.end())
      l.product->resolve(static_cast<std::int64_t>(hardware.compute_units.value), rate->second.value.value());
  }
  if (!splits_apply) engine.ignored_args.emplace_back(splits);  // another backend's, or no law of this part
}

}  // namespace

void resolve_engine(EngineProfile& engine, const HardwareProfile& hardware, ModelSpec& model,
                    const ParallelPlan& plan, const Yaml& args, const Yaml& place) {
  if (engine.typed || engine.engine == "tensorrt-llm") {
    choose_latent_backend(engine, hardware, model, place);
    if (engine.typed)
      resolve_typed(engine, hardware, model, plan, args, place);
    else
      resolve_tensorrt_llm(engine, hardware, model, plan, args, place);
    resolve_overlap(engine, hardware, model, plan, args.present() ? args : place);
    resolve_kernel_laws(engine, hardware);
    cut_images(model, engine.engine, args.present() ? args : place);
    return resolve_encoder_on_touch(engine, model, plan, args.present() ? args : place);
  }
  Resolver(engine, hardware, model, plan, args, place).resolve();
  resolve_overlap(engine, hardware, model, plan, args.present() ? args : place);
  resolve_kernel_laws(engine, hardware);
}

}  // namespace orrery
