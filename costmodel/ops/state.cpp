// Layers that keep a state (costmodel/state_layers.h), between the products that feed them: a causal
// convolution over a few tokens, then per head a matrix that every token updates. Decodes read and write that
// matrix; prompts are taken in chunks (model_executor/layers/mamba/gdn/qwen_gdn_linear_attn.py and
// mamba_mixer2.py of vLLM 0.24).
//
// No table holds these kernels. For gated delta nets on Hopper the constants below were read off published
// timings of vLLM 0.24's own (ai-dynamo/aiconfigurator, gdn_perf of H200 and H100, 9,100 rows each; how well
// they meet them: docs/state_layers.md). Elsewhere, and for Mamba2, of whose scan nobody published a timing,
// the same rules stand with twice the error.
#include <algorithm>
#include <cmath>

#include "costmodel/op_table.h"
#include "costmodel/ops/common.h"

namespace orrery {

namespace {

constexpr double activation = 2;  // bytes

// Prompts: 8,192 channels take 13.5 ns a token on both parts, whatever their memory, from 1,024 tokens on;
// 607 elements a nanosecond on 132 SMs. Starts, in kernel floors of 1.3 µs: 2.3 to 2.6 µs.
constexpr double conv_elements_per_unit_ns = 4.6;
constexpr double conv_start = 2.0;
// In an engine, where code and weights come from memory before each kernel (our kernel profile of vLLM 0.24
// on an H200, reports/cases/h200_vllm_0_24_kernels_256): 2.8 µs for one sequence, of which repeated launches
// show 1.9.
constexpr double update_conv_start = 2.15;
constexpr double update_start = 2.2;  // 2.9 µs beyond the bytes of 8 to 1,024 sequences
constexpr double update_least = 2.1;  // a head's matrix through its unit, however few there are: 5.6 µs in
                                      // all for one sequence, there
// A head's chunk of 64 tokens takes 3.05 µs on its SM, half of what its products would at the peak of bf16,
// one chunk after another; a wave of heads starts in 8.5 µs.
constexpr double scan_efficiency = 0.5;
constexpr double scan_start = 6.5;

// One standard deviation of log(time) over those rows of both parts, prompts of 64 tokens and more.
constexpr double conv_error = 0.2, update_conv_error = 0.13, scan_error = 0.1, update_error = 0.2;

// OpSpec, as these operators read it, of one rank: heads and value_dim of the values, kv_heads and head_dim
// of the keys; n = channels that are convolved, k = taps; kv_bytes of an element of the state; variant =
// rule; other_kernel = not the kernels that the constants are of; absorbed_chunk = tokens of a scan's chunk.
double state_elements(const OpSpec& s) { return static_cast<double>(s.heads * s.value_dim * s.head_dim); }
double values_of(const OpSpec& s) { return static_cast<double>(s.heads * s.value_dim); }
bool delta(const OpSpec& s) { return s.variant == "gated_delta"; }

double error_of(const OpSpec& spec, double own, double class_error) {
  return spec.other_kernel ? 2 * std::max(own, class_error) : own;
}

struct NewTokens {
  double sequences = 0, tokens = 0;
};
NewTokens prompt_tokens(const StepShape& shape) {
  NewTokens n;
  for (const PrefillChunk& chunk : shape.prefill) n.tokens += chunk.new_tokens;
  n.sequences = static_cast<double>(shape.prefill.size());
  return n;
}

// Nobody published a timing of several tokens of a sequence.
double verifying(double error, const StepInput& input) {
  return input.shape->draft_tokens > 0 ? 2 * error : error;
}

std::string dims(const OpSpec& s) {
  return "heads=" + std::to_string(s.kv_heads) + "/" + std::to_string(s.heads) +
         " d=" + std::to_string(s.head_dim) + "x" + std::to_string(s.value_dim);
}

class StateOperator : public Operator {
 public:
  StateOperator(const OpSpec& spec, const Roofline& roofline) : spec_(spec), roofline_(roofline) {}
  KernelClass kernel_class() const override { return KernelClass::memory; }
  std::string shape_text(const StepInput& input) const override {
    if (spec_.depends_on == DependsOn::decode)
      return "sequences=" + std::to_string(input.shape->decode_sequences) + " " + dims(spec_);
    return "chunks=" + std::to_string(input.shape->prefill.size()) +
           " tokens=" + std::to_string(static_cast<std::int64_t>(prompt_tokens(*input.shape).tokens)) + " " +
           dims(spec_);
  }

 protected:
  double floor_ns(double starts) const { return starts * roofline_.kernel_floor_ns(); }
  void move(OpCost& cost, double bytes) const {
    cost.bytes = bytes;
    cost.memory_ns = roofline_.stream_ns(0, false, bytes, KernelClass::memory);
  }
  OpSpec spec_;
  const Roofline& roofline_;
};

class ConvOperator : public StateOperator {
 public:
  using StateOperator::StateOperator;
  OpCost cost(const StepInput& input) const override {
    const double channels = static_cast<double>(spec_.n), kept = static_cast<double>(spec_.k - 1);
    OpCost cost;
    if (spec_.depends_on == DependsOn::decode) {
      // Verification: the inputs of all drafts are kept until it is known which of them count.
      const double sequences = input.shape->decode_sequences, drafts = input.shape->draft_tokens;
      move(cost, (sequences * (2 * kept + 2) + drafts * 4) * channels * activation);
      cost.latency_ns = floor_ns(update_conv_start);
      cost.error = verifying(error_of(spec_, update_conv_error, roofline_.error(kernel_class())), input);
    } else {
      const NewTokens n = prompt_tokens(*input.shape);
      move(cost, (n.tokens * 2 + n.sequences * 2 * kept) * channels * activation);
      cost.compute_ns =
          n.tokens * channels / (conv_elements_per_unit_ns * static_cast<double>(roofline_.units()));
      cost.latency_ns = floor_ns(conv_start);
      cost.error = error_of(spec_, conv_error, roofline_.error(kernel_class()));
    }
    cost.flops = cost.bytes / (2 * activation) * 2 * static_cast<double>(spec_.k);
    return cost;
  }
};

// fused_post_conv_prep: reads what was convolved, writes q and k normed, v, decay and strength.
class PrepareOperator : public StateOperator {
 public:
  using StateOperator::StateOperator;
  OpCost cost(const StepInput& input) const override {
    const double row =
        static_cast<double>(spec_.n) * 2 * activation + 4.0 * static_cast<double>(spec_.heads) * 2;
    const double bytes = prompt_tokens(*input.shape).tokens * row;
    OpCost cost;
    const bool cached = roofline_.stays_in_cache(bytes);
    cost.bytes = cached ? 0 : bytes;
    cost.memory_ns = roofline_.stream_ns(bytes, cached, 0, KernelClass::elementwise);
    cost.latency_ns = floor_ns(1);
    cost.error = 2 * roofline_.error(KernelClass::elementwise);
    return cost;
  }
  KernelClass kernel_class() const override { return KernelClass::elementwise; }
};

class UpdateOperator : public StateOperator {
 public:
  using StateOperator::StateOperator;
  OpCost cost(const StepInput& input) const override {
    // Verification: a state is read once and written after every draft, each into a block of its own
    // (fused_recurrent_gated_delta_rule with a row of state indices for each sequence).
    const double sequences = input.shape->decode_sequences;
    const double tokens = sequences + input.shape->draft_tokens;
    OpCost cost;
    move(cost, (sequences + tokens) * state_elements(spec_) * spec_.kv_bytes +
                   tokens * (static_cast<double>(spec_.n) + values_of(spec_)) * activation);
    cost.flops = tokens * state_elements(spec_) * 6;
    if (!spec_.other_kernel) cost.memory_ns = std::max(cost.memory_ns, floor_ns(update_least));
    cost.latency_ns = floor_ns(update_start);
    cost.error = verifying(error_of(spec_, update_error, roofline_.error(kernel_class())), input);
    return cost;
  }
};

struct ScannedChunks {
  double all = 0, longest = 0;  // of a head
};
ScannedChunks chunks_of(const StepShape& shape, std::int64_t size) {
  ScannedChunks n;
  for (const PrefillChunk& chunk : shape.prefill) {
    const auto mine = static_cast<double>((chunk.new_tokens + size - 1) / size);
    n.all += mine;
    n.longest = std::max(n.longest, mine);
  }
  return n;
}
// Prompts by flash-linear-attention's kernels (model_executor/layers/fla/ops/chunk.py): five that take all
// chunks at once, of which one inverts a triangle of 64 x 64, one that passes the states on from chunk to
// chunk, and the copies of states around them. Constants: fourteen kernels of 21 prompts and batches of 64 to
// 8,192 tokens, 16 and 32 heads, on an H200 (reports/cases/h200_vllm_0_24_kernels_256, timings.csv), which
// they meet within 8 % (2 % short in the mean, standard deviation of the logarithm 0.03).
class ScanKernelsOperator : public StateOperator {
 public:
  using StateOperator::StateOperator;
  OpCost cost(const StepInput& input) const override {
    const NewTokens n = prompt_tokens(*input.shape);
    const double heads = static_cast<double>(spec_.heads), units = static_cast<double>(roofline_.units());
    const auto [chunks, longest] = chunks_of(*input.shape, chunk_tokens);
    OpCost cost;
    // 2.18 ns a token and head on 132 units, where the kernels last longer than they take to start; on parts
    // of less bandwidth what one kernel leaves for the next.
    const double between =
        roofline_.stream_ns(0, false, n.tokens * heads * left_between, KernelClass::memory);
    const double at_once = std::max({floor_ns(14.6), n.tokens * heads * 287.5 / units, between});
    const double passing = std::max(longest * 1310, chunks * heads * 5095 / units);
    // In place: read and written by the kernel that passes them on.
    const bool in_place = spec_.variant == "in_place";
    const double copies = in_place ? 2 : 6, rate = in_place ? 1 : state_copies;
    move(cost, n.sequences * copies * state_elements(spec_) * spec_.kv_bytes / rate);
    cost.compute_ns = at_once + passing + cost.memory_ns;  // one after another
    cost.bytes *= rate;
    cost.flops = chunks * heads * chunk_tokens *
                 static_cast<double>(6 * spec_.head_dim * spec_.value_dim + 640 * spec_.head_dim);
    cost.latency_ns = floor_ns(15);
    // Nobody timed those: other versions of the same kernels, with two more and without the copies.
    cost.error = (in_place ? 2 : 1) * error_of(spec_, scan_error, roofline_.error(kernel_class()));
    return cost;
  }
  KernelClass kernel_class() const override { return KernelClass::attention_prefill; }

 private:
  static constexpr std::int64_t chunk_tokens = 64;
  // Bytes of a token and head with keys and values of 128 in bf16: w, u and the corrected values written and
  // read (1,536), a state a chunk (1,024), the triangle and its inverse (1,024), values, outputs and keys
  // (768).
  static constexpr double left_between = 4352;
  static constexpr double state_copies = 0.39;  // of the memory's rate: index kernels over a few rows
};

class ScanOperator : public StateOperator {
 public:
  ScanOperator(const OpSpec& spec, const Roofline& roofline) : StateOperator(spec, roofline) {
    const double chunk = static_cast<double>(spec.absorbed_chunk);
    const double keys = static_cast<double>(spec.head_dim), values = static_cast<double>(spec.value_dim);
    // Gated delta rule, approximate: three products with the state, and ten of the chunk with itself
    // (../shared/reference/engine_semantics.md §6.4). Mamba2: the chunk's scores (shared by the heads of a
    // group), their product with the values, the state in and out.
    const double shared = static_cast<double>(spec.kv_heads) / static_cast<double>(spec.heads);
    flops_ = chunk * (delta(spec) ? 6 * keys * values + 10 * chunk * keys
                                  : 2 * chunk * values + 4 * keys * values + 2 * chunk * keys * shared);
    const double rate = roofline.matrix_rate(spec.format.math);
    const double unit = rate / static_cast<double>(roofline.units());
    chunk_ns_ = flops_ / (unit * scan_efficiency);
    spread_ns_ = flops_ / (rate * roofline.efficiency(KernelClass::attention_prefill));
  }

  OpCost cost(const StepInput& input) const override {
    const NewTokens n = prompt_tokens(*input.shape);
    const double heads = static_cast<double>(spec_.heads);
    const auto [chunks, longest] = chunks_of(*input.shape, spec_.absorbed_chunk);
    OpCost cost;
    cost.flops = chunks * heads * flops_;
    // States are gathered for the scan and put back after it, each a copy.
    double bytes = n.tokens * (static_cast<double>(spec_.n) + values_of(spec_)) * activation +
                   n.sequences * 6 * state_elements(spec_) * spec_.kv_bytes;
    if (delta(spec_)) {
      const double waves = std::ceil(n.sequences * heads / static_cast<double>(roofline_.units()));
      const double start = floor_ns(scan_start), mean = start + chunks / n.sequences * chunk_ns_;
      cost.compute_ns = std::max(start + longest * chunk_ns_, waves * mean);
      cost.latency_ns = floor_ns(2);
    } else {  // all chunks at once; a state a chunk is written, passed on and read
      cost.compute_ns = chunks * heads * spread_ns_;
      bytes += chunks * 4 * state_elements(spec_) * 4;
      cost.latency_ns = floor_ns(7);
    }
    move(cost, bytes);
    cost.error = error_of(spec_, scan_error, roofline_.error(kernel_class()));
    return cost;
  }
  KernelClass kernel_class() const override { return KernelClass::attention_prefill; }

 private:
  double flops_ = 0, chunk_ns_ = 0, spread_ns_ = 0;
};

std::unique_ptr<Operator> stream(const OpSpec& spec, const Roofline& roofline, double per_row,
                                 double launches = 1, const RowTable& table = {}) {
  return std::make_unique<StreamOperator>(spec, roofline, per_row, 0, launches, table);
}

}  // namespace

std::unique_ptr<Operator> make_state_conv(const OpSpec& spec, const Roofline& roofline) {
  return std::make_unique<ConvOperator>(spec, roofline);
}
std::unique_ptr<Operator> make_state_prepare(const OpSpec& spec, const Roofline& roofline) {
  return std::make_unique<PrepareOperator>(spec, roofline);
}
std::unique_ptr<Operator> make_state_scan(const OpSpec& spec, const Roofline& roofline) {
  return std::make_unique<ScanOperator>(spec, roofline);
}
std::unique_ptr<Operator> make_state_scan_kernels(const OpSpec& spec, const Roofline& roofline) {
  return std::make_unique<ScanKernelsOperator>(spec, roofline);
}
std::unique_ptr<Operator> make_state_update(const OpSpec& spec, const Roofline& roofline) {
  return std::make_unique<UpdateOperator>(spec, roofline);
}

// Reads and writes all that the product made.
std::unique_ptr<Operator> make_state_unpack(const OpSpec& spec, const Roofline& roofline) {
  return stream(spec, roofline, static_cast<double>(spec.n) * 2 * activation);
}

// Norm and product with the gate are two kernels, which read output and gate and write the output; its buffer
// was cleared by one of its own (kernel profile, as above).
std::unique_ptr<Operator> make_gated_norm(const OpSpec& spec, const Roofline& roofline) {
  return stream(spec, roofline, static_cast<double>(spec.n) * (5 * activation + spec.out_bytes), 3,
                {"gated_norm", spec.n, 0, spec.out_bytes < 2 ? spec.format.label : ""});
}

// Mamba2's: output and gate read, the output written in one kernel, its buffer cleared by another
// (mamba_mixer2.py); no profile has it.
std::unique_ptr<Operator> make_mixer_norm(const OpSpec& spec, const Roofline& roofline) {
  return stream(spec, roofline, static_cast<double>(spec.n) * (3 * activation + spec.out_bytes), 2);
}

std::unique_ptr<Operator> make_sigmoid_mul(const OpSpec& spec, const Roofline& roofline) {
  return stream(spec, roofline, static_cast<double>(spec.n) * (2 * activation + spec.out_bytes));
}

std::unique_ptr<Operator> make_relu_squared(const OpSpec& spec, const Roofline& roofline) {
  return stream(spec, roofline, static_cast<double>(spec.n) * (activation + spec.out_bytes));
}

}  // namespace orrery
