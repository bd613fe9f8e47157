// Sparse attention over a latent: what the cache holds of a token, what attention reads, what the indexer
// adds.
#include <cstdlib>
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

InstanceSpec instance(const std::string& more = "", const std::string& model = "deepseek-v3.2") {
  Read r = read("hardware: h200\nmodel: " + model + "\nengine: vllm-0.24\nparallel: {tp: 8}\n" + more);
  if (!r.errors.empty()) FAIL(to_string(r.errors));
  return std::move(r.spec);
}

OpLine line(const StepPricer& p, const StepShape& shape, const std::string& name) {
  for (const OpLine& op : p.explain(shape).ops) {
    if (op.name == name) return op;
  }
  FAIL("no line " << name);
  return {};
}

StepShape prompt(std::vector<PrefillChunk>& chunks) {
  StepShape shape{};
  shape.prefill = chunks;
  shape.new_requests = shape.running = static_cast<std::int32_t>(chunks.size());
  return shape;
}

// One decode's keys of one layer, out of the operations: 2 · 16 heads · (2 · 512 + 64) a key.
double keys_read(const StepPricer& p, std::int32_t sequences, std::int64_t context) {
  return line(p, decodes(sequences, context), "attention_decode").flops / 61 / (2.0 * 16 * 1088);
}

}  // namespace

TEST_CASE("a token's bytes hold the indexer's key, and an 8-bit latent is packed") {
  // 512 + 64 elements of 16 bits; 128 of 8 bits and a scale.
  CHECK(instance().model.kv_layer_bytes(8) == 1152 + 132);
  // 512 of 8 bits, four scales, 64 of 16 bits: fp8_ds_mla.
  CHECK(instance("kv_cache_dtype: fp8\n").model.kv_layer_bytes(8) == 656 + 132);
  const MemoryPlan wide = plan_memory(instance()).value(),
                   packed = plan_memory(instance("kv_cache_dtype: fp8\n")).value();
  CHECK(wide.block_size == 64);
  CHECK(wide.kv_bytes_per_token.value() == 61 * 1284);
  CHECK(wide.kv_blocks == static_cast<std::int64_t>(wide.kv_available.value() / (1284 * 64)) / 61);
  CHECK(packed.kv_blocks == static_cast<std::int64_t>(packed.kv_available.value() / (788 * 64)) / 61);
  // The 8-bit cache keeps a workspace of five longest contexts in 16 bits: 163,840 · 5 · 1,152 B, where the
  // other keeps the indexer's 40 · 163,840 · 132 B; queries of 8,192 tokens beside the former.
  const double more = 5.0 * 163840 * 1152 + 8192.0 * 16 * 1152 - 40.0 * 163840 * 132;
  CHECK(packed.activation_peak.value() - wide.activation_peak.value() == Approx(more));
}

TEST_CASE("below the number of picks attention reads every token, above it that many") {
  const StepPricer p = pricer(instance());
  CHECK(keys_read(p, 8, 1000) == Approx(8 * 1001));
  CHECK(keys_read(p, 8, 2047) == Approx(8 * 2048));
  CHECK(keys_read(p, 8, 2048) == Approx(8 * 2048));
  CHECK(keys_read(p, 8, 100'000) == Approx(8 * 2048));
  const OpLine short_one = line(p, decodes(8, 4000), "attention_decode");
  CHECK(std::abs(short_one.time_ns - line(p, decodes(8, 128'000), "attention_decode").time_ns) <= 1);
  // The indexer still reads a key of every token: 132 bytes, and 8 for the score.
  const OpLine near = line(p, decodes(8, 10'000), "index_scores"),
               far = line(p, decodes(8, 110'000), "index_scores");
  CHECK((far.bytes - near.bytes) / 61 == Approx(8 * 100'000.0 * 140));
  CHECK(far.time_ns > near.time_ns);
}

TEST_CASE("a prompt's attention grows with its length, its indexer with the square") {
  const StepPricer p = pricer(instance());
  const auto time = [&](std::int32_t tokens, const char* name) {
    std::vector<PrefillChunk> one{{tokens, 0}};
    return static_cast<double>(line(p, prompt(one), name).time_ns);
  };
  // 2,048 · 2,049 / 2 pairs of the first tokens, 2,048 of every further one.
  std::vector<PrefillChunk> one{{8192, 0}};
  CHECK(line(p, prompt(one), "attention_prefill").flops / 61 / (2.0 * 16 * 1088) ==
        Approx(2048.0 * 2049 / 2 + 6144.0 * 2048));
  // 2,048 · 2,049 / 2 + 14,336 · 2,048 keys over 2,048 · 2,049 / 2 + 6,144 · 2,048.
  CHECK(time(16384, "attention_prefill") / time(8192, "attention_prefill") == Approx(2.143).epsilon(0.05));
  CHECK(time(16384, "index_scores") / time(8192, "index_scores") == Approx(4).epsilon(0.1));
  // A chunk behind a long context sees its picks alone.
  std::vector<PrefillChunk> behind{{4096, 100'000}};
  CHECK(line(p, prompt(behind), "attention_prefill").flops / 61 / (2.0 * 16 * 1088) == Approx(4096.0 * 2048));
  // No keys are expanded.
  for (const OpLine& op : p.explain(prompt(one)).ops) CHECK(op.name != "kv_b_proj");
}

// Published, whole modules of vLLM 0.24 on an H200 (dsa_generation_module, dsa_context_module, 128 heads):
// from 65,536 to 131,072 tokens of 128 sequences 299 µs; a prompt of 32,768 beyond two of 16,384: 6.0 ms.
TEST_CASE("what contexts add is what was measured") {
  const StepPricer p = pricer(instance());
  const double more = static_cast<double>(line(p, decodes(128, 131'072), "index_scores").time_ns -
                                          line(p, decodes(128, 65'536), "index_scores").time_ns) /
                      61;
  CHECK(more == Approx(298'900).epsilon(0.1));
  std::vector<PrefillChunk> long_one{{32'768, 0}}, half{{16'384, 0}};
  const double beyond = static_cast<double>(line(p, prompt(long_one), "index_scores").time_ns -
                                            2 * line(p, prompt(half), "index_scores").time_ns) /
                        61;
  CHECK(beyond == Approx(6.0e6).epsilon(0.15));
}

TEST_CASE("the indexer is whole on every rank") {
  const InstanceSpec eight = instance();
  const StepPricer p = pricer(eight);
  const OpLine q = line(p, decodes(8, 100), "index_q_proj");
  CHECK(q.count == 61);
  CHECK(q.flops == Approx(61 * 2.0 * 8 * 64 * 128 * 1536));
  CHECK(instance("", "glm-5").model.sparse.heads == 32);
}

TEST_CASE("where sparse attention is not modelled it is refused") {
  const auto errors = [](const std::string& text) {
    const Read r = read(text);
    REQUIRE_FALSE(r.errors.empty());
    return to_string(r.errors);
  };
  const std::string head = "model: deepseek-v3.2\nparallel: {tp: 8}\n";
  CHECK(errors("hardware: mi300x\nengine: vllm-0.24\n" + head).find("Hopper parts only") !=
        std::string::npos);
  CHECK(errors("hardware: h200\nengine: sglang-0.5\n" + head).find("vllm-0.24") != std::string::npos);
  CHECK(errors("hardware: h200\nengine: tensorrt-llm-1.2\n" + head).find("vllm-0.24") != std::string::npos);
  CHECK(errors("hardware: h200\nengine: vllm-0.24\nspeculation: {method: mtp, tokens: 1}\n" + head)
            .find("sparse attention") != std::string::npos);
  CHECK(errors("hardware: h200\nengine: vllm-0.24\nengine_args: {block_size: 16}\n" + head)
            .find("multiples of 64") != std::string::npos);
}
