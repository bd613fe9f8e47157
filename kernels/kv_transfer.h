// Blocks of a paged KV cache from one GPU to another, as a hand-off from prefill to decode needs it: blocks
// lie scattered in both pools and every layer has a pool of its own. One kernel reads them all where they lie
// and stores them where they go; layer by layer it is a launch for each. A word in the reader's memory counts
// the transfers that have arrived.
#pragma once

#include <cstdint>

namespace orrery::kernels {

struct KvPools {
  const void* from = nullptr;  // a layer's pool here and there (keys or values, or both where they lie
                               // together)
  void* to = nullptr;
};

struct KvTransferLaunch {
  const KvPools* pools = nullptr;             // device, layers
  const std::int32_t* from_blocks = nullptr;  // device, blocks: which blocks of the pool, in order
  const std::int32_t* to_blocks = nullptr;    // device, blocks: all different
  std::int32_t layers = 0, blocks = 0;
  std::int64_t block_bytes = 0;      // multiple of 16; pools are arrays of such blocks
  std::uint32_t* arrived = nullptr;  // the reader's: how many transfers have come; zero at first
  std::uint32_t* words = nullptr;    // own, 2, zeros at first
  std::int32_t thread_blocks = 0;    // 0: enough for the links
};
void launch_kv_transfer(const KvTransferLaunch& launch, void* stream);

// On the reader's stream: goes on when the next transfer has arrived.
struct KvWaitLaunch {
  const std::uint32_t* arrived = nullptr;
  std::uint32_t* seen = nullptr;  // own, zero at first
};
void launch_kv_wait(const KvWaitLaunch& launch, void* stream);

}  // namespace orrery::kernels
