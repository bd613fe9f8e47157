// How sure the memory plan is of the room that it leaves for KV blocks.
#pragma once

#include <cstdint>

#include "base/yaml_reader.h"
#include "costmodel/figure.h"

namespace orrery {

struct InstanceSpec;
struct MemoryPlan;

// One standard deviation of what no configuration settles, of one GPU (`memory_error` of an engine profile):
// of the activation peak and of graphs as shares of them; of framework, workspaces and what allocators round
// as bytes.
struct MemoryError {
  Figure<double> activations, graphs;
  Figure<Bytes> fixed;
  bool present() const { return fixed.present(); }
};
MemoryError read_memory_error(const Yaml& node);

// One standard deviation of MemoryPlan::kv_available, items independent of one another. 0: the blocks were
// given, or the profile does not say.
Bytes kv_deviation(const InstanceSpec& spec, const MemoryPlan& plan);

// Ends that many deviations to either side of the plan's blocks, never below 0; both are the plan's where it
// has no deviation.
struct KvInterval {
  std::int64_t low = 0, high = 0;  // blocks
};
KvInterval kv_interval(const MemoryPlan& plan, double deviations);

// Of a normal distribution, to either side of its mean, for nine tenths.
constexpr double normal_deviations = 1.645;

}  // namespace orrery
