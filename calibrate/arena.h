// Device memory for timing: one large allocation, handed out in slices and taken back all at once. A point
// with small weights needs hundreds of operand sets; as allocations of their own, with guard zones, they
// would take longer than the measurement. Checks use the device's own guarded memory.
#pragma once

#include <cstddef>

#include "kernels/device.h"

namespace orrery::calibrate {

class Arena : public kernels::DeviceMemory {
 public:
  // Takes about `share` of the device, less where that much is not free; nothing when even a hundredth is
  // not: then every allocation fails.
  Arena(kernels::Device& device, double share);
  ~Arena() override { under_.release_all(); }
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  std::size_t size() const { return size_; }
  void* allocate(std::size_t bytes) override;
  void upload(void* device, const void* host, std::size_t bytes) override;
  void download(void* host, const void* device, std::size_t bytes) override;
  void fill(void* device, int byte, std::size_t bytes) override;
  void fill_random(void* device, std::size_t elements, const char* type, float scale,
                   std::uint64_t seed) override;
  bool guards_intact(std::string& what) override;  // of the whole: slices have no guards
  void release_all() override { used_ = 0; }
  int device_index() const override { return under_.device_index(); }

 private:
  kernels::DeviceMemory& under_;
  unsigned char* base_ = nullptr;
  std::size_t size_ = 0, used_ = 0;
};

}  // namespace orrery::calibrate
