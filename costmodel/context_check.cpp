#include "costmodel/context_check.h"

#include <algorithm>
namespace orrery {

bool apply_context_argument(const std::string& name, const Yaml& value, EngineProfile& engine) {
  ContextSettings& context = engine.settings.context;
  if (name == "decode_context_parallel_size") {
    context.cache_ranks = static_cast<std::int32_t>(value.integer(1, 1, 4096));
  } else if (name == "cp_kv_cache_interleave_size" || name == "dcp_kv_cache_interleave_size") {
    const std::int64_t interleave = value.integer(1, 1, 4096);
    if (interleave > 1) context.interleave = interleave;  // the older name's wins over the newer's 1
  } else if (name == "dcp_comm_backend") {
    context.all_to_all = value.choice({"ag_rs", "a2a"}) == 1;
  } else {
    return false;
  }
  return true;
}

namespace {

class SplitCacheCheck {
 public:
  SplitCacheCheck(const EngineProfile& engine, const ModelSpec& model, const ParallelPlan& plan,
                  const Yaml& args)
      : context_(engine.settings.context), settings_(engine.settings), model_(model), plan_(plan),
        args_(args) {}

  // config/parallel.py, config/model.py (`verify_with_parallel_config`), config/vllm.py of 0.24.0.
  void run() {
    const std::int64_t ranks = context_.cache_ranks;
    if (plan_.tp % ranks != 0)
      return fail("must divide tp = " + std::to_string(plan_.tp) + " (vLLM asserts it)");
    if (settings_.block_size % context_.interleave != 0)
      args_.optional("cp_kv_cache_interleave_size")
          .fail("must divide the block size, " + std::to_string(settings_.block_size) + " (vLLM asserts it)");
    if (model_.latent.present()) return check_latent();
    const std::int64_t copies = plan_.tp / std::max<std::int64_t>(1, model_.kv_heads);
    if (ranks > copies)
      return fail("must be at most tp / KV heads = " + std::to_string(plan_.tp) + " / " +
                  std::to_string(model_.kv_heads) +
                  ": the ranks that would hold the same heads share their tokens (vLLM asserts it)");
    if (model_.heads / model_.kv_heads % ranks != 0)
      fail("must divide the " + std::to_string(model_.heads / model_.kv_heads) +
           " query heads of a KV head (vLLM asserts it)");
  }

 private:
  void fail(const std::string& message) const {
    args_.optional("decode_context_parallel_size").fail(message);
  }

  void check_latent() const {
    if (model_.sparse.present())
      return fail(
          "sparse attention does not run so: FLASHMLA_SPARSE returns no sums of exponentials "
          "(can_return_lse_for_decode), which v1/worker/cp_utils.py asserts; expected 1");
    if (bytes_per_element(model_.kv_dtype) < 2)
      fail(
          "a split cache of 8-bit latents does not run (mla_attention.py asserts it); expected "
          "kv_cache_dtype: auto");
  }

  const ContextSettings& context_;
  const SchedulerSettings& settings_;
  const ModelSpec& model_;
  const ParallelPlan& plan_;
  const Yaml args_;
};

}  // namespace

void finish_split_cache(EngineProfile& engine, const HardwareProfile& hardware, const ModelSpec& model,
                        const ParallelPlan& plan, const Yaml& args) {
  ContextSettings& context = engine.settings.context;
  if (!context.splits_cache()) {
    if (context.all_to_all)
      args.optional("dcp_comm_backend")
          .fail("requires decode_context_parallel_size above 1 (vLLM refuses too)");
    for (const char* name :
         {"decode_context_parallel_size", "cp_kv_cache_interleave_size", "dcp_kv_cache_interleave_size"}) {
      if (args.present() && args.optional(name).present()) engine.ignored_args.emplace_back(name);
    }
    return;
  }
  if (hardware.vendor == "amd")
    args.optional("decode_context_parallel_size")
        .fail("is modelled on NVIDIA parts only, for FlashAttention and latent attention's backends");
  SplitCacheCheck(engine, model, plan, args).run();
  // Prompts that short would run as decodes do, over a cache of which a rank has a part; priced expanded.
  engine.latent.absorbed_chunk = 0;
  // `resolve_kv_cache_block_sizes`: the scheduler, its blocks and their contents' names are of all ranks.
  engine.settings.block_size *= context.cache_ranks;
}

namespace {

bool speculates(const Yaml& node) {
  const Yaml method = node.optional("speculation").optional("method");
  return method.present() && method.text() != "off";
}

// Whose attention takes the attention ranks' width (`attn_tp_size`) and whose layers hand rows over by
// layer_boundary; others split attention over all GPUs (models/llama.py, qwen2.py) or were not read.
bool deals_out_prompts(const ModelSpec& m) {
  const bool qwen3 = m.architecture == "Qwen3ForCausalLM" || m.architecture == "Qwen3MoeForCausalLM";
  return qwen3 || (m.latent.present() && !m.sparse.present());
}

}  // namespace

bool check_context_ranks(const InstanceSpec& spec, const Yaml& node) {
  const Yaml cp = node.optional("parallel").optional("cp");
  const ModelSpec& m = spec.model;
  const auto refuse = [&](bool condition, const std::string& what) {
    if (condition) cp.fail(what);
    return condition;
  };
  const std::string& engine = spec.engine.engine;
  // v1/attention/backend.py: no backend sets `supports_pcp`, which v1/worker/cp_utils.py asserts.
  if (refuse(
          engine == "vllm",
          "context parallelism for prompts (prefill_context_parallel_size) starts with no attention backend "
          "of vLLM 0.24; for the KV cache of long contexts: engine_args: {decode_context_parallel_size: N}, "
          "on "
          "the GPUs of tp"))
    return false;
  if (refuse(engine != "sglang",
             "context parallelism of " + spec.engine.name +
                 " is not modelled (of TensorRT-LLM's kinds its PyTorch backend runs Helix, on generation "
                 "servers "
                 "that get their prompts' KV from context servers: docs/context_parallel.md); use cp: 1"))
    return false;
  const auto beside = [&](bool condition, const char* what) {
    return refuse(condition, std::string(what) + " is not modelled under context parallelism; use cp: 1");
  };
  return !(
      refuse(
          !deals_out_prompts(m),
          "context parallelism is modelled for Qwen3, Qwen3-MoE and latent attention (DeepSeek-V2, V3, Kimi) "
          "only, not for " +
              m.architecture + (m.sparse.present() ? " with sparse attention" : "") + "; use cp: 1") ||
      refuse(spec.hardware.architecture != "sm_90a",
             "context parallelism needs SGLang's fa3 backend (layers/cp/base.py), which runs on Hopper; " +
                 spec.hardware.name + " is not one; use cp: 1") ||
      beside(spec.plan.dp > 1, "attention data parallelism") || beside(spec.plan.pp > 1, "a pipeline") ||
      beside(m.vision != nullptr, "a vision encoder") || beside(speculates(node), "speculation"));
}

void check_split_cache(const InstanceSpec& spec, const Yaml& node) {
  const Yaml ranks = node.optional("engine_args").optional("decode_context_parallel_size");
  const SchedulerSettings& s = spec.engine.settings;
  const auto refuse = [&](bool condition, const char* what) {
    if (condition) ranks.fail(std::string(what) + " beside a split cache is not modelled; expected 1");
  };
  const std::vector<LayerKind>& kinds = spec.model.layer_kinds;
  refuse(std::any_of(kinds.begin(), kinds.end(), [](const LayerKind& k) { return k.sliding_window > 0; }),
         "a sliding window (which vLLM refuses too)");
  refuse(spec.model.state.present(), "a model with a state (which vLLM refuses too)");
  refuse(spec.model.vision != nullptr, "a vision encoder");
  refuse(spec.plan.dp > 1, "data parallelism of a model with experts");
  refuse(spec.plan.pp > 1, "a pipeline");
  refuse(speculates(node), "speculation");
  refuse(s.kv_offload_bytes > 0, "offloading of the KV cache");
}

}  // namespace orrery
