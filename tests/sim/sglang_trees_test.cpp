// Trees of drafts on SGLang: how far they are accepted, and what a scheduler makes of them. § are those of
// ../shared/reference/sglang_0_5.md; where the wheel of 0.5.23 says more, its file is named.
#include <cmath>

#include "../sanitized.h"
#include "catch.h"
#include "conservation.h"
#include "example_scenario.h"
#include "sglang_driver.h"
#include "sglang_features_world.h"

using namespace orrery;
using sglang_test::config;
using sglang_test::Driver;
using Rows = std::vector<std::string>;

namespace {

constexpr std::uint64_t fewer = sanitized ? 5 : 1;

std::shared_ptr<const DraftTree> planted(const std::vector<std::vector<double>>& chances,
                                         std::int32_t branches, std::int32_t verified) {
  return std::make_shared<const DraftTree>(eagle_tree(chances, branches, verified));
}

// Llama's default (`_auto_choose_speculative_params`): 5 passes, 4 branches, 8 tokens verified.
SglangConfig llama(std::int64_t tokens = 100000) {
  SglangConfig c = config(tokens);
  c.speculation = {.tokens = 7, .depth = 5, .slots = 20, .lookahead = 5, .drops_last_hit = true};
  return c;
}

}  // namespace

TEST_CASE("a tree of one branch accepts what the chain accepts, draw by draw") {
  const std::vector<double> chain{0.8, 0.6, 0.5};
  const SampledAcceptance a(11, chain, 1), b(draft_paths(*planted({{0.8}, {0.6}, {0.5}}, 1, 4)), 11, 1);
  std::int64_t accepted = 0;
  for (std::uint64_t request = 0; request < 20; ++request) {
    for (std::int32_t outputs = 1; outputs <= 200; ++outputs) {
      REQUIRE(a.accepted(RequestId(request), outputs, 3) == b.accepted(RequestId(request), outputs, 3));
      accepted += a.accepted(RequestId(request), outputs, 3);
    }
  }
  CHECK(accepted > 4000);
  CHECK(b.proposed(RequestId(0), 1) == 3);
}

// Each draw belongs to one place, so that wider trees with the same best candidates accept no less there:
// what a narrower tree verifies of the same chances is a part of it.
TEST_CASE("accepted lengths follow the chances of the nodes that are verified, depth by depth") {
  const std::vector<std::vector<double>> chances(3, {0.6, 0.2, 0.1});
  const auto tree = planted(chances, 3, 9);
  const SampledAcceptance oracle(draft_paths(*tree), 5, 1),
      whole(draft_paths(*planted(chances, 3, 22)), 5, 1);
  const int n = 20000;
  std::vector<double> reached(4, 0);
  for (std::uint64_t i = 0; i < n; ++i) {
    const std::int32_t accepted = oracle.accepted(RequestId(i), 1, 8);
    REQUIRE(accepted <= 3);
    REQUIRE(whole.accepted(RequestId(i), 1, 21) >= accepted);
    for (std::int32_t d = 1; d <= accepted; ++d) ++reached[static_cast<std::size_t>(d)];
  }
  // By hand: 0.6, 0.36, 0.216, 0.2, then of 0.12 two, of 0.1 one and of 0.072 the one that stands first.
  const std::vector<double> expected{1, 0.9, 0.36 + 0.12 + 0.12, 0.216 + 0.072};
  CHECK(tree->expected_accepted() == Approx(expected[1] + expected[2] + expected[3]));
  for (std::size_t d = 1; d <= 3; ++d) {
    CAPTURE(d);
    CHECK(std::abs(reached[d] / n - expected[d]) < 5 * std::sqrt(0.25 / n));
  }
}

// Rows for 7 drafts, slots for 20 tokens (5 passes of 4 branches, `get_alloc_len_per_decode`) twice, and at
// most 5 accepted; under the overlap loop the context lags one verification.
TEST_CASE("§6 a tree's chosen drafts are verified, a path of them is accepted, its slots come back") {
  Driver d(llama());
  d.acceptance.accepts = 5;
  d.add({100, 50});
  CHECK(d.passes(4) ==
        Rows{"extend 0:100@0", "verify 1+7 ctx 100", "verify 1+7 ctx 100", "verify 1+7 ctx 106"});
  CHECK(d.scheduler.cache().held() + d.scheduler.cache().protected_tokens() == 106 + 40);
  CHECK(d.tokens == 1 + 2 * 6);
  d.drain();
  CHECK(d.tokens == 50);
  CHECK(d.scheduler.cache().held() == 0);
}

// 2 · 20 slots for each decode where a chain of 5 takes 2 · 6: beside two contexts of 100 tokens 70 are left,
// room for both as chains, for one alone as trees (`check_decode_mem`, `retract_decode`).
TEST_CASE("§3 a tree's reserve is what retraction counts") {
  const auto rows = [](SglangConfig c) {
    c.init_new_token_ratio = c.min_new_token_ratio_factor = 0;
    c.cache.prefix_sharing = false;
    Driver d(c);
    d.add({100, 40});
    d.add({100, 40});
    std::string all;
    for (const std::string& row : d.passes(6)) all += row + "\n";
    d.drain();
    CHECK(d.tokens == 80);
    return all;
  };
  SglangConfig chain = llama(270);
  chain.speculation.tokens = 5;
  chain.speculation.slots = 6;
  const std::string of_chain = rows(chain), of_tree = rows(llama(270));
  INFO(of_chain << of_tree);
  CHECK(of_chain.find("verify 2+5") != std::string::npos);
  CHECK(of_chain.find("retract") == std::string::npos);
  CHECK(of_tree.find("retract") != std::string::npos);
}

// managers/utils.py, `compute_num_reserved_tokens`: 20 of the context are the tree's.
TEST_CASE("§1.5 a request may not ask for the context that a tree's branches take") {
  SglangConfig c = llama();
  c.context_length = 1000;
  c.speculation.context = 20;
  Driver d(c);
  CHECK(d.add({900, 80}));
  CHECK_FALSE(d.add({900, 81}));
  CHECK_FALSE(d.add({980, 0}));
}

TEST_CASE("§6 random worlds with trees: every request ends once, no slot is lost, in any order") {
  world::Visited visited;
  for (std::uint64_t seed = 1; seed <= 80 / fewer; ++seed) {
    auto [w, requests] = world::random_sglang_world(seed);
    RandomStream random(seed, RandomPurpose::property_test, 52);
    world::branch_out(w, random);
    CAPTURE(seed);
    const auto refused = [limit = w.config.max_model_len](const TraceRequest& q) {
      return q.prompt_tokens + q.max_output_tokens > limit;
    };
    world::check_conservation(w, requests, refused, visited);
  }
  CHECK(visited.accepted > 1000 / (fewer * fewer));
  CHECK(visited.rejected_drafts > 1000 / (fewer * fewer));
  CHECK(visited.preemptions > 0);
}

// Layers with a state, HiCache beside them and mixed chunks, each as drawn.
TEST_CASE("§6 trees beside states, host tiers and mixed chunks: everybody ends, nothing is left over") {
  std::int64_t retracted = 0, mixed = 0;
  std::uint64_t loads = 0;
  for (std::uint64_t seed = 1; seed <= 40 / fewer; ++seed) {
    CAPTURE(seed);
    RandomStream r(seed, RandomPurpose::property_test, 53);
    const auto draw = [&](std::int64_t low, std::int64_t high) {
      return low + static_cast<std::int64_t>(r.below(static_cast<std::uint64_t>(high - low + 1)));
    };
    SglangConfig c = llama(draw(1000, 1600));
    const bool stateful = draw(0, 3) > 0, tier = draw(0, 1) == 0;
    if (stateful) {
      c.cache.state_slots = draw(20, 30);
      c.states = {.of_sequence = draw(2, 3), .chunk = 64, .interval = 64 * draw(1, 3), .in_turn = true};
    }
    if (tier) {
      c.cache.host_tokens = draw(200, 4000);
      c.cache.backup_at_hits = draw(0, 2);
      if (stateful) c.cache.host_states = draw(1, 60);
      if (stateful) c.state_pages = 1000;
    }
    c.context_length = 800;
    c.max_running_requests = 4;
    c.schedule_conservativeness = 0.1;
    c.chunked_prefill_size = 150;
    c.enable_mixed_chunk = draw(0, 1) == 0;
    Driver d(c);
    d.acceptance.accepts = static_cast<std::int32_t>(draw(0, 5));
    std::size_t added = 0;
    const auto pass = [&] {
      const std::string row = d.pass();
      retracted += row.find("retract") != std::string::npos ? 1 : 0;
      mixed += row.find("mixed") != std::string::npos ? 1 : 0;
    };
    for (int i = 0; i < 25; ++i) {
      const auto prompt = static_cast<std::int32_t>(draw(1, 500)),
                 output = static_cast<std::int32_t>(draw(1, 250));
      if (d.add({.prompt = prompt, .max_output = output, .stream = static_cast<std::uint64_t>(draw(1, 5))}))
        ++added;
      for (std::int64_t passes = draw(0, 60); passes-- > 0 && d.scheduler.has_work();) {
        pass();
        if (passes % 3 == 0) d.finish_copies();
      }
    }
    for (int n = 0; d.scheduler.has_work() && n < 20000; ++n) {
      pass();
      d.finish_copies();
    }
    d.finish_copies();
    REQUIRE(d.ended.size() + d.aborted.size() == added);
    std::int64_t said = 0;
    for (const Driver::Ended& e : d.ended) said += e.outputs;
    if (d.aborted.empty()) REQUIRE(said == d.tokens);
    const RadixCache& cache = d.scheduler.cache();
    REQUIRE(cache.held() == 0);
    REQUIRE(cache.protected_tokens() == 0);
    REQUIRE(cache.held_states() == 0);
    REQUIRE(cache.locked_states() == 0);
    if (stateful) REQUIRE(cache.free_states() + cache.idle_states() == c.cache.state_slots);
    loads += d.scheduler.offload_counters().loads;
  }
  CHECK(retracted > 0);
  CHECK(mixed > 0);
  CHECK(loads > 0);
}

TEST_CASE(
    "§6 trees from the file to the digest: the engine's own for Llama, more tokens a step than the chain") {
  const auto read = [](const std::string& speculation) {
    return example_at_four_times_its_rate({"deployment.model=llama-3.1-8b", "deployment.engine=sglang-0.5",
                                           "deployment.speculation=" + speculation,
                                           "workload.limit={requests: 150}"});
  };
  const Scenario own = read("{method: eagle, acceptance: 0.7}");
  CHECK(own.pool.instance.engine.settings.draft_tokens == 7);
  CHECK(own.pool.scheduler_config().speculation.slots == 20);
  CHECK(own.pool.memory.max_sequences == 48);
  const RunResult a = run(own), chain = run(read("{method: eagle, tokens: 5, acceptance: 0.7}"));
  CHECK(a.digest == run(own, false).digest);
  CHECK(a.completed == chain.completed);
  CHECK(a.output_tokens == chain.output_tokens);
  CHECK(a.speculation.drafts == 7 * a.speculation.verifications);
  CHECK(a.speculation.accepted_at.size() == 5);
  const auto mean = [](const RunResult& r) {
    return static_cast<double>(r.speculation.accepted) / static_cast<double>(r.speculation.verifications);
  };
  const DraftTree& tree = *own.pool.instance.speculation.tree;
  const double n = static_cast<double>(a.speculation.verifications);
  CHECK(std::abs(mean(a) - tree.expected_accepted()) < 5 * 2.5 / std::sqrt(n));
  CHECK(mean(a) > mean(chain) + 0.1);
  const RunResult ngram =
      run(read("{method: ngram, acceptance: 0.6, match_rate: 0.5, match_length: 8, "
               "siblings: [0.3, 0.1]}"));
  CHECK(ngram.completed == a.completed);
  CHECK(ngram.speculation.drafts == 11 * ngram.speculation.verifications);
  CHECK(ngram.speculation.verifications < ngram.speculation.decodes);
}
