// The engine as data: defaults by device, captured sizes, what becomes of each argument.
#include "costmodel/engine_profile.h"

#include <string>

#include "base/files.h"
#include "catch.h"
#include "costmodel/hardware.h"
#include "costmodel/model_spec.h"
#include "costmodel/parallel_plan.h"
#include "costmodel/profile_folder.h"

using namespace orrery;

namespace {

struct Resolved {
  EngineProfile engine;
  std::string errors;
};

Resolved resolve(const std::string& args, const std::string& part = "h200",
                 const std::string& model = "qwen3-8b", std::int32_t tp = 1) {
  Resolved r{load_engine("vllm-0.24").value(), ""};
  const HardwareProfile hardware = load_hardware(part).value();
  ModelSpec spec = load_model(model, ".", "", "auto").value();
  YamlDocument document = YamlDocument::parse("engine_args: {" + args + "}", "s.yaml").value();
  ParallelPlan plan;
  plan.tp = tp;
  resolve_engine(r.engine, hardware, spec, plan, document.root().optional("engine_args"), document.root());
  document.finish();
  r.errors = to_string(document.errors());
  return r;
}

SchedulerSettings settings(const std::string& args, const std::string& part = "h200") {
  const Resolved r = resolve(args, part);
  INFO(r.errors);
  REQUIRE(r.errors.empty());
  return r.engine.settings;
}

bool holds(const std::string& text, const std::string& piece) {
  return text.find(piece) != std::string::npos;
}

}  // namespace

TEST_CASE("§5 defaults follow the device's memory") {
  const SchedulerSettings large = settings("");
  CHECK(large.max_num_batched_tokens == 8192);
  CHECK(large.max_num_seqs == 1024);
  CHECK(large.max_model_len == 40960);
  CHECK(large.block_size == 16);
  CHECK(large.gpu_memory_utilization == 0.92);
  CHECK(large.enable_prefix_caching);
  for (const char* part : {"mi300x", "mi325x", "h100", "h20"})
    CHECK(settings("", part).max_num_batched_tokens == 8192);
  for (const char* part : {"l40s", "r9700"}) {
    CHECK(settings("", part).max_num_batched_tokens == 2048);
    CHECK(settings("", part).max_num_seqs == 256);
  }
}

TEST_CASE("§3 captured sizes are those that vLLM 0.24 logs") {
  const auto sizes = settings("").cudagraph_sizes;
  CHECK(sizes.size() == 51);  // 1, 2, 4, 8 … 248 by 8, 256 … 512 by 16
  CHECK(sizes[2] == 4);
  CHECK(sizes[33] == 248);
  CHECK(sizes[34] == 256);
  CHECK(sizes[35] == 272);
  CHECK(sizes.back() == 512);
  CHECK(settings("max_num_seqs: 8").cudagraph_sizes == std::vector<std::int64_t>{1, 2, 4, 8, 16});
  CHECK(settings("max_num_seqs: 1").cudagraph_sizes == std::vector<std::int64_t>{1, 2});
  CHECK(settings("max_num_seqs: 100, max_num_batched_tokens: 100").cudagraph_sizes.back() == 100);  // off the
                                                                                                    // stride
  CHECK(settings("enforce_eager: true").cudagraph_sizes.empty());
  CHECK(settings("cudagraph_capture_sizes: [16, 1, 16, 99999]").cudagraph_sizes ==
        std::vector<std::int64_t>{1, 16});
  CHECK(settings("compilation_config: {cudagraph_capture_sizes: [4, 2]}").cudagraph_sizes ==
        std::vector<std::int64_t>{2, 4});
  CHECK(settings("compilation_config: {cudagraph_mode: NONE}").cudagraph_sizes.empty());
  CHECK(settings("compilation_config: {cudagraph_mode: FULL_DECODE_ONLY}").graphs_of_decodes_only);
  CHECK_FALSE(settings("compilation_config: {cudagraph_mode: FULL_DECODE_ONLY}").cudagraph_sizes.empty());
  CHECK(settings("max_cudagraph_capture_size: 1024").cudagraph_sizes.back() == 1024);
}

TEST_CASE(
    "§5 caps of defaults: never more tokens than sequences can hold, never more sequences than tokens") {
  CHECK(settings("max_num_seqs: 2, max_model_len: 1000").max_num_batched_tokens == 2000);
  CHECK(settings("max_num_batched_tokens: 64").max_num_seqs == 64);
  CHECK(settings("enable_chunked_prefill: false").max_num_batched_tokens == 40960);
  CHECK(settings("performance_mode: throughput").max_num_batched_tokens == 16384);
}

TEST_CASE("§3 §5 the runner follows the architecture, the depth async scheduling") {
  CHECK(resolve("").engine.runner == "v2");
  CHECK(resolve("", "h200", "qwen3-30b-a3b").engine.runner == "v1");
  CHECK(resolve("", "h200", "llama-3.1-8b").engine.runner == "v2");
  CHECK(resolve("", "h200", "mixtral-8x7b").engine.runner == "v1");
  CHECK(resolve("").engine.steps_in_flight == 2);
  CHECK(resolve("async_scheduling: false").engine.steps_in_flight == 1);
}

TEST_CASE("arguments that change no prediction are accepted and listed") {
  const Resolved r = resolve(
      "seed: 3, load_format: dummy, skip_tokenizer_init: true, enable_lora: false, "
      "speculative_config: null, scheduling_policy: fcfs, tensor_parallel_size: 2",
      "h200", "qwen3-8b", 2);
  CHECK(r.errors.empty());
  CHECK(r.engine.ignored_args.size() == 6);
}

TEST_CASE("arguments that are not modelled are refused by name, where they stand") {
  for (const auto& [args, piece] :
       {std::pair{"enable_lora: true", "engine_args.enable_lora: LoRA is not modelled"},
        {"speculative_config: {method: ngram}", "deployment.speculation"},
        {"scheduling_policy: lottery", "expected one of"},
        {"enable_expert_parallel: true", "deployment.parallel.ep"},
        {"tensor_parallel_size: 2", "deployment.parallel.tp"},
        {"kv_transfer_config: {kv_connector: NixlConnector}", "deployment.pools"},
        {"structured_outputs_config: {backend: xgrammar}", "structured output is not modelled"},
        {"cpu_offload_gb: 4", "offloading of weights is not modelled"},
        {"compilation_config: {level: 3}", "engine_args.compilation_config.level"},
        {"max_num_seq: 3", "did you mean \"max_num_seqs\""},
        {"prefill_schedule_interval: 0", "prefill_schedule_interval"}}) {
    INFO(args);
    const Resolved r = resolve(args);
    CHECK(holds(r.errors, piece));
    CHECK(holds(r.errors, "s.yaml:1:"));
  }
}

TEST_CASE("impossible values") {
  for (const char* args : {"max_num_seqs: 0", "max_num_seqs: yes", "max_model_len: 999999", "block_size: 24",
                           "gpu_memory_utilization: 1.5", "num_gpu_blocks_override: -3",
                           "enable_prefix_caching: 1", "max_num_batched_tokens: 10, max_num_seqs: 20",
                           "cudagraph_capture_sizes: []", "long_prefill_token_threshold: 50000",
                           "enable_chunked_prefill: false, max_num_batched_tokens: 2048"}) {
    INFO(args);
    CHECK_FALSE(resolve(args).errors.empty());
  }
}

TEST_CASE("every host cost has a kind and a source, and a profile without one does not load") {
  const HostCosts& h = resolve("").engine.host;
  for (const Figure<Seconds>* figure : {&h.schedule_base,
                                        &h.schedule_per_sequence,
                                        &h.schedule_per_new_request,
                                        &h.prepare_base,
                                        &h.prepare_per_sequence,
                                        &h.prepare_per_sequence_v1,
                                        &h.prepare_rpc,
                                        &h.launch_graph,
                                        &h.launch_piece,
                                        &h.launch_kernel,
                                        &h.launch_experts,
                                        &h.launch_collective,
                                        &h.stream_gap,
                                        &h.step_gap,
                                        &h.copy,
                                        &h.update_base,
                                        &h.update_per_sequence,
                                        &h.loop_gap,
                                        &h.input_delay,
                                        &h.core_wake,
                                        &h.input_per_request,
                                        &h.input_per_token,
                                        &h.output_delay,
                                        &h.output_per_sequence}) {
    CHECK(figure->present());
    CHECK(figure->source.size() > 20);  // says which run, or why this value
    CHECK(figure->value.value() < 0.01);
  }
  std::string text = read_text_file(profile_path("engine_profiles", "vllm-0.24")).value();
  const std::size_t at = text.find("  loop_gap:"), end = text.find("  input_delay:");
  text.erase(at, end - at);
  const auto broken = parse_engine(text, "vllm.yaml");
  REQUIRE_FALSE(broken.ok());
  CHECK(holds(to_string(broken.errors()), "host.loop_gap: the key is missing"));
}

TEST_CASE("another version differs from its neighbour in the lines of its profile") {
  const auto of = [](const char* name) {
    auto engine = load_engine(name);
    REQUIRE(engine.ok());
    return std::move(*engine);
  };
  const EngineProfile newest = of("vllm-0.24"), v23 = of("vllm-0.23"), v18 = of("vllm-0.18"),
                      v12 = of("vllm-0.12");
  CHECK(v23.version == "0.23.0");
  CHECK(v23.v2_architectures.size() == 3);  // vllm/config/vllm.py of 0.23.0
  CHECK(v23.settings.gpu_memory_utilization == newest.settings.gpu_memory_utilization);
  CHECK(v18.v2_architectures.empty());
  CHECK(v18.settings.gpu_memory_utilization == 0.9);  // vllm/config/cache.py of 0.18.0
  CHECK_FALSE(v18.settings.scheduler_reserve_full_isl);
  CHECK(v18.settings.async_scheduling);
  CHECK_FALSE(v12.settings.async_scheduling);         // vllm/config/scheduler.py of 0.12.0
  CHECK(v12.settings.gpu_memory_utilization == 0.9);  // its base's base
  CHECK(v12.host.launch_graph.value == newest.host.launch_graph.value);
  CHECK(of("vllm-0.5-rocm").static_batches);  // its base's
  CHECK_FALSE(v12.static_batches);
}

// flashinfer_utils.py of mid-2025; everything else of `overlap` is the base's.
TEST_CASE("a profile over another replaces the parts of its overlap that it gives") {
  const auto older = load_engine("tensorrt-llm-1.0", ""), newer = load_engine("tensorrt-llm-1.2", "");
  REQUIRE(older.ok());
  REQUIRE(newer.ok());
  CHECK(newer->overlap.launch.on);
  CHECK_FALSE(older->overlap.launch.on);
  CHECK(older->overlap.shared.on == newer->overlap.shared.on);
  CHECK(older->overlap.fused_of.size() == newer->overlap.fused_of.size());
}

TEST_CASE("unknown engines") {
  const auto engine = load_engine("vllm-0.25");
  REQUIRE_FALSE(engine.ok());
  CHECK(holds(engine.errors()[0].message, "vllm-0.24"));
}
