#include "costmodel/instance_spec.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <sstream>

#include "base/text.h"
#include "costmodel/context_check.h"
#include "costmodel/draft_trees.h"
#include "costmodel/draft_windows.h"
#include "costmodel/exchange_check.h"
#include "costmodel/figure_changes.h"
#include "costmodel/kernel_set_cache.h"
#include "costmodel/memory_plan.h"
#include "costmodel/moe_tiles.h"
#include "costmodel/op_table.h"
#include "costmodel/profile_folder.h"
#include "costmodel/profile_reader.h"
#include "costmodel/quantization.h"
#include "costmodel/stages.h"

namespace orrery {

namespace {

// A failed load: unknown names are blamed on the scenario's key, errors inside a file keep their place.
void report(const Yaml& key, const Errors& from, Errors& errors) {
  for (const Error& error : from) {
    if (error.where.file.empty()) {
      key.fail(error.message);
    } else {
      errors.push_back(error);
    }
  }
}

class InstanceReader {
 public:
  InstanceReader(const Yaml& node, const std::string& folder, Errors& errors, const Yaml& figures)
      : node_(node), figures_(figures), folder_(folder), errors_(errors) {}

  InstanceSpec read() {
    const Yaml hardware = node_.require("hardware"), model = node_.require("model"),
               engine = node_.require("engine");
    spec_.plan = read_parallel_plan(node_.optional("parallel"));
    const Yaml args = node_.optional("engine_args");
    bool loaded = read_hardware(hardware);  // all three, so that all mistakes are reported
    loaded = read_model(model) && loaded;
    loaded = read_engine(engine) && loaded;
    const Yaml kernels = node_.optional("kernels"), tiles = node_.optional("tiles"),
               speculation = node_.optional("speculation");
    if (!loaded) {
      accept_all(args);  // what they mean depends on what failed
      accept_all(speculation);
      accept_all(node_.optional("experts"));
      accept_all(figures_);
      return std::move(spec_);
    }
    if (spec_.plan.dp > 1) split_engines();
    check_divisible();
    check_types(model);
    check_windows(model);
    check_states();
    check_sparse();
    const bool staged = spec_.plan.pp > 1;
    if ((spec_.plan.cp > 1 && !check_context_ranks(spec_, node_)) || (spec_.plan.dp > 1 && !check_ranks()) ||
        (staged && !check_stages())) {
      accept_all(args);
      accept_all(speculation);
      accept_all(node_.optional("experts"));
      accept_all(figures_);
      return std::move(spec_);
    }
    read_kernels(kernels, asks_tuned_rows(tiles));  // with the part's own rates: a what-if keeps how well
                                                    // kernels use them
    change_figures(figures_, spec_);
    spec_.speculation = read_speculation(speculation, spec_.model, spec_.engine.engine, folder_);
    spec_.experts =
        read_experts(node_.optional("experts"), spec_.model, spec_.plan, spec_.engine.engine, folder_);
    spec_.engine.settings.draft_tokens = spec_.speculation.drafts();
    spec_.engine.settings.graphs_without_drafts = spec_.speculation.max_concurrency > 0;
    spec_.engine.speculates_on_host = spec_.speculation.method == SpeculationMethod::ngram;
    if (spec_.engine.speculates_on_host && spec_.engine.host.ngram_token.source.empty()) {
      speculation.optional("method").fail(spec_.engine.name +
                                          " has no figure host.ngram_token: what looking for "
                                          "an n-gram costs for each token is not known");
    }
    resolve_engine(spec_.engine, spec_.hardware, spec_.model, spec_.plan, args, engine);
    if (spec_.engines > 1 && spec_.engine.front_end) spec_.engine.front_end->processes = 1;  // of each
    if (spec_.engine.settings.context.splits_cache()) check_split_cache(spec_, node_);
    check_compiled(args);
    check_draft_windows(spec_, args);
    check_trees(speculation, spec_);
    if (spec_.plan.dp > 1) set_joint_settings();
    if (spec_.engine.settings.joint.exchanges()) read_exchange(spec_, args, errors_);
    if (staged) check_staged_settings(args);
    spec_.tiles = read_moe_tiles(tiles, spec_, folder_);
    return std::move(spec_);
  }

 private:
  bool read_hardware(const Yaml& key) {
    if (!key.present()) return false;
    auto loaded = load_hardware(key.text(), folder_);
    if (!loaded.ok())
      report(key, loaded.errors(), errors_);
    else
      spec_.hardware = std::move(loaded).value();
    return loaded.ok();
  }

  bool read_model(const Yaml& key) {
    const Yaml quantization = node_.optional("quantization"), kv = node_.optional("kv_cache_dtype");
    if (!key.present()) return false;
    const std::string wanted = quantization.text(), kv_type = kv.text("auto");
    auto loaded = load_model(key.text(), folder_, wanted, kv_type);
    if (loaded.ok()) {
      spec_.model = std::move(loaded).value();
      return true;
    }
    for (const Error& error : loaded.errors()) {
      const Yaml& place = error.key == "quantization" && quantization.present() ? quantization
                          : error.key == "kv_cache_dtype" && kv.present()       ? kv
                                                                                : key;
      report(place, {error}, errors_);
    }
    return false;
  }

  bool read_engine(const Yaml& key) {
    if (!key.present()) return false;
    auto loaded = load_engine(key.text(), folder_);
    if (!loaded.ok())
      report(key, loaded.errors(), errors_);
    else
      spec_.engine = std::move(loaded).value();
    return loaded.ok();
  }

  // `auto`: the engine's own where the part has them, else none. `roofline`: none.
  void read_kernels(const Yaml& key, bool tuned) {
    std::string wanted = key.text("auto");
    if (wanted.find('/') != std::string::npos) {  // one's own: the slash, which says so, is kept
      const auto own = (std::filesystem::path(folder_) / wanted / "").lexically_normal().parent_path();
      wanted = (own.has_parent_path() ? own : "." / own).string();
    }
    const std::vector<std::string> known = KernelSet::names(spec_.hardware.name);
    if (wanted == "roofline") return spec_.engine.kernel_laws.clear();
    std::string own;
    for (std::istringstream names(spec_.engine.kernels); names >> own;) {
      if (std::binary_search(known.begin(), known.end(), own)) break;
      own.clear();
    }
    if (wanted == "auto" && own.empty()) return;
    auto loaded = shared_kernel_set(spec_.hardware, wanted == "auto" ? own : wanted, tuned);
    if (loaded.ok()) {
      spec_.kernels = std::move(loaded).value();
    } else {
      report(key.present() ? key : node_, loaded.errors(), errors_);
    }
  }

  void check_width(std::int64_t value, const std::string& what) {
    if (value % spec_.plan.tp == 0) return;
    fail_tp(what + " (" + std::to_string(value) +
            ") is not divisible by tp = " + std::to_string(spec_.plan.tp));
  }

  // What is spread over the GPUs of all ranks.
  void check_spread(std::int64_t value, std::int64_t ranks, const std::string& what) {
    if (ranks == spec_.plan.tp) return check_width(value, what);
    if (value % ranks == 0) return;
    fail_tp(what + " (" + std::to_string(value) + ") is not divisible by tp x dp" +
            (spec_.plan.cp > 1 ? " x cp = " : " = ") + std::to_string(ranks));
  }

  // Only routed experts are, where ranks share nothing else.
  bool shares_experts_only() const {
    return spec_.engine.data_parallel && spec_.engine.data_parallel->rule != JointRule::sglang;
  }

  // vLLM's ranks of a model without experts are engines of their own (core.py, `run_engine_core`: "Non-MoE DP
  // ranks are completely independent, so treat like DP=1").
  void split_engines() {
    if (spec_.engine.engine != "vllm" || !shares_experts_only() || spec_.model.experts > 0) return;
    const Yaml parallel = node_.optional("parallel");
    if (spec_.plan.ep > 1)
      parallel.optional("ep").fail(spec_.model.name + " has no experts; expected ep: 1 (vLLM refuses too)");
    const Yaml servers = node_.optional("engine_args").optional("api_server_count");
    if (servers.present() && servers.integer(1, 1, 1024) != spec_.plan.dp)
      servers.fail("is modelled as one front-end process for each rank only; expected " +
                   std::to_string(spec_.plan.dp) + " or nothing");
    spec_.engines = spec_.plan.dp;
    spec_.plan.dp = spec_.plan.ep = 1;
  }

  // Whether the engine's ranks are modelled, and for this model.
  bool check_ranks() {
    const Yaml dp = node_.optional("parallel").optional("dp");
    const ModelSpec& m = spec_.model;
    if (!spec_.engine.data_parallel) {
      dp.fail("attention data parallelism of " + spec_.engine.name +
              " is not modelled by this version of Orrery (the shipped profiles' are); use dp: 1, or "
              "replicas for independent copies");
      return false;
    }
    if (spec_.engine.engine == "tensorrt-llm" && (spec_.plan.tp > 1 || m.experts == 0)) {
      dp.fail(m.experts == 0
                  ? "TensorRT-LLM's attention data parallelism is modelled for models with experts; "
                    "use dp: 1"
                  : "TensorRT-LLM's attention data parallelism has one GPU a rank "
                    "(enable_attention_dp makes every one of its tensor_parallel_size GPUs a rank); "
                    "use tp: 1");
      return false;
    }
    const auto refuse = [&](bool condition, const char* what) {
      if (condition)
        dp.fail(std::string(what) + " is not modelled under attention data parallelism; use dp: 1");
      return condition;
    };
    const Yaml speculation = node_.optional("speculation").optional("method");
    const bool speculates = speculation.present() && speculation.text() != "off";
    const Yaml args = node_.optional("engine_args"), tier = args.optional("enable_hierarchical_cache");
    const bool whole = shares_experts_only();
    return !(refuse(m.tied_embeddings && !whole, "a head that shares the embedding's weights") ||
             refuse(m.vision != nullptr, "a vision encoder") || refuse(speculates, "speculation") ||
             refuse(tier.present() && tier.text() != "false", "a host tier of the KV cache") ||
             refuse(args.optional("kv_offloading_size").present() ||
                        args.optional("kv_transfer_config").present() ||
                        args.optional("kv_cache_config").optional("host_cache_size").present(),
                    "offloading of the KV cache") ||
             refuse(std::any_of(m.layer_kinds.begin(), m.layer_kinds.end(),
                                [](const LayerKind& kind) { return kind.sliding_window > 0; }),
                    "a sliding window"));
  }

  // Whether the engine's pipeline stages are modelled, and for this model.
  bool check_stages() {
    const Yaml pp = node_.optional("parallel").optional("pp");
    const ModelSpec& m = spec_.model;
    if (!spec_.engine.pipeline) {
      pp.fail("pipeline parallelism of " + spec_.engine.name +
              " is not modelled by this version of Orrery (the shipped profiles' is); use pp: 1");
      return false;
    }
    if (spec_.plan.pp > m.layers) {
      pp.fail(m.name + " has " + std::to_string(m.layers) + " layers, which " +
              std::to_string(spec_.plan.pp) + " pipeline stages cannot share; expected pp of at most that");
      return false;
    }
    const auto refuse = [&](bool condition, const char* what) {
      if (condition) pp.fail(std::string(what) + " is not modelled with pipeline stages; use pp: 1");
      return condition;
    };
    const Yaml speculation = node_.optional("speculation").optional("method");
    return !(refuse(spec_.plan.dp > 1, "attention data parallelism") ||
             refuse(m.vision != nullptr, "a vision encoder") ||
             refuse(speculation.present() && speculation.text() != "off", "speculation") ||
             refuse(window_of(m) > 0 && spec_.engine.engine != "vllm", "a sliding window"));
  }

  void check_staged_settings(const Yaml& args) {
    for (const std::string& what : not_modelled_in_stages(spec_.engine.settings))
      args.fail(what + " is not modelled with pipeline stages; leave it out");
  }

  void set_joint_settings() {
    const DataParallelRules& rules = *spec_.engine.data_parallel;
    const JointSettings asked = spec_.engine.settings.joint;  // by engine_args
    spec_.engine.settings.joint = {.ranks = spec_.plan.dp,
                                   .rule = rules.rule,
                                   .row_bytes = static_cast<double>(spec_.model.hidden) *
                                                bytes_per_element(spec_.model.activation_dtype),
                                   .sum_bytes = rules.largest_custom_all_reduce.value.value(),
                                   .width = spec_.plan.tp,
                                   .pads_eager = spec_.engine.runner == "v1",
                                   .exchange = asked.exchange,
                                   .exchange_library = asked.exchange_library,
                                   .two_batches = asked.two_batches,
                                   .dense_whole = asked.dense_whole,
                                   .head_whole = asked.head_whole};
    // `_decode_sum_len_fits_custom_all_reduce` wants no all-to-all back end.
    if (asked.exchanges()) spec_.engine.settings.joint.sum_bytes = 0;
  }

  // Gemma's norms have weights in fp32 that vLLM's own kernels do not take: uncompiled they are PyTorch
  // operators, one kernel each (kernels/vllm_c.py of 0.24.0).
  void check_compiled(const Yaml& args) {
    if (spec_.engine.engine == "vllm" && spec_.model.output_norms && spec_.engine.settings.enforce_eager)
      args.optional("enforce_eager")
          .fail("uncompiled, " + spec_.model.architecture +
                " norms by single PyTorch operators, which are not priced; use enforce_eager: false");
  }

  void fail_tp(const std::string& message) {
    const Yaml parallel = node_.optional("parallel"), tp = parallel.optional("tp");
    (tp.present() ? tp : node_).fail(spec_.model.name + ": " + message);
  }

  // What vLLM's layers assert when they are built.
  void check_divisible() {
    const ModelSpec& m = spec_.model;
    const std::int64_t tp = spec_.plan.tp;
    check_width(m.heads, "number of attention heads");
    if (m.kv_heads % tp != 0 && tp % m.kv_heads != 0) {
      fail_tp("number of KV heads (" + std::to_string(m.kv_heads) + ") and tp = " + std::to_string(tp) +
              " do not divide one another");
    }
    check_width((m.vocabulary + 63) / 64 * 64, "vocabulary, padded to 64,");
    bool dense = false, sparse = false;
    for (const LayerKind& kind : m.layer_kinds) {
      if (kind.feeds_forward) (kind.moe ? sparse : dense) = true;
    }
    if (m.state.present()) {
      check_width(m.state.key_heads, "number of key heads (groups) of the layers with a state");
      check_width(m.state.value_heads, "number of value heads of the layers with a state");
    }
    const std::int64_t all = spec_.plan.mlp_ranks(), dense_ranks = shares_experts_only() ? tp : all;
    const Yaml whole = node_.optional("engine_args").optional("moe_dense_tp_size");  // SGLang: on every GPU
    if (whole.present() && spec_.engine.engine == "sglang") dense = false;
    if (dense) check_spread(m.intermediate, dense_ranks, "MLP width");
    check_expert_width();
    if (sparse) check_experts();
    if (m.quantization != Quantization::fp8_block) return;
    const auto check_blocks = [&](std::int64_t width, std::int64_t ranks, const std::string& what) {
      if (width % ranks == 0 && (width / ranks) % m.quantization_block != 0) {
        fail_tp(what + " of one rank (" + std::to_string(width / ranks) +
                ") is not a multiple of the quantisation block (" + std::to_string(m.quantization_block) +
                ")");
      }
    };
    if (dense) check_blocks(m.intermediate, dense_ranks, "MLP width");
    if (sparse && spec_.plan.ep < all)
      check_blocks(m.expert_intermediate * spec_.plan.ep, all, "expert width");
  }

  // Experts in parts beside experts shared out. vLLM flattens tp x dp into the width (fused_moe/config.py,
  // `FusedMoEParallelConfig.make`). SGLang: moe_tp_size is what tp_size leaves beside ep_size, and one
  // all-reduce over all adds up (layers/moe/utils.py, `can_merge_post_experts_all_reduce`). TensorRT-LLM:
  // moe_tp_size · moe_ep_size = tp_size (mapping.py).
  void check_expert_width() {
    const ParallelPlan& p = spec_.plan;
    if (p.ep == 1 || p.ep == p.mlp_ranks()) return;
    const Yaml ep = node_.optional("parallel").optional("ep");
    const std::string all = "must be 1 or all " + std::to_string(p.mlp_ranks()) + " GPUs of the plan";
    if (spec_.model.experts == 0)
      ep.fail(spec_.model.name + " has no experts to share out; use 1");
    else if (spec_.engine.engine == "vllm")
      ep.fail(all + ": vLLM shares experts out over all GPUs or none (enable_expert_parallel)");
    else if (p.cp > 1)
      ep.fail(all + " beside cp; widths between were not read there");
  }

  void check_experts() {
    const ModelSpec& m = spec_.model;
    const std::int64_t ep = spec_.plan.ep;
    check_spread(m.expert_intermediate * ep, spec_.plan.mlp_ranks(), "expert width");
    if (m.experts % ep != 0) {
      fail_tp("number of experts (" + std::to_string(m.experts) +
              ") is not divisible by ep = " + std::to_string(ep));
    }
  }

  // TensorRT-LLM knows one 8-bit cache type; e5m2 is a type of vLLM's and SGLang's.
  void check_cache_type() {
    const Yaml kv = node_.optional("kv_cache_dtype");
    if (spec_.engine.engine == "tensorrt-llm" && kv.present() && kv.scalar_text().starts_with("fp8_"))
      kv.fail(kv.scalar_text() + " is not a cache type of tensorrt-llm; it takes auto or fp8");
  }

  // A type without a matrix rate has no price on this part.
  void check_types(const Yaml& model) {
    check_cache_type();
    const HardwareProfile& h = spec_.hardware;
    if (h.matrix_rate.count(DType::bf16) == 0)
      node_.optional("hardware").fail("the profile has no matrix rate for bf16");
    if (spec_.model.activation_dtype == DType::fp16 && h.matrix_rate.count(DType::fp16) == 0) {
      model.fail("runs in float16, and " + h.name + " has no matrix rate for fp16");
    }
    if (spec_.plan.gpus() > 1 && !h.link_bandwidth.present()) {
      fail_tp(h.name + " has no link figures, which " + (spec_.plan.mlp_ranks() > 1 ? "tp" : "pp") +
              " > 1 needs; add `links:` to hardware_profiles/" + h.name + ".yaml");
    }
  }

  void check_windows(const Yaml& model) {
    ModelSpec& m = spec_.model;
    if (m.state.present()) return;  // see check_states
    if (m.router_fp32 && spec_.engine.engine != "vllm")
      return model.fail(
          m.architecture +
          " is modelled on vllm only: SGLang 0.5.23 lets its router multiply in TF32, for which "
          "parts have no rate here, and runs its shared expert among the routed ones; of "
          "tensorrt-llm it was not read");
    const bool trt = spec_.engine.engine == "tensorrt-llm";
    if (trt && m.architecture == "MiMoForCausalLM")
      return model.fail(m.architecture + " is modelled on vllm and sglang; of tensorrt-llm it was not read");
    if (window_of(m) == 0 || spec_.engine.engine == "vllm" || m.architecture == "GptOssForCausalLM") return;
    if (trt && m.architecture == "Gemma2ForCausalLM")
      return model.fail(
          "Gemma2ForCausalLM is not a model of TensorRT-LLM 1.2's PyTorch backend, which came to "
          "it later; take vllm or sglang");
    if (!m.output_norms) leave_windows_out();
  }

  // Neither reads the window of these (SGLang 0.5.23: models/llama.py, which is Phi-3 there too, mistral.py,
  // qwen2.py, qwen3.py, none among `is_hybrid_swa_model`; TensorRT-LLM: modeling_mistral.py,
  // modeling_phi3.py, modeling_qwen.py, modeling_qwen3.py, which give attention no `attention_window_size`):
  // every layer keeps and reads all tokens.
  void leave_windows_out() {
    for (LayerKind& kind : spec_.model.layer_kinds) kind.sliding_window = 0;
    spec_.engine.ignored_args.emplace_back("sliding_window of the model's config");
  }

  // What engines have: choose_state_pool (SGLang), resolve_tensorrt_llm_states.
  void check_states() {
    const ModelSpec& m = spec_.model;
    if (!m.state.present()) return;
    const Yaml method = node_.optional("speculation").optional("method");
    const bool layer_of_one_thing = m.state.rule == StateRule::mamba2 && method.present();
    if (method.present() && method.text() == "eagle")
      method.fail(
          "an EAGLE layer for a model with layers that keep a state is not modelled; use mtp or ngram");
    else if (layer_of_one_thing && method.text() == "mtp")
      method.fail("the layers that predict further tokens of " + m.architecture +
                  " (mtp_hybrid_override_pattern) are not modelled; use ngram");
  }

  // Several queries of a sequence at once, each with picks of its own, were not written.
  void check_sparse() {
    const Yaml method = node_.optional("speculation").optional("method");
    if (spec_.model.sparse.present() && method.present() && method.text() != "off")
      method.fail("speculation beside sparse attention is not modelled; use method: off");
  }

  const Yaml node_, figures_;
  const std::string& folder_;
  Errors& errors_;
  InstanceSpec spec_;
};

}  // namespace

InstanceSpec read_instance_spec(const Yaml& node, const std::string& folder, Errors& errors,
                                const Yaml& figures) {
  return InstanceReader(node, folder, errors, figures).read();
}

}  // namespace orrery
