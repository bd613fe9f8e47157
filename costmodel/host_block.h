// What one block of a tier in host memory holds.
#pragma once

#include "costmodel/instance_spec.h"
#include "costmodel/memory_plan.h"

namespace orrery {

// Of one rank: keys and values of a block's tokens in all layers, or in one group's, where layers fall into
// groups with block tables of their own; where layers with a window have a pool of their own (SGLang), in one
// of the equal parts that the layers of either kind fall into (LayerParts).
Bytes host_block_bytes(const InstanceSpec& spec, const MemoryPlan& plan);

}  // namespace orrery
