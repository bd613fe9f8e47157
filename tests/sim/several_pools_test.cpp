// Several pools of one role behind one router, apart and beside one another: two of equal parts are one of
// twice the replicas, whatever engine and router; of unlike parts every request ends once and no block stays.
#include <algorithm>
#include <filesystem>
#include <fstream>

#include "../sanitized.h"
#include "base/files.h"
#include "base/random.h"
#include "catch.h"
#include "example_scenario.h"
#include "sim/collector.h"

using namespace orrery;

namespace {

struct Records final : RecordSink {
  void on_request(const RequestRecord& r) override { all.push_back(r); }
  std::vector<RequestRecord> all;
};

std::string pool(const std::string& name, const std::string& role, std::int64_t replicas,
                 const std::string& keys) {
  return "{name: " + name + ", role: " + role + ", replicas: " + std::to_string(replicas) +
         ", model: qwen3-8b, " + keys + "}";
}
std::string on_nodes(const std::string& pools, const std::string& pd = "") {
  return "{topology: {preset: hopper-8, nodes: 4, nics_per_node: 8, nic_gbps: 400}, " + pd + "pools: [" +
         pools + "]}";
}

Scenario loaded(const std::string& deployment, const std::vector<std::string>& more) {
  auto s = small_example(deployment, more);
  INFO((s.ok() ? "" : to_string(s.errors())));
  REQUIRE(s.ok());
  return std::move(s).value();
}

}  // namespace

TEST_CASE("apart, two pools of equal parts are one of twice the replicas, on any engine and router [pools]") {
  struct Case {
    const char *engine, *of_prefill, *router, *pd, *frontend;
    bool mixed;
  };
  for (const Case& c : {Case{"tensorrt-llm-1.2", ", engine_args: {disable_overlap_scheduler: true}",
                             "least-loaded", "", "none", false},
                        Case{"vllm-0.24", "", "kv-aware", "", "openai", false},
                        Case{"vllm-0.24", "", "slots", "", "none", false},
                        Case{"vllm-0.24", "", "round-robin", "pd: {local_below: 400}, ", "none", true},
                        Case{"sglang-0.5", "", "least-loaded", "pd: {local_below: 400}, ", "none", true}}) {
    CAPTURE(c.engine, c.router, c.frontend);
    const std::string keys = std::string("hardware: h200, engine: ") + c.engine;
    const auto run_of = [&](bool split) {
      std::string pools;
      const auto add = [&](const std::string& names, const char* role, const std::string& more) {
        for (std::size_t i = 0; i < (split ? 2u : 1u); ++i)
          pools += (pools.empty() ? "" : ", ") + pool(names.substr(i, 1), role, split ? 1 : 2, keys + more);
      };
      add("pq", "prefill", c.of_prefill);
      add("de", "decode", std::string(", router: ") + c.router);
      if (c.mixed) add("mn", "mixed", "");
      return run(loaded(on_nodes(pools, c.pd),
                        {"workload.limit={requests: 120}", std::string("workload.frontend=") + c.frontend}));
    };
    const RunResult one = run_of(false), two = run_of(true);
    CHECK(one.completed == 120);
    CHECK(one.digest == two.digest);
    CHECK(one.steps == two.steps);
    CHECK(one.transfers.bytes == two.transfers.bytes);
    CHECK(two.pools.size() == 2 * one.pools.size());
  }
}

TEST_CASE(
    "random pools of few roles: every request ends once, blocks come back, single steps agree [pools]") {
  std::int64_t moved = 0, unlike = 0;
  for (std::uint64_t seed = 1; seed <= (sanitized ? 2u : 8u); ++seed) {
    CAPTURE(seed);
    RandomStream r(seed, RandomPurpose::property_test, 131);
    const bool sglang = r.below(2) == 0;
    std::string pools;
    std::vector<std::int64_t> widths;
    const auto add = [&](const char* role, std::uint64_t count) {
      const char* const routers[] = {"round-robin", "least-loaded", "prefix-aware"};
      const std::string router = routers[r.below(3)];
      for (std::uint64_t i = 0; i < count; ++i) {
        const std::int64_t tp = std::int64_t{1} << r.below(2);
        widths.push_back(tp);
        std::string keys = std::string("hardware: ") + (r.below(2) == 0 ? "h200" : "h100") +
                           ", engine: " + (sglang ? "sglang-0.5" : "vllm-0.24") +
                           ", parallel: {tp: " + std::to_string(tp) + "}, router: " + router;
        const std::string blocks = std::to_string(900 + 100 * r.below(20));
        if (r.below(2) == 0)
          keys += sglang ? ", engine_args: {max_total_tokens: " + blocks + "0}"
                         : ", engine_args: {num_gpu_blocks_override: " + blocks + ", max_model_len: 9000}";
        pools += (pools.empty() ? "" : ", ") +
                 pool(role + std::to_string(i), role, static_cast<std::int64_t>(1 + r.below(2)), keys);
      }
    };
    add("prefill", 1 + r.below(3));
    add("decode", 1 + r.below(3));
    const bool mixed = r.below(3) == 0;
    if (mixed) add("mixed", 1 + r.below(2));
    const Scenario s = loaded(on_nodes(pools, mixed ? "pd: {local_below: 300}, " : ""),
                              {"workload.limit={requests: 80}", "workload.time_scale=16"});
    Records records;
    RunOptions options;
    options.sink = &records;
    const auto all = run_scenario(s, options);  // leaks are errors of the run
    INFO((all.ok() ? "" : to_string(all.errors())));
    REQUIRE(all.ok());
    REQUIRE(records.all.size() == 80);
    std::vector<int> ends(80, 0);
    std::uint64_t tokens = 0;
    for (const RequestRecord& q : records.all) {
      ++ends[q.request];
      tokens += static_cast<std::uint64_t>(q.output_tokens);
      if (!q.handoff.apart) continue;
      const std::size_t of = q.handoff.prefill_instance.value();
      CHECK(of < q.instance.value());  // instances are numbered through all pools, in order
    }
    CHECK(std::all_of(ends.begin(), ends.end(), [](int n) { return n == 1; }));
    CHECK(all->output_tokens == tokens);
    CHECK(all->pools.size() == widths.size());
    CHECK(run(s, false).digest == all->digest);
    moved += all->transfers.bytes;
    unlike +=
        std::count(widths.begin(), widths.end(), widths.front()) < static_cast<std::ptrdiff_t>(widths.size());
  }
  CHECK(moved > 0);
  CHECK(unlike > 0);
}

TEST_CASE("an idle engine learns of its transfers as its own pool's profile says [pools]") {
  const std::string path = std::filesystem::temp_directory_path() / "orrery-several_pools_test.yaml";
  std::string profile =
      read_text_file(std::string(ORRERY_SOURCE_DIR) + "/engine_profiles/vllm-0.24.yaml").value();
  const std::string as_is = "idle_notice: {value: 2.5", later = "idle_notice: {value: 10.0";
  REQUIRE(profile.find(as_is) != std::string::npos);
  profile.replace(profile.find(as_is), as_is.size(), later);
  std::ofstream(path) << profile;
  const std::string vllm = "hardware: h200, engine: vllm-0.24", own = "hardware: h200, engine: " + path;
  const Scenario s = loaded(
      on_nodes(pool("p", "prefill", 1, vllm) + ", " + pool("d", "decode", 1, vllm + ", router: round-robin") +
               ", " + pool("e", "decode", 1, own + ", router: round-robin")),
      {"workload={generator: {requests: 2, arrivals: {process: poisson, rate: 0.1}, input: {distribution: "
       "fixed, value: 1000}, output: {distribution: fixed, value: 20}}}"});
  Records records;
  RunOptions options;
  options.sink = &records;
  REQUIRE(run_scenario(s, options).ok());
  std::remove(path.c_str());
  REQUIRE(records.all.size() == 2);
  const RequestRecord &d = records.all[0], &e = records.all[1];
  REQUIRE(d.instance == InstanceId(1));
  REQUIRE(e.instance == InstanceId(2));
  CHECK((e.handoff.decode_queue - d.handoff.decode_queue).ns() == 7'500'000);
}
