// What context parallelism adds to the list of a step's operators (docs/context_parallel.md). For
// step_graph.cpp alone.
#pragma once

#include <limits>

#include "costmodel/draft_tree_nodes.h"

namespace orrery {

class ContextNodes : protected DraftTreeNodes {
 protected:
  using DraftTreeNodes::DraftTreeNodes;

  // ------------------------------------------------------------ SGLang: a step's prompts dealt to ranks

  // Whether a layer's MLP runs over the rows of all ranks, split over all GPUs (layer_boundary/factories.py,
  // `_resolve_ffn`).
  bool gathers_context(bool moe) const { return context_.shares_prompts() && !(moe && context_.own_experts); }

  // The vocabulary is sharded over all GPUs; rows are dealt out behind it (`cp_shard_model_inputs`).
  void begin_shared_rows() {
    if (context_.shares_prompts()) over_ = DependsOn::gathered;
  }
  void end_shared_rows(const char* copy, std::int64_t l) {
    if (!context_.shares_prompts()) return;
    over_ = DependsOn::tokens;
    add(copy, "rank_copy", own_of_split(model_.hidden), l);
  }

  // A rank's rows gathered in equal shards (`_then_moe_cp_gather`, `_then_attn_cp_gather`).
  void gather_shared_rows(const WeightFormat& reader, std::int64_t l) {
    add("cp_gather", "all_gather", of_split(model_.hidden), l);
    over_ = DependsOn::gathered;
    if (reader.activation_bytes < 2) add("mlp_quantize", "quantize", width(model_.hidden, reader), l);
  }

  // Its rows of the sum; a reduce-scatter left no others.
  void take_back_rows(std::int64_t l) {
    if (scatters_sum(over_))
      over_ = DependsOn::tokens;
    else
      end_shared_rows("cp_take_back", l);
  }

  // `cp_gather_after_forward`: gathered, and put in order by two copies.
  void gather_last_rows() {
    if (!context_.shares_prompts()) return;
    add("cp_gather_last", "all_gather", of_split(model_.hidden), 1);
    add("cp_order_last", "rank_copy", of_split(model_.hidden), 2);
  }

  // Every rank keeps all tokens' keys and values (`materialize_full_kv`): packed, gathered, put in order by
  // two copies, and keys and values taken apart by one more. `written`: what then goes into the cache.
  void add_new_keys(const char* use, const char* op, OpSpec written, std::int64_t elements, std::int64_t l) {
    if (context_.shares_prompts()) {
      add("cp_pack_kv", "rank_copy", own_of_split(elements), l);
      add("cp_gather_kv", "all_gather", of_split(elements), l);
      add("cp_order_kv", "rank_copy", of_split(elements), model_.latent.present() ? 2 * l : 3 * l);
      written.depends_on = DependsOn::gathered;
    }
    add(use, op, written, l);
  }

  // ------------------------------------------------------------ attention

  // Grouped-query attention of a layer; `s`: of this rank, without context parallelism.
  void add_attention_kernels(const OpSpec& s, std::int64_t l) {
    if (context_.splits_cache()) return add_over_split_cache(s, l);
    if (schedules_each_launch() && !s.other_kernel)
      add("attention_schedule", "attention_schedule", width(1), l);
    OpSpec prefill = s;
    prefill.depends_on = DependsOn::prefill;
    deal_out(prefill, ContextUse::halves);
    add("attention_prefill", "attention_prefill", prefill, l);
    OpSpec decode = s;
    decode.depends_on = DependsOn::decode;
    add("attention_decode", "attention_decode", decode, l);
    add_tree_attention(decode, l);
    if (context_.shares_prompts())  // the two launches' outputs, one behind the other
      add("cp_join_halves", "rank_copy", own_of_split(s.heads * s.head_dim), l);
  }

  // Prompts of latent attention are absorbed where they are dealt out (attention_backend_handler.py,
  // `_handle_attention_backend`), and as always elsewhere. `prefill` depends on prompts already.
  void add_absorbed_split(const OpSpec& prefill, std::int64_t l) {
    if (!context_.shares_prompts()) return;
    OpSpec absorbed = prefill;
    absorbed.absorbed_step = std::numeric_limits<std::int64_t>::max();
    deal_out(absorbed, ContextUse::rows);
    add("absorb_prompts", "mla_absorb_prompts", absorbed, l);
    deal_out(absorbed, ContextUse::halves_only);
    add("attention_absorbed", "mla_prefill_absorbed", absorbed, l);
    add("cp_join_halves", "rank_copy", own_of_split(prefill.heads * prefill.n), l);
  }
  void whole_steps_only(OpSpec& s) const { deal_out(s, ContextUse::whole); }

  // Latent attention of decodes. vLLM's `forward_mqa` over a split cache: queries of all heads of the group,
  // already in the latent's space, outputs by their sums of exponentials back to whose heads they are.
  void add_latent_decode(OpSpec s, std::int64_t l) {
    s.depends_on = DependsOn::decode;
    add("absorb", "mla_absorb", s, l);
    if (!context_.splits_cache()) {
      add("attention_decode", "mla_decode", s, l);
      s.variant = "latent";
      return add_tree_attention(s, l);
    }
    const std::int64_t stored = s.n + s.k;
    add("dcp_pack_queries", "rank_copy", of_decodes(s.heads * stored), l);
    gather_queries(of_decodes(s.heads * context_.cache_ranks * stored), l);
    OpSpec all = s;
    all.heads *= context_.cache_ranks;
    share(all, ContextUse::part_with_new);
    add("attention_decode", "mla_decode", all, l);
    combine(s.heads, s.n, true, l);
  }

  // vLLM's `_context_parallel_compute_prefill_context`: the parts of what prompts have in the cache are read,
  // gathered, copied and put in order, and then expanded whole by every rank.
  void gather_cached_latents(const OpSpec& s, std::int64_t l) {
    if (!context_.splits_cache()) return;
    const std::int64_t stored = s.n + s.k;
    OpSpec gathered = of_cached(stored);
    gathered.ranks = context_.cache_ranks;
    gathered.links = across(&PlanLinks::context);
    add("dcp_gather_cache", "all_gather", gathered, l);
    add("dcp_order_cache", "rank_copy", of_cached(stored), 2 * l);
  }

  const ContextSettings& context_ = spec_.engine.settings.context;

 private:
  OpSpec of_split(std::int64_t n) const {  // rows of all ranks
    OpSpec s = width(n);
    s.depends_on = DependsOn::split_prompts;
    s.ranks = context_.prompt_ranks;
    s.links = across(&PlanLinks::context);
    return s;
  }
  OpSpec own_of_split(std::int64_t n) const {  // one rank's
    OpSpec s = of_split(n);
    s.expert_rows = true;
    s.experts_per_token = 1;
    s.expert_ranks = context_.prompt_ranks;
    return s;
  }
  void deal_out(OpSpec& s, ContextUse use) const {
    if (!context_.shares_prompts()) return;
    s.context = use;
    s.context_ranks = context_.prompt_ranks;
    s.splits = context_.splits;
  }
  void share(OpSpec& s, ContextUse use) const {
    s.context = use;
    s.context_ranks = context_.cache_ranks;
    s.interleave = context_.interleave;
  }
  OpSpec of_decodes(std::int64_t n) const {
    OpSpec s = width(n);
    s.depends_on = DependsOn::decode;
    share(s, ContextUse::decode_rows);
    return s;
  }
  OpSpec of_cached(std::int64_t n) const {
    OpSpec s = width(n);
    s.depends_on = DependsOn::prefill;
    share(s, ContextUse::cached_rows);
    return s;
  }

  void gather_queries(OpSpec s, std::int64_t l) {
    s.ranks = context_.cache_ranks;
    s.links = across(&PlanLinks::context);
    add("dcp_gather_queries", "all_gather", s, l);
    add("dcp_order_queries", "rank_copy", s, l);  // heads beside one another (`all_gather` with dim 1)
  }

  // v1/attention/ops/common.py, `cp_lse_ag_out_rs`, and dcp_alltoall.py: a rank's outputs for all heads of
  // the group, `value` wide, become all ranks' for its own heads.
  void combine(std::int64_t heads, std::int64_t value, bool decodes, std::int64_t l) {
    const auto rows = [&](std::int64_t n, double bytes = 2) {
      OpSpec s = decodes ? of_decodes(n) : width(n);
      s.out_bytes = bytes;
      return s;
    };
    const auto joint = [&](OpSpec s) {
      s.ranks = context_.cache_ranks;
      s.links = across(&PlanLinks::context);
      return s;
    };
    const std::int64_t all = heads * context_.cache_ranks;
    if (context_.all_to_all) {  // with each output its sum, four bytes
      add("dcp_pack_outputs", "rank_copy", rows(all * (value + 2)), l);
      add("dcp_exchange_outputs", "all_to_all", joint(rows(all * (value + 2))), l);
      add("dcp_combine_outputs", "rank_copy", rows((all + heads) * value / 2), l);
      return;
    }
    add("dcp_gather_sums", "all_gather", joint(rows(all * context_.cache_ranks, 4)), l);
    add("dcp_correct_outputs", "rank_copy", rows(all * value), l);
    add("dcp_order_outputs", "rank_copy", rows(all * value), l);
    add("dcp_scatter_outputs", "reduce_scatter", joint(rows(all * value)), l);
    add("dcp_restore_order", "rank_copy", rows(heads * value), l);
  }

  // v1/attention/backends/flash_attn.py, `_forward_with_dcp`: all heads of the group over this rank's part of
  // the context, then a rank's own heads over the new tokens, merged.
  void add_over_split_cache(const OpSpec& s, std::int64_t l) {
    OpSpec queries = width(s.heads * context_.cache_ranks * s.head_dim, s.kv_bytes);
    gather_queries(queries, l);
    OpSpec past = s;
    past.heads *= context_.cache_ranks;
    past.depends_on = DependsOn::prefill;
    share(past, ContextUse::past);
    add("attention_prefill", "attention_prefill", past, l);
    past.depends_on = DependsOn::decode;
    share(past, ContextUse::part);
    add("attention_decode", "attention_decode", past, l);
    combine(s.heads, s.head_dim, false, l);
    OpSpec fresh = s;
    fresh.depends_on = DependsOn::prefill;
    share(fresh, ContextUse::fresh);
    add("attention_new_tokens", "attention_prefill", fresh, l);
    fresh.depends_on = DependsOn::decode;
    add("attention_new_tokens", "attention_decode", fresh, l);
    add("dcp_merge", "rank_copy", width(s.heads * s.head_dim * 3 / 2), l);
  }
};

}  // namespace orrery
