// TensorRT-LLM's cache of states (MambaHybridCacheManager): what it takes, what it asserts, what a step runs.
#include <string>
#include <vector>

#include "catch.h"
#include "costmodel/instance_spec.h"
#include "costmodel/memory_plan.h"
#include "costmodel/step_pricer.h"
#include "priced_steps.h"
#include "read_instance.h"

using namespace orrery;

namespace {

Read resolve(const std::string& arguments, const char* model = "qwen3-next-80b-a3b", const char* more = "") {
  return read(std::string("hardware: h200\nmodel: ") + model +
              "\nengine: tensorrt-llm-1.2\nparallel: {tp: 2}\n" + more + "engine_args: {max_seq_len: 8192, " +
              arguments + "}\n");
}

MemoryPlan plan_of(const std::string& arguments) {
  const Read r = resolve(arguments);
  if (!r.errors.empty()) FAIL(to_string(r.errors));
  return plan_memory(r.spec).value();
}

const std::string off = "kv_cache_config: {enable_block_reuse: false}";

// Of 36 layers on one of two ranks: 3 taps of 4,096 channels, 16 heads of 128 x 128.
constexpr double taps = 36.0 * 3 * 4096 * 2, matrix = 36.0 * 16 * 128 * 128;

}  // namespace

TEST_CASE("max_batch_size states in the model's type stand beside the KV cache of the layers that attend") {
  const MemoryPlan few = plan_of("max_batch_size: 64, " + off), many = plan_of("max_batch_size: 192, " + off);
  CHECK(few.state_bytes.value() == taps + 2 * matrix);
  CHECK(few.states.value() == 64 * (taps + 2 * matrix));
  CHECK(few.kv_bytes_per_token.value() == 12 * 2 * 1 * 256 * 2);
  // 0.9 of what is left: of 128 states more, nine tenths of their bytes go.
  CHECK((few.kv_available - many.kv_available).value() ==
        Approx(0.9 * 128 * few.state_bytes.value() + 0.9 * (many.graphs - few.graphs).value()).epsilon(1e-3));
  CHECK(few.block_size == 32);
  CHECK(few.to_table().find("states of max_batch_size sequences") != std::string::npos);
  const MemoryPlan wide = plan_of(
      "max_batch_size: 64, kv_cache_config: {enable_block_reuse: false, mamba_ssm_cache_dtype: float32}");
  CHECK(wide.states.value() == 64 * (taps + 4 * matrix));
  CHECK(wide.kv_blocks < few.kv_blocks);
  // By default 2,048 requests have a state each, whoever comes.
  const MemoryPlan usual = plan_of(off);
  CHECK(usual.states.value() == 2048 * few.state_bytes.value());
  CHECK(usual.kv_blocks < many.kv_blocks);
}

TEST_CASE("what TensorRT-LLM's cache of states asserts or forgets is refused by name") {
  const auto refused = [](const std::string& arguments, const char* piece,
                          const char* model = "qwen3-next-80b-a3b", const char* more = "") {
    const Read r = resolve(arguments, model, more);
    INFO(to_string(r.errors));
    return to_string(r.errors).find(piece) != std::string::npos;
  };
  CHECK(refused("max_batch_size: 64", "enable_block_reuse: false"));
  CHECK(refused(off, "not a model of TensorRT-LLM 1.2", "qwen3.5-35b-a3b"));
  CHECK(refused(off + ", enable_chunked_prefill: true", "forgets the state"));
  CHECK(refused(off, "cannot go back", "qwen3-next-80b-a3b",
                "speculation: {method: ngram, tokens: 2, acceptance: 0.5, match_rate: 0.5}\n"));
  CHECK(resolve("max_batch_size: 64, enable_chunked_prefill: true, " + off, "nemotron-h-56b").errors.empty());
  const Read plain = resolve("kv_cache_config: {mamba_ssm_cache_dtype: float32}", "qwen3-8b");
  REQUIRE(plain.errors.empty());
  CHECK(plain.spec.engine.ignored_args == std::vector<std::string>{"kv_cache_config.mamba_ssm_cache_dtype"});
  CHECK(refused("kv_cache_config: {mamba_ssm_cache_dtype: int8}", "expected one of auto", "qwen3-8b"));
}

TEST_CASE(
    "a stage keeps the states of its layers, a rank of attention data parallelism whole ones, of "
    "max_batch_size") {
  const auto plan = [](const char* parallel) {
    const Read r =
        read(std::string("hardware: h200\nmodel: qwen3-next-80b-a3b\nengine: tensorrt-llm-1.2\nparallel: ") +
             parallel + "\nengine_args: {max_seq_len: 8192, max_batch_size: 64, " + off + "}\n");
    INFO(to_string(r.errors));
    REQUIRE(r.errors.empty());
    return plan_memory(r.spec).value();
  };
  CHECK(plan("{pp: 2}").states.value() == 64 * (taps + 2 * matrix));  // 18 layers whole, not 36 halves
  CHECK(plan("{dp: 2, ep: 2}").states.value() == 2 * 64 * (taps + 2 * matrix));
}

TEST_CASE("prompts scan copies of states with Triton's kernels, and decodes update them in place") {
  const Read r = resolve("max_batch_size: 64, " + off);
  REQUIRE(r.errors.empty());
  const StepPricer p = pricer(r.spec);
  StepShape prompt{};
  const std::vector<PrefillChunk> chunks{{.new_tokens = 2048, .context = 0}};
  prompt.prefill = chunks;
  prompt.new_requests = prompt.running = 1;
  const auto count = [&](const StepShape& shape, const std::string& name) {
    std::int64_t all = 0;
    for (const OpLine& op : p.explain(shape).ops) all += op.name == name && op.time_ns > 0 ? op.count : 0;
    return all;
  };
  CHECK(count(prompt, "state_scan") == 36);
  CHECK(count(prompt, "state_update") == 0);
  CHECK(count(decodes(16, 1000), "state_update") == 36);
  CHECK(count(decodes(16, 1000), "state_scan") == 0);
}
