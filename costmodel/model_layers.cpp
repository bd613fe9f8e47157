#include "costmodel/model_layers.h"

#include <algorithm>

namespace orrery {

namespace {

class LayerBuilder {
 public:
  LayerBuilder(const LayerRules& rules, ModelSpec& model) : rules_(rules), model_(model) {}

  void build() {
    for (std::int64_t i = 0; i < model_.layers; ++i) {
      const auto at = static_cast<std::size_t>(i);
      const bool moe = model_.experts > 0 && (rules_.dense.empty() || !rules_.dense[at]);
      const std::int64_t window = !rules_.sliding.empty() && rules_.sliding[at] ? rules_.window : 0;
      const Mixer mixer = rules_.mixers.empty() ? Mixer::attention : rules_.mixers[at];
      const bool feeds = rules_.alone.empty() || !rules_.alone[at];
      const auto same =
          std::find_if(model_.layer_kinds.begin(), model_.layer_kinds.end(), [&](const LayerKind& k) {
            return k.moe == (moe && feeds) && k.sliding_window == window && k.mixer == mixer &&
                   k.feeds_forward == feeds;
          });
      model_.kind_of_layer.push_back(static_cast<std::uint8_t>(same - model_.layer_kinds.begin()));
      if (same != model_.layer_kinds.end()) {
        ++same->count;
        continue;
      }
      LayerKind kind;
      kind.count = 1;
      kind.moe = moe && feeds;
      kind.sliding_window = window;
      kind.mixer = mixer;
      kind.feeds_forward = feeds;
      if (mixer == Mixer::attention) add_attention(kind.weights);
      if (mixer == Mixer::state) add_state(kind.weights);
      // A layer that is one thing alone has one norm.
      if (!feeds) std::erase_if(kind.weights, [](const WeightTensor& t) { return t.name == "post_norm"; });
      if (mixer == Mixer::none) kind.weights.push_back(tensor("post_norm", model_.hidden, 1));
      if (feeds) add_mlp(kind.weights, moe);
      model_.layer_kinds.push_back(std::move(kind));
    }
    model_.global_weights.push_back(tensor("embed_tokens", model_.vocabulary, model_.hidden));
    if (!model_.tied_embeddings)
      model_.global_weights.push_back(tensor("lm_head", model_.vocabulary, model_.hidden));
    model_.global_weights.push_back(tensor("final_norm", model_.hidden, 1));
    for (WeightTensor& t : model_.global_weights) t.per_layer = false;
  }

 private:
  WeightTensor tensor(const char* name, std::int64_t rows, std::int64_t columns,
                      std::int64_t copies = 1) const {
    WeightTensor t;
    t.name = name;
    t.rows = rows;
    t.columns = columns;
    t.copies = copies;
    t.dtype = model_.activation_dtype;
    return t;
  }

  void add_attention(std::vector<WeightTensor>& w) const {
    if (model_.latent.present()) return add_latent_attention(w);
    const std::int64_t q = model_.heads * model_.head_dim, kv = model_.kv_heads * model_.head_dim;
    w.push_back(tensor("input_norm", model_.hidden, 1));
    w.push_back(tensor("q_proj", model_.output_gate ? 2 * q : q, model_.hidden));
    w.push_back(tensor("k_proj", kv, model_.hidden));
    w.push_back(tensor("v_proj", kv, model_.hidden));
    w.push_back(tensor("o_proj", model_.hidden, q));
    if (model_.attention_bias) {
      w.push_back(tensor("q_proj.bias", q, 1));
      w.push_back(tensor("k_proj.bias", kv, 1));
      w.push_back(tensor("v_proj.bias", kv, 1));
    }
    if (rules_.output_bias) w.push_back(tensor("o_proj.bias", model_.hidden, 1));
    if (model_.attention_sinks) w.push_back(tensor("sinks", model_.heads, 1));
    if (model_.qk_norm) {
      const bool whole = norms_all_heads(model_);
      w.push_back(tensor("q_norm", whole ? q : model_.head_dim, 1));
      w.push_back(tensor("k_norm", whole ? kv : model_.head_dim, 1));
    }
    if (model_.output_norms) w.push_back(tensor("attention_output_norm", model_.hidden, 1));
    w.push_back(tensor("post_norm", model_.hidden, 1));
    if (model_.output_norms) w.push_back(tensor("mlp_output_norm", model_.hidden, 1));
  }

  void add_latent_attention(std::vector<WeightTensor>& w) const {
    const LatentAttention& a = model_.latent;
    const std::int64_t queries = model_.heads * (a.key_dim + a.rotary_dim);
    w.push_back(tensor("input_norm", model_.hidden, 1));
    if (a.query_rank > 0) {
      w.push_back(tensor("q_a_proj", a.query_rank, model_.hidden));
      w.push_back(tensor("q_a_norm", a.query_rank, 1));
      w.push_back(tensor("q_b_proj", queries, a.query_rank));
    } else {
      w.push_back(tensor("q_proj", queries, model_.hidden));
    }
    w.push_back(tensor("kv_a_proj", a.rank + a.rotary_dim, model_.hidden));
    w.push_back(tensor("kv_a_norm", a.rank, 1));
    w.push_back(tensor("kv_b_proj", model_.heads * (a.key_dim + a.value_dim), a.rank));
    w.push_back(tensor("o_proj", model_.hidden, model_.heads * a.value_dim));
    if (const SparseAttention& s = model_.sparse; s.present()) {
      w.push_back(tensor("indexer.wq_b", s.heads * s.dim, a.query_rank));
      w.push_back(tensor("indexer.wk", s.dim, model_.hidden));
      w.push_back(tensor("indexer.weights_proj", s.heads, model_.hidden));
      w.push_back(tensor("indexer.k_norm", 2 * s.dim, 1));  // LayerNorm: weights and biases
    }
    w.push_back(tensor("post_norm", model_.hidden, 1));
  }

  // Mamba2 makes gate, keys, values and time step in one product; a gated delta net's decay and strength (b,
  // a) have one of their own.
  void add_state(std::vector<WeightTensor>& w) const {
    const StateLayers& s = model_.state;
    const bool delta = s.rule == StateRule::gated_delta;
    const std::int64_t made = 2 * s.keys() + 2 * s.values() + (delta ? 0 : s.value_heads);
    w.push_back(tensor("input_norm", model_.hidden, 1));
    w.push_back(tensor("state.in_proj", made, model_.hidden));
    if (delta) w.push_back(tensor("state.in_proj_ba", 2 * s.value_heads, model_.hidden));
    w.push_back(tensor("state.conv", s.channels(), s.taps));
    if (s.conv_bias) w.push_back(tensor("state.conv.bias", s.channels(), 1));
    w.push_back(tensor("state.scalars", (delta ? 2 : 3) * s.value_heads, 1));  // A_log, dt_bias; Mamba2: D
    w.push_back(tensor("state.gated_norm", delta ? s.value_dim : s.values(), 1));
    w.push_back(tensor("state.out_proj", model_.hidden, s.values()));
    w.push_back(tensor("post_norm", model_.hidden, 1));
  }

  void add_mlp(std::vector<WeightTensor>& w, bool moe) const {
    const std::int64_t gates = model_.gated_mlp ? 2 : 1;
    if (!moe) {
      if (model_.gated_mlp) w.push_back(tensor("gate_proj", model_.intermediate, model_.hidden));
      w.push_back(tensor("up_proj", model_.intermediate, model_.hidden));
      w.push_back(tensor("down_proj", model_.hidden, model_.intermediate));
      if (rules_.mlp_bias) {
        w.push_back(tensor("gate_proj.bias", model_.intermediate, 1));
        w.push_back(tensor("up_proj.bias", model_.intermediate, 1));
        w.push_back(tensor("down_proj.bias", model_.hidden, 1));
      }
      return;
    }
    const std::int64_t inner = model_.expert_intermediate;
    w.push_back(tensor("router", model_.experts, model_.hidden));
    if (model_.router_fp32) w.back().dtype = DType::fp32;
    w.push_back(tensor("experts.gate_up", gates * inner, model_.hidden, model_.experts));
    w.push_back(tensor("experts.down", model_.hidden, inner, model_.experts));
    if (const std::int64_t shared = model_.shared_expert_intermediate; shared > 0) {
      if (model_.gated_mlp) w.push_back(tensor("shared_expert.gate_proj", shared, model_.hidden));
      w.push_back(tensor("shared_expert.up_proj", shared, model_.hidden));
      w.push_back(tensor("shared_expert.down_proj", model_.hidden, shared));
      if (model_.shared_expert_gate) w.push_back(tensor("router.shared_gate", 1, model_.hidden));
    }
    if (rules_.router_bias) w.push_back(tensor("router.bias", model_.experts, 1));
    if (rules_.expert_biases) {
      w.push_back(tensor("router.bias", model_.experts, 1));
      w.push_back(tensor("experts.gate_up.bias", 2 * inner, 1, model_.experts));
      w.push_back(tensor("experts.down.bias", model_.hidden, 1, model_.experts));
    }
  }

  const LayerRules& rules_;
  ModelSpec& model_;
};

}  // namespace

bool norms_all_heads(const ModelSpec& model) { return model.architecture == "MiniMaxM2ForCausalLM"; }

void build_layers(const LayerRules& rules, ModelSpec& model) { LayerBuilder(rules, model).build(); }

}  // namespace orrery
