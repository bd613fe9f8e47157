// Names of content, as numbers.
#pragma once

#include <cstdint>

#include "base/digest.h"

namespace orrery {

inline std::uint64_t digest_of(std::uint64_t a, std::uint64_t b, std::uint64_t c) {
  Digest d;
  d.add(a);
  d.add(b);
  d.add(c);
  return d.value();
}

}  // namespace orrery
