// TensorRT-LLM as data: defaults, nested arguments, captured sizes, memory. Rules cited by section of
// ../shared/reference/tensorrt_llm_1_2.md.
#include <string>

#include "base/files.h"
#include "catch.h"
#include "costmodel/host_block.h"
#include "costmodel/instance_spec.h"
#include "costmodel/memory_plan.h"
#include "costmodel/padding.h"

using namespace orrery;

namespace {

struct Resolved {
  InstanceSpec spec;
  std::string errors;
};

Resolved resolve(const std::string& args, const std::string& more = "hardware: h200",
                 const std::string& model = "qwen3-8b") {
  const std::string yaml =
      more + "\nmodel: " + model + "\nengine: tensorrt-llm-1.2\nengine_args: {" + args + "}\n";
  YamlDocument document = YamlDocument::parse(yaml, "s.yaml").value();
  Errors errors;
  Resolved r;
  r.spec = read_instance_spec(document.root(), ".", errors);
  document.finish();
  errors.insert(errors.end(), document.errors().begin(), document.errors().end());
  r.errors = errors.empty() ? "" : to_string(errors);
  return r;
}

SchedulerSettings settings(const std::string& args) {
  const Resolved r = resolve(args);
  INFO(r.errors);
  REQUIRE(r.errors.empty());
  return r.spec.engine.settings;
}

std::string error_of(const std::string& args, const std::string& more = "hardware: h200") {
  return resolve(args, more).errors;
}

bool holds(const std::string& text, const std::string& piece) {
  return text.find(piece) != std::string::npos;
}

// "full 48": the graph of a step of decodes and, where `prompt` is above 0, one prompt of so many tokens.
std::string padded_as(const std::string& args, std::int32_t decodes, std::int32_t prompt) {
  const GraphPadding padding(settings(args));
  const PrefillChunk chunk{prompt, 0};
  StepShape shape;
  shape.decode_sequences = decodes;
  if (prompt > 0) shape.prefill = {&chunk, 1};
  const PaddedStep step = padding.pad(shape);
  return std::string(to_string(step.mode)) + " " + std::to_string(step.tokens);
}

}  // namespace

TEST_CASE("§11 the defaults of TensorRT-LLM 1.2") {
  const SchedulerSettings s = settings("");
  CHECK(s.max_num_seqs == 2048);
  CHECK(s.max_num_batched_tokens == 8192);
  CHECK(s.max_model_len == 40960);
  CHECK(s.block_size == 32);
  CHECK(s.enable_prefix_caching);
  CHECK_FALSE(s.enable_chunked_prefill);
  CHECK(s.async_scheduling);
  CHECK(s.tensorrt_llm.free_gpu_memory_fraction == 0.9);
  CHECK_FALSE(s.tensorrt_llm.max_utilization);
  CHECK_FALSE(s.tensorrt_llm.equal_progress);
  CHECK(s.tensorrt_llm.enable_partial_reuse);
  CHECK(resolve("").spec.engine.steps_in_flight == 2);
  CHECK(resolve("disable_overlap_scheduler: true").spec.engine.steps_in_flight == 1);
}

TEST_CASE("arguments nest as the engine nests them") {
  const SchedulerSettings s = settings(
      "max_batch_size: 64, enable_chunked_prefill: true, kv_cache_config: {tokens_per_block: 64, "
      "enable_block_reuse: false, max_tokens: 100000}, scheduler_config: {capacity_scheduler_policy: "
      "MAX_UTILIZATION, context_chunking_policy: EQUAL_PROGRESS}, cuda_graph_config: {enable_padding: true}");
  CHECK(s.max_num_seqs == 64);
  CHECK(s.block_size == 64);
  CHECK_FALSE(s.enable_prefix_caching);
  CHECK(s.tensorrt_llm.max_tokens == 100000);
  CHECK(s.tensorrt_llm.max_utilization);
  CHECK(s.tensorrt_llm.equal_progress);
  CHECK(s.cudagraph_sizes.back() == 64);
}

TEST_CASE("what is unknown, impossible or not modelled is an error where it stands") {
  CHECK(holds(error_of("max_num_batched_tokens: 100"), "s.yaml:4"));
  CHECK(holds(error_of("max_num_batched_tokens: 100"), "unknown argument of tensorrt-llm 1.2"));
  CHECK(holds(error_of("kv_cache_config: {tokens_per_blok: 64}"), "kv_cache_config.tokens_per_block"));
  CHECK(holds(error_of("kv_cache_config: 3"), "a map"));
  CHECK(holds(error_of("kv_cache_config: {tokens_per_block: 48}"), "power of two"));
  CHECK(holds(error_of("scheduler_config: {capacity_scheduler_policy: MAX_REQUESTS}"), "STATIC_BATCH"));
  CHECK(holds(error_of("enable_attention_dp: true"), "deployment.parallel.dp"));
  CHECK(holds(error_of("speculative_config: {decoding_type: MTP}"), "deployment.speculation"));
  CHECK(holds(error_of("kv_connector_config: {connector: x}"), "a connector"));
  CHECK(holds(error_of("max_beam_width: 2"), "beam search"));
  CHECK(holds(error_of("enable_lora: true"), "LoRA"));
  CHECK(holds(error_of("max_seq_len: 99999999"), "positions"));
  CHECK(holds(error_of("enable_chunked_prefill: true, max_num_tokens: 16"), "tokens_per_block"));
  CHECK(holds(error_of("cuda_graph_config: {batch_sizes: [8, 4], max_batch_size: 16}"), "largest"));
  CHECK(holds(error_of("", "hardware: mi300x"), "NVIDIA"));
  CHECK(error_of("enable_attention_dp: false, tensor_parallel_size: 1, print_iter_log: true").empty());
}

TEST_CASE("§5 graphs: exact sizes without padding, multiples of eight with it, powers of two above") {
  const auto sizes = settings("").cudagraph_sizes;
  CHECK(sizes.size() == 34);
  CHECK(sizes[30] == 31);
  CHECK(sizes.back() == 128);
  const auto padded =
      settings("cuda_graph_config: {enable_padding: true, max_batch_size: 1000}").cudagraph_sizes;
  CHECK(std::vector<std::int64_t>(padded.begin(), padded.begin() + 5) ==
        std::vector<std::int64_t>{1, 2, 4, 8, 16});
  CHECK(std::vector<std::int64_t>(padded.end() - 4, padded.end()) ==
        std::vector<std::int64_t>{128, 256, 512, 1000});
  CHECK(settings("cuda_graph_config: null").cudagraph_sizes.empty());
  CHECK(settings("max_batch_size: 40, cuda_graph_config: {batch_sizes: [64, 8]}").cudagraph_sizes ==
        std::vector<std::int64_t>{8});
}

TEST_CASE("§5 a context row makes a step eager; unmatched decodes are eager unless padded") {
  const std::string padded = "cuda_graph_config: {enable_padding: true, max_batch_size: 512}";
  CHECK(padded_as("", 31, 0) == "full 31");
  CHECK(padded_as("", 40, 0) == "none 40");
  CHECK(padded_as("", 129, 0) == "none 129");
  CHECK(padded_as(padded, 40, 0) == "full 40");
  CHECK(padded_as(padded, 41, 0) == "full 48");
  CHECK(padded_as(padded, 129, 0) == "full 256");
  CHECK(padded_as(padded, 513, 0) == "none 513");
  CHECK(padded_as(padded, 7, 1) == "none 8");  // a tail of one token is a context row all the same
}

// `_get_padding_params` of model_engine.py; sizes that nobody gave are the decodes'.
TEST_CASE("§5 piecewise graphs: steps with prompts are padded to the next captured number of tokens") {
  const auto mode = [](const std::string& more, std::int32_t decodes, std::int32_t prompt) {
    return padded_as("torch_compile_config: {enable_piecewise_cuda_graph: true" + more, decodes, prompt);
  };
  const std::string sizes = ", capture_num_tokens: [4096, 256, 16384]}";
  CHECK(mode(sizes, 0, 1) == "piecewise 256");  // however much wider, whatever enable_padding says
  CHECK(mode(sizes, 7, 300) == "piecewise 4096");
  CHECK(mode(sizes, 0, 4097) == "none 4097");  // 16,384 are more than max_num_tokens
  CHECK(mode(sizes, 40, 0) == "none 40");      // decodes have their own graphs
  CHECK(mode(sizes, 31, 0) == "full 31");
  CHECK(mode("}", 0, 100) == "piecewise 128");
  CHECK(mode("}", 0, 129) == "none 129");
  CHECK(mode("}, cuda_graph_config: null", 0, 100) == "none 100");
  CHECK(mode(sizes + ", cuda_graph_config: null", 0, 100) == "piecewise 256");  // sizes of their own
  CHECK(mode(sizes + ", cuda_graph_config: null", 8, 0) == "none 8");
  CHECK(settings("torch_compile_config: {enable_fullgraph: false}").prefill_graph_sizes.empty());
  CHECK(settings("torch_compile_config: null").prefill_graph_sizes.empty());
  CHECK(holds(error_of("torch_compile_config: {enable_inductor: true}"), "inductor"));
  CHECK(holds(error_of("torch_compile_config: 3"), "a map"));
}

TEST_CASE("§1.4 §5 what the engine takes without effect is said") {
  using Names = std::vector<std::string>;
  const auto ignored = [](const std::string& args) { return resolve(args).spec.engine.ignored_args; };
  CHECK(ignored("batch_wait_timeout_iters: 8") == Names{"batch_wait_timeout_iters"});
  CHECK(ignored("batch_wait_timeout_iters: 0, batch_wait_max_tokens_ratio: 0.5") ==
        Names{"batch_wait_max_tokens_ratio"});
  CHECK(ignored("batch_wait_timeout_iters: 8, batch_wait_max_tokens_ratio: 0.5").empty());
  CHECK(ignored("torch_compile_config: {capture_num_tokens: [64]}") ==
        Names{"torch_compile_config.capture_num_tokens"});
  CHECK(ignored("cuda_graph_config: null, torch_compile_config: {enable_piecewise_cuda_graph: true}") ==
        Names{"torch_compile_config.enable_piecewise_cuda_graph"});
}

// Any rank with prompts: all are padded to what holds the largest batch, or nobody.
TEST_CASE("§5 piecewise graphs of attention ranks: one size for all") {
  const Resolved r =
      resolve("torch_compile_config: {enable_piecewise_cuda_graph: true, capture_num_tokens: [512, 1024]}",
              "hardware: h200\nparallel: {dp: 2, ep: 2}", "qwen3-30b-a3b");
  INFO(r.errors);
  REQUIRE(r.errors.empty());
  const GraphPadding padding(r.spec.engine.settings);
  const PrefillChunk chunk{600, 0}, longer{1100, 0};
  std::vector<StepShape> ranks(2);
  ranks[0].decode_sequences = 5;
  ranks[1].prefill = {&chunk, 1};
  const JointStep step = padding.join(ranks);
  CHECK(step.mode == GraphMode::piecewise);
  CHECK(step.rank_tokens == 1024);
  CHECK(step.gathered == 2048);
  ranks[1].prefill = {&longer, 1};
  CHECK(padding.join(ranks).mode == GraphMode::none);
  CHECK(padding.join(ranks).gathered == 1105);
}

TEST_CASE("§4.6 the KV cache gets a fraction of what is left, in whole blocks, and max_tokens caps it") {
  const auto plan = [](const std::string& args) { return plan_memory(resolve(args).spec).value(); };
  const MemoryPlan whole = plan("kv_cache_config: {free_gpu_memory_fraction: 1.0}");
  const MemoryPlan p = plan("");
  const double left = whole.kv_available.value();
  CHECK(p.kv_available.value() == Approx(0.9 * left));
  CHECK(left == Approx(p.total.value() - p.weights.value() - p.activation_peak.value() - p.graphs.value() -
                       p.residue.value()));
  CHECK(p.kv_blocks == static_cast<std::int64_t>(0.9 * left / 147456) / 32 + 1);
  CHECK(plan("kv_cache_config: {max_tokens: 50001}").kv_blocks == 1563);  // 1562.5: rounded up
  CHECK(plan("kv_cache_config: {max_tokens: 99999999}").kv_blocks == p.kv_blocks);
  CHECK(plan("cuda_graph_config: null").kv_blocks > p.kv_blocks);
  const auto small = plan_memory(resolve("kv_cache_config: {max_tokens: 1000}").spec);
  REQUIRE_FALSE(small.ok());
  CHECK(holds(small.errors()[0].message, "max_seq_len"));
}

TEST_CASE("no figure of the profile claims to be measured on TensorRT-LLM") {
  const EngineProfile e = load_engine("tensorrt-llm-1.2").value();
  CHECK(e.host.schedule_base.kind == FigureKind::assumed);
  CHECK(e.host.launch_graph.kind == FigureKind::assumed);
  CHECK(holds(e.host.schedule_base.source, "no measurement of TensorRT-LLM"));
  CHECK(e.interval_host_error > load_engine("vllm-0.24").value().interval_host_error);
}

TEST_CASE("§4.5 host_cache_size is each rank's own; without onboarding there is no tier") {
  const auto blocks = [](const std::string& args, const std::string& more) {
    const Resolved r = resolve("max_seq_len: 4096, " + args, more);
    INFO(r.errors);
    REQUIRE(r.errors.empty());
    const auto plan = plan_memory(r.spec);
    REQUIRE(plan.ok());
    return plan.value().host_blocks;
  };
  const std::string gib = "kv_cache_config: {host_cache_size: 1073741824}";
  // qwen3-8b keeps 144 KiB a token; 32 tokens are 4.5 MiB, and half of that on each of two ranks.
  CHECK(blocks(gib, "hardware: h200") == 227);
  CHECK(blocks(gib, "hardware: h200\nparallel: {tp: 2}") == 455);
  CHECK(blocks("kv_cache_config: {host_cache_size: 1073741824, onboard_blocks: false}", "hardware: h200") ==
        0);
  const Resolved small = resolve("kv_cache_config: {host_cache_size: 4000000}");
  REQUIRE(small.errors.empty());
  CHECK(holds(to_string(plan_memory(small.spec).errors()), "not even one KV block"));
}

TEST_CASE("§4.6 layers with a window get half of the memory, which for gpt-oss is as many tokens as before") {
  const auto read = [](const std::string& args) {
    return resolve("max_seq_len: 32768, kv_cache_config: {" + args + "}", "hardware: h200", "gpt-oss-20b");
  };
  const Resolved plain = read("enable_block_reuse: false"),
                 split = read("enable_block_reuse: false, max_attention_window: [128, 32768]");
  INFO(plain.errors << split.errors);
  REQUIRE(plain.errors.empty());
  REQUIRE(split.errors.empty());
  CHECK(split.spec.engine.settings.tensorrt_llm.window == 128);
  const MemoryPlan one = plan_memory(plain.spec).value(), two = plan_memory(split.spec).value();
  CHECK(one.windowed_blocks == 0);
  CHECK(two.kv_blocks == one.kv_blocks);
  CHECK(two.windowed_blocks == one.kv_blocks);
  CHECK(holds(one.to_table(), "kept every token"));
  CHECK_FALSE(holds(two.to_table(), "kept every token"));
  // A list of the whole length alone says nothing new; longer than max_seq_len is that.
  CHECK(read("max_attention_window: [131072]").spec.engine.settings.tensorrt_llm.window == 0);
  // With reuse both pools have a tree, and half of host memory each: 12 layers of 2,048 bytes a token are
  // 786,432 a block, of which 512 MiB hold 682.
  const Resolved reused = read("max_attention_window: [128, 32768]");
  CHECK(reused.errors.empty());
  CHECK(plan_memory(reused.spec).value().windowed_blocks == one.kv_blocks);
  const Resolved tiered = read("max_attention_window: [128, 32768], host_cache_size: 1073741824");
  CHECK(tiered.errors.empty());
  const MemoryPlan tiers = plan_memory(tiered.spec).value();
  CHECK(tiers.host_blocks == 682);
  CHECK(tiers.windowed_host_blocks == 682);
  CHECK(host_block_bytes(tiered.spec, tiers).value() == 786432);
  const Resolved none = read("max_attention_window: [128, 32768], host_cache_size: 1000000");
  CHECK(
      holds(to_string(plan_memory(none.spec).errors()), "not even one KV block of the layers with a window"));
  for (const char* list : {"[64, 32768]", "[32768, 128]", "[128]", "[128, 128, 32768]"})
    CHECK(holds(read("enable_block_reuse: false, max_attention_window: " + std::string(list)).errors,
                "less than the model's layers see: expected [128, 32768]"));
  CHECK(holds(read("enable_block_reuse: false, max_attention_window: [128, 32768, 32768, 32768]").errors,
              "beside such"));
  CHECK(
      holds(read("enable_block_reuse: false, max_attention_window: [128, 256]").errors, "two window sizes"));
  CHECK(
      holds(error_of("kv_cache_config: {max_attention_window: [512, 40960]}"), "has no layer with a window"));
}

// Gemma3VLM of modeling_gemma3vl.py: FlashInfer with masks, without reuse and chunks.
TEST_CASE("Gemma 3's images, with attn_backend: FLASHINFER") {
  const auto gemma = [](const std::string& args) {
    return resolve(args, "hardware: h200", "gemma-3-12b-it");
  };
  const Resolved images = gemma("attn_backend: FLASHINFER"), text = gemma("");
  REQUIRE(images.errors.empty());
  CHECK(images.spec.engine.settings.encoder.compute_budget > 0);
  CHECK(text.spec.engine.settings.encoder.compute_budget == 0);
  CHECK_FALSE(images.spec.engine.settings.enable_prefix_caching);
  CHECK(text.spec.engine.settings.enable_prefix_caching);
  CHECK(plan_memory(images.spec).value().encoder == plan_memory(text.spec).value().encoder);
  CHECK(holds(gemma("attn_backend: FLASHINFER, enable_chunked_prefill: true").errors, "whole prompts"));
  CHECK(holds(error_of("attn_backend: FLASHINFER"), "expected TRTLLM"));
  CHECK(resolve("attn_backend: TRTLLM").errors.empty());
  CHECK(gemma("attn_backend: FLASHINFER, kv_cache_config: {enable_block_reuse: true}")
            .spec.engine.ignored_args == std::vector<std::string>{"kv_cache_config.enable_block_reuse"});
}

TEST_CASE("§9 num_postprocess_workers detokenise in processes of their own") {
  const auto front_end = [](const std::string& args) { return *resolve(args).spec.engine.front_end; };
  CHECK_FALSE(front_end("").detokenizer_apart);
  CHECK_FALSE(front_end("num_postprocess_workers: 0").detokenizer_apart);
  CHECK(front_end("num_postprocess_workers: 4").detokenizer_apart);
  CHECK(front_end("num_postprocess_workers: 4").detokenizers == 4);
}
