// Trees of drafts by hand. Rules: eagle_worker_v2.py (`draft_forward`), eagle_utils.py
// (`organize_draft_results`), spec_utils.py (`select_top_k_tokens`) and jit/csrc/ngram_corpus/trie.cpp
// (`buildRecency`) of SGLang 0.5.23.
#include "costmodel/draft_tree.h"

#include <algorithm>

#include "base/random.h"
#include "catch.h"

using namespace orrery;

namespace {

using Chances = std::vector<std::vector<double>>;
using Ids = std::vector<std::int32_t>;

Chances alike(std::size_t depth, const std::vector<double>& ranks) { return Chances(depth, ranks); }

std::vector<Ids> candidates(const DraftTree& tree) {
  std::vector<Ids> out;
  for (const DraftTree::Node& node : tree.nodes) out.push_back(node.candidates);
  return out;
}

// Products of all paths of ranks, whatever a pass goes on with.
void all_paths(const Chances& chances, std::size_t depth, double score, std::vector<double>& out) {
  if (depth == chances.size()) return;
  for (const double c : chances[depth]) {
    out.push_back(score * c);
    all_paths(chances, depth + 1, score * c, out);
  }
}

Chances random_chances(RandomStream& r, std::size_t depth, std::size_t ranks) {
  Chances out;
  for (std::size_t d = 0; d < depth; ++d) {
    std::vector<double> row;
    double left = 1;
    for (std::size_t i = 0; i < ranks; ++i) {
      row.push_back(left * r.uniform());
      left -= row.back();
    }
    std::sort(row.rbegin(), row.rend());
    out.push_back(row);
  }
  return out;
}

}  // namespace

// Scores: 0.6, 0.2; behind the first 0.36, 0.12, behind the second 0.12, 0.04. The best three are 0.6, 0.36,
// 0.2; of the two of 0.12 the one that stands first in the list is the fourth.
TEST_CASE("EAGLE's tree: the best products of chances, of all passes together") {
  const DraftTree three = eagle_tree(alike(2, {0.6, 0.2}), 2, 4);
  CHECK(candidates(three) == std::vector<Ids>{{1, 2}, {3}, {}, {}});
  CHECK(three.depth() == 2);
  CHECK(three.expected_accepted() == Approx(0.6 + 0.2 + 0.36));
  CHECK(three.mean_path() == Approx((1 + 2 + 2 + 3) / 4.0));
  const DraftTree four = eagle_tree(alike(2, {0.6, 0.2}), 2, 5);
  CHECK(candidates(four) == std::vector<Ids>{{1, 2}, {3, 4}, {}, {}, {}});
  CHECK(four.expected_accepted() == Approx(0.6 + 0.2 + 0.36 + 0.12));
}

// Of 4 nodes of depth 2 (0.25, 0.2, 0.2, 0.16) the pass goes on from 0.25 and one of 0.2: what follows the
// others is no candidate, though verified would be more than there is.
TEST_CASE("EAGLE's tree: a pass goes on from the best branches of the one before alone") {
  CHECK(eagle_candidates(3, 2) == 10);
  const DraftTree all = eagle_tree(alike(3, {0.5, 0.4}), 2, 11);
  CHECK(all.drafts() == 10);
  CHECK(std::count_if(all.nodes.begin(), all.nodes.end(), [](const auto& n) { return n.depth == 3; }) == 4);
  CHECK(all.expected_accepted() == Approx(0.9 + 0.81 + 0.9 * (0.25 + 0.2)));
}

TEST_CASE("EAGLE's tree with one branch is the chain; certain drafts keep their parents") {
  const DraftTree chain = eagle_tree({{0.7}, {0.6}, {0.5}}, 1, 4);
  CHECK(candidates(chain) == std::vector<Ids>{{1}, {2}, {3}, {}});
  CHECK(chain.expected_accepted() == Approx(0.7 + 0.42 + 0.21));
  const DraftTree certain = eagle_tree(alike(4, {1, 0}), 2, 5);
  CHECK(candidates(certain)[0] == Ids{1});
  CHECK(certain.depth() == 4);
}

TEST_CASE(
    "EAGLE's trees at random: no more than the best of all paths, and never fewer with more of anything") {
  RandomStream r(7, RandomPurpose::property_test, 1);
  for (int i = 0; i < 300; ++i) {
    const auto depth = static_cast<std::size_t>(1 + r.below(4)),
               ranks = static_cast<std::size_t>(1 + r.below(4));
    const Chances chances = random_chances(r, depth, ranks);
    const auto wide = static_cast<std::int32_t>(ranks);
    const auto most = eagle_candidates(static_cast<std::int64_t>(depth), wide);
    const auto verified = static_cast<std::int32_t>(2 + r.below(static_cast<std::uint64_t>(most)));
    const DraftTree tree = eagle_tree(chances, wide, verified);
    CAPTURE(i, depth, ranks, verified);
    REQUIRE(tree.nodes.size() == static_cast<std::size_t>(verified));
    std::vector<double> paths;
    all_paths(chances, 0, 1, paths);
    std::sort(paths.rbegin(), paths.rend());
    double best = 0;
    for (std::size_t k = 0; k + 1 < static_cast<std::size_t>(verified); ++k) best += paths[k];
    CHECK(tree.expected_accepted() <= best + 1e-9);
    if (verified - 1 <= wide) CHECK(tree.expected_accepted() == Approx(best));
    if (verified < most) {
      CHECK(eagle_tree(chances, wide, verified + 1).expected_accepted() >= tree.expected_accepted() - 1e-12);
    }
    Chances narrow = chances;
    for (auto& row : narrow) row.pop_back();
    if (wide > 1 && verified - 1 <= eagle_candidates(static_cast<std::int64_t>(depth), wide - 1))
      CHECK(eagle_tree(narrow, wide - 1, verified).expected_accepted() <= tree.expected_accepted() + 1e-12);
    Chances shallow(chances.begin(), chances.end() - 1);
    if (depth > 1 && verified - 1 <= eagle_candidates(static_cast<std::int64_t>(depth) - 1, wide))
      CHECK(eagle_tree(shallow, wide, verified).expected_accepted() <= tree.expected_accepted() + 1e-12);
  }
}

// 10 continuations at most behind nothing, 1 behind 17 tokens, 9/17 fewer with each token. Behind one token
// int(16 · 9/17 + 1) = 9; their first then has int(8.9) = 8, of which two find room among 11.
TEST_CASE("n-grams: a short match branches at once, a long one goes on in a chain") {
  const DraftTree wide = ngram_tree({}, {.matched = 1, .continuations = 20}, 12);
  CHECK(wide.nodes[0].candidates.size() == 9);
  CHECK(wide.nodes[1].candidates == Ids{10, 11});
  CHECK(wide.depth() == 2);
  // 17 tokens leave room for one more below the trie's depth of 18, each shorter suffix for one more.
  const DraftTree chain = ngram_tree({}, {.matched = 17, .continuations = 1}, 12);
  CHECK(chain.depth() == 11);
  CHECK(chain.drafts() == 11);
}

// Suffix 17: node 1. Suffix 16, int(1.53): behind it node 2. Suffix 15, int(2.06): node 3 beside node 1,
// behind it 4; then 5 behind 2, which ends one token earlier than with 17 matched.
TEST_CASE("n-grams: shorter suffixes add to what longer ones found") {
  const DraftTree tree = ngram_tree({}, {.matched = 17, .continuations = 2}, 7);
  CHECK(candidates(tree) == std::vector<Ids>{{1, 3}, {2}, {5}, {4}, {6}, {}, {}});
  // A trie that has nothing longer gives fewer: behind one token one more.
  CHECK(ngram_tree({}, {.deepest = 2, .matched = 1, .continuations = 3}, 12).drafts() == 1);
}
