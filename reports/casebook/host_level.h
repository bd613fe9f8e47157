// How fast a host does a kind of work, relative to its profile, from a log of several loads. A host changes
// its pace for seconds at a time, all of its work alike (reports/results/host_pace.md), so steps of one load
// are not independent of one another: what counts is the number of loads, and a level that is not beyond the
// noise of those is the profile's.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "costmodel/engine_profile.h"

namespace orrery {

struct HostLevel {
  std::string kind;  // "launches beside decodes, kernel by kernel" …
  std::size_t steps = 0, experiments = 0;
  double factor = 1;  // logged over the profile's; posterior, hosts differing by the profile's `host_error`
  double deviation = 0;  // of log(factor), with what loads of one host differ by
  bool few = true;       // too few steps to say anything
  bool told = false;     // beyond noise
  bool refused = false;  // and the profile's terms are kept all the same: a note of theirs says why
};

using LevelRatios = std::map<std::size_t, std::vector<double>>;  // logged over the profile's, by experiment
enum class LevelOf : std::uint8_t {
  median,       // of steps that follow one another
  apart,        // the same of steps that lie apart: prompts that come alone
  middle_mean,  // of steps that vary
};
HostLevel host_level(const char* kind, const LevelRatios& ratios, LevelOf what, double host_error);

// The mean of the middle four fifths of a non-empty list: what a stall or a wait adds now and then does not
// count, a host that is at one of two paces does. The same of a profile's spread of launches beside decodes.
double middle_mean(std::vector<double> values);
double middle_mean_of_spread(const HostCosts& host);

// "taken", "within noise", "too few" or "refused".
const char* verdict_of(const HostLevel& level);

// "0.97 of the profile's, within noise (± 0.11, 153 steps)", or that there are too few of them.
std::string level_text(const HostLevel& level);

}  // namespace orrery
