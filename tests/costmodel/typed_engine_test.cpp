// SGLang's profile as data: what its tables give (goldens of ../shared/reference/sglang_0_5.md §5), and what
// becomes of each argument.
#include <tuple>

#include "base/files.h"
#include "catch.h"
#include "costmodel/engine_profile.h"
#include "costmodel/hardware.h"
#include "costmodel/memory_plan.h"
#include "costmodel/model_spec.h"
#include "costmodel/padding.h"
#include "costmodel/parallel_plan.h"
#include "costmodel/profile_folder.h"

using namespace orrery;

namespace {

struct Resolved {
  InstanceSpec spec;
  std::string error;
};

Resolved resolve(const std::string& args, const std::string& part = "h200", int tp = 1,
                 const std::string& model = "qwen3-8b", const std::string& engine = "sglang-0.5") {
  Resolved r;
  r.spec.hardware = load_hardware(part).value();
  r.spec.model = load_model(model, "", "", "auto").value();
  r.spec.engine = load_engine(engine).value();
  r.spec.plan.tp = tp;
  YamlDocument document = YamlDocument::parse("engine_args: {" + args + "}", "s.yaml").value();
  resolve_engine(r.spec.engine, r.spec.hardware, r.spec.model, r.spec.plan,
                 document.root().optional("engine_args"), document.root());
  if (!document.errors().empty()) r.error = document.errors()[0].key + ": " + document.errors()[0].message;
  return r;
}

std::int64_t integer(const Resolved& r, const char* name) {
  return r.spec.engine.settings.options.integer(name);
}

}  // namespace

TEST_CASE("§5.1 golden: defaults by device and the static fraction") {
  const Resolved h100 = resolve("", "h100"), h200 = resolve("", "h200");
  CHECK(integer(h100, "chunked_prefill_size") == 8192);
  CHECK(integer(h100, "cuda_graph_max_bs_decode") == 256);
  CHECK(integer(resolve("", "h100", 4), "cuda_graph_max_bs_decode") == 512);
  CHECK(h100.spec.engine.settings.prefill_graph_sizes.size() == 58);
  CHECK(h100.spec.engine.settings.options.number("mem_fraction_static") == Approx(0.830));
  CHECK(h200.spec.engine.settings.options.number("mem_fraction_static") == Approx(0.903));
  const Resolved r9700 = resolve("", "r9700");
  CHECK(integer(r9700, "chunked_prefill_size") == 4096);
  CHECK(integer(r9700, "cuda_graph_max_bs_decode") == 48);
  CHECK(r9700.spec.engine.settings.prefill_graph_sizes.empty());  // HIP: eager
  const Resolved mi300x = resolve("", "mi300x");
  CHECK(integer(mi300x, "chunked_prefill_size") == 16384);
  CHECK(mi300x.spec.engine.settings.options.number("mem_fraction_static") == Approx(0.866).margin(0.001));
  CHECK(integer(resolve("max_running_requests: 100"), "cuda_graph_max_bs_decode") == 100);
}

// model_overrides/qwen3_vl.py of 0.5.23.
TEST_CASE(
    "§2.8 §5.4 Qwen3-VL on a large Hopper part: an interval of prefills, eviction by priority, more graphs") {
  const char* model = "qwen3-vl-8b";
  const Resolved r = resolve("max_running_requests: 400", "h100", 1, model);
  CHECK(r.error.empty());
  CHECK(integer(r, "prefill_decode_interval") == 22);
  CHECK(r.spec.engine.settings.options.text("radix_eviction_policy") == "priority");
  CHECK(integer(r, "cuda_graph_max_bs_decode") == 400);
  CHECK(r.spec.engine.settings.prefill_graph_sizes.empty());  // "multimodal model"
  const Resolved said = resolve(
      "prefill_decode_interval: 0, radix_eviction_policy: lru, max_running_requests: 600", "h100", 1, model);
  CHECK(integer(said, "prefill_decode_interval") == 0);
  CHECK(said.spec.engine.settings.options.text("radix_eviction_policy") == "lru");
  CHECK(integer(said, "cuda_graph_max_bs_decode") == 256);  // above 512 they stay as they are
  for (const Resolved& other : {resolve("", "l40s", 1, model), resolve("", "mi300x", 1, model),
                                resolve("enable_multimodal: false", "h100", 1, model), resolve("", "h100")}) {
    CHECK(integer(other, "prefill_decode_interval") == 0);
    CHECK(other.spec.engine.settings.options.text("radix_eviction_policy") == "lru");
  }
}

// mm_runtime_reservation_gb (mem_cache/kv_cache_configurator.py).
TEST_CASE("§5.2 capacity: a model that takes images leaves memory to what is allocated for them later") {
  const auto available = [](const Resolved& r) { return plan_memory(r.spec).value().kv_available.value(); };
  constexpr double mib = 1024.0 * 1024;
  const char* fraction = "mem_fraction_static: 0.8";
  for (const auto& [model, part, more, reserved] :
       {std::tuple{"qwen2.5-vl-7b", "h100", "", 100.0},
        {"qwen3-vl-8b", "h100", "", 1024.0},
        {"qwen3-vl-8b", "h100", ", max_running_requests: 400", 3072.0},
        {"qwen3-vl-8b", "l40s", "", 100.0}}) {
    CAPTURE(model, part, more);
    const Resolved with = resolve(fraction + std::string(more), part, 1, model);
    const Resolved without =
        resolve(fraction + std::string(", enable_multimodal: false") + more, part, 1, model);
    const MemoryPlan plan = plan_memory(with.spec).value();
    CHECK(plan.kv_available.value() ==
          Approx(plan.requested.value() - plan.weights.value() - reserved * mib));
    CHECK(available(without) == Approx(plan_memory(without.spec).value().requested.value() -
                                       plan_memory(without.spec).value().weights.value()));
  }
}

// get_eviction_strategy (mem_cache/evict_policy.py), handle_cache_compatibility
// (arg_groups/kv_cache_hook.py).
TEST_CASE("§4 the eviction policy's configuration is its own policy's, and tlru needs one") {
  CHECK(resolve("radix_eviction_policy: tlru, radix_eviction_policy_config: {threshold: 4096, "
                "next_prompt_estimate: 512}")
            .error.empty());
  CHECK(resolve("radix_eviction_policy: slru, radix_eviction_policy_config: {protected_threshold: 4}")
            .error.empty());
  for (const char* args : {"radix_eviction_policy: tlru",
                           "radix_eviction_policy: tlru, radix_eviction_policy_config: {threshold: 5, "
                           "next_prompt_estimate: 5}",
                           "radix_eviction_policy: slru, radix_eviction_policy_config: {threshold: 4}",
                           "radix_eviction_policy_config: {protected_threshold: 4}"}) {
    CAPTURE(args);
    CHECK(resolve(args).error.find("does not start") != std::string::npos);
  }
}

TEST_CASE("§5.2 capacity: the fraction of what is free before loading, less the weights") {
  const Resolved r = resolve("");
  const MemoryPlan plan = plan_memory(r.spec).value();
  const double free_before = plan.total.value() - plan.residue.value();
  CHECK(plan.kv_tokens() ==
        static_cast<std::int64_t>((free_before * 0.903 - plan.weights.value()) / (36 * 2 * 8 * 128 * 2)));
  CHECK(plan.max_sequences == 4096);  // 512 · tokens ÷ 40960 is above
  CHECK(plan_memory(resolve("max_running_requests: 77").spec).value().max_sequences == 77);
  CHECK(plan_memory(resolve("max_total_tokens: 100").spec).value().kv_tokens() == 100);
  CHECK(plan_memory(resolve("max_total_tokens: 100").spec).value().max_sequences == 50);
  CHECK(plan_memory(resolve("max_total_tokens: 1000, page_size: 64").spec).value().kv_blocks == 15);
}

TEST_CASE("§5.2, §4 SWA: layers with a window have a pool of their own, 0.8 of the tokens of the others") {
  const auto plan_of = [](const std::string& args) {
    return plan_memory(resolve(args, "h200", 1, "gpt-oss-20b").spec);
  };
  const MemoryPlan usual = plan_of("").value(), one = plan_of("disable_hybrid_swa_memory: true").value();
  // 12 of 24 layers: a token costs 12 + 0.8 · 12 layers instead of 24.
  CHECK(static_cast<double>(usual.kv_tokens()) ==
        Approx(static_cast<double>(one.kv_tokens()) * 24 / (12 + 0.8 * 12)).epsilon(1e-6));
  CHECK(usual.windowed_pool_tokens ==
        static_cast<std::int64_t>(static_cast<double>(usual.kv_tokens()) * 0.8));
  CHECK(usual.groups.window == 128);
  CHECK(one.windowed_pool_tokens == 0);
  CHECK(plan_of("swa_full_tokens_ratio: 0.1").value().kv_tokens() > usual.kv_tokens());
  CHECK(plan_of("max_total_tokens: 1000, swa_full_tokens_ratio: 0.5").value().windowed_pool_tokens == 500);
  CHECK_FALSE(plan_of("max_total_tokens: 1000, swa_full_tokens_ratio: 0.1").ok());  // 100: not a window
}

TEST_CASE("§4 HiCache: twice the device's tokens in host memory unless said, by ratio or gigabytes a rank") {
  const auto plan_of = [](const std::string& args, const std::string& model = "qwen3-8b") {
    return plan_memory(resolve(args, "h200", 1, model).spec);
  };
  const std::string on = "enable_hierarchical_cache: true";
  const MemoryPlan plan = plan_of(on).value();
  CHECK(plan_of("").value().host_blocks == 0);
  CHECK(plan.host_blocks == 2 * plan.kv_blocks);
  CHECK(plan_of(on + ", hicache_ratio: 0.5, page_size: 64").value().host_blocks ==
        plan_of("page_size: 64").value().kv_blocks / 2);
  CHECK(plan_of(on + ", hicache_size: 10").value().host_blocks ==
        static_cast<std::int64_t>(10e9 / (36 * 2 * 8 * 128 * 2)));
  // Windowed layers have a tier of their own there, by the same ratio.
  const MemoryPlan windows = plan_of(on, "gpt-oss-20b").value();
  CHECK(windows.host_blocks == 2 * windows.kv_blocks);
  // Of gigabytes each has a part as of the device's bytes: 12 layers of 2,048 bytes a token of either kind.
  const MemoryPlan sized = plan_of(on + ", hicache_size: 10", "gpt-oss-20b").value();
  const double device = 24576.0 * static_cast<double>(sized.kv_tokens() + sized.windowed_pool_tokens);
  CHECK(sized.host_blocks == Approx(static_cast<double>(sized.kv_blocks) * 10e9 / device).margin(1));
  CHECK(plan_of(on + ", hicache_write_policy: write_back", "gpt-oss-20b").ok());
  CHECK(plan_of(on + ", disable_hybrid_swa_memory: true", "gpt-oss-20b").ok());
}

TEST_CASE("§5.3, §5.4 golden: which graph a step runs in") {
  const auto pad = [](const Resolved& r, std::int32_t decodes, std::int32_t prompt) {
    const GraphPadding padding(r.spec.engine.settings);
    const PrefillChunk chunk{prompt, 0};
    StepShape shape;
    shape.decode_sequences = decodes;
    if (prompt > 0) shape.prefill = std::span(&chunk, 1);
    const PaddedStep step = padding.pad(shape);
    return std::string(to_string(step.mode)) + " " + std::to_string(step.tokens);
  };
  const Resolved h100 = resolve("", "h100");
  CHECK(pad(h100, 33, 0) == "full 40");
  CHECK(pad(h100, 250, 0) == "full 256");
  CHECK(pad(h100, 257, 0) == "none 257");
  CHECK(pad(resolve("", "h100", 4), 257, 0) == "full 272");
  CHECK(pad(h100, 0, 513) == "piecewise 576");
  CHECK(pad(h100, 0, 1025) == "piecewise 1280");
  CHECK(pad(h100, 0, 4097) == "piecewise 4608");
  CHECK(pad(h100, 0, 8193) == "none 8193");
  CHECK(pad(h100, 0, 1) == "none 1");  // bucket 4 is above twice the tokens
  CHECK(pad(h100, 0, 2) == "piecewise 4");
  CHECK(pad(h100, 7, 1) == "piecewise 8");  // mixed: never a decode graph
  CHECK(pad(resolve("disable_cuda_graph: true", "h100"), 4, 0) == "none 4");
  CHECK(pad(resolve("disable_prefill_cuda_graph: true", "h100"), 0, 64) == "none 64");
  CHECK_FALSE(GraphPadding(h100.spec.engine.settings).single_token_is_decode());
}

TEST_CASE("§5.2, §5.3 speculation: 48 requests unless said, graphs of whole decodes at sizes of their own") {
  const auto speculating = [](const std::string& args) {
    Resolved r;
    r.spec.hardware = load_hardware("h100").value();
    r.spec.model = load_model("qwen3-8b", "", "", "auto").value();
    r.spec.engine = load_engine("sglang-0.5").value();
    r.spec.engine.settings.draft_tokens = 3;
    YamlDocument document = YamlDocument::parse("engine_args: {" + args + "}", "s.yaml").value();
    resolve_engine(r.spec.engine, r.spec.hardware, r.spec.model, r.spec.plan,
                   document.root().optional("engine_args"), document.root());
    return r;
  };
  const Resolved usual = speculating("");
  CHECK(plan_memory(usual.spec).value().max_sequences == 48);
  CHECK(plan_memory(speculating("max_running_requests: 70").spec).value().max_sequences == 70);
  const std::vector<std::int64_t>& sizes = usual.spec.engine.settings.cudagraph_sizes;
  CHECK(sizes.front() == 4);
  CHECK(sizes.back() == 4 * 48);
  CHECK(sizes.size() == 8 + 12 + 3);  // 1…8, 10…32 by 2, 40, 44, 48
  // The reserve of memory was reckoned with the limit before.
  CHECK(integer(usual, "cuda_graph_max_bs_decode") == 256);
  CHECK(usual.spec.engine.settings.options.number("mem_fraction_static") == Approx(0.830));
}

TEST_CASE("SGLang 0.5.9 launches prompts kernel by kernel unless told otherwise") {
  // server_args.py of 0.5.9: enable_piecewise_cuda_graph = False; 0.5.10 captures them.
  const auto graphs = [](const std::string& args, const std::string& engine) {
    const Resolved r = resolve(args, "h100", 1, "qwen3-8b", engine);
    CHECK(r.error.empty());
    return r.spec.engine.settings.prefill_graph_sizes.size();
  };
  CHECK(graphs("", "sglang-0.5.9") == 0);
  CHECK(graphs("disable_prefill_cuda_graph: false", "sglang-0.5.9") == graphs("", "sglang-0.5"));
  CHECK(resolve("", "h100", 1, "qwen3-8b", "sglang-0.5.9").spec.engine.settings.cudagraph_sizes ==
        resolve("", "h100").spec.engine.settings.cudagraph_sizes);
}

TEST_CASE("every field of ServerArgs is effective, ignored, fixed, elsewhere or refused") {
  // 543 fields in arg_groups/fields/*.py of the 0.5.23 wheel; radix_eviction_policy_config by its three
  // settings.
  CHECK(load_engine("sglang-0.5").value().arguments.size() == 543 + 2);
}

TEST_CASE("what becomes of SGLang's arguments") {
  const auto error = [](const char* args) { return resolve(args).error; };
  CHECK(error("chunked_prefil_size: 5").find("did you mean \"chunked_prefill_size\"") != std::string::npos);
  CHECK(error("max_num_seqs: 5").find("unknown argument of sglang 0.5.23") != std::string::npos);
  CHECK(error("speculative_algorithm: EAGLE").find("deployment.speculation") != std::string::npos);
  CHECK(error("enable_dp_attention: true").find("data-parallel attention") != std::string::npos);
  CHECK(error("enable_hisparse: true").find("engine_args.enable_hisparse") == 0);
  CHECK(error("enable_hierarchical_cache: true, disable_radix_cache: true")
            .find("expected disable_radix_cache to be one of false") != std::string::npos);
  CHECK(error("hicache_storage_backend: file").find("storage behind host memory") != std::string::npos);
  CHECK(error("enable_lora: true").find("LoRA") != std::string::npos);
  CHECK(error("disaggregation_mode: prefill").find("disaggregation") != std::string::npos);
  CHECK(error("schedule_policy: priority").find("expected one of") != std::string::npos);
  CHECK(error("chunked_prefill_size: 0").find("must be positive") != std::string::npos);
  CHECK(error("context_length: 50000").find("positions") != std::string::npos);
  CHECK(error("enable_priority_scheduling: true, schedule_policy: lof").empty());
  CHECK(error("enable_priority_scheduling: true, schedule_policy: lpm")
            .find("engine_args.enable_priority_scheduling: the engine does not start with schedule_policy: "
                  "lpm") == 0);
  CHECK(integer(resolve("enable_priority_scheduling: true"), "priority_scheduling_preemption_threshold") ==
        10);
  CHECK(resolve("enable_priority_scheduling: true, default_priority_value: 3")
            .spec.engine.ignored_args.empty());
  CHECK(resolve("default_priority_value: 3").spec.engine.ignored_args ==
        std::vector<std::string>{"default_priority_value"});
  CHECK(error("tp_size: 2").find("deployment.parallel.tp") != std::string::npos);
  CHECK(error("tp_size: 1, speculative_algorithm: null, enable_lora: false, log_level: debug").empty());
  CHECK(resolve("log_level: debug").spec.engine.ignored_args == std::vector<std::string>{"log_level"});
  CHECK(resolve("disable_overlap_schedule: true").spec.engine.steps_in_flight == 1);
}

TEST_CASE("a typed profile with a role that no argument has is an error") {
  std::string text = read_text_file(profile_path("engine_profiles", "sglang-0.5")).value();
  const std::string role = "page: page_size";
  text.replace(text.find(role), role.size(), "page: pages_size");
  const auto broken = parse_engine(text, "sglang.yaml");
  REQUIRE_FALSE(broken.ok());
  CHECK(broken.errors()[0].message.find("pages_size") != std::string::npos);
}
