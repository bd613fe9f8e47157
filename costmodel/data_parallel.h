// Attention data parallelism: how an engine's ranks work together in one step, as data of its profile
// (docs/parallel_plans.md).
#pragma once

#include <cstdint>

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
};

// What a profile says; `sync` is one exchange of the ranks' batch shapes before every step. The other figures
// are SGLang's alone.
struct DataParallelRules {
  JointRule rule = JointRule::sglang;
  Figure<Seconds> sync;
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
double dispatch_bytes(const ModelSpec& model, const WeightFormat& experts);

// Resolved for an instance; ranks 1 = there is none.
struct JointSettings {
  std::int32_t ranks = 1;
  JointRule rule = JointRule::sglang;
  double row_bytes = 0;     // of hidden states
  double sum_bytes = 0;     // largest_custom_all_reduce
  std::int64_t width = 1;   // GPUs of a rank; its tokens are padded to a multiple of them
  bool pads_eager = false;  // vLLM's V1 runner: eager steps keep the graph size that each rank had chosen
  bool on() const { return ranks > 1; }
  bool gathers_all() const { return on() && rule == JointRule::sglang; }
  bool gathers_experts() const { return on() && rule == JointRule::vllm; }
};

}  // namespace orrery
