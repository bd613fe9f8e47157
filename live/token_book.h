// Token ids of an instance's sequences: of prompts by the names of their content, equal where those are
// equal; of answers what was sampled. A session's tokens are what they were when first read or said, so that
// its next prompt holds the answers that were given.
#pragma once

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "base/ids.h"
#include "sim/request.h"

namespace orrery {

class TokenBook {
 public:
  TokenBook(std::uint64_t seed, std::int64_t vocabulary);
  void open(SequenceId sequence, const Request& request);  // anew: what was there is over
  // The token at a place. One of an answer must have been said.
  std::int32_t at(SequenceId sequence, std::int64_t place);
  // Sampled for a place; what is known there already, or the prompt's, stays.
  void said(SequenceId sequence, std::int64_t place, std::int32_t token);

 private:
  struct Entry {
    Request request;
    std::vector<std::int32_t> answer;
  };
  std::int32_t content(const Request& request, std::int64_t place) const;

  std::uint64_t seed_, vocabulary_;
  std::vector<Entry> entries_;                                            // by sequence
  std::unordered_map<std::uint64_t, std::vector<std::int32_t>> streams_;  // looked up, never iterated; −1:
                                                                          // not known yet
};

}  // namespace orrery
