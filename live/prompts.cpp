#include "live/prompts.h"

#include <algorithm>
#include <array>

#include "base/digest.h"

namespace orrery {

namespace {

constexpr std::array words = {"time",    "year",  "people",  "way",     "day",     "man",      "thing",
                              "woman",   "life",  "child",   "world",   "school",  "state",    "family",
                              "student", "group", "country", "problem", "hand",    "part",     "place",
                              "case",    "week",  "company", "system",  "program", "question", "work",
                              "number",  "night", "point",   "home"};

}  // namespace

PromptMaker::PromptMaker(std::uint64_t seed, std::int64_t vocabulary, const PromptWords* own)
    : seed_(seed), words_(own) {
  // 1,000 from below: bytes and control tokens; no further than 30,000, which every model of the profiles
  // has.
  const std::int64_t top = std::clamp<std::int64_t>(vocabulary, 2, 30000);
  lowest_ = top > 2000 ? 1000 : 0;
  range_ = static_cast<std::uint64_t>(top) - lowest_;
}

template <class Take>
void PromptMaker::walk(const TraceRequest& request, Take take) {
  if (!request.hash_ids.empty()) {
    for (std::int32_t i = 0; i < request.prompt_tokens; ++i) {
      const auto block = static_cast<std::size_t>(i / request.hash_block_size);
      take(digest_of(request.hash_ids[std::min(block, request.hash_ids.size() - 1)],
                     static_cast<std::uint64_t>(i % request.hash_block_size), 1));
    }
    return;
  }
  // A session is one growing text while each prompt is longer than what came before; the answers that it
  // holds were ours to make up.
  std::uint64_t stream = digest_of(seed_, request.index, 2);
  if (request.session != 0) {
    Session& session = sessions_[request.session];
    if (session.stream == 0 || request.prompt_tokens <= session.reached) session.stream = stream;
    session.reached = std::int64_t{request.prompt_tokens} + request.output_tokens;
    stream = session.stream;
  }
  for (std::int32_t i = 0; i < request.prompt_tokens; ++i)
    take(digest_of(stream, static_cast<std::uint64_t>(i), 3));
}

std::vector<std::int32_t> PromptMaker::tokens(const TraceRequest& request) {
  std::vector<std::int32_t> ids;
  ids.reserve(static_cast<std::size_t>(request.prompt_tokens));
  walk(request,
       [&](std::uint64_t content) { ids.push_back(static_cast<std::int32_t>(lowest_ + content % range_)); });
  return ids;
}

std::string PromptMaker::text(const TraceRequest& request) {
  std::string text;
  if (words_ != nullptr) {
    std::int32_t left = std::max(1, request.prompt_tokens - words_->specials);
    walk(request, [&](std::uint64_t content) {
      if (left-- > 0) text += ' ' + words_->words[content % words_->words.size()];
    });
    return text;
  }
  walk(request, [&](std::uint64_t content) {
    if (!text.empty()) text += ' ';
    text += words[content % words.size()];
  });
  return text;
}

}  // namespace orrery
