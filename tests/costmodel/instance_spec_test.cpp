// From a scenario's names to figures, and everything that is wrong with them at once.
#include "costmodel/instance_spec.h"

#include <string>

#include "../sanitized.h"
#include "catch.h"
#include "costmodel/profile_lists.h"
#include "costmodel/shared_data.h"

using namespace orrery;

namespace {

struct Read {
  InstanceSpec spec;
  std::string errors;
};

Read read(const std::string& yaml, const std::string& folder = ".") {
  YamlDocument document = YamlDocument::parse(yaml, "s.yaml").value();
  Errors errors;
  Read r{read_instance_spec(document.root(), folder, errors), ""};
  document.finish();
  errors.insert(errors.end(), document.errors().begin(), document.errors().end());
  r.errors = to_string(errors);
  return r;
}

std::string errors_of(const std::string& model, const std::string& more) {
  return read("hardware: h200\nmodel: " + model + "\nengine: vllm-0.24\n" + more).errors;
}

bool holds(const std::string& text, const std::string& piece) {
  return text.find(piece) != std::string::npos;
}

}  // namespace

TEST_CASE("names become figures, and a pricer takes them") {
  for (const char* part : {"mi300x", "mi325x", "r9700", "l40s", "h20", "h100", "h200"}) {
    for (const char* more : {"", "quantization: fp8-block\n", "quantization: w4a8\n", "kv_cache_dtype: fp8\n",
                             "parallel: {tp: 2}\n"}) {
      INFO(part << " " << more);
      const Read r = read(std::string("hardware: ") + part + "\nmodel: qwen3-8b\nengine: vllm-0.24\n" + more);
      REQUIRE(r.errors.empty());
      CHECK(StepPricer::create(r.spec).ok());
    }
  }
}

TEST_CASE("every shipped model has a price on an H200") {
  const auto models = list_models();
  REQUIRE(models.ok());
  int at = 0;
  for (const ListEntry& entry : *models) {
    if (sanitized && ++at % 4 != 0) continue;
    INFO(entry.name);
    const Read r = read("hardware: h200\nmodel: " + entry.name + "\nengine: vllm-0.24\n");
    REQUIRE(r.errors.empty());
    CHECK(StepPricer::create(r.spec).ok());
  }
}

TEST_CASE("all unknown names are reported together, each with the nearest") {
  const Read r = read("hardware: h2000\nmodel: qwen3-8\nengine: vllm-0.2\nengine_args: {whatever: 3}\n");
  CHECK(holds(r.errors, "s.yaml:1:11: hardware: unknown hardware \"h2000\" (did you mean"));
  CHECK(holds(r.errors, "s.yaml:2:8: model: unknown model \"qwen3-8\" (did you mean \"qwen3-8b\"?)"));
  CHECK(holds(r.errors, "s.yaml:3:9: engine: unknown engine"));
}

TEST_CASE("missing keys") {
  const Read r = read("parallel: {tp: 1}\n");
  for (const char* key : {"hardware", "model", "engine"})
    CHECK(holds(r.errors, std::string(key) + ": the key is missing"));
}

TEST_CASE("plans that the shapes do not divide, or that are not priced yet") {
  CHECK(holds(errors_of("qwen3-8b", "parallel: {tp: 0}"), "s.yaml:4:16: parallel.tp"));
  CHECK(holds(errors_of("qwen3-8b", "parallel: {tp: 3}"), "attention heads (32) is not divisible by tp = 3"));
  CHECK(holds(errors_of("qwen2.5-7b", "parallel: {tp: 8}"), "attention heads (28)"));
  CHECK(holds(errors_of("qwen3-30b-a3b-fp8", "parallel: {tp: 4}"),
              "not a multiple of the quantisation block (128)"));
  CHECK(errors_of("qwen3-30b-a3b", "parallel: {tp: 4}").empty());
  CHECK(errors_of("qwen3-8b", "parallel: {dp: 2}").empty());  // engines behind one front end
  CHECK(holds(errors_of("qwen3-8b", "parallel: {dp: 2, ep: 2}"), "has no experts"));
  CHECK(holds(errors_of("qwen3-8b", "parallel: {cp: 2}"), "context parallelism"));
  CHECK(holds(errors_of("qwen3-30b-a3b", "parallel: {tp: 4, ep: 2}"), "must be 1 or all 4 GPUs"));
  CHECK(errors_of("qwen3-30b-a3b", "parallel: {tp: 2, ep: 2}").empty());
  CHECK(holds(errors_of("qwen3-8b", "parallel: {tpp: 2}"), "tpp"));
}

TEST_CASE("quantisation and KV types are checked where they stand") {
  CHECK(
      holds(errors_of("qwen3-8b", "quantization: fp8\n"), "s.yaml:4:15: quantization: unknown quantisation"));
  CHECK(holds(errors_of("qwen3-8b", "kv_cache_dtype: int3\n"), "s.yaml:4:17: kv_cache_dtype"));
}

TEST_CASE("a model by path, relative to the scenario") {
  if (!has_shared("data/hf_configs")) return;
  const std::string yaml = "hardware: h200\nmodel: ./Qwen--Qwen3-8B_config.json\nengine: vllm-0.24\n";
  const Read r = read(yaml, shared_folder() + "/data/hf_configs");
  CHECK(r.errors.empty());
  CHECK(r.spec.model.name == "Qwen--Qwen3-8B");
  CHECK(r.spec.engine.runner == "v2");
  CHECK_FALSE(read(yaml, "/nowhere").errors.empty());
}

TEST_CASE("lists name every profile with its provenance") {
  const auto check = [](const Result<std::vector<ListEntry>>& list, std::size_t least) {
    REQUIRE(list.ok());
    CHECK(list->size() >= least);
    for (const ListEntry& entry : *list) {
      CHECK_FALSE(entry.description.empty());
      CHECK_FALSE(entry.provenance.empty());
    }
  };
  check(list_hardware(), 7);
  check(list_models(), 14);
  check(list_engines(), 1);
  check(list_operators(), 18);
}
