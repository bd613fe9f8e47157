// End to end: a scenario with engine tensorrt-llm-1.2, as `orrery simulate` runs it.
#include "catch.h"
#include "example_scenario.h"
#include "sim/costed/run.h"
#include "tensorrt_llm_desk.h"
#include "world.h"

using namespace orrery;

namespace {

Scenario scenario(std::vector<std::string> overrides) {
  ScenarioOptions options;
  options.overrides = std::move(overrides);
  options.overrides.insert(options.overrides.begin(),
                           {"deployment.engine=tensorrt-llm-1.2", "workload.limit={requests: 400}"});
  return load_scenario(std::string(ORRERY_SOURCE_DIR) + "/examples/qwen3-8b-h200.yaml", options).value();
}

}  // namespace

TEST_CASE("a scenario with TensorRT-LLM decides the same twice, and without stretches [trtllm]") {
  const std::string pool = "kv_cache_config: {max_tokens: 45000}";  // little more than max_seq_len: it pauses
  for (const std::string& args : {
           std::string("deployment.engine_args={}"),
           "deployment.engine_args={enable_chunked_prefill: true, max_num_tokens: 1024, " + pool + "}",
           "deployment.engine_args={scheduler_config: {capacity_scheduler_policy: MAX_UTILIZATION}, " + pool +
               "}",
           std::string("deployment.engine_args={disable_overlap_scheduler: true}"),
       }) {
    CAPTURE(args);
    const Scenario s = scenario({args, "workload.time_scale=8"});
    const RunResult a = run_scenario(s).value();
    REQUIRE(a.completed == 400);
    REQUIRE(a.stretches > 0);
    CHECK(run_scenario(s).value().digest == a.digest);
    RunOptions single;
    single.stretches = false;
    const RunResult b = run_scenario(s, single).value();
    CHECK(b.stretches == 0);
    CHECK(b.digest == a.digest);
    const bool pauses = args.find("MAX_UTILIZATION") != std::string::npos;
    CHECK((a.preemptions > 0) == pauses);
  }
}

TEST_CASE("Qwen3-Next on TensorRT-LLM: requests end, as many at once as there are states [trtllm]") {
  const Scenario s =
      scenario({"deployment={hardware: h200, model: qwen3-next-80b-a3b, engine: tensorrt-llm-1.2, "
                "parallel: {tp: 2}, engine_args: {max_seq_len: 16384, max_batch_size: 24, "
                "max_num_tokens: 16384, kv_cache_config: {enable_block_reuse: false}}}",
                "workload.time_scale=8"});
  const RunResult a = run_scenario(s).value();
  CHECK(a.completed + a.rejected == 400);
  CHECK(a.completed > 390);
  CHECK(a.cached_tokens == 0);
  CHECK(run_scenario(s).value().digest == a.digest);
  const Scenario wide =
      scenario({"deployment={hardware: h200, model: qwen3-next-80b-a3b, engine: tensorrt-llm-1.2, "
                "parallel: {tp: 2}, engine_args: {max_batch_size: 8, kv_cache_config: "
                "{enable_block_reuse: false, mamba_ssm_cache_dtype: float32}}}"});
  CHECK(wide.resolved_yaml().find("mamba_ssm_cache_dtype: float32}") != std::string::npos);
}

TEST_CASE("images on TensorRT-LLM: Gemma 3's by FlashInfer, and n-grams beside Qwen's [trtllm]") {
  for (const char* deployment :
       {"{hardware: h200, model: gemma-3-12b-it, engine: tensorrt-llm-1.2, "
        "engine_args: {attn_backend: FLASHINFER, max_seq_len: 8192}}",
        "{hardware: h200, model: qwen2.5-vl-7b, engine: tensorrt-llm-1.2, "
        "speculation: {method: ngram, tokens: 3, acceptance: 0.6, match_rate: 0.4}}"}) {
    CAPTURE(deployment);
    ScenarioOptions options;
    options.overrides = {std::string("deployment=") + deployment, "workload.limit={requests: 60}"};
    const Scenario s =
        load_scenario(std::string(ORRERY_SOURCE_DIR) + "/examples/qwen2.5-vl-7b-h200-encoder.yaml", options)
            .value();
    const RunResult r = run_scenario(s).value();
    CHECK(r.completed == 60);
    CHECK(r.images.encoded > 20);
    CHECK(r.images.encoded == r.images.arrived);  // each once
    CHECK((r.speculation.accepted > 100) == (s.pool.instance.speculation.on()));
  }
}

TEST_CASE("what the scenario resolved is in the engine's own names, and can be run again [trtllm]") {
  const Scenario s = scenario({"deployment.engine_args={max_batch_size: 7}"});
  const std::string text = s.resolved_yaml();
  CHECK(text.find("max_batch_size: 7") != std::string::npos);
  CHECK(text.find("capacity_scheduler_policy: GUARANTEED_NO_EVICT") != std::string::npos);
  CHECK(text.find("max_num_seqs") == std::string::npos);
  const Scenario tier = scenario({"deployment.engine_args={kv_cache_config: {host_cache_size: 1000000000}}"});
  CHECK(tier.resolved_yaml().find("host_cache_size: 1000000000") != std::string::npos);
  const Scenario waits = scenario(
      {"deployment.engine_args={batch_wait_timeout_ms: 2.5, batch_wait_timeout_iters: 8, "
       "batch_wait_max_tokens_ratio: 0.25, torch_compile_config: {enable_piecewise_cuda_graph: true, "
       "capture_num_tokens: [64, 256]}}"});
  const Result<Scenario> again = read_again(waits);
  REQUIRE(again.ok());
  CHECK(again->resolved_yaml() == waits.resolved_yaml());
  CHECK(waits.resolved_yaml().find("batch_wait_timeout_ms: 2.5\n") != std::string::npos);
  CHECK(waits.resolved_yaml().find("capture_num_tokens: [64, 256]") != std::string::npos);
  CHECK(run(waits).digest == run(waits, false).digest);
  CHECK(run(waits).ttft.mean > run(scenario({})).ttft.mean);
}

TEST_CASE("§5 graphs as resolved are the same graphs when they are read again [trtllm]") {
  for (const char* const graphs :
       {"cuda_graph_config: null", "cuda_graph_config: {batch_sizes: [24, 1], enable_padding: true}",
        "max_batch_size: 7",
        "cuda_graph_config: null, torch_compile_config: {enable_piecewise_cuda_graph: true, "
        "capture_num_tokens: [64]}"}) {
    CAPTURE(graphs);
    const Scenario s = scenario({std::string("deployment.engine_args={") + graphs + "}"});
    const Result<Scenario> again = read_again(s);
    REQUIRE(again.ok());
    CHECK(again->resolved_yaml() == s.resolved_yaml());
  }
}

// `_executor_loop_overlap`: the first pass waits and launches the prompt; the second waits, launches the
// first decode and only then looks at the prompt's token. Without overlap the first one does all of that.
TEST_CASE(
    "§1.4 a request alone waits twice for a batch before its first token, without overlap once [trtllm]") {
  const std::filesystem::path trace =
      std::filesystem::temp_directory_path() / ("orrery-trt-alone-" + std::to_string(::getpid()) + ".jsonl");
  const auto ttft = [&](const std::string& args, int outputs) {
    std::ofstream(trace) << "{\"timestamp\": 1000, \"input_length\": 300, \"output_length\": " << outputs
                         << "}\n";
    const Scenario s =
        scenario({"workload={trace: " + trace.string() + "}", "deployment.engine_args={" + args + "}"});
    return run(s).ttft.mean / 1e6;
  };
  const std::string wait = "batch_wait_timeout_ms: 50", alone = "disable_overlap_scheduler: true";
  CHECK(ttft(wait, 10) - ttft("", 10) == Approx(100).margin(0.1));
  CHECK(ttft(wait + ", " + alone, 10) - ttft(alone, 10) == Approx(50).margin(0.1));
  CHECK(ttft(wait, 1) - ttft("", 1) == Approx(100).margin(1));  // though there is no decode to launch
  std::filesystem::remove(trace);
}

TEST_CASE(
    "§8 a scenario that speculates on TensorRT-LLM decides the same twice, beside a host tier too [trtllm]") {
  const std::string tier =
      "deployment.engine_args={kv_cache_config: {max_tokens: 45000, host_cache_size: 9000000000}}";
  for (const std::string& speculation : {
           std::string("{method: eagle, tokens: 3, acceptance: [0.8, 0.7, 0.6], draft: {kind: eagle3}}"),
           std::string("{method: eagle, tokens: 2, acceptance: 0.7, draft: {kind: eagle3}, one_model: false, "
                       "max_concurrency: 4}"),
           std::string("{method: ngram, tokens: 4, acceptance: 0.7, match_rate: 0.4}"),
       }) {
    CAPTURE(speculation);
    const Scenario s = scenario({tier, "deployment.speculation=" + speculation, "workload.time_scale=4"});
    const RunResult a = run_scenario(s).value();
    REQUIRE(a.completed == 400);
    CHECK(run_scenario(s).value().digest == a.digest);
    CHECK(a.speculation.accepted > 1000);
    CHECK(a.offload.stored > 1000);
    CHECK(a.offload.device_wait_ns > 0);
  }
}

TEST_CASE("§4.5 a step waits for what crosses the host link, the slower direction of the two [trtllm]") {
  const auto ttft = [](double blocks_per_s) {
    world::World w;
    w.scheduler = "tensorrt-llm";
    w.config = desk::config(8);
    w.config.offload = {.blocks = 16};
    w.host_blocks_per_s = blocks_per_s;
    world::Records records;
    w.sink = &records;
    // As in the scheduler's own test: the third request brings three blocks back, and four others make room.
    std::vector<TraceRequest> requests{world::request(0, 0, 128, 1), world::request(1, 10, 220, 1),
                                       world::request(2, 20, 130, 1)};
    for (const std::size_t i : {std::size_t{0}, std::size_t{2}}) {
      requests[i].hash_block_size = 32;
      requests[i].hash_ids = desk::names(1, requests[i].prompt_tokens);
    }
    world::run(w, requests);
    REQUIRE(records.all.size() == 3);
    REQUIRE(records.all[2].cached_tokens == 128);
    return std::pair(records.all[1].ttft, records.all[2].ttft);
  };
  const auto slow = ttft(10), fast = ttft(20);
  CHECK((slow.first - fast.first).ns() == 150'000'000);    // three blocks to host memory
  CHECK((slow.second - fast.second).ns() == 200'000'000);  // four there, three back meanwhile
}
