#include "costmodel/step_graph.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "costmodel/gemma_rules.h"
#include "costmodel/latent_nodes.h"
#include "costmodel/model_layers.h"
#include "costmodel/plan_check.h"
#include "costmodel/shared_experts.h"

namespace orrery {
namespace {

class GraphBuilder : LatentNodes {
 public:
  GraphBuilder(const InstanceSpec& spec, const Roofline& roofline) : LatentNodes(spec, roofline) {}

  Result<std::vector<GraphNode>> build() {
    errors_ = check_plan(spec_, roofline_);
    if (!errors_.empty()) return std::move(errors_);
    spec_.stage.first() ? add_embedding() : add_handoff();
    for (const LayerKind& kind : model_.layer_kinds) add_layer(kind);
    add_head();
    after_shared_ = false;
    if (spec_.speculation.has_network()) add_draft();
    add_tree();
    add_overlap();
    if (!errors_.empty()) return std::move(errors_);
    for (GraphNode& node : nodes_) node.op = on_one_rank(node.entry->make(node.spec, roofline_), node.spec);
    return std::move(nodes_);
  }

 private:
  void add_embedding() {
    begin_shared_rows();
    add("embedding", "embedding", width(model_.hidden), 1);
    if (!whole_vocabulary_)
      add_all_reduce("embedding_all_reduce", 1, true);  // the vocabulary is sharded, inside a rank
    end_shared_rows("cp_shard", 1);
    if (model_.scaled_embedding && !fuses_norms_)
      add("scale_embedding", "scale_embedding", width(model_.hidden), 1);
    OpSpec tables = width(model_.head_dim);
    tables.head_dim = model_.head_dim;
    if (is_gemma_3(model_) && !compiled_) add("rotary_tables", "rotary_tables", tables, 1);
  }

  // Residual add and norm. Gemma first norms what is added: in the same kernel, or as a use of its own.
  void add_norm(const char* use, const char* first, const OpSpec& spec, std::int64_t count) {
    if (!model_.output_norms) return add(use, "add_rms_norm", spec, count);
    if (fuses_norms_) return add(use, "norm_add_rms_norm", spec, count);
    add(first, "rms_norm", width(model_.hidden), count);
    if (!compiled_) return add(use, "add_rms_norm", spec, count);
    add("residual_add", "residual_add", width(model_.hidden), count);
    add_lone_norm(use, spec, count);
  }

  // FlashInfer's `rmsnorm` gives 16 bits; what a product reads in 8 is made by a kernel of its own.
  void add_lone_norm(const char* use, const OpSpec& spec, std::int64_t count) {
    add(use, "rms_norm", width(model_.hidden), count);
    if (spec.out_bytes < 2) add(std::string(use) + "_quantize", "quantize", spec, count);
  }

  // Before the first layer's there is no MLP whose output waits to be normed.
  void add_input_norm(const WeightFormat& reader, std::int64_t l) {
    const OpSpec spec = made_for(model_.hidden, reader);
    const bool lone = model_.output_norms && compiled_ && !fuses_norms_;
    lone ? add_lone_norm("input_norm", spec, first_layers_)
         : add("input_norm", "add_rms_norm", spec, first_layers_);
    const std::int64_t others = l - std::exchange(first_layers_, 0);
    if (sums_apart(reader)) add("shared_sum", "add_rows", width(model_.hidden), others);
    if (after_shared_ && !in_blocks(reader))
      add("input_norm", "sum_add_rms_norm", spec, others);
    else
      add_norm("input_norm", "mlp_output_norm", spec, others);
    quantise_apart("input_quantize", model_.hidden, reader, l);
  }

  // Hidden states and residual from the stage before: tensor-parallel ranks send a slice each, which the
  // receivers gather (`irecv_tensor_dict`), and both are copied to where graphs read them.
  void add_handoff() {
    OpSpec s = width(model_.hidden / tp_);
    s.depends_on = DependsOn::handoff;
    s.ranks = 2;
    if (spec_.links != nullptr) {
      const GroupLinks& from = spec_.links->handoff[static_cast<std::size_t>(spec_.stage.index)];
      if (from.crosses()) s.links = &from;
    }
    add("handoff", "send_recv", s, 2);
    s.n = model_.hidden;
    s.ranks = static_cast<std::int32_t>(tp_);
    s.links = across(&PlanLinks::tensor);
    if (tp_ > 1) add("handoff_all_gather", "all_gather", s, 2);
    add("handoff_copy", "rank_copy", width(model_.hidden), 2);
  }

  void add_layer(const LayerKind& kind) {
    enter(LayerPart::inputs);
    after_shared_ = kind.moe && sums_shared();  // but of the first such layer, whose neighbour may have none
    if (kind.mixer == Mixer::attention) add_attention(kind);
    if (kind.mixer == Mixer::state) add_state_layer(kind);
    if (!kind.feeds_forward) return;
    if (kind.moe) {
      add_experts(kind);
      enter(LayerPart::other);
      gather_split_rows(kind.count);
    } else {
      enter(LayerPart::other);
      add_mlp("", kind, model_.intermediate, format(kind.weights, model_.gated_mlp ? "gate_proj" : "up_proj"),
              format(kind.weights, "down_proj"));
      add_all_reduce("mlp_all_reduce", kind.count);
    }
    if (gathers(kind.moe)) add_scatter(kind.count);
    if (gathers_context(kind.moe)) take_back_rows(kind.count);
  }

  // Whether a layer's MLP runs over the rows of all ranks: with an exchange experts do not.
  bool gathers(bool moe) const {
    return joint_.gathers_all() && !(moe ? joint_.exchanges() : joint_.dense_whole);
  }

  // The norm after attention, with the quantisation of its output where nothing stands between it and the
  // products. Under attention data parallelism a rank's rows are gathered in the activation type first.
  void add_post_norm(const WeightFormat& gate_up, std::int64_t l, bool moe = false) {
    if (gathers_context(moe)) {
      add_norm("post_norm", "attention_output_norm", width(model_.hidden), l);
      return gather_shared_rows(gate_up, l);
    }
    const bool alone = !gathers(moe), parts = !alone && tp_ > 1;
    if (parts) add_gather_of_parts(l);
    if (!parts) {
      add_norm("post_norm", "attention_output_norm",
               alone ? made_for(model_.hidden, gate_up) : width(model_.hidden), l);
    }
    if (alone) return quantise_apart("mlp_quantize", model_.hidden, gate_up, l);
    if (!parts) add_gather(l);
    if (gate_up.activation_bytes < 2) add("mlp_quantize", "quantize", width(model_.hidden, gate_up), l);
  }

  void add_attention(const LayerKind& kind) {
    if (model_.latent.present()) return add_latent_attention(kind);
    const std::int64_t l = kind.count;
    const OpSpec attention = attention_spec(kind);
    const std::int64_t q_features = attention.heads * model_.head_dim;
    const WeightFormat qkv = format(kind.weights, "q_proj");
    const WeightFormat out = format(kind.weights, "o_proj");
    // Quantising the input of qkv is fused into the norm; that of o is a kernel of its own.
    add_input_norm(qkv, l);
    const std::int64_t made = model_.output_gate ? 2 * q_features : q_features;
    add_gemm("qkv_proj", made + 2 * attention.kv_heads * model_.head_dim, qkv_width_, qkv, l);
    if (norms_all_heads(model_) && tp_ > 1) {  // MiniMaxText01RMSNormTP: two sums of squares in fp32 a token
      OpSpec sums = width(4);
      sums.ranks = static_cast<std::int32_t>(tp_);
      sums.links = across(&PlanLinks::tensor);
      add("qk_norm_all_reduce", "all_reduce", sums, l);
    }
    OpSpec new_tokens = attention;
    new_tokens.window = 0;
    // Norms of heads take the embedding along in a kernel of their own (modules/qk_norm_attention.py).
    const bool writes_keys = attention_writes_keys(attention);
    if (!writes_keys || new_tokens.norm_heads) add_rotary(new_tokens, l);
    if (!writes_keys)
      add_new_keys("kv_write", "kv_write", new_tokens, 2 * attention.kv_heads * model_.head_dim, l);
    // Over an 8-bit cache vLLM's attention takes 8-bit queries (Attention.query_quant, attention.py of 0.24).
    if (attention.kv_bytes < 2 && spec_.engine.engine == "vllm")
      add("q_quantize", "quantize", width(q_features, 1), l);
    enter(LayerPart::attention);
    add_attention_kernels(attention, l);
    if (model_.output_gate) add("output_gate", "sigmoid_mul", width(q_features), l);
    if (out.activation_bytes < 2) add("o_quantize", "quantize", width(q_features, out), l);
    add_gemm("o_proj", model_.hidden, q_features, out, l);
    add_all_reduce("attention_all_reduce", l);
  }

  // The norms of q and k by head are part of the rotary kernel, but for Gemma 3's elsewhere than on vLLM.
  void add_rotary(OpSpec tokens, std::int64_t l) {
    if (!model_.rotary) return;
    if (!is_gemma_3(model_) || fuses_norms_) return add("rotary", "rotary", tokens, l);
    tokens.norm_heads = false;
    add("qk_norm", compiled_ ? "head_norms" : "head_norms_eager", tokens, l);
    add("rotary", compiled_ ? "rotary" : "rotary_compiled", tokens, l);
  }

  // vLLM 0.24, QwenGatedDeltaNetAttention and MambaMixer2: products in and out compiled, a custom operator
  // between them.
  void add_state_layer(const LayerKind& kind) {
    const std::int64_t l = kind.count;
    const StateLayers& state = model_.state;
    const bool delta = state.rule == StateRule::gated_delta;
    const WeightFormat in = format(kind.weights, "state.in_proj"),
                       out = format(kind.weights, "state.out_proj");
    const std::int64_t made = 2 * (state.keys() + state.values()) / tp_, values = state.values() / tp_;
    const std::int64_t scalars = state.value_heads / tp_;
    add_input_norm(in, l);
    add_gemm("state_in_proj", made + (delta ? 0 : scalars), model_.hidden, in, l);
    if (delta)
      add_gemm("state_in_proj_ba", 2 * scalars, model_.hidden, format(kind.weights, "state.in_proj_ba"), l);
    if (state.interleaved) add("state_unpack", "state_unpack", width(made), l);
    OpSpec s = state_spec();
    s.depends_on = DependsOn::prefill;
    add("state_conv", "state_conv_prefill", s, l);
    if (delta) add("state_prepare", "state_prepare", s, l);
    // FlashInfer's kernel is the default on Hopper (`_resolve_gdn_prefill_backend` of
    // qwen_gdn_linear_attn.py); TensorRT-LLM's is flash-linear-attention's, on copies
    // (modeling_qwen3_next.py, `forward_extend`).
    const bool triton = spec_.engine.settings.triton_scan || spec_.hardware.architecture != "sm_90a" ||
                        spec_.engine.engine == "tensorrt-llm";
    // SGLang: linear_attn_backend triton, its copy of flash-linear-attention (gdn_triton.py of 0.5.23).
    const bool in_place = delta && spec_.engine.engine == "sglang";
    if (in_place) s.variant = "in_place";
    add("state_scan",
        in_place ? "delta_scan_in_place"
        : !delta ? "state_scan"
        : triton ? "delta_scan_triton"
                 : "delta_scan",
        s, l);
    if (in_place) s.variant = "gated_delta";
    s.depends_on = DependsOn::decode;
    add("state_conv", "state_conv_decode", s, l);
    add("state_update", "state_update", s, l);
    add("state_norm", delta ? "gated_norm" : "mixer_norm", width(values), l);
    if (out.activation_bytes < 2) add("state_quantize", "quantize", width(values, out), l);
    add_gemm("state_out_proj", model_.hidden, values, out, l);
    add_all_reduce("attention_all_reduce", l);
  }

  void add_mlp(const std::string& prefix, const LayerKind& kind, std::int64_t intermediate,
               const WeightFormat& gate_up, const WeightFormat& down) {
    const std::int64_t l = kind.count;
    if (prefix.empty()) add_post_norm(gate_up, l);
    const std::int64_t inner =
        intermediate / (prefix == "shared_" ? spec_.shared_expert_ranks() : spec_.dense_mlp_ranks());
    add_gemm(prefix + (model_.gated_mlp ? "gate_up_proj" : "up_proj"), (model_.gated_mlp ? 2 : 1) * inner,
             model_.hidden, gate_up, l);
    const char* activation = !model_.gated_mlp ? "relu_squared" : model_.gelu ? "gelu_mul" : "silu_mul";
    const bool apart = model_.gelu && compiled_ && !fuses_norms_;
    // Shared experts run inside the custom operator of the layer, where nothing fuses a quantisation.
    const bool blocks = follows_vllm_kernels() && down.label == "fp8-block" && !model_.gelu;
    const bool quantised = !apart && !quantises_apart(down) && !(blocks && !prefix.empty());
    add(prefix + activation,
        apart                                     ? "gelu_then_mul"
        : blocks && quantised && model_.gated_mlp ? "silu_mul_blocks"
                                                  : activation,
        quantised ? width(inner, down) : width(inner), l);
    if (!quantised && down.activation_bytes < 2)
      add(prefix + activation + "_quantize", "quantize", width(inner, down), l);
    add_gemm(prefix + "down_proj", model_.hidden, inner, down, l);
  }

  void add_experts(const LayerKind& kind) {
    const std::int64_t l = kind.count;
    const std::int64_t ep = spec_.plan.ep;  // the ranks that see the same tokens share out the experts
    const std::int64_t inner = model_.expert_intermediate * ep / spec_.expert_ranks();
    const WeightFormat up = format(kind.weights, "experts.gate_up");
    const WeightFormat down = format(kind.weights, "experts.down");
    add_post_norm(WeightFormat{}, l, true);
    split_rows();
    const bool has_shared = model_.shared_expert_intermediate > 0;
    const char* const first = model_.gated_mlp ? "shared_expert.gate_proj" : "shared_expert.up_proj";
    const WeightFormat shared = has_shared ? format(kind.weights, first) : WeightFormat{};
    const bool one_more = has_shared && shared_among_routed(spec_, shared.label == up.label);
    if (has_shared && !one_more) {
      enter(LayerPart::shared);
      branch_ = Branch::shared;
      if (quantises_shared(shared)) add("shared_quantize", "quantize", width(model_.hidden, shared), l);
      add_mlp("shared_", kind, model_.shared_expert_intermediate, shared,
              format(kind.weights, "shared_expert.down_proj"));
      if (model_.shared_expert_gate) {
        add_gemm("shared_gate", 1, model_.hidden, format(kind.weights, "router.shared_gate"), l);
        add("shared_gate_mul", "sigmoid_mul", width(model_.hidden), l);
      }
      enter(LayerPart::attention);
      branch_ = Branch::routed;
    }
    add_gemm("router", model_.experts, model_.hidden, format(kind.weights, "router"), l);
    OpSpec expert = width(0);
    expert.expert_rows = false;  // of routing: the rank's rows (a little too long where they are split)
    expert.experts = model_.experts;
    expert.experts_per_token = model_.experts_per_token;
    expert.expert_ranks = ep;
    add("topk", choice_of_experts(), expert, l);
    expert.experts += one_more;
    expert.experts_per_token += one_more;
    add_dispatch(up, l);
    expert.depends_on = over_;  // with an exchange: no rows but those of a rank's own experts
    if (!all_masked(expert, up, inner, l) && !add_fused_experts(expert, up, inner, l, one_more))
      add_single_experts(expert, up, down, inner, l);
    add_combine(up, l);
    branch_ = Branch::none;
  }

  const char* choice_of_experts() const {
    const bool grouped = model_.expert_groups > 1;
    if (spec_.engine.engine == "vllm" && !live_engine() && model_.architecture == "DeepseekV2ForCausalLM")
      return grouped ? "grouped_topk_compiled" : "topk_compiled";
    return grouped ? "grouped_topk" : "topk";
  }

  void add_single_experts(OpSpec expert, const WeightFormat& up, const WeightFormat& down, std::int64_t inner,
                          std::int64_t l) {
    const bool grouped = joint_.exchanges();  // rows come quantised and by experts
    if (!grouped) add("moe_align", "moe_align", expert, l);
    OpSpec quantize = width(model_.hidden, up);
    const bool sent_as_is = joint_.deals_by_pass() && model_.quantization == Quantization::fp8_block;
    if (joint_.gathers_experts() && !sent_as_is) quantize.depends_on = DependsOn::tokens;  // before that
    if (up.activation_bytes < 2 && !grouped) add("moe_quantize", "quantize", quantize, l);
    add_live_experts(expert, up, l);
    OpSpec gemm = expert;
    gemm.n = (model_.gated_mlp ? 2 : 1) * inner;
    gemm.k = model_.hidden;
    gemm.format = up;
    gemm.tiles = spec_.tiles;
    if (live_engine()) gemm.variant = "timed";
    add("moe_gate_up", "grouped_gemm", gemm, l);
    OpSpec middle = expert;  // rows = tokens · experts per token; activation and quantisation are two kernels
    middle.expert_rows = true;
    middle.n = inner;
    middle.out_bytes = 2;
    const bool gated = model_.gated_mlp;
    add(gated ? "moe_silu_mul" : "moe_relu_squared", gated ? "silu_mul" : "relu_squared", middle, l);
    if (down.activation_bytes < 2) {
      middle.out_bytes = down.activation_bytes;
      middle.format = down;
      add("moe_down_quantize", "quantize", middle, l);
    }
    gemm.n = model_.hidden;
    gemm.k = inner;
    gemm.format = down;
    add("moe_down", "grouped_gemm", gemm, l);
    expert.n = model_.hidden;
    if (!grouped) add("moe_combine", "moe_combine", expert, l);
  }

  // Where the engine's fused layer was timed as a whole, it is one line.
  bool add_fused_experts(const OpSpec& expert, const WeightFormat& format, std::int64_t inner, std::int64_t l,
                         bool with_shared) {
    const KernelSet* kernels = roofline_.kernels();
    const ExpertShape shape{model_.hidden, inner, expert.experts, expert.experts_per_token};
    if (kernels == nullptr || !model_.gated_mlp || !timed_experts(*kernels, format.label, shape, with_shared))
      return false;
    OpSpec fused = expert;
    fused.n = model_.hidden;
    fused.k = inner;
    fused.format = format;
    fused.own_rows = joint_.exchanges();
    // Published layers were timed with the fused kernel of the choice, which stands here by itself.
    if (kernels->experts_hold_choice(format.label))
      fused.variant = model_.expert_groups > 1 ? "grouped_topk" : "topk";
    add("moe_experts", "fused_experts", fused, l);
    OpSpec copy = expert;
    // TritonMXFP4FusedMoEMethod (fused_moe_triton.py) pads rows to 128s: one cleared tensor, one copy.
    copy.n = (model_.hidden + 127) / 128 * 128;
    if (copy.n > model_.hidden && format.label == "mxfp4" && spec_.engine.settings.options.has("moe_backend"))
      add("moe_pad", "moe_copy", copy, 2 * l);
    copy.n = model_.hidden;
    if (joint_.gathers_experts()) copy.depends_on = DependsOn::tokens;  // of the rank's own rows
    if (!joint_.exchanges()) add("moe_copy", "moe_copy", copy, l);
    return true;
  }

  void add_head() {
    if (spec_.stage.last() && sums_shared())
      add("final_norm", "sum_add_rms_norm", width(model_.hidden), 1);
    else if (spec_.stage.last())
      add_norm("final_norm", "mlp_output_norm", width(model_.hidden), 1);
    OpSpec gaps;
    gaps.depends_on = DependsOn::eager;
    gaps.gap_ns = spec_.engine.host.stream_gap.value.value() * 1e9;
    add("stream_gaps", "stream_gaps", gaps, 1);
    gaps.depends_on = DependsOn::two_batches;
    if (joint_.two_batches.on) add("two_batches", "two_batches", gaps, 1);
    OpSpec rows = width(model_.hidden);
    if (!live_engine()) rows.variant = spec_.engine.runner;
    rows.depends_on = DependsOn::rows;
    if (roofline_.kernels() != nullptr && !live_engine()) add("step_inputs", "step_inputs", rows, 1);
    if (!spec_.stage.last()) return;
    gather_last_rows();
    add("sample_gather", "gather_rows", rows, 1);
    if (joint_.gathers_all() && !joint_.head_whole) return add_joint_head(rows);
    const std::int64_t padded = (model_.vocabulary + 63) / 64 * 64;  // vLLM pads the vocabulary to 64
    rows.format = format(model_.global_weights, model_.tied_embeddings ? "embed_tokens" : "lm_head");
    const std::int64_t gpus = context_.shares_prompts() ? mlp_ranks_ : tp_;
    // A head that every rank has whole makes all logits there, and all ranks' are gathered none the less
    // (layers/logits_processor.py of SGLang, `do_tensor_parallel_all_gather`).
    const bool whole = whole_vocabulary_ && model_.tied_embeddings;
    rows.n = whole ? padded : (padded + gpus - 1) / gpus;
    rows.k = model_.hidden;
    add("lm_head", "gemm", rows, 1);
    rows.n = whole ? padded * gpus : padded;
    rows.k = 0;
    rows.ranks = static_cast<std::int32_t>(gpus);
    rows.links = across(gpus > tp_ ? &PlanLinks::all : &PlanLinks::tensor);
    if (gpus > 1) add("logits_all_gather", "all_gather", rows, 1);
    rows.n = padded;
    if (model_.logit_softcap && compiled_) add("softcap", "softcap_logits", rows, 1);  // else in the copy
    add("logits_fp32", "logits_copy", rows, 1);
    add("argmax", "argmax", rows, 1);
    if (drafts_by_v1(spec_)) {  // logits of the bonus tokens and of the drafts are copied apart, and searched
      add("verify_logits", "logits_copy", rows, 1);
      add("verify_argmax", "argmax", rows, 1);
    }
    rows.n = rows.ranks = 1;
    if (drafts_by_v1(spec_) && roofline_.kernels() != nullptr) add("verify_inputs", "step_inputs", rows, 1);
    if (spec_.speculation.on()) add("verify_drafts", "verify_drafts", rows, 1);
  }

  // LogitsProcessor of SGLang without enable_dp_lm_head: the ranks' rows by an all-reduce, logits of a part
  // of the vocabulary for all of them, all parts to every rank, which keeps its own rows.
  void add_joint_head(OpSpec rows) {
    const std::int64_t padded = (model_.vocabulary + 63) / 64 * 64;
    constexpr auto all = DependsOn::gathered_rows;
    add("dp_rows_clear", "rank_copy", joint(model_.hidden, all), 1);
    add("dp_rows_copy_in", "rank_copy", own_share(model_.hidden, all), 1);
    add("dp_rows_all_reduce", "all_reduce", joint(model_.hidden, all), 1);
    OpSpec head = joint((padded + mlp_ranks_ - 1) / mlp_ranks_, all);
    head.k = model_.hidden;
    head.format = format(model_.global_weights, "lm_head");
    add("lm_head", "gemm", head, 1);
    add("logits_all_gather", "all_gather", joint(padded, all), 1);
    add("dp_logits_copy_out", "rank_copy", own_share(padded, all), 2);
    rows.n = padded;
    add("logits_fp32", "logits_copy", rows, 1);
    add("argmax", "argmax", rows, 1);
  }

  // The drafting network after the model's step: one pass over all its tokens, then one over a token of each
  // sequence for every further draft (`llm_base_proposer.py`).
  void add_draft() {
    const SpeculationSpec& s = spec_.speculation;
    LayerKind layer = draft_layer(s, model_);
    const std::vector<WeightTensor> globals = draft_globals(s, model_);
    const std::int64_t per_pass = layer.count;
    for (const Pass pass : {Pass::first, Pass::next}) {
      pass_ = pass;
      const std::int64_t passes = pass == Pass::first ? 1 : s.tokens - 1;
      if (passes == 0) break;
      add("embedding", "embedding", width(model_.hidden), passes);
      add_all_reduce("embedding_all_reduce", passes);
      const bool third = s.draft.projected == 3;  // EAGLE-3 projects the model's hidden states, once
      add("input_norms", "add_rms_norm", width(model_.hidden), passes);
      if (!third || pass == Pass::first) {
        add_gemm("projection", model_.hidden, s.draft.projected * model_.hidden,
                 format(globals, "draft_projection"), passes);
      }
      qkv_width_ = third ? 2 * model_.hidden : model_.hidden;
      layer.count = per_pass * passes;
      add_draft_layer(layer);
      qkv_width_ = model_.hidden;
      add_draft_head(globals, passes);
    }
    pass_ = Pass::model;
  }

  void add_draft_layer(const LayerKind& layer) {
    if (layer.moe || spec_.speculation.method == SpeculationMethod::mtp) return add_layer(layer);
    add_attention(layer);
    add_mlp("", layer, spec_.speculation.draft.intermediate, format(layer.weights, "gate_proj"),
            format(layer.weights, "down_proj"));
    add_all_reduce("mlp_all_reduce", layer.count);
  }

  void add_draft_head(const std::vector<WeightTensor>& globals, std::int64_t passes) {
    add("final_norm", "add_rms_norm", width(model_.hidden), passes);
    OpSpec rows = width(model_.hidden);
    rows.variant = spec_.engine.runner;
    rows.depends_on = DependsOn::drafting;
    if (drafts_by_v1(spec_) && roofline_.kernels() != nullptr) add("inputs", "step_inputs", rows, passes);
    add("sample_gather", "gather_rows", rows, passes);
    const std::int64_t own = spec_.speculation.draft.vocabulary;
    rows.format = own > 0
                      ? format(globals, "lm_head")
                      : format(model_.global_weights, model_.tied_embeddings ? "embed_tokens" : "lm_head");
    const std::int64_t padded = ((own > 0 ? own : model_.vocabulary) + 63) / 64 * 64;
    rows.n = (padded + tp_ - 1) / tp_;
    rows.k = model_.hidden;
    add("lm_head", "gemm", rows, passes);
    rows.n = padded;
    rows.k = 0;
    rows.ranks = static_cast<std::int32_t>(tp_);
    rows.links = across(&PlanLinks::tensor);
    if (tp_ > 1) add("logits_all_gather", "all_gather", rows, passes);
    drafts_trees() ? add_tree_candidates(rows, passes) : add("argmax", "argmax", rows, passes);
  }

  std::int64_t qkv_width_ = model_.hidden, first_layers_ = 1;
  // Gemma: vLLM's compiler makes one kernel of an output's norm and the norm behind it; TensorRT-LLM compiles
  // nothing by default.
  const bool fuses_norms_ = spec_.engine.engine == "vllm";
  const bool whole_vocabulary_ = keeps_whole_vocabulary(spec_.model, spec_.engine);
};

}  // namespace

Result<std::vector<GraphNode>> build_step_graph(const InstanceSpec& spec, const Roofline& roofline) {
  return GraphBuilder(spec, roofline).build();
}

}  // namespace orrery
