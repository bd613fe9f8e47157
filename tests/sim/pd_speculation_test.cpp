// Speculation on the decode side of vLLM's whole transfers: what is fetched, when drafts begin, conservation.
#include "../sanitized.h"
#include "apart_world.h"
#include "catch.h"
#include "sglang_features_world.h"
#include "sim/costed/run.h"

using namespace orrery;
using namespace apart;
using world::request;

namespace {

void speculate(world::World& w, std::int32_t k, double accepted, bool network) {
  w.own_acceptance =
      std::make_shared<SampledAcceptance>(1, std::vector<double>(static_cast<std::size_t>(k), accepted), 1);
  w.acceptance = w.own_acceptance.get();
  w.config.speculation = {.tokens = k, .lookahead = network ? k : 0, .drops_last_hit = network};
  w.spec.engine.settings.draft_tokens = k;
  w.spec.speculation.method = network ? SpeculationMethod::eagle : SpeculationMethod::ngram;
  w.spec.speculation.tokens = k;
  w.spec.speculation.draft.intermediate = 12288;
  w.spec.engine.host.ngram_token = hand::us(0.001);
  if (!network) w.spec.engine.steps_in_flight = 1;
}

}  // namespace

TEST_CASE(
    "apart, drafts begin on the decode side, behind the last prompt token computed again [pd][speculation]") {
  for (const bool network : {true, false}) {
    Apart a;
    a.transfer = milliseconds(7);
    speculate(a.world, 3, 1.0, network);
    Steps steps;
    world::Records records;
    a.world.sink = &records;
    a.world.observer = &steps;
    const RunResult r = run(a, {request(0, 1.0, 1600, 41)});
    CHECK(records.all.at(0).output_tokens == 41);
    CHECK(sum(records.all[0].handoff) == records.all[0].ttft);
    // Whole blocks, and none for drafts.
    REQUIRE(a.pulls.size() == 1);
    CHECK(a.pulls[0].blocks == 100);
    // One token with the first, then four a verification.
    CHECK(r.speculation.accepted <= r.speculation.drafts);
    if (network) CHECK(r.speculation.decodes == 10);
    for (const StepRecord& s : steps.all)
      if (s.instance == InstanceId(0)) CHECK(s.decode_sequences == 0);
  }
}

TEST_CASE(
    "random worlds apart with speculation: conservation, and single steps are the same [pd][speculation]") {
  std::uint64_t preempted = 0, accepted = 0, rejected = 0, retried = 0, cancelled = 0;
  for (std::uint64_t seed = 1; seed <= (sanitized ? 8u : 40u); ++seed) {
    CAPTURE(seed);
    auto [w, requests] = world::random_world(seed);
    RandomStream random(seed, RandomPurpose::property_test, 17);
    world::speculate(w, random);
    if (w.config.speculation.lookahead == 0) w.spec.engine.steps_in_flight = 1;
    Apart a;
    a.world = w;
    draw_pools(a, requests, random);
    a.rules.recompute_failed = random.below(2) == 0;
    const Checked checked = check(a, requests);
    preempted += checked.run.preemptions;
    accepted += checked.run.speculation.accepted;
    rejected += checked.run.speculation.drafts - checked.run.speculation.accepted;
    retried += checked.run.transfers.retried;
    cancelled += checked.run.cancelled;
  }
  CHECK(accepted > 1000);
  CHECK(rejected > 1000);
  CHECK(cancelled > 5);
  if (!sanitized) CHECK(preempted > 0);
  if (!sanitized) CHECK(retried > 5);
}

namespace {

Result<RunResult> run_pools(const std::string& prefill, const std::string& decode, const std::string& pd = "",
                            const std::string& engine = "vllm-0.24") {
  const std::string keys = "hardware: h200, model: deepseek-v3, parallel: {tp: 8}, engine: " + engine;
  ScenarioOptions options;
  options.overrides = {
      "deployment={topology: {preset: hopper-8, nodes: 2, nics_per_node: 8, nic_gbps: 400}, " + pd +
          "pools: [{" + keys + ", name: p, role: prefill" + prefill + "}, {" + keys +
          ", name: d, role: decode" + decode + "}]}",
      "workload={generator: {requests: 20, arrivals: {process: fixed, rate: 5}, input: "
      "{distribution: fixed, value: 1000}, output: {distribution: fixed, value: 40}}}"};
  ORRERY_TRY(scenario,
             load_scenario(std::string(ORRERY_SOURCE_DIR) + "/examples/qwen3-8b-h200.yaml", options));
  return run_scenario(scenario);
}

std::string refusal(const Result<RunResult>& run) { return run.ok() ? "" : run.errors().front().message; }

}  // namespace

TEST_CASE("MTP on both sides decodes faster, and its layer's KV travels as well [pd][speculation]") {
  const std::string mtp = ", speculation: {method: mtp, tokens: 1, acceptance: 0.9}";
  const auto plain = run_pools("", ""), drafting = run_pools(mtp, mtp);
  REQUIRE(plain.ok());
  if (!drafting.ok()) FAIL(refusal(drafting));
  CHECK(drafting->tpot.mean < 0.8 * plain->tpot.mean);
  // A layer more than the model's 61.
  CHECK(static_cast<double>(drafting->transfers.bytes) ==
        Approx(62.0 / 61 * static_cast<double>(plain->transfers.bytes)));
  CHECK(refusal(run_pools("", mtp)).find("drafting network") != std::string::npos);
  CHECK(refusal(run_pools(mtp, mtp, "pd: {transfer: layerwise}, ")).find("leave one by one") !=
        std::string::npos);
  // Both engines send it.
  const auto of_sglang = run_pools(mtp, mtp, "", "sglang-0.5");
  const auto without = run_pools("", "", "", "sglang-0.5");
  if (!of_sglang.ok()) FAIL(refusal(of_sglang));
  CHECK(static_cast<double>(of_sglang->transfers.bytes) ==
        Approx(62.0 / 61 * static_cast<double>(without->transfers.bytes)).epsilon(1e-4));
  CHECK(of_sglang->tpot.mean < 0.8 * without->tpot.mean);
  // Drafts from the text itself have no KV: the decode side alone may make them.
  const auto ngram =
      run_pools("", ", speculation: {method: ngram, tokens: 2, acceptance: 0.5, match_rate: 0.5}");
  if (!ngram.ok()) FAIL(refusal(ngram));
  CHECK(ngram->transfers.bytes == plain->transfers.bytes);
}
