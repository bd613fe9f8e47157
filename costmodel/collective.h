// Collectives inside one scale-up domain, as vLLM 0.24 dispatches them without flashinfer or symmetric
// memory: a custom one- or two-shot kernel below a size, NCCL/RCCL above (../shared/reference/vllm_0_24.md
// §7).
#pragma once

#include <cstdint>
#include <string>

#include "costmodel/operator.h"
#include "costmodel/roofline.h"

namespace orrery {

enum class Collective : std::uint8_t { all_reduce, all_gather, reduce_scatter, all_to_all, send_recv };
const char* to_string(Collective collective);

// `bytes`: the full buffer of one rank (interfaces §7). Precondition: ranks ≥ 2 and the part has links.
OpCost collective_cost(const Roofline& roofline, Collective collective, double bytes, std::int32_t ranks);

// Sizes strictly below this use the custom all-reduce (SM90: 8 MiB up to four ranks, 256 KiB at eight).
double custom_all_reduce_limit(std::int32_t ranks);

}  // namespace orrery
