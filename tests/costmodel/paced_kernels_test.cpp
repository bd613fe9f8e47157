// Kernels of vLLM 0.24 around latent attention and FP8 blocks, beside what profiles on an H200 show
// (reports/cases/h200_vllm_0_24_features, further_mtp.tar.xz; copied by hand, µs a layer).
#include "catch.h"
#include "costmodel/memory_plan.h"
#include "costmodel/priced_steps.h"
#include "costmodel/read_instance.h"

using namespace orrery;

namespace {

const std::string cases = std::string(ORRERY_SOURCE_DIR) + "/reports/cases/h200_vllm_0_24_features/";
const std::string short_v3 = cases + "deepseek-v3-5l_fp8_mtp3/config.json";

InstanceSpec spec(const std::string& model, const std::string& more = "",
                  const std::string& engine = "vllm-0.24") {
  Read r = read("hardware: h200\nmodel: " + model + "\nengine: " + engine + "\n" + more);
  if (!r.errors.empty()) FAIL(to_string(r.errors));
  return r.spec;
}

const std::string mtp1 = "speculation: {method: mtp, tokens: 1, acceptance: [0.75]}\n",
                  mtp3 = "speculation: {method: mtp, tokens: 3, acceptance: [0.75, 0.67, 0.6]}\n";

double line_us(const StepPricer& pricer, const StepShape& shape, const std::string& name) {
  for (const OpLine& line : pricer.explain(shape).ops) {
    if (line.name == name) return static_cast<double>(line.time_ns) / static_cast<double>(line.count) / 1e3;
  }
  FAIL("no line " << name);
  return 0;
}

double prompt_us(const StepPricer& pricer, std::int32_t tokens, const std::string& name) {
  const std::vector<PrefillChunk> chunk{{tokens, 0}};
  StepShape shape{};
  shape.prefill = chunk;
  return line_us(pricer, shape, name);
}

StepShape verified(std::int32_t sequences, std::int64_t context, std::int32_t drafts) {
  StepShape shape = decodes(sequences, context);
  shape.draft_tokens = sequences * drafts;
  return shape;
}

}  // namespace

TEST_CASE("rotary embedding, SiLU in blocks and copies of expanded keys take what profiles show") {
  const StepPricer v3 = pricer(spec(short_v3, mtp1)), lite = pricer(spec("deepseek-v2-lite"));
  CHECK(prompt_us(v3, 1024, "rotary") == Approx(68.2).epsilon(0.06));
  CHECK(prompt_us(v3, 4096, "rotary") == Approx(263).epsilon(0.06));
  CHECK(prompt_us(lite, 8192, "rotary") == Approx(71).epsilon(0.06));
  CHECK(prompt_us(v3, 1024, "silu_mul") == Approx(114.5).epsilon(0.06));
  CHECK(prompt_us(v3, 4096, "silu_mul") == Approx(445).epsilon(0.06));
  CHECK(prompt_us(v3, 1024, "shared_quantize") == Approx(18.8).epsilon(0.15));
  // The product, keys, rotary keys and output: 52.1 + 41.6 + 18.2 + 15.2.
  CHECK(prompt_us(lite, 8192, "kv_b_proj") == Approx(127.1).epsilon(0.15));
  // Another engine's kernels are its own.
  CHECK(prompt_us(pricer(spec("deepseek-v2-lite", "", "sglang-0.5")), 8192, "rotary") < 60);
}

TEST_CASE("drafts of a sequence multiply latent decode's rows, whole tiles of heads apart") {
  const StepPricer v3 = pricer(spec(short_v3, mtp3));
  CHECK(line_us(v3, verified(32, 530, 1), "attention_decode") == Approx(37.6).epsilon(0.15));
  CHECK(line_us(v3, verified(32, 530, 3), "attention_decode") == Approx(61.1).epsilon(0.15));
  CHECK(line_us(v3, verified(1, 1040, 1), "attention_decode") == Approx(21.6).epsilon(0.15));
  double before = 0;
  for (const std::int32_t drafts : {0, 1, 2, 3}) {
    const double now = line_us(v3, verified(64, 4000, drafts), "attention_decode");
    CHECK(now > before);
    before = now;
  }
  // Sixteen heads leave three quarters of a tile of 64 rows: drafts fill it.
  const StepPricer shared = pricer(spec("deepseek-v3", "parallel: {tp: 8}\n" + mtp3));
  const double one = line_us(shared, verified(64, 4000, 0), "attention_decode");
  CHECK(line_us(shared, verified(64, 4000, 3), "attention_decode") == Approx(one).epsilon(0.01));
}

TEST_CASE("KV blocks of drafting runs on the V1 runner: what drafts and split sums take") {
  struct Run {
    std::string model, more;
    double blocks;  // logged
  };
  const std::string ngram =
      "speculation: {method: ngram, tokens: 3, match_rate: 0.5, acceptance: [0.75, 0.67, 0.6]}\n";
  for (const Run& run : {Run{short_v3, mtp1, 735757}, Run{short_v3, mtp3, 735785},
                         Run{"mimo-7b", mtp1, 48162}, Run{"qwen3-8b", ngram, 49203}}) {
    INFO(run.model << " " << run.more);
    const auto plan = plan_memory(spec(run.model, run.more));
    REQUIRE(plan.ok());
    CHECK(static_cast<double>(plan->kv_blocks) == Approx(run.blocks).epsilon(0.005));
  }
  // A rank of eight has an eighth of the heads, and so of the sums.
  const auto graphs = [](const std::string& plan) {
    return plan_memory(spec("deepseek-v3", plan + mtp1)).value().graphs.value();
  };
  const double eighth = 2.0 * 32 * 512 * 16 * 513 * 4;
  CHECK(graphs("parallel: {tp: 8}\n") > eighth);
  CHECK(graphs("parallel: {tp: 8}\n") < eighth + 2e9);
}

// FlashAttention's kernel and the sum of its parts as they ran, from the begin of the one to the end of the
// other.
TEST_CASE("short prompts that vLLM serves absorbed take what profiles show") {
  const StepPricer lite = pricer(spec("deepseek-v2-lite")), v3 = pricer(spec(short_v3, mtp1));
  const std::string line = "attention_absorbed";
  CHECK(prompt_us(lite, 72, line) == Approx(20.8).epsilon(0.1));
  CHECK(prompt_us(lite, 256, line) == Approx(30.0).epsilon(0.05));
  CHECK(prompt_us(lite, 512, line) == Approx(30.3).epsilon(0.05));
  const auto eight = [](std::int64_t context, std::int32_t tokens = 512) {
    return std::vector<PrefillChunk>(8, PrefillChunk{tokens, context});
  };
  const auto chunks_us = [&](const StepPricer& p, const std::vector<PrefillChunk>& chunks) {
    StepShape shape{};
    shape.prefill = chunks;
    return line_us(p, shape, line);
  };
  CHECK(chunks_us(v3, eight(0)) == Approx(882.8).epsilon(0.03));
  // More keys, more heads and more rows take longer; keys split over idle units take less than one after
  // another.
  CHECK(chunks_us(lite, eight(4096)) > 2 * chunks_us(lite, eight(0)));
  CHECK(chunks_us(v3, eight(0, 64)) > chunks_us(lite, eight(0, 64)));
  const std::vector<PrefillChunk> one{{16, 8192}};
  CHECK(chunks_us(lite, one) < 7.6 + 7.9 + 1.3 * 8208 / 64);
  // SGLang's backend is its own.
  CHECK(prompt_us(pricer(spec("deepseek-v2-lite", "", "sglang-0.5")), 256, line) !=
        Approx(prompt_us(lite, 256, line)).epsilon(0.01));
}
