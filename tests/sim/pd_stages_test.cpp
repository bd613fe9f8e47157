// Pipeline stages in prefill and decode pools: which ranks' KV goes where, when it leaves, and that nothing
// is lost. SGLang 0.5.23 (scheduler_pp_mixin.py, event_loop_pp_disagg_*; disaggregation/common/conn.py), vLLM
// 0.24 (mooncake_connector.py).
#include "../sanitized.h"
#include "apart_scenario.h"
#include "apart_world.h"
#include "catch.h"
#include "costmodel/stages.h"
#include "sim/costed/rank_pairs.h"

using namespace orrery;
using namespace apart;
using world::request;

namespace {

using Layers = std::vector<std::int64_t>;

void set_stages(world::World& w, const char* engine, std::int32_t pp) {
  const bool ring = std::string(engine) != "vllm";
  w.spec.plan.pp = pp;
  w.spec.engine.engine = engine;
  w.spec.engine.pipeline = PipelineCosts{hand::plain(0.5), hand::us(200), hand::us(0)};
  if (ring) {
    w.spec.engine.steps_in_flight = pp;
    w.config.pipeline = {.stages = pp, .micro_batches = pp};
    return;
  }
  w.spec.engine.runner = "v2";
  w.spec.engine.settings.async_scheduling = true;
  w.spec.engine.steps_in_flight = batches_in_flight(w.spec.engine, pp);
  w.config.pipeline = {.stages = pp, .cadence = token_cadence(w.spec), .asynchronous = true};
}

Apart sglang_stages(std::int32_t pp, SimDuration transfer) {
  Apart a;
  a.scheduler = "sglang";
  a.transfer = transfer;
  a.rules.at_once = true;
  a.rules.retries = 0;
  a.world.config.block_size = 1;
  a.world.config.max_model_len = 20000;
  a.world.config.options.set("chunked_prefill_size", std::int64_t{2048});
  a.prefill_blocks = a.decode_blocks = 200000;
  set_stages(a.world, "sglang", pp);
  return a;
}

}  // namespace

TEST_CASE("stages send their own layers, and every rank gets all of its own once [pd][stages]") {
  // Two stages of two ranks to one stage of two: two flows a decode rank, half of the layers each.
  const auto pairs = stage_pairs(2, {16, 16}, 2, {32}, 8, false);
  REQUIRE(pairs.size() == 4);
  CHECK(pairs[0] == RankPair{.from = 0, .to = 0, .layers = 16, .of_layers = 32});
  CHECK(pairs[1] == RankPair{.from = 1, .to = 1, .layers = 16, .of_layers = 32});
  CHECK(pairs[2] == RankPair{.from = 2, .to = 0, .layers = 16, .of_layers = 32});
  CHECK(pairs[3] == RankPair{.from = 3, .to = 1, .layers = 16, .of_layers = 32});
  // As many stages on both sides: each to its own.
  for (const RankPair& p : stage_pairs(1, {15, 15, 15, 16}, 1, {15, 15, 15, 16}, 8, false))
    CHECK(p.from == p.to);
  RandomStream random(1, RandomPurpose::property_test, 31);
  for (int i = 0; i < 300; ++i) {
    const std::int32_t widths[] = {1, 2, 4, 8};
    const std::int32_t from = widths[random.below(4)], to = widths[random.below(4)];
    const auto layers = static_cast<std::int64_t>(8 + random.below(80));
    const Layers a = layers_of_stages(layers, 1 + static_cast<std::int32_t>(random.below(8)), "sglang");
    const Layers b = layers_of_stages(layers, 1 + static_cast<std::int32_t>(random.below(8)), "vllm");
    std::vector<double> got(static_cast<std::size_t>(to) * b.size());
    for (const RankPair& p : stage_pairs(from, a, to, b, 8, random.below(2) == 0)) {
      REQUIRE(p.from < from * static_cast<std::int32_t>(a.size()));
      REQUIRE(p.of_layers == layers);
      got[static_cast<std::size_t>(p.to)] += static_cast<double>(p.layers) / p.parts;
    }
    for (std::size_t r = 0; r < got.size(); ++r)
      REQUIRE(got[r] == Approx(static_cast<double>(b[r / static_cast<std::size_t>(to)])));
  }
}

TEST_CASE(
    "a prompt's chunks run one behind the other through the stages, and leave with their results "
    "[sglang][pd][stages]") {
  Apart a = sglang_stages(2, milliseconds(6));
  Steps steps;
  const RequestRecord r = records_of(a, {request(0, 1.0, 5000, 40)}, &steps).at(0);
  CHECK(r.output_tokens == 40);
  CHECK(sum(r.handoff) == r.ttft);
  std::vector<StepRecord> chunks;
  std::int64_t decodes = 0;
  for (const StepRecord& s : steps.all) {
    if (s.prefill_tokens > 0) chunks.push_back(s);
    decodes += s.decode_sequences;
  }
  REQUIRE(chunks.size() == 3);
  CHECK(decodes == 39);  // the first token came with the KV
  // `self.chunked_req` goes on in the next micro-batch, before the result of the one before is there.
  CHECK(chunks[1].schedule_begin < chunks[0].update_end);
  REQUIRE(a.sends.size() == 3);
  CHECK(a.sends[0].part.last == 2048);
  CHECK(a.sends[1].part.last == 4096);
  CHECK(a.sends[2].part.last == 5000);
  for (std::size_t i = 0; i < 3; ++i) CHECK(a.sends[i].at >= chunks[i].update_end);
  // With as many chunks without stages the prompt takes longer: two stages work at once.
  Apart one = sglang_stages(2, milliseconds(6));
  set_stages(one.world, "sglang", 1);
  CHECK(r.handoff.prefill < records_of(one, {request(0, 1.0, 5000, 40)}).at(0).handoff.prefill);
}

TEST_CASE(
    "who has received joins the micro-batch that the loop stands at, whatever its size "
    "[sglang][pd][stages]") {
  // `_get_new_prebuilt_batch` counts max_running_requests, not pp_max_micro_batch_size.
  Apart a = sglang_stages(2, milliseconds(500));
  a.world.config.options.set("pp_max_micro_batch_size", std::int64_t{1});
  Steps steps;
  records_of(a, burst(4, 0.0, 100, 20), &steps);
  const auto most = std::max_element(steps.all.begin(), steps.all.end(), [](const auto& x, const auto& y) {
    return x.decode_sequences < y.decode_sequences;
  });
  CHECK(most->decode_sequences > 1);
}

TEST_CASE("random worlds of SGLang's stages apart: conservation [sglang][pd][stages]") {
  std::uint64_t cancelled = 0, eos = 0, retried = 0, preempted = 0;
  for (std::uint64_t seed = 1; seed <= (sanitized ? 8u : 30u); ++seed) {
    CAPTURE(seed);
    auto [w, requests] = world::random_sglang_world(seed);
    RandomStream random(seed, RandomPurpose::property_test, 32);
    Apart a = sglang_stages(2, SimDuration(static_cast<std::int64_t>(random.below(60'000'000))));
    a.world = w;
    a.world.config.options.set("enable_mixed_chunk", false);
    set_stages(a.world, "sglang", static_cast<std::int32_t>(2 + random.below(3)));
    eos += draw_sglang_pools(a, requests, random);
    const Checked checked = check(a, requests);
    cancelled += checked.run.cancelled;
    retried += checked.run.transfers.retried;
    preempted += checked.run.preemptions;
  }
  CHECK(cancelled > (sanitized ? 3 : 15));
  CHECK(eos > (sanitized ? 10 : 50));
  CHECK(retried > (sanitized ? 1 : 5));
  if (!sanitized) CHECK(preempted > 0);
}

TEST_CASE("random worlds of vLLM's stages apart: conservation, no endless steps of nobody [pd][stages]") {
  std::uint64_t cancelled = 0, retried = 0, preempted = 0;
  for (std::uint64_t seed = 1; seed <= (sanitized ? 8u : 30u); ++seed) {
    CAPTURE(seed);
    auto [w, requests] = world::random_world(seed);
    RandomStream random(seed, RandomPurpose::property_test, 33);
    Apart a;
    a.world = w;
    a.world.config.long_prefill_token_threshold = 0;
    set_stages(a.world, "vllm", static_cast<std::int32_t>(2 + random.below(3)));
    draw_pools(a, requests, random);
    const Checked checked = check(a, requests);
    cancelled += checked.run.cancelled;
    retried += checked.run.transfers.retried;
    preempted += checked.run.preemptions;
  }
  CHECK(cancelled > (sanitized ? 3 : 15));
  CHECK(retried > (sanitized ? 1 : 5));
  if (!sanitized) CHECK(preempted > 0);
}

TEST_CASE("random worlds of TensorRT-LLM's stages apart: conservation [tensorrt_llm][pd][stages]") {
  std::uint64_t cancelled = 0, retried = 0;
  for (std::uint64_t seed = 1; seed <= (sanitized ? 8u : 25u); ++seed) {
    CAPTURE(seed);
    auto [w, requests] = world::random_world(seed);
    RandomStream random(seed, RandomPurpose::property_test, 34);
    Apart a;
    a.scheduler = "tensorrt-llm";
    a.world = w;
    a.world.config.long_prefill_token_threshold = 0;
    set_stages(a.world, "tensorrt-llm", static_cast<std::int32_t>(2 + random.below(3)));
    draw_pools(a, requests, random);
    a.prefill_blocks = 8 * w.config.num_gpu_blocks;
    const Checked checked = check(a, requests);
    cancelled += checked.run.cancelled;
    retried += checked.run.transfers.retried;
  }
  CHECK(cancelled > (sanitized ? 3 : 10));
  CHECK(retried > (sanitized ? 1 : 4));
}

namespace {

Result<RunResult> run_stages(const std::string& engine, const std::string& prefill, const std::string& decode,
                             const std::string& pd = "") {
  return run_pools("model: qwen3-8b, engine: " + engine, ", parallel: {" + prefill + "}",
                   ", parallel: {" + decode + "}", pd);
}

}  // namespace

TEST_CASE(
    "stages carry the same bytes as none, over more links, and what engines refuse is refused "
    "[pd][stages]") {
  struct Case {
    const char *engine, *prefill, *decode, *pd;
  };
  for (const Case& c : {Case{"sglang-0.5", "pp: 2", "pp: 1", ""}, Case{"sglang-0.5", "pp: 2", "pp: 2", ""},
                        Case{"sglang-0.5", "pp: 2, tp: 2", "tp: 2", ""},
                        Case{"vllm-0.24", "pp: 2", "pp: 1", "pd: {connector: mooncake}, "},
                        Case{"vllm-0.24", "pp: 2", "pp: 3", "pd: {connector: mooncake}, "}}) {
    CAPTURE(c.engine, c.prefill, c.decode);
    const auto none = run_stages(c.engine, "pp: 1", "pp: 1", c.pd);
    const auto run = run_stages(c.engine, c.prefill, c.decode, c.pd);
    if (!run.ok()) FAIL(refusal(run));
    CHECK(run->completed == 20);
    CHECK(static_cast<double>(run->transfers.bytes) ==
          Approx(static_cast<double>(none->transfers.bytes)).epsilon(1e-6));
  }
  const std::string trt = "tensorrt-llm-1.2", server = "}, engine_args: {disable_overlap_scheduler: true";
  const auto one = run_stages(trt, "pp: 1" + server, "pp: 1"),
             two = run_stages(trt, "pp: 2" + server, "pp: 1");
  if (!two.ok()) FAIL(refusal(two));
  CHECK(two->completed == 20);
  CHECK(static_cast<double>(two->transfers.bytes) ==
        Approx(static_cast<double>(one->transfers.bytes)).epsilon(1e-6));
  CHECK(refusal(run_stages("sglang-0.5", "pp: 1", "pp: 2")).find("assert pp = 1") != std::string::npos);
  CHECK(refusal(run_stages("vllm-0.24", "pp: 2", "pp: 1")).find("NixlConnector refuses") !=
        std::string::npos);
  CHECK(refusal(run_stages("vllm-0.24", "pp: 2", "pp: 2", "pd: {transfer: layerwise}, "))
            .find("MoRIIOConnector knows no") != std::string::npos);
}
