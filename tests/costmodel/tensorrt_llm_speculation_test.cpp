// What TensorRT-LLM's speculation costs and takes. Rules cited by section of
// ../shared/reference/tensorrt_llm_1_2.md.
#include <string>

#include "catch.h"
#include "costmodel/instance_spec.h"
#include "costmodel/memory_plan.h"
#include "costmodel/padding.h"

using namespace orrery;

namespace {

struct Read {
  InstanceSpec spec;
  std::string errors;
};
Read read(const std::string& speculation, const std::string& args = "", const std::string& model = "qwen3-8b",
          const std::string& parallel = "{tp: 1}") {
  const YamlDocument document =
      YamlDocument::parse("hardware: h200\nmodel: " + model + "\nparallel: " + parallel +
                              "\nengine: tensorrt-llm-1.2\nengine_args: {" + args +
                              "}\nspeculation: " + speculation + "\n",
                          "s.yaml")
          .value();
  Errors errors;
  Read out;
  out.spec = read_instance_spec(document.root(), ".", errors);
  document.finish();
  errors.insert(errors.end(), document.errors().begin(), document.errors().end());
  out.errors = errors.empty() ? "" : to_string(errors);
  return out;
}

const std::string eagle = "{method: eagle, tokens: 3, acceptance: 0.7, draft: {kind: eagle3}";

StepShape rows(std::int32_t sequences, std::int32_t drafts) {
  StepShape shape;
  shape.decode_sequences = sequences;
  shape.decode_context_tokens = 1000 * std::int64_t{sequences};
  shape.draft_tokens = sequences * drafts;
  return shape;
}

}  // namespace

TEST_CASE("§1.3 n-grams turn overlap off; EAGLE-3 keeps it, in one engine or two") {
  CHECK(read("{method: ngram, tokens: 2, acceptance: 0.5, match_rate: 0.3}").spec.engine.steps_in_flight ==
        1);
  CHECK(read(eagle + "}").spec.engine.steps_in_flight == 2);
  CHECK(read(eagle + ", one_model: false}").spec.engine.steps_in_flight == 2);
  CHECK(read(eagle + "}", "disable_overlap_scheduler: true").spec.engine.steps_in_flight == 1);
}

TEST_CASE("§5 §8 a graph of a batch size holds 1 + k tokens a row, and none a number of rows between sizes") {
  const GraphPadding padding(read(eagle + "}").spec.engine.settings);
  CHECK(padding.pad(rows(31, 3)).mode == GraphMode::full);
  CHECK(padding.pad(rows(31, 3)).tokens == 124);
  CHECK(padding.pad(rows(33, 3)).mode == GraphMode::none);
  CHECK(padding.pad(rows(128, 3)).mode == GraphMode::full);
  CHECK(padding.largest() == 512);
  CHECK(padding.pad(rows(4, 0)).mode == GraphMode::none);  // one token a row was not captured
}

TEST_CASE("§5 §8 draft length 0 is captured too where max_concurrency can turn drafting off") {
  const Read r =
      read(eagle + ", one_model: false, max_concurrency: 8}", "cuda_graph_config: {enable_padding: true}");
  REQUIRE(r.errors.empty());
  const GraphPadding padding(r.spec.engine.settings);
  StepShape off = rows(9, 0);
  off.without_drafting = true;
  CHECK(padding.pad(off).mode == GraphMode::full);
  CHECK(padding.pad(off).tokens == 16);
  CHECK(padding.pad(off).drafting == 0);
  CHECK(padding.pad(rows(9, 3)).tokens == 64);
  CHECK(padding.pad(rows(9, 3)).drafting == 16);
  const StepPricer pricer = StepPricer::create(r.spec).value();
  StepShape on = off;
  on.without_drafting = false;
  CHECK(pricer.price(off).busy < pricer.price(on).busy);
  CHECK(pricer.price(off).launch < pricer.price(on).launch);
  // A graph of each kind for each size.
  const Read always = read(eagle + ", one_model: false}", "cuda_graph_config: {enable_padding: true}");
  CHECK(plan_memory(r.spec).value().graphs.value() == 2 * plan_memory(always.spec).value().graphs.value());
}

TEST_CASE("§8 a network inside the engine is launched with the model's graph, one of its own is not") {
  const StepPricer inside = StepPricer::create(read(eagle + "}").spec).value(),
                   apart = StepPricer::create(read(eagle + ", one_model: false}").spec).value(),
                   none = StepPricer::create(read("{method: off}").spec).value();
  CHECK(inside.price(rows(8, 3)).launch == none.price(rows(8, 0)).launch);
  CHECK(apart.price(rows(8, 3)).launch > inside.price(rows(8, 3)).launch);
  CHECK(inside.price(rows(33, 3)).launch > none.price(rows(33, 0)).launch);  // eager: its kernels too
  CHECK(inside.price(rows(8, 3)).busy == apart.price(rows(8, 3)).busy);
}

TEST_CASE("§8 MTP keeps keys and values for each of its passes, EAGLE-3 for its layer") {
  const std::string model = "deepseek-v3", eight = "{tp: 8, ep: 8}";
  const auto bytes = [&](const std::string& speculation) {
    const Read r = read(speculation, "max_seq_len: 4096", model, eight);
    INFO(r.errors);
    REQUIRE(r.errors.empty());
    const auto plan = plan_memory(r.spec);
    REQUIRE(plan.ok());
    return plan.value().kv_bytes_per_token.value();
  };
  const double off = bytes("{method: off}"), layer = off / 61;
  CHECK(bytes("{method: mtp, tokens: 1, acceptance: 0.8}") == Approx(62 * layer));
  CHECK(bytes("{method: mtp, tokens: 3, acceptance: 0.8}") == Approx(64 * layer));
  const auto dense = [](const std::string& s) {
    return plan_memory(read(s).spec).value().kv_bytes_per_token.value();
  };
  CHECK(dense(eagle + "}") == Approx(dense("{method: off}") / 36 * 37));
}

TEST_CASE("§8 what TensorRT-LLM cannot do is said where it stands") {
  const auto says = [](const std::string& speculation, const std::string& piece) {
    const Read r = read(speculation);
    INFO(speculation << " " << r.errors);
    CHECK(r.errors.find(piece) != std::string::npos);
    CHECK(r.errors.find("s.yaml:6") != std::string::npos);
  };
  says(eagle + ", max_concurrency: 8}", "always drafts");
  says("{method: eagle, tokens: 2, acceptance: 0.5}", "EAGLE-3 only");
  says("{method: ngram, tokens: 2, acceptance: 0.5, match_rate: 1, one_model: false}", "only EAGLE-3");
  says("{method: ngram, tokens: 2, acceptance: 0.5, match_rate: 1, max_concurrency: 0}", "max_concurrency");
  CHECK(
      read("{method: ngram, tokens: 2, acceptance: 0.5, match_rate: 1, max_concurrency: 4}").errors.empty());
}
