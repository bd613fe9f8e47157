// A GPU as calibration sees it: memory for a case, time for its launches, and the state of the part while
// they ran. The CUDA implementation is in device_cuda.cpp; without a toolkit or a driver there are no
// devices, and devices() says why.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kernels/kernel_case.h"

namespace orrery::kernels {

struct DeviceInfo {
  std::int32_t index = 0;
  std::string name;          // as the driver reports it: "NVIDIA H200"
  std::string architecture;  // "sm_90a", "gfx942"
  std::string driver;        // "580.159.04"; empty when NVML is missing
  std::string runtime;       // "CUDA 13.0"
  std::string uuid;
  std::size_t memory_bytes = 0, l2_bytes = 0;
  std::int32_t compute_units = 0;
};

// Read through NVML, loaded at run time. `valid` is false where it is missing; then nothing can be rejected.
struct Telemetry {
  bool valid = false;
  double sm_clock_mhz = 0, memory_clock_mhz = 0, power_w = 0, temperature_c = 0;
  std::uint64_t throttle_reasons = 0;  // NVML's bits
  bool throttled = false;  // a reason other than idle, applications' clocks or the power cap's soft slow-down
};

class Device {
 public:
  virtual ~Device() = default;
  virtual const DeviceInfo& info() const = 0;
  virtual DeviceMemory& memory() = 0;
  // Captures body(0) … body(launches − 1) into one graph and replays it `replays` times between events.
  // Appends nanoseconds of a replay ÷ launches, one value a replay. False with a reason when capture or a
  // launch fails.
  virtual bool time(const std::function<void(int, Stream)>& body, int launches, int replays,
                    std::vector<double>& ns_per_launch, std::string& why) = 0;
  // Runs body once outside any graph and waits; false with the driver's words on an error.
  virtual bool run(const std::function<void(Stream)>& body, std::string& why) = 0;
  virtual Telemetry telemetry() = 0;
  // Versions of what the kernels of this build load: {"cublasLt", "13.1.0"}, … Absent libraries are left out.
  virtual std::vector<std::pair<std::string, std::string>> libraries() = 0;
};

// All devices that can be used, in the driver's order; empty with a reason.
std::vector<std::unique_ptr<Device>> devices(std::string& why);

}  // namespace orrery::kernels
