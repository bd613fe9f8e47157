// DeviceMemory with guard zones and NaN poison, over whatever memory a backend has. HostMemory is the CPU
// simulator's; device_cuda.cpp has the GPU's.
#pragma once

#include <vector>

#include "kernels/kernel_case.h"

namespace orrery::kernels {

class GuardedMemory : public DeviceMemory {
 public:
  static constexpr std::size_t guard_bytes = 256;  // before each allocation, and at least as much after it

  void* allocate(std::size_t bytes) override;
  void upload(void* device, const void* host, std::size_t bytes) override;
  void download(void* host, const void* device, std::size_t bytes) override;
  void fill(void* device, int byte, std::size_t bytes) override;
  void fill_random(void* device, std::size_t elements, const char* type, float scale,
                   std::uint64_t seed) override;
  bool guards_intact(std::string& what) override;
  void release_all() override;

 protected:
  virtual void* raw_allocate(std::size_t bytes) = 0;  // 256-byte aligned; null when there is no room
  virtual void raw_free(void* memory) = 0;
  virtual void raw_upload(void* device, const void* host, std::size_t bytes) = 0;
  virtual void raw_download(void* host, const void* device, std::size_t bytes) = 0;  // waits for launches
  virtual void raw_fill(void* device, int byte, std::size_t bytes) = 0;
  virtual void before_launch() {}  // makes the device current

 private:
  struct Allocation {
    unsigned char* raw;
    std::size_t bytes;  // asked for; the second guard zone begins right behind
    std::size_t total;
  };
  std::vector<Allocation> allocations_;
};

class HostMemory : public GuardedMemory {
 public:
  HostMemory() = default;
  HostMemory(const HostMemory&) = delete;
  HostMemory& operator=(const HostMemory&) = delete;
  ~HostMemory() override { release_all(); }

 protected:
  void* raw_allocate(std::size_t bytes) override;
  void raw_free(void* memory) override;
  void raw_upload(void* device, const void* host, std::size_t bytes) override;
  void raw_download(void* host, const void* device, std::size_t bytes) override;
  void raw_fill(void* device, int byte, std::size_t bytes) override;
};

}  // namespace orrery::kernels
