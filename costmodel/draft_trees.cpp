#include "costmodel/draft_trees.h"

#include <algorithm>
#include <cmath>
#include <initializer_list>

#include "base/json.h"
#include "costmodel/instance_spec.h"
#include "costmodel/kv_groups.h"
#include "costmodel/profile_reader.h"

namespace orrery {

namespace {

constexpr std::int64_t most_tokens = 16;     // drafts on a path; engines are run with 1 to 8
constexpr std::int64_t most_verified = 129;  // tokens of a verification
constexpr std::int64_t most_branches = 16;   // disaggregation/utils.py: metadata hold no more

constexpr const char* rules_version = "0.5.23";  // the wheel that trees were read in

// Best candidates where a log says what was accepted: for the shape alone, on which little of the price
// depends.
constexpr double typical_best = 0.63;

// Of the further candidates nobody publishes EAGLE's. Assumed: the chance that none of the k best is right
// falls as 1 / sqrt(k). A power is what Sequoia observes (arXiv 2402.12374); its exponent is 0.50 to 0.52 for
// k = 2 to 5 in the rates that its repository publishes (acceptance-rate-vector.pt: 0.634, 0.108, 0.057,
// 0.023, 0.020).
double assumed_sibling(std::size_t rank) {
  const auto k = static_cast<double>(rank);
  return 1 - std::sqrt(k / (k + 1));
}

// By rank, of one depth. A drafter's candidates are sorted: where the law would put a later one first, it is
// held down to its predecessor.
std::vector<double> ranks(double best, std::size_t candidates, const std::vector<double>& siblings) {
  std::vector<double> out{best};
  double left = 1 - best;
  for (std::size_t r = 1; r < candidates; ++r) {
    const double next = left * (siblings.empty() ? assumed_sibling(r) : siblings[r - 1]);
    out.push_back(siblings.empty() ? std::min(next, out.back()) : next);
    left -= out.back();
  }
  return out;
}

std::vector<std::vector<double>> chances(const SpeculationSpec& s, std::size_t candidates) {
  std::vector<std::vector<double>> out;
  for (std::int32_t d = 0; d < s.tokens; ++d) {
    const double best = s.acceptance.empty() ? typical_best : s.acceptance[static_cast<std::size_t>(d)];
    out.push_back(ranks(best, candidates, s.siblings));
  }
  return out;
}

}  // namespace

DraftTreeKeys::DraftTreeKeys(const Yaml& node)
    : node_(node), tokens_(node.optional("tokens")), branches_(node.optional("branches")),
      verified_(node.optional("verified")), siblings_(node.optional("siblings")),
      matched_(node.optional("match_length")) {}

void DraftTreeKeys::refuse(std::initializer_list<const Yaml*> keys, const char* why) const {
  for (const Yaml* key : keys) {
    if (key->present()) key->fail(why);
    accept_all(*key);
  }
}

void DraftTreeKeys::read_shape(const ModelSpec& model, const std::string& engine, SpeculationSpec& s) {
  if (engine == "sglang" && s.has_network()) return read_of_network(model, s);
  if (engine == "sglang" && !tokens_.present()) return read_of_ngrams(s);
  s.tokens = static_cast<std::int32_t>(tokens_.integer(1, 1, most_tokens));
  refuse({&branches_, &verified_, &siblings_, &matched_},
         engine == "sglang"
             ? "`tokens` says a chain of n-grams (breadth 1); a tree of them has no depth of its "
               "own: leave `tokens` out, or this key"
             : "trees of drafts are modelled for SGLang; remove the key");
}

void DraftTreeKeys::read_of_network(const ModelSpec& model, SpeculationSpec& s) {
  refuse({&matched_}, "only a tree of n-grams has it; remove the key");
  if (!tokens_.present()) {
    // _auto_choose_speculative_params: steps, topk, tokens to verify; 5, 4, 8 for Grok too, which is no
    // profile.
    refuse({&branches_, &verified_},
           "the engine takes `tokens`, `branches` and `verified` together, or none of "
           "them and chooses; say `tokens` too");
    const bool wide = model.architecture == "LlamaForCausalLM";
    s.tokens = wide ? 5 : 3;
    s.branches = wide ? 4 : 1;
    nodes_ = wide ? 8 : 0;
    s.chosen_by_engine = true;
  } else {
    s.tokens = static_cast<std::int32_t>(tokens_.integer(1, 1, most_tokens));
    s.branches = static_cast<std::int32_t>(branches_.integer(1, 1, most_branches));
    if (s.branches == 1) {
      refuse({&verified_},
             "a chain is verified whole (speculative_num_draft_tokens = num_steps + 1); say "
             "`branches` too, or remove the key");
    } else {
      const Yaml verified = node_.require("verified");
      nodes_ = static_cast<std::int32_t>(verified.integer(2, 2, most_verified));
      const std::int64_t all = eagle_candidates(s.tokens, s.branches);
      if (nodes_ - 1 > all) {
        verified.fail("the passes give " + std::to_string(all) + " drafts; expected at most " +
                      std::to_string(all + 1));
        nodes_ = static_cast<std::int32_t>(all + 1);
      }
    }
  }
  if (s.branches == 1) return refuse({&siblings_}, "a chain has one candidate in each place; remove the key");
  const auto further = static_cast<std::size_t>(s.branches - 1);
  s.siblings_assumed = !siblings_.present();
  if (s.siblings_assumed) return;
  if (!siblings_.is_list()) {
    s.siblings.assign(further, siblings_.number(0, 0, 1));
    return;
  }
  for (const Yaml& item : siblings_.items()) s.siblings.push_back(item.number(0, 0, 1));
  if (s.siblings.size() != further) {
    siblings_.fail("needs one number for all candidates after the best, or one for each of the " +
                   std::to_string(further) + " others, not " + std::to_string(s.siblings.size()));
    s.siblings.resize(further, 0);
  }
}

// `_handle_ngram`: 12 tokens verified, speculative_ngram_max_bfs_breadth 10, unless said.
void DraftTreeKeys::read_of_ngrams(SpeculationSpec& s) {
  trie_.breadth = static_cast<std::int32_t>(branches_.integer(trie_.breadth, 1, 64));
  nodes_ = static_cast<std::int32_t>(verified_.integer(12, 2, most_verified));
  s.chosen_by_engine = !branches_.present() && !verified_.present();
  if (trie_.breadth == 1) {
    s.tokens = nodes_ - 1;
    nodes_ = 0;
    return refuse({&siblings_, &matched_}, "a chain of n-grams has one continuation; remove the key");
  }
  s.branches = trie_.breadth;
  if (!siblings_.is_list() || !matched_.present()) {
    node_.fail(
        "SGLang drafts trees of n-grams (speculative_ngram_max_bfs_breadth, 10 unless said): say what they "
        "find by `match_length` (tokens of the longest suffix that was said before, 1 to 17) and `siblings` "
        "(a list: what the second latest continuation and each further one are worth), or a chain by "
        "`tokens`");
  }
  trie_.matched = static_cast<std::int32_t>(matched_.integer(1, 1, trie_.deepest - 1));
  if (siblings_.is_list()) {
    for (const Yaml& item : siblings_.items()) s.siblings.push_back(item.number(0, 0, 1));
  } else {
    accept_all(siblings_);
  }
  trie_.continuations = 1 + static_cast<std::int32_t>(s.siblings.size());
  s.tokens = ngram_tree({}, trie_, nodes_).depth();
}

void DraftTreeKeys::plant(SpeculationSpec& s) const {
  if (nodes_ == 0) return;
  s.verified = nodes_;
  if (s.method == SpeculationMethod::ngram) {
    s.tree = std::make_shared<const DraftTree>(ngram_tree(chances(s, 1 + s.siblings.size()), trie_, nodes_));
    return;
  }
  const std::vector<std::vector<double>> by_depth = chances(s, static_cast<std::size_t>(s.branches));
  for (std::size_t d = 0; d < by_depth.size(); ++d) {
    const std::vector<double>& row = by_depth[d];
    if (std::is_sorted(row.rbegin(), row.rend())) continue;
    siblings_.fail(
        "at draft " + std::to_string(d + 1) +
        " a later candidate would be right more often than a "
        "better one; the drafter sorts them: expected falling chances, each of what the better ones "
        "leave");
    return;
  }
  s.tree = std::make_shared<const DraftTree>(eagle_tree(by_depth, s.branches, nodes_));
}

// Before an algorithm's own arguments are chosen the back end is (arg_groups/pipeline.py): on Hopper
// FlashAttention 3, unless topk > 1 was asked for (`get_default_attn_backend`,
// `is_no_spec_infer_or_topk_one`); so the engine's own tree, and n-grams', attend by FlashAttention in two
// passes, a tree that was asked for by FlashInfer with a mask. Other NVIDIA parts have FlashInfer. Latent
// attention has FlashAttention 3 on Hopper whatever the tree, in two passes, and Triton elsewhere.
void check_trees(const Yaml& node, InstanceSpec& spec) {
  SpeculationSpec& s = spec.speculation;
  const Yaml place =
      node.optional("branches").present() ? node.optional("branches") : node.optional("method");
  // Up to 0.5.9 a tree turns the overlap off ("Spec v2 currently only supports topk = 1"), and up to 0.5.5
  // more models get one by default (server_args.py).
  if ((s.tree != nullptr || s.chosen_by_engine) && spec.engine.version != rules_version) {
    place.fail("trees of drafts, and what SGLang drafts by itself, are modelled by the rules of " +
               std::string(rules_version) + ", not of " + spec.engine.version + "; use a chain (`tokens`)");
  }
  if (s.tree == nullptr) return;
  const ModelSpec& m = spec.model;
  const auto refuse = [&](bool is, const std::string& what) {
    if (is)
      place.fail("a tree of drafts " + what + " is not modelled; use a chain (`tokens`, `branches: 1`)");
  };
  const bool hopper = spec.hardware.architecture == "sm_90a", ngram = s.method == SpeculationMethod::ngram;
  const bool two_passes = s.chosen_by_engine || ngram || m.latent.present();
  s.tree_attention = hopper && two_passes ? TreeAttention::cascade : TreeAttention::masked;
  refuse(m.latent.present() && !hopper, "beside latent attention by Triton's kernels");
  refuse(m.sparse.present(), "beside sparse attention");
  refuse(window_of(m) > 0, "beside sliding windows");
  refuse(spec.hardware.architecture.starts_with("gfx"), "on AMD's parts");
  // `_handle_ngram`: with pages FlashInfer alone.
  if (ngram && spec.engine.settings.block_size > 1 && s.tree_attention == TreeAttention::cascade)
    place.fail("SGLang refuses a tree of n-grams with page_size > 1 but by FlashInfer; expected page_size 1");
}

std::string tree_line(const SpeculationSpec& s) {
  if (s.tree == nullptr) return "";
  std::string text = "drafts: a tree of " + std::to_string(s.drafts()) + ", " + std::to_string(s.branches) +
                     " branches, up to " + std::to_string(s.tokens) + " on a path";
  if (s.log.empty()) {
    text += "; by its chances " + format_fixed(s.tree->expected_accepted(), 2) + " accepted on average";
    if (s.siblings_assumed) text += " (those of further candidates assumed)";
  }
  return text + (s.tree_attention == TreeAttention::cascade ? "; attention in two passes\n"
                                                            : "; attention by FlashInfer with a mask\n");
}

std::int64_t slots_of_decode(const SpeculationSpec& s, std::int64_t page) {
  if (s.tree == nullptr || !s.has_network()) return s.query_length();
  // Every branch in pages of its own, behind a copy of the page that the context ends in.
  const std::int64_t pages = (page - 1 + s.tokens + page - 1) / page;
  const std::int64_t all =
      page == 1 ? std::int64_t{s.tokens} * s.branches : pages * page * std::int64_t{s.branches};
  return std::max<std::int64_t>(all, s.query_length());
}

}  // namespace orrery
