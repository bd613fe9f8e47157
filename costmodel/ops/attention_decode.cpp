// Attention of one new token per sequence over its KV cache: the keys and values are read once. Batches too
// small to fill the device are split along the keys and combined by a second kernel (FA3 in full graphs
// always launches it: splits ≤ 32 are fixed at capture).
#include <algorithm>
#include <array>
#include <cmath>
#include <string>

#include "costmodel/op_table.h"
#include "costmodel/ops/common.h"

namespace orrery {

namespace {

constexpr std::int64_t matrix_rows = 16;  // rows of the smallest matrix instruction: query heads of a KV head
                                          // are padded

class AttentionDecodeOperator : public Operator {
 public:
  AttentionDecodeOperator(const OpSpec& spec, const Roofline& roofline) : spec_(spec), roofline_(roofline) {
    if (roofline.laws() != nullptr && roofline.laws()->decode_rows > 0)
      tile_rows_ = roofline.laws()->decode_rows;
    padded_heads_ = padded_heads(static_cast<double>(spec.heads / spec.kv_heads));
    per_operation_ns_ =
        1 / (roofline.matrix_rate(spec.format.math) * roofline.efficiency(KernelClass::attention_prefill));
    if (roofline.kernels() != nullptr && !spec.other_kernel) read_table(*roofline.kernels());
  }

  OpCost cost(const StepInput& input) const override {
    const std::int64_t walks =  // over a context
        std::int64_t{input.shape->decode_sequences} * (spec_.branches_apart ? spec_.branches : 1);
    const auto sequences = static_cast<double>(walks);
    const double branches = spec_.branches_apart ? 0 : sequences * (spec_.branches - 1);
    const double drafts = spec_.one_query ? branches : input.shape->draft_tokens;
    double keys = static_cast<double>(input.shape->decode_context_tokens) *
                      (spec_.branches_apart ? spec_.branches : 1) +
                  sequences;  // the new token sees itself
    if (drafts > 0 && !spec_.tree_apart) keys += drafts;
    if (spec_.window > 0) keys = std::min(keys, sequences * static_cast<double>(spec_.window));
    const double per_key = 4.0 * static_cast<double>(spec_.head_dim);
    OpCost cost;
    cost.flops = per_key * static_cast<double>(spec_.heads) * keys;
    // Each tile (a sequence's KV head) also takes a while of its own, however short its context.
    const std::int64_t tiles = walks * spec_.kv_heads;
    const double waves = static_cast<double>(tiles / roofline_.units());
    cost.compute_ns = std::max(per_key * padded_heads_ * keys * per_operation_ns_,
                               waves * attention_wave * roofline_.kernel_floor_ns());
    cost.bytes = keys * 2.0 * static_cast<double>(spec_.kv_heads * spec_.head_dim) * spec_.kv_bytes;
    if (drafts > 0) several_queries(1 + drafts / sequences, keys, cost);
    const double queries = (sequences + drafts) * 2.0 * static_cast<double>(spec_.heads * spec_.head_dim) * 2;
    cost.memory_ns = roofline_.stream_ns(queries, roofline_.stays_in_cache(queries), cost.bytes,
                                         KernelClass::attention_decode);
    // With prompt chunks in the step, one launch serves both.
    if (input.shape->prefill.empty()) cost.latency_ns = attention_start * roofline_.kernel_floor_ns();
    const KernelLaws* const laws = roofline_.laws();
    if (laws != nullptr && laws->decode && drafts == 0 && laws->decode->holds(walks, spec_.heads)) {
      const double walk = laws->decode->ns(roofline_.units(), walks, spec_.heads, keys);
      price_from_law(cost, *laws, roofline_.part(), walk + cost.memory_ns, laws->decode->error);
    } else if (splits_keys(laws) && drafts == 0) {
      const double walk =
          laws->split_decode->ns(roofline_.units(), walks, spec_.heads, spec_.kv_heads, spec_.head_dim, keys);
      // Where the bytes take longer, the price is the roofline's, and is called so; the walk stands for its
      // tiles' waves.
      if (walk > cost.memory_ns)
        price_from_law(cost, *laws, roofline_.part(), walk + cost.latency_ns, laws->split_decode->error);
      else
        cost.compute_ns = walk;
    } else if (surface_) {
      price_from_surface(input, sequences, keys, cost);
    }
    // The tables know one query a sequence; more of them read the keys once and multiply more.
    if (drafts > 0 && cost.table_ns > 0)
      cost.table_ns = std::max(cost.table_ns, cost.compute_ns + cost.latency_ns);
    widen_attention(cost, spec_, roofline_.error(kernel_class()));
    // Capped scores: their tanh hides behind the keys' way from memory, where it was not timed either.
    if (spec_.softcap && cost.table_ns > 0) not_its_own(cost);
    return cost;
  }

  std::string shape_text(const StepInput& input) const override {
    return "sequences=" + std::to_string(input.shape->decode_sequences) +
           (input.shape->draft_tokens > 0 && !spec_.one_query
                ? " drafts=" + std::to_string(input.shape->draft_tokens)
                : "") +
           " context=" + std::to_string(input.shape->decode_context_tokens) +
           " heads=" + std::to_string(spec_.heads) + "/" + std::to_string(spec_.kv_heads) +
           " d=" + std::to_string(spec_.head_dim) +
           (spec_.window > 0 ? " window=" + std::to_string(spec_.window) : "");
  }
  KernelClass kernel_class() const override { return KernelClass::attention_decode; }

 private:
  bool splits_keys(const KernelLaws* laws) const {
    return laws != nullptr && laws->split_decode && spec_.window == 0 &&
           laws->split_decode->of(spec_.head_dim) != nullptr;
  }

  // Query heads of a KV head, and those of a sequence's drafts, share a matrix instruction.
  double padded_heads(double rows) const {
    const auto blocks = static_cast<std::int64_t>(std::ceil(rows / static_cast<double>(tile_rows_)));
    return static_cast<double>(blocks * tile_rows_ * spec_.kv_heads);
  }

  // Verification: each of a sequence's `queries` sees its keys (the few that causality hides are not taken
  // off).
  void several_queries(double queries, double keys, OpCost& cost) const {
    const double per_key = 4.0 * static_cast<double>(spec_.head_dim);
    const double group = static_cast<double>(spec_.heads / spec_.kv_heads);
    cost.flops *= queries;
    cost.compute_ns =
        std::max(cost.compute_ns, per_key * padded_heads(group * queries) * keys * per_operation_ns_);
  }

  // The table's time of so many sequences with equally many keys each, on a dense grid: decode steps are
  // priced millions of times.
  void read_table(const KernelSet& kernels) {
    AttentionShape shape = attention_shape(spec_);
    surface_ = kernels.attention_decode(shape);
    if (!surface_ && shape.window >= least_borrowing_window) {
      shape.window = 0;
      surface_ = kernels.attention_decode(shape);
      hit_ = Hit::extrapolated;
    }
    if (!surface_) return;
    corrected_as_ = {kernels.corrected_as("attention_decode", spec_.head_dim),
                     kernels.corrected_as("attention_decode_mixed", spec_.head_dim)};
    constexpr int sequence_octaves = 11, key_octaves = 18;
    grid_ = DenseGrid(sequence_octaves, key_octaves, [&](double sequences, double keys) {
      return decode_bound_ns(roofline_.rates(), shape, sequences, sequences * keys) /
             surface_->at(sequences, keys);
    });
    grid_.make_monotone();
  }

  void price_from_surface(const StepInput& input, double sequences, double keys, OpCost& cost) const {
    const double mean = keys / sequences;
    double ns = grid_.at(sequences, mean);
    const bool mixed = !input.shape->prefill.empty();
    // With prompt chunks in the step one launch serves both: what is left is what the keys add to a start.
    if (mixed) ns = std::max(ns - grid_.at(1, 1), ns / 2);
    // hit() looks at every line of the table; the error does not depend on it between the table's ends.
    price_from_table(cost, *roofline_.kernels(), mixed ? "attention_decode_mixed" : "attention_decode",
                     spec_.kv_bytes < 2 ? "fp8" : "bf16", 1.0, hit_, surface_->shape_known(),
                     sequences * static_cast<double>(spec_.kv_heads), ns, corrected_as_[mixed]);
  }

  OpSpec spec_;
  const Roofline& roofline_;
  std::int64_t tile_rows_ = matrix_rows;
  double padded_heads_ = 0, per_operation_ns_ = 0;
  std::optional<FittedSurface> surface_;
  Hit hit_ = Hit::interpolated;
  std::array<std::string, 2> corrected_as_;  // alone, beside prompts
  DenseGrid grid_;
};

}  // namespace

std::unique_ptr<Operator> make_attention_decode(const OpSpec& spec, const Roofline& roofline) {
  return std::make_unique<AttentionDecodeOperator>(spec, roofline);
}

}  // namespace orrery
