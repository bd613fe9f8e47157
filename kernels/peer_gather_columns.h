// Columns of all ranks side by side, as logits of a sharded vocabulary are gathered: every rank pushes its
// rows to all others, which store them at its columns. In rows of all ranks, so nothing is copied afterwards.
#pragma once

#include "kernels/peer_memory.h"

namespace orrery::kernels {

constexpr std::int32_t peer_gather_blocks = 128;  // at most

struct PeerGatherColumnsLaunch {
  PeerMemory peers;
  const std::uint16_t* in = nullptr;  // bf16, rows × columns, this rank's
  std::uint16_t* out = nullptr;       // bf16, rows × (ranks · columns), in order of ranks; not `in`
  std::int32_t rows = 0;
  std::int32_t columns = 0;  // of a rank, multiple of 8
};

void launch_peer_gather_columns(const PeerGatherColumnsLaunch& launch, void* stream);

}  // namespace orrery::kernels
