// Attention data parallelism: how an engine's ranks work together in one step, as data of its profile
// (docs/parallel_plans.md).
#pragma once

#include <cstdint>
#include <string>

#include "base/yaml_reader.h"
#include "costmodel/figure.h"

namespace orrery {

// Who computes what between attention layers, and how the ranks are padded.
enum class JointRule : std::uint8_t {
  // SGLang: MLP, experts and the head are spread over all GPUs and see the gathered tokens of all ranks.
  sglang,
  // vLLM: routed experts alone are; everything else is a rank's own. Models without experts have no joint
  // step: their ranks are independent engines (InstanceSpec::engines).
  vllm,
  // TensorRT-LLM: the same, with one GPU a rank. Modelled for models with experts.
  tensorrt_llm,
};

// What a profile says; `sync` is what two ranks exchange on the CPU before every step, `sync_per_rank` what
// each further rank adds (vLLM: a ring, two more hops). The other figures are SGLang's alone.
struct DataParallelRules {
  JointRule rule = JointRule::sglang;
  Figure<Seconds> sync, sync_per_rank;
  Figure<Bytes> largest_custom_all_reduce;  // decode rows up to here are gathered by an all-reduce
  Figure<double> conservativeness;          // factor on schedule_conservativeness
  // Reserved beside what every engine reserves, for each decode slot and rank; more above `many_slots`.
  Figure<Bytes> per_decode_slot, per_decode_slot_of_many;
  Figure<double> many_slots;
};

DataParallelRules read_data_parallel(const Yaml& node);

struct ModelSpec;
struct WeightFormat;
// vLLM (fused_moe/prepare_finalize/naive_dp_ep.py, AgRsAll2AllManager): bytes of a token's row on its way to
// the experts of all ranks: hidden values in the type that the experts multiply, their scales, and four bytes
// each for weight and index of every chosen expert. One group of all-gathers; results come back by a
// reduce-scatter in the activation type.
// TensorRT-LLM (modules/fused_moe/fused_moe_cutlass.py: `allgather` of x, its scales, chosen experts and
// their weights) sends block-scaled FP8 as it comes, in the activation type: its kernel quantises what was
// gathered.
double dispatch_bytes(const ModelSpec& model, const WeightFormat& experts, JointRule rule);

// How rows go to the ranks that hold their experts and back (costmodel/expert_exchange.h).
enum class ExpertExchange : std::uint8_t {
  collectives,  // gathered by every rank, and what it makes of them reduced and scattered
  low_latency,  // DeepEP's kernels of that name: a message for every chosen expert, graphs can hold them
  normal,       // a row for every distinct rank; the host waits for counts, no graphs
  by_prompts,   // normal in steps with a prompt on any rank, else low latency
};

// Two halves of a step that run in turns, so that the exchange of one hides behind the work of the other
// (costmodel/two_batches.h).
struct TwoBatchSettings {
  bool on = false;
  bool by_phase = false;  // SGLang: decodes in a finer order, prompts only among themselves
  std::int64_t decodes_from = 0, prompts_from = 0;  // tokens of a rank, vLLM's dbo_…_token_threshold
};

// Resolved for an instance; ranks 1 = there is none.
struct JointSettings {
  std::int32_t ranks = 1;
  JointRule rule = JointRule::sglang;
  double row_bytes = 0;     // of hidden states
  double sum_bytes = 0;     // largest_custom_all_reduce
  std::int64_t width = 1;   // GPUs of a rank; its tokens are padded to a multiple of them
  bool pads_eager = false;  // vLLM's V1 runner: eager steps keep the graph size that each rank had chosen
  ExpertExchange exchange = ExpertExchange::collectives;
  std::string exchange_library = {};  // "deepep", "mori"
  TwoBatchSettings two_batches = {};
  bool dense_whole = false;  // SGLang's moe_dense_tp_size: 1, every GPU has dense MLPs whole, for its rank's
                             // rows
  bool head_whole = false;   // enable_dp_lm_head: and the head, inside a rank
  bool on() const { return ranks > 1; }
  bool exchanges() const { return exchange != ExpertExchange::collectives; }
  bool low_latency(bool prompts) const {
    return exchange == ExpertExchange::low_latency || (exchange == ExpertExchange::by_prompts && !prompts);
  }
  bool gathers_all() const { return on() && rule == JointRule::sglang; }
  bool gathers_experts() const { return on() && rule != JointRule::sglang; }
  bool runs_in_waves() const { return on() && rule == JointRule::vllm; }  // sim/costed/idle_waves.h
  bool deals_by_pass() const { return on() && rule == JointRule::tensorrt_llm; }
};

}  // namespace orrery
