// What one block of a tier in host memory holds.
#pragma once

#include "costmodel/instance_spec.h"
#include "costmodel/kv_groups.h"
#include "costmodel/memory_plan.h"

namespace orrery {

// Of one rank: keys and values of a block's tokens in all layers, or in one group's, where layers fall into
// groups with block tables of their own; where layers with a window have a pool of their own, in one
// of the equal parts that the layers of either kind fall into (LayerParts).
Bytes host_block_bytes(const InstanceSpec& spec, const MemoryPlan& plan);

// The parts, with the layers of a drafting network among those that keep all tokens.
LayerParts cached_parts(const InstanceSpec& spec);

// TensorRT-LLM with several window sizes: blocks of the layers that keep everything; of the others, and of
// both tiers in host memory, it tells the plan.
std::int64_t blocks_by_window(const InstanceSpec& spec, MemoryPlan& plan, double bytes);

}  // namespace orrery
