// A tree of drafts as it is verified: which candidates of which node are looked at, and how likely each is
// what the model says. Shapes are of SGLang 0.5.23. Nothing here knows engines' arguments or prices.
//
// Chances are of ranks: a node's candidate r is the model's token with a probability that depends on r and on
// the depth alone (the positional acceptance of Sequoia, arXiv 2402.12374). The tree is therefore the same in
// every step; an engine's follows the drafter's confidence in each place.
#pragma once

#include <cstdint>
#include <vector>

namespace orrery {

struct DraftTree {
  struct Node {
    std::int32_t depth = 0;                // of the token before the drafts: 0
    std::vector<std::int32_t> candidates;  // nodes by rank, the best first; those that are verified
  };
  // chances[d][r]: that candidate r of an accepted node of depth d is what the model says next. A row's sum
  // is at most 1.
  std::vector<std::vector<double>> chances;
  std::vector<Node> nodes;  // the first: the token before the drafts

  std::int32_t drafts() const { return static_cast<std::int32_t>(nodes.size()) - 1; }
  std::int32_t depth() const;        // drafts on its longest path
  double expected_accepted() const;  // drafts of a verification, on average
  double mean_path() const;          // nodes that one sees on average, itself included
};

// EAGLE (`draft_forward`, `select_top_k_tokens`, `organize_draft_results`): the first pass gives `branches`
// candidates. Each further one goes on from the `branches` best of the last depth, by the products of chances
// along their paths, and gives each as many. Of all, the best `verified` - 1 are verified. Equal ones by
// their places in the engine's list. Preconditions: chances[d] has `branches` entries that do not rise;
// verified - 1 <= eagle_candidates(...).
DraftTree eagle_tree(const std::vector<std::vector<double>>& chances, std::int32_t branches,
                     std::int32_t verified);
std::int64_t eagle_candidates(std::int64_t depth, std::int64_t branches);

// N-grams (`Trie::buildRecency`): every suffix of the last tokens that was found, from the longest (`matched`
// tokens) to one token, adds what followed it, the latest first, breadth first, until `verified` - 1 nodes
// are there. The longer the suffix, the narrower: between 1 and `breadth`. Each place in the trie has
// `continuations`, the same tokens behind every suffix, down to the trie's depth.
struct NgramTrie {
  std::int32_t breadth = 10, deepest = 18;  // speculative_ngram_max_bfs_breadth, _max_trie_depth
  std::int32_t matched = 1, continuations = 1;
};
DraftTree ngram_tree(const std::vector<std::vector<double>>& chances, const NgramTrie& trie,
                     std::int32_t verified);

}  // namespace orrery
