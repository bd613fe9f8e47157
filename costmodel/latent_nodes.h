// The nodes of a layer with latent attention, expanded, absorbed or sparse (costmodel/step_graph.cpp).
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "costmodel/context_nodes.h"
#include "costmodel/kernel_set.h"
#include "costmodel/model_layers.h"
#include "costmodel/typed_pools.h"

namespace orrery {

class LatentNodes : protected ContextNodes {
 protected:
  using ContextNodes::ContextNodes;

  // What a norm or an activation makes for a product of 8 bits: quantised by its own kernel, or by one beside
  // it.
  OpSpec made_for(std::int64_t features, const WeightFormat& reader) const {
    return quantises_apart(reader) ? width(features) : width(features, reader);
  }
  void quantise_apart(const std::string& use, std::int64_t features, const WeightFormat& reader,
                      std::int64_t count) {
    if (quantises_apart(reader) && reader.activation_bytes < 2)
      add(use, "quantize", width(features, reader), count);
  }

  // Queries through their own low rank where the model has one; the products with the latent's weights by
  // what the step holds (costmodel/ops/mla.cpp).
  void add_latent_attention(const LayerKind& kind) {
    const std::int64_t l = kind.count;
    const LatentAttention& a = model_.latent;
    OpSpec s = attention_spec(kind);
    s.head_dim = a.key_dim;
    s.value_dim = a.value_dim;
    s.n = a.rank;
    s.k = a.rotary_dim;
    if (live_engine()) s.variant = "row_by_row";
    const WeightFormat down = format(kind.weights, "kv_a_proj"), out = format(kind.weights, "o_proj");
    const std::int64_t queries = s.heads * (a.key_dim + a.rotary_dim), stored = a.rank + a.rotary_dim;
    if (sums_apart(down)) add("shared_sum", "add_rows", width(model_.hidden), l);
    add("input_norm", after_shared_ && !in_blocks(down) ? "sum_add_rms_norm" : "add_rms_norm",
        made_for(model_.hidden, down), l);
    quantise_apart("input_quantize", model_.hidden, down, l);
    if (a.query_rank > 0) {
      add_gemm("qkv_a_proj", a.query_rank + stored, model_.hidden, down, l);
      const WeightFormat up = format(kind.weights, "q_b_proj");
      add("q_a_norm", "add_rms_norm", made_for(a.query_rank, up), l);
      quantise_apart("q_a_quantize", a.query_rank, up, l);
      add_gemm("q_b_proj", queries, a.query_rank, up, l);
    } else {
      add_gemm("q_proj", queries, model_.hidden, format(kind.weights, "q_proj"), l);
      add_gemm("kv_a_proj", stored, model_.hidden, down, l);
    }
    if (!live_engine()) add("kv_a_norm", "add_rms_norm", width(a.rank), l);
    OpSpec rotary = s;
    rotary.head_dim = a.rotary_dim;
    if (!attention_writes_keys(s)) {
      rotary.n = steps_.rotary;
      if (follows_vllm_kernels())
        add("rotary", "query_rotary", s, l);
      else if (!live_engine())  // whose write norms and turns (live/forward/step_latent.cpp)
        add("rotary", steps_.rotary > 0 ? "latent_rotary_steps" : "rotary", rotary, l);
      add_new_keys("kv_write", "mla_cache_write", s, stored, l);
    }
    enter(LayerPart::attention);
    if (model_.sparse.present()) {
      add_sparse_attention(kind, s);
    } else {
      cast_pool(s, l);
      add_latent_prompts(kind, s);
      add_head_swaps(s, l);
      add_decode_steps(s, l);
      add_latent_decode(s, l);
    }
    const std::int64_t values = s.heads * a.value_dim;
    if (out.activation_bytes < 2) add("o_quantize", "quantize", width(values, out), l);
    add_gemm("o_proj", model_.hidden, values, out, l);
    add_all_reduce("attention_all_reduce", l);
  }

  // Ours: rows to heads and back around the products with a matrix a head.
  void add_head_swaps(const OpSpec& s, std::int64_t l) {
    if (!live_engine()) return;
    add("head_swap", "rank_copy", width(s.heads * s.n), 2 * l);
    add("head_swap", "rank_copy", width(s.heads * s.value_dim), l);
  }

  // What PyTorch does around a decode's absorbed products (`latent_steps` of an engine profile).
  void add_decode_steps(OpSpec s, std::int64_t l) {
    s.depends_on = DependsOn::decode;
    const auto add_steps = [&](const char* kind, std::int64_t kernels) {
      OpSpec some = s;
      some.window = kernels;
      if (kernels > 0) add(kind, kind, some, l);
    };
    add_steps("latent_concatenations", steps_.concatenations);
    add_steps("absorb_casts", steps_.weight_casts);
    add_steps("absorb_copies", steps_.copies);
  }

  // The indexer's products are replicated over ranks; its scores, the choice and attention are custom
  // operators.
  void add_sparse_attention(const LayerKind& kind, const OpSpec& given) {
    const std::int64_t l = kind.count;
    const SparseAttention& x = model_.sparse;
    const WeightFormat query = format(kind.weights, "indexer.wq_b");
    add_gemm("index_q_proj", x.heads * x.dim, model_.latent.query_rank, query, l);
    add_gemm("index_k_proj", x.dim + x.heads, model_.hidden, format(kind.weights, "indexer.wk"), l);
    add("index_k_norm", "rms_norm", width(x.dim), l);
    OpSpec rotary;
    rotary.heads = x.heads;
    rotary.kv_heads = 1;
    rotary.head_dim = x.dim;
    rotary.depends_on = over_;
    add("index_rotary", "rotary", rotary, l);
    add("index_quantize", "quantize", width(x.heads * x.dim, 1), l);
    OpSpec key = width(x.dim + 4);
    key.kv_bytes = 1;
    add("index_cache_write", "mla_cache_write", key, l);
    OpSpec scores = given;
    scores.heads = x.heads;
    scores.head_dim = x.dim;
    scores.window = x.top;
    scores.format.math = roofline_.has_math(DType::fp8) ? DType::fp8 : DType::bf16;
    OpSpec sparse = given;
    sparse.window = x.top;
    sparse.value_dim = static_cast<std::int64_t>(model_.kv_layer_bytes(1)) - x.dim - 4;
    OpSpec absorbed = given;
    absorbed.absorbed_step = std::numeric_limits<std::int64_t>::max();
    scores.depends_on = sparse.depends_on = absorbed.depends_on = DependsOn::prefill;
    add("index_scores", "index_scores_prefill", scores, l);
    add("absorb_prompts", "mla_absorb_prompts", absorbed, l);
    add("attention_prefill", "mla_sparse_prefill", sparse, l);
    scores.depends_on = sparse.depends_on = absorbed.depends_on = DependsOn::decode;
    add("index_scores", "index_scores_decode", scores, l);
    add("absorb", "mla_absorb", absorbed, l);
    add("attention_decode", "mla_sparse_decode", sparse, l);
  }

  // What attention then reads has 16 bits.
  void cast_pool(OpSpec& s, std::int64_t l) {
    if (!copies_latents(spec_)) return;
    OpSpec pool = s;
    pool.n = copied_latents(spec_);
    const std::vector<std::int64_t>& graphs = spec_.engine.settings.prefill_graph_sizes;
    pool.absorbed_chunk = spec_.engine.latent.absorbed_chunk;
    if (spec_.engine.latent.absorbed_graphs && !graphs.empty()) pool.absorbed_step = graphs.back();
    s.kv_bytes = 2;
    if (pool.absorbed_chunk > 0 || pool.absorbed_step > 0) {
      pool.depends_on = DependsOn::prefill;
      add("latent_pool_cast_prompts", "latent_pool_cast", pool, l);
    }
    pool.depends_on = DependsOn::decode;
    add("latent_pool_cast", "latent_pool_cast", pool, l);
  }

  void add_absorbed_attention(OpSpec prefill, std::int64_t l) {
    const bool flash = follows_vllm_kernels() && spec_.engine.latent.name == "FLASH_ATTN_MLA";
    const std::vector<std::int64_t>& captured = spec_.engine.settings.cudagraph_sizes;
    if (flash) prefill.window = captured.empty() ? 0 : captured.back();
    add("attention_absorbed", flash ? "absorbed_prompts" : "mla_prefill_absorbed", prefill, l);
  }

  // Expanded, or absorbed where the engine's backend serves short prompts or captured steps so.
  void add_latent_prompts(const LayerKind& kind, const OpSpec& given) {
    OpSpec prefill = given;
    prefill.depends_on = DependsOn::prefill;
    const LatentBackend& backend = spec_.engine.latent;
    const std::vector<std::int64_t>& graphs = spec_.engine.settings.prefill_graph_sizes;
    prefill.absorbed_chunk = backend.absorbed_chunk;
    if (backend.absorbed_graphs && !graphs.empty()) prefill.absorbed_step = graphs.back();
    if (prefill.absorbed_chunk > 0 || prefill.absorbed_step > 0) {
      add("absorb_prompts", "mla_absorb_prompts", prefill, kind.count);
      add_absorbed_attention(prefill, kind.count);
    }
    add_absorbed_split(prefill, kind.count);
    whole_steps_only(prefill);
    gather_cached_latents(prefill, kind.count);
    OpSpec expand = prefill;
    expand.format = format(kind.weights, "kv_b_proj");
    if (follows_vllm_kernels()) expand.variant = "vllm";
    add("kv_b_proj", "mla_expand", expand, kind.count);
    add("attention_prefill", "mla_prefill", prefill, kind.count);
  }

  // SGLang, srt/layers/quantization/fp8_utils.py of 0.4.6 and 0.5.23: every product in 8 bits quantises its
  // own input (sglang_per_token_group_quant_fp8; AITER's per_1x128 on gfx942, whose norms that do it are for
  // gfx950 alone: `_use_aiter_gfx95` in models/deepseek_v2.py of 0.5.2 to 0.5.9, layers/layernorm.py of
  // 0.5.23). TensorRT-LLM, _torch/modules/linear.py (FP8BlockScalesLinearMethod.apply: fp8_quantize_1x128 and
  // the product): no norm or activation writes blocks. With one scale a tensor they do:
  // `swiglu(quant_scale=…)` of modules/gated_mlp.py, and all-reduces with the norm behind them.
  bool quantises_apart(const WeightFormat& reader) const {
    const std::string& engine = spec_.engine.engine;
    const bool nvidia = spec_.hardware.vendor == "nvidia";
    if (engine == "sglang") return nvidia || spec_.hardware.architecture == "gfx942";
    return engine == "tensorrt-llm" && nvidia && reader.label == "fp8-block";
  }

  // What shared experts read: the norm before them writes 16 bits, which the router reads too.
  bool quantises_shared(const WeightFormat& reader) const {
    const bool blocks = follows_vllm_kernels() && reader.label == "fp8-block";
    return reader.activation_bytes < 2 && (blocks || quantises_apart(reader));
  }

  // Tables of TensorRT-LLM's attention hold the rotary embedding and the way of keys into the cache, which
  // its operator does (ai-dynamo/aiconfigurator collector/trtllm/collect_attn.py and collect_mla.py). The
  // roofline, by which other widths are priced, holds neither.
  bool attention_writes_keys(const OpSpec& s) const {
    const KernelSet* kernels = spec_.engine.engine == "tensorrt-llm" ? roofline_.kernels() : nullptr;
    if (kernels == nullptr) return false;
    const char* kv = s.kv_bytes < 2 ? "fp8" : "bf16";
    if (model_.latent.present()) return kernels->mla_decode({s.heads, 1, s.n + s.k, 0, kv, s.n}).has_value();
    return kernels->attention_decode({s.heads, s.kv_heads, s.head_dim, 0, kv}).has_value();
  }

  const LatentSteps steps_ =
      spec_.engine.kernel_laws.empty() ? LatentSteps{} : spec_.engine.kernel_laws.front().latent;
};

}  // namespace orrery
