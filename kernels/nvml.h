// Clocks, power, temperature and throttle reasons through NVML, loaded at run time. The toolkit has no nvml.h
// here, so the few prototypes are our own (NVML API reference, "Device Queries").
#pragma once

#include <string>

#include "kernels/device.h"

namespace orrery::kernels {

// NVML's clocks-event bits (nvmlClocksEventReasons…).
constexpr std::uint64_t nvml_gpu_idle = 0x1, nvml_applications_clocks = 0x2, nvml_software_power_cap = 0x4;

class NvmlDevice {
 public:
  explicit NvmlDevice(const std::string& uuid);  // "GPU-…", as the CUDA runtime gives it
  Telemetry read() const;                        // valid is false when NVML or the device is missing

 private:
  void* handle_ = nullptr;
};

std::string nvml_driver_version();  // empty without NVML

}  // namespace orrery::kernels
