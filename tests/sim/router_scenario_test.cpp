// `router:` in scenarios: what it takes, what it refuses, and what routers do for a workload of sessions.
#include <algorithm>
#include <cmath>

#include "catch.h"
#include "costmodel/step_pricer.h"
#include "example_scenario.h"
#include "sim/costed/run.h"

using namespace orrery;

namespace {

std::string h200(const std::string& keys) { return qwen3_8b_part("hardware: h200, " + keys); }
std::string router(const std::string& text, const std::string& more = "replicas: 3, ") {
  return h200(more + "router: " + text);
}

std::string error_of(const Result<Scenario>& loaded) {
  REQUIRE(!loaded.ok());
  std::string all;
  for (const Error& e : loaded.errors()) all += e.key + ": " + e.message + "\n";
  return all;
}

bool says(const Result<Scenario>& loaded, const std::string& text) {
  const std::string all = error_of(loaded);
  CAPTURE(all, text);
  return all.find(text) != std::string::npos;
}

// Conversations over one of a few long system prompts; caches of so few blocks that they cannot all stay.
std::vector<std::string> sessions() {
  return {
      "workload={generator: {requests: 500, arrivals: {process: poisson, rate: 14}, input: {distribution: "
      "fixed, value: 120}, output: {distribution: fixed, value: 60}, sessions: {turns_mean: 5, think_s: 4, "
      "shared_prefix_tokens: 1536, prefix_groups: 12}}}",
      "deployment.engine_args={num_gpu_blocks_override: 1400, max_num_seqs: 32, max_model_len: 8192}"};
}

RunResult run_sessions(const std::string& text, bool stretches = true) {
  return run(small_example(router(text, "replicas: 4, "), sessions()).value(), stretches);
}

}  // namespace

TEST_CASE(
    "a policy's name and a map without other keys are the same, and telemetry at once is none [router]") {
  const RunResult plain = run(small_example(router("least-loaded")).value());
  REQUIRE(plain.completed == 300);
  CHECK(run(small_example(router("{policy: least-loaded}")).value()).digest == plain.digest);
  CHECK(run(small_example(router("{policy: least-loaded, period_ms: 0, delay_ms: 0}")).value()).digest ==
        plain.digest);
  const Scenario late =
      small_example(router("{policy: least-loaded, period_ms: 2000, delay_ms: 100}")).value();
  const RunResult stale = run(late);
  CHECK(stale.completed == 300);
  CHECK(stale.digest != plain.digest);
  CHECK(run(late, false).digest == stale.digest);
  CHECK(run(small_example(router("{policy: kv-aware, overlap_weight: 0, load: requests}")).value()).digest ==
        plain.digest);
  CHECK(
      run(small_example(
              router("{policy: kv-aware, overlap_weight: 0, load: requests, period_ms: 2000, delay_ms: 100}"))
              .value())
          .digest == stale.digest);
  // A batch of what arrives at one nanosecond holds one request.
  CHECK(run(small_example(router("{policy: shortest-prompt-first, batch_ms: 0}")).value()).digest ==
        plain.digest);
  const RunResult sorted =
      run(small_example(router("{policy: shortest-prompt-first, batch_ms: 200}")).value());
  CHECK(sorted.completed == 300);
  CHECK(sorted.ttft.mean > plain.ttft.mean);  // nearly idle: they wait for nothing else than their batch
  CHECK(sorted.ttft.mean < plain.ttft.mean + 0.2e9);
}

TEST_CASE("sessions find their prefixes where the router looks at content [router]") {
  const RunResult turns = run_sessions("round-robin"), least = run_sessions("least-loaded"),
                  sent = run_sessions("prefix-aware"), held = run_sessions("kv-aware"),
                  heavy = run_sessions("{policy: kv-aware, overlap_weight: 16}");
  for (const RunResult* r : {&turns, &least, &sent, &held, &heavy}) REQUIRE(r->completed == 500);
  CAPTURE(turns.prefix_cache_hit_rate, least.prefix_cache_hit_rate, sent.prefix_cache_hit_rate,
          held.prefix_cache_hit_rate, heavy.prefix_cache_hit_rate);
  // Who does not look at content finds the same by chance.
  CHECK(std::abs(turns.prefix_cache_hit_rate - least.prefix_cache_hit_rate) < 0.03);
  const double chance = std::max(turns.prefix_cache_hit_rate, least.prefix_cache_hit_rate);
  CHECK(sent.prefix_cache_hit_rate > chance + 0.1);
  CHECK(held.prefix_cache_hit_rate > chance + 0.1);
  CHECK(heavy.prefix_cache_hit_rate > held.prefix_cache_hit_rate);  // gives up hits for balance less readily
  const RunResult late = run_sessions("{policy: kv-aware, period_ms: 5000, delay_ms: 1000}");
  CAPTURE(late.prefix_cache_hit_rate);
  CHECK(late.completed == 500);
  CHECK(late.prefix_cache_hit_rate < held.prefix_cache_hit_rate);
  CHECK(late.prefix_cache_hit_rate > chance);
  CHECK(run_sessions("kv-aware", false).digest == held.digest);
}

TEST_CASE("kv-aware on SGLang, and slots, serve everybody [router]") {
  auto on_sglang = sessions();
  on_sglang[1] =
      "deployment.engine_args={max_total_tokens: 22400, max_running_requests: 32, context_length: 8192}";
  const auto sglang = [&](const std::string& text) {
    return run(small_example(
                   "{model: qwen3-8b, engine: sglang-0.5, hardware: h200, replicas: 4, router: " + text + "}",
                   on_sglang)
                   .value());
  };
  const RunResult turns = sglang("round-robin"), held = sglang("kv-aware");
  CHECK(held.completed == 500);
  CAPTURE(turns.prefix_cache_hit_rate, held.prefix_cache_hit_rate);
  CHECK(held.prefix_cache_hit_rate > turns.prefix_cache_hit_rate + 0.1);
  CHECK(run(small_example(router("slots")).value()).completed == 300);
}

TEST_CASE("prefill and decode pools have routers of their own, each with its books [router]") {
  const auto apart = [](const std::string& prefill, const std::string& decode) {
    return small_example("{topology: {preset: hopper-8}, pools: [" +
                         h200("name: p, role: prefill, replicas: 3, router: " + prefill) + ", " +
                         h200("name: d, role: decode, replicas: 3, router: " + decode) + "]}");
  };
  const Scenario s = apart("{policy: kv-aware, delay_ms: 5}", "slots").value();
  const RunResult r = run(s);
  CHECK(r.completed == 300);
  CHECK(run(s, false).digest == r.digest);
  const RunResult batched =
      run(apart("{policy: shortest-prompt-first, batch_ms: 20}", "{policy: least-loaded, period_ms: 500}")
              .value());
  CHECK(batched.completed == 300);
  CHECK(batched.output_tokens == r.output_tokens);
  CHECK(says(apart("least-loaded", "{policy: shortest-prompt-first, batch_ms: 20}"),
             "does not arrive in batches"));
}

TEST_CASE("parts of different speed: weighed by price or by a key, requests end sooner [router]") {
  const auto pools = [](const std::string& speed) {
    const std::string policy = "router: {policy: least-loaded" + speed + "}";
    return small_example("{pools: [" + h200("name: new, " + policy) + ", " +
                             qwen3_8b_part("hardware: l40s, name: old, " + policy) + "]}",
                         {"workload.time_scale=20"})
        .value();
  };
  const Scenario plain = pools(""), priced = pools(", speed: price"),
                 stated = pools(", speed: {new: 4, old: 1}");
  const RunResult a = run(plain), b = run(priced), c = run(stated);
  CHECK(a.completed == 300);
  CHECK(b.completed == 300);
  CAPTURE(a.e2e.mean, b.e2e.mean, c.e2e.mean);
  CHECK(b.e2e.mean < a.e2e.mean);
  CHECK(c.e2e.mean < a.e2e.mean);
  // What price says: between the parts' ratio of matrix rates (2.7) and that of memory (5.6).
  const StepPricer fast = StepPricer::create(priced.pool.instance).value(),
                   slow = StepPricer::create(priced.other_pools[0].instance).value();
  const RouterConfig config =
      router_config(priced.pool.router, {{&priced.pool, &fast}, {&priced.other_pools[0], &slow}});
  REQUIRE(config.instances.size() == 2);
  const double ratio =
      static_cast<double>(config.instances[1].weight) / static_cast<double>(config.instances[0].weight);
  CAPTURE(ratio);
  CHECK(ratio > 2.7);
  CHECK(ratio < 5.6);
  CHECK(run(pools(", speed: alike")).digest == a.digest);
  CHECK(run(pools(", speed: {new: 2, old: 2}")).digest == a.digest);
  CHECK(run(pools(", speed: {new: 8, old: 2}")).digest == c.digest);
}

TEST_CASE("what a router does not take is said at the key [router]") {
  CHECK(says(small_example(router("{policy: round-robin, period_ms: 5}")),
             "deployment.router.period_ms: router round-robin"));
  CHECK(says(small_example(router("{policy: least-loaded, overlap_weight: 2}")),
             "overlap_weight: router least-loaded"));
  CHECK(says(small_example(router("{policy: kv-aware, speed: price}")), "router.speed: router kv-aware"));
  CHECK(says(small_example(router("{policy: kv-aware, period: 5}")), "router.period"));
  CHECK(says(small_example(router("{period_ms: 5}")), "policy"));
  CHECK(says(small_example(router("shortest-prompt-first")), "needs batch_ms"));
  CHECK(says(small_example(router("{policy: shortest-prompt-first}")), "router.batch_ms"));
  CHECK(says(small_example(router("{policy: least-loaded, delay_ms: -1}")), "delay_ms"));
  CHECK(says(small_example(router("{policy: least-loaded, speed: price}")), "one pool of this role"));
  CHECK(says(small_example(router("kv-aware", "engine_args: {enable_prefix_caching: false}, ")),
             "needs prefix caches"));
  CHECK(says(small_example(router("slots", "parallel: {dp: 2}, ")), "router slots keeps books"));
  CHECK(says(small_example("{model: qwen3-8b, engine: tensorrt-llm-1.2, hardware: h200, router: kv-aware}"),
             "tensorrt-llm"));
  const std::string b = "{model: qwen3-8b, engine: vllm-0.24, hardware: h100, name: b, router: ";
  const auto two = [&](const std::string& first, const std::string& second) {
    return small_example("{pools: [" + h200("name: a, router: " + first) + ", " + b + second + "}]}");
  };
  CHECK(says(two("{policy: least-loaded, speed: {a: 2}}", "{policy: least-loaded, speed: {a: 2}}"),
             "pool \"b\" stands behind"));
  CHECK(says(two("{policy: least-loaded, speed: {a: 2, b: 1, c: 3}}",
                 "{policy: least-loaded, speed: {a: 2, b: 1, c: 3}}"),
             "no pool \"c\""));
  // A pool without one stands behind the first one's, and must be able to.
  CHECK(says(small_example("{pools: [" + h200("name: a, router: kv-aware") +
                           ", {model: qwen3-8b, engine: tensorrt-llm-1.2, hardware: h200, name: b}]}"),
             "pools[1].name: router kv-aware"));
  CHECK(says(two("kv-aware", "{policy: kv-aware, delay_ms: 3}"), "with other keys"));
}

TEST_CASE("a router's keys mean the same when they are read again [router]") {
  const Scenario s =
      small_example(router("{policy: kv-aware, period_ms: 100, delay_ms: 20, overlap_weight: 2}")).value();
  const auto again = read_again(s);
  REQUIRE(again.ok());
  CHECK(again->pool.router == s.pool.router);
  CHECK(run(*again).digest == run(s).digest);
}
