// TensorRT-LLM's disaggregated serving with attention data parallelism on either side: who waits for whose
// transfer, between which GPUs it goes, and that nothing leaks. Rules cite pyexecutor/py_executor.py.
#include <set>

#include "../sanitized.h"
#include "apart_world.h"
#include "sim/costed/run.h"
#include "tensorrt_llm_world.h"

using namespace orrery;
using namespace apart;
using world::request;

namespace {

Apart ranks(std::int32_t count, SimDuration transfer) {
  Apart a;
  a.scheduler = "tensorrt-llm";
  a.transfer = transfer;
  a.rules.retries = 0;
  a.world.spec = hand::instance(hand::mixture());
  a.world.spec.plan.dp = count;
  a.world.spec.engine.settings.joint = {.ranks = count, .rule = JointRule::tensorrt_llm};
  a.world.config.block_size = 32;
  a.world.config.max_model_len = 2000;
  a.prefill_blocks = a.decode_blocks = 5000;
  return a;
}

// The longest time between the begins of two decode steps in a row.
SimDuration longest_gap(const Steps& steps) {
  SimDuration most(0);
  SimTime last = SimTime::never();
  for (const StepRecord& s : steps.all) {
    if (s.decode_sequences == 0) continue;
    if (!last.is_never()) most = std::max(most, s.device_begin - last);
    last = s.device_end;
  }
  return most;
}

}  // namespace

TEST_CASE("one request beside ranks without any: what it computes where [tensorrt_llm][pd][ranks]") {
  Apart a = ranks(2, milliseconds(7));
  Steps steps;
  const RequestRecord r = records_of(a, {request(0, 1.0, 1500, 50)}, &steps).at(0);
  CHECK(r.output_tokens == 50);
  CHECK(sum(r.handoff) == r.ttft);
  CHECK(r.handoff.transfer == milliseconds(7));
  std::int64_t prompts = 0, decodes = 0;
  for (const StepRecord& s : steps.all) {
    prompts += s.prefill_tokens;
    decodes += s.decode_sequences * s.steps;
    CHECK((s.instance == InstanceId(0)) == (s.prefill_tokens > 0));
  }
  CHECK(prompts == 1500);
  CHECK(decodes == 49);  // the first token came with the KV
}

// `_check_disagg_gen_transfer_status` waits for one transfer where all that a rank has is in transfer
// (need_check_one), and the other ranks wait for that one in their next all-gather. A rank that also decodes
// only looks, and nobody waits.
TEST_CASE("a rank with transfers alone holds up all ranks, one that decodes does not [tensorrt_llm][pd]") {
  for (const bool alone : {true, false}) {
    CAPTURE(alone);
    Apart a = ranks(2, milliseconds(300));
    // Request 0 decodes on rank 0 for long; 1 on rank 1, unless the last one finds that rank empty.
    std::vector<TraceRequest> requests = {request(0, 0.0, 500, 1400)};
    if (!alone) requests.push_back(request(1, 0.001, 400, 1400));
    requests.push_back(request(requests.size(), 2.0, 200, 5));
    Steps steps;
    records_of(a, requests, &steps);
    // Both ranks have tokens when the third comes: it goes to the one with fewer, which decodes.
    REQUIRE(a.pulls.size() == requests.size());
    CHECK(a.pulls.back().to_rank == 1);
    std::erase_if(steps.all, [](const StepRecord& s) { return s.schedule_begin < SimTime(1'900'000'000); });
    CHECK((longest_gap(steps) > milliseconds(250)) == alone);
  }
}

// schedule_attention_dp_requests, once a pass: what waits for a transfer counts for its rank, what a context
// server has answered does not.
TEST_CASE("both legs are dealt out to the rank with least tokens [tensorrt_llm][pd][ranks]") {
  Apart a = ranks(4, milliseconds(1));
  run(a, burst(80, 0.05, 300, 200));
  REQUIRE(a.pulls.size() == 80);
  std::vector<int> to(4), from(4);
  for (const KvPull& p : a.pulls) {
    ++to[static_cast<std::size_t>(p.to_rank)];
    ++from[static_cast<std::size_t>(p.from_rank)];
  }
  CHECK(*std::max_element(to.begin(), to.end()) - *std::min_element(to.begin(), to.end()) <= 8);
  CHECK(from[0] > 40);  // a context at a time: the first rank is empty again
}

TEST_CASE(
    "random worlds of TensorRT-LLM's ranks apart: conservation, single steps are stretches "
    "[tensorrt_llm][pd][ranks]") {
  std::uint64_t stretches = 0, cancelled = 0, failed = 0, retried = 0, spread = 0;
  for (std::uint64_t seed = 1; seed <= (sanitized ? 8u : 50u); ++seed) {
    CAPTURE(seed);
    auto [w, requests] = world::random_world(seed);
    RandomStream random(seed, RandomPurpose::property_test, 16);
    const auto count = static_cast<std::int32_t>(2 + random.below(3));
    Apart a = ranks(count, SimDuration(0));
    const InstanceSpec spec = a.world.spec;
    a.world = w;
    a.world.spec = spec;
    a.world.spec.engine.steps_in_flight = w.spec.engine.steps_in_flight;
    a.world.config.long_prefill_token_threshold = 0;
    a.world.config.tensorrt_llm.equal_progress = random.below(3) == 0;
    a.world.config.tensorrt_llm.enable_balance = random.below(3) == 0;
    a.world.config.tensorrt_llm.timeout_iters = static_cast<std::int64_t>(random.below(20));
    draw_pools(a, requests, random);
    a.prefill_blocks = 8 * w.config.num_gpu_blocks;
    const Checked checked = check(a, requests);
    stretches += checked.run.stretches;
    cancelled += checked.run.cancelled;
    failed += checked.run.failed;
    retried += checked.run.transfers.retried;
    std::set<std::int32_t> used;
    run(a, requests);
    for (const KvPull& p : a.pulls) used.insert(p.to_rank);
    spread += used.size() > 1 ? 1 : 0;
  }
  CHECK(stretches > (sanitized ? 5 : 50));
  CHECK(cancelled > (sanitized ? 5 : 40));
  CHECK(failed > (sanitized ? 2 : 15));
  CHECK(retried > (sanitized ? 2 : 15));
  CHECK(spread > (sanitized ? 5 : 40));
}

namespace {

// Case C5: DeepSeek-R1, prompts over many tensor-parallel GPUs, decodes by attention data parallelism.
Result<Scenario> deepseek(const std::string& prefill, const std::string& decode) {
  const std::string keys = "hardware: h200, model: deepseek-r1, engine: tensorrt-llm-1.2, ";
  ScenarioOptions options;
  options.overrides = {
      "deployment={topology: {preset: hopper-8, nodes: 2, nics_per_node: 8, nic_gbps: 400}, pools: [{" +
          keys + "name: p, role: prefill, " + prefill + "}, {" + keys + "name: d, role: decode, " + decode +
          "}]}",
      "workload={generator: {requests: 60, arrivals: {process: poisson, rate: 20}, input: {distribution: "
      "uniform, low: 200, high: 3000}, output: {distribution: uniform, low: 2, high: 80}}}"};
  return load_scenario(std::string(ORRERY_SOURCE_DIR) + "/examples/qwen3-8b-h200.yaml", options);
}

}  // namespace

TEST_CASE("C5: KV of a latent goes to a rank once, whatever keeps it on the other side [tensorrt_llm][pd]") {
  const std::string apart = "max_seq_len: 8192, disable_overlap_scheduler: true";
  for (const std::string prefill : {"parallel: {tp: 8, ep: 8}", "parallel: {dp: 8, ep: 8}"}) {
    CAPTURE(prefill);
    const auto scenario = deepseek(prefill + ", engine_args: {" + apart + "}",
                                   "parallel: {dp: 8, ep: 8}, engine_args: {max_seq_len: 8192}");
    if (!scenario.ok()) FAIL(scenario.errors().front().message);
    world::Records records;
    RunOptions options, single;
    options.sink = &records;
    single.stretches = false;
    const RunResult r = run_scenario(*scenario, options).value();
    CHECK(r.completed == 60);
    CHECK(r.transfers.pulls == 60);
    double prompts = 0;
    for (const RequestRecord& q : records.all) prompts += q.prompt_tokens;
    CHECK(static_cast<double>(r.transfers.bytes) == Approx(70272.0 * prompts).epsilon(0.03));
    CHECK(run_scenario(*scenario, single).value().digest == r.digest);
  }
}
