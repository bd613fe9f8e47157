#include "calibrate/probes.h"

#include <algorithm>

#include "kernels/probes.h"

namespace orrery::calibrate {

namespace {

constexpr std::int64_t largest_working_set = std::int64_t{2} << 30;
constexpr std::int64_t largest_host_copy = std::int64_t{256} << 20;
constexpr double sustained_s = 4;

double median_of(std::vector<double> values) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

bool bandwidth(kernels::Device& device, std::vector<ProbeFigure>& figures, std::string& why) {
  std::vector<kernels::BandwidthPoint> points;
  const bool fine = kernels::probe_bandwidth(device, largest_working_set, points, why);
  for (const kernels::BandwidthPoint& p : points) {
    figures.push_back({"bandwidth.read", p.bytes, p.read_gb_s, "GB/s"});
    figures.push_back({"bandwidth.write", p.bytes, p.write_gb_s, "GB/s"});
    figures.push_back({"bandwidth.copy", p.bytes, p.copy_gb_s, "GB/s"});
  }
  return fine;
}

bool host_copies(kernels::Device& device, std::vector<ProbeFigure>& figures, std::string& why) {
  std::vector<kernels::HostCopyPoint> points;
  const bool fine = kernels::probe_host_copies(device, largest_host_copy, points, why);
  for (const kernels::HostCopyPoint& p : points) {
    figures.push_back({"host_copies.to_device", p.bytes, p.to_device_us, "us"});
    figures.push_back({"host_copies.to_host", p.bytes, p.to_host_us, "us"});
  }
  return fine;
}

bool launches(kernels::Device& device, std::vector<ProbeFigure>& figures, std::string& why) {
  kernels::LaunchCosts c;
  const bool fine = kernels::probe_launches(device, c, why);
  const std::pair<const char*, double> found[] = {{"launches.eager_host", c.eager_host_us},
                                                  {"launches.eager_back_to_back", c.eager_back_to_back_us},
                                                  {"launches.eager_round_trip", c.eager_round_trip_us},
                                                  {"launches.graph_node", c.graph_node_us},
                                                  {"launches.graph_launch", c.graph_launch_us}};
  for (const auto& [name, us] : found) {
    if (us > 0) figures.push_back({name, 0, us, "us"});  // zero: not reached before an error
  }
  return fine;
}

// Clocks and power of the second half, when they have settled.
bool sustained(kernels::Device& device, std::vector<ProbeFigure>& figures, std::string& why) {
  kernels::SustainedLoad load;
  const bool fine = kernels::probe_sustained(device, sustained_s, load, why);
  if (load.tflop_s > 0) figures.push_back({"sustained.gemm_bf16", 0, load.tflop_s, "TFLOP/s"});
  std::vector<double> clocks, power;
  for (const kernels::LoadSample& s : load.samples) {
    if (!s.telemetry.valid || s.seconds < sustained_s / 2) continue;
    clocks.push_back(s.telemetry.sm_clock_mhz);
    power.push_back(s.telemetry.power_w);
  }
  if (clocks.empty()) return fine;
  figures.push_back({"sustained.sm_clock", 0, median_of(clocks), "MHz"});
  figures.push_back({"sustained.power", 0, median_of(power), "W"});
  return fine;
}

}  // namespace

bool run_probe(const std::string& probe, kernels::Device& device, std::vector<ProbeFigure>& figures,
               std::string& why) {
  if (probe == "bandwidth") return bandwidth(device, figures, why);
  if (probe == "host_copies") return host_copies(device, figures, why);
  if (probe == "launches") return launches(device, figures, why);
  if (probe == "sustained") return sustained(device, figures, why);
  why = "there is no probe of this name";
  return false;
}

}  // namespace orrery::calibrate
