#include "costmodel/tensorrt_llm_profile.h"

#include <algorithm>
#include <optional>

#include "costmodel/argument_resolver.h"
#include "costmodel/gemma_rules.h"
#include "costmodel/hardware.h"
#include "costmodel/model_spec.h"
#include "costmodel/profile_reader.h"
#include "costmodel/tensorrt_llm_states.h"

namespace orrery {

namespace {

constexpr std::int64_t most = 1'000'000'000;
const std::vector<std::string> capacity_policies = {"GUARANTEED_NO_EVICT", "MAX_UTILIZATION", "STATIC_BATCH"};
const std::vector<std::string> chunking_policies = {"FIRST_COME_FIRST_SERVED", "EQUAL_PROGRESS"};

void read_defaults(const Yaml& node, EngineProfile& e) {
  SchedulerSettings& s = e.settings;
  TensorRtLlmSettings& t = s.tensorrt_llm;
  node.require("source").text();
  s.max_num_batched_tokens = node.require("max_num_tokens").integer(8192, 1, most);
  s.max_num_seqs = node.require("max_batch_size").integer(2048, 1, 1'000'000);
  s.enable_chunked_prefill = node.require("enable_chunked_prefill").boolean(false);
  s.async_scheduling = !node.require("disable_overlap_scheduler").boolean(false);
  const Yaml kv = node.require("kv_cache_config");
  t.free_gpu_memory_fraction = kv.require("free_gpu_memory_fraction").number(0.9, 0.01, 1);
  s.block_size = kv.require("tokens_per_block").integer(32, 1, 4096);
  s.enable_prefix_caching = kv.require("enable_block_reuse").boolean(true);
  t.enable_partial_reuse = kv.require("enable_partial_reuse").boolean(true);
  t.copy_on_partial_reuse = kv.require("copy_on_partial_reuse").boolean(true);
  const Yaml scheduler = node.require("scheduler_config");
  t.max_utilization = scheduler.require("capacity_scheduler_policy").choice(capacity_policies) == 1;
  t.equal_progress = scheduler.require("context_chunking_policy").choice(chunking_policies) == 1;
  t.store_at_first_chunk = node.require("store_context_blocks").choice({"first chunk", "last chunk"}) == 0;
  s.gpu_memory_utilization = 1;
  s.graphs_by_phase = true;
}

void read_graphs(const Yaml& node, EngineProfile& e) {
  BatchSizeRule& rule = e.batch_size_rule;
  node.require("source").text();
  for (const Yaml& size : node.require("exact").items()) rule.exact.push_back(size.integer(1, 1));
  for (const Yaml& size : node.require("padded").items()) rule.padded.push_back(size.integer(1, 1));
  rule.powers_from = node.require("powers_from").integer(256, 1);
  rule.max_batch_size = node.require("max_batch_size").integer(128, 1);
  rule.enable_padding = node.require("enable_padding").boolean(false);
}

class Resolver final : public ArgumentResolver {
 public:
  Resolver(EngineProfile& engine, const HardwareProfile& hardware, ModelSpec& model, const ParallelPlan& plan,
           const Yaml& args, const Yaml& place)
      : ArgumentResolver(engine, plan), settings_(engine.settings), rules_(engine.settings.tensorrt_llm),
        hardware_(hardware), model_(model), args_(args), place_(place) {}

  void resolve() {
    if (hardware_.vendor != "nvidia") place_.fail("TensorRT-LLM runs on NVIDIA parts only");
    engine_.runner = "pytorch";
    settings_.max_model_len = model_.max_positions;
    apply_all(args_);
    if (windows_) apply_windows(*windows_);
    check_chunk();
    resolve_states();
    check_masks();
    // §4.5: what could not be brought back is not taken there either.
    if (!onboards_) settings_.kv_offload_bytes = 0;
    build_graph_sizes();
    note_without_effect();
    // §1.3: n-grams need a step's tokens before the next one is composed.
    engine_.steps_in_flight = settings_.async_scheduling && !engine_.speculates_on_host ? 2 : 1;
    if (plan_.pp > 1)
      engine_.steps_in_flight = plan_.pp;  // num_micro_batches; whatever the overlap switch says
  }

 private:
  void apply_effective(const std::string& name, const Yaml& value) override {
    SchedulerSettings& s = settings_;
    if (name == "max_num_tokens")
      s.max_num_batched_tokens = value.integer(1, 1, most);
    else if (name == "max_batch_size")
      s.max_num_seqs = value.integer(1, 1, 1'000'000);
    else if (name == "max_seq_len")
      apply_max_seq_len(value);
    else if (name == "enable_chunked_prefill")
      s.enable_chunked_prefill = value.boolean(false);
    else if (name == "disable_overlap_scheduler")
      s.async_scheduling = !value.boolean(false);
    else if (name == "kv_cache_config.tokens_per_block")
      apply_tokens_per_block(value);
    else if (name == "kv_cache_config.enable_block_reuse")
      s.enable_prefix_caching = value.boolean(true);
    else if (name == "kv_cache_config.enable_partial_reuse")
      rules_.enable_partial_reuse = value.boolean(true);
    else if (name == "kv_cache_config.copy_on_partial_reuse")
      rules_.copy_on_partial_reuse = value.boolean(true);
    else if (name == "kv_cache_config.free_gpu_memory_fraction")
      rules_.free_gpu_memory_fraction = value.number(0.9, 0.01, 1);
    else if (name == "kv_cache_config.max_tokens")
      rules_.max_tokens = value.integer(1, 1);
    else if (name == "kv_cache_config.host_cache_size")  // of each rank
      s.kv_offload_bytes = value.integer(0, 0) * plan_.tp;
    else if (name == "stream_interval")
      s.stream_interval = value.integer(1, 1, longest_stream_interval);
    else if (name == "num_postprocess_workers")
      apply_postprocess_workers(value.integer(0, 0, 1000));
    else if (name == "kv_cache_config.max_attention_window")
      windows_ = value;
    else if (name == "attn_backend")
      apply_attention(value);
    else if (name == "kv_cache_config.mamba_ssm_cache_dtype")
      state_type_ = value;
    else if (name == "kv_cache_config.onboard_blocks")
      onboards_ = value.boolean(true);
    else if (name == "kv_cache_config.max_gpu_total_bytes")
      rules_.max_gpu_total_bytes = value.integer(0, 0);
    else if (name == "scheduler_config.capacity_scheduler_policy")
      apply_capacity(value.choice(capacity_policies));
    else if (name == "scheduler_config.context_chunking_policy")
      rules_.equal_progress = value.choice(chunking_policies) == 1;
    else if (name.starts_with("attention_dp_config"))
      apply_balance(name.substr(name.find('.') + 1), value);
    else if (name.starts_with("batch_wait_"))
      apply_batch_wait(name, value);
    else if (name == "torch_compile_config")
      apply_no_compiler(value);
    else if (name == "torch_compile_config.enable_piecewise_cuda_graph")
      piecewise_ = value.boolean(false);
    else if (name == "torch_compile_config.capture_num_tokens")
      piecewise_sizes_ = read_sizes(value);
    else if (name == "cuda_graph_config")
      apply_no_graphs(value);
    else if (name == "cuda_graph_config.batch_sizes")
      sizes_given_ = read_sizes(value);
    else if (name == "cuda_graph_config.max_batch_size")
      largest_given_ = value.integer(0, 0, most);
    else if (name == "cuda_graph_config.enable_padding")
      engine_.batch_size_rule.enable_padding = value.boolean(false);
    else
      value.fail(
          "the engine profile calls this argument effective, but this version of Orrery does not read it");
  }

  void apply_capacity(std::size_t policy) {
    rules_.max_utilization = policy == 1;
    if (policy == 2) settings_.options.set("static_batch", true);
  }

  // Read between ranks of attention data parallelism only.
  void apply_balance(const std::string& key, const Yaml& value) {
    if (plan_.dp == 1) engine_.ignored_args.push_back("attention_dp_config." + key);
    if (key == "enable_balance")
      rules_.enable_balance = value.boolean(false);
    else if (key == "timeout_iters")
      rules_.timeout_iters = value.integer(50, 0, most);
    else
      rules_.batching_wait_iters = value.integer(10, 0, most);
  }

  void apply_max_seq_len(const Yaml& value) {
    const std::int64_t length = value.integer(1, 1, most);
    if (length > model_.max_positions) {
      value.fail("is longer than the model's " + std::to_string(model_.max_positions) + " positions");
    } else {
      settings_.max_model_len = length;
    }
  }

  // executor/worker.py: a request's outputs go to worker (request mod workers), and from there to the server.
  void apply_postprocess_workers(std::int64_t workers) {
    if (!engine_.front_end || workers == 0) return;
    engine_.front_end->detokenizer_apart = true;
    engine_.front_end->detokenizers = workers;
  }

  // FLASHINFER is for Gemma 3's images, whose tokens see one another (`Gemma3VLM.get_sub_model_config`).
  void apply_attention(const Yaml& value) {
    if (value.choice({"TRTLLM", "FLASHINFER"}) == 0) return;
    if (!is_gemma_3_with_images(model_))
      return value.fail(
          "another attention backend is modelled for the images of Gemma 3 only; expected TRTLLM");
    settings_.options.set("attn_backend", std::string("FLASHINFER"));
  }

  // py_executor_creator.py turns reuse off with this backend; a mask is made for a prompt as a whole
  // (`get_flashinfer_attention_mask` of modeling_gemma3.py).
  void check_masks() {
    if (!attends_by_flashinfer(engine_)) return;
    if (settings_.enable_prefix_caching &&
        args_.optional("kv_cache_config").optional("enable_block_reuse").present())
      engine_.ignored_args.emplace_back("kv_cache_config.enable_block_reuse");
    settings_.enable_prefix_caching = false;
    if (settings_.enable_chunked_prefill)
      args_.optional("enable_chunked_prefill")
          .fail("Gemma 3's masks are of whole prompts; expected false beside attn_backend: FLASHINFER");
  }

  void resolve_states() {
    resolve_tensorrt_llm_states(engine_, model_, state_type_.value_or(Yaml{}), args_, place_);
  }

  // §3.2: prompts are cut at whole blocks; with a window at 256 tokens, if that is more (_util.py).
  void check_chunk() {
    const std::int64_t unit =
        rules_.window > 0 ? std::max<std::int64_t>(256, settings_.block_size) : settings_.block_size;
    if (!settings_.enable_chunked_prefill || settings_.max_num_batched_tokens >= unit) return;
    const Yaml given = args_.optional("max_num_tokens");
    (given.present() ? given : place_)
        .fail("max_num_tokens (" + std::to_string(settings_.max_num_batched_tokens) +
              ") is less than a chunk of " + (rules_.window > 0 ? "256 tokens or of " : "") +
              "tokens_per_block (" + std::to_string(settings_.block_size) +
              "): no long prompt would ever run");
  }

  std::int64_t window_of_layer(std::int64_t layer) const {
    std::size_t kind = 0;
    if (!model_.kind_of_layer.empty())
      kind = model_.kind_of_layer[static_cast<std::size_t>(layer)];
    else
      for (std::int64_t before = layer; before >= model_.layer_kinds[kind].count; ++kind)
        before -= model_.layer_kinds[kind].count;
    return model_.layer_kinds[kind].sliding_window;
  }

  // The list that fits the model: the shortest one that, repeated, gives each layer what it sees.
  std::string windows_text() const {
    std::int64_t sees = 0, period = 1;
    for (std::int64_t layer = 0; layer < model_.layers; ++layer) {
      sees = std::max(sees, window_of_layer(layer));
      while (window_of_layer(layer) != window_of_layer(layer % period)) ++period;
    }
    if (sees == 0) return model_.name + " has no layer with a window";
    std::string text = "expected [";
    for (std::int64_t layer = 0; layer < period; ++layer)
      text += (layer > 0 ? ", " : "") +
              std::to_string(window_of_layer(layer) > 0 ? sees : settings_.max_model_len);
    return text + "], over and over, for " + model_.name;
  }

  // A list of window sizes, repeated over the layers; those above max_seq_len are that. Where a layer of the
  // model sees more than it would keep, other text would come out.
  void apply_windows(const Yaml& value) {
    std::vector<std::int64_t> sizes;
    for (const Yaml& size : value.items())
      sizes.push_back(std::min(size.integer(1, 1), settings_.max_model_len));
    if (sizes.empty()) return value.fail("expected a list of window sizes, repeated over the layers");
    std::int64_t cut = 0, kept = 0, window = 0;
    bool enough = true;
    for (std::int64_t layer = 0; layer < model_.layers; ++layer) {
      const std::int64_t size = sizes[static_cast<std::size_t>(layer) % sizes.size()];
      const std::int64_t sees = window_of_layer(layer);
      if (size == settings_.max_model_len) {
        kept += sees > 0 ? 1 : 0;
        continue;
      }
      ++cut;
      enough &= sees > 0 && size >= sees;
      if (window > 0 && size != window)
        return value.fail("two window sizes below max_seq_len are not modelled");
      window = size;
    }
    if (cut == 0) return;
    if (!enough || kept > 0)
      return value.fail(
          (enough ? "would keep every token of layers that have a window beside such that keep one, which is "
                    "not modelled: "
                  : "would keep less than the model's layers see: ") +
          windows_text());
    rules_.window = window;
    std::string list;
    for (const std::int64_t size : sizes) list += (list.empty() ? "[" : ", ") + std::to_string(size);
    settings_.options.set("max_attention_window", list + "]");
    if (rules_.max_tokens > 0) engine_.ignored_args.emplace_back("kv_cache_config.max_tokens");  // §4.6, VSWA
  }

  void apply_tokens_per_block(const Yaml& value) {
    settings_.block_size = value.integer(32, 8, 1024);
    if ((settings_.block_size & (settings_.block_size - 1)) != 0)
      value.fail("must be a power of two");
    else if (engine_.latent.block_size > 0 && settings_.block_size != engine_.latent.block_size)
      value.fail("the engine sets " + std::to_string(engine_.latent.block_size) + " for " +
                 engine_.latent.name + "; leave the argument out");
  }

  void apply_no_graphs(const Yaml& value) {
    accept_all(value);
    if (!value.is_null()) value.fail("expected a map of its settings, or null for no graphs");
    settings_.enforce_eager = true;
  }

  // Without it nothing is compiled, which is the default.
  void apply_no_compiler(const Yaml& value) {
    accept_all(value);
    if (!value.is_null()) value.fail("expected a map of its settings, or null");
  }

  // Ranks of attention data parallelism do not wait by passes (`_schedule`).
  void apply_batch_wait(const std::string& name, const Yaml& value) {
    if (name == "batch_wait_timeout_iters")
      settings_.options.set(name, value.integer(0, 0, most));
    else
      settings_.options.set(name, value.number(0, 0, name == "batch_wait_timeout_ms" ? 1e6 : 1));
  }

  static std::vector<std::int64_t> read_sizes(const Yaml& value) {
    std::vector<std::int64_t> sizes;
    for (const Yaml& size : value.items()) sizes.push_back(size.integer(1, 1, most));
    std::sort(sizes.begin(), sizes.end());
    sizes.erase(std::unique(sizes.begin(), sizes.end()), sizes.end());
    return sizes;
  }

  // §5: steps with prompts in graphs between their attention (model_engine.py, `_get_padding_params`): padded
  // to the next captured size whatever enable_padding says, however much wider it is. Where no sizes are
  // given they are the decodes' (the same file of 1.2.0rc; llm_args.py of 1.3.0rc has a list of its own up to
  // 3,072).
  void build_piecewise_sizes(std::vector<std::int64_t> sizes) {
    if (!piecewise_) return;
    if (!piecewise_sizes_.empty()) sizes = piecewise_sizes_;
    std::erase_if(sizes, [&](std::int64_t size) { return size > settings_.max_num_batched_tokens; });
    settings_.prefill_graph_sizes = std::move(sizes);
    settings_.widest_padding = static_cast<double>(most);
  }

  // §5: CudaGraphConfig, then what max_batch_size lets the runner capture.
  void build_graph_sizes() {
    const BatchSizeRule& rule = engine_.batch_size_rule;
    std::vector<std::int64_t> sizes = sizes_given_;
    if (!sizes.empty()) {
      if (largest_given_ > 0 && largest_given_ != sizes.back()) {
        args_.optional("cuda_graph_config")
            .optional("max_batch_size")
            .fail("must be the largest of batch_sizes (" + std::to_string(sizes.back()) + ")");
      }
    } else {
      const std::int64_t largest = largest_given_ > 0 ? largest_given_ : rule.max_batch_size;
      for (const std::int64_t size : rule.enable_padding ? rule.padded : rule.exact) {
        if (size <= largest) sizes.push_back(size);
      }
      for (std::int64_t size = rule.powers_from; size < largest; size *= 2) sizes.push_back(size);
      if (sizes.empty() || sizes.back() != largest) sizes.push_back(largest);
    }
    build_piecewise_sizes(settings_.enforce_eager ? std::vector<std::int64_t>{} : sizes);
    std::erase_if(sizes, [&](std::int64_t size) { return size > settings_.max_num_seqs; });
    if (settings_.enforce_eager) sizes.clear();
    for (std::int64_t& size : sizes) size *= 1 + settings_.draft_tokens;  // a graph holds whole rows
    settings_.cudagraph_sizes = std::move(sizes);
    settings_.pad_to_graph = rule.enable_padding;
    // Without decode graphs piecewise ones are captured all the same, if their sizes are given.
    if (!settings_.prefill_graph_sizes.empty()) settings_.enforce_eager = false;
  }

  // What the engine takes and does nothing with.
  void note_without_effect() {
    const NamedOptions& o = settings_.options;
    const bool iters = o.has("batch_wait_timeout_iters") && o.integer("batch_wait_timeout_iters") > 0;
    const bool ratio = o.has("batch_wait_max_tokens_ratio") && o.number("batch_wait_max_tokens_ratio") > 0;
    const auto ignore = [&](const char* name) { engine_.ignored_args.emplace_back(name); };
    if (iters && (!ratio || plan_.dp > 1)) ignore("batch_wait_timeout_iters");
    if (ratio && (!iters || plan_.dp > 1)) ignore("batch_wait_max_tokens_ratio");
    if (!piecewise_sizes_.empty() && !piecewise_) ignore("torch_compile_config.capture_num_tokens");
    if (piecewise_ && settings_.prefill_graph_sizes.empty())
      ignore("torch_compile_config.enable_piecewise_cuda_graph");
  }

  SchedulerSettings& settings_;
  TensorRtLlmSettings& rules_;
  const HardwareProfile& hardware_;
  ModelSpec& model_;
  const Yaml args_, place_;
  std::int64_t largest_given_ = 0;
  bool onboards_ = true, piecewise_ = false;
  std::optional<Yaml> windows_, state_type_;
  std::vector<std::int64_t> sizes_given_, piecewise_sizes_;
};

}  // namespace

void read_tensorrt_llm(const Yaml& root, EngineProfile& e) {
  e.single_process_per_gpu = root.require("single_process_per_gpu").boolean(true);
  read_defaults(root.require("defaults"), e);
  read_graphs(root.require("graphs"), e);
  const Yaml memory = root.require("memory");
  e.logit_bytes_v1 = read_number_figure(memory.require("bytes_per_logit"), Dimension::count);
  e.graph_bytes_v1 = read_figure<Bytes>(memory.require("bytes_per_graph"), true);
  e.residue_v1 = read_figure<Bytes>(memory.require("residue"), true);
}

void resolve_tensorrt_llm(EngineProfile& engine, const HardwareProfile& hardware, ModelSpec& model,
                          const ParallelPlan& plan, const Yaml& args, const Yaml& place) {
  Resolver(engine, hardware, model, plan, args, place).resolve();
}

}  // namespace orrery
