// Sorts an MoE layer's rows by expert, each expert's rows padded to a multiple of `block`. A row is a flat
// number token · k + choice. The order within an expert is that of the flat numbers: the same input gives the
// same order, whatever the device does first. A rank that has some of the experts asks for those: rows of the
// others have no place.
#pragma once

#include <cstdint>

namespace orrery::kernels {

struct MoeAlignLaunch {
  const std::int32_t* chosen = nullptr;   // rows: the expert of each flat number
  std::int32_t* sorted = nullptr;         // moe_align_capacity: flat numbers by expert; padding holds `rows`
  std::int32_t* positions = nullptr;      // rows: where in `sorted` each flat number stands; −1: nowhere
  std::int32_t* block_experts = nullptr;  // capacity / block: the expert of each block; −1 behind the last
  std::int32_t* offsets = nullptr;    // experts + 1: where each expert's padded rows begin; [experts]: rows
                                      // used
  std::int32_t* counts = nullptr;     // experts: rows of each, without padding
  std::int32_t* workspace = nullptr;  // moe_align_workspace
  std::int32_t rows = 0;              // tokens · k
  std::int32_t experts = 0;           // at most moe_most_experts
  std::int32_t first_expert = 0;      // of those: expert e of `chosen` is number e − first_expert here
  std::int32_t block = 16;
};
constexpr std::int32_t moe_most_experts = 512;

// Elements. Only sorted[0 … offsets[experts]) is written.
std::int64_t moe_align_capacity(std::int64_t rows, std::int64_t experts, std::int64_t block);
std::int64_t moe_align_workspace(std::int64_t rows, std::int64_t experts);

void launch_moe_align(const MoeAlignLaunch& launch, void* stream);

}  // namespace orrery::kernels
