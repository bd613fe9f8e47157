// What a tree of drafts adds to the graph of a step (SGLang 0.5.23, docs/speculation.md). For step_graph.cpp
// alone.
#pragma once

#include "costmodel/draft_tree.h"
#include "costmodel/graph_nodes.h"

namespace orrery {

class DraftTreeNodes : protected GraphNodes {
 protected:
  using GraphNodes::GraphNodes;

  bool drafts_trees() const { return spec_.speculation.tree != nullptr; }

  // FlashAttention in two passes (flashattention_backend.py, `use_cascade_attn`): all rows of a sequence over
  // its context, then each row over its own path. Only verifications and further drafting passes branch: the
  // network's first pass runs over what was accepted, in a row (`_finalize_accept_tree_path`).
  void add_tree_attention(const OpSpec& decode, std::int64_t l) {
    const SpeculationSpec& s = spec_.speculation;
    if (s.tree_attention != TreeAttention::cascade || pass_ == Pass::first) return;
    OpSpec own = decode;
    // The pass for draft i + 1 sees i tokens of its branch, i = 1 to tokens - 1.
    own.tree_keys = pass_ == Pass::model ? s.tree->mean_path() : s.tokens / 2.0;
    add("tree_attention", "tree_attention", own, l);
  }

  // The candidates of a drafting pass: `softmax` and `torch.topk` in place of an argmax; and which branches
  // go on
  // (`select_top_k_tokens`), with their hidden states.
  void add_tree_candidates(OpSpec rows, std::int64_t passes) {
    add("candidates", "tree_candidates", rows, passes);
    OpSpec chosen = rows;
    chosen.n = model_.hidden;
    add("choice", "tree_choice", chosen, passes);
  }

  // Around a verification: the best drafts and their mask before it (`organize_draft_results`,
  // `build_tree_kernel_efficient`), the accepted path's keys, values and hidden states moved to the front
  // behind it (`move_accept_tokens_to_target_kvcache`, `_compact_accept_to_front`).
  void add_tree() {
    if (!drafts_trees()) return;
    const SpeculationSpec& s = spec_.speculation;
    const auto& sizes = spec_.engine.settings.cudagraph_sizes;
    if (s.has_network()) pass_ = Pass::first;
    OpSpec build;
    build.depends_on = DependsOn::decode;
    // With graphs FlashAttention's buffer for the mask is of the largest batch at the longest context, and
    // cleared whole in every step (verify_mask.py).
    if (s.tree_attention == TreeAttention::cascade && s.has_network() && !sizes.empty())
      build.n = sizes.back() * (spec_.engine.settings.max_model_len + s.query_length());
    build.variant = s.tree_attention == TreeAttention::cascade ? "cascade" : "masked";
    add("tree_build", "tree_build", build, 1);
    OpSpec commit;
    commit.depends_on = DependsOn::decode;
    commit.n = s.tokens + 1;  // as many as can be accepted, accepted or not
    for (const LayerKind& kind : model_.layer_kinds) {
      if (kind.mixer != Mixer::attention) continue;
      const OpSpec attention = attention_spec(kind);
      const LatentAttention& latent = model_.latent;
      commit.k += kind.count * (latent.present() ? latent.rank + latent.rotary_dim
                                                 : 2 * attention.kv_heads * attention.head_dim);
      commit.kv_bytes = attention.kv_bytes;
    }
    // Of hidden states; EAGLE-3 reads those of three layers.
    const std::int64_t layers = !s.has_network() ? 0 : s.draft.projected == 3 ? 3 : 1;
    commit.out_bytes = 2.0 * static_cast<double>(model_.hidden * layers);
    add("tree_commit", "tree_commit", commit, 1);
    pass_ = Pass::model;
  }
};

}  // namespace orrery
