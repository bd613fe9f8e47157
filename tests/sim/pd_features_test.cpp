// What runs beside prefill and decode apart: tiers in host memory, sliding windows, priorities on the decode
// side, SGLang's speculation. Rules by hand, and conservation of random worlds.
#include "../sanitized.h"
#include "apart_scenario.h"
#include "apart_world.h"
#include "catch.h"
#include "sglang_features_world.h"

using namespace orrery;
using namespace apart;
using world::request;

namespace {

constexpr std::uint64_t worlds = sanitized ? 8 : 30;

Apart sglang(SimDuration transfer) {
  Apart a;
  a.scheduler = "sglang";
  a.transfer = transfer;
  a.rules.at_once = true;
  a.rules.retries = 0;
  a.world.config.block_size = 1;
  a.world.config.max_model_len = 20000;
  a.world.config.options.set("chunked_prefill_size", std::int64_t{2048});
  a.prefill_blocks = a.decode_blocks = 200000;
  return a;
}

std::vector<TraceRequest> named(std::vector<std::pair<std::uint64_t, std::int32_t>> prompts, double gap_s) {
  std::vector<TraceRequest> all;
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    const auto [id, tokens] = prompts[i];
    all.push_back(request(i, static_cast<double>(i) * gap_s, tokens, 5));
    all.back().hash_block_size = tokens;
    all.back().hash_ids = {id};
  }
  return all;
}

// Conservation over random worlds of vLLM that `change` turns into what is to be tested.
template <class Change>
RunResult random_vllm(std::uint64_t salt, Change change) {
  RunResult sum;
  for (std::uint64_t seed = 1; seed <= worlds; ++seed) {
    CAPTURE(seed);
    auto [w, requests] = world::random_world(seed);
    RandomStream random(seed, RandomPurpose::property_test, salt);
    Apart a;
    a.world = w;
    a.world.config.long_prefill_token_threshold = 0;
    change(a, requests, random, seed);
    draw_pools(a, requests, random);
    a.rules.recompute_failed = random.below(2) == 0;
    const Checked checked = check(a, requests);
    sum.preemptions += checked.run.preemptions;
    sum.cancelled += checked.run.cancelled;
    sum.transfers.retried += checked.run.transfers.retried;
    sum.stretches += checked.run.stretches;
    sum.offload.loads += checked.run.offload.loads;
    sum.offload.stored += checked.run.offload.stored;
  }
  CHECK(sum.cancelled > (sanitized ? 3 : 12));
  CHECK(sum.transfers.retried > (sanitized ? 0 : 5));
  return sum;
}

// The same of SGLang, which fails what it cannot move.
template <class Change>
RunResult random_sglang(std::uint64_t salt, Change change) {
  RunResult sum;
  std::uint64_t eos = 0;
  for (std::uint64_t seed = 1; seed <= worlds; ++seed) {
    CAPTURE(seed);
    auto [w, requests] = world::random_sglang_world(seed);
    RandomStream random(seed, RandomPurpose::property_test, salt);
    Apart a = sglang(SimDuration(static_cast<std::int64_t>(random.below(60'000'000))));
    a.world = w;
    a.world.config.options.set("enable_mixed_chunk", false);
    change(a, random);
    eos += draw_sglang_pools(a, requests, random);
    const Checked checked = check(a, requests);
    sum.cancelled += checked.run.cancelled;
    sum.preemptions += checked.run.preemptions;
    sum.stretches += checked.run.stretches;
    sum.offload.loads += checked.run.offload.loads;
    sum.speculation.drafts += checked.run.speculation.drafts;
    sum.speculation.accepted += checked.run.speculation.accepted;
    for (const FixedTransport::Sent& s : checked.sends)
      sum.transfers.bytes +=
          s.part.blocks * s.part.last / s.part.of - s.part.blocks * s.part.first / s.part.of;
  }
  CHECK(sum.cancelled > (sanitized ? 3 : 20));
  CHECK(eos > (sanitized ? 10 : 50));
  return sum;
}

}  // namespace

// ---------------------------------------------------------------------------------------------------- tiers

TEST_CASE(
    "a prompt's prefix comes from the prefill side's host memory, the whole prompt from that side "
    "[pd][offload]") {
  // 100 usable blocks: prompt 2 pushes prompt 1 off the device; the third request loads it again.
  Apart a;
  a.world.config.max_model_len = 1500;
  a.prefill_blocks = 101;
  a.transfer = milliseconds(2);
  a.world.config.offload.blocks = 10'000;
  a.host_blocks_per_s = 16'000;  // a block in 62.5 us
  const auto records = records_of(a, named({{1, 1280}, {2, 1440}, {1, 1280}}, 2.0));
  CHECK(records[2].cached_tokens == 1280 - 1);  // all of it, and one token has to run
  const RequestRecord &cold = records[0], &warm = records[2];
  // The first nine are still on the device; the other 71 cross the host link, 62.5 us each.
  CHECK(warm.handoff.queue >= microseconds(4437));
  CHECK(warm.handoff.queue < microseconds(5437));
  CHECK(warm.handoff.prefill < cold.handoff.prefill);
  // The decode side has all of them on its device.
  REQUIRE(a.pulls.size() == 3);
  CHECK(a.pulls[0].blocks == 80);
  CHECK(a.pulls[2].blocks == 80 - (1280 - 1) / 16);
}

TEST_CASE("a decode leg is NIXL's, whatever the decode side's host memory has [pd][offload]") {
  // MultiConnector: the first connector with tokens is the request's.
  Apart a;
  a.world.config.max_model_len = 1500;
  a.decode_blocks = 101;
  a.transfer = milliseconds(2);
  a.world.config.offload.blocks = 10'000;
  records_of(a, named({{1, 1280}, {2, 1440}, {1, 1280}}, 2.0));
  REQUIRE(a.pulls.size() == 3);
  CHECK(a.pulls[2].blocks == 71);  // what is not on the device any more is fetched
}

TEST_CASE("random worlds of tiers apart: conservation [pd][offload]") {
  const RunResult sum = random_vllm(41, [](Apart& a, auto&, RandomStream& random, std::uint64_t) {
    a.world.config.enable_prefix_caching = true;
    a.world.config.offload.blocks = 50 + static_cast<std::int64_t>(random.below(2000));
    a.world.config.offload.prompt_only = random.below(2) == 0;
    a.host_blocks_per_s = 1000.0 * (1 + static_cast<double>(random.below(100)));
  });
  CHECK(sum.offload.stored > 1000);
  CHECK(sum.offload.loads > (sanitized ? 0 : 20));
  CHECK(sum.preemptions > 0);
}

TEST_CASE(
    "HiCache on the prefill side: what is loaded leaves with the batch that loads it "
    "[sglang][pd][offload]") {
  // A batch that loads sends no cached pages before it has run (`load_pending`, managers/scheduler.py).
  Apart a = sglang(milliseconds(1));
  a.world.config.offload.blocks = 100'000;
  a.prefill_blocks = 5000;
  Steps steps;
  std::vector<TraceRequest> requests = named({{1, 3000}, {2, 4000}, {1, 3000}, {1, 3000}}, 2.0);
  const auto records = records_of(a, requests, &steps);
  CHECK(records[2].cached_tokens == 2999);
  CHECK(records[3].cached_tokens == 2999);
  std::vector<std::pair<std::int64_t, SimTime>> of[4];
  for (const FixedTransport::Sent& s : a.sends) of[s.part.request.value()].emplace_back(s.part.last, s.at);
  REQUIRE(of[2].size() == 1);  // loaded: with the result
  CHECK(of[2][0].first == 3000);
  REQUIRE(of[3].size() == 2);  // on the device: at once
  CHECK(of[3][0].first == 2999);
}

TEST_CASE("random worlds of HiCache on the prefill side: conservation [sglang][pd][offload]") {
  const RunResult sum = random_sglang(42, [](Apart& a, RandomStream& random) {
    world::tier(a.world, random);
    a.host_blocks_per_s = a.world.host_blocks_per_s;
  });
  CHECK(sum.offload.loads > (sanitized ? 0 : 20));
}

// -------------------------------------------------------------------------------------------------- windows

TEST_CASE("groups with a window take and fetch the window's blocks only, by hand [pd][windows]") {
  // 1,000 tokens are 63 blocks; of a window of 128 the first (1000 − 127) / 16 = 54 are never taken
  // (`allocate_external_computed_blocks`): 9 are fetched of each group with a window.
  Apart a;
  a.world.config.kv_groups = {.full = 1, .windowed = 2, .window = 128};
  a.transfer = milliseconds(2);
  Steps steps;
  std::vector<TraceRequest> requests = {request(0, 0, 1000, 5), request(1, 3.0, 1000, 5)};
  for (TraceRequest& r : requests) {
    r.hash_block_size = 512;
    r.hash_ids = {7, r.index == 0 ? 8u : 9u};
  }
  records_of(a, requests, &steps);
  REQUIRE(a.pulls.size() == 2);
  CHECK(a.pulls[0].blocks == 63 + 2 * 9);
  // The second finds 32 blocks of the layers that keep everything, but no window in front of their end: those
  // blocks were never fetched.
  CHECK(a.pulls[1].blocks == 63 + 2 * 9);
  const auto first = std::find_if(steps.all.begin(), steps.all.end(),
                                  [](const StepRecord& s) { return s.instance == InstanceId(1); });
  REQUIRE(first != steps.all.end());
  CHECK(first->free_blocks == 50000 - 1 - (63 + 2 * 9));
}

TEST_CASE("a window that ends where the cached prefix does is found again [pd][windows]") {
  // A prompt and a longer one with the same beginning: 640 tokens are 40 blocks, of which the last window is
  // there; the longer one's window begins at (1280 − 127) / 16 = 72, behind it.
  Apart a;
  a.world.config.kv_groups = {.full = 1, .windowed = 1, .window = 128};
  a.transfer = milliseconds(2);
  std::vector<TraceRequest> requests = {request(0, 0, 641, 5), request(1, 3.0, 1280, 5),
                                        request(2, 6.0, 700, 5)};
  for (TraceRequest& r : requests) {
    r.hash_block_size = 640;
    r.hash_ids = {7, 10 + r.index};
  }
  records_of(a, requests);
  REQUIRE(a.pulls.size() == 3);
  CHECK(a.pulls[0].blocks == 41 + (41 - (641 - 127) / 16));
  CHECK(a.pulls[1].blocks == (80 - 40) + (80 - 72));
  // 700 tokens: 44 blocks, window from (700 − 127) / 16 = 35, of which five are there.
  CHECK(a.pulls[2].blocks == (44 - 40) + (44 - 40));
}

TEST_CASE("random worlds of windows apart: conservation, and single steps are stretches [pd][windows]") {
  const RunResult sum = random_vllm(43, [](Apart& a, auto&, RandomStream&, std::uint64_t seed) {
    const std::int32_t windows[] = {16, 33, 128, 512, 1000};
    const KvGroups kinds[] = {
        {.full = 1, .windowed = 1}, {.full = 1, .windowed = 5}, {.full = 0, .windowed = 1}};
    SchedulerConfig& c = a.world.config;
    c.kv_groups = kinds[seed % 3];
    c.kv_groups.window = windows[seed % 5];
    c.num_gpu_blocks = (c.num_gpu_blocks + 80) * c.kv_groups.count();
  });
  CHECK(sum.stretches > (sanitized ? 5 : 50));
  if (!sanitized) CHECK(sum.preemptions > 0);  // eight worlds hold none
}

TEST_CASE("random worlds of drafts beside windows apart: conservation [pd][windows][speculation]") {
  random_vllm(50, [](Apart& a, auto&, RandomStream& random, std::uint64_t seed) {
    const std::int32_t windows[] = {16, 33, 128, 512, 1000};
    world::speculate(a.world, random);
    SchedulerConfig& c = a.world.config;
    if (c.speculation.lookahead == 0) a.world.spec.engine.steps_in_flight = 1;
    c.kv_groups = {.full = 1, .windowed = static_cast<std::int32_t>(1 + seed % 3)};
    c.kv_groups.window = windows[seed % 5];
    c.num_gpu_blocks = (c.num_gpu_blocks + 80) * c.kv_groups.count();
  });
}

// ----------------------------------------------------------------------------------------------- priorities

TEST_CASE("by priority the decode side serves whoever is first in either queue [pd][priority]") {
  // Room for one prompt at a time: the third to come is more urgent than the second.
  const auto ends = [](bool by_priority) {
    Apart a;
    a.world.config.max_model_len = 900;
    a.decode_blocks = 61;
    a.transfer = milliseconds(20);
    a.world.config.by_priority = by_priority;
    std::vector<TraceRequest> requests = burst(3, 0.001, 640, 40);
    requests[2].priority = -1;
    std::vector<SimDuration> at(3);
    for (const RequestRecord& r : records_of(a, requests)) at[r.request] = r.e2e;
    return at;
  };
  const auto plain = ends(false), ranked = ends(true);
  CHECK(plain[1] < plain[2]);
  CHECK(ranked[2] < ranked[1]);
}

TEST_CASE("random worlds of priorities apart: conservation [pd][priority]") {
  const RunResult sum = random_vllm(44, [](Apart& a, auto& requests, RandomStream& random, std::uint64_t) {
    a.world.config.by_priority = true;
    for (TraceRequest& r : requests) r.priority = static_cast<std::int32_t>(random.below(5));
  });
  CHECK(sum.preemptions > (sanitized ? 0 : 10));
}

// ---------------------------------------------------------------------------------------------- speculation

TEST_CASE(
    "SGLang's decode side drafts from its first step, behind the token that came with the KV "
    "[sglang][pd][speculation]") {
  Apart a = sglang(milliseconds(7));
  world::World& w = a.world;
  world::draft(w, {.tokens = 3, .lookahead = 3, .drops_last_hit = true}, std::vector<double>(3, 1.0), 1);
  Steps steps;
  world::Records records;
  w.sink = &records;
  w.observer = &steps;
  const RunResult r = run(a, {request(0, 1.0, 1600, 41)});
  CHECK(records.all.at(0).output_tokens == 41);
  CHECK(sum(records.all[0].handoff) == records.all[0].ttft);
  CHECK(r.speculation.decodes == 10);  // four tokens each behind the first
  for (const StepRecord& s : steps.all) CHECK((s.instance == InstanceId(0)) == (s.decode_sequences == 0));
}

TEST_CASE("random worlds of SGLang's speculation apart: conservation [sglang][pd][speculation]") {
  const RunResult sum =
      random_sglang(45, [](Apart& a, RandomStream& random) { world::speculate(a.world, random); });
  CHECK(sum.speculation.accepted > 1000);
  CHECK(sum.speculation.drafts > sum.speculation.accepted + 1000);
  if (!sanitized) CHECK(sum.preemptions > 0);
}

// ---------------------------------------------------------------------------------------------- scenarios

TEST_CASE("gpt-oss apart: half of its layers send their window, and less is read [pd][windows]") {
  const std::string oss = "model: gpt-oss-20b, engine: vllm-0.24";
  const std::string unified = ", engine_args: {disable_hybrid_kv_cache_manager: true}";
  const auto hybrid = run_pools(oss, "", ""), whole = run_pools(oss, unified, unified);
  if (!hybrid.ok()) FAIL(refusal(hybrid));
  if (!whole.ok()) FAIL(refusal(whole));
  // 24 layers of 8 heads of 64: 250 blocks of 16 tokens of each; of a window of 128 nine.
  const std::int64_t layer_block = 16 * 2 * 8 * 64 * 2;
  CHECK(whole->transfers.bytes == 20 * 24 * 250 * layer_block);
  const std::int64_t windows = 250 - (4000 - 127) / 16;
  CHECK(hybrid->transfers.bytes == 20 * (12 * 250 + 12 * windows) * layer_block);
  CHECK(refusal(run_pools(oss, unified, "")).find("disable_hybrid_kv_cache_manager") != std::string::npos);
  CHECK(refusal(run_pools(oss, "", "", "pd: {transfer: layerwise}, ")).find("SupportsHMA") !=
        std::string::npos);
  const std::string drafts = ", speculation: {method: ngram, tokens: 3, acceptance: 0.5, match_rate: 0.7}";
  const auto drafting = run_pools(oss, drafts, drafts);  // of a prompt: drafts have no blocks yet
  if (!drafting.ok()) FAIL(refusal(drafting));
  CHECK(drafting->transfers.bytes == hybrid->transfers.bytes);
  CHECK(drafting->speculation.accepted > 0);
  const std::string of_sglang = "model: gpt-oss-20b, engine: sglang-0.5";
  const std::string one_pool = ", engine_args: {disable_hybrid_swa_memory: true}";
  CHECK(refusal(run_pools(of_sglang, "", "")).find("disable_hybrid_swa_memory") != std::string::npos);
  CHECK(run_pools(of_sglang, one_pool, one_pool).ok());
}

TEST_CASE("what of tiers is still refused apart [pd][offload]") {
  const std::string qwen = "model: qwen3-8b, engine: ";
  const std::string tier = ", engine_args: {kv_offloading_size: 16}";
  CHECK(run_pools(qwen + "vllm-0.24", tier, tier).ok());
  CHECK(refusal(run_pools(qwen + "vllm-0.24", tier, "", "pd: {transfer: layerwise}, "))
            .find("tier in host memory") != std::string::npos);
  const std::string hicache = ", engine_args: {enable_hierarchical_cache: true}";
  CHECK(run_pools(qwen + "sglang-0.5", hicache, "").ok());
  CHECK(refusal(run_pools(qwen + "sglang-0.5", "", hicache)).find("HiCache") != std::string::npos);
}

// ------------------------------------------------------------------------------------- decode radix cache

TEST_CASE("what the decode side's radix cache has is not sent again, by hand [sglang][pd]") {
  // 1,000 tokens, then 1,500 of which the first 1,000 are the same, then those 1,500 again.
  for (const bool cache : {false, true}) {
    Apart a = sglang(milliseconds(3));
    a.world.config.options.set("disaggregation_decode_enable_radix_cache", cache);
    std::vector<TraceRequest> requests = {request(0, 0, 1000, 5), request(1, 3.0, 1500, 5),
                                          request(2, 6.0, 1500, 5)};
    for (TraceRequest& r : requests) {
      r.hash_block_size = 500;
      r.hash_ids = {1, 2, 3};
      r.hash_ids.resize(static_cast<std::size_t>(r.prompt_tokens) / 500);
    }
    const auto records = records_of(a, requests);
    std::int64_t sent[3] = {};
    for (const FixedTransport::Sent& s : a.sends)
      sent[s.part.request.value()] += s.part.blocks * (s.part.last - s.part.first) / s.part.of;
    CHECK(sent[0] == 1000);
    CHECK(sent[1] == (cache ? 500 : 1500));
    CHECK(sent[2] == (cache ? 0 : 1500));  // word of the end, all the same
    for (const RequestRecord& r : records) {
      CHECK(r.output_tokens == 5);
      CHECK(sum(r.handoff) == r.ttft);
    }
    // The prefill side computes what it has not itself, whatever the other side has.
    CHECK(records[1].cached_tokens == 1000);
  }
}

TEST_CASE(
    "random worlds of the decode side's radix cache: conservation, single steps are stretches "
    "[sglang][pd]") {
  const auto sum = [](bool cache) {
    return random_sglang(46, [cache](Apart& a, RandomStream& random) {
      if (random.below(3) == 0) world::speculate(a.world, random);
      a.world.config.options.set("disaggregation_decode_enable_radix_cache", cache);
    });
  };
  const RunResult with = sum(true), without = sum(false);
  CHECK(with.transfers.bytes < without.transfers.bytes);
  CHECK(with.stretches > (sanitized ? 5 : 50));
  if (!sanitized) CHECK(with.preemptions > 0);
}
