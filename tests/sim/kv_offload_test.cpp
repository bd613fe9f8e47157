// KV blocks in host memory: the tier's books, the link, and what vLLM's connector makes of them.
#include "../catch.h"
#include "sim/costed/run.h"
#include "sim/host_link.h"
#include "sim/host_tier.h"
#include "sim/schedulers/vllm_offload.h"
#include "world.h"

using namespace orrery;
using namespace orrery::world;

namespace {

using Key = HostTier::Key;

void put(HostTier& tier, std::vector<Key> keys) {
  std::vector<Key> written;
  REQUIRE(tier.begin_store(keys, written));
  tier.end_store(written);
}

// A prompt of `blocks` named blocks of 512 tokens.
TraceRequest named(std::uint64_t index, double at, std::uint64_t family, std::int32_t blocks) {
  TraceRequest r = request(index, at, blocks * 512 + 10, 4);
  for (std::int32_t i = 0; i <= blocks; ++i)
    r.hash_ids.push_back(i < blocks ? family * 1000 + static_cast<std::uint64_t>(i) : index + 1000000);
  return r;
}

std::vector<RequestRecord> records_of(World w, std::vector<TraceRequest> requests,
                                      RunResult* result = nullptr) {
  Records records;
  w.sink = &records;
  const RunResult r = run(w, std::move(requests));
  if (result != nullptr) *result = r;
  return records.all;
}

// A device pool that holds one long prompt, and a tier that holds many. 55.4 GB/s move 144 KiB a token.
World small_pool() {
  World w;
  w.config.num_gpu_blocks = 700;
  w.config.max_model_len = 10000;
  w.config.offload = {.blocks = 20000};
  w.host_blocks_per_s = 55.4e9 / (16 * 147456.0);
  return w;
}

}  // namespace

TEST_CASE("The least recently used idle block goes; what is read, written or asked for stays") {
  HostTier tier(4);
  put(tier, {1, 2, 3, 4});
  tier.touch(std::vector<Key>{1});
  std::vector<Key> written;
  REQUIRE(tier.begin_store(std::vector<Key>{5}, written));  // 2 goes
  CHECK(tier.lookup(2) == HostTier::Found::missing);
  CHECK(tier.lookup(5) == HostTier::Found::being_written);
  tier.end_store(written);
  CHECK(tier.lookup(5) == HostTier::Found::ready);
  tier.begin_load(std::vector<Key>{1, 3, 4});
  CHECK_FALSE(tier.begin_store(std::vector<Key>{6, 7}, written));  // only 5 is idle
  CHECK(tier.lookup(5) == HostTier::Found::ready);
  CHECK_FALSE(tier.begin_store(std::vector<Key>{5, 6}, written));  // and it is asked for
  tier.end_load(std::vector<Key>{1, 3, 4});
  REQUIRE(tier.begin_store(std::vector<Key>{5, 6}, written));
  CHECK(written == std::vector<Key>{6});
  CHECK(tier.used() == 4);
  tier.check_invariants();
}

TEST_CASE("The last block of a touched prefix is dropped before the first") {
  HostTier tier(3);
  put(tier, {1, 2, 3});
  tier.touch(std::vector<Key>{1, 2, 3});
  put(tier, {9});
  CHECK(tier.lookup(3) == HostTier::Found::missing);
  CHECK(tier.lookup(1) == HostTier::Found::ready);
}

TEST_CASE(
    "No transfer is faster than the link, one follows another, and the directions do not wait for each "
    "other") {
  HostLink link(3e6, 50e9);
  using Direction = TransferWork::Direction;
  const TransferWork in{.direction = Direction::to_device, .id = 0, .blocks = 1001};
  const TransferWork out{.direction = Direction::to_host, .id = 1, .blocks = 10};
  const SimTime first = link.end_of(in, SimTime(1000));
  CHECK(static_cast<double>(first.ns() - 1000) >= 1001 * 3e6 / 50e9 * 1e9);
  CHECK(static_cast<double>(first.ns() - 1000) < 1001 * 3e6 / 50e9 * 1e9 + 1);
  CHECK(link.end_of(in, SimTime(2000)).ns() - first.ns() == first.ns() - 1000);
  CHECK(link.end_of(out, SimTime(2000)).ns() == 2000 + 600000);
}

TEST_CASE("§8 A long prefix from the host is loaded, not computed again, and that is faster") {
  const std::vector<TraceRequest> asked{named(0, 0, 1, 16), named(1, 5, 2, 16), named(2, 10, 1, 16)};
  World with = small_pool(), without = small_pool();
  without.config.offload = {};
  RunResult r;
  const auto loaded = records_of(with, asked, &r), computed = records_of(without, asked);
  CHECK(computed[2].cached_tokens < 8192 / 2);  // the pool had to drop it
  CHECK(loaded[2].cached_tokens == 8192);
  CHECK(r.offload.loads >= 1);
  // Host link: at most 512 blocks of 16 · 144 KiB over 55.4 GB/s = 21.8 ms; 8,192 tokens take about 200 ms.
  const double most = 512 * 16 * 147456.0 / 55.4e9 * 1e9;
  CHECK(static_cast<double>(r.offload.loaded) <= 512);
  CHECK(static_cast<double>(loaded[2].ttft.ns()) < 0.5 * static_cast<double>(computed[2].ttft.ns()));
  CHECK(static_cast<double>(loaded[2].queue.ns()) >= static_cast<double>(r.offload.loaded) / 512 * most);
  CHECK(static_cast<double>(loaded[2].queue.ns()) < most + 2e7);
}

TEST_CASE("§8 Others run while a request waits for its prefix") {
  World w = small_pool();
  w.config.num_gpu_blocks = 800;
  w.host_blocks_per_s /= 100;  // a very slow link: two seconds
  const auto all = records_of(
      w, {named(0, 0, 1, 16), named(1, 60, 2, 16), named(2, 120, 1, 16), request(3, 120.001, 40, 4)});
  CHECK(all[2].queue.seconds() > 0.2);
  CHECK(all[3].ttft.seconds() < 0.2);
}

TEST_CASE("Nothing is lost with a host tier: random worlds, in stretches, single steps and shuffled") {
  std::uint64_t loads = 0, dropped = 0, deferrals = 0, preemptions = 0;
  for (std::uint64_t seed = 1; seed <= 60; ++seed) {
    RandomWorld base = random_world(seed);
    World& w = base.world;
    RandomStream draw(seed, RandomPurpose::property_test, 51);
    w.config.offload.blocks = 50 + static_cast<std::int64_t>(draw.below(2000));
    w.config.offload.prompt_only = draw.below(3) == 0;
    w.host_blocks_per_s = 1000.0 * (1 + static_cast<double>(draw.below(100)));
    RunResult r;
    const auto all = records_of(w, base.requests, &r);
    REQUIRE(all.size() == base.requests.size());
    for (const RequestRecord& q : all) {
      if (q.status == RequestStatus::rejected) continue;
      REQUIRE(q.status == RequestStatus::completed);
      const TraceRequest& asked = base.requests[q.request];
      REQUIRE(q.output_tokens ==
              std::min<std::int64_t>(asked.output_tokens, w.config.max_model_len - asked.prompt_tokens));
      REQUIRE(q.cached_tokens < q.prompt_tokens);
    }
    World single = w;
    single.config.stretches = false;
    REQUIRE(run(single, base.requests).digest == r.digest);
    REQUIRE(run(w, base.requests, seed).digest == r.digest);
    loads += r.offload.loads;
    dropped += r.offload.dropped;
    deferrals += r.offload.deferrals;
    preemptions += r.preemptions;
  }
  CHECK(loads > 50);
  CHECK(dropped > 50);
  CHECK(deferrals > 0);
  CHECK(preemptions > 50);
}

TEST_CASE("Without a host tier nothing changes") {
  for (std::uint64_t seed = 1; seed <= 5; ++seed) {
    const RandomWorld base = random_world(seed);
    World linked = base.world;
    linked.host_blocks_per_s = 1e5;
    CHECK(run(linked, base.requests).digest == run(base.world, base.requests).digest);
  }
}

// X waits for what Y loads and comes back in front of L, whose load ends while nobody runs. By its source the
// engine tries X, which has no room beside L's blocks, and nobody behind it.
TEST_CASE("offload: a loaded prompt goes on although the one before it has no room beside it") {
  std::vector<TraceRequest> requests{named(0, 0, 1, 6), named(1, 2, 2, 8), named(2, 4, 3, 19),
                                     named(3, 6, 4, 19)};
  TraceRequest x = named(5, 8, 5, 14);
  const TraceRequest y = named(4, 8, 1, 6), l = named(6, 8, 2, 8);
  std::copy_n(y.hash_ids.begin(), 6, x.hash_ids.begin());
  requests.insert(requests.end(), {y, x, l});
  RunResult r;
  const std::vector<RequestRecord> records = records_of(small_pool(), requests, &r);
  REQUIRE(records.size() == 7);
  CHECK(r.offload.loads == 2);
  CHECK(r.offload.deferrals > 0);
  CHECK(records[4].cached_tokens == 6 * 512);
  CHECK(records[5].cached_tokens == 6 * 512);
  CHECK(records[6].cached_tokens == 8 * 512);
  CHECK(records[6].ttft < records[5].ttft);  // they came at once
}

// Nobody is let in in a step in which somebody had to go, be it the last one that ran: the engine's loop goes
// round once more. In a pool of little more than one prompt such a run ended there.
TEST_CASE("offload: when the last that ran has to go, who waits is looked at again") {
  for (const char* blocks : {"450", "457"}) {
    CAPTURE(blocks);
    ScenarioOptions options;
    options.overrides = {
        std::string(
            "deployment={hardware: h200, model: qwen3-8b, engine: vllm-0.24, speculation: {method: ngram, "
            "tokens: 3, acceptance: 0.5, match_rate: 0.7}, engine_args: {max_model_len: 6000, "
            "kv_offloading_size: 4, num_gpu_blocks_override: ") +
            blocks + "}}",
        "workload={generator: {requests: 120, arrivals: {process: poisson, rate: 10}, input: {distribution: "
        "log-normal, mean: 600, cv: 0.6}, output: {distribution: fixed, value: 40}, sessions: {turns_mean: "
        "4, "
        "think_s: 1}}}"};
    const Scenario s =
        load_scenario(std::string(ORRERY_SOURCE_DIR) + "/examples/qwen3-8b-h200.yaml", options).value();
    const Result<RunResult> r = run_scenario(s);
    REQUIRE(r.ok());
    CHECK(r.value().completed == 120);
    CHECK(r.value().offload.loads > 20);
  }
}
