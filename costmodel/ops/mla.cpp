// Multi-head latent attention (DeepSeek-V2, V3): what the cache holds of a token is one latent of `n`
// elements and one rotary key, the same for all heads. Decodes never expand it: the query is multiplied into
// the latent's space instead ("absorbed"), so that attention has one KV head whose keys are latent + rotary
// wide and whose values are the latent itself. Prompts expand keys and values and attend as ordinary heads do
// (vLLM 0.24, model_executor/layers/attention/mla_attention.py, forward_mha and forward_mqa).
//
// Some engines serve prompts that way too: vLLM short ones, SGLang all that fit a captured prefill graph.
//
// Where a table has them (mla_decode, mla_prefill, mla_absorb; latent of 512 + 64, heads of 128: docs/
// calibration.md) their times are published kernels'; elsewhere the roofline's with the efficiencies of their
// classes. latent_start below was read off the shortest of those rows.
#include <algorithm>
#include <cmath>

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

AttentionShape absorbed_shape(const OpSpec& s) {
  return {s.heads, 1, s.n + s.k, 0, s.kv_bytes < 2 ? "fp8" : "bf16", s.n};
}

class MlaDecodeOperator : public Operator {
 public:
  MlaDecodeOperator(const OpSpec& spec, const Roofline& roofline) : spec_(spec), roofline_(roofline) {
    per_operation_ns_ =
        1 / (roofline.matrix_rate(spec.format.math) * roofline.efficiency(KernelClass::attention_prefill));
    if (roofline.kernels() != nullptr) surface_ = roofline.kernels()->mla_decode(absorbed_shape(spec));
    if (!surface_) return;
    constexpr int sequence_octaves = 11, key_octaves = 18;
    grid_ = DenseGrid(sequence_octaves, key_octaves, [&](double sequences, double keys) {
      return mla_decode_bound_ns(roofline_.rates(), absorbed_shape(spec_), sequences, sequences * keys) /
             surface_->at(sequences, keys);
    });
    grid_.make_monotone();
  }

  OpCost cost(const StepInput& input) const override {
    const double sequences = input.shape->decode_sequences;
    const double drafts = spec_.one_query ? 0 : input.shape->draft_tokens;
    const double keys = static_cast<double>(input.shape->decode_context_tokens) + sequences + drafts;
    // q·kᵀ over latent and rotary part, p·v over the latent; a sequence's drafts share its tiles of rows.
    const double per_key = 2.0 * (stored_elements(spec_) + static_cast<double>(spec_.n));
    const double rows = static_cast<double>(spec_.heads) * (1 + drafts / sequences);
    const double padded = std::ceil(rows / static_cast<double>(query_rows)) * query_rows;
    OpCost cost;
    cost.flops = per_key * rows * keys;
    const double waves = static_cast<double>(input.shape->decode_sequences / roofline_.units());
    cost.compute_ns = std::max(per_key * padded * keys * per_operation_ns_,
                               waves * attention_wave * roofline_.kernel_floor_ns());
    cost.bytes = keys * stored_elements(spec_) * spec_.kv_bytes;  // read once for keys and values
    const double queries =
        sequences * rows * (stored_elements(spec_) + static_cast<double>(spec_.n)) * activation;
    cost.memory_ns = roofline_.stream_ns(queries, roofline_.stays_in_cache(queries), cost.bytes,
                                         KernelClass::attention_decode);
    cost.latency_ns = latent_start * roofline_.kernel_floor_ns();  // prompts have a launch of their own
    // Where prompts run row by row one launch serves both, and theirs has the start.
    const bool joins = spec_.variant == "row_by_row" && !input.shape->prefill.empty();
    if (joins) cost.latency_ns = 0;
    if (!surface_ || joins) return cost;
    price_from_table(cost, *roofline_.kernels(), "mla_decode", spec_.kv_bytes < 2 ? "fp8" : "bf16", 1.0,
                     Hit::interpolated, surface_->shape_known(), sequences,
                     grid_.at(sequences, keys / sequences));
    if (drafts > 0) cost.table_ns = with_drafts(cost, keys, padded);
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
  // The tables know one query a sequence; more of them read the keys once and multiply more: whole tiles of
  // rows, as well as long batches of one query do, at least as DeepSeek-V3's (128 heads) did: with their
  // combination 37.6 and 61.1 µs for 32 sequences of some 530 keys and two or four queries; one sequence of
  // 1,040 keys and two queries takes 21.6, as the table's one query does (kernel profiles,
  // reports/cases/h200_vllm_0_24_features).
  double with_drafts(const OpCost& cost, double keys, double padded) const {
    constexpr double fixed = 11.7, least = 0.43;  // kernel floors; of the matrix rate
    const double one =
        std::ceil(static_cast<double>(spec_.heads) / static_cast<double>(query_rows)) * query_rows;
    const double row_ns = 2.0 * (stored_elements(spec_) + static_cast<double>(spec_.n)) * keys /
                          roofline_.matrix_rate(spec_.format.math);
    const double start = fixed * roofline_.kernel_floor_ns(), beyond = cost.table_ns - start;
    const double reached = beyond > 0 ? std::clamp(one * row_ns / beyond, least, 1.0) : least;
    return std::max(cost.table_ns, start + padded * row_ns / reached);
  }

  OpSpec spec_;
  const Roofline& roofline_;
  double per_operation_ns_ = 0;
  std::optional<FittedSurface> surface_;
  DenseGrid grid_;
};

// Prompts of a step, by how they are served.
struct Prompts {
  std::size_t chunks = 0;
  double fresh = 0, cached = 0, pairs = 0, padded = 0;  // padded: pairs of whole tiles
};

Prompts prompts(const OpSpec& spec, const StepShape& shape, bool absorbed) {
  std::int64_t step = shape.decode_sequences + shape.draft_tokens;
  for (const PrefillChunk& chunk : shape.prefill) step += chunk.new_tokens;
  Prompts p;
  for (const PrefillChunk& chunk : shape.prefill) {
    if ((step <= spec.absorbed_step || chunk.new_tokens <= spec.absorbed_chunk) != absorbed) continue;
    const double n = chunk.new_tokens, context = static_cast<double>(chunk.context);
    const std::int64_t tiles = (chunk.new_tokens + prompt_rows - 1) / prompt_rows;
    const double mine = n * context + n * (n + 1) / 2;
    ++p.chunks;
    p.fresh += n;
    p.cached += context;
    p.pairs += mine;
    p.padded += static_cast<double>(tiles * prompt_rows) *
                (mine / n + static_cast<double>(prompt_rows) / 2);  // half a tile masked on the diagonal
  }
  return p;
}

// Utilisation of equal prompts without a context, of a table, for any chunks: those of as many pairs per row.
class PromptTable {
 public:
  PromptTable(const AttentionShape& shape, const Roofline& roofline) : shape_(shape), roofline_(roofline) {
    if (roofline.kernels() != nullptr) surface_ = roofline.kernels()->mla_prefill(shape);
    if (!surface_) return;
    constexpr int sequence_octaves = 8, token_octaves = 15;
    slowness_ = DenseGrid(sequence_octaves, token_octaves, [&](double sequences, double tokens) {
      return 1 / surface_->at(sequences, tokens);
    });
    start_ns_ = mla_prefill_bound_ns(roofline.rates(), shape, 1, 1) * slowness_.at(1, 1);
  }

  void price(const Prompts& p, OpCost& cost) const {
    if (!surface_) return;
    const double length = std::clamp(2 * p.pairs / p.fresh - 1, 1.0, 32768.0);
    const double sequences = std::max(1.0, p.fresh / length);
    const double bound = mla_prefill_bound_ns(roofline_.rates(), shape_, p.fresh, p.pairs);
    price_from_table(cost, *roofline_.kernels(), "mla_prefill", shape_.kv_dtype, 1.0,
                     p.cached > 0 ? Hit::extrapolated : Hit::interpolated, surface_->shape_known(), p.fresh,
                     std::max(start_ns_, bound * slowness_.at(sequences, length)));
  }

 private:
  AttentionShape shape_;
  const Roofline& roofline_;
  std::optional<FittedSurface> surface_;
  DenseGrid slowness_;
  double start_ns_ = 0;
};

// Two products with a matrix per head, of the decodes' rows or of the prompts' that run absorbed: q_nope ·
// W_UK before attention, its output · W_UV after. Weights in the activation type, whatever the checkpoint
// (process_weights_after_loading).
class MlaAbsorbOperator : public Operator {
 public:
  MlaAbsorbOperator(const OpSpec& spec, const Roofline& roofline)
      : spec_(spec), roofline_(roofline), widths_{spec.n, spec.head_dim, spec.value_dim} {
    if (roofline.kernels() != nullptr) fitted_ = roofline.kernels()->mla_absorb(spec.heads, widths_);
  }

  OpCost cost(const StepInput& input) const override {
    const std::int64_t rows = rows_of_step(input);
    if (rows == 0) return {};
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
    if (fitted_) {
      const double m = static_cast<double>(rows);
      price_from_table(cost, *roofline_.kernels(), "mla_absorb", "bf16", *fitted_, m,
                       mla_absorb_bound_ns(roofline_.rates(), spec_.heads, widths_, m));
    }
    return cost;
  }

  std::string shape_text(const StepInput& input) const override {
    return "m=" + std::to_string(rows_of_step(input)) + " heads=" + std::to_string(spec_.heads) + " " +
           std::to_string(spec_.head_dim) + "x" + std::to_string(spec_.n) + "x" +
           std::to_string(spec_.value_dim);
  }
  KernelClass kernel_class() const override { return roofline_.gemm_class(spec_.format); }

 private:
  std::int64_t rows_of_step(const StepInput& input) const {
    const bool joins = spec_.variant == "row_by_row" && !input.shape->prefill.empty();  // one launch for both
    if (spec_.depends_on == DependsOn::prefill)
      return static_cast<std::int64_t>(prompts(spec_, *input.shape, true).fresh) +
             (joins ? input.shape->decode_sequences : 0);
    if (joins) return 0;
    return input.shape->decode_sequences + (spec_.one_query ? 0 : input.shape->draft_tokens);
  }

  static constexpr std::int64_t tile = 64;
  OpSpec spec_;
  const Roofline& roofline_;
  LatentWidths widths_;
  std::optional<FittedCurve> fitted_;
};

// kv_b_proj of the prompts' tokens, and again of all that they have in the cache: a chunk after a long
// context expands that context anew, every step.
class MlaExpandOperator : public Operator {
 public:
  MlaExpandOperator(const OpSpec& spec, const Roofline& roofline)
      : spec_(spec), roofline_(roofline), columns_(static_cast<double>(spec.heads) * expanded_width(spec)) {
    if (roofline.kernels() != nullptr)
      fitted_ = roofline.kernels()->gemm(spec.format.label, static_cast<std::int64_t>(columns_), spec.n);
  }

  OpCost cost(const StepInput& input) const override {
    const Prompts p = prompts(spec_, *input.shape, false);
    if (p.chunks == 0) return {};
    const double tokens = p.fresh + p.cached, latent = static_cast<double>(spec_.n);
    OpCost cost;
    cost.flops = 2.0 * tokens * columns_ * latent;
    cost.compute_ns =
        roofline_.tiled_ns(static_cast<std::int64_t>(tokens), static_cast<std::int64_t>(columns_), spec_.n,
                           spec_.format.math, roofline_.efficiency(kernel_class()));
    // The cached latents are gathered into a workspace first: read from the cache, written and read again.
    const double gathered = p.cached * stored_elements(spec_);
    const double activations = tokens * (latent + columns_) * activation + gathered * activation;
    const double from_memory =
        columns_ * latent * spec_.format.bytes_per_parameter + gathered * spec_.kv_bytes;
    const bool cached = roofline_.stays_in_cache(activations);
    cost.bytes = from_memory + (cached ? 0 : activations);
    cost.memory_ns = roofline_.stream_ns(activations, cached, from_memory, KernelClass::memory);
    cost.latency_ns = (p.cached > 0 ? 2 : 1) * gemm_start * roofline_.kernel_floor_ns();
    // Keys are then copied beside the rotary key that all heads share.
    const double copied =
        tokens * static_cast<double>(spec_.heads * (2 * spec_.head_dim + spec_.k)) * activation;
    const double copy_ns =
        spec_.variant == "vllm"
            ? copies_of_vllm(p)
            : roofline_.stream_ns(copied, roofline_.stays_in_cache(copied), 0, KernelClass::memory) +
                  roofline_.kernel_floor_ns();
    cost.bytes += roofline_.stays_in_cache(copied) ? 0 : copied;
    cost.latency_ns += copy_ns;
    if (fitted_) price_product(p, gathered, copy_ns, cost);
    return cost;
  }

  std::string shape_text(const StepInput& input) const override {
    const Prompts p = prompts(spec_, *input.shape, false);
    return "new=" + std::to_string(static_cast<std::int64_t>(p.fresh)) +
           " cached=" + std::to_string(static_cast<std::int64_t>(p.cached)) +
           " heads=" + std::to_string(spec_.heads) + " k=" + std::to_string(spec_.n) + " " +
           spec_.format.label;
  }
  KernelClass kernel_class() const override { return roofline_.gemm_class(spec_.format); }

 private:
  // Keys and the rotary key of all heads by a strided kernel each, which wait for instructions (40.8 and 18.2
  // µs for 1,024 tokens of 128 heads and for 8,192 of 16), and attention's output by a copy of the device
  // (15.6 µs for both): forward_mha's `torch.cat` into empty keys and `output.copy_`; kernel profiles on an
  // H200, reports/cases/h200_vllm_0_24_features. ns of a unit an element.
  double copies_of_vllm(const Prompts& p) const {
    constexpr double key_copy = 0.31, rotary_copy = 0.265;
    const double heads = static_cast<double>(spec_.heads);
    const double keys =
        (p.fresh + p.cached) * heads *
        (static_cast<double>(spec_.head_dim) * key_copy + static_cast<double>(spec_.k) * rotary_copy) /
        static_cast<double>(roofline_.units());
    const double output = 2 * p.fresh * heads * static_cast<double>(spec_.value_dim) * activation;
    return keys + roofline_.stream_ns(output, roofline_.stays_in_cache(output), 0, KernelClass::memory) +
           3 * roofline_.kernel_floor_ns();
  }

  // The product by the table of dense ones; gathering and copying stay the roofline's.
  void price_product(const Prompts& p, double gathered, double copy_ns, OpCost& cost) const {
    const double tokens = p.fresh + p.cached;
    price_from_table(
        cost, *roofline_.kernels(), "gemm", spec_.format.label, *fitted_, tokens,
        gemm_bound_ns(roofline_.rates(), spec_.format.label, tokens, columns_, static_cast<double>(spec_.n)));
    if (cost.table_ns <= 0) return;
    cost.table_ns += copy_ns;
    if (p.cached > 0)
      cost.table_ns +=
          roofline_.stream_ns(gathered * activation, false, gathered * spec_.kv_bytes, KernelClass::memory) +
          gemm_start * roofline_.kernel_floor_ns();
  }

  OpSpec spec_;
  const Roofline& roofline_;
  double columns_;
  std::optional<FittedCurve> fitted_;
};

// Causal attention of prompts with expanded keys (head_dim + rotary wide) and values (value_dim wide).
class MlaPrefillOperator : public Operator {
 public:
  MlaPrefillOperator(const OpSpec& spec, const Roofline& roofline)
      : spec_(spec), roofline_(roofline),
        table_({spec.heads, 1, spec.head_dim + spec.k, 0, spec.kv_bytes < 2 ? "fp8" : "bf16", spec.value_dim},
               roofline) {
    per_operation_ns_ =
        1 / (roofline.matrix_rate(spec.format.math) * roofline.efficiency(KernelClass::attention_prefill));
  }

  OpCost cost(const StepInput& input) const override {
    const Prompts p = prompts(spec_, *input.shape, false);
    if (p.chunks == 0) return {};
    const double heads = static_cast<double>(spec_.heads);
    const double width = static_cast<double>(spec_.head_dim + spec_.k + spec_.value_dim);
    OpCost cost;
    cost.flops = 2.0 * width * heads * p.pairs;
    cost.compute_ns = 2.0 * width * heads * p.padded * per_operation_ns_;
    // Queries and outputs of the new tokens, expanded keys and values of all.
    const double bytes = heads * width * (2 * p.fresh + p.cached) * activation;
    const bool stays = roofline_.stays_in_cache(bytes);
    cost.bytes = stays ? 0 : bytes;
    cost.memory_ns = roofline_.stream_ns(bytes, stays, 0, KernelClass::memory);
    // Attention over the context is a kernel of its own, merged by a third.
    cost.latency_ns = (p.cached > 0 ? 2 : 1) * latent_start * roofline_.kernel_floor_ns();
    table_.price(p, cost);
    return cost;
  }

  std::string shape_text(const StepInput& input) const override {
    return "chunks=" + std::to_string(prompts(spec_, *input.shape, false).chunks) +
           " heads=" + std::to_string(spec_.heads) + " qk=" + std::to_string(spec_.head_dim + spec_.k) +
           " v=" + std::to_string(spec_.value_dim);
  }
  KernelClass kernel_class() const override { return KernelClass::attention_prefill; }

 private:
  OpSpec spec_;
  const Roofline& roofline_;
  PromptTable table_;
  double per_operation_ns_ = 0;
};

// Causal attention of prompts with the latent as key and value of all heads: 3.4 times the products of
// expanded heads of 128, and nothing to expand.
class MlaAbsorbedOperator : public Operator {
 public:
  MlaAbsorbedOperator(const OpSpec& spec, const Roofline& roofline)
      : spec_(spec), roofline_(roofline), table_(absorbed_shape(spec), roofline) {
    per_operation_ns_ =
        1 / (roofline.matrix_rate(spec.format.math) * roofline.efficiency(KernelClass::attention_prefill));
  }

  OpCost cost(const StepInput& input) const override {
    const Prompts p = prompts(spec_, *input.shape, true);
    if (p.chunks == 0) return {};
    const double heads = static_cast<double>(spec_.heads);
    const double width = stored_elements(spec_) + static_cast<double>(spec_.n);
    OpCost cost;
    cost.flops = 2.0 * width * heads * p.pairs;
    // Rows of all heads fill tiles together: only the diagonal is padded.
    cost.compute_ns = spec_.variant == "row_by_row" ? row_by_row_ns(p, width)
                                                    : 2.0 * width * heads * p.pairs * per_operation_ns_;
    cost.bytes = (p.fresh + p.cached) * stored_elements(spec_) * spec_.kv_bytes;
    const double queries = p.fresh * heads * width * activation;
    cost.memory_ns =
        roofline_.stream_ns(queries, roofline_.stays_in_cache(queries), cost.bytes, KernelClass::memory);
    cost.latency_ns = latent_start * roofline_.kernel_floor_ns();
    table_.price(p, cost);
    return cost;
  }

  std::string shape_text(const StepInput& input) const override {
    return "chunks=" + std::to_string(prompts(spec_, *input.shape, true).chunks) +
           " heads=" + std::to_string(spec_.heads) + " latent=" + std::to_string(spec_.n) + "+" +
           std::to_string(spec_.k);
  }
  KernelClass kernel_class() const override { return KernelClass::attention_prefill; }

 private:
  // Our own kernel serves a row's heads alone, as a decode's (live/forward/step_latent.cpp): a tile of 64 for
  // 16 heads, and a start for each row. Both from 18 steps of DeepSeek-V2-Lite's shape on an H200, launch by
  // launch (92 to 8,192 rows, 4 thousand to 2.8 million pairs), which this gives back within 12 %:
  // 0.072 µs a row over 132 units, 0.33 ns a pair.
  double row_by_row_ns(const Prompts& p, double width) const {
    constexpr double row_start = 7.3, reached = 0.43;  // kernel floors of a unit; of the matrix rate
    const double tile = std::ceil(static_cast<double>(spec_.heads) / static_cast<double>(query_rows)) *
                        static_cast<double>(query_rows);
    return p.fresh * row_start * roofline_.kernel_floor_ns() / static_cast<double>(roofline_.units()) +
           2.0 * width * tile * p.pairs / (roofline_.matrix_rate(spec_.format.math) * reached);
  }

  OpSpec spec_;
  const Roofline& roofline_;
  PromptTable table_;
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

std::unique_ptr<Operator> make_mla_absorbed(const OpSpec& spec, const Roofline& roofline) {
  return std::make_unique<MlaAbsorbedOperator>(spec, roofline);
}

// SGLang's FlashAttention over a cache of 8-bit latents (flashattention_backend.py of 0.5.23,
// `get_key_buffer(layer).to(q.dtype)`): before every absorbed launch a layer's whole pool, whoever holds it,
// is read and written again in 16 bits. Nobody timed it: a stream of those bytes.
class LatentPoolCast final : public Operator {
 public:
  LatentPoolCast(const OpSpec& spec, const Roofline& roofline)
      : spec_(spec), roofline_(roofline), bytes_(static_cast<double>(spec.n) * (spec.kv_bytes + activation)) {
  }

  OpCost cost(const StepInput& input) const override {
    OpCost cost;
    if (spec_.depends_on == DependsOn::prefill && prompts(spec_, *input.shape, true).chunks == 0) return cost;
    cost.bytes = bytes_;
    cost.memory_ns = roofline_.stream_ns(0, false, bytes_, KernelClass::elementwise);
    cost.latency_ns = roofline_.kernel_floor_ns();
    return cost;
  }
  KernelClass kernel_class() const override { return KernelClass::elementwise; }
  std::string shape_text(const StepInput&) const override { return "elements=" + std::to_string(spec_.n); }

 private:
  OpSpec spec_;
  const Roofline& roofline_;
  double bytes_;
};

std::unique_ptr<Operator> make_latent_pool_cast(const OpSpec& spec, const Roofline& roofline) {
  return std::make_unique<LatentPoolCast>(spec, roofline);
}

// Latent and rotary key of one token into the paged cache (concat_and_cache_mla).
std::unique_ptr<Operator> make_mla_cache_write(const OpSpec& spec, const Roofline& roofline) {
  // Ours norms and turns too (kernels/latent_heads.h).
  const RowTable table =
      spec.variant == "row_by_row" ? RowTable{"latent_heads", spec.n + spec.k} : RowTable{};
  return std::make_unique<StreamOperator>(spec, roofline, stored_elements(spec) * activation,
                                          stored_elements(spec) * spec.kv_bytes, 1, table);
}

}  // namespace orrery
