// Deployments of several pools: what one pool of N instances does, two pools of N together must do.

#include "catch.h"
#include "example_scenario.h"
#include "sim/costed/run.h"

using namespace orrery;

namespace {

std::string h200(const std::string& keys) { return qwen3_8b_part("hardware: h200, " + keys); }

void check_equal(const RunResult& a, const RunResult& b) {
  CHECK(a.digest == b.digest);
  CHECK(a.steps == b.steps);
  CHECK(a.completed == b.completed);
  CHECK(a.ttft.mean == b.ttft.mean);
  CHECK(a.tpot.p99 == b.tpot.p99);
  CHECK(a.itl.mean == b.itl.mean);
  CHECK(a.e2e.max == b.e2e.max);
  CHECK(a.device_busy_ns == b.device_busy_ns);
  CHECK(a.prices == b.prices);
}

std::string error_of(const Result<Scenario>& loaded) {
  REQUIRE(!loaded.ok());
  std::string all;
  for (const Error& e : loaded.errors()) all += e.key + ": " + e.message + "\n";
  return all;
}

}  // namespace

TEST_CASE("one mixed pool of three is three replicas, bit for bit [pools]") {
  for (const std::string router : {"least-loaded", "round-robin"}) {
    const auto plain = small_example(h200("replicas: 3, router: " + router)).value();
    const auto pool =
        small_example("{pools: [" + h200("name: main, replicas: 3, router: " + router) + "]}").value();
    const RunResult a = run_scenario(plain).value(), b = run_scenario(pool).value();
    REQUIRE(a.completed == 300);
    check_equal(a, b);
  }
}

TEST_CASE("mixed pools of one and two equal instances are one pool of three, bit for bit [pools]") {
  const auto one = small_example(h200("replicas: 3")).value();
  const auto two =
      small_example("{pools: [" + h200("name: a") + ", " + h200("name: b, replicas: 2") + "]}").value();
  const RunResult a = run_scenario(one).value(), b = run_scenario(two).value();
  check_equal(a, b);
  REQUIRE(b.pools.size() == 2);
  CHECK(b.pools[0].instances == 1);
  CHECK(b.pools[1].first_instance == 1);
  CHECK(b.pools[1].instances == 2);
  CHECK(std::max(b.pools[0].peak_utilization, b.pools[1].peak_utilization) == a.pools[0].peak_utilization);
  RunOptions single;
  single.stretches = false;
  CHECK(run_scenario(two, single).value().digest == b.digest);
}

TEST_CASE("pools keep their own part, plan and engine; GPUs add up [pools]") {
  const auto s =
      small_example(
          "{pools: [" + h200("name: big, replicas: 1") + ", " +
          qwen3_8b_part("hardware: h100, name: small, replicas: 2, parallel: {tp: 2}, quantization: "
                        "fp8-tensor, engine_args: {max_num_seqs: 64}") +
          "]}")
          .value();
  CHECK(s.gpus() == 1 + 2 * 2);
  REQUIRE(s.other_pools.size() == 1);
  const PoolSpec& small = s.other_pools.front();
  CHECK(small.instance.hardware.name == "h100");
  CHECK(small.scheduler_config().max_num_seqs == 64);
  CHECK(s.pool.scheduler_config().max_num_seqs != 64);
  const auto alone =
      small_example(qwen3_8b_part("hardware: h100, replicas: 2, parallel: {tp: 2}, quantization: fp8-tensor, "
                                  "engine_args: {max_num_seqs: 64}"))
          .value();
  CHECK(small.memory.kv_blocks == alone.pool.memory.kv_blocks);
  const RunResult r = run_scenario(s).value();
  CHECK(r.completed == 300);
  REQUIRE(r.pools.size() == 2);
  CHECK(r.pools[0].kv_blocks == s.pool.memory.kv_blocks);
  CHECK(r.pools[1].kv_blocks == small.memory.kv_blocks);
  CHECK(r.pools[1].gpus_per_instance == 2);
  CHECK(r.pools[1].peak_utilization > 0);  // both served somebody
  CHECK(r.pools[0].peak_utilization > 0);

  // What it wrote means the same when it is read again.
  const auto again = read_again(s);
  REQUIRE(again.ok());
  CHECK(run_scenario(*again).value().digest == r.digest);
  CHECK(again->resolved_yaml() == s.resolved_yaml());
}

TEST_CASE("what does not go together is said at its key [pools]") {
  const auto refused = [](const std::string& pools) {
    return error_of(small_example("{pools: [" + pools + "]}"));
  };
  CHECK(refused(h200("replicas: 2")).find("name") != std::string::npos);
  CHECK(refused(h200("name: a") + ", " + h200("name: a")).find("pools[1].name: two pools") !=
        std::string::npos);
  CHECK(refused(h200("name: a") + ", " + h200("name: b, router: round-robin")).find("behind one router") !=
        std::string::npos);
  CHECK(refused(h200("name: a") + ", {model: qwen3-32b, engine: vllm-0.24, hardware: h200, name: b}")
            .find("one model") != std::string::npos);
  CHECK(refused(h200("name: a, role: dekode")).find("decode") != std::string::npos);
  // What one pool could not be read for is not told of the others as well.
  CHECK(refused(h200("name: a, role: prefil") + ", " + h200("name: b, role: decode")).find("needs a") ==
        std::string::npos);
  CHECK(refused(h200("name: a") + ", {model: [x], engine: vllm-0.24, hardware: h200, name: b}")
            .find("one model") == std::string::npos);
  CHECK(refused(h200("name: a") + ", {model: qwen3-32b, engine: vllm-0.24, hardware: h200, name: ''}")
            .find("one model") != std::string::npos);
  CHECK(error_of(small_example("{pools: []}")).find("at least one pool") != std::string::npos);
  CHECK(error_of(small_example("{hardware: h200, pools: [" + h200("name: a") + "]}"))
            .find("deployment.hardware: beside") != std::string::npos);
  const std::string tight = h200("name: b, engine_args: {gpu_memory_utilization: 0.1}");
  const auto small = small_example("{pools: [" + h200("name: a") + ", " + tight + "]}");
  CHECK(error_of(small).find("pool \"b\"") != std::string::npos);
  CHECK(small.errors().front().kind == ErrorKind::infeasible);
}

TEST_CASE("pools of one role stand behind one router, apart too: two of one are one of two [pools]") {
  const auto apart = [](const std::string& engine, const std::string& pd, bool split,
                        const std::string& wide) {
    const auto pool = [&](const std::string& name, const char* role, int replicas,
                          const std::string& keys = "") {
      return "{hardware: h200, model: qwen3-8b, engine: " + engine + ", name: " + name + ", role: " + role +
             ", replicas: " + std::to_string(replicas) + keys + "}";
    };
    std::string pools = split ? pool("p", "prefill", 1) + ", " + pool("q", "prefill", 1, wide) + ", " +
                                    pool("d", "decode", 1) + ", " + pool("e", "decode", 1, wide)
                              : pool("p", "prefill", 2) + ", " + pool("d", "decode", 2);
    return small_example("{topology: {preset: hopper-8}, " + pd + "pools: [" + pools + "]}");
  };
  for (const auto& [engine, pd] :
       {std::pair("vllm-0.24", ""), std::pair("vllm-0.24", "pd: {transfer: layerwise}, "),
        std::pair("sglang-0.5", "")}) {
    CAPTURE(engine, pd);
    const auto one = apart(engine, pd, false, ""), two = apart(engine, pd, true, "");
    REQUIRE(one.ok());
    if (!two.ok()) FAIL(error_of(two));
    check_equal(run_scenario(*one).value(), run_scenario(*two).value());
    const auto unlike = apart(engine, pd, true, ", parallel: {tp: 2}");
    if (pd[0] != '\0') {  // MoRIIO's ranks write to the rank of their own number
      CHECK(error_of(unlike).find("one tp") != std::string::npos);
      continue;
    }
    if (!unlike.ok()) FAIL(error_of(unlike));
    const RunResult r = run_scenario(*unlike).value();
    CHECK(r.completed == run_scenario(*one).value().completed);
    CHECK(r.pools.size() == 4);
  }
}
