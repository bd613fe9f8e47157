#include "reports/casebook/engine_run.h"

#include <filesystem>

#include "base/files.h"
#include "base/yaml_reader.h"

namespace orrery {

Result<std::vector<EngineRun>> list_engine_runs() {
  const std::string root = data_directory();
  ORRERY_TRY(document, YamlDocument::load(root + "/reports/cases/engine_runs.yaml"));
  std::vector<EngineRun> runs;
  for (const Yaml& row : document.root().require("runs").items()) {
    EngineRun run;
    run.name = row.require("name").text();
    run.hardware = row.require("hardware").text();
    run.model = row.require("model").text();
    run.fitted = row.require("fitted").text();
    const std::string copy = root + "/" + row.require("folder").text();
    const std::string shared = root + "/../shared/truth/" + run.name;
    run.from_shared = std::filesystem::exists(shared + "/engine.json");
    run.folder = run.from_shared ? shared : copy;
    runs.push_back(std::move(run));
  }
  document.finish();
  if (!document.errors().empty()) return document.errors();
  return runs;
}

Result<Scenario> scenario_of(const EngineRun& run, const MeasuredRun& measured) {
  const MeasuredEngine& e = measured.engine;
  const std::int64_t tp = e.arguments.value("tensor_parallel_size", std::int64_t{1});
  const bool ep = e.arguments.value("enable_expert_parallel", false);
  const auto number = [](std::int64_t v) { return std::to_string(v); };
  // Where vLLM keeps `gdn_prefill_backend` (engine/arg_utils.py).
  const Json more = e.arguments.value("additional_config", Json::object());
  const std::string scan = more.is_object() ? more.value("gdn_prefill_backend", std::string()) : "";
  const std::string text =
      "deployment:\n  hardware: " + run.hardware + "\n  model: " + run.model + "\n  engine: " + own_engine +
      "\n  parallel: {tp: " + number(tp) + ", ep: " + number(ep ? tp : 1) +
      "}\n  engine_args:\n    num_gpu_blocks_override: " + number(e.num_gpu_blocks) +
      "\n    block_size: " + number(e.block_size) +
      "\n    max_num_batched_tokens: " + number(e.max_num_batched_tokens) +
      "\n    max_num_seqs: " + number(e.max_num_seqs) + "\n    max_model_len: " + number(e.max_model_len) +
      "\n    long_prefill_token_threshold: " + number(e.long_prefill_token_threshold) +
      "\n    enable_prefix_caching: " + (e.enable_prefix_caching ? "true" : "false") +
      "\n    async_scheduling: " + (e.async_scheduling ? "true" : "false") +
      (scan.empty() ? "" : "\n    gdn_prefill_backend: " + scan) + "\n";
  ORRERY_TRY(document, YamlDocument::parse(text, measured.folder + "/engine.json (as a scenario)"));
  Scenario scenario;
  scenario.file = measured.folder;
  Errors errors;
  scenario.pool.instance = read_instance_spec(document.root().require("deployment"), ".", errors);
  document.finish();
  errors.insert(errors.end(), document.errors().begin(), document.errors().end());
  if (!errors.empty()) return errors;
  ORRERY_TRY(memory, plan_memory(scenario.pool.instance));
  scenario.pool.memory = memory;
  return scenario;
}

}  // namespace orrery
