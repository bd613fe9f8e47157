// Speculative decoding in the whole loop: what must hold of every run, and how many tokens come of a draft.
#include "sim/speculation.h"

#include <cmath>
#include <map>

#include "catch.h"
#include "world.h"

using namespace orrery;
using world::World;

namespace {

void speculate(World& w, const AcceptanceOracle& oracle, std::int32_t tokens, bool network) {
  w.acceptance = &oracle;
  w.config.speculation = {.tokens = tokens, .lookahead = network ? tokens : 0, .drops_last_hit = network};
  w.spec.engine.settings.draft_tokens = tokens;
  w.spec.speculation.method = network ? SpeculationMethod::eagle : SpeculationMethod::ngram;
  w.spec.speculation.tokens = tokens;
  w.spec.speculation.draft.intermediate = 12288;
  w.spec.engine.host.ngram_token = hand::us(0.001);
  if (!network) w.spec.engine.steps_in_flight = 1;
}

}  // namespace

TEST_CASE("no draft accepted: the same tokens from the same steps, and every one of them dearer") {
  for (const std::int32_t depth : {1, 2}) {
    World plain, drafting;
    plain.spec.engine.steps_in_flight = drafting.spec.engine.steps_in_flight = depth;
    const SampledAcceptance never(1, {0, 0}, 1);
    speculate(drafting, never, 2, true);
    world::Records a, b;
    plain.sink = &a;
    drafting.sink = &b;
    const std::vector<TraceRequest> requests{world::request(0, 0, 500, 40)};
    const RunResult p = world::run(plain, requests), d = world::run(drafting, requests);
    CHECK(d.output_tokens == p.output_tokens);
    CHECK(d.steps == p.steps);
    CHECK(d.speculation.accepted == 0);
    CHECK(d.speculation.verifications == 39);
    CHECK(b.all[0].e2e > a.all[0].e2e);
    CHECK(d.itl.p50 > p.itl.p50);
  }
}

TEST_CASE("every draft accepted: k + 1 tokens a step, and the end exactly at the output length") {
  const std::int32_t k = 3;
  const SampledAcceptance always(1, {1, 1, 1}, 1);
  for (const std::int32_t output : {1, 2, 12, 13, 14, 4 * 25 + 1}) {
    for (const std::int32_t depth : {1, 2}) {
      World w;
      speculate(w, always, k, true);
      w.spec.engine.steps_in_flight = depth;
      world::Records records;
      w.sink = &records;
      const RunResult r = world::run(w, {world::request(0, 0, 100, output)});
      CAPTURE(output, depth);
      CHECK(records.all[0].output_tokens == output);
      const std::uint64_t verified = static_cast<std::uint64_t>(output - 1 + k) / (k + 1);
      // With two steps in flight nobody knows that the drafts in flight will be accepted: unless their bare
      // acceptance of nothing already ends the request, one more step is under way when it ends.
      const bool certain = output == 1 || (output - 1) % (k + 1) == 1;
      CHECK(r.steps == 1 + verified + (depth == 2 && !certain ? 1 : 0));
      CHECK(r.itl.count == verified);  // one event a step, however many tokens it carries
      CHECK(r.speculation.tokens == static_cast<std::uint64_t>(output - 1));
    }
  }
}

TEST_CASE("the mean accepted length is the sum of products, at every position") {
  const std::vector<double> p{0.8, 0.6, 0.5};
  const SampledAcceptance oracle(7, p, 1);
  World w;
  speculate(w, oracle, 3, true);
  std::vector<TraceRequest> requests;
  for (std::uint64_t i = 0; i < 50; ++i)
    requests.push_back(world::request(i, 0.01 * static_cast<double>(i), 64, 1000));
  const RunResult r = world::run(w, requests);
  const SpeculationCounters& c = r.speculation;
  const double n = static_cast<double>(c.verifications);
  REQUIRE(n > 10000);
  // Accepted = number of i for which the first i drafts all pass: E = Σ q_i, E² = Σ (2i − 1)·q_i, q_i = Π p.
  double mean = 0, square = 0, q = 1;
  for (std::size_t i = 0; i < p.size(); ++i) {
    q *= p[i];
    mean += q;
    square += (2 * static_cast<double>(i + 1) - 1) * q;
    const double share = static_cast<double>(c.accepted_at[i]) / n;
    CHECK(std::abs(share - q) < 5 * std::sqrt(q * (1 - q) / n));
  }
  const double deviation = std::sqrt((square - mean * mean) / n);
  CHECK(std::abs(static_cast<double>(c.accepted) / n - mean) < 5 * deviation);  // 1 in 1.7 million by chance
}

TEST_CASE("n-grams without a match decode one token; a match proposes all drafts") {
  const SampledAcceptance oracle(3, {1, 1}, 0.25);
  World w;
  speculate(w, oracle, 2, false);
  std::vector<TraceRequest> requests;
  for (std::uint64_t i = 0; i < 40; ++i) requests.push_back(world::request(i, 0, 64, 300));
  const RunResult r = world::run(w, requests);
  const SpeculationCounters& c = r.speculation;
  const double share = static_cast<double>(c.verifications) / static_cast<double>(c.decodes);
  CHECK(std::abs(share - 0.25) < 5 * std::sqrt(0.25 * 0.75 / static_cast<double>(c.decodes)));
  CHECK(c.drafts == 2 * c.verifications);
}

TEST_CASE(
    "conservation under random configurations: every token once, every block back, whoever is preempted") {
  std::uint64_t preemptions = 0, accepted = 0, rejected = 0, eos = 0, cached = 0;
  for (std::uint64_t seed = 1; seed <= 60; ++seed) {
    world::RandomWorld random = world::random_world(seed);
    World& w = random.world;
    RandomStream r(seed, RandomPurpose::property_test, 40);
    const auto k = static_cast<std::int32_t>(1 + r.below(4));
    std::vector<double> p;
    for (std::int32_t i = 0; i < k; ++i) p.push_back(r.uniform());
    const bool network = r.below(3) != 0;
    const SampledAcceptance oracle(seed, p, network ? 1 : r.uniform());
    speculate(w, oracle, k, network);
    world::Records records;
    w.sink = &records;
    w.itl = true;
    CAPTURE(seed, k, network);
    const RunResult run = world::run(w, random.requests);  // leaked blocks and requests left over are errors
    REQUIRE(records.all.size() == random.requests.size());
    std::uint64_t tokens = 0;
    for (const RequestRecord& q : records.all) {
      const TraceRequest& asked = random.requests[q.request];
      REQUIRE(q.status == RequestStatus::completed);
      const std::int64_t room = w.config.max_model_len - asked.prompt_tokens;
      REQUIRE(q.output_tokens == std::min<std::int64_t>(asked.output_tokens, room));
      REQUIRE(q.accepted_drafts <= q.drafts);
      REQUIRE(q.e2e >= q.ttft);
      if (q.itl_max >= 0) REQUIRE(q.itl_max <= (q.e2e - q.ttft).ns() + 100'000'000);
      tokens += static_cast<std::uint64_t>(q.output_tokens);
      eos += asked.max_output_tokens > asked.output_tokens ? 1 : 0;
      cached += q.cached_tokens > 0 ? 1 : 0;
    }
    REQUIRE(run.output_tokens == tokens);
    // Tokens come as first ones and from decodes, each of which is one event of one sequence.
    REQUIRE(run.speculation.tokens <= tokens);
    REQUIRE(run.speculation.tokens >= tokens - records.all.size() - run.preemptions);
    REQUIRE(run.itl.count >= run.speculation.decodes);
    REQUIRE(run.itl.count <= run.speculation.decodes + run.preemptions);
    preemptions += run.preemptions;
    accepted += run.speculation.accepted;
    rejected += run.speculation.drafts - run.speculation.accepted;
  }
  CHECK(preemptions > 0);
  CHECK(accepted > 1000);
  CHECK(rejected > 1000);
  CHECK(eos > 0);
  CHECK(cached > 0);
}

// MambaSpec.num_speculative_blocks: a state after every draft, each in a block of its own.
TEST_CASE("layers with a state: a block for each draft more, in every group, from start to end") {
  World w;
  w.config.block_size = 544;
  w.config.max_model_len = 5440;
  w.config.enable_prefix_caching = false;
  w.config.num_gpu_blocks = 41;
  w.config.kv_groups = {.full = 1, .states = 3, .blocks_of_state = 3};
  const SampledAcceptance oracle(1, {0.5, 0.5}, 1);
  speculate(w, oracle, 2, true);
  std::vector<TraceRequest> requests;
  for (std::uint64_t i = 0; i < 20; ++i) requests.push_back(world::request(i, 0, 500, 20));
  const RunResult r = world::run(w, requests);
  CHECK(r.completed == 20);
  double most = 0;
  for (const double running : r.series.running) most = std::max(most, running);
  CHECK(most > 3.5);
  CHECK(most <= 4);  // 40 / (1 + 3 · 3)
  CHECK(r.pools[0].peak_utilization == Approx(1));
}

TEST_CASE("layers with a state under random configurations: every token once, every block back") {
  std::uint64_t preemptions = 0;
  for (std::uint64_t seed = 1; seed <= 40; ++seed) {
    world::RandomWorld random = world::random_world(seed);
    World& w = random.world;
    const auto k = static_cast<std::int32_t>(1 + seed % 3);
    const bool network = seed % 4 != 0;
    w.config.enable_prefix_caching = false;
    w.config.kv_groups = {
        .full = 1, .states = static_cast<std::int32_t>(1 + seed % 4), .blocks_of_state = 1 + k};
    w.config.num_gpu_blocks += w.config.kv_groups.states * (1 + k);
    const SampledAcceptance oracle(seed, std::vector<double>(static_cast<std::size_t>(k), 0.6), 1);
    speculate(w, oracle, k, network);
    CAPTURE(seed);
    const RunResult r = world::run(w, random.requests);
    REQUIRE(r.completed == random.requests.size());
    std::uint64_t tokens = 0;
    for (const TraceRequest& q : random.requests) {
      tokens += static_cast<std::uint64_t>(
          std::min<std::int64_t>(q.output_tokens, w.config.max_model_len - q.prompt_tokens));
    }
    REQUIRE(r.output_tokens == tokens);
    preemptions += r.preemptions;
  }
  CHECK(preemptions > 0);
}

TEST_CASE("equal inputs give equal runs, in whatever order outcomes are handed over") {
  for (std::uint64_t seed = 1; seed <= 10; ++seed) {
    world::RandomWorld random = world::random_world(seed);
    const SampledAcceptance oracle(seed, {0.7, 0.5}, 1), other(seed + 1, {0.7, 0.5}, 1);
    speculate(random.world, oracle, 2, true);
    const RunResult a = world::run(random.world, random.requests);
    const RunResult b = world::run(random.world, random.requests, seed);
    CHECK(a.digest == b.digest);
    CHECK(a.speculation.accepted == b.speculation.accepted);
    random.world.config.stretches = false;
    CHECK(world::run(random.world, random.requests).digest == a.digest);
    random.world.acceptance = &other;
    if (a.speculation.drafts > 100) CHECK(world::run(random.world, random.requests).digest != a.digest);
  }
}

TEST_CASE("a request's accepted lengths do not depend on who runs beside it") {
  const SampledAcceptance oracle(11, {0.7, 0.6, 0.4}, 1);
  std::vector<TraceRequest> together, apart;
  for (std::uint64_t i = 0; i < 20; ++i) {
    together.push_back(world::request(i, 0, 50 + static_cast<std::int32_t>(i), 200));
    apart.push_back(
        world::request(i, 100.0 * static_cast<double>(i), 50 + static_cast<std::int32_t>(i), 200));
  }
  std::vector<std::vector<RequestRecord>> seen;
  for (const auto& requests : {together, apart}) {
    World w;
    speculate(w, oracle, 3, true);
    w.spec.engine.steps_in_flight = 1;
    world::Records records;
    w.sink = &records;
    world::run(w, requests);
    seen.push_back(records.all);
  }
  for (std::size_t i = 0; i < 20; ++i) {
    CHECK(seen[0][i].drafts == seen[1][i].drafts);
    CHECK(seen[0][i].accepted_drafts == seen[1][i].accepted_drafts);
  }
}

namespace {
// Hands on what another oracle decides and keeps it as a log.
class Recorder final : public AcceptanceOracle {
 public:
  explicit Recorder(const AcceptanceOracle& inner) : inner_(inner) {}
  std::int32_t accepted(RequestId r, std::int32_t outputs, std::int32_t drafts) const override {
    const std::int32_t n = inner_.accepted(r, outputs, drafts);
    rows_[{r.value(), outputs}] = {drafts, n};
    return n;
  }
  std::int32_t proposed(RequestId r, std::int32_t outputs) const override {
    return inner_.proposed(r, outputs);
  }
  std::string csv() const {
    std::string text = "request,outputs,proposed,accepted\n";
    for (const auto& [key, row] : rows_) {
      text += std::to_string(key.first) + "," + std::to_string(key.second) + "," + std::to_string(row.first) +
              "," + std::to_string(row.second) + "\n";
    }
    return text;
  }

 private:
  const AcceptanceOracle& inner_;
  mutable std::map<std::pair<std::uint64_t, std::int32_t>, std::pair<std::int32_t, std::int32_t>> rows_;
};
}  // namespace

TEST_CASE("a log of what was accepted replays the run, and says where it does not reach") {
  const SampledAcceptance oracle(5, {0.7, 0.5}, 0.6);
  const Recorder recorder(oracle);
  World w;
  speculate(w, recorder, 2, false);
  std::vector<TraceRequest> requests;
  for (std::uint64_t i = 0; i < 10; ++i)
    requests.push_back(world::request(i, 0.1 * static_cast<double>(i), 80, 60));
  const RunResult first = world::run(w, requests);
  const auto log = LoggedAcceptance::parse(recorder.csv(), "log.csv", 2).value();
  w.acceptance = &log;
  CHECK(world::run(w, requests).digest == first.digest);
  CHECK(log.missing() == 0);

  const auto bare =
      LoggedAcceptance::parse("request,outputs,proposed,accepted\n0,1,2,2\n", "log.csv", 2).value();
  w.config.speculation.lookahead = 2;  // a network proposes whether the log knows it or not
  w.spec.engine.steps_in_flight = 2;
  w.acceptance = &bare;
  world::run(w, requests);
  CHECK(bare.missing() > 0);
  CHECK(bare.first_missing().find("request 0 after 4 output tokens") != std::string::npos);
}

TEST_CASE("a log with mistakes is refused, each with its line") {
  for (const auto& [text, piece] : {std::pair{"", "log.csv:1"},
                                    {"request,outputs\n", "log.csv:1"},
                                    {"request,outputs,proposed,accepted\n0,1,2,3\n", "log.csv:2"},
                                    {"request,outputs,proposed,accepted\n0,0,2,1\n", "log.csv:2"},
                                    {"request,outputs,proposed,accepted\n0,1,3,1\n", "log.csv:2"},
                                    {"request,outputs,proposed,accepted\n0,1,2\n", "log.csv:2"},
                                    {"request,outputs,proposed,accepted\n0,1,2,1\n0,1,2,0\n", "two rows"}}) {
    INFO(text);
    const auto log = LoggedAcceptance::parse(text, "log.csv", 2);
    REQUIRE(!log.ok());
    CHECK(log.errors().front().to_string().find(piece) != std::string::npos);
  }
}
