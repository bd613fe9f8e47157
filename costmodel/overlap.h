// What an engine runs side by side or in one kernel, beyond two batches (costmodel/two_batches.h): shared
// experts on a stream of their own, all-reduces in one kernel with the norm behind them, kernels that start
// while the one before them ends. Switches of an engine profile (`overlap`), turned by the engine's own
// arguments. docs/overlap.md
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "base/yaml_reader.h"
#include "costmodel/figure.h"

namespace orrery {

// What shared experts stand beside where rows are exchanged by point-to-point kernels.
enum class BesideExchange : std::uint8_t { nothing, combine, everything };

struct SharedExpertStream {
  bool on = false;
  std::string vendor;            // of parts that have it; "" = any
  std::int64_t most_tokens = 0;  // of a step, padded; 0 = any. Not asked where rows are exchanged
  bool full_graphs_only = false;
  BesideExchange exchanged = BesideExchange::nothing;
  Figure<Seconds> fork_join;  // of a layer: leaving the stream and coming back to it
  Figure<double> bandwidth;   // of the data sheet's, that two branches reach together
};

// One entry an architecture of parts.
struct FusedAllReduce {
  bool on = false;
  std::string architecture;
  std::vector<std::string> models;  // architectures of models that have it by default; empty = all
  std::int64_t most_tokens = 0;     // of a step; 0 = any
  // Of the buffer, by number of ranks; empty = any number and size, else those listed only.
  std::vector<std::pair<std::int64_t, double>> most_bytes;
  bool embedding = false;     // the embedding's all-reduce and the first norm too
  bool static_scale = false;  // quantising with a scale known beforehand is in the kernel; other quantising
                              // is a kernel of its own behind it
  bool quantises = false;     // so is quantising by token or block
};

struct DependentLaunch {
  bool on = false;
  std::string architecture;
  Figure<Seconds> saved;  // of each kernel that takes part
};

// As a profile says, then resolved for an instance: `on` is then what runs.
struct OverlapRules {
  SharedExpertStream shared;
  std::vector<FusedAllReduce> fused_of;  // by architecture
  FusedAllReduce fused;                  // resolved
  std::int64_t fused_tokens = 0;         // resolved: the most that a step may have; 0 = none is fused
  DependentLaunch launch;
  // Given by arguments: -1 = not.
  int fused_given = -1;
  double fused_bytes_given = -1;
};

struct EngineProfile;
struct HardwareProfile;
struct ModelSpec;
struct ParallelPlan;

OverlapRules read_overlap(const Yaml& node);
// vLLM's and TensorRT-LLM's arguments and environment variables; false = not one of these.
bool apply_overlap_argument(const std::string& name, const Yaml& value, OverlapRules& rules);
// vLLM's compilation_config.pass_config.
void apply_fusion_passes(const Yaml& value, EngineProfile& engine);
void resolve_overlap(EngineProfile& engine, const HardwareProfile& hardware, const ModelSpec& model,
                     const ParallelPlan& plan, const Yaml& place);

}  // namespace orrery
