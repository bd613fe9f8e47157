// Experts' rows between GPUs of a node, bandwidth form: ranks first tell each other how many rows they will
// send, and a prefix over those counts says where each rank's rows begin; then a token's row is stored once
// for every distinct rank among its experts' owners, straight into the reader's contiguous rows, in order of
// (rank, token). With it go the token's experts and router weights. Combine stores a row a rank back, already
// weighted and added over that rank's experts, and adds ranks in their order in fp32, rounded once.
//
// Dispatch is three launches (plan, send, receive), combine two. Rows are read where they arrived: a rank's
// next plan says that it is done with them. The same calls in the same order on all ranks, any number of
// tokens each.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/peer_memory.h"

namespace orrery::kernels {

constexpr std::int32_t expert_rows_most_choices = 16;
constexpr std::int32_t expert_rows_most_tokens = 65535;  // of a rank: counters of 16 bits

struct ExpertRows {
  unsigned char* rows[peer_most_ranks] = {};      // of each rank: [ranks · most_tokens][row_bytes]
  std::int32_t* routes[peer_most_ranks] = {};     // with each row: source, top_k experts, top_k weights' bits
  std::uint64_t* counts[peer_most_ranks] = {};    // [from][to]: epoch above, rows below
  std::uint16_t* returned[peer_most_ranks] = {};  // bf16, [half][most_tokens][ranks][columns]
  std::uint32_t* flags[peer_most_ranks] = {};     // [rows, returned][from]
  std::int32_t* places = nullptr;  // own, [most_tokens][ranks]: place among this rank's; −1: none
  std::int32_t* begins = nullptr;  // own, ranks + 1: where its rows begin at each rank; [ranks]: arrived
  std::uint32_t* words = nullptr;  // own, expert_rows_words, zeros at first
  std::int32_t ranks = 0, rank = 0;
  std::int32_t experts = 0;  // of all ranks; a multiple of ranks
  std::int32_t top_k = 0;
  std::int32_t most_tokens = 0;
  std::int32_t columns = 0;      // of what comes back, bf16; multiple of 8
  std::int32_t row_bytes = 0;    // of what is sent; multiple of 16
  std::int32_t route_words = 0;  // expert_route_words(top_k)
};
constexpr std::int64_t expert_rows_words = 8;
constexpr std::int64_t expert_route_words(std::int64_t top_k) { return 1 + 2 * top_k; }

struct ExpertRowsDispatchLaunch {
  ExpertRows exchange;
  const unsigned char* x = nullptr;      // tokens × row_bytes
  const std::int32_t* chosen = nullptr;  // tokens × top_k; −1: nobody
  const float* weights = nullptr;        // tokens × top_k
  std::int32_t tokens = 0;
};
void launch_expert_rows_plan(const ExpertRowsDispatchLaunch& launch, void* stream);
void launch_expert_rows_send(const ExpertRowsDispatchLaunch& launch, void* stream);
void launch_expert_rows_receive(const ExpertRowsDispatchLaunch& launch, void* stream);

struct ExpertRowsCombineLaunch {
  ExpertRows exchange;
  const std::uint16_t* y = nullptr;  // bf16, arrived rows × columns
  std::uint16_t* out = nullptr;      // bf16, tokens × columns
  std::int32_t tokens = 0;
};
void launch_expert_rows_return(const ExpertRowsCombineLaunch& launch, void* stream);
void launch_expert_rows_combine(const ExpertRowsCombineLaunch& launch, void* stream);

}  // namespace orrery::kernels
