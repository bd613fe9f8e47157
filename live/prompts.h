// Prompts of a workload that is known by lengths and names of content only: as many token ids, or words, as
// the request has tokens, equal where the trace says that they are equal.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "live/prompt_words.h"
#include "workloads/request_source.h"

namespace orrery {

class PromptMaker {
 public:
  // `vocabulary`: ids are below it; those of special tokens, at either end of common vocabularies, are left
  // out. `words`: of the server's tokenizer, for text of exactly so many tokens; it outlives the maker.
  explicit PromptMaker(std::uint64_t seed, std::int64_t vocabulary, const PromptWords* words = nullptr);
  std::vector<std::int32_t> tokens(const TraceRequest& request);
  // Of the tokenizer's words, each behind a blank, as many as leave room for the special tokens that it adds
  // (at least one word). Without them common words, each one token of the usual vocabularies; what it comes
  // to is the server's word (usage.prompt_tokens).
  std::string text(const TraceRequest& request);

 private:
  // The content of a request's position, as a number.
  template <class Take>
  void walk(const TraceRequest& request, Take take);
  struct Session {
    std::uint64_t stream = 0;
    std::int64_t reached = 0;
  };
  std::uint64_t seed_, lowest_, range_;
  const PromptWords* words_;
  std::unordered_map<std::uint64_t, Session> sessions_;  // looked up, never iterated
};

}  // namespace orrery
