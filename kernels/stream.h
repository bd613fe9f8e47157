// Memory bandwidth and nothing else: copies, reads, writes. Probes of the knees of L2 and HBM.
#pragma once

#include <cstdint>

namespace orrery::kernels {

enum class StreamKind : std::uint8_t { copy, read, write };

struct StreamLaunch {
  StreamKind kind = StreamKind::copy;
  const void* source = nullptr;   // copy, read
  void* destination = nullptr;    // copy, write
  std::uint32_t* sums = nullptr;  // read: one word a block (stream_most_blocks): the exclusive or of what it
                                  // read
  std::int64_t bytes = 0;         // multiple of 16
  std::uint32_t pattern = 0;      // write: every 32-bit word
  std::int32_t blocks = 0;        // of 256 threads, at most stream_most_blocks; 0: as many as have work
};
constexpr std::int32_t stream_most_blocks = 65536;

void launch_stream(const StreamLaunch& launch, void* stream);

}  // namespace orrery::kernels
