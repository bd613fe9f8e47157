// Properties of a part that no operator's table shows by itself: where its caches end, what copies to the
// host and launches cost, and what clocks and power it settles at under load. Every probe returns false with
// a reason when something failed; what it has by then is kept.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/device.h"

namespace orrery::kernels {

// Median rates over a working set that is gone over again and again: from L2 while it fits there.
struct BandwidthPoint {
  std::int64_t bytes = 0;                               // of the working set
  double read_gb_s = 0, write_gb_s = 0, copy_gb_s = 0;  // 10⁹ B/s; copy counts what it reads and what it
                                                        // writes
};
// Working sets of two sizes per doubling, from 256 KiB to `largest` bytes.
bool probe_bandwidth(Device& device, std::int64_t largest, std::vector<BandwidthPoint>& points,
                     std::string& why);

// Copies between pinned host memory and the device, one direction at a time; medians between events.
struct HostCopyPoint {
  std::int64_t bytes = 0;
  double to_device_us = 0, to_host_us = 0;
};
bool probe_host_copies(Device& device, std::int64_t largest, std::vector<HostCopyPoint>& points,
                       std::string& why);

// Of a kernel that does nothing, in microseconds; medians.
struct LaunchCosts {
  double eager_host_us = 0;          // the CPU's time in a launch call, queue not full
  double eager_back_to_back_us = 0;  // per kernel, launched one after another until the last has run
  double eager_round_trip_us = 0;    // launch and wait for it, on the CPU
  double graph_node_us = 0;          // per kernel in a replayed graph of dependent kernels
  double graph_launch_us = 0;        // the CPU's time in replaying a graph of one kernel
};
bool probe_launches(Device& device, LaunchCosts& costs, std::string& why);

struct LoadSample {
  double seconds = 0;  // since the load began
  Telemetry telemetry;
};
// A large bf16 GEMM again and again for about `seconds`; samples every 50 ms while it runs.
struct SustainedLoad {
  std::vector<LoadSample> samples;
  double tflop_s = 0;  // of the second half
  std::string kernel;
};
bool probe_sustained(Device& device, double seconds, SustainedLoad& load, std::string& why);

}  // namespace orrery::kernels
