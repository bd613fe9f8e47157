// What an engine says of its prefix cache as it changes, and the names that it says it in. vLLM and SGLang
// publish a message for each block stored or removed (KV events); here one says of a run of blocks how far
// it reaches, so that a router's copy costs what changes, not what is cached.
#pragma once

#include <cstdint>

#include "base/digest.h"

namespace orrery {

// Names of beginnings of prompts: a chain over the names of content in it (hash ids, or a session's stream).
inline std::uint64_t beginning_by_ids(std::int32_t hash_block_size) {
  Digest d;
  d.add(std::int64_t{hash_block_size});
  return d.value();
}
inline std::uint64_t beginning_by_stream() { return beginning_by_ids(0); }
inline std::uint64_t longer_beginning(std::uint64_t beginning, std::uint64_t next_name) {
  Digest d;
  d.add(beginning);
  d.add(next_name);
  return d.value();
}

// Of the content whose last name is that of `beginning`, which stands from position `from` of a prompt on, a
// cache now has all tokens before position `to`, in whole blocks; `to` = `from`: none. (Of the names before
// it, it said so by themselves.)
struct Reach {
  std::uint64_t beginning = 0;
  std::int64_t from = 0, to = 0;
};

class CacheEvents {
 public:
  virtual ~CacheEvents() = default;
  virtual void holds(const Reach& reach) = 0;
};

}  // namespace orrery
