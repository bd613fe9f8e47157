// Memory of all ranks of a group of GPUs in one node, through which their kernels talk: every rank's pointers
// are valid on every other (peer access in one process; between processes the same pointers come from IPC
// handles, which is the caller's). Nothing in it is ever reset: words count upwards, and 2³² steps may go
// round.
//
// A step of a block of threads is one exchange with the block of the same number on each peer. Its number,
// the *epoch*, is kept for each block by the rank itself, so a captured graph can be replayed; ranks stay
// alike because they make the same calls in the same order. What a peer sends lies in one of two halves, by
// the epoch's last bit: a peer that has sent epoch e + 1 has read epoch e, so half e may be written again at
// e + 2.
//
// Two protocols:
//   flags   rows are stored, then a word with release at system scope; the reader acquires it. Full width.
//   lines   every eight bytes carry four of data and the epoch; the reader polls the data itself. Twice the
//           bytes, no fence and no second trip: small messages. Their halves are areas of their own, because
//           plain data could look like an epoch. A reader says that it has read epoch e only by what it sends
//           for e + 1, so between the two its block needs a barrier: a thread with nothing in a short step e
//           + 1 may still poll for e, while its peers, told by the others, write e + 2 over it.
// On AMD the memory must be fine-grained (hipExtMallocWithFlags) for system scope to hold over XGMI.
#pragma once

#include <cstddef>
#include <cstdint>

namespace orrery::kernels {

constexpr std::int32_t peer_most_ranks = 8, peer_most_blocks = 512;
constexpr std::int64_t peer_least_ranks = 2;

struct PeerMemory {
  const std::uint32_t* given_up = nullptr;  // of the host's memory: not 0, nobody waits any more. Null: for
                                            // ever
  std::uint32_t* flags[peer_most_ranks] = {};   // of each rank: [block][from]: the epoch that `from` has sent
  unsigned char* slots[peer_most_ranks] = {};   // of each rank: [block][half][from][slot_bytes]
  unsigned char* lines[peer_most_ranks] = {};   // the same for lines, [line_bytes]
  std::uint32_t* epochs = nullptr;              // own: [flags, lines][block]
  std::int64_t slot_bytes = 0, line_bytes = 0;  // multiples of 32
  std::int32_t ranks = 0, rank = 0;
  std::int32_t blocks = 0;  // of threads that have slots; at most peer_most_blocks
};

// Bytes of a rank's areas; flags, lines and epochs begin as zeros.
constexpr std::int64_t peer_flag_bytes = 4 * std::int64_t{peer_most_blocks} * peer_most_ranks;
constexpr std::int64_t peer_epoch_bytes = 4 * std::int64_t{2} * peer_most_blocks;
constexpr std::int64_t peer_area_bytes(std::int64_t blocks, std::int64_t ranks, std::int64_t slot_bytes) {
  return blocks * 2 * ranks * slot_bytes;
}

}  // namespace orrery::kernels
