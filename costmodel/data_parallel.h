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
};

// What a profile says; `sync` is one exchange of the ranks' batch shapes before every step.
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

// Resolved for an instance; ranks 1 = there is none.
struct JointSettings {
  std::int32_t ranks = 1;
  JointRule rule = JointRule::sglang;
  double row_bytes = 0;    // of hidden states
  double sum_bytes = 0;    // largest_custom_all_reduce
  std::int64_t width = 1;  // GPUs of a rank; its tokens are padded to a multiple of them
  bool on() const { return ranks > 1; }
};

}  // namespace orrery
