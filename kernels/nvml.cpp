#include "kernels/nvml.h"

#include "kernels/vendor_library.h"

namespace orrery::kernels {

namespace {

// Return type nvmlReturn_t, 0 is success; a device handle is an opaque pointer.
using NoArguments = int();
using DeviceByUuid = int(const char* uuid, void** device);
using DeviceNumber = int(void* device, unsigned* value);
using DeviceClock = int(void* device, int clock, unsigned* mhz);
using DeviceTemperature = int(void* device, int sensor, unsigned* celsius);
using DeviceBits = int(void* device, unsigned long long* bits);
using SystemText = int(char* text, unsigned length);

constexpr int success = 0, clock_sm = 1, clock_memory = 2, sensor_gpu = 0;

const VendorLibrary* initialised() {
  static const bool good = [] {
    auto* start = vendor_library(Vendor::nvml).function<NoArguments>("nvmlInit_v2");
    return start != nullptr && start() == success;
  }();
  return good ? &vendor_library(Vendor::nvml) : nullptr;
}

}  // namespace

NvmlDevice::NvmlDevice(const std::string& uuid) {
  const VendorLibrary* nvml = initialised();
  if (nvml == nullptr) return;
  auto* find = nvml->function<DeviceByUuid>("nvmlDeviceGetHandleByUUID");
  if (find == nullptr || find(uuid.c_str(), &handle_) != success) handle_ = nullptr;
}

Telemetry NvmlDevice::read() const {
  Telemetry now;
  if (handle_ == nullptr) return now;
  const VendorLibrary& nvml = vendor_library(Vendor::nvml);
  auto* clock = nvml.function<DeviceClock>("nvmlDeviceGetClockInfo");
  auto* power = nvml.function<DeviceNumber>("nvmlDeviceGetPowerUsage");
  auto* temperature = nvml.function<DeviceTemperature>("nvmlDeviceGetTemperature");
  auto* reasons = nvml.function<DeviceBits>("nvmlDeviceGetCurrentClocksThrottleReasons");
  if (!clock || !power || !temperature || !reasons) return now;
  unsigned sm_mhz = 0, memory_mhz = 0, milliwatts = 0, celsius = 0;
  unsigned long long bits = 0;
  now.valid = clock(handle_, clock_sm, &sm_mhz) == success &&
              clock(handle_, clock_memory, &memory_mhz) == success &&
              power(handle_, &milliwatts) == success &&
              temperature(handle_, sensor_gpu, &celsius) == success && reasons(handle_, &bits) == success;
  if (!now.valid) return Telemetry{};
  now.sm_clock_mhz = sm_mhz;
  now.memory_clock_mhz = memory_mhz;
  now.power_w = milliwatts / 1000.0;
  now.temperature_c = celsius;
  now.throttle_reasons = bits;
  now.throttled = (bits & ~(nvml_gpu_idle | nvml_applications_clocks | nvml_software_power_cap)) != 0;
  return now;
}

std::string nvml_driver_version() {
  const VendorLibrary* nvml = initialised();
  if (nvml == nullptr) return "";
  auto* version = nvml->function<SystemText>("nvmlSystemGetDriverVersion");
  char text[96] = "";
  return version != nullptr && version(text, sizeof text) == success ? text : "";
}

}  // namespace orrery::kernels
