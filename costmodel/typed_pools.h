// What an engine of typed arguments (SGLang) cannot do with the pools that its memory gives.
#pragma once

#include <cstdint>

#include "base/result.h"

namespace orrery {

struct InstanceSpec;
struct MemoryPlan;

Status check_pools_of_typed(const InstanceSpec& spec, const MemoryPlan& plan);

// Whether attention copies a layer's pool of 8-bit latents to 16 bits before it runs (ops/mla.cpp), and how
// many elements it then has; 0: it does not fit.
bool copies_latents(const InstanceSpec& spec);
std::int64_t copied_latents(const InstanceSpec& spec);

}  // namespace orrery
