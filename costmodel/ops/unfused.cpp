// Models where no compiler or kernel of the engine's fuses neighbours. Latent attention on ROCm: below. Gemma
// where no compiler fuses neighbours: one kernel an operation of the engine's own code, priced by the bytes
// that each reads and writes and a start for each. Sources: SGLang 0.5.23, srt/models/gemma3_causal.py and
// srt/layers/layernorm.py (Gemma3RMSNorm); TensorRT-LLM, tensorrt_llm/_torch/models/modeling_gemma3.py (as of
// late 2025) and modules/qk_norm_attention.py. None of these kernels was timed.
#include "costmodel/op_table.h"
#include "costmodel/ops/common.h"

namespace orrery {

namespace {

constexpr double wide = 4, narrow = 2;  // bytes of an fp32 and of a 16-bit element

// Kernels one after another over the same rows: `per_row` bytes in all of them, of which `live` are what the
// largest one touches, so whether they stay in the cache is asked of those.
class Passes : public Operator {
 public:
  Passes(const OpSpec& spec, const Roofline& roofline, double per_row, double live, double launches)
      : spec_(spec), roofline_(roofline), per_row_(per_row), live_(live), launches_(launches) {}

  OpCost cost(const StepInput& input) const override {
    const double rows = static_cast<double>(rows_of(spec_, input)), bytes = rows * per_row_;
    const bool cached = roofline_.stays_in_cache(rows * live_);
    OpCost cost;
    cost.bytes = cached ? 0 : bytes;
    cost.memory_ns = roofline_.stream_ns(bytes, cached, 0, KernelClass::elementwise);
    cost.latency_ns = roofline_.kernel_floor_ns() * launches_;
    return cost;
  }
  KernelClass kernel_class() const override { return KernelClass::elementwise; }
  std::string shape_text(const StepInput& input) const override {
    return "rows=" + std::to_string(rows_of(spec_, input)) +
           " bytes/row=" + std::to_string(static_cast<std::int64_t>(per_row_));
  }

 private:
  OpSpec spec_;
  const Roofline& roofline_;
  double per_row_, live_, launches_;
};

double of_heads(const OpSpec& spec) {
  return static_cast<double>((spec.heads + spec.kv_heads) * spec.head_dim);
}

// Single operations around decodes' absorbed products: kernels (OpSpec::window) over a row of each sequence
// and over the heads' matrices.
class DecodePasses : public Operator {
 public:
  DecodePasses(const OpSpec& spec, const Roofline& roofline, double per_row, double fixed)
      : spec_(spec), roofline_(roofline), per_row_(per_row), fixed_(fixed) {}

  OpCost cost(const StepInput& input) const override {
    const double bytes = static_cast<double>(sequences(input)) * per_row_ + fixed_;
    const bool cached = roofline_.stays_in_cache(bytes);
    OpCost cost;
    cost.bytes = cached ? 0 : bytes;
    cost.memory_ns = roofline_.stream_ns(bytes, cached, 0, KernelClass::elementwise);
    cost.latency_ns = roofline_.kernel_floor_ns() * static_cast<double>(spec_.window);
    return cost;
  }
  KernelClass kernel_class() const override { return KernelClass::elementwise; }
  std::string shape_text(const StepInput& input) const override {
    return "kernels=" + std::to_string(spec_.window) + " rows=" + std::to_string(sequences(input));
  }

 private:
  static std::int64_t sequences(const StepInput& input) { return input.shape->decode_sequences; }

  OpSpec spec_;
  const Roofline& roofline_;
  double per_row_, fixed_;
};

}  // namespace

// SGLang on ROCm, DeepseekScalingRotaryEmbedding.forward_native: the table's rows, cosines and sines
// repeated, then of q and of k a product, the halves negated and stacked, a product, a sum. OpSpec::n kernels
// in all.
std::unique_ptr<Operator> make_latent_rotary_steps(const OpSpec& spec, const Roofline& roofline) {
  const double row = static_cast<double>((spec.heads + 1) * spec.head_dim) * narrow;
  return std::make_unique<Passes>(spec, roofline, 10 * row, 3 * row, static_cast<double>(spec.n));
}

// forward_absorb_core of the same: torch.cat of q_nope_out and q_pe, of k_nope and k_pe.
std::unique_ptr<Operator> make_latent_concatenations(const OpSpec& spec, const Roofline& roofline) {
  const double row = static_cast<double>((spec.heads + 1) * (spec.n + spec.k)) * 2 * narrow;
  return std::make_unique<DecodePasses>(spec, roofline, row, 0);
}

// `w_kc.to(bfloat16) * w_scale`, and w_vc's: a byte read and two written, two read and two written.
std::unique_ptr<Operator> make_absorb_casts(const OpSpec& spec, const Roofline& roofline) {
  const double each = static_cast<double>(spec.heads * spec.n * (spec.head_dim + spec.value_dim)) / 2;
  const double bytes = each * static_cast<double>(spec.window) * (1 + 3 * narrow) / 2;
  return std::make_unique<DecodePasses>(spec, roofline, 0, bytes);
}

// `attn_bmm_output.transpose(0, 1).flatten(1, 2)`.
std::unique_ptr<Operator> make_absorb_copies(const OpSpec& spec, const Roofline& roofline) {
  const double row = static_cast<double>(spec.heads * spec.value_dim) * 2 * narrow;
  return std::make_unique<DecodePasses>(spec, roofline, row, 0);
}

// Reads two rows, writes one.
std::unique_ptr<Operator> make_residual_add(const OpSpec& spec, const Roofline& roofline) {
  const double row = static_cast<double>(spec.n) * 3 * narrow;
  return std::make_unique<Passes>(spec, roofline, row, row, 1);
}

// `reshape(-1, head_dim)` of a slice of qkv copies it, FlashInfer's norm reads and writes it, and `concat`
// puts q, k and v together again for the attention kernel: q and k twice, then all three.
std::unique_ptr<Operator> make_head_norms(const OpSpec& spec, const Roofline& roofline) {
  const double heads = of_heads(spec), values = static_cast<double>(spec.kv_heads * spec.head_dim);
  return std::make_unique<Passes>(spec, roofline, narrow * (2 * 2 * heads + 2 * (heads + values)),
                                  narrow * 2 * (heads + values), 5);
}

// Gemma3RMSNorm.forward_cuda takes tensors of three dimensions by `forward_native`, ten operations each of q
// and k: to fp32, square, mean, plus eps, inverse root, times, the weight to fp32, plus one, times it, to 16
// bits. Bytes of those that walk whole rows; the other four are as long as a start.
std::unique_ptr<Operator> make_head_norms_eager(const OpSpec& spec, const Roofline& roofline) {
  const double element = (narrow + wide) + 2 * wide + wide + 2 * wide + 2 * wide + (wide + narrow);
  return std::make_unique<Passes>(spec, roofline, of_heads(spec) * element, of_heads(spec) * 2 * wide, 20);
}

// `apply_rotary_pos_emb_native` under torch.compile: pointwise over q, then over k, whose sizes differ.
std::unique_ptr<Operator> make_rotary_compiled(const OpSpec& spec, const Roofline& roofline) {
  const double row = of_heads(spec) * 2 * narrow;
  return std::make_unique<Passes>(spec, roofline, row, row, 2);
}

// Gemma3RotaryEmbedding.forward, twice a step: positions to fp32, their product with the frequencies, the
// two halves put together, cosine, sine, each times a scaling and to 16 bits: nine kernels.
std::unique_ptr<Operator> make_rotary_tables(const OpSpec& spec, const Roofline& roofline) {
  const double width = static_cast<double>(spec.head_dim);
  const double made = width / 2 * wide + 2 * width * wide;                            // product, both halves
  const double each = 2 * width * wide + 2 * width * wide + width * (wide + narrow);  // of cosine and sine
  return std::make_unique<Passes>(spec, roofline, 2 * (made + 2 * each), 2 * width * wide, 18);
}

// `gelu(gate, approximate="tanh") * x` on halves of one row; FlashInfer's fused kernel came in March 2026
// (NVIDIA/TensorRT-LLM pull request 12131), after 1.2.
std::unique_ptr<Operator> make_gelu_then_mul(const OpSpec& spec, const Roofline& roofline) {
  const double row = static_cast<double>(spec.n) * narrow;
  return std::make_unique<Passes>(spec, roofline, (2 + 3) * row, 3 * row, 2);
}

}  // namespace orrery
