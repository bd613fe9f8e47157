// Multi-head latent attention (DeepSeek-V2, V3): what the cache holds of a token is one latent of `n`
// elements and one rotary key, the same for all heads. Decodes never expand it: the query is multiplied into
// the latent's space instead ("absorbed"), so that attention has one KV head whose keys are latent + rotary
// wide and whose values are the latent itself. Prompts expand keys and values and attend as ordinary heads do
// (vLLM 0.24, model_executor/layers/attention/mla_attention.py, forward_mha and forward_mqa).
//
// No table prices these kernels: they cost the roofline's time with the efficiencies of their classes. Beside
// published timings on an H200 (../shared/data/aiconfigurator/h200_sxm/mla), our time ÷ theirs, median (10 to
// 90 % of the rows), rows chosen by their own time:
//   bf16 decode  > 30 µs   TensorRT-LLM 1.3 0.91 (0.47–1.06) · SGLang 0.5.10 0.83 (0.55–1.01)
//                > 1 ms    vLLM 0.14, FA3 1.00 (0.20–1.04); its shorter rows hold 0.13 ms of launching
//   8-bit decode > 30 µs   TensorRT-LLM 1.06 (0.42–1.25) · SGLang's FA3 0.18 (0.13–0.41)
//                > 1 ms    vLLM 0.14, FlashMLA 0.63 (0.01–0.65)
//   prompts      > 0.1 ms  TensorRT-LLM 0.77 (0.38–0.98) · SGLang 0.5.14 0.29 (0.20–0.33)
//                > 1 ms    vLLM 0.14, FA3 0.86 (0.10–1.21)
// So they are too short as a rule, and 8-bit decodes of SGLang and vLLM by much. latent_start below was read
// off the shortest of the same rows, which these rows therefore do not test.
#include <algorithm>

#include "costmodel/op_table.h"
#include "costmodel/ops/common.h"

namespace orrery {

namespace {

constexpr std::int64_t query_rows = 64;    // FlashMLA and FA3's absorbed decode: a tile of 64 query heads
constexpr std::int64_t prompt_rows = 128;  // query rows of a prompt's tile
constexpr double activation = 2;           // bytes
// Start of these kernels, in kernel floors: one sequence with a key or three takes 11.6 µs (SGLang 0.5.10)
// and 12.8 to 13.2 µs (TensorRT-LLM 1.3), same source; the floor of that part is 1.3 µs.
constexpr double latent_start = 9.0;

// OpSpec, as these operators read it: heads of this rank; n = latent width; k = rotary width; head_dim = key
// width of a head without rotary part; value_dim = value width of a head.
double stored_elements(const OpSpec& s) { return static_cast<double>(s.n + s.k); }
double expanded_width(const OpSpec& s) { return static_cast<double>(s.head_dim + s.value_dim); }

class MlaDecodeOperator : public Operator {
 public:
  MlaDecodeOperator(const OpSpec& spec, const Roofline& roofline) : spec_(spec), roofline_(roofline) {
    padded_heads_ = static_cast<double>((spec.heads + query_rows - 1) / query_rows * query_rows);
    per_operation_ns_ =
        1 / (roofline.matrix_rate(spec.format.math) * roofline.efficiency(KernelClass::attention_prefill));
  }

  OpCost cost(const StepInput& input) const override {
    const double sequences = input.shape->decode_sequences;
    const double keys = static_cast<double>(input.shape->decode_context_tokens) + sequences;
    // q·kᵀ over latent and rotary part, p·v over the latent.
    const double per_key = 2.0 * (stored_elements(spec_) + static_cast<double>(spec_.n));
    OpCost cost;
    cost.flops = per_key * static_cast<double>(spec_.heads) * keys;
    const double waves = static_cast<double>(input.shape->decode_sequences / roofline_.units());
    cost.compute_ns = std::max(per_key * padded_heads_ * keys * per_operation_ns_,
                               waves * attention_wave * roofline_.kernel_floor_ns());
    cost.bytes = keys * stored_elements(spec_) * spec_.kv_bytes;  // read once for keys and values
    const double queries = sequences * static_cast<double>(spec_.heads) *
                           (stored_elements(spec_) + static_cast<double>(spec_.n)) * activation;
    cost.memory_ns = roofline_.stream_ns(queries, roofline_.stays_in_cache(queries), cost.bytes,
                                         KernelClass::attention_decode);
    cost.latency_ns = latent_start * roofline_.kernel_floor_ns();  // prompts have a launch of their own
    return cost;
  }

  std::string shape_text(const StepInput& input) const override {
    return "sequences=" + std::to_string(input.shape->decode_sequences) +
           " context=" + std::to_string(input.shape->decode_context_tokens) +
           " heads=" + std::to_string(spec_.heads) + " latent=" + std::to_string(spec_.n) + "+" +
           std::to_string(spec_.k);
  }
  KernelClass kernel_class() const override { return KernelClass::attention_decode; }

 private:
  OpSpec spec_;
  const Roofline& roofline_;
  double padded_heads_ = 0, per_operation_ns_ = 0;
};

// Two products with a matrix per head, of the decodes' rows: q_nope · W_UK before attention, its output ·
// W_UV after. Weights in the activation type, whatever the checkpoint (process_weights_after_loading).
class MlaAbsorbOperator : public Operator {
 public:
  MlaAbsorbOperator(const OpSpec& spec, const Roofline& roofline) : spec_(spec), roofline_(roofline) {}

  OpCost cost(const StepInput& input) const override {
    const std::int64_t rows = input.shape->decode_sequences;
    const double pairs = static_cast<double>(spec_.heads * spec_.n) * expanded_width(spec_);
    OpCost cost;
    cost.flops = 2.0 * static_cast<double>(rows) * pairs;
    const double tiles = static_cast<double>(spec_.heads * ((rows + tile - 1) / tile));
    const double efficiency = roofline_.efficiency(kernel_class());
    cost.compute_ns =
        roofline_.grouped_ns(tiles, tile, spec_.n, spec_.head_dim, spec_.format.math, efficiency) +
        roofline_.grouped_ns(tiles, tile, spec_.value_dim, spec_.n, spec_.format.math, efficiency);
    const double weights = pairs * activation;
    const double rows_bytes = static_cast<double>(rows * spec_.heads) *
                              (2.0 * static_cast<double>(spec_.n) + expanded_width(spec_)) * activation;
    const bool cached = roofline_.stays_in_cache(rows_bytes);
    cost.bytes = weights + (cached ? 0 : rows_bytes);
    cost.memory_ns = roofline_.stream_ns(rows_bytes, cached, weights, KernelClass::memory);
    cost.latency_ns = 2 * gemm_start * roofline_.kernel_floor_ns();
    return cost;
  }

  std::string shape_text(const StepInput& input) const override {
    return "m=" + std::to_string(input.shape->decode_sequences) + " heads=" + std::to_string(spec_.heads) +
           " " + std::to_string(spec_.head_dim) + "x" + std::to_string(spec_.n) + "x" +
           std::to_string(spec_.value_dim);
  }
  KernelClass kernel_class() const override { return roofline_.gemm_class(spec_.format); }

 private:
  static constexpr std::int64_t tile = 64;
  OpSpec spec_;
  const Roofline& roofline_;
};

// kv_b_proj of the prompts' tokens, and again of all that they have in the cache: a chunk after a long
// context expands that context anew, every step.
class MlaExpandOperator : public Operator {
 public:
  MlaExpandOperator(const OpSpec& spec, const Roofline& roofline) : spec_(spec), roofline_(roofline) {}

  OpCost cost(const StepInput& input) const override {
    const Tokens t = count(input);
    const double columns = static_cast<double>(spec_.heads) * expanded_width(spec_);
    const double tokens = static_cast<double>(t.fresh + t.cached), latent = static_cast<double>(spec_.n);
    OpCost cost;
    cost.flops = 2.0 * tokens * columns * latent;
    cost.compute_ns = roofline_.tiled_ns(t.fresh + t.cached, static_cast<std::int64_t>(columns), spec_.n,
                                         spec_.format.math, roofline_.efficiency(kernel_class()));
    // The cached latents are gathered into a workspace first: read from the cache, written and read again.
    const double gathered = static_cast<double>(t.cached) * stored_elements(spec_);
    const double activations = tokens * (latent + columns) * activation + gathered * activation;
    const double from_memory =
        columns * latent * spec_.format.bytes_per_parameter + gathered * spec_.kv_bytes;
    const bool cached = roofline_.stays_in_cache(activations);
    cost.bytes = from_memory + (cached ? 0 : activations);
    cost.memory_ns = roofline_.stream_ns(activations, cached, from_memory, KernelClass::memory);
    cost.latency_ns = (t.cached > 0 ? 2 : 1) * gemm_start * roofline_.kernel_floor_ns();
    return cost;
  }

  std::string shape_text(const StepInput& input) const override {
    const Tokens t = count(input);
    return "new=" + std::to_string(t.fresh) + " cached=" + std::to_string(t.cached) +
           " heads=" + std::to_string(spec_.heads) + " k=" + std::to_string(spec_.n) + " " +
           spec_.format.label;
  }
  KernelClass kernel_class() const override { return roofline_.gemm_class(spec_.format); }

 private:
  struct Tokens {
    std::int64_t fresh = 0, cached = 0;
  };
  static Tokens count(const StepInput& input) {
    Tokens t;
    for (const PrefillChunk& chunk : input.shape->prefill) {
      t.fresh += chunk.new_tokens;
      t.cached += chunk.context;
    }
    return t;
  }

  OpSpec spec_;
  const Roofline& roofline_;
};

// Causal attention of prompts with expanded keys (head_dim + rotary wide) and values (value_dim wide).
class MlaPrefillOperator : public Operator {
 public:
  MlaPrefillOperator(const OpSpec& spec, const Roofline& roofline) : spec_(spec), roofline_(roofline) {
    per_operation_ns_ =
        1 / (roofline.matrix_rate(spec.format.math) * roofline.efficiency(KernelClass::attention_prefill));
  }

  OpCost cost(const StepInput& input) const override {
    const double heads = static_cast<double>(spec_.heads);
    const double width = static_cast<double>(spec_.head_dim + spec_.k + spec_.value_dim);
    double pairs = 0, padded = 0, fresh = 0, cached = 0;
    for (const PrefillChunk& chunk : input.shape->prefill) {
      const double n = chunk.new_tokens, context = static_cast<double>(chunk.context);
      const std::int64_t tiles = (chunk.new_tokens + prompt_rows - 1) / prompt_rows;
      const double mine = n * context + n * (n + 1) / 2;
      pairs += mine;
      padded += static_cast<double>(tiles * prompt_rows) *
                (mine / n + static_cast<double>(prompt_rows) / 2);  // half a tile masked on the diagonal
      fresh += n;
      cached += context;
    }
    OpCost cost;
    cost.flops = 2.0 * width * heads * pairs;
    cost.compute_ns = 2.0 * width * heads * padded * per_operation_ns_;
    // Queries and outputs of the new tokens, expanded keys and values of all.
    const double bytes = heads * width * (2 * fresh + cached) * activation;
    const bool stays = roofline_.stays_in_cache(bytes);
    cost.bytes = stays ? 0 : bytes;
    cost.memory_ns = roofline_.stream_ns(bytes, stays, 0, KernelClass::memory);
    // Attention over the context is a kernel of its own, merged by a third.
    cost.latency_ns = (cached > 0 ? 2 : 1) * latent_start * roofline_.kernel_floor_ns();
    return cost;
  }

  std::string shape_text(const StepInput& input) const override {
    return "chunks=" + std::to_string(input.shape->prefill.size()) + " heads=" + std::to_string(spec_.heads) +
           " qk=" + std::to_string(spec_.head_dim + spec_.k) + " v=" + std::to_string(spec_.value_dim);
  }
  KernelClass kernel_class() const override { return KernelClass::attention_prefill; }

 private:
  OpSpec spec_;
  const Roofline& roofline_;
  double per_operation_ns_ = 0;
};

}  // namespace

std::unique_ptr<Operator> make_mla_decode(const OpSpec& spec, const Roofline& roofline) {
  return std::make_unique<MlaDecodeOperator>(spec, roofline);
}

std::unique_ptr<Operator> make_mla_absorb(const OpSpec& spec, const Roofline& roofline) {
  return std::make_unique<MlaAbsorbOperator>(spec, roofline);
}

std::unique_ptr<Operator> make_mla_expand(const OpSpec& spec, const Roofline& roofline) {
  return std::make_unique<MlaExpandOperator>(spec, roofline);
}

std::unique_ptr<Operator> make_mla_prefill(const OpSpec& spec, const Roofline& roofline) {
  return std::make_unique<MlaPrefillOperator>(spec, roofline);
}

// Latent and rotary key of one token into the paged cache (concat_and_cache_mla).
std::unique_ptr<Operator> make_mla_cache_write(const OpSpec& spec, const Roofline& roofline) {
  return std::make_unique<StreamOperator>(spec, roofline, stored_elements(spec) * activation,
                                          stored_elements(spec) * spec.kv_bytes);
}

}  // namespace orrery
