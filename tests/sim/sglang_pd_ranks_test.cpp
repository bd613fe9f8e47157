// SGLang apart with attention data parallelism on either side: whose rank gets a request, that KV goes from
// rank to rank, and that ranks with nothing to run change nothing.
#include <set>

#include "../sanitized.h"
#include "apart_world.h"
#include "ranks_world.h"
#include "sim/costed/run.h"

using namespace orrery;
using namespace apart;
using world::request;

namespace {

Apart ranks(std::int32_t count, SimDuration transfer) {
  Apart a;
  a.scheduler = "sglang";
  a.transfer = transfer;
  a.rules.at_once = true;
  a.rules.retries = 0;
  a.world.spec = world::rank_spec(count);
  a.world.config.block_size = 1;
  a.world.config.max_model_len = 20000;
  a.world.config.seed = 7;
  a.world.config.options.set("chunked_prefill_size", std::int64_t{2048});
  a.prefill_blocks = a.decode_blocks = 200000;
  return a;
}

}  // namespace

TEST_CASE("prefill ranks follow the request's room, decode ranks come in turn [sglang][pd][ranks]") {
  constexpr std::int32_t count = 4;
  Apart a = ranks(count, milliseconds(1));
  run(a, burst(400, 0.05, 300, 3));
  REQUIRE(a.sends.size() == 400);
  std::vector<std::int64_t> from(count), to(count);
  for (const FixedTransport::Sent& s : a.sends) {
    ++from[static_cast<std::size_t>(s.part.from_rank)];
    ++to[static_cast<std::size_t>(s.part.to_rank)];
    RandomStream room(7, RandomPurpose::bootstrap_room, s.part.request.value());
    CHECK(s.part.from_rank == static_cast<std::int32_t>(room.below(std::uint64_t{1} << 63) % count));
  }
  for (const std::int64_t n : to) CHECK(n == 100);                  // round_robin
  for (const std::int64_t n : from) CHECK(std::abs(n - 100) < 35);  // binomial: deviation 8.7
  CHECK(*std::max_element(from.begin(), from.end()) > 100);
  // Both sides by room: the same rank of as many.
  Apart same = ranks(count, milliseconds(1));
  same.world.config.options.set("load_balance_method", std::string("follow_bootstrap_room"));
  run(same, burst(40, 0.05, 300, 3));
  for (const FixedTransport::Sent& s : same.sends) CHECK(s.part.from_rank == s.part.to_rank);
  // And asked for in turn on both.
  Apart turns = ranks(count, milliseconds(1));
  turns.world.config.options.set("load_balance_method", std::string("round_robin"));
  run(turns, burst(8, 0.05, 300, 3));
  for (std::size_t i = 0; i < 8; ++i)
    CHECK(turns.sends[i].part.from_rank == static_cast<std::int32_t>(i % count));
}

TEST_CASE("one request beside ranks without any: what it computes where, by hand [sglang][pd][ranks]") {
  Apart a = ranks(2, milliseconds(7));
  Steps steps;
  const RequestRecord r = records_of(a, {request(0, 1.0, 5000, 50)}, &steps).at(0);
  CHECK(r.output_tokens == 50);
  CHECK(sum(r.handoff) == r.ttft);
  CHECK(r.handoff.wait == SimDuration(0));
  std::int64_t prompts = 0, decodes = 0;
  for (const StepRecord& s : steps.all) {
    prompts += s.prefill_tokens;
    decodes += s.decode_sequences * s.steps;
    CHECK((s.instance == InstanceId(0)) == (s.prefill_tokens > 0));
  }
  CHECK(prompts == 5000);
  CHECK(decodes == 49);  // the first token came with the KV
  REQUIRE(a.sends.size() == 3);
  CHECK(a.sends[0].part.last == 2048);
}

TEST_CASE("random worlds of ranks apart: conservation, and single steps are stretches [sglang][pd][ranks]") {
  std::uint64_t stretches = 0, preempted = 0, cancelled = 0, eos = 0, retried = 0, lost = 0;
  for (std::uint64_t seed = 1; seed <= (sanitized ? 8u : 40u); ++seed) {
    CAPTURE(seed);
    auto [w, requests] = world::random_rank_world(seed);
    RandomStream random(seed, RandomPurpose::property_test, 16);
    Apart a = ranks(2, SimDuration(static_cast<std::int64_t>(random.below(60'000'000))));
    a.world = w;
    a.world.config.options.set("enable_mixed_chunk", false);
    if (seed % 3 == 0) a.world.config.options.set("enable_prefill_delayer", true);
    if (random.below(3) == 0)
      a.world.config.options.set(
          "load_balance_method",
          std::string(random.below(2) == 0 ? "total_tokens" : "follow_bootstrap_room"));
    eos += draw_sglang_pools(a, requests, random);
    const Checked checked = check(a, requests);
    stretches += checked.run.stretches;
    preempted += checked.run.preemptions;
    cancelled += checked.run.cancelled;
    retried += checked.run.transfers.retried;
    std::set<std::int32_t> used;
    for (const FixedTransport::Sent& s : checked.sends) used.insert(s.part.to_rank);
    lost += used.size() > 1 ? 1 : 0;
  }
  CHECK(stretches > (sanitized ? 5 : 50));
  CHECK((sanitized || preempted > 0));
  CHECK(cancelled > (sanitized ? 5 : 40));
  CHECK(eos > (sanitized ? 10 : 80));
  CHECK(retried > (sanitized ? 1 : 10));
  CHECK(lost > (sanitized ? 5 : 30));
}

namespace {

// DeepSeek-V3 as it is deployed: ranks and experts over all GPUs, widths that differ, on two nodes.
Result<Scenario> deepseek(const std::string& prefill, const std::string& decode) {
  const std::string keys = "hardware: h200, model: deepseek-v3, engine: sglang-0.5, ";
  ScenarioOptions options;
  options.overrides = {
      "deployment={topology: {preset: hopper-8, nodes: 3, nics_per_node: 8, nic_gbps: 400}, pools: [{" +
          keys + "name: p, role: prefill, " + prefill + "}, {" + keys + "name: d, role: decode, " + decode +
          "}]}",
      "workload={generator: {requests: 60, arrivals: {process: poisson, rate: 20}, input: {distribution: "
      "uniform, low: 200, high: 3000}, output: {distribution: uniform, low: 2, high: 80}}}"};
  return load_scenario(std::string(ORRERY_SOURCE_DIR) + "/examples/qwen3-8b-h200.yaml", options);
}

}  // namespace

TEST_CASE("DeepSeek-V3 with ranks on both sides: KV goes between ranks, once [sglang][pd][ranks]") {
  const std::string ranked = "parallel: {dp: 8, ep: 8}, engine_args: {context_length: 16384}";
  const std::string wide =
      "parallel: {dp: 16, ep: 16}, engine_args: {context_length: 16384, moe_a2a_backend: "
      "deepep}";
  const auto scenario = deepseek(ranked, wide);
  if (!scenario.ok()) FAIL(scenario.errors().front().message);
  RunOptions single;
  single.stretches = false;
  world::Records records;
  RunOptions options;
  options.sink = &records;
  const RunResult r = run_scenario(*scenario, options).value();
  CHECK(r.completed == 60);
  CHECK(r.transfers.pulls == 60);
  double prompts = 0;
  for (const RequestRecord& q : records.all) prompts += q.prompt_tokens;
  // A rank of one GPU keeps the whole latent, and reads it once: 70,272 bytes a token.
  CHECK(static_cast<double>(r.transfers.bytes) == Approx(70272.0 * prompts).epsilon(0.02));
  CHECK(run_scenario(*scenario, single).value().digest == r.digest);
}

TEST_CASE("a room needs two sides [sglang][pd][ranks]") {
  ScenarioOptions options;
  options.overrides = {"deployment.engine_args={load_balance_method: follow_bootstrap_room}"};
  const auto refused =
      load_scenario(std::string(ORRERY_SOURCE_DIR) + "/examples/deepseek-v3-h200-dp8.yaml", options);
  REQUIRE(!refused.ok());
  CHECK(refused.errors().front().message.find("prefill and decode pools") != std::string::npos);
}
