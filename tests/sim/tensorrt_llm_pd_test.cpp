// TensorRT-LLM's disaggregated serving: what a context server holds, and whom a generation server lets in.
#include "../sanitized.h"
#include "apart_world.h"
#include "catch.h"
#include "sglang_features_world.h"
#include "sim/costed/run.h"
#include "tensorrt_llm_world.h"

using namespace orrery;
using namespace apart;
using world::request;

namespace {

Apart servers(SimDuration transfer) {
  Apart a;
  a.scheduler = "tensorrt-llm";
  a.transfer = transfer;
  a.rules.retries = 0;
  a.world.config.block_size = 32;
  a.world.config.max_model_len = 2000;
  a.prefill_blocks = a.decode_blocks = 5000;
  return a;
}

}  // namespace

TEST_CASE("§7 generation begins with the context's token, whole after the answer [tensorrt_llm][pd]") {
  Apart a = servers(milliseconds(7));
  Steps steps;
  const RequestRecord r = records_of(a, {request(0, 1.0, 1500, 50)}, &steps).at(0);
  CHECK(r.output_tokens == 50);
  CHECK(r.handoff.transfer == milliseconds(7));
  CHECK(r.handoff.decode_queue == SimDuration(0));
  const auto pricer = StepPricer::create(a.world.spec).value();
  CHECK(r.handoff.first_step == pricer.output_delay());
  CHECK(sum(r.handoff) == r.ttft);
  REQUIRE(a.pulls.size() == 1);
  CHECK(a.pulls[0].blocks == 47);
  std::int64_t prompts = 0, decodes = 0;
  for (const StepRecord& s : steps.all) {
    prompts += s.prefill_tokens;
    decodes += s.decode_sequences * s.steps;
    CHECK((s.instance == InstanceId(0)) == (s.prefill_tokens > 0));
  }
  CHECK(prompts == 1500);
  CHECK(decodes == 49);
}

TEST_CASE("§7 a generation server lets in whose prompt and outputs fit, by hand [tensorrt_llm][pd]") {
  // 20 blocks to the end each: 14 of the prompt, 6 of outputs. 59 blocks are enough for two, 60 for three.
  for (const std::int64_t blocks : {59, 60}) {
    CAPTURE(blocks);
    Apart a = servers(milliseconds(300));
    a.decode_blocks = blocks;
    const auto records = records_of(a, burst(4, 0.0, 448, 192));
    const auto together = std::count_if(records.begin(), records.end(), [](const RequestRecord& r) {
      return r.handoff.wait < milliseconds(100);
    });
    CHECK(together == blocks / 20);
  }
}

TEST_CASE("§7 blocks of answered contexts hold up the next prompt until they are there [tensorrt_llm][pd]") {
  Apart a = servers(milliseconds(500));
  a.world.config.max_model_len = 900;
  a.prefill_blocks = 30;  // prompts of 20 blocks
  const auto records = records_of(a, {request(0, 0, 640, 5), request(1, 0.001, 640, 5)});
  const RequestRecord &first = records[0], &second = records[1];
  const SimTime there = first.arrival + first.handoff.queue + first.handoff.prefill + first.handoff.wait +
                        first.handoff.transfer;
  CHECK(second.arrival + second.handoff.queue == there);
}

TEST_CASE("§7 answers of one token and failed transfers [tensorrt_llm][pd]") {
  std::vector<TraceRequest> requests = {request(0, 0, 300, 1), request(1, 1.0, 300, 1),
                                        request(2, 2.0, 300, 9)};
  requests[1].max_output_tokens = 50;
  for (const std::int32_t retries : {0, 1}) {
    Apart a = servers(milliseconds(1));
    a.rules.retries = retries;
    a.failures[RequestId(2)] = 1;
    const auto records = records_of(a, requests);
    for (const RequestRecord& r : records) {
      const bool fails = r.request == 2 && retries == 0;
      CHECK(r.status == (fails ? RequestStatus::failed : RequestStatus::completed));
      if (r.request < 2) CHECK(r.e2e == r.ttft);
      if (!fails) CHECK(r.output_tokens == (r.request == 2 ? 9 : 1));
    }
  }
}

TEST_CASE(
    "random worlds of TensorRT-LLM apart: conservation, single steps are stretches [tensorrt_llm][pd]") {
  std::uint64_t stretches = 0, cancelled = 0, failed = 0, retried = 0;
  for (std::uint64_t seed = 1; seed <= 60; ++seed) {
    CAPTURE(seed);
    auto [w, requests] = world::random_world(seed);
    RandomStream random(seed, RandomPurpose::property_test, 16);
    Apart a = servers(SimDuration(static_cast<std::int64_t>(random.below(60'000'000))));
    a.world = w;
    a.world.config.long_prefill_token_threshold = 0;
    a.world.config.tensorrt_llm.equal_progress = random.below(3) == 0;
    a.prefills = 1 + random.below(2);
    a.decodes = 1 + random.below(2);
    a.decode_blocks = w.config.num_gpu_blocks;
    // A prompt that does not fit stops those behind it, half computed ones too (§2.2): here none does not.
    a.prefill_blocks = 8 * w.config.num_gpu_blocks;
    a.rules.retries = static_cast<std::int32_t>(random.below(2));
    for (TraceRequest& r : requests) {
      if (random.below(8) == 0)
        r.cancel_after = SimDuration(1 + static_cast<std::int64_t>(random.below(2'000'000'000)));
      if (random.below(8) == 0) a.failures[RequestId(r.index)] = 1;
    }
    const Checked checked = check(a, requests);
    stretches += checked.run.stretches;
    cancelled += checked.run.cancelled;
    failed += checked.run.failed;
    retried += checked.run.transfers.retried;
  }
  CHECK(stretches > 100);
  CHECK(cancelled > 50);
  CHECK(failed > 20);
  CHECK(retried > 20);
}

TEST_CASE("§7 drafts begin with the generation server's first row [tensorrt_llm][pd][speculation]") {
  Apart a = servers(milliseconds(7));
  world::World& w = a.world;
  world::draft(w, {.tokens = 3}, std::vector<double>(3, 1.0), 1);
  Steps steps;
  world::Records records;
  w.sink = &records;
  w.observer = &steps;
  const RunResult r = run(a, {request(0, 1.0, 1500, 41)});
  CHECK(records.all.at(0).output_tokens == 41);
  CHECK(sum(records.all[0].handoff) == records.all[0].ttft);
  CHECK(a.pulls.at(0).blocks == 47);   // of the prompt, and none for drafts
  CHECK(r.speculation.decodes == 10);  // four tokens each behind the context's
  for (const StepRecord& s : steps.all) CHECK((s.instance == InstanceId(0)) == (s.decode_sequences == 0));
}

TEST_CASE("random worlds of TensorRT-LLM's drafts apart: conservation [tensorrt_llm][pd][speculation]") {
  std::uint64_t cancelled = 0, retried = 0, accepted = 0, rejected = 0;
  for (std::uint64_t seed = 1; seed <= (sanitized ? 8u : 40u); ++seed) {
    CAPTURE(seed);
    auto [w, requests] = world::random_world(seed);
    RandomStream random(seed, RandomPurpose::property_test, 47);
    Apart a = servers(SimDuration(0));
    a.world = w;
    a.world.config.long_prefill_token_threshold = 0;
    world::speculate(a.world, random);
    a.world.spec.engine.steps_in_flight = 1;  // on the context side it is required, and the world is both
    const bool one_model = random.below(2) == 0;
    a.world.config.speculation = {.tokens = a.world.config.speculation.tokens,
                                  .lookahead = one_model ? a.world.config.speculation.tokens - 1 : 0};
    draw_pools(a, requests, random);
    a.prefill_blocks = 8 * w.config.num_gpu_blocks;
    const Checked checked = check(a, requests);
    cancelled += checked.run.cancelled;
    retried += checked.run.transfers.retried;
    accepted += checked.run.speculation.accepted;
    rejected += checked.run.speculation.drafts - checked.run.speculation.accepted;
  }
  CHECK(cancelled > (sanitized ? 3 : 20));
  CHECK(retried > (sanitized ? 1 : 8));
  CHECK(accepted > 1000);
  CHECK(rejected > 1000);
}

// `getBlockRangeForSending`: of the layers with a window their last W / B + 1 blocks. A context takes its
// blocks whole there too, and holds them until the transfer is over.
TEST_CASE("windowed layers send their window, and hold their blocks, by hand [tensorrt_llm][pd][windows]") {
  for (const std::int64_t window_blocks : {40, 100}) {
    CAPTURE(window_blocks);
    Apart a = servers(milliseconds(300));
    a.world.config.enable_prefix_caching = false;
    a.world.config.tensorrt_llm.window = 128;
    a.world.config.tensorrt_llm.window_blocks = window_blocks;
    const auto records =
        records_of(a, {request(0, 0.0, 640, 20), request(1, 0.0, 640, 20), request(2, 0.0, 50, 20)});
    REQUIRE(a.pulls.size() == 3);
    CHECK(a.pulls[0].blocks == 20 + 5);
    CHECK(a.pulls.back().blocks == 2 + 2);
    // 21 blocks to the first token each: of 40 one prompt has them, until its transfer is over.
    for (const RequestRecord& r : records) {
      if (r.request == 1) CHECK((r.handoff.queue > milliseconds(300)) == (window_blocks == 40));
      CHECK(r.output_tokens == 20);
    }
  }
}

namespace {

// A random world of windowed layers, prefill and decode apart; every second one finds prefixes again.
std::pair<Apart, std::vector<TraceRequest>> windowed_servers(std::uint64_t seed) {
  auto [w, requests] = world::tensorrt_llm_windows_world(seed);
  Apart a = servers(SimDuration(0));
  a.world = w;
  SchedulerConfig& c = a.world.config;
  c.tensorrt_llm.max_utilization = false;
  c.enable_chunked_prefill = true;
  c.max_num_batched_tokens = std::max<std::int64_t>(c.max_num_batched_tokens, 256);  // a chunk's unit (§3.2)
  c.enable_prefix_caching = seed % 2 == 0;
  return {a, requests};
}

}  // namespace

TEST_CASE(
    "random worlds of windowed layers apart: conservation, no block leaks [tensorrt_llm][pd][windows]") {
  std::uint64_t cancelled = 0, failed = 0, retried = 0;
  for (std::uint64_t seed = 1; seed <= (sanitized ? 8u : 40u); ++seed) {
    CAPTURE(seed);
    auto [a, requests] = windowed_servers(seed);
    RandomStream random(seed, RandomPurpose::property_test, 48);
    draw_pools(a, requests, random);
    // A prompt that does not fit stops those behind it, half computed ones too (§2.2): here none does not.
    a.prefill_blocks *= 8;
    a.world.config.tensorrt_llm.window_blocks *= 8;
    const Checked checked = check(a, requests);
    cancelled += checked.run.cancelled;
    failed += checked.run.failed;
    retried += checked.run.transfers.retried;
  }
  CHECK(cancelled > (sanitized ? 5 : 30));
  CHECK(failed > (sanitized ? 1 : 10));
  CHECK(retried > (sanitized ? 1 : 10));
}

// Whoever receives a prompt that others hold too leaves a front behind that frees nothing: each of them comes
// to hold five blocks of its own, which are owed to it from the start.
TEST_CASE("windows of one prompt that many receive at once grow apart [tensorrt_llm][pd][windows]") {
  Apart a = servers(milliseconds(300));
  SchedulerConfig& c = a.world.config;
  c.enable_prefix_caching = c.enable_chunked_prefill = true;
  c.max_num_batched_tokens = 256;  // so nothing is reckoned beyond 384 tokens (§2.1)
  c.tensorrt_llm.max_utilization = false;
  c.tensorrt_llm.window = 128;
  c.tensorrt_llm.window_blocks = 64;
  std::vector<TraceRequest> requests = {request(0, 0.0, 640, 5)};  // brings the prompt
  while (requests.size() < 16) requests.push_back(request(requests.size(), 10.0, 640, 300));
  for (TraceRequest& r : requests)
    for (std::uint64_t i = 0; i < 40; ++i) r.hash_ids.push_back(i);
  const auto records = records_of(a, requests);
  for (const RequestRecord& r : records) CHECK(r.status == RequestStatus::completed);
}

// A context that drafts holds a block more in both pools; a prompt found in two pools is shared by those that
// receive it, which then leave shared fronts behind.
TEST_CASE("windowed layers beside drafts and reuse apart: no block leaks [tensorrt_llm][pd][windows]") {
  std::uint64_t accepted = 0, cached = 0;
  for (std::uint64_t seed = 1; seed <= (sanitized ? 8u : 40u); ++seed) {
    CAPTURE(seed);
    auto [a, requests] = windowed_servers(seed);
    RandomStream random(seed, RandomPurpose::property_test, 49);
    if (seed % 4 < 2) {
      world::speculate(a.world, random);
      a.world.spec.engine.steps_in_flight = 1;
      const std::int32_t tokens = a.world.config.speculation.tokens;
      a.world.config.speculation = {.tokens = tokens, .lookahead = std::max(0, tokens - 1)};
    }
    draw_pools(a, requests, random);
    a.prefill_blocks *= 8;
    a.world.config.tensorrt_llm.window_blocks *= 2;
    const Checked checked = check(a, requests);
    accepted += checked.run.speculation.accepted;
    cached += checked.run.cached_tokens;
  }
  CHECK(accepted > (sanitized ? 100 : 1000));
  CHECK(cached > 100);
}

namespace {

// Bytes that prefill sends to decode on TensorRT-LLM.
double sent_by(const std::string& model, const std::string& windows, int requests, int prompt) {
  const std::string pool = "hardware: h200, model: " + model +
                           ", engine: tensorrt-llm-1.2, engine_args: {max_seq_len: 16384, kv_cache_config: "
                           "{max_attention_window: " +
                           windows + ", enable_block_reuse: false}";
  ScenarioOptions options;
  options.overrides = {"deployment={topology: {preset: hopper-8}, pools: [{name: p, role: prefill, " + pool +
                           ", disable_overlap_scheduler: true}}, {name: d, role: decode, " + pool + "}}]}",
                       "workload={generator: {requests: " + std::to_string(requests) +
                           ", arrivals: {process: poisson, rate: 20}, input: {distribution: fixed, value: " +
                           std::to_string(prompt) + "}, output: {distribution: fixed, value: 50}}}"};
  const auto s = load_scenario(std::string(ORRERY_SOURCE_DIR) + "/examples/qwen3-8b-h200.yaml", options);
  if (!s.ok()) FAIL(s.errors().front().message);
  const RunResult r = run_scenario(*s).value();
  CHECK(r.completed == static_cast<std::uint64_t>(requests));
  return static_cast<double>(r.transfers.bytes);
}

}  // namespace

TEST_CASE("layers send all of a prompt or their window, as their kind is [tensorrt_llm][pd][windows]") {
  // gpt-oss: 12 layers of 125 blocks and 12 of 5, of 32 tokens with 8 heads of 64, keys and values in 16
  // bits.
  CHECK(sent_by("gpt-oss-20b", "[128, 16384]", 40, 4000) == Approx(40.0 * 130 * 12 * 32 * 8 * 64 * 2 * 2));
  // Gemma 3: 4 layers of 256 blocks and 22 of 17, of 32 tokens with one head of 256.
  CHECK(sent_by("gemma-3-1b-it", "[512, 512, 512, 512, 512, 16384]", 10, 8192) ==
        Approx(10.0 * (256 * 4 + 17 * 22) * 32 * 1024));
}
