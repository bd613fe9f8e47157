// The times of HostCosts by the names that profiles and what-ifs give them.
#pragma once

#include <array>

#include "costmodel/engine_profile.h"

namespace orrery {

struct HostTerm {
  const char* key;
  Figure<Seconds>* figure;
  bool optional = false;  // a profile may leave it out
};

struct HostRatio {
  const char* key;
  Figure<double>* figure;
};
inline auto host_ratios(HostCosts& h) {
  using Term = HostRatio;
  return std::array{Term{"first_kernel", &h.first_kernel},
                    Term{"launch_jitter_median", &h.launch_jitter_median},
                    Term{"launch_jitter_below", &h.launch_jitter_below},
                    Term{"launch_jitter_above", &h.launch_jitter_above},
                    Term{"launch_jitter_correlation", &h.launch_jitter_correlation}};
}

inline auto host_terms(HostCosts& h) {
  using Term = HostTerm;
  return std::array{
      Term{"schedule_base", &h.schedule_base},
      Term{"schedule_per_sequence", &h.schedule_per_sequence},
      Term{"schedule_per_new_request", &h.schedule_per_new_request},
      Term{"prepare_base", &h.prepare_base},
      Term{"prepare_per_sequence", &h.prepare_per_sequence},
      Term{"prepare_per_sequence_v1", &h.prepare_per_sequence_v1},
      Term{"prepare_rpc", &h.prepare_rpc},
      Term{"launch_graph", &h.launch_graph},
      Term{"launch_piece", &h.launch_piece},
      Term{"launch_kernel", &h.launch_kernel},
      Term{"launch_experts", &h.launch_experts},
      Term{"launch_collective", &h.launch_collective},
      Term{"stream_gap", &h.stream_gap},
      Term{"step_gap", &h.step_gap},
      Term{"copy", &h.copy},
      Term{"update_base", &h.update_base},
      Term{"update_per_sequence", &h.update_per_sequence},
      Term{"loop_gap", &h.loop_gap},
      Term{"input_delay", &h.input_delay},
      Term{"core_wake", &h.core_wake},
      Term{"input_per_request", &h.input_per_request},
      Term{"input_per_token", &h.input_per_token},
      Term{"output_delay", &h.output_delay},
      Term{"output_per_sequence", &h.output_per_sequence},
      Term{"ngram_token", &h.ngram_token, true},
      Term{"ngram_propose", &h.ngram_propose, true},
      Term{"ngram_propose_per_sequence", &h.ngram_propose_per_sequence, true},
      Term{"prepare_per_group", &h.prepare_per_group, true},
      Term{"schedule_per_group", &h.schedule_per_group, true},
      Term{"launch_triton", &h.launch_triton, true},
  };
}

}  // namespace orrery
