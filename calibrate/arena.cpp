#include "calibrate/arena.h"

namespace orrery::calibrate {

namespace {
constexpr std::size_t slice = 256;  // what DeviceMemory promises as alignment
}

Arena::Arena(kernels::Device& device, double share) : under_(device.memory()) {
  for (; base_ == nullptr && share >= 0.01; share /= 2) {
    size_ = static_cast<std::size_t>(static_cast<double>(device.info().memory_bytes) * share) / slice * slice;
    base_ = static_cast<unsigned char*>(under_.allocate(size_));
  }
  if (base_ == nullptr) size_ = 0;
}

void* Arena::allocate(std::size_t bytes) {
  const std::size_t wanted = (bytes + slice - 1) / slice * slice + slice;
  if (wanted > size_ - used_) return nullptr;
  void* const at = base_ + used_;
  used_ += wanted;
  return at;
}

void Arena::upload(void* device, const void* host, std::size_t bytes) { under_.upload(device, host, bytes); }
void Arena::download(void* host, const void* device, std::size_t bytes) {
  under_.download(host, device, bytes);
}
void Arena::fill(void* device, int byte, std::size_t bytes) { under_.fill(device, byte, bytes); }
void Arena::fill_random(void* device, std::size_t elements, const char* type, float scale,
                        std::uint64_t seed) {
  under_.fill_random(device, elements, type, scale, seed);
}
bool Arena::guards_intact(std::string& what) { return under_.guards_intact(what); }

}  // namespace orrery::calibrate
