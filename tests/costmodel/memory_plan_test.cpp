// What fits, by the engine's accounting; the logged KV capacities of three runs are shown beside the
// prediction and only bound it loosely: no figure was taken from them.
#include "costmodel/memory_plan.h"

#include <array>
#include <cmath>
#include <cstdio>
#include <string>

#include "base/json.h"
#include "catch.h"
#include "costmodel/expanded_context.h"
#include "costmodel/hand_spec.h"
#include "costmodel/instance_spec.h"
#include "costmodel/memory_doubt.h"
#include "costmodel/profile_folder.h"
#include "costmodel/shared_data.h"

using namespace orrery;

namespace {

InstanceSpec instance(const std::string& yaml) {
  YamlDocument document = YamlDocument::parse(yaml, "s.yaml").value();
  Errors errors;
  InstanceSpec spec = read_instance_spec(document.root(), ".", errors);
  document.finish();
  errors.insert(errors.end(), document.errors().begin(), document.errors().end());
  if (!errors.empty()) FAIL(to_string(errors));
  return spec;
}

InstanceSpec h200(const std::string& model, const std::string& more = "") {
  return instance("hardware: h200\nmodel: " + model + "\nengine: vllm-0.24\n" + more);
}

std::string error_of(const InstanceSpec& spec) {
  const auto plan = plan_memory(spec);
  REQUIRE_FALSE(plan.ok());
  CHECK(plan.errors()[0].kind == ErrorKind::infeasible);
  return plan.errors()[0].message;
}

bool holds(const std::string& text, const std::string& piece) {
  return text.find(piece) != std::string::npos;
}

}  // namespace

TEST_CASE("§4 pages: two tensors of block_size tokens, KV heads of a rank, head size, bytes") {
  CHECK(plan_memory(h200("qwen3-8b")).value().kv_bytes_per_token.value() == 65536.0 / 16 * 36);
  CHECK(plan_memory(h200("qwen3-32b", "parallel: {tp: 2}")).value().kv_bytes_per_token.value() ==
        32768.0 / 16 * 64);
  CHECK(plan_memory(h200("qwen3-30b-a3b")).value().kv_bytes_per_token.value() == 32768.0 / 16 * 48);
  // Fewer KV heads than ranks: each rank holds one.
  CHECK(plan_memory(h200("qwen3-30b-a3b", "parallel: {tp: 8}")).value().kv_bytes_per_token.value() ==
        2.0 * 128 * 2 * 48);
  CHECK(plan_memory(h200("qwen3-8b", "kv_cache_dtype: fp8")).value().kv_bytes_per_token.value() ==
        32768.0 / 16 * 36);
}

TEST_CASE("§4 the parts add up, and blocks are whole pages of every layer") {
  for (const char* model : {"qwen3-8b", "qwen3-30b-a3b-fp8", "gpt-oss-20b"}) {
    const InstanceSpec spec = h200(model);
    const MemoryPlan p = plan_memory(spec).value();
    CHECK(p.requested.value() == std::ceil(p.total.value() * 0.92));
    CHECK((p.weights + p.activation_peak + p.graphs + p.residue + p.kv_available).value() ==
          Approx(p.requested.value()));
    const double block = p.kv_bytes_per_token.value() * 16 * static_cast<double>(p.groups.layers) /
                         static_cast<double>(spec.model.layers);
    CHECK(static_cast<double>(p.kv_blocks) * block <= p.kv_available.value());
    CHECK(static_cast<double>(p.kv_blocks + 1) * block > p.kv_available.value());
    CHECK(p.weights.value() == Approx(spec.model.weight_bytes().value()));
  }
}

TEST_CASE("weights are split over ranks, except what every rank needs") {
  const double one = plan_memory(h200("qwen3-8b")).value().weights.value();
  const double two = plan_memory(h200("qwen3-8b", "parallel: {tp: 2}")).value().weights.value();
  CHECK(two > one / 2);
  CHECK(two < one / 2 * 1.001);  // norms only
  // Eight ranks, four KV heads: k_proj and v_proj are held twice over.
  const double eight = plan_memory(h200("qwen3-30b-a3b", "parallel: {tp: 8}")).value().weights.value();
  const double all = plan_memory(h200("qwen3-30b-a3b")).value().weights.value();
  const double kv = 48.0 * 2 * 512 * 2048 * 2,
               replicated = 48.0 * (128 * 2048 + 2 * 2048 + 2 * 128) * 2 + 2048 * 2;
  CHECK(eight == Approx((all - kv - replicated) / 8 + kv / 4 + replicated));
}

// A run of vLLM 0.24 on an H100 logged 151,787 blocks, "GPU KV cache size: 2,283,372 tokens" and "Maximum
// concurrency for 131,072 tokens per request: 17.42x" (reports/cases/h100_vllm_0_24/gpt-oss-20b_mxfp4_tp1).
TEST_CASE(
    "layers with a window share the pool with the others, and capacity is reckoned as the engine does") {
  const auto h100 = [](const std::string& more) {
    return instance("hardware: h100\nmodel: gpt-oss-20b\nengine: vllm-0.24\n" + more);
  };
  const MemoryPlan logged = plan_memory(h100("engine_args: {num_gpu_blocks_override: 151787}")).value();
  CHECK(logged.groups.full == 1);
  CHECK(logged.groups.windowed == 1);
  CHECK(logged.groups.window == 128);
  CHECK(logged.groups.layers == 12);
  CHECK(logged.kv_tokens() == 2'283'372);
  const MemoryPlan planned = plan_memory(h100("")).value();
  CHECK(std::abs(static_cast<double>(planned.kv_blocks) / 151'787 - 1) < 0.02);
  CHECK(h100("").engine.settings.cudagraph_sizes.size() == 83);
  CHECK(h100("").engine.settings.cudagraph_sizes.back() == 1024);
  CHECK(h100("engine_args: {max_cudagraph_capture_size: 512}").engine.settings.cudagraph_sizes.back() == 512);

  const MemoryPlan all = plan_memory(h100("engine_args: {disable_hybrid_kv_cache_manager: true}")).value();
  CHECK(all.groups.simple());
  CHECK(all.groups.layers == 24);
  CHECK(all.kv_blocks == planned.kv_blocks / 2);
  CHECK(all.kv_tokens() < planned.kv_tokens());
  CHECK(holds(all.to_table(), "12 layers have a sliding window and are counted as if they kept every token"));

  // What one sequence needs: 8192 blocks in the one group, a window and a step's tokens in the other.
  const std::string message = error_of(h100("engine_args: {num_gpu_blocks_override: 8000}"));
  CHECK(holds(message, "takes 8713 blocks"));
  CHECK(plan_memory(h100("engine_args: {num_gpu_blocks_override: 8713}")).ok());
  CHECK_FALSE(plan_memory(h100("engine_args: {num_gpu_blocks_override: 8712}")).ok());
  CHECK(holds(message, "max_model_len: " + std::to_string((8000 - 521) * 16) + " would fit"));
}

// A window of 4096 and a step of 8192 tokens: 768 blocks and one, whatever the sequence's length.
TEST_CASE("a model whose layers all have a window holds more sequences, whatever the hybrid manager's flag") {
  const MemoryPlan plan = plan_memory(h200("mistral-7b-v0.1")).value();
  CHECK(plan.groups.full == 0);
  CHECK(plan.groups.windowed == 1);
  CHECK(plan.groups.layers == 32);
  CHECK(plan.kv_bytes_per_token.value() == 2.0 * 32 * 8 * 128 * 2);
  const InstanceSpec spec = h200("mistral-7b-v0.1", "engine_args: {max_num_batched_tokens: 8192}");
  CHECK(plan.groups.blocks_of_sequence(32768, spec.engine.settings) == (4095 + 8192 + 15) / 16 + 1);
  const MemoryPlan same =
      plan_memory(h200("mistral-7b-v0.1", "engine_args: {disable_hybrid_kv_cache_manager: true}")).value();
  CHECK(same.groups.windowed == 1);
  CHECK(same.kv_tokens() == plan.kv_tokens());
}

TEST_CASE("§2.7 layers are spread over groups of the rarer kind's number, or of the commoner's when near") {
  const auto groups = [](std::int64_t windowed, std::int64_t full) {
    ModelSpec model;
    model.layers = windowed + full;
    if (windowed > 0) model.layer_kinds.push_back({.count = windowed, .sliding_window = 1024, .weights = {}});
    if (full > 0) model.layer_kinds.push_back({.count = full, .weights = {}});
    EngineProfile engine;
    engine.engine = "vllm";
    const KvCacheGroups g = kv_cache_groups(model, engine);
    return std::array<std::int64_t, 3>{g.full, g.windowed, g.layers};
  };
  using Three = std::array<std::int64_t, 3>;
  CHECK(groups(0, 36) == Three{1, 0, 36});
  CHECK(groups(32, 0) == Three{0, 1, 32});   // Mistral 7B v0.1
  CHECK(groups(21, 21) == Three{1, 1, 21});  // Gemma 2 9B
  CHECK(groups(52, 10) == Three{1, 6, 10});  // Gemma 3 27B: the last group is padded
  CHECK(groups(12, 13) == Three{1, 1, 13});  // gpt-oss-20b with an EAGLE head (the engine's own example)
  CHECK(groups(3, 2) == Three{1, 2, 2});     // 1.5 times as many is not less
}

TEST_CASE("§4 settings move the KV cache the right way") {
  const auto blocks = [](const std::string& args) {
    return plan_memory(h200("qwen3-8b", "engine_args: {" + args + "}")).value().kv_blocks;
  };
  const std::int64_t base = blocks("");
  CHECK(blocks("gpu_memory_utilization: 0.8") < base);
  CHECK(blocks("max_num_seqs: 256") > base);              // fewer logits while profiling
  CHECK(blocks("max_num_batched_tokens: 32768") < base);  // wider activations
  CHECK(blocks("block_size: 32") <= base / 2);
  const MemoryPlan over =
      plan_memory(h200("qwen3-8b", "engine_args: {num_gpu_blocks_override: 3000}")).value();
  CHECK(over.kv_blocks == 3000);
  CHECK(over.blocks_overridden);
  CHECK(over.kv_available.value() > 1e11);  // still says what would have been
  CHECK(holds(over.to_table(), "overridden"));
  // 1 GiB a page set of 2,359,296 bytes.
  CHECK(blocks("kv_cache_memory_bytes: 107374182400") == 107374182400 / 65536 / 36);
}

TEST_CASE("§4 V1 subtracts graphs on NVIDIA parts, V2 does not") {
  CHECK(plan_memory(h200("qwen3-8b")).value().graphs.value() == 0);
  CHECK(plan_memory(h200("qwen3-30b-a3b")).value().graphs.value() > 0);
  CHECK(plan_memory(h200("qwen3-30b-a3b", "engine_args: {enforce_eager: true}")).value().graphs.value() == 0);
  CHECK(plan_memory(instance("hardware: mi300x\nmodel: qwen3-30b-a3b\nengine: vllm-0.24\n"))
            .value()
            .graphs.value() == 0);
}

TEST_CASE("weights that do not fit: by how much, and what would") {
  const std::string message =
      error_of(instance("hardware: l40s\nmodel: llama-3.1-70b\nengine: vllm-0.24\nparallel: {tp: 2}\n"));
  CHECK(holds(message, "does not fit"));
  CHECK(holds(message, "too much"));
  CHECK(holds(message, "parallel.tp: 4 would fit"));
  CHECK(plan_memory(instance("hardware: l40s\nmodel: llama-3.1-70b\nengine: vllm-0.24\nparallel: {tp: "
                             "4}\nengine_args: {max_model_len: 4096}\n"))
            .ok());
}

TEST_CASE("§4 a KV cache below one longest sequence: the length that would fit does") {
  const std::string base = "hardware: l40s\nmodel: qwen3-14b\nengine: vllm-0.24\n";
  InstanceSpec spec = instance(base + "engine_args: {gpu_memory_utilization: 0.7}\n");
  const std::string message = error_of(spec);
  const std::string mark = "engine_args.max_model_len: ";
  const std::size_t at = message.find(mark);
  REQUIRE(at != std::string::npos);
  spec.engine.settings.max_model_len = std::stoll(message.substr(at + mark.size()));
  CHECK(plan_memory(spec).ok());
  spec.engine.settings.max_model_len += 1;
  CHECK_FALSE(plan_memory(spec).ok());
  CHECK(holds(error_of(h200("qwen3-8b", "engine_args: {num_gpu_blocks_override: 10}")),
              "num_gpu_blocks_override"));
}

TEST_CASE("§4 KV blocks beside those that vLLM 0.24 logged on an H200") {
  if (!has_shared("truth/qwen3-8b_bf16_tp1/engine.json")) return;
  struct Run {
    const char *folder, *model, *more;
  };
  for (const Run& run :
       {Run{"qwen3-8b_bf16_tp1", "qwen3-8b", ""}, Run{"qwen3-30b-a3b_fp8_tp1", "qwen3-30b-a3b-fp8", ""},
        Run{"qwen3-32b_bf16_tp2", "qwen3-32b", "parallel: {tp: 2}"}}) {
    const Json log = load_json(shared_folder() + "/truth/" + run.folder + "/engine.json").value();
    const InstanceSpec spec = h200(run.model, run.more);
    const MemoryPlan p = plan_memory(spec).value();
    const double logged = log["num_gpu_blocks"].get<double>();
    const double gib = 1024.0 * 1024 * 1024, load = std::stod(log["model_load_gib"][0].get<std::string>());
    const double error = static_cast<double>(p.kv_blocks) / logged - 1;
    std::printf("%s: %lld blocks, logged %.0f (%+.2f %%); weights %.2f GiB, logged %.2f\n", run.folder,
                static_cast<long long>(p.kv_blocks), logged, 100 * error, p.weights.value() / gib, load);
    CHECK(std::abs(error) < 0.02);
    CHECK(p.weights.value() / gib == Approx(load).epsilon(0.005));
    // What the engine decided without measuring anything must be equal.
    CHECK(spec.engine.settings.max_num_batched_tokens == log["max_num_batched_tokens"].get<std::int64_t>());
    CHECK(spec.engine.settings.max_num_seqs == log["max_num_seqs"].get<std::int64_t>());
    CHECK(spec.engine.settings.cudagraph_sizes == log["cudagraph_sizes"].get<std::vector<std::int64_t>>());
    CHECK(spec.engine.settings.max_model_len == log["max_model_len"].get<std::int64_t>());
  }
}

// mla_attention.py of vLLM 0.24: `determine_chunked_prefill_workspace_size` (eight requests of full length,
// at least four blocks a request, at most 65,536 tokens, at least a block a request), each token's keys and
// values of every head of the GPU (128 + 128), beside a dummy step's queries (128 + 64), outputs and stream.
TEST_CASE("vLLM makes room for a piece of expanded context of every head on the GPU") {
  const double beside = 8192 * (2 * 2048 + 16 * (128 + 64 + 128));
  CHECK(expanded_context(h200("deepseek-v2-lite")) == 65536.0 * 16 * 256 + beside);
  CHECK(expanded_context(h200("deepseek-v2-lite", "engine_args: {max_model_len: 4096}\n")) ==
        65536.0 * 16 * 256 + beside);  // 4 · 1024 requests · 16
  CHECK(
      expanded_context(h200("deepseek-v2-lite", "engine_args: {max_model_len: 4096, max_num_seqs: 16}\n")) ==
      32768.0 * 16 * 256 + beside);
  CHECK(expanded_context(h200("qwen3-8b")) == 0);
  CHECK(expanded_context(instance("hardware: h200\nmodel: deepseek-v2-lite\nengine: sglang-0.5\n")) == 0);
  // With all of DeepSeek-V3's heads on a GPU it is the most of a step, with a rank's sixteen it is not.
  const auto activations = [](const std::string& plan) {
    const std::string shorter = "engine_args: {max_model_len: 32768}\n";  // beside split sums of 128 heads
    return plan_memory(h200("deepseek-v3", plan + shorter)).value().activation_peak.value();
  };
  CHECK(activations("parallel: {tp: 1, dp: 8, ep: 8}\n") > activations("parallel: {tp: 8}\n") + 3.0e9);
}

TEST_CASE("a plan says how sure it is: one deviation of its items, ends as many of them to either side") {
  const InstanceSpec spec = h200("qwen3-8b");
  const MemoryPlan plan = plan_memory(spec).value();
  const MemoryError& e = spec.engine.memory_error;
  const double activations = e.activations.value * plan.activation_peak.value(),
               graphs = e.graphs.value * plan.graphs.value(), fixed = e.fixed.value.value();
  CHECK(plan.kv_deviation.value() ==
        Approx(std::sqrt(activations * activations + graphs * graphs + fixed * fixed)));
  const double block = plan.kv_available.value() / static_cast<double>(plan.kv_blocks);
  const KvInterval one = kv_interval(plan, 1), two = kv_interval(plan, 2);
  CHECK(static_cast<double>(plan.kv_blocks - one.low) ==
        Approx(plan.kv_deviation.value() / block).margin(1.01));
  CHECK(static_cast<double>(one.high - plan.kv_blocks) ==
        Approx(plan.kv_deviation.value() / block).margin(1.01));
  CHECK(two.low < one.low);
  CHECK(two.high > one.high);
  CHECK(kv_interval(plan, 1e9).low == 0);
  CHECK(holds(plan.to_table(2),
              "90 % interval: " + std::to_string(two.low) + " to " + std::to_string(two.high) + " blocks"));
  CHECK_FALSE(holds(plan.to_table(), "90 % interval"));
  // TensorRT-LLM takes nine tenths of what is left, and of what that is off by.
  const InstanceSpec trt = instance("hardware: h200\nmodel: qwen3-8b\nengine: tensorrt-llm-1.2\n");
  const InstanceSpec half = instance(
      "hardware: h200\nmodel: qwen3-8b\nengine: tensorrt-llm-1.2\n"
      "engine_args: {kv_cache_config: {free_gpu_memory_fraction: 0.45}}\n");
  CHECK(plan_memory(half).value().kv_deviation.value() ==
        Approx(plan_memory(trt).value().kv_deviation.value() / 2));
}

TEST_CASE("blocks that were given are not in doubt") {
  for (const char* const given : {"engine_args: {num_gpu_blocks_override: 5000}\n",
                                  "engine_args: {kv_cache_memory_bytes: 30000000000}\n"}) {
    const MemoryPlan plan = plan_memory(h200("qwen3-8b", given)).value();
    CHECK(plan.kv_deviation.value() == 0);
    CHECK(kv_interval(plan, 3).low == plan.kv_blocks);
    CHECK(kv_interval(plan, 3).high == plan.kv_blocks);
  }
}

TEST_CASE("every shipped engine says how sure its memory plan is") {
  for (const std::string& name : profile_names("engine_profiles")) {
    INFO(name);
    const auto engine = load_engine(name, ".");
    REQUIRE(engine.ok());
    CHECK(engine->memory_error.present());
  }
}
