// What the tokens of a sequence are called, as far as another sequence could have the same ones: runs of
// tokens with one name. Two sequences agree on a prefix when the names agree token by token.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "base/digest.h"

namespace orrery {

struct TokenName {
  std::uint64_t id = 0;
  std::uint32_t kind = 0;  // hash block size of a hash id, or one of the two below
  friend bool operator==(const TokenName&, const TokenName&) = default;
};
inline constexpr std::uint32_t session_tokens = 0xFFFFFFFEu;  // id = stream: the same token at one position
inline constexpr std::uint32_t private_tokens = 0xFFFFFFFFu;  // id = the sequence: nobody else has them

inline constexpr std::uint32_t pair_of_runs = 0xFFFFFFFDu;  // where one name meets the next (name_pairs)

struct TokenRun {
  TokenName name;
  std::int64_t end = 0;  // tokens from the previous run's end up to here
};
using TokenRuns = std::vector<TokenRun>;

inline constexpr std::int64_t endless = std::numeric_limits<std::int64_t>::max();

// All tokens that a sequence can ever have: its prompt by hash ids, else a session's stream, else private;
// outputs behind hash ids are private. `serial` names the sequence.
inline TokenRuns name_tokens(std::span<const std::uint64_t> hash_ids, std::int32_t hash_block_size,
                             std::uint64_t stream, std::int64_t prompt_tokens, std::uint64_t serial) {
  TokenRuns runs;
  if (hash_ids.empty() && stream != 0) {
    runs.push_back({{stream, session_tokens}, endless});
    return runs;
  }
  std::int64_t end = 0;
  for (const std::uint64_t id : hash_ids) {
    if (end >= prompt_tokens) break;
    end = std::min(end + hash_block_size, prompt_tokens);
    runs.push_back({{id, static_cast<std::uint32_t>(hash_block_size)}, end});
  }
  runs.push_back({{serial, private_tokens}, endless});
  return runs;
}

// The same content by pairs of neighbouring tokens: two sequences agree on one pair fewer than on tokens.
// Only the last pair of a run reaches into the next one.
inline TokenRuns name_pairs(const TokenRuns& tokens) {
  TokenRuns pairs;
  std::int64_t begin = 0;
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    const TokenRun& run = tokens[i];
    if (i + 1 == tokens.size()) {
      pairs.push_back(run);
      break;
    }
    if (run.end - begin > 1) pairs.push_back({run.name, run.end - 1});
    Digest both;
    both.add(run.name.id);
    both.add(tokens[i + 1].name.id);
    both.add((std::uint64_t{run.name.kind} << 32) ^ tokens[i + 1].name.kind);
    pairs.push_back({{both.value(), pair_of_runs}, run.end});
    begin = run.end;
  }
  return pairs;
}

}  // namespace orrery
