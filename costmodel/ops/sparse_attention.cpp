// Sparse attention over a latent (DeepSeek-V3.2, GLM-5): an indexer scores every cached token with small
// 8-bit keys of its own, the best `window` of them are picked, and attention, absorbed for prompts and
// decodes alike, reads only those (vLLM 0.24: model_executor/layers/sparse_attn_indexer.py,
// v1/attention/backends/mla/flashmla_sparse.py).
//
// Rules and constants were read off published timings of whole attention modules of vLLM 0.24 on an H200
// (ai-dynamo/aiconfigurator, dsa_context_module and dsa_generation_module, DeepSeek-V3.2); how well they meet
// them: docs/sparse_attention.md. The kernels alone were timed by nobody whose figures were at hand.
#include <algorithm>
#include <cmath>

#include "costmodel/op_table.h"
#include "costmodel/ops/common.h"

namespace orrery {

namespace {

constexpr std::int64_t tile_heads = 64;  // query heads of a block of FlashMLA's sparse kernels
constexpr double activation = 2;         // bytes
// A block of 64 heads walks 2,048 keys in 57 to 63 µs on its SM, 0.6 of the peak of bf16 (16-bit cache, and
// prompts out of the 8-bit one where a rank has 32 heads or more, gathered in 16 bits first: the efficiency
// of attention_prefill). The kernel of the 8-bit cache takes 0.68 µs a query over all SMs, 0.42, and for the
// prompts of fewer heads 0.33.
constexpr double packed_decode = 0.42, packed_prompts = 0.33;
constexpr std::int64_t gathering_heads = 32;  // MIN_HEADS_FOR_BF16_PREFILL
// Prompts: what grows with the square of their length, 22 ps a pair of 16,384 operations: scores, written and
// read again by the choice.
constexpr double score_efficiency = 0.4;
// What decode modules take beyond their products and keys: 50 to 70 µs, in kernel floors of 1.3 µs (clearing
// and converting lists, padding heads, the choice), and more with each query.
constexpr double start = 28.0, score_start = 32.0;
constexpr double choice_ns = 350;  // a decode's choice among its scores
// One standard deviation of log(time): whole modules are met within 2 to 14 % (median), of which these are
// half.
constexpr double error = 0.2;

// OpSpec, as these operators read it: heads of this rank; n, k = latent and rotary width; window = tokens
// that attention reads; kv_bytes < 2: the packed 8-bit cache, whose kernel walks `window` slots whatever the
// context; value_dim = bytes of a cached token. Of the indexer: heads, head_dim.
struct Work {
  double queries = 0, pairs = 0, seen = 0, context = 0;  // pairs: of all tokens; seen: at most `window` each
};

// Keys that `fresh` tokens after `context` see, each at most `window` (0 = all).
double keys_seen(double fresh, double context, double window) {
  if (window == 0) return fresh * context + fresh * (fresh + 1) / 2;
  const double growing = std::clamp(window - context, 0.0, fresh);
  return growing * context + growing * (growing + 1) / 2 + (fresh - growing) * window;
}

Work work_of(const OpSpec& spec, const StepInput& input) {
  const StepShape& shape = *input.shape;
  const double window = static_cast<double>(spec.window);
  Work w;
  if (spec.depends_on == DependsOn::decode) {
    w.queries = shape.decode_sequences;
    w.context = static_cast<double>(shape.decode_context_tokens) + w.queries;
    w.pairs = w.context;
    w.seen = std::min(w.context, w.queries * window);  // as if all were of the mean length
    return w;
  }
  for (const PrefillChunk& chunk : shape.prefill) {
    const double fresh = chunk.new_tokens, before = static_cast<double>(chunk.context);
    w.queries += fresh;
    w.context += before + fresh;
    w.pairs += keys_seen(fresh, before, 0);
    w.seen += keys_seen(fresh, before, window);
  }
  return w;
}

class IndexScoresOperator : public Operator {
 public:
  IndexScoresOperator(const OpSpec& spec, const Roofline& roofline) : spec_(spec), roofline_(roofline) {}

  OpCost cost(const StepInput& input) const override {
    const Work w = work_of(spec_, input);
    const bool decode = spec_.depends_on == DependsOn::decode;
    OpCost cost;
    cost.flops = w.pairs * 2.0 * static_cast<double>(spec_.heads * spec_.head_dim);
    cost.compute_ns = cost.flops / (roofline_.matrix_rate(spec_.format.math) * score_efficiency);
    const double key = static_cast<double>(spec_.head_dim) + 4;  // with its scale
    // Prompts gather the keys of their context first; the scores are fp32, written and read once.
    cost.bytes = w.context * key * (decode ? 1 : 3) + w.pairs * 8 +
                 w.queries * 4.0 * static_cast<double>(spec_.window);
    cost.memory_ns = roofline_.stream_ns(0, false, cost.bytes, KernelClass::memory);
    cost.latency_ns = score_start * roofline_.kernel_floor_ns() + (decode ? w.queries * choice_ns : 0);
    cost.error = error;
    return cost;
  }

  std::string shape_text(const StepInput& input) const override {
    const Work w = work_of(spec_, input);
    return "queries=" + std::to_string(static_cast<std::int64_t>(w.queries)) +
           " pairs=" + std::to_string(static_cast<std::int64_t>(w.pairs)) +
           " heads=" + std::to_string(spec_.heads) + " d=" + std::to_string(spec_.head_dim);
  }
  KernelClass kernel_class() const override { return KernelClass::attention_prefill; }

 private:
  OpSpec spec_;
  const Roofline& roofline_;
};

class SparseAttentionOperator : public Operator {
 public:
  SparseAttentionOperator(const OpSpec& spec, const Roofline& roofline) : spec_(spec), roofline_(roofline) {
    tiles_of_query_ = static_cast<double>((spec.heads + tile_heads - 1) / tile_heads);
    const double per_key = 2.0 * static_cast<double>(2 * spec.n + spec.k) * tile_heads;
    const bool decode = spec.depends_on == DependsOn::decode;
    packed_ = spec.kv_bytes < 2 && (decode || spec.heads < gathering_heads);
    const double efficiency = !packed_ ? roofline.efficiency(KernelClass::attention_prefill)
                              : decode ? packed_decode
                                       : packed_prompts;
    key_ns_ = per_key * static_cast<double>(roofline.units()) /
              (roofline.matrix_rate(spec.format.math) * efficiency);
  }

  OpCost cost(const StepInput& input) const override {
    const Work w = work_of(spec_, input);
    const double units = static_cast<double>(roofline_.units()), tiles = w.queries * tiles_of_query_;
    OpCost cost;
    cost.flops = w.seen * 2.0 * static_cast<double>((2 * spec_.n + spec_.k) * spec_.heads);
    // The 8-bit kernel splits keys over idle units and walks all slots of the list; the other does neither.
    const double walked = packed_ ? w.queries * static_cast<double>(spec_.window) : w.seen;
    const double mean = walked / w.queries;
    cost.compute_ns = packed_ ? tiles / units * mean * key_ns_ : std::ceil(tiles / units) * mean * key_ns_;
    // Queries are put together, padded to whole blocks of heads, and outputs cut out again.
    const double width = static_cast<double>(spec_.n + spec_.k), padded = tiles_of_query_ * tile_heads;
    const double heads = static_cast<double>(spec_.heads);
    const double copies = padded > heads ? 2 * (padded * width + heads * static_cast<double>(spec_.n)) : 0;
    const double queries =
        w.queries * activation * (2 * heads * width + heads * static_cast<double>(spec_.n) + copies);
    // Tokens that several queries of a prompt picked come from the cache beyond the first read: bytes are
    // those of the context, or of all picks where that is less.
    cost.bytes = std::min(w.seen, spec_.depends_on == DependsOn::decode ? w.seen : w.context) *
                 static_cast<double>(spec_.value_dim);
    if (spec_.kv_bytes < 2 && !packed_)
      cost.bytes += w.context * 2 * width * activation;  // gathered in 16 bits
    cost.memory_ns = roofline_.stream_ns(0, false, cost.bytes, KernelClass::attention_decode);
    cost.latency_ns =
        start * roofline_.kernel_floor_ns() +
        roofline_.stream_ns(queries, roofline_.stays_in_cache(queries), 0, KernelClass::elementwise);
    cost.error = error;
    return cost;
  }

  std::string shape_text(const StepInput& input) const override {
    const Work w = work_of(spec_, input);
    return "queries=" + std::to_string(static_cast<std::int64_t>(w.queries)) +
           " keys=" + std::to_string(static_cast<std::int64_t>(w.seen)) +
           " heads=" + std::to_string(spec_.heads) + " latent=" + std::to_string(spec_.n) + "+" +
           std::to_string(spec_.k) + " top=" + std::to_string(spec_.window);
  }
  KernelClass kernel_class() const override { return KernelClass::attention_prefill; }

 private:
  bool packed_ = false;
  OpSpec spec_;
  const Roofline& roofline_;
  double tiles_of_query_ = 1, key_ns_ = 0;
};

}  // namespace

std::unique_ptr<Operator> make_index_scores(const OpSpec& spec, const Roofline& roofline) {
  return std::make_unique<IndexScoresOperator>(spec, roofline);
}

std::unique_ptr<Operator> make_sparse_attention(const OpSpec& spec, const Roofline& roofline) {
  return std::make_unique<SparseAttentionOperator>(spec, roofline);
}

}  // namespace orrery
