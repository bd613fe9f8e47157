// One point on one device: prepared cold where a model would meet it cold, warmed up, replayed in a graph
// until the median is known within 1 %, or said not to be.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "calibrate/arena.h"
#include "calibrate/point.h"
#include "calibrate/timer.h"
#include "kernels/device.h"

namespace orrery::calibrate {

enum class PointState : std::uint8_t {
  ok,           // the interval of the median is within the target
  unconverged,  // it is not: `spread` says how wide it is
  rejected,     // throttled, and again after a pause: no figure
  failed,       // the kernel or the capture reported an error
  unsupported,  // this build or device has no kernel for it
};
const char* to_string(PointState state);
constexpr bool has_figure(PointState s) { return s == PointState::ok || s == PointState::unconverged; }

struct Measurement {
  std::string table, shape, kernel;
  PointState state = PointState::failed;
  double us = 0, spread = 0;  // median of one launch; relative half-width of its 95 % interval
  std::int64_t samples = 0;
  double prepare_ms = 0, run_ms = 0;  // what the point took: operands and choice of an algorithm; replays
  double value = 0;                   // of a probe, in its unit; us and spread are then 0
  std::string unit;                   // empty: a timing
  std::vector<std::pair<std::string, double>> slower;  // other kernels that did the same, and their medians
  std::vector<std::string> passed_over;                // those that this device or build cannot run, and why
  std::string why;                                     // of everything but ok
  bool telemetry = false;
  double sm_mhz = 0, memory_mhz = 0, power_w = 0, temperature_c = 0;  // after the replays
  std::uint64_t throttle_reasons = 0;
  std::string key() const { return table + ":" + shape; }
};

struct MeasureOptions {
  double target_spread = 0.01;
  double cap_s = 0.12;                                        // replays of a point end here, converged or not
  std::int64_t max_samples = 600;                             // and here
  double deadline = std::numeric_limits<double>::infinity();  // of the session, on its timer
  double retry_pause_s = 0.5;                                 // before a throttled point is tried once more
  // Microseconds below which a figure is not believed: an empty graph, a launch that was refused.
  std::function<double(const kernels::CaseSpec&)> least_us = [](const kernels::CaseSpec&) { return 0.0; };
  double graph_us = 400;  // aimed-at length of one replay: short graphs drown in event resolution
};

using MakeCase = std::function<std::unique_ptr<kernels::KernelCase>(const kernels::CaseSpec&, std::string&)>;

// Independent operand sets (of `bytes_per_set` touched by a launch) so that what is streamed from memory
// returns only after twice the last cache.
int operand_sets(const kernels::CaseSpec& spec, std::size_t bytes_per_set, std::size_t l2_bytes,
                 std::size_t room);

// Times every kernel that can do the point (forms_of) and returns the fastest. Operands come from the arena,
// which is empty again afterwards.
Measurement measure(const Point& point, kernels::Device& device, Arena& arena, Timer& timer,
                    const MakeCase& make, const MeasureOptions& options);

}  // namespace orrery::calibrate
