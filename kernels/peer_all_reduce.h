// All-reduce of bf16 among the GPUs of a node without a library: sums in fp32, added in order of ranks,
// rounded once where they are formed, so all ranks have the same bits whatever came first. Input and output
// are plain local memory and may be the same; only PeerMemory is shared.
//   one shot    a rank pushes all it has to all others and adds what it gets: (n − 1) · b on the wire, one
//   trip two shots   a rank adds its n-th part and pushes the sum: 2 (n − 1) / n · b, two trips
#pragma once

#include "kernels/peer_memory.h"

namespace orrery::kernels {

enum class PeerForm : std::uint8_t { one_shot_lines, one_shot, two_shot };

// Which is fastest for what a rank holds. Two ranks: as measured on two H200
// (reports/results/kernels_comm_2gpu.md). More: unmeasured; the bounds between one and two shots are vLLM's
// (csrc/custom_all_reduce.cuh, allreduce).
constexpr PeerForm peer_form(std::int32_t ranks, std::int64_t bytes) {
  constexpr std::int64_t kib = 1024;
  if (bytes <= 64 * kib / (ranks - 1)) return PeerForm::one_shot_lines;
  const std::int64_t one_shot = ranks == 2 ? 8192 * kib : ranks <= 4 ? 512 * kib : 256 * kib;
  return bytes < one_shot ? PeerForm::one_shot : PeerForm::two_shot;
}

constexpr std::int32_t peer_all_reduce_blocks = 128;  // at most: more were no faster

struct PeerAllReduceLaunch {
  PeerMemory peers;
  const std::uint16_t* in = nullptr;  // bf16, multiple of 16
  std::uint16_t* out = nullptr;
  std::int64_t count = 0;  // any number ≥ 1, the same on all ranks
  PeerForm form = PeerForm::one_shot;
  std::int32_t blocks = 0;  // of threads, at most peers.blocks and that, the same on all ranks; 0: the
                            // kernel's choice
};

void launch_peer_all_reduce(const PeerAllReduceLaunch& launch, void* stream);

}  // namespace orrery::kernels
