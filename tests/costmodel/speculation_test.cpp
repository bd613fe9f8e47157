// What speculation costs, and what of it a deployment may say.
#include "costmodel/speculation.h"

#include <algorithm>

#include "catch.h"
#include "costmodel/instance_spec.h"
#include "costmodel/memory_plan.h"
#include "hand_spec.h"

using namespace orrery;

namespace {

InstanceSpec drafting(SpeculationMethod method, std::int32_t tokens) {
  InstanceSpec spec = hand::instance(hand::dense());
  spec.speculation.method = method;
  spec.speculation.tokens = tokens;
  spec.speculation.draft.intermediate = spec.model.intermediate;
  spec.model.mtp_layers = 1;
  spec.engine.settings.draft_tokens = tokens;
  spec.engine.host.ngram_token = hand::us(0.001);
  return spec;
}

StepShape verification(std::int32_t sequences, std::int64_t context, std::int32_t drafts) {
  StepShape shape;
  shape.decode_sequences = sequences;
  shape.decode_context_tokens = sequences * context;
  shape.draft_tokens = drafts;
  return shape;
}

std::int64_t busy(const InstanceSpec& spec, const StepShape& shape) {
  return StepPricer::create(spec).value().price(shape).busy;
}

struct Read {
  InstanceSpec spec;
  Errors errors;
};
Read read(const std::string& speculation, const std::string& rest = "engine: vllm-0.24",
          const std::string& model = "qwen3-8b") {
  const auto document = YamlDocument::parse("deployment:\n  hardware: h200\n  model: " + model + "\n  " +
                                                rest + "\n  speculation: " + speculation + "\n",
                                            "s.yaml");
  REQUIRE(document.ok());
  Read out;
  out.spec = read_instance_spec(document->root().require("deployment"), ".", out.errors);
  document->finish();
  out.errors.insert(out.errors.end(), document->errors().begin(), document->errors().end());
  return out;
}

}  // namespace

TEST_CASE("verifying k drafts costs more than a token, and less than k + 1 steps where weights dominate") {
  const InstanceSpec spec = drafting(SpeculationMethod::ngram, 3);
  const std::int64_t one = busy(spec, verification(8, 1000, 0));
  std::int64_t before = one;
  for (std::int32_t k = 1; k <= 3; ++k) {
    const std::int64_t with = busy(spec, verification(8, 1000, 8 * k));
    CHECK(with > before);
    CHECK(with < (k + 1) * one);
    before = with;
  }
  // Attention reads a sequence's keys once, whatever its drafts.
  const StepBreakdown a = StepPricer::create(spec).value().explain(verification(8, 4096, 0)),
                      b = StepPricer::create(spec).value().explain(verification(8, 4096, 24));
  const auto line = [](const StepBreakdown& step, const std::string& name) {
    for (const OpLine& op : step.ops) {
      if (op.name == name) return op;
    }
    return OpLine{};
  };
  CHECK(line(b, "attention_decode").bytes < 1.01 * line(a, "attention_decode").bytes);
  CHECK(line(b, "attention_decode").flops > 3.9 * line(a, "attention_decode").flops);
  CHECK(line(b, "lm_head").shape.find("m=32") != std::string::npos);  // a row for every draft too
}

TEST_CASE("a step without drafts is priced as without speculation, but for n-grams' small kernels") {
  const InstanceSpec plain = hand::instance(hand::dense());
  const InstanceSpec spec = drafting(SpeculationMethod::ngram, 3);
  const std::int64_t extra = busy(spec, verification(8, 1000, 0)) - busy(plain, verification(8, 1000, 0));
  CHECK(extra > 0);
  CHECK(extra < 5000);  // verify_drafts: two kernel floors
}

TEST_CASE("the drafting network runs once over the step and once a sequence for every further draft") {
  const InstanceSpec ngram = drafting(SpeculationMethod::ngram, 3);
  std::int64_t before = busy(ngram, verification(16, 500, 0));
  std::vector<std::int64_t> more;
  for (std::int32_t k = 1; k <= 3; ++k) {
    InstanceSpec spec = drafting(SpeculationMethod::eagle, k);
    spec.engine.settings.draft_tokens = 3;  // the same graphs for all
    const StepPricer pricer = StepPricer::create(spec).value();
    const std::int64_t with = pricer.price(verification(16, 500, 0)).busy;
    CHECK(with > before);
    more.push_back(with - before);
    before = with;
    const StepBreakdown step = pricer.explain(verification(16, 500, 0));
    std::int64_t sum = 0;
    for (const OpLine& op : step.ops) sum += op.time_ns;
    CHECK(sum == step.timing.busy);
  }
  // Every further pass costs the same, to the rounding of lines.
  CHECK(std::abs(more[2] - more[1]) < 1000);
  const auto launch = [](std::int32_t k) {
    return StepPricer::create(drafting(SpeculationMethod::eagle, k))
        .value()
        .price(verification(16, 500, 16 * k))
        .launch;
  };
  CHECK(launch(2) > launch(1));
  CHECK(launch(3) - launch(2) == launch(2) - launch(1));
}

namespace {

std::int64_t line_ns(const StepBreakdown& b, const std::string& name) {
  const auto found =
      std::find_if(b.ops.begin(), b.ops.end(), [&](const OpLine& line) { return line.name == name; });
  return found == b.ops.end() ? -1 : found->time_ns;
}

StepBreakdown explained(const InstanceSpec& spec, const StepShape& shape) {
  return StepPricer::create(spec).value().explain(shape);
}

}  // namespace

// A further pass runs over one token of each sequence: its experts see those, and a whole layer's line is in
// the step's sum like any other (it was priced at the step's tokens, and left out of the sum).
TEST_CASE("experts of a further drafting pass are those of its own tokens, and a part of the step") {
  const Read three = read("{method: mtp, tokens: 3, acceptance: 0.7}",
                          "parallel: {tp: 8}\n  engine: vllm-0.24", "deepseek-v3");
  const Read one = read("{method: mtp, tokens: 1, acceptance: 0.7}", "parallel: {tp: 8}\n  engine: vllm-0.24",
                        "deepseek-v3");
  REQUIRE(three.errors.empty());
  REQUIRE(one.errors.empty());
  const StepBreakdown b = explained(three.spec, verification(16, 1000, 48));
  const StepBreakdown plain = explained(one.spec, verification(8, 1000, 8));  // its first pass: 16 tokens
  const auto twice = static_cast<double>(2 * line_ns(plain, "draft_moe_experts"));
  CHECK(static_cast<double>(line_ns(b, "draft_next_moe_experts")) == Approx(twice).margin(2));  // rounded
                                                                                                // apart
  CHECK(line_ns(b, "draft_moe_experts") > line_ns(plain, "draft_moe_experts"));
  // 58 layers with experts in the model, one in the network: nothing is taken from the model's line.
  const double each = static_cast<double>(line_ns(b, "moe_experts")) / 58;
  CHECK(each == Approx(static_cast<double>(line_ns(b, "draft_moe_experts"))).epsilon(0.001));
  std::int64_t sum = 0;
  for (const OpLine& line : b.ops) sum += line.time_ns;
  CHECK(sum == b.timing.busy);
}

// v1/worker/gpu_model_runner.py, v1/spec_decode/llm_base_proposer.py of 0.24.0: kernels launched one by one
// around the verification and each pass, counted in profiles (reports/cases/h200_vllm_0_24_features). MiMo's
// network is not compiled (models/mimo_mtp.py).
TEST_CASE("vLLM's V1 runner launches what drafts need kernel by kernel, pass by pass") {
  const auto launch_us = [](const std::string& model, int tokens) {
    const Read r = read("{method: mtp, tokens: " + std::to_string(tokens) + ", acceptance: 0.7}",
                        "parallel: {tp: 8}\n  engine: vllm-0.24", model);
    REQUIRE(r.errors.empty());
    CHECK(r.spec.engine.runner == "v1");
    return static_cast<double>(explained(r.spec, verification(1, 500, tokens)).timing.launch) / 1e3;
  };
  // Each further pass: 21 kernels, the head's four, two graph pieces with latent attention's four between
  // them.
  const double pass = 21 * 37 + 4 * 37 + 2 * 80 + 4 * 37;
  CHECK(launch_us("deepseek-v3", 3) - launch_us("deepseek-v3", 2) == Approx(pass).epsilon(0.02));
  // Logged on an H200: 2.35 + 2.73 ms of launches with one draft, 2.43 + 5.14 with three (one sequence).
  CHECK(launch_us("deepseek-v3", 1) == Approx(5078).epsilon(0.12));
  CHECK(launch_us("deepseek-v3", 3) == Approx(7575).epsilon(0.12));
  CHECK(launch_us("mimo-7b", 1) == Approx(5893).epsilon(0.12));  // 2.22 + 3.67
  const Read other = read("{method: mtp, tokens: 1, acceptance: 0.7}", "engine: tensorrt-llm-1.2", "mimo-7b");
  REQUIRE_FALSE(other.errors.empty());
  CHECK(other.errors[0].message.find("of tensorrt-llm it was not read") != std::string::npos);
}

TEST_CASE("§3 decodes with all their drafts run in a full graph of whole decodes, others in pieces") {
  InstanceSpec spec = drafting(SpeculationMethod::ngram, 2);
  spec.engine.settings.cudagraph_sizes = {3, 6, 9, 12, 24};
  const StepPricer pricer = StepPricer::create(spec).value();
  const StepBreakdown uniform = pricer.explain(verification(4, 100, 8)),
                      partly = pricer.explain(verification(4, 100, 6)),
                      bare = pricer.explain(verification(4, 100, 0));
  CHECK(uniform.graph_mode == "full");
  CHECK(uniform.padded_tokens == 12);
  CHECK(partly.graph_mode == "piecewise");
  CHECK(bare.graph_mode == "piecewise");
  CHECK(bare.padded_tokens == 6);
}

TEST_CASE("§3 captured sizes hold whole decodes (adjust_cudagraph_sizes_for_spec_decode)") {
  const Read r = read("{method: eagle, tokens: 3, acceptance: 0.7}",
                      "engine: vllm-0.24\n  engine_args: {max_num_seqs: 48}");
  REQUIRE(r.errors.empty());
  const auto& sizes = r.spec.engine.settings.cudagraph_sizes;
  REQUIRE(!sizes.empty());
  CHECK(sizes.front() == 4);
  CHECK(sizes.back() == 384);  // 2 · 48 sequences of 4 tokens
  for (const std::int64_t size : sizes) CHECK(size % 4 == 0);
}

TEST_CASE("§3 §5 n-grams turn asynchronous scheduling and the V2 runner off; networks leave both") {
  const Read ngram = read("{method: ngram, tokens: 2, acceptance: 0.5, match_rate: 0.3}");
  REQUIRE(ngram.errors.empty());
  CHECK(ngram.spec.engine.steps_in_flight == 1);
  CHECK(ngram.spec.engine.runner == "v1");
  const Read eagle = read("{method: eagle, tokens: 2, acceptance: [0.7, 0.6]}");
  REQUIRE(eagle.errors.empty());
  CHECK(eagle.spec.engine.steps_in_flight == 2);
  CHECK(eagle.spec.engine.runner == "v2");
}

TEST_CASE("a drafting network takes weights and KV room; MTP layers only when they are used") {
  InstanceSpec off = hand::instance(hand::dense()), mtp = drafting(SpeculationMethod::mtp, 2);
  off.engine.settings.max_model_len = mtp.engine.settings.max_model_len = 4096;
  off.model.mtp_layers = 1;
  const MemoryPlan without = plan_memory(off).value(), with = plan_memory(mtp).value();
  const auto ngram = [&] {
    InstanceSpec s = drafting(SpeculationMethod::ngram, 2);
    s.engine.settings.max_model_len = 4096;
    return plan_memory(s).value();
  }();
  CHECK(ngram.weights.value() == without.weights.value());
  CHECK(ngram.kv_blocks == without.kv_blocks);
  CHECK(with.kv_bytes_per_token.value() == without.kv_bytes_per_token.value() / 36 * 37);
  const ModelSpec& m = off.model;
  double layer = 0;
  for (const WeightTensor& t : m.layer_kinds.back().weights) layer += t.bytes().value();
  const double projection = 2.0 * static_cast<double>(m.hidden) * static_cast<double>(2 * m.hidden);
  CHECK(with.weights.value() - without.weights.value() == Approx(layer + projection));
  CHECK(with.kv_blocks < without.kv_blocks);
}

TEST_CASE("what is wrong with a speculation is said where it stands") {
  for (const auto& [text, piece] :
       {std::pair{"{method: eagel, tokens: 2}", "eagle"},
        {"{tokens: 2}", "method"},
        {"{method: eagle, tokens: 0, acceptance: 0.5}", "speculation.tokens"},
        {"{method: eagle, tokens: 2}", "acceptance_log"},
        {"{method: eagle, tokens: 2, acceptance: [0.5, 0.4, 0.3]}", "one for each of the 2 drafts"},
        {"{method: eagle, tokens: 1, acceptance: 1.5}", "speculation.acceptance"},
        {"{method: eagle, tokens: 1, acceptance: 0.5, acceptance_log: x.csv}", "either"},
        {"{method: ngram, tokens: 2, acceptance: 0.5}", "match_rate"},
        {"{method: eagle, tokens: 2, acceptance: 0.5, match_rate: 0.5}", "only n-gram"},
        {"{method: mtp, tokens: 1, acceptance: 0.8}", "num_nextn_predict_layers"},
        {"{method: eagle, tokens: 1, acceptance: 0.8, draft: {layer: 2}}", "layer"},
        {"{method: ngram, tokens: 1, acceptance: 0.8, match_rate: 1, draft: {layers: 2}}",
         "without a network"},
        {"{method: eagle, tokens: 1, acceptance: 0.8, window: 2}", "window"}}) {
    INFO(text);
    const Read r = read(text);
    REQUIRE(!r.errors.empty());
    CHECK(to_string(r.errors).find(piece) != std::string::npos);
    CHECK(to_string(r.errors).find("s.yaml:5") != std::string::npos);
  }
  CHECK(read("{method: off}").errors.empty());
  CHECK(read("{method: off, tokens: 3, acceptance: [0.5]}").errors.empty());
  CHECK(read("{method: eagle, tokens: 1, acceptance: 0.8}", "engine: sglang-0.5").errors.empty());
  // What shape SGLang's trees have is not said by its own arguments.
  const auto trees = [](const std::string& argument) {
    return to_string(read("{method: ngram, tokens: 3, acceptance: 0.5, match_rate: 0.5}",
                          "engine: sglang-0.5\n  engine_args: {" + argument + "}")
                         .errors);
  };
  CHECK(trees("speculative_ngram_max_bfs_breadth: 1").empty());
  CHECK(trees("speculative_ngram_max_bfs_breadth: 8").find("deployment.speculation.branches") !=
        std::string::npos);
  CHECK(trees("speculative_eagle_topk: 4").find("deployment.speculation.branches") != std::string::npos);
  CHECK(to_string(read("{method: eagle, tokens: 1, acceptance: 0.8, one_model: false}").errors)
            .find("only TensorRT-LLM") != std::string::npos);
  const Read moe = read("{method: eagle, tokens: 1, acceptance: 0.8}", "engine: vllm-0.24", "qwen3-30b-a3b");
  CHECK(to_string(moe.errors).find("draft.intermediate") != std::string::npos);
  CHECK(read("{method: eagle, tokens: 1, acceptance: 0.8, draft: {kind: eagle3, intermediate: 12288, "
             "vocabulary: 32000}}",
             "engine: vllm-0.24", "qwen3-30b-a3b")
            .errors.empty());
}
