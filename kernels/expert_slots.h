// Experts' rows between GPUs of a node, low-latency form: every expert has a fixed place for every row that
// any rank may send it, so nothing is agreed on before. A token's row is quantised once to e4m3 with a scale
// for each 128 columns and stored straight into the memory of the rank of each expert that was chosen; how
// many rows came is a word that follows them. What arrived is packed in order of (rank, token): the same
// input gives the same order. Combine stores each row's output back into the place of (token, choice) and
// adds Σⱼ weight[token, j] · output in fp32 in order of j, rounded once.
//
// Dispatch and combine are two launches each; between them other kernels may run. All ranks make the same
// calls in the same order, with any number of tokens each, zero included.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/fp8_output.h"
#include "kernels/peer_memory.h"

namespace orrery::kernels {

constexpr std::int32_t expert_most_choices = 16;

// What an exchange lives on; the pointer arrays are of all ranks. Expert e is the rank's e / (experts /
// ranks).
struct ExpertSlots {
  unsigned char* rows[peer_most_ranks] = {};      // [half][local expert][from][most_tokens][row_bytes]
  std::uint64_t* counts[peer_most_ranks] = {};    // [half][local expert][from]: epoch above, rows below
  std::uint16_t* returned[peer_most_ranks] = {};  // bf16, [half][most_tokens][top_k][columns]
  std::uint32_t* flags[peer_most_ranks] = {};     // [from]: combine's epoch
  std::uint32_t* epochs = nullptr;                // own, expert_epochs words, zeros at first
  unsigned* sent = nullptr;                       // own, experts + 2 words, zeros at first
  std::int32_t ranks = 0, rank = 0;
  std::int32_t experts = 0;      // of all ranks; a multiple of ranks
  std::int32_t top_k = 0;        // at most expert_most_choices
  std::int32_t most_tokens = 0;  // of a rank
  std::int32_t columns = 0;      // multiple of 128
  std::int32_t row_bytes = 0;    // expert_row_bytes(columns)
};
// Of each kind of launch, a word a block: none has more blocks than this.
constexpr std::int32_t expert_most_blocks = 1024, expert_launches = 4;
constexpr std::int64_t expert_epochs = std::int64_t{expert_most_blocks} * expert_launches;

// e4m3 values, scales, then where the row came from; a multiple of 16.
constexpr std::int64_t expert_row_bytes(std::int64_t columns) {
  return (columns + columns / fp8_group * 4 + 4 + 15) / 16 * 16;
}
std::int64_t expert_rows_bytes(const ExpertSlots& s);
std::int64_t expert_returned_bytes(const ExpertSlots& s);

// What a rank's experts get: [local expert][capacity], capacity = ranks · most_tokens; the first counts[e]
// are rows.
struct ArrivedRows {
  std::uint8_t* values = nullptr;   // e4m3, columns each
  float* scales = nullptr;          // columns / 128 each
  std::int32_t* sources = nullptr;  // rank · most_tokens · top_k + token · top_k + choice
  std::int32_t* counts = nullptr;   // local experts
};

struct ExpertDispatchLaunch {
  ExpertSlots slots;
  const std::uint16_t* x = nullptr;      // bf16, tokens × columns
  const std::int32_t* chosen = nullptr;  // tokens × top_k; −1: nobody
  std::int32_t tokens = 0;
  ArrivedRows arrived;
};
void launch_expert_send(const ExpertDispatchLaunch& launch, void* stream);
void launch_expert_receive(const ExpertDispatchLaunch& launch, void* stream);

struct ExpertCombineLaunch {
  ExpertSlots slots;
  ArrivedRows arrived;               // sources and counts, as dispatch left them
  const std::uint16_t* y = nullptr;  // bf16, [local expert][capacity][columns]
  const std::int32_t* chosen = nullptr;
  const float* weights = nullptr;  // tokens × top_k
  std::uint16_t* out = nullptr;    // bf16, tokens × columns
  std::int32_t tokens = 0;
};
void launch_expert_return(const ExpertCombineLaunch& launch, void* stream);
void launch_expert_combine(const ExpertCombineLaunch& launch, void* stream);

}  // namespace orrery::kernels
