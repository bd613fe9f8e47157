// What-ifs on figures: what they replace, what they say of themselves, what is refused.
#include "costmodel/figure_changes.h"

#include <algorithm>

#include "base/json.h"
#include "base/yaml_reader.h"
#include "catch.h"
#include "costmodel/instance_spec.h"

using namespace orrery;

namespace {

struct Changed {
  InstanceSpec spec;
  std::string errors;
};

Changed read(const std::string& deployment, const std::string& figures) {
  YamlDocument document =
      YamlDocument::parse("deployment: " + deployment + "\nfigures: " + figures + "\n", "s.yaml").value();
  Errors errors;
  Changed out;
  out.spec = read_instance_spec(document.root().require("deployment"), ".", errors,
                                document.root().optional("figures"));
  document.finish();
  errors.insert(errors.end(), document.errors().begin(), document.errors().end());
  for (const Error& e : errors) out.errors += e.key + ": " + e.message + "\n";
  return out;
}

const std::string h200 = "{hardware: h200, model: qwen3-8b, engine: vllm-0.24}";

}  // namespace

TEST_CASE("a replaced figure is an assumption that says what it stood for [what-if]") {
  const Changed c =
      read(h200, "{hbm_bandwidth: 5.76e12, host: {launch_graph: 0}, front_end: {request: 1e-3}}");
  REQUIRE(c.errors.empty());
  const Figure<BytesPerSecond>& f = c.spec.hardware.memory_bandwidth;
  CHECK(f.value.value() == 5.76e12);
  CHECK(f.kind == FigureKind::assumed);
  INFO(f.source);
  CHECK(f.source.starts_with("what-if: overrides.figures, instead of " + format_number(4.8e12) +
                             " (datasheet: NVIDIA"));
  CHECK(c.spec.engine.host.launch_graph.value.value() == 0);
  CHECK(c.spec.engine.front_end->request.value.value() == 1e-3);
  // Nothing else moves, and the tables keep the part's own rates.
  const Changed plain = read(h200, "{}");
  CHECK(c.spec.hardware.memory_total.value == plain.spec.hardware.memory_total.value);
  CHECK(c.spec.engine.host.update_base.value == plain.spec.engine.host.update_base.value);
  REQUIRE(c.spec.kernels != nullptr);
}

TEST_CASE("memory decides the engine's defaults, also when it is replaced [what-if]") {
  CHECK(read(h200, "{}").spec.engine.settings.max_num_seqs == 1024);
  CHECK(read(h200, "{memory_total: 60e9}").spec.engine.settings.max_num_seqs == 256);
}

TEST_CASE("a smaller last cache is smaller than the one before it, too [what-if]") {
  const Changed c = read(h200, "{last_level_cache: 1e6}");
  CHECK(c.spec.hardware.l2.value.value() == 1e6);
  CHECK(read(h200, "{last_level_cache: 1e9}").spec.hardware.l2.value.value() == 60e6);
}

TEST_CASE("what has no figure, moves nothing or makes no sense is an error at its key [what-if]") {
  const auto said = [](const std::string& deployment, const std::string& figures, const std::string& words) {
    const std::string errors = read(deployment, figures).errors;
    INFO(errors);
    CHECK(errors.find(words) != std::string::npos);
    CHECK(std::count(errors.begin(), errors.end(), '\n') == 1);
  };
  said(h200, "{memory_bandwith: 1}",
       "figures.memory_bandwith: unknown figure (did you mean \"memory_bandwidth\"?)");
  said(h200, "{host: {launch: 1}}", "figures.host.launch: unknown figure");
  said(h200, "{hbm_bandwidth: 0}", "above 0");
  said(h200, "{link_efficiency: 2}", "from 0 to 1");
  said(h200, "{hbm_bandwidth: {value: 1}}", "figures.hbm_bandwidth: expected a number");
  said(h200, "{matrix_rate_int4: 1e15}", "h200 has no such figure");
  said(h200, "{efficiency_attention_decode: 0.9}", "tables of vllm-0.24 price this on h200");
  said(h200, "{clock_peak: 2e9}", "would change nothing");
  said(h200, "{hbm_bandwidth: 1e12, memory_bandwidth: 1e12}", "the same figure as hbm_bandwidth");
  said("{hardware: nowhere, model: qwen3-8b, engine: vllm-0.24}", "{anything: 1}", "deployment.hardware");
  CHECK(read("{hardware: h200, model: qwen3-8b, engine: vllm-0.24, kernels: roofline}",
             "{efficiency_attention_decode: 0.9}")
            .errors.empty());
}
