#include "costmodel/draft_tree.h"

#include <algorithm>
#include <cstddef>
#include <deque>

#include "base/check.h"

namespace orrery {

namespace {

struct Candidate {
  double score = 0;
  std::int32_t depth = 0, rank = 0;
  std::int32_t parent = -1;  // in the list; -1 = the token before the drafts
};

// Indices of the `count` best of list[from, end), equal ones in their order.
std::vector<std::int32_t> best(const std::vector<Candidate>& list, std::size_t from, std::size_t count) {
  std::vector<std::int32_t> order;
  for (std::size_t i = from; i < list.size(); ++i) order.push_back(static_cast<std::int32_t>(i));
  std::stable_sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) {
    return list[static_cast<std::size_t>(a)].score > list[static_cast<std::size_t>(b)].score;
  });
  order.resize(std::min(order.size(), count));
  return order;
}

double chance(const DraftTree& tree, std::int32_t depth, std::size_t rank) {
  const auto d = static_cast<std::size_t>(depth);
  return d < tree.chances.size() && rank < tree.chances[d].size() ? tree.chances[d][rank] : 0;
}

}  // namespace

std::int32_t DraftTree::depth() const {
  std::int32_t deepest = 0;
  for (const Node& node : nodes) deepest = std::max(deepest, node.depth);
  return deepest;
}

double DraftTree::expected_accepted() const {
  std::vector<double> reached(nodes.size(), 0);  // parents stand before their candidates
  reached[0] = 1;
  double sum = 0;
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    for (std::size_t r = 0; r < nodes[i].candidates.size(); ++r) {
      const auto next = static_cast<std::size_t>(nodes[i].candidates[r]);
      reached[next] = reached[i] * chance(*this, nodes[i].depth, r);
      sum += reached[next];
    }
  }
  return sum;
}

double DraftTree::mean_path() const {
  double sum = 0;
  for (const Node& node : nodes) sum += node.depth + 1;
  return sum / static_cast<double>(nodes.size());
}

std::int64_t eagle_candidates(std::int64_t depth, std::int64_t branches) {
  return branches + (depth - 1) * branches * branches;
}

DraftTree eagle_tree(const std::vector<std::vector<double>>& chances, std::int32_t branches,
                     std::int32_t verified) {
  ORRERY_CHECK(verified - 1 <= eagle_candidates(static_cast<std::int64_t>(chances.size()), branches),
               "a tree of drafts has as many candidates as are verified");
  std::vector<Candidate> list;
  std::vector<std::int32_t> front{-1};
  for (std::size_t d = 0; d < chances.size(); ++d) {
    const std::size_t from = list.size();
    for (const std::int32_t parent : front) {
      const double score = parent < 0 ? 1 : list[static_cast<std::size_t>(parent)].score;
      for (std::int32_t r = 0; r < branches; ++r)
        list.push_back(
            {score * chances[d][static_cast<std::size_t>(r)], static_cast<std::int32_t>(d) + 1, r, parent});
    }
    front = best(list, from, static_cast<std::size_t>(branches));
  }
  std::vector<std::int32_t> chosen = best(list, 0, static_cast<std::size_t>(verified - 1));
  std::sort(chosen.begin(), chosen.end());
  DraftTree tree;
  tree.chances = chances;
  tree.nodes.emplace_back();
  std::vector<std::int32_t> node_of(list.size(), 0);
  for (const std::int32_t index : chosen) {
    const Candidate& c = list[static_cast<std::size_t>(index)];
    const std::int32_t parent = c.parent < 0 ? 0 : node_of[static_cast<std::size_t>(c.parent)];
    ORRERY_CHECK(c.parent < 0 || parent > 0, "a candidate is no better than the node it follows");
    std::vector<std::int32_t>& siblings = tree.nodes[static_cast<std::size_t>(parent)].candidates;
    ORRERY_CHECK(static_cast<std::int32_t>(siblings.size()) == c.rank, "better candidates come first");
    node_of[static_cast<std::size_t>(index)] = static_cast<std::int32_t>(tree.nodes.size());
    siblings.push_back(static_cast<std::int32_t>(tree.nodes.size()));
    tree.nodes.push_back({c.depth, {}});
  }
  return tree;
}

DraftTree ngram_tree(const std::vector<std::vector<double>>& chances, const NgramTrie& trie,
                     std::int32_t verified) {
  struct Place {
    std::int32_t node;
    double breadth;
    std::int32_t depth;  // in the trie
  };
  DraftTree tree;
  tree.chances = chances;
  tree.nodes.emplace_back();
  const std::int32_t longest = std::max(1, trie.deepest - 1);
  const double narrower = static_cast<double>(trie.breadth - 1) / longest;
  for (std::int32_t suffix = std::min(trie.matched, longest); suffix >= 1; --suffix) {
    std::deque<Place> queue{{0, (longest - suffix) * narrower + 1, suffix}};
    while (!queue.empty() && tree.drafts() < verified - 1) {
      const Place at = queue.front();
      queue.pop_front();
      if (at.depth >= trie.deepest) continue;  // nothing longer was kept
      const std::int32_t wide =
          std::min(std::max(1, static_cast<std::int32_t>(at.breadth)), trie.continuations);
      for (std::int32_t r = 0; r < wide && tree.drafts() < verified - 1; ++r) {
        const auto node = static_cast<std::size_t>(at.node);
        if (r == static_cast<std::int32_t>(tree.nodes[node].candidates.size())) {
          tree.nodes[node].candidates.push_back(static_cast<std::int32_t>(tree.nodes.size()));
          const std::int32_t depth = tree.nodes[node].depth + 1;
          tree.nodes.push_back({depth, {}});
        }
        queue.push_back(
            {tree.nodes[node].candidates[static_cast<std::size_t>(r)], at.breadth - narrower, at.depth + 1});
      }
    }
  }
  return tree;
}

}  // namespace orrery
