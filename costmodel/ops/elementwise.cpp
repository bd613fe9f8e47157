// Kernels that stream their operands once: norms, rotary, KV write, activation, quantise, gathers. On vLLM
// 0.24 they are Inductor's fusions, one launch each. Bytes per row: engine_semantics.md §6.1
// (…/shared/reference).
#include "costmodel/op_table.h"
#include "costmodel/ops/common.h"

namespace orrery {

namespace {
// A kernel of a stream starts later after its predecessor than a node of a graph does.
class StreamGaps : public Operator {
 public:
  explicit StreamGaps(double gap_ns) : gap_ns_(gap_ns) {}
  OpCost cost(const StepInput& input) const override {
    OpCost cost;
    cost.latency_ns = gap_ns_ * static_cast<double>(input.eager_kernels);
    return cost;
  }
  std::string shape_text(const StepInput& input) const override {
    return "kernels=" + std::to_string(input.eager_kernels);
  }
  KernelClass kernel_class() const override { return KernelClass::elementwise; }

 private:
  double gap_ns_;
};

constexpr double activation = 2;  // bytes per element of a bf16 or fp16 activation

std::unique_ptr<Operator> stream(const OpSpec& spec, const Roofline& roofline, double per_row,
                                 double hbm_per_row = 0, const RowTable& table = {}) {
  return std::make_unique<StreamOperator>(spec, roofline, per_row, hbm_per_row, 1, table);
}

// Where a set tells the formats of what is written apart, that of the product that reads it.
RowTable row_table(const char* name, const OpSpec& spec) {
  return {name, spec.n, 0, spec.out_bytes < 2 ? spec.format.label : ""};
}
bool timed(const Roofline& roofline, const RowTable& table) {
  return roofline.kernels() != nullptr && roofline.kernels()->row_wise(table);
}
}  // namespace

// Adds the residual, writes it back, normalises: reads two rows, writes two (one quantised where fused).
std::unique_ptr<Operator> make_add_rms_norm(const OpSpec& spec, const Roofline& roofline) {
  return stream(spec, roofline, static_cast<double>(spec.n) * (3 * activation + spec.out_bytes), 0,
                row_table(spec.out_bytes < 2 ? "add_rms_norm_quantize" : "add_rms_norm", spec));
}

// What shared experts gave joins what routed ones did in the kernel of the next norm (the compiler's, where
// no collective stands between: SharedExperts and the model's `mlp_output + residual` of vLLM 0.24).
std::unique_ptr<Operator> make_sum_add_rms_norm(const OpSpec& spec, const Roofline& roofline) {
  const RowTable own = row_table("sum_add_rms_norm", spec);
  if (!timed(roofline, own)) return make_add_rms_norm(spec, roofline);
  return stream(spec, roofline, static_cast<double>(spec.n) * (4 * activation + spec.out_bytes), 0, own);
}

// FlashAttention 3 prepares the schedule of its launch by a kernel in front, which takes longer than a start.
std::unique_ptr<Operator> make_attention_schedule(const OpSpec& spec, const Roofline& roofline) {
  return stream(spec, roofline, 4, 0, {"attention_schedule", 1});
}

// Reads a row, writes a row.
std::unique_ptr<Operator> make_rms_norm(const OpSpec& spec, const Roofline& roofline) {
  return stream(spec, roofline, static_cast<double>(spec.n) * (activation + spec.out_bytes), 0,
                row_table("rms_norm", spec));
}

// The bytes of add_rms_norm: the row that is normed first stays in the unit. Three passes over it one after
// another instead of two; where nobody timed that, the figures of add_rms_norm.
std::unique_ptr<Operator> make_norm_add_rms_norm(const OpSpec& spec, const Roofline& roofline) {
  const RowTable own = row_table("norm_add_rms_norm", spec);
  if (timed(roofline, own))
    return stream(spec, roofline, static_cast<double>(spec.n) * (3 * activation + spec.out_bytes), 0, own);
  OpSpec like = spec;
  like.relative = true;
  return make_add_rms_norm(like, roofline);
}

// q and k of one token, read and written; the per-head norm is fused.
std::unique_ptr<Operator> make_rotary(const OpSpec& spec, const Roofline& roofline) {
  const std::int64_t width = (spec.heads + spec.kv_heads) * spec.head_dim;
  return stream(spec, roofline, static_cast<double>(width) * 2 * activation, 0,
                {spec.norm_heads ? "qk_norm_rotary" : "rotary", width});
}

// Keys and values into the paged cache.
std::unique_ptr<Operator> make_kv_write(const OpSpec& spec, const Roofline& roofline) {
  const double elements = 2.0 * static_cast<double>(spec.kv_heads * spec.head_dim);
  return stream(spec, roofline, elements * activation, elements * spec.kv_bytes,
                {"kv_write", spec.kv_heads * spec.head_dim});
}

// SiLU(gate)·up: reads 2n, writes n.
std::unique_ptr<Operator> make_silu_mul(const OpSpec& spec, const Roofline& roofline) {
  return stream(spec, roofline, static_cast<double>(spec.n) * (2 * activation + spec.out_bytes), 0,
                row_table(spec.out_bytes < 2 ? "silu_mul_quantize" : "silu_mul", spec));
}

// The same bytes; tanh instead of a sigmoid.
std::unique_ptr<Operator> make_gelu_mul(const OpSpec& spec, const Roofline& roofline) {
  const RowTable own = row_table("gelu_mul", spec);
  if (timed(roofline, own))
    return stream(spec, roofline, static_cast<double>(spec.n) * (2 * activation + spec.out_bytes), 0, own);
  OpSpec like = spec;
  like.relative = true;
  return make_silu_mul(like, roofline);
}

std::unique_ptr<Operator> make_quantize(const OpSpec& spec, const Roofline& roofline) {
  return stream(spec, roofline, static_cast<double>(spec.n) * (activation + spec.out_bytes), 0,
                row_table("quantize", spec));
}

// A row of the table comes from memory, the activation it becomes stays near.
std::unique_ptr<Operator> make_embedding(const OpSpec& spec, const Roofline& roofline) {
  return stream(spec, roofline, static_cast<double>(spec.n) * activation,
                static_cast<double>(spec.n) * activation);
}

std::unique_ptr<Operator> make_gather_rows(const OpSpec& spec, const Roofline& roofline) {
  return stream(spec, roofline, static_cast<double>(spec.n) * 2 * activation);
}

std::unique_ptr<Operator> make_stream_gaps(const OpSpec& spec, const Roofline&) {
  return std::make_unique<StreamGaps>(spec.gap_ns);
}

}  // namespace orrery
