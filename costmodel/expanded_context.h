// Latent attention of vLLM expands a long context piece by piece; a dummy step makes room for a piece.
#pragma once

#include "costmodel/instance_spec.h"

namespace orrery {

// Elements that a dummy step needs for a piece of context, beside a layer's queries and outputs; 0 for other
// models and engines.
double expanded_context(const InstanceSpec& spec);

// What a runner that estimates graphs sees the largest one of FLASH_ATTN_MLA take for sums of split keys; 0
// for other backends and runners.
Bytes split_sums(const InstanceSpec& spec);

}  // namespace orrery
