// One kind of kernel in the graph of a step: its static shape is fixed when the pricer is made, and its
// cost is arithmetic on what the step brings. Adding one: a file in ops/ and a line in op_table.cpp.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "costmodel/context_parallel.h"
#include "costmodel/experts/rank_loads.h"
#include "costmodel/padding.h"
#include "costmodel/step_pricer.h"
#include "costmodel/step_shape.h"
#include "costmodel/utilisation.h"

namespace orrery {

struct GroupLinks;
class MoeTiles;

// Classes of kernels that have an efficiency of their own in a hardware profile (names: to_string).
enum class KernelClass : std::uint8_t {
  gemm_bf16,
  gemm_fp16,
  gemm_fp8,
  gemm_fp8_block,
  gemm_int8,
  grouped_gemm_bf16,
  grouped_gemm_fp8,
  attention_prefill,
  attention_decode,
  memory,
  elementwise,
  collective,
  count
};
const char* to_string(KernelClass kernel_class);

enum class Bound : std::uint8_t { compute, memory, link, latency };
const char* to_string(Bound bound);

// What one launch does on one GPU, and how long it takes. Times in nanoseconds.
struct OpCost {
  double flops = 0;
  double bytes = 0;       // HBM traffic; what stays in a cache is not counted
  double link_bytes = 0;  // sent by this GPU
  double compute_ns = 0, memory_ns = 0, link_ns = 0, latency_ns = 0;
  // Of link_ns, were the links between nodes the only ones; bytes over the busiest of them (not this GPU's).
  double network_ns = 0, network_bytes = 0;
  double inside_ns = 0;  // what those inside a node take for it at their data-sheet rate
  // A kernel starts up, then runs at the pace of its slowest resource: a dependent kernel cannot overlap its
  // start with its own work, so the start is added (the smallest GEMMs measured, 3.8–4 µs for 8 MB of weights
  // that stream in 1.9 µs, show it: ../shared/reference/hardware.md §7).
  // Where a table knows the kernel, its time (0 = it does not) and how sure that is.
  double table_ns = 0;
  Rung rung = Rung::roofline;
  Hit hit = Hit::extrapolated;
  double error = 0;  // one standard deviation of log(table_ns)
  double ns() const {
    if (table_ns > 0) return table_ns;
    const double work = compute_ns > memory_ns ? compute_ns : memory_ns;
    return latency_ns + (work > link_ns ? work : link_ns);
  }
  Bound bound() const;
};

// What a step brings to an operator.
struct StepInput {
  std::int64_t tokens = 0;  // after padding to a captured graph
  std::int64_t rows = 0;    // sampled rows: one per sequence (vLLM computes logits for unfinished chunks too)
                            // and one per draft
  const StepShape* shape = nullptr;  // real lengths, for attention
  std::int64_t eager_kernels = 0;    // launched one by one, outside every graph
  std::int64_t drafting = 0;         // tokens of a drafting pass: one a sequence, padded
  const RankLoad* load = nullptr;    // of a layer's slowest rank; null = expectation over uniform popularity
  std::int64_t own = 0;              // where `tokens` are those of all ranks: this rank's
};

// Which of a step's numbers an operator depends on. The pricer keeps a table for tokens, rows and drafting.
// experts: tokens and the load of the ranks, where popularity is not uniform (costmodel/expert_loads.h).
// handoff: tokens, but between pipeline stages and not part of a stage's busy time.
// gathered…: attention data parallelism, the tokens (rows of the head) of all ranks; of the collectives
// around them those of the way that the step gathers. StepInput::tokens is that number for them.
enum class DependsOn : std::uint8_t {
  tokens,
  rows,
  prefill,
  decode,
  eager,
  drafting,
  experts,
  handoff,
  side_stream,  // the line of what shared experts hide beside the routed ones
  early_start,  // the line of what kernels gain that start while the one before them ends
  gathered,
  gathered_evenly,  // all-gather of equal shares, reduce-scatter
  gathered_by_sum,  // all-reduces over a sparse buffer
  gathered_rows,
  exchanged_low_latency,  // tokens of all ranks and the rank's own, in steps with these kernels
  exchanged_normal,
  split_prompts,  // context parallelism: rows of all ranks, in steps whose prompts are dealt to them
  whole_step,     // the same rows, in all other steps
  two_batches     // the line of what two halves hide of one another
};
inline bool is_exchanged(DependsOn d) {
  return d == DependsOn::exchanged_low_latency || d == DependsOn::exchanged_normal;
}
inline bool is_gathered(DependsOn d) { return d >= DependsOn::gathered && d != DependsOn::two_batches; }
struct ExchangeShape;  // costmodel/expert_exchange.h

class Operator {
 public:
  virtual ~Operator() = default;
  virtual OpCost cost(const StepInput& input) const = 0;  // of one launch; precondition: there is work
  virtual std::string shape_text(const StepInput& input) const = 0;  // "m=64 n=6144 k=4096 bf16", for people
  virtual KernelClass kernel_class() const = 0;                      // whose efficiency and error apply
};

// How weights are stored and multiplied.
struct WeightFormat {
  DType stored = DType::bf16;
  DType math = DType::bf16;        // the matrix instruction that multiplies them
  double bytes_per_parameter = 2;  // with scales
  double activation_bytes = 2;     // per element of the GEMM's input
  std::string label = "bf16";      // "bf16", "fp8-block", … as in interfaces §7
};

// The static shape of an operator, per GPU (after sharding). Each operator reads the fields that it names.
struct OpSpec {
  std::int64_t n = 0, k = 0;  // features out, in
  WeightFormat format;
  std::int64_t experts = 0, experts_per_token = 0;  // of the model
  std::int64_t expert_ranks = 1;  // expert-parallel width: this GPU holds experts ÷ expert_ranks
  std::int64_t heads = 0, kv_heads = 0, head_dim = 0;
  std::int64_t value_dim = 0;  // latent attention: width of a head's values, where it is not head_dim
  // Latent attention: prompts of up to so many new tokens, and all of steps of up to so many, are served with
  // the latent as key and value, as decodes are.
  std::int64_t absorbed_chunk = 0, absorbed_step = 0;
  std::int64_t window = 0;  // 0 = full attention
  double kv_bytes = 2;      // per element of the KV cache
  double out_bytes = 2;     // per element written by a fused quantising kernel
  std::int32_t ranks = 1;
  std::int32_t further = 0;  // all_gather: tensors gathered in the same launch beside the first; bytes are of
                             // all
  const GroupLinks* links = nullptr;  // collectives: of their group, where it stands on several nodes
  bool norm_heads = false;            // rotary: with per-head RMSNorm of q and k
  bool softcap = false;               // attention: scores go through cap · tanh(score / cap)
  bool other_kernel = false;          // attention: the engine runs a kernel that is not the one in its tables
  bool relative = false;      // row-wise: the table's figures are those of a kernel alike; twice their error
  bool one_query = false;     // attention_decode: one token a sequence, whatever the step verifies
  std::int32_t branches = 1;  // of a further drafting pass: rows of each sequence
  bool branches_apart = false;  // attention_decode: each of them reads the context's keys by itself
  bool tree_apart = false;      // attention_decode: keys of a tree of drafts are another kernel's
  double tree_keys = 0;         // tree_attention: that a row sees, on average
  bool expert_rows = false;     // rows = tokens · experts_per_token
  bool own_rows = false;        // of what depends on all ranks' tokens: the rank's own
  std::shared_ptr<const ExchangeShape> exchange;  // of ep_dispatch and ep_combine
  std::shared_ptr<const MoeTiles> tiles;  // grouped_gemm: of the engine's kernel, where they are told apart
  DependsOn depends_on = DependsOn::tokens;
  ContextUse context = ContextUse::none;  // with the ranks that share the context, and as ContextSettings
  std::int32_t context_ranks = 1;
  std::int64_t interleave = 1;
  bool splits = false;
  double gap_ns = 0;  // stream_gaps: between two kernels
  // Of the engine's own kernels, where it has several: "v1", "v2". fused_experts: the operator of the choice
  // of experts, where the layer's timing holds one.
  std::string variant;
};

}  // namespace orrery
