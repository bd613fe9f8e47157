// What the tree says of its content to whoever listens (CacheEvents). A node's tokens are runs of names; a
// run that a node shares with the one above it reaches as far as the lower one does.
#include <algorithm>

#include "base/check.h"
#include "sim/radix_cache.h"

namespace orrery {

void RadixCache::watch(CacheEvents* events) {
  ORRERY_CHECK(!windowed() && !tiered(), "radix cache: events with windows or host memory");
  events_ = events;
}

// Tokens [begin, end) of the content are stored, or gone. A page that two runs share counts for the later
// one, as it does in look-ups; what is private nobody else can ask for.
void RadixCache::report(const TokenRuns& content, std::int64_t begin, std::int64_t end, bool stored) {
  std::int64_t at = 0;
  std::uint64_t beginning = 0;
  for (const TokenRun& run : content) {
    if (at >= end || run.name.kind == private_tokens) return;
    if (at == 0)
      beginning = run.name.kind == session_tokens
                      ? beginning_by_stream()
                      : beginning_by_ids(static_cast<std::int32_t>(run.name.kind));
    beginning = longer_beginning(beginning, run.name.id);
    const std::int64_t from = page_floor(at), to = page_floor(std::min(run.end, end));
    if (to > std::max(begin, from))
      events_->holds({.beginning = beginning, .from = from, .to = stored ? to : std::max(begin, from)});
    at = run.end;
  }
}

// All runs from the root to the node's end.
TokenRuns RadixCache::content_of(Node id) const {
  std::vector<Node> path;
  for (; id != root; id = nodes_[id].parent) path.push_back(id);
  TokenRuns content;
  for (; !path.empty(); path.pop_back()) {
    const Record& node = nodes_[path.back()];
    bool first = true;
    for (const TokenRun& run : node.key) {
      // The first one may go on what the node above ended with: names of hash ids end at whole blocks.
      const bool goes_on = first && !content.empty() && content.back().name == run.name &&
                           (run.name.kind >= pair_of_runs || node.begin % run.name.kind != 0);
      if (goes_on)
        content.back().end = run.end;
      else
        content.push_back(run);
      first = false;
    }
  }
  return content;
}

}  // namespace orrery
