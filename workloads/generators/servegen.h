// ServeGen's client profiles (Xiang et al., NSDI 2026; github alibaba/ServeGen) as a seeded stream.
//
// As published: each client has windows (600 s) of rate and gap distribution (Gamma or Weibull), and windows
// (6 h) of length distributions. In each window a client draws ⌈rate × window⌉ gaps, scaled to fill
// the window exactly, which is ServeGen's own construction. Two differences from it: random streams are
// Orrery's, and input and output lengths are drawn independently (ServeGen draws both with one number, so
// that long prompts always get long answers; the joint distribution is not published). The reason_ratio field
// is not used.
#pragma once

#include <cstdint>
#include <memory>

#include "workloads/generator.h"

namespace orrery {

// Ends after `requests`, or earlier at the end of the published windows. Memory: one window's requests.
std::unique_ptr<RequestSource> make_servegen(const ServegenSpec& spec, std::uint64_t requests,
                                             std::uint64_t seed);

}  // namespace orrery
