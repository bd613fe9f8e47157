// How many tokens: one draw of a length distribution.
#pragma once

#include <cstdint>

#include "base/random.h"
#include "workloads/generator.h"

namespace orrery {

class LengthSampler {
 public:
  explicit LengthSampler(const LengthSpec& spec);
  std::int32_t draw(RandomStream& stream) const;  // in [max(1, low), high]

 private:
  LengthSpec spec_;
  double mu_ = 0, sigma_ = 0;  // log_normal: of the logarithm
};

}  // namespace orrery
