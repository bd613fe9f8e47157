// The list of a step's operators while it is made: what every part of the graph is written with, and the ways
// between the ranks of attention data parallelism. For step_graph.cpp alone.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "costmodel/expert_exchange.h"
#include "costmodel/gemma_rules.h"
#include "costmodel/kv_groups.h"
#include "costmodel/step_graph.h"
#include "costmodel/weight_format.h"

namespace orrery {

// Errors collect in `errors_`; the graph is then thrown away.
class GraphNodes {
 protected:
  GraphNodes(const InstanceSpec& spec, const Roofline& roofline) : spec_(spec), roofline_(roofline) {}

  void fail(const std::string& message, const std::string& key) {
    errors_.push_back(invalid_input(message, {}, key));
  }

  // Adds a use of an operator; equal uses (same name and shape, in another layer kind) are counted together.
  void add(const std::string& use, const char* op, const OpSpec& given, std::int64_t count) {
    if (count == 0) return;
    OpSpec spec = given;
    if (pass_ == Pass::next) {  // a token of each branch: no prompts, no drafts to verify
      if (spec.depends_on == DependsOn::prefill) return;
      if (spec.depends_on == DependsOn::tokens) spec.depends_on = DependsOn::drafting;
      spec.one_query = true;
      spec.branches = spec_.speculation.has_network() ? spec_.speculation.branches : 1;
    }
    const std::string name = (pass_ == Pass::model   ? ""
                              : pass_ == Pass::first ? "draft_"
                                                     : "draft_next_") +
                             use;
    const OperatorEntry* entry = find_operator(op);
    ORRERY_CHECK(entry != nullptr, "an operator of the step graph is not in the table");
    for (GraphNode& node : nodes_) {
      if (node.name == name && node.spec.n == spec.n && node.spec.k == spec.k &&
          node.spec.window == spec.window && node.spec.format.label == spec.format.label &&
          node.part == part_ && node.entry == entry) {
        node.count += count;
        return;
      }
    }
    GraphNode node;
    node.name = name;
    node.entry = entry;
    node.spec = spec;
    node.count = count;
    node.part = part_;
    node.branch = pass_ == Pass::model ? branch_ : Branch::none;
    node.draft = pass_ != Pass::model;
    nodes_.push_back(std::move(node));
  }

  // Format of a GEMM by the weight tensor that it multiplies; of fused ones the first.
  WeightFormat format(const std::vector<WeightTensor>& tensors, const char* name) {
    const auto tensor =
        std::find_if(tensors.begin(), tensors.end(), [&](const WeightTensor& t) { return t.name == name; });
    if (tensor == tensors.end()) {
      fail("the model has no weight tensor \"" + std::string(name) + "\"", "model");
      return {};
    }
    const WeightFormat f = weight_format(*tensor, model_.quantization, model_.activation_dtype, roofline_);
    if (!roofline_.has_math(f.math)) {
      fail(spec_.hardware.name + " has no matrix rate for " + to_string(f.math) + ", which " + tensor->name +
               " needs",
           "hardware");
    } else if (!roofline_.has(tensor->copies > 1 ? roofline_.grouped_class(f) : roofline_.gemm_class(f))) {
      fail(spec_.hardware.name + " has no efficiency for " + std::string(to_string(roofline_.gemm_class(f))),
           "hardware");
    }
    return f;
  }

  OpSpec attention_spec(const LayerKind& kind) const {
    OpSpec s;
    s.heads = model_.heads / tp_;
    s.kv_heads = std::max<std::int64_t>(1, model_.kv_heads / tp_);  // replicated when there are fewer than
                                                                    // ranks
    s.head_dim = model_.head_dim;
    s.window = window_met(kind, spec_.engine);
    s.kv_bytes = bytes_per_element(model_.kv_dtype);
    s.norm_heads = model_.qk_norm;
    s.softcap = model_.attention_softcap;
    const TreeAttention tree = spec_.speculation.tree_attention;
    s.other_kernel = serves_image_prefixes(model_, spec_.engine) || attends_by_flashinfer(spec_.engine) ||
                     (tree == TreeAttention::masked && spec_.hardware.architecture == "sm_90a");
    s.branches_apart = tree == TreeAttention::masked;  // FlashInferMultiStepDraftBackend: a request each
    s.tree_apart = tree == TreeAttention::cascade;
    s.format.math = model_.activation_dtype == DType::fp16 ? DType::fp16 : DType::bf16;
    return s;
  }

  OpSpec state_spec() const {  // as costmodel/ops/state.cpp reads it
    const StateLayers& state = model_.state;
    OpSpec s;
    s.n = state.channels() / tp_;
    s.k = state.taps;
    s.heads = state.value_heads / tp_;
    s.kv_heads = state.key_heads / tp_;
    s.head_dim = state.key_dim;
    s.value_dim = state.value_dim;
    s.absorbed_chunk = state.chunk;
    s.kv_bytes = bytes_per_element(state.dtype_of_model ? model_.activation_dtype : state.dtype);
    s.variant = state.rule == StateRule::gated_delta ? "gated_delta" : "mamba2";
    s.other_kernel = state.rule != StateRule::gated_delta || spec_.hardware.architecture != "sm_90a";
    s.format.math = model_.activation_dtype == DType::fp16 ? DType::fp16 : DType::bf16;
    return s;
  }

  // Whether the sum of shared and routed experts is left to the next norm's kernel: where the compiler sees
  // both and no collective stands between (vLLM's SharedExperts; a kernel profile of Qwen3.5 and
  // DeepSeek-V2-Lite).
  bool sums_shared() const {
    return spec_.engine.engine == "vllm" && !live_engine() && !spec_.engine.settings.enforce_eager &&
           model_.shared_expert_intermediate > 0 && spec_.plan.gpus() == 1 && !model_.output_norms;
  }

  // Our own forward pass (live/forward), whose schedules are vLLM's and whose launches are not.
  bool live_engine() const {
    return (" " + spec_.engine.kernels + " ").find(" orrery ") != std::string::npos;
  }

  // Launches around its experts that vLLM has not, whose kernels read what they find (step_experts.cpp).
  void add_live_experts(OpSpec expert, const WeightFormat& weights, std::int64_t l) {
    if (!live_engine()) return;
    OpSpec row = expert;
    row.n = model_.experts;
    add("router_fp32", "logits_copy", row, l);
    row.n = model_.hidden;
    if (model_.shared_expert_intermediate > 0) add("shared_add", "add_rows", row, l);
    row.expert_rows = true;
    if (weights.activation_bytes >= 2) add("moe_permute", "rank_copy", row, l);
  }

  // Kernels that were seen in profiles of vLLM 0.24 on an H200 (costmodel/ops/paced_kernels.cpp).
  bool follows_vllm_kernels() const {
    return spec_.engine.engine == "vllm" && spec_.hardware.architecture == "sm_90a" && !live_engine();
  }
  // Norms that quantise in blocks are the engine's own kernel, into which the compiler fuses no sum.
  bool in_blocks(const WeightFormat& reader) const {
    return follows_vllm_kernels() && reader.label == "fp8-block" && !spec_.engine.settings.enforce_eager;
  }
  bool sums_apart(const WeightFormat& reader) const {
    return after_shared_ && in_blocks(reader) && pass_ == Pass::model;  // a drafting pass begins with a norm
  }

  // FlashAttention 3 is given its schedule once a step where all layers attend alike; where windows differ
  // every launch prepares its own (v1/attention/backends/flash_attn.py of vLLM 0.24, `aot_schedule`).
  bool schedules_each_launch() const {
    if (spec_.engine.engine != "vllm" || spec_.hardware.architecture != "sm_90a") return false;
    std::int64_t first = -1;
    for (const LayerKind& kind : model_.layer_kinds) {
      if (kind.mixer != Mixer::attention) continue;
      const std::int64_t window = window_met(kind, spec_.engine);
      if (first >= 0 && window != first) return true;
      first = window;
    }
    return false;
  }

  OpSpec width(std::int64_t n, double out_bytes = 2) const {
    OpSpec s;
    s.n = n;
    s.out_bytes = out_bytes;
    s.depends_on = over_;
    if (split_rows_) {  // a GPU's part of its rank's rows
      s.expert_rows = true;
      s.experts_per_token = 1;
      s.expert_ranks = tp_;
    }
    return s;
  }

  // Of a kernel that writes what a product in this format reads.
  OpSpec width(std::int64_t n, const WeightFormat& reader) const {
    OpSpec s = width(n, reader.activation_bytes);
    s.format = reader;
    return s;
  }

  void add_gemm(const std::string& name, std::int64_t n, std::int64_t k, const WeightFormat& f,
                std::int64_t count) {
    OpSpec s = width(n);
    s.k = k;
    s.format = f;
    // The live engine's 16-bit products run with rounded rows (costmodel/product_rows.h).
    if (live_engine() && f.activation_bytes >= 2) s.variant = "rounded";
    add(name, "gemm", s, count);
  }

  // The group's links between nodes; null inside one.
  const GroupLinks* across(GroupLinks PlanLinks::*group) const {
    const bool crosses = spec_.links != nullptr && ((*spec_.links).*group).crosses();
    return crosses ? &((*spec_.links).*group) : nullptr;
  }

  // Under attention data parallelism the ways to the tokens of all ranks and back add up. What runs over the
  // rows of all ranks of context parallelism is split over all GPUs.
  void add_all_reduce(const std::string& name, std::int64_t count, bool embedding = false) {
    const bool all = spec_.engine.settings.context.shares_prompts() && over_ == DependsOn::gathered;
    if (!all && (tp_ == 1 || (joint_.gathers_all() && !embedding))) return;
    OpSpec s = width(model_.hidden);
    s.ranks = static_cast<std::int32_t>(all ? mlp_ranks_ : tp_);
    s.links = across(all ? &PlanLinks::all : &PlanLinks::tensor);
    if (!embedding && scatters_sum(over_)) {
      s.depends_on = DependsOn::split_prompts;
      add("cp_reduce_scatter", "reduce_scatter", s, count);
      s.depends_on = DependsOn::whole_step;
    }
    add(name, "all_reduce", s, count);
  }

  // Latent attention's ranks can end a sum on their own rows, if they are all GPUs there are
  // (layer_boundary/boundary.py, `_cp_moves`).
  bool scatters_sum(DependsOn over) const {
    return spec_.engine.settings.context.shares_prompts() && over == DependsOn::gathered && tp_ == 1 &&
           model_.latent.present();
  }

  // Lines below zero. Each tensor-parallel all-reduce has a norm behind it: attention's the one before the
  // MLP, an MLP's or the embedding's the next layer's or the last.
  void add_overlap() {
    const OverlapRules& rules = spec_.engine.overlap;
    if (rules.fused_tokens > 0 && across(&PlanLinks::tensor) == nullptr) {
      std::int64_t attention = 0, others = 0;
      for (const GraphNode& node : nodes_) {
        if (node.draft) continue;
        if (node.name == "attention_all_reduce") attention += node.count;
        if (node.name == "mlp_all_reduce" || node.name == "moe_all_reduce" ||
            (rules.fused.embedding && node.name == "embedding_all_reduce"))
          others += node.count;
      }
      if (!spec_.stage.last()) --others;  // the last one's sum goes to the next stage
      // The first layer's norm of a stage has a sum before it only behind the embedding's.
      bool alone = !(rules.fused.embedding && spec_.stage.first());
      for (std::size_t i = 0, end = nodes_.size(); i < end; ++i) {
        const GraphNode& node = nodes_[i];
        const bool post = node.name == "post_norm";
        if (node.draft || (!post && node.name != "input_norm" && node.name != "final_norm")) continue;
        if (alone && node.name == "input_norm") {
          alone = false;
          if (node.count == 1) continue;
        }
        std::int64_t& left = post ? attention : others;
        const std::int64_t count = std::min(node.count, std::max<std::int64_t>(left, 0));
        left -= count;
        // With an exchange sums stand behind attention, in each half of a step its own, and behind dense
        // layers.
        enter(post ? node.part : LayerPart::other);
        add_fused_norm(node.spec, count);
        enter(LayerPart::other);
      }
    }
    const auto add_line = [this](const char* name, DependsOn d) {
      OpSpec line;
      line.depends_on = d;
      add(name, name, line, 1);
    };
    if (rules.shared.on) add_line("shared_expert_stream", DependsOn::side_stream);
    if (rules.launch.on) add_line("early_start", DependsOn::early_start);
  }

  // `own_rows`: quantising is a kernel of its own behind the fused one.
  void add_fused_norm(const OpSpec& norm, std::int64_t count) {
    const FusedAllReduce& rules = spec_.engine.overlap.fused;
    OpSpec fused = norm;
    fused.k = spec_.engine.overlap.fused_tokens;
    fused.own_rows =
        norm.out_bytes < 2 && !rules.quantises && !(rules.static_scale && norm.format.label == "fp8-tensor");
    add("fused_all_reduce", "fused_all_reduce", fused, count);
  }

  // -------------------------------------------------------------------------- ranks of data parallelism

  OpSpec joint(std::int64_t n, DependsOn depends_on) const {
    OpSpec s = width(n);
    s.depends_on = depends_on;
    // vLLM's GPUs with the same place in their ranks; inside a rank an all-reduce follows.
    const bool all = !joint_.gathers_experts() || spec_.splits_rows();
    s.ranks = all ? static_cast<std::int32_t>(mlp_ranks_) : spec_.plan.dp;
    s.expert_rows = false;
    s.links = across(all ? &PlanLinks::all : &PlanLinks::data);
    return s;
  }

  // A rank's own rows of a buffer of all ranks', their mean number.
  OpSpec own_share(std::int64_t n, DependsOn depends_on) const {
    OpSpec s = joint(n, depends_on);
    s.expert_rows = true;
    s.experts_per_token = 1;
    s.expert_ranks = spec_.plan.dp;
    return s;
  }

  OpSpec inside_rank() const {  // among its GPUs, of its share of what is gathered in equal shares
    OpSpec s = own_share(model_.hidden, DependsOn::gathered_evenly);
    s.ranks = static_cast<std::int32_t>(tp_);
    s.links = across(&PlanLinks::tensor);
    return s;
  }

  // layer_boundary/prepare.py, `_dp_gather_sum_read`: the first GPU adds the residual to its part of the sum.
  void add_gather_of_parts(std::int64_t l) {
    add("dp_add_residual", "rank_copy", width(model_.hidden * 3 / 2), l);  // reads two rows, writes one
    const OpSpec residual = width(model_.hidden);
    add("dp_part_reduce_scatter", "reduce_scatter", inside_rank(), l);
    add_gather(l);
    add("dp_residual_out", "rank_copy", residual, 2 * l);  // into a cleared buffer
    add("post_norm", "add_rms_norm", width(model_.hidden), l);
  }

  // SGLang, layers/dp_attention.py: equal shares by `all_gather_into_tensor`; else each rank writes its rows
  // into a cleared buffer, which an all-reduce adds up. What follows runs over the rows of all ranks.
  void add_gather(std::int64_t l) {
    add("dp_all_gather", "all_gather", joint(model_.hidden, DependsOn::gathered_evenly), l);
    add("dp_clear", "rank_copy", joint(model_.hidden, DependsOn::gathered_by_sum), l);
    add("dp_copy_in", "rank_copy", own_share(model_.hidden, DependsOn::gathered_by_sum), l);
    add("dp_all_reduce", "all_reduce", joint(model_.hidden, DependsOn::gathered_by_sum), l);
    over_ = DependsOn::gathered;
  }

  // Back: a reduce-scatter of equal shares (layer_boundary/exit.py), else an all-reduce, of which a rank
  // copies its rows into a cleared buffer.
  void add_scatter(std::int64_t l) {
    over_ = DependsOn::tokens;
    add("dp_reduce_scatter", "reduce_scatter", joint(model_.hidden, DependsOn::gathered_evenly), l);
    if (tp_ > 1) add("dp_part_all_gather", "all_gather", inside_rank(), l);
    add("dp_mlp_all_reduce", "all_reduce", joint(model_.hidden, DependsOn::gathered_by_sum), l);
    add("dp_copy_out", "rank_copy", own_share(model_.hidden, DependsOn::gathered_by_sum), 2 * l);
  }

  // Which kernels an exchange of rows has in this instance's steps; steps with prompts may have others.
  std::vector<DependsOn> exchange_kernels() const {
    if (joint_.exchange == ExpertExchange::low_latency) return {DependsOn::exchanged_low_latency};
    if (joint_.exchange == ExpertExchange::normal) return {DependsOn::exchanged_normal};
    return {DependsOn::exchanged_low_latency, DependsOn::exchanged_normal};
  }

  // Experts' rows in 8 bits with scales where the kernels can send them so, outputs in 16.
  void add_exchange(bool dispatch, const WeightFormat& experts, std::int64_t l) {
    ExchangeShape shape;
    shape.table = spec_.exchange;
    shape.dispatch = dispatch;
    shape.ranks = spec_.plan.ep;
    shape.experts = model_.experts;
    shape.experts_per_token = model_.experts_per_token;
    shape.own_parts = spec_.splits_rows() ? static_cast<std::int32_t>(tp_) : 1;
    shape.links = exchange_links(spec_.hardware, shape.ranks);
    const auto hidden = static_cast<double>(model_.hidden);
    shape.row_bytes = 2 * hidden;
    if (dispatch && experts.activation_bytes < 2)
      shape.row_bytes = hidden + 4 * (model_.quantization == Quantization::fp8_block ? hidden / 128 : 1);
    for (const DependsOn kernels : exchange_kernels()) {
      shape.low_latency = kernels == DependsOn::exchanged_low_latency;
      OpSpec s = width(model_.hidden);
      s.depends_on = kernels;
      s.ranks = shape.ranks;
      s.exchange = std::make_shared<ExchangeShape>(shape);
      const std::string name = dispatch ? "ep_dispatch" : "ep_combine";
      add(shape.low_latency ? name : name + "_normal", name.c_str(), s, l);
    }
  }

  // Low-latency kernels deliver to masked products, where experts are in 8-bit blocks (SGLang's deepep_moe,
  // vLLM's BatchedDeepGemmExperts). False: steps with other kernels, for which `expert` then stands, or all
  // of them, need the layer as it is elsewhere.
  bool all_masked(OpSpec& expert, const WeightFormat& up, std::int64_t inner, std::int64_t l) {
    if (!joint_.exchanges() || joint_.exchange == ExpertExchange::normal || up.label != "fp8-block" ||
        !model_.gated_mlp || !spec_.exchange->masked.present())
      return false;
    OpSpec masked = expert;
    masked.n = model_.hidden;
    masked.k = inner;
    masked.format = up;
    masked.depends_on = DependsOn::exchanged_low_latency;
    auto shape = std::make_shared<ExchangeShape>();
    shape->table = spec_.exchange;
    masked.exchange = std::move(shape);
    add("moe_experts_masked", "masked_experts", masked, l);
    expert.depends_on = DependsOn::exchanged_normal;
    return joint_.exchange == ExpertExchange::low_latency;
  }

  // Around an exchange by normal kernels: quantising a rank's own rows, then grouping what it got by experts,
  // and adding up what a token's experts on this rank made. Low-latency kernels do all three.
  void add_around_exchange(const char* use, const char* op, OpSpec s, std::int64_t l) {
    if (joint_.exchange == ExpertExchange::low_latency) return;
    s.depends_on = DependsOn::exchanged_normal;
    add(use, op, s, l);
  }
  OpSpec received_rows(double n, std::int64_t ep) const {
    OpSpec s = width(static_cast<std::int64_t>(n));
    s.expert_rows = true;
    s.experts_per_token = model_.experts_per_token;
    s.expert_ranks = ep;
    return s;
  }

  // vLLM: the ranks' rows go to every rank; what all ranks' experts make of them is added up and dealt out.
  void add_dispatch(const WeightFormat& experts, std::int64_t l) {
    if (joint_.exchanges()) {
      if (experts.activation_bytes < 2) {
        OpSpec quantize = width(model_.hidden, experts);
        quantize.own_rows = true;
        add_around_exchange("moe_quantize", "quantize", quantize, l);
      }
      enter(LayerPart::dispatch);
      add_exchange(true, experts, l);
      enter(LayerPart::experts);
      over_ = DependsOn::gathered;
      const double copied = static_cast<double>(model_.hidden) * experts.activation_bytes / 2;
      return add_around_exchange("moe_permute", "rank_copy", received_rows(copied, spec_.plan.ep), l);
    }
    if (!joint_.gathers_experts()) return;
    OpSpec rows = joint(model_.hidden, DependsOn::gathered);
    rows.out_bytes = dispatch_bytes(model_, experts, joint_.rule) / static_cast<double>(model_.hidden);
    rows.further = 2;  // weights and indices of the chosen experts
    add("dp_dispatch", "all_gather", rows, l);
    over_ = DependsOn::gathered;
  }

  void add_combine(const WeightFormat& experts, std::int64_t l) {
    if (joint_.exchanges()) {
      add_around_exchange("moe_unpermute", "rank_copy",
                          received_rows(static_cast<double>(model_.hidden), spec_.plan.ep), l);
      over_ = DependsOn::tokens;
      enter(LayerPart::combine);
      return add_exchange(false, experts, l);
    }
    branch_ = Branch::none;
    if (joint_.gathers_experts()) {
      over_ = DependsOn::tokens;
      add("dp_combine", "reduce_scatter", joint(model_.hidden, DependsOn::gathered), l);
    }
    if (!spec_.splits_rows()) add_all_reduce("moe_all_reduce", l);
  }

  // vLLM's models/deepseek_v2.py, qwen3_moe.py: `sequence_parallel_chunk` before the router and an all-gather
  // of a rank's rows after the experts, in place of an all-reduce.
  void split_rows() { split_rows_ = spec_.splits_rows(); }
  void gather_split_rows(std::int64_t l) {
    if (!std::exchange(split_rows_, false)) return;
    OpSpec s = width(model_.hidden);
    s.ranks = static_cast<std::int32_t>(tp_);
    s.links = across(&PlanLinks::tensor);
    add("moe_rows_all_gather", "all_gather", s, l);
  }

  const InstanceSpec& spec_;
  const ModelSpec& model_ = spec_.model;
  const Roofline& roofline_;
  const JointSettings& joint_ = spec_.engine.settings.joint;
  std::int64_t tp_ = spec_.plan.tp, mlp_ranks_ = spec_.plan.mlp_ranks(), dense_ranks_ = spec_.dense_ranks();
  bool split_rows_ = false;
  Branch branch_ = Branch::none;
  LayerPart part_ = LayerPart::other;  // set where rows are exchanged only
  void enter(LayerPart part) {
    if (joint_.exchanges()) part_ = part;
  }
  DependsOn over_ = DependsOn::tokens;                    // whose tokens the operators being added run over
  enum class Pass : std::uint8_t { model, first, next };  // whose nodes are added: of the draft, which pass
  Pass pass_ = Pass::model;
  const bool compiled_ = spec_.engine.engine != "sglang";  // neighbours that run row by row are one kernel
  bool after_shared_ = false;  // the layers being added follow some whose shared experts' output waits for
                               // the sum
  std::vector<GraphNode> nodes_;
  Errors errors_;
};

}  // namespace orrery
