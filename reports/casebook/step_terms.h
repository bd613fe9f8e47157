// The estimates behind `fit_steps` (step_fit.h): an engine's host terms and operator factors from logged
// steps. Every estimate is a posterior: what the log says against how far hosts are known to differ from the
// profile's, so that a log which says little moves little. Terms of the host are taken by their level
// (host_level.h), the factors of operators as a whole or not at all (step_fit.cpp).
//
// Launches of steps with prompts are two levels, as the executor has them (sim/costed/launch_jitter.h):
// prompts alone, whose launches find a host that slept, and prompts beside decodes, whose launches spread by
// the profile's `launch_jitter_*`. A log of one kind says nothing of the other, but that launches of a busy
// host stand for lone ones where no lone ones were logged.
#pragma once

#include <array>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "reports/casebook/host_level.h"
#include "reports/casebook/step_samples.h"

namespace orrery {

struct StepTerms {
  double schedule_base = 0, schedule_per_sequence = 0, schedule_per_new_request = 0;
  double handover = 0;  // end of schedule to begin of launch
  double launch_graph = 0, per_sequence = 0;
  double eager = 1, piecewise = 1;  // factors on what launching takes beyond launch_graph
  double jitter_median = 1;         // on launches of steps with prompts beside decodes
  double update_base = 0, update_per_sequence = 0;
  std::array<double, op_class_count> operators{};
  double condition = 0;                      // of the operator classes
  std::map<std::string, std::string> kept;   // term, or its group → why it is the profile's
  std::map<std::string, std::string> notes;  // term → what its figure was taken from
  std::vector<HostLevel> levels;
  HostLevel lone, beside;  // of them: launches kernel by kernel, of prompts alone and beside decodes
};

const char* per_sequence_key(const InstanceSpec& spec);
bool one_process(const InstanceSpec& spec);

StepTerms terms_of_profile(const InstanceSpec& spec);
// `refused`: groups of terms that stay the profile's, of schedule, handover, update, graph (launches of one,
// and inputs per sequence), operators.
StepTerms fit_terms(const std::vector<StepSample>& samples, const InstanceSpec& spec,
                    const std::set<std::string>& refused);

// What a sample takes by these terms, microseconds: the middle of what it varies in.
double schedule_of(const StepSample& s, const StepTerms& t);
double handover_of(const StepSample& s, const StepTerms& t);
double launch_of(const StepSample& s, const StepTerms& t);
double update_of(const StepSample& s, const StepTerms& t);
double device_of(const StepSample& s, const StepTerms& t);

}  // namespace orrery
