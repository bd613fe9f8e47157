// A calibration session: works through the plan, watches the part, keeps the journal, stops in time.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "calibrate/journal.h"
#include "calibrate/measure.h"

namespace orrery::calibrate {

// What a probe found: "bandwidth.read" of so many bytes.
struct ProbeFigure {
  std::string name;  // <probe>.<what>
  std::int64_t bytes = 0;
  double value = 0;
  std::string unit;  // "GB/s", "us", "MHz"
};
using RunProbe = std::function<bool(const std::string& probe, kernels::Device& device,
                                    std::vector<ProbeFigure>& figures, std::string& why)>;

struct SessionOptions {
  MeasureOptions measure;
  // Seconds on the timer at which everything, tables included, must be done.
  double deadline = std::numeric_limits<double>::infinity();
  double memory_share = 0.6;     // of the device, for operands
  double tables_s = 1.5;         // kept back for them
  double sentinel_every_s = 30;  // a fixed GEMM, timed again: has the part changed under us?
  double drift_limit = 0.02;
  double warm_up_s = 1.0;  // of sustained work before the first point: clocks ramp up
  double rest_s = 0.32;    // at most, after a point that left the clock below
  double rested = 0.97;    // this share of the highest seen
  RunProbe probe;          // empty: this build has none
  double probe_s = 6;      // a probe is begun only when so much time is left
  std::function<bool()> interrupted = [] { return false; };
  std::function<void(std::size_t done, std::size_t total)> progress = [](std::size_t, std::size_t) {};
  std::function<void(const std::string&)> say = [](const std::string&) {};  // warnings, one line each
};

struct SessionSummary {
  std::size_t planned = 0, skipped = 0;            // skipped: already in the journal
  std::map<std::string, std::size_t> states;       // points of this session by state
  std::map<std::string, std::size_t> unsupported;  // by reason
  double drift = 0;                                // largest relative move of the sentinel
  bool out_of_time = false, interrupted = false;
  double seconds = 0;
};

// `done`: keys that need not be measured. Errors: the journal cannot be written; the device fails throughout.
Result<SessionSummary> run_session(const std::vector<Point>& plan, const std::set<std::string>& done,
                                   kernels::Device& device, Timer& timer, const MakeCase& make,
                                   JournalWriter& journal, const SessionOptions& options);

// Keys of a journal that a resumed session leaves alone: those with a figure, and kernels that failed by
// themselves. Rejected points, and those that failed because one before them had, are tried again.
std::set<std::string> finished_keys(const Journal& journal);

}  // namespace orrery::calibrate
