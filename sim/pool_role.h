// What the instances of a pool do with a request.
#pragma once

#include <cstdint>

namespace orrery {

enum class PoolRole : std::uint8_t {
  mixed,    // all of it
  prefill,  // its prompt, and one token; then they hold its KV until a decode instance has fetched it
  decode,   // all tokens, from KV that a prefill instance computed
};

constexpr const char* to_string(PoolRole role) {
  switch (role) {
    case PoolRole::mixed: return "mixed";
    case PoolRole::prefill: return "prefill";
    case PoolRole::decode: return "decode";
  }
  return "mixed";
}

}  // namespace orrery
