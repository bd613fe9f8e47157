// The next token of each row of logits.
//   argmax: the largest logit (greedy).
//   sample: argmax of logit / temperature + Gumbel noise, which draws from softmax(logit / temperature) in
//   one pass
//           and without a sum (Gumbel 1954; Maddison et al. 2014). Temperature 0 is greedy.
// Ties go to the lower token. A NaN is larger than every number, the first NaN wins: a broken row shows.
#pragma once

#include <cstdint>

namespace orrery::kernels {

struct SampleLaunch {
  const float* logits = nullptr;         // rows × vocabulary
  const float* temperatures = nullptr;   // one a row; null: all rows are greedy
  const std::uint64_t* seeds = nullptr;  // one a row: of its request
  const std::uint32_t* steps = nullptr;  // one a row: the token's number in its request
  std::int32_t* tokens = nullptr;        // rows
  std::uint64_t* partial = nullptr;      // workspace: rows · sample_most_splits
  std::uint32_t* arrived = nullptr;      // workspace: rows, zero before the first launch; left at zero
  std::int32_t rows = 0;
  std::int32_t vocabulary = 0;  // multiple of 4
};
constexpr std::int32_t sample_most_splits = 64;

// The noise of a token: −ln(−ln u), u from Philox4x32-10 keyed by the seed with counter (token / 4, step),
// word token mod 4. Independent of grid, batch and device.
void launch_sample(const SampleLaunch& launch, void* stream);

}  // namespace orrery::kernels
