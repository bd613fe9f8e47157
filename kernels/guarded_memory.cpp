#include "kernels/guarded_memory.h"

#include <cstring>
#include <new>

#include "base/check.h"
#include "kernels/fill_random.h"

namespace orrery::kernels {

namespace {
constexpr int guard_byte = 0xA5, poison_byte = 0xFF;  // 0xFFFF… is a NaN in fp32, bf16 and OCP fp8
constexpr std::align_val_t alignment{256};
}  // namespace

void* GuardedMemory::allocate(std::size_t bytes) {
  const std::size_t total = guard_bytes + (bytes + guard_bytes - 1) / guard_bytes * guard_bytes + guard_bytes;
  auto* raw = static_cast<unsigned char*>(raw_allocate(total));
  if (raw == nullptr) return nullptr;
  raw_fill(raw, guard_byte, total);
  if (bytes > 0) raw_fill(raw + guard_bytes, poison_byte, bytes);
  allocations_.push_back({raw, bytes, total});
  return raw + guard_bytes;
}

void GuardedMemory::upload(void* device, const void* host, std::size_t bytes) {
  if (bytes > 0) raw_upload(device, host, bytes);
}
void GuardedMemory::download(void* host, const void* device, std::size_t bytes) {
  if (bytes > 0) raw_download(host, device, bytes);
}
void GuardedMemory::fill(void* device, int byte, std::size_t bytes) {
  if (bytes > 0) raw_fill(device, byte, bytes);
}

void GuardedMemory::fill_random(void* device, std::size_t elements, const char* type, float scale,
                                std::uint64_t seed) {
  FillRandomLaunch launch;
  launch.out = device;
  launch.elements = static_cast<std::int64_t>(elements);
  launch.scale = scale;
  launch.seed = seed;
  const std::string name = type;
  if (name == "fp32") launch.type = RandomType::fp32;
  if (name == "fp8") launch.type = RandomType::fp8;
  ORRERY_CHECK(name == "fp32" || name == "fp8" || name == "bf16", "fill_random knows bf16, fp32 and fp8");
  before_launch();
  if (elements > 0) launch_fill_random(launch, nullptr);
}

bool GuardedMemory::guards_intact(std::string& what) {
  std::vector<unsigned char> zone;
  for (std::size_t i = 0; i < allocations_.size(); ++i) {
    const Allocation& a = allocations_[i];
    for (const bool after : {false, true}) {
      const std::size_t begin = after ? guard_bytes + a.bytes : 0;
      zone.resize(after ? a.total - begin : guard_bytes);
      raw_download(zone.data(), a.raw + begin, zone.size());
      for (std::size_t k = 0; k < zone.size(); ++k) {
        if (zone[k] == guard_byte) continue;
        const std::size_t distance = after ? k : guard_bytes - k;
        what = "allocation " + std::to_string(i) + " of " + std::to_string(a.bytes) + " bytes: written " +
               std::to_string(distance) + (after ? " bytes behind its end" : " bytes before its begin");
        return false;
      }
    }
  }
  return true;
}

void GuardedMemory::release_all() {
  for (const Allocation& a : allocations_) raw_free(a.raw);
  allocations_.clear();
}

void* HostMemory::raw_allocate(std::size_t bytes) { return ::operator new(bytes, alignment, std::nothrow); }
void HostMemory::raw_free(void* memory) { ::operator delete(memory, alignment); }
void HostMemory::raw_upload(void* device, const void* host, std::size_t bytes) {
  std::memcpy(device, host, bytes);
}
void HostMemory::raw_download(void* host, const void* device, std::size_t bytes) {
  std::memcpy(host, device, bytes);
}
void HostMemory::raw_fill(void* device, int byte, std::size_t bytes) { std::memset(device, byte, bytes); }

}  // namespace orrery::kernels
