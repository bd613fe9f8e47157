// A scenario with `engine: sglang-0.5`, from the file to the digest.
#include <map>

#include "catch.h"
#include "example_scenario.h"

using namespace orrery;

namespace {

Scenario scenario(std::vector<std::string> more = {}) {
  more.insert(more.begin(), {"deployment.engine=sglang-0.5", "workload.limit={requests: 300}"});
  return example_at_four_times_its_rate(more);
}

}  // namespace

TEST_CASE("a scenario with SGLang: the same digest twice, and with stretches off") {
  for (const std::vector<std::string>& more :
       {std::vector<std::string>{},
        {"deployment.engine_args={max_total_tokens: 12000, context_length: 8000, schedule_conservativeness: "
         "0.1, "
         "max_running_requests: 64, page_size: 16}"},
        {"deployment.engine_args={enable_mixed_chunk: true, chunked_prefill_size: 512}"},
        {"deployment.engine_args={disable_overlap_schedule: true, disable_radix_cache: true}"}}) {
    const Scenario s = scenario(more);
    const RunResult a = run(s), b = run(s), single = run(s, false);
    CHECK(a.completed > 200);
    CHECK(a.digest == b.digest);
    CHECK(a.digest == single.digest);
    CHECK(a.stretches > 0);
    CHECK(single.stretches == 0);
  }
}

TEST_CASE(
    "layers with a state: the same digest twice, and with stretches off; running requests follow from "
    "slots") {
  for (const std::string arguments :
       {"max_mamba_cache_size: 60", "max_mamba_cache_size: 60, disable_overlap_schedule: true",
        "disable_radix_cache: true, max_running_requests: 12"}) {
    const Scenario s =
        scenario({"deployment.model=qwen3.5-35b-a3b", "deployment.engine_args={" + arguments + "}"});
    const RunResult a = run(s), b = run(s), single = run(s, false);
    CHECK(s.pool.memory.max_sequences >= 12);
    CHECK(s.pool.memory.max_sequences <= 20);
    CHECK(a.completed > 200);
    CHECK(a.digest == b.digest);
    CHECK(a.digest == single.digest);
    CHECK(a.stretches > 0);
  }
}

TEST_CASE("§5.2, §6 speculation from the file to the digest: 48 requests at once, tokens per verification") {
  const std::string key = "deployment.speculation={method: eagle, tokens: 3, acceptance: [0.8, 0.6, 0.5]}";
  const Scenario s = scenario({key});
  CHECK(s.pool.memory.max_sequences == 48);
  const RunResult a = run(s), b = run(s);
  CHECK(a.digest == b.digest);
  CHECK(a.completed == run(scenario()).completed);
  CHECK(a.speculation.accepted > 1000);
  const RunResult ngram = run(scenario(
      {"deployment.speculation={method: ngram, tokens: 3, acceptance: [0.8, 0.6, 0.5], match_rate: 0.3}"}));
  CHECK(ngram.completed == a.completed);
  CHECK(ngram.speculation.drafts == 3 * ngram.speculation.verifications);
  CHECK(ngram.speculation.verifications < ngram.speculation.decodes);
}

TEST_CASE("§4 SWA: gpt-oss with a pool for its windowed layers, from the file to the digest") {
  const auto args = [](const char* more) {
    return std::vector<std::string>{
        "deployment.model=gpt-oss-20b",
        std::string("deployment.engine_args={max_total_tokens: 30000, ") + more + "}"};
  };
  const Scenario s = scenario(args("swa_full_tokens_ratio: 0.3"));
  CHECK(s.pool.memory.windowed_pool_tokens == 9000);
  const RunResult a = run(s), b = run(s), one = run(scenario(args("disable_hybrid_swa_memory: true")));
  CHECK(a.digest == b.digest);
  CHECK(a.completed == one.completed);
  CHECK(a.digest != one.digest);
}

TEST_CASE("§4 HiCache from the file to the digest: prefixes come back from host memory over the link") {
  const auto args = [](const char* more) {
    return std::vector<std::string>{
        "workload.trace=../workloads/excerpts/mooncake_conversation_10min.jsonl",
        "workload.closed_loop={concurrency: 4}", "workload.limit={requests: 200}",
        std::string("deployment.engine_args={max_total_tokens: 100000, ") + more + "}"};
  };
  const Scenario s = scenario(args("enable_hierarchical_cache: true, hicache_ratio: 20"));
  const RunResult a = run(s), b = run(s), single = run(s, false), off = run(scenario(args("page_size: 1")));
  CHECK(a.digest == b.digest);
  CHECK(a.digest == single.digest);
  CHECK(a.completed == off.completed);
  CHECK(a.offload.loads > 5);
  CHECK(off.offload.loads == 0);
  const RunResult back = run(
      scenario(args("enable_hierarchical_cache: true, hicache_ratio: 20, hicache_write_policy: write_back")));
  CHECK(back.completed == a.completed);
  CHECK(back.offload.stored > 0);
  CHECK(back.offload.stored < a.offload.stored);  // only what leaves the device
}

TEST_CASE("engine_args reach the scheduler") {
  const std::uint64_t usual = run(scenario()).digest;
  for (const char* args :
       {"chunked_prefill_size: 300", "max_running_requests: 2", "enable_mixed_chunk: true",
        "disable_overlap_schedule: true", "disable_cuda_graph: true", "prefill_decode_interval: 8",
        "max_total_tokens: 5000", "schedule_policy: lof", "page_size: 64"}) {
    CAPTURE(args);
    CHECK(run(scenario({"deployment.engine_args={" + std::string(args) + "}"})).digest != usual);
  }
}

TEST_CASE("what decode pools alone have is refused elsewhere") {
  const std::string head = "{hardware: h200, model: qwen3-8b, engine: sglang-0.5, engine_args: {";
  for (const std::string name :
       {"disaggregation_decode_extra_slots", "disaggregation_decode_polling_interval",
        "disaggregation_decode_enable_radix_cache"}) {
    const bool flag = name == "disaggregation_decode_enable_radix_cache";
    const auto mixed = small_example(head + name + (flag ? ": true}}" : ": 3}}"));
    REQUIRE_FALSE(mixed.ok());
    CHECK(to_string(mixed.errors()).find(name + " is for decode pools") != std::string::npos);
  }
  CHECK(small_example(head + "disaggregation_decode_polling_interval: 1}}").ok());
}

TEST_CASE("the resolved scenario shows the engine's own names and loads again") {
  const std::string text = scenario().resolved_yaml();
  for (const char* line :
       {"chunked_prefill_size: 8192", "mem_fraction_static: 0.903", "schedule_policy: fcfs",
        "captured_decode_sizes: 36", "captured_prefill_sizes: 58", "max_sequences: 4096"}) {
    CAPTURE(line);
    CHECK(text.find(line) != std::string::npos);
  }
}
