#include "live/token_book.h"

#include <algorithm>

#include "base/check.h"
#include "base/digest.h"

namespace orrery {

TokenBook::TokenBook(std::uint64_t seed, std::int64_t vocabulary)
    : seed_(seed), vocabulary_(static_cast<std::uint64_t>(vocabulary)) {
  ORRERY_CHECK(vocabulary > 0, "a vocabulary");
}

void TokenBook::open(SequenceId sequence, const Request& request) {
  if (sequence.value() >= entries_.size()) entries_.resize(sequence.value() + 1);
  Entry& e = entries_[sequence.value()];
  e.request = request;
  e.answer.clear();
}

std::int32_t TokenBook::content(const Request& r, std::int64_t place) const {
  std::uint64_t id = 0;
  if (!r.hash_ids.empty() && place < r.prompt_tokens) {
    const auto block = static_cast<std::size_t>(place / r.hash_block_size);
    id = digest_of(r.hash_ids[std::min(block, r.hash_ids.size() - 1)],
                   static_cast<std::uint64_t>(place % r.hash_block_size), 1);
  } else if (r.hash_ids.empty() && r.stream != 0) {
    id = digest_of(r.stream, static_cast<std::uint64_t>(place), 2);
  } else {
    id = digest_of(r.id.value(), static_cast<std::uint64_t>(place), 3);
  }
  return static_cast<std::int32_t>(digest_of(seed_, id, 4) % vocabulary_);
}

std::int32_t TokenBook::at(SequenceId sequence, std::int64_t place) {
  const Entry& e = entries_[sequence.value()];
  const Request& r = e.request;
  if (r.hash_ids.empty() && r.stream != 0) {
    std::vector<std::int32_t>& known = streams_[r.stream];
    if (place >= static_cast<std::int64_t>(known.size()))
      known.resize(static_cast<std::size_t>(place) + 1, -1);
    std::int32_t& token = known[static_cast<std::size_t>(place)];
    if (token < 0) token = content(r, place);
    return token;
  }
  if (place < r.prompt_tokens) return content(r, place);
  const auto said = static_cast<std::size_t>(place - r.prompt_tokens);
  ORRERY_CHECK(said < e.answer.size(), "a token is said before it is read");
  return e.answer[said];
}

void TokenBook::said(SequenceId sequence, std::int64_t place, std::int32_t token) {
  Entry& e = entries_[sequence.value()];
  const Request& r = e.request;
  if (place < r.prompt_tokens) return;  // behind a chunk that is not the prompt's last
  if (r.hash_ids.empty() && r.stream != 0) {
    std::vector<std::int32_t>& known = streams_[r.stream];
    if (place >= static_cast<std::int64_t>(known.size()))
      known.resize(static_cast<std::size_t>(place) + 1, -1);
    std::int32_t& at = known[static_cast<std::size_t>(place)];
    if (at < 0) at = token;
    return;
  }
  const auto said = static_cast<std::size_t>(place - r.prompt_tokens);
  if (said < e.answer.size()) return;  // computed again after a preemption
  ORRERY_CHECK(said == e.answer.size(), "an answer's tokens are said in order");
  e.answer.push_back(token);
}

}  // namespace orrery
