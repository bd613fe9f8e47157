// What the instances of a pool do with a request.
#pragma once

#include <cstddef>
#include <cstdint>

namespace orrery {

enum class PoolRole : std::uint8_t {
  mixed,    // all of it
  prefill,  // its prompt, and one token; then they hold its KV until a decode instance has fetched it
  decode,   // all tokens, from KV that a prefill instance computed
  encoder,  // its images, whose embeddings a mixed instance then fetches
};
constexpr std::size_t pool_roles = 4;

constexpr const char* to_string(PoolRole role) {
  switch (role) {
    case PoolRole::mixed: return "mixed";
    case PoolRole::prefill: return "prefill";
    case PoolRole::decode: return "decode";
    case PoolRole::encoder: return "encoder";
  }
  return "mixed";
}

}  // namespace orrery
