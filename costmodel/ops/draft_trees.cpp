// What SGLang's trees of drafts run beside a chain's kernels (costmodel/draft_tree_nodes.h). Nobody timed any
// of them: bytes at the rates of streams, and as many starts as there are kernels, counted in the sources.
#include <string>

#include "costmodel/op_table.h"
#include "costmodel/ops/common.h"
#include "costmodel/step_graph.h"

namespace orrery {

namespace {

// Rows of a verification or a drafting pass; none where nobody verifies (one token beside prompts).
double tree_rows(const OpSpec& spec, const StepInput& input) {
  const double sequences = input.shape->decode_sequences;
  if (spec.one_query) return sequences * spec.branches;
  return input.shape->draft_tokens > 0 ? sequences + input.shape->draft_tokens : 0;
}

class TreeOperator : public Operator {
 public:
  TreeOperator(const OpSpec& spec, const Roofline& roofline) : spec_(spec), roofline_(roofline) {}
  std::string shape_text(const StepInput& input) const override {
    return "rows=" + std::to_string(static_cast<std::int64_t>(tree_rows(spec_, input)));
  }
  KernelClass kernel_class() const override { return KernelClass::elementwise; }
  OpCost cost(const StepInput& input) const override {
    OpCost cost;
    const double rows = tree_rows(spec_, input);
    if (rows > 0) add(input, rows, cost);
    return cost;
  }

 protected:
  virtual void add(const StepInput& input, double rows, OpCost& cost) const = 0;
  void stream(double bytes, double starts, OpCost& cost) const {
    const bool cached = roofline_.stays_in_cache(bytes);
    cost.bytes = cached ? 0 : bytes;
    cost.memory_ns = roofline_.stream_ns(bytes, cached, 0, KernelClass::elementwise);
    cost.latency_ns = starts * roofline_.kernel_floor_ns();
  }
  OpSpec spec_;
  const Roofline& roofline_;
};

// The second launch of attention, one query a row over its path, two transpositions of softmax sums, and the
// sum of both results (`merge_state_v2`). The path's keys were just written.
class TreeAttentionOperator : public TreeOperator {
 public:
  using TreeOperator::TreeOperator;
  void add(const StepInput&, double rows, OpCost& cost) const override {
    // Of a latent every head reads the same key, whose first `n` numbers are the value.
    const bool latent = spec_.variant == "latent";
    const auto width = static_cast<double>(spec_.heads * (latent ? spec_.n : spec_.head_dim));
    const auto key = static_cast<double>(latent ? spec_.n + spec_.k : 2 * spec_.kv_heads * spec_.head_dim);
    const double keys = spec_.tree_keys * key;
    // Query and output of the launch; two results and their sum; five passes over sums of two results in
    // fp32.
    stream(rows * (keys * spec_.kv_bytes + 5 * width * 2 + 10 * static_cast<double>(spec_.heads) * 4),
           attention_start + 3, cost);
    const auto places = static_cast<double>(latent ? spec_.heads * spec_.k : 0);  // scores see them too
    cost.flops = (4.0 * width + 2.0 * places) * spec_.tree_keys * rows;
  }
  std::string shape_text(const StepInput& input) const override {
    const bool latent = spec_.variant == "latent";
    return TreeOperator::shape_text(input) + " heads=" + std::to_string(spec_.heads) + "/" +
           std::to_string(latent ? 1 : spec_.kv_heads) +
           " d=" + std::to_string(latent ? spec_.n + spec_.k : spec_.head_dim);
  }
  KernelClass kernel_class() const override { return KernelClass::attention_decode; }
};

// A byte of mask for each row and token that it may see. FlashAttention's lies in a buffer that is cleared
// whole (spec.n bytes); FlashInfer's is packed to bits.
class TreeBuildOperator : public TreeOperator {
 public:
  using TreeOperator::TreeOperator;
  void add(const StepInput& input, double rows, OpCost& cost) const override {
    const double sequences = input.shape->decode_sequences, each = rows / sequences;
    const double mask = (static_cast<double>(input.shape->decode_context_tokens) + rows) * each;
    const bool cascade = spec_.variant == "cascade";
    stream(spec_.n > 0 ? static_cast<double>(spec_.n) : mask * (cascade ? 1 : 2.125),
           TreeKernels::organizing + TreeKernels::building +
               TreeKernels::tables(cascade ? TreeAttention::cascade : TreeAttention::masked),
           cost);
  }
};

// Two tables cleared and filled, one copy of keys and values, two compactions.
class TreeCommitOperator : public TreeOperator {
 public:
  using TreeOperator::TreeOperator;
  void add(const StepInput& input, double rows, OpCost& cost) const override {
    const double sequences = input.shape->decode_sequences;
    const double moved =
        sequences * static_cast<double>(spec_.n) * static_cast<double>(spec_.k) * spec_.kv_bytes;
    // Hidden states are copied whole, and the path's gathered and written once more.
    const double hidden = (rows + sequences * static_cast<double>(spec_.n)) * spec_.out_bytes;
    stream(2 * moved + 2 * hidden, TreeKernels::committing, cost);
  }
};

}  // namespace

std::unique_ptr<Operator> make_tree_attention(const OpSpec& spec, const Roofline& roofline) {
  return std::make_unique<TreeAttentionOperator>(spec, roofline);
}
std::unique_ptr<Operator> make_tree_build(const OpSpec& spec, const Roofline& roofline) {
  return std::make_unique<TreeBuildOperator>(spec, roofline);
}
std::unique_ptr<Operator> make_tree_commit(const OpSpec& spec, const Roofline& roofline) {
  return std::make_unique<TreeCommitOperator>(spec, roofline);
}

// Softmax reads twice and writes; the choice of the best by four digits of eight bits reads once for each,
// and once more to gather. Its kernels are PyTorch's, assumed: a pass has a count, a scan and a choice, and
// four gather and sort.
std::unique_ptr<Operator> make_tree_candidates(const OpSpec& spec, const Roofline& roofline) {
  constexpr double passes = 3 + 5;
  return std::make_unique<StreamOperator>(spec, roofline, passes * 4 * static_cast<double>(spec.n), 0,
                                          tree_candidate_kernels);
}

// Products of chances, a small top-k of two kernels, two gathers; hidden states are read and written.
std::unique_ptr<Operator> make_tree_choice(const OpSpec& spec, const Roofline& roofline) {
  return std::make_unique<StreamOperator>(spec, roofline, 2 * 2 * static_cast<double>(spec.n), 0, 5);
}

}  // namespace orrery
