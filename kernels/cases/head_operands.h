// What cases that turn heads or write a paged cache share: positions and their angles, slots, and a head
// turned in double precision.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/kernel_case.h"

namespace orrery::kernels {

std::vector<std::int64_t> draw_positions(std::int64_t tokens, std::uint64_t seed);
// Of every position that may be drawn: head_dim / 2 cosines, then as many sines.
std::vector<float> rotary_angles(std::int64_t head_dim);

struct TurnedElement {
  double value = 0, magnitude = 0;  // magnitude: of the terms that were added up to it
};
// NeoX: element i turns with element i + d/2. `table`: a position's cosines, then its sines.
std::vector<TurnedElement> turn_head(const std::vector<double>& x, const std::vector<double>& table);

// Slots of the cache that a case's spec.m tokens are written into, in blocks of spec.block_size: tokens fill
// blocks in order, the blocks lie anywhere. With extreme operands every seventh is padding: −1.
std::int64_t cache_slots(const CaseSpec& spec);
std::vector<std::int64_t> draw_slots(const CaseSpec& spec, std::uint64_t seed);

}  // namespace orrery::kernels
