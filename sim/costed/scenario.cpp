#include "sim/costed/scenario.h"

#include <algorithm>
#include <filesystem>

#include "base/json.h"
#include "base/text.h"
#include "costmodel/stages.h"
#include "sim/costed/disaggregation.h"
#include "sim/costed/faults.h"
#include "sim/costed/slo_reader.h"
#include "sim/costed/tensorrt_llm_arguments.h"
#include "sim/policies.h"

namespace orrery {

namespace fs = std::filesystem;

SloSpec read_slo(const Yaml& node) {
  SloSpec slo;
  if (!node.present()) return slo;
  slo.given = true;
  slo.ttft_ms = node.optional("ttft_ms").number(0, 0);
  slo.tpot_ms = node.optional("tpot_ms").number(0, 0);
  slo.percentile = node.optional("percentile").number(99, 0, 100);
  if (slo.ttft_ms == 0 && slo.tpot_ms == 0) node.fail("needs a limit: ttft_ms, tpot_ms or both, above 0");
  return slo;
}

namespace {

void read_overrides(const Yaml& node, Scenario& scenario) {
  if (!node.present()) return;
  if (node.optional("figures").present()) scenario.is_what_if = true;  // read with the profiles
  if (const Yaml host = node.optional("host_scale"); host.present()) {
    scenario.is_what_if = true;
    scenario.what_if.host = host.number(1, 1e-6, 1e6);
  }
  for (const auto& [name, value] : node.optional("op_scale").entries()) {
    scenario.is_what_if = true;
    const double factor = value.number(1, 1e-6, 1e6);
    bool known = false;
    const std::string wanted = name == "moe_gemm"     ? "grouped_gemm"
                               : name == "all_reduce" ? "collective"
                                                      : name;
    std::vector<std::string> names = {"moe_gemm", "all_reduce"};
    for (std::size_t i = 0; i < op_class_count; ++i) {
      names.emplace_back(to_string(static_cast<OpClass>(i)));
      if (names.back() != wanted) continue;
      scenario.what_if.op[i] = factor;
      known = true;
    }
    if (!known)
      value.fail("unknown operator class" + did_you_mean(name, names) + "; known: " + join(names, ", "));
  }
}

// Every pool reads the same figures; what is wrong with them is said once.
void drop_repeated_figures(Errors& errors) {
  Errors once;
  for (Error& error : errors) {
    const auto same = [&](const Error& e) { return e.key == error.key && e.message == error.message; };
    const bool figure = error.key.starts_with("overrides.figures");
    if (!figure || std::none_of(once.begin(), once.end(), same)) once.push_back(std::move(error));
  }
  errors = std::move(once);
}

std::string absolute(const std::string& path, const std::string& folder) {
  return path.empty() ? path : (fs::path(folder) / path).lexically_normal().string();
}

// The document as used: it must mean the same from any folder, and without --trace and --seed.
Status write_back_options(YamlDocument& document, const Scenario& scenario, const ScenarioOptions& options,
                          const std::string& folder) {
  const auto set_path = [&](const std::string& key, const std::string& path) -> Status {
    if (path.empty()) return ok_status();
    if (document.set_text(key, fs::absolute(path).lexically_normal().string()).ok()) return ok_status();
    return invalid_input("the name is not valid UTF-8, so no output can hold it; rename the file",
                         {path, 0, 0}, key);
  };
  const WorkloadSpec& workload = scenario.workload;
  if (!options.trace.empty()) document.erase("workload.generator");
  if (options.seed >= 0) ORRERY_TRY_STATUS(document.set("seed=" + std::to_string(options.seed)));
  ORRERY_TRY_STATUS(set_path("workload.trace", workload.trace));
  if (workload.generator) {
    ORRERY_TRY_STATUS(set_path("workload.generator.resample", workload.generator->resample));
    if (workload.generator->servegen)
      ORRERY_TRY_STATUS(set_path("workload.generator.servegen.folder", workload.generator->servegen->folder));
  }
  const Yaml deployment = document.root().optional("deployment");
  if (const Yaml topology = deployment.optional("topology"); topology.is_scalar())
    ORRERY_TRY_STATUS(set_path("deployment.topology", absolute(topology.scalar_text(), folder)));
  const Yaml list = deployment.optional("pools");
  const std::vector<Yaml> nodes = list.present() ? list.items() : std::vector<Yaml>{deployment};
  const std::vector<const PoolSpec*> pools = scenario.pools();
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    const std::string at = list.present() ? "deployment.pools[" + std::to_string(i) + "]." : "deployment.";
    const auto set = [&](const char* key, const std::string& file) { return set_path(at + key, file); };
    ORRERY_TRY_STATUS(set("speculation.acceptance_log", pools[i]->instance.speculation.log));
    ORRERY_TRY_STATUS(set("experts.popularity.file", pools[i]->instance.experts.popularity.file));
    const std::string hardware = nodes[i].optional("hardware").scalar_text();
    if (is_hardware_path(hardware)) ORRERY_TRY_STATUS(set("hardware", absolute(hardware, folder)));
    const std::string model = nodes[i].optional("model").scalar_text();
    if (model.find('/') != std::string::npos || model.ends_with(".json"))
      ORRERY_TRY_STATUS(set("model", absolute(model, folder)));
  }
  return ok_status();
}

}  // namespace

Slo SloSpec::limits() const {
  Slo s;
  s.given = given;
  if (ttft_ms > 0) s.ttft = duration_from_seconds(ttft_ms * 1e-3);
  if (tpot_ms > 0) s.tpot = duration_from_seconds(tpot_ms * 1e-3);
  return s;
}

Scenario read_scenario_parts(const Yaml& deployment, const Yaml& workload, const std::string& folder,
                             Errors& errors, const Yaml& figures) {
  Scenario scenario;
  if (deployment.optional("pools").present()) {
    std::vector<PoolSpec> pools = read_pools(deployment, folder, errors, figures);
    if (!pools.empty()) scenario.pool = std::move(pools.front());
    for (std::size_t i = 1; i < pools.size(); ++i) scenario.other_pools.push_back(std::move(pools[i]));
  } else if (deployment.present()) {
    scenario.pool = read_pool(deployment, folder, errors, figures);
    if (errors.empty()) check_roles({deployment}, {scenario.pool});
  }
  scenario.pd = read_pd(deployment, scenario.pools());
  const Yaml list = deployment.optional("pools");
  if (errors.empty() && deployment.present())
    check_routers(list.present() ? list.items() : std::vector<Yaml>{deployment}, scenario.pools());
  scenario.topology = read_fabric(deployment, folder, scenario.pools(), errors);
  if (workload.present()) scenario.workload = read_workload(workload, folder);
  for (const PoolSpec* pool : scenario.pools()) {
    if (!scenario.workload.openai_frontend || pool->instance.engine.front_end) continue;
    workload.optional("frontend")
        .fail("the profile of engine " + quote(pool->instance.engine.name) +
              " has no front_end figures; give it some, or say none");
  }
  return scenario;
}

Status plan_pools(Scenario& scenario) {
  const auto plan = [&](PoolSpec& pool) -> Status {
    auto memory = plan_memory(pool.instance);
    if (memory.ok()) {
      pool.memory = std::move(memory).value();
      return ok_status();
    }
    Errors errors = memory.errors();
    if (!scenario.other_pools.empty()) {
      for (Error& error : errors) error.message = "pool " + quote(pool.name) + ": " + error.message;
    }
    return errors;
  };
  ORRERY_TRY_STATUS(plan(scenario.pool));
  for (PoolSpec& pool : scenario.other_pools) ORRERY_TRY_STATUS(plan(pool));
  if (scenario.topology == nullptr) return ok_status();
  std::vector<PoolSpec*> pools{&scenario.pool};
  for (PoolSpec& pool : scenario.other_pools) pools.push_back(&pool);
  return place_pools(*scenario.topology, pools);
}

std::vector<const PoolSpec*> Scenario::pools() const {
  std::vector<const PoolSpec*> all{&pool};
  for (const PoolSpec& other : other_pools) all.push_back(&other);
  return all;
}

std::int64_t Scenario::gpus() const {
  std::int64_t sum = 0;
  for (const PoolSpec* one : pools()) sum += one->gpus();
  return sum;
}

Result<Scenario> load_scenario(const std::string& path, const ScenarioOptions& options) {
  ORRERY_TRY(document, options.document.empty() ? YamlDocument::load(path)
                                                : YamlDocument::parse(options.document, path));
  for (const std::string& assignment : options.overrides) ORRERY_TRY_STATUS(document.set(assignment));
  std::string folder = fs::path(path).parent_path().string();
  if (folder.empty()) folder = ".";

  Errors errors;
  const Yaml root = document.root();
  const Yaml figures = root.optional("overrides").optional("figures");
  Scenario scenario =
      read_scenario_parts(root.require("deployment"), root.optional("workload"), folder, errors, figures);
  scenario.file = path;
  if (!options.trace.empty()) {
    scenario.workload.trace = options.trace;
    scenario.workload.generator.reset();
  }
  if (options.needs_workload && scenario.workload.trace.empty() && !scenario.workload.generator) {
    errors.push_back(invalid_input("there is no workload: give `trace:` or `generator:`, or --trace FILE",
                                   {path, 0, 0}, "workload"));
  }
  read_faults(root, scenario.pools(), scenario.topology.get(), scenario.faults, scenario.recovery);
  scenario.slo = read_slo(root.optional("slo"));
  scenario.seed = static_cast<std::uint64_t>(root.optional("seed").integer(1, 0));
  if (options.seed >= 0) scenario.seed = static_cast<std::uint64_t>(options.seed);
  scenario.pool.instance.experts.seed = scenario.seed;
  for (PoolSpec& pool : scenario.other_pools) pool.instance.experts.seed = scenario.seed;
  read_overrides(root.optional("overrides"), scenario);
  const Yaml resolved = root.optional("resolved");  // written by us into scenario.resolved.yaml; says nothing
                                                    // new
  document.finish();
  errors.insert(errors.begin(), document.errors().begin(), document.errors().end());
  drop_repeated_figures(errors);
  if (resolved.present()) {
    std::erase_if(errors, [](const Error& e) { return e.key.starts_with("resolved."); });
  }
  if (!errors.empty()) return errors;

  ORRERY_TRY_STATUS(plan_pools(scenario));
  ORRERY_TRY_STATUS(write_back_options(document, scenario, options, folder));
  scenario.yaml = document.dump();
  return scenario;
}

namespace {

template <class Q>
void write_figure(std::string& out, const char* name, const Figure<Q>& figure) {
  double value = 0;
  if constexpr (std::is_same_v<Q, double>)
    value = figure.value;
  else
    value = figure.value.value();
  out += std::string("      ") + name + ": {value: " + format_number(value) +
         ", kind: " + to_string(figure.kind) + ", source: " + Json(figure.source).dump() + "}\n";
}

void write_nixl(std::string& out, const NixlFigures& nixl) {
  const auto reads = [&](const char* title, const NixlReads& r) {
    out += std::string("    ") + title + ":\n";
    write_figure(out, "post_start", r.post_start);
    write_figure(out, "post_each", r.post_each);
    write_figure(out, "post_queued", r.post_queued);
    write_figure(out, "queue", r.queue);
    write_figure(out, "read_start", r.read_start);
    write_figure(out, "read_each", r.read_each);
  };
  reads("nixl_in_node", nixl.in_node);
  reads("nixl_between_nodes", nixl.between_nodes);
  out += "    nixl:\n";
  write_figure(out, "idle_notice", nixl.idle_notice);
}

void write_host(std::string& out, const HostCosts& c) {
  out += "    host:\n";
  write_figure(out, "schedule_base", c.schedule_base);
  write_figure(out, "schedule_per_sequence", c.schedule_per_sequence);
  write_figure(out, "schedule_per_new_request", c.schedule_per_new_request);
  write_figure(out, "prepare_base", c.prepare_base);
  write_figure(out, "prepare_per_sequence", c.prepare_per_sequence);
  write_figure(out, "prepare_rpc", c.prepare_rpc);
  write_figure(out, "launch_graph", c.launch_graph);
  write_figure(out, "launch_piece", c.launch_piece);
  write_figure(out, "launch_kernel", c.launch_kernel);
  write_figure(out, "launch_experts", c.launch_experts);
  write_figure(out, "launch_collective", c.launch_collective);
  write_figure(out, "stream_gap", c.stream_gap);
  write_figure(out, "first_kernel", c.first_kernel);
  write_figure(out, "step_gap", c.step_gap);
  write_figure(out, "launch_jitter_median", c.launch_jitter_median);
  write_figure(out, "launch_jitter_below", c.launch_jitter_below);
  write_figure(out, "launch_jitter_above", c.launch_jitter_above);
  write_figure(out, "launch_jitter_correlation", c.launch_jitter_correlation);
  write_figure(out, "copy", c.copy);
  write_figure(out, "update_base", c.update_base);
  write_figure(out, "update_per_sequence", c.update_per_sequence);
  write_figure(out, "loop_gap", c.loop_gap);
  write_figure(out, "input_delay", c.input_delay);
  write_figure(out, "core_wake", c.core_wake);
  write_figure(out, "input_per_request", c.input_per_request);
  write_figure(out, "input_per_token", c.input_per_token);
  write_figure(out, "output_delay", c.output_delay);
  write_figure(out, "output_per_sequence", c.output_per_sequence);
}

void write_front_end(std::string& out, const FrontEndCosts& f) {
  out += "    front_end:\n      processes: " + std::to_string(f.processes) + "\n";
  write_figure(out, "request", f.request);
  write_figure(out, "tokenize", f.tokenize);
  write_figure(out, "message", f.message);
  write_figure(out, "detokenize", f.detokenize);
  write_figure(out, "event", f.event);
}

void write_first_use(std::string& out, const FirstUseCosts& f) {
  out += "    first_use:\n";
  write_figure(out, "fused_experts", f.fused_experts);
  write_figure(out, "mxfp4_experts", f.mxfp4_experts);
}

void write_start(std::string& out, const StartCosts& s) {
  out += "    start:\n";
  write_figure(out, "engine", s.engine);
  write_figure(out, "engine_fp8_block", s.engine_fp8_block);
  write_figure(out, "load", s.load);
}

void write_pipeline(std::string& out, const PipelineCosts& c) {
  out += "    pipeline:\n";
  write_figure(out, "execute_share", c.execute_share);
  write_figure(out, "message", c.message);
  write_figure(out, "empty_wait", c.empty_wait);
}

std::string option_text(const OptionValue& value) {
  if (const auto* text = std::get_if<std::string>(&value)) return *text;
  if (const auto* flag = std::get_if<bool>(&value)) return *flag ? "true" : "false";
  if (const auto* whole = std::get_if<std::int64_t>(&value)) return std::to_string(*whole);
  return format_number(std::get<double>(value));
}

void write_settings(std::string& out, const EngineProfile& engine, std::int64_t tp) {
  const SchedulerSettings& s = engine.settings;
  const auto number = [&](const char* name, std::int64_t v) {
    out += std::string("    ") + name + ": " + std::to_string(v) + "\n";
  };
  const auto flag = [&](const char* name, bool v) {
    out += std::string("    ") + name + ": " + (v ? "true" : "false") + "\n";
  };
  if (engine.engine == "tensorrt-llm") {
    out += tensorrt_llm_arguments(s, tp);
    out += "  runner: " + engine.runner + "\n  steps_in_flight: " + std::to_string(engine.steps_in_flight) +
           "\n  ignored: " + Json(engine.ignored_args).dump() + "\n";
    return;
  }
  out += "  engine_args:\n";
  const auto finish = [&] {
    out += "  runner: " + engine.runner + "\n  steps_in_flight: " + std::to_string(engine.steps_in_flight) +
           "\n  ignored: " + Json(engine.ignored_args).dump() + "\n";
  };
  if (engine.typed) {
    for (const auto& [name, value] : s.options.all()) out += "    " + name + ": " + option_text(value) + "\n";
    number("captured_decode_sizes", static_cast<std::int64_t>(s.cudagraph_sizes.size()));
    number("captured_prefill_sizes", static_cast<std::int64_t>(s.prefill_graph_sizes.size()));
    return finish();
  }
  number("max_num_batched_tokens", s.max_num_batched_tokens);
  number("max_num_seqs", s.max_num_seqs);
  number("max_model_len", s.max_model_len);
  number("block_size", s.block_size);
  out += "    gpu_memory_utilization: " + format_number(s.gpu_memory_utilization) + "\n";
  flag("enable_prefix_caching", s.enable_prefix_caching);
  flag("enable_chunked_prefill", s.enable_chunked_prefill);
  flag("async_scheduling", s.async_scheduling);
  flag("enforce_eager", s.enforce_eager);
  number("long_prefill_token_threshold", s.long_prefill_token_threshold);
  number("stream_interval", s.stream_interval);
  number("captured_graph_sizes", static_cast<std::int64_t>(s.cudagraph_sizes.size()));
  number("largest_graph", s.cudagraph_sizes.empty() ? 0 : s.cudagraph_sizes.back());
  finish();
}

}  // namespace

namespace {

std::string resolved_pool(const Scenario& scenario, const PoolSpec& pool) {
  const HardwareProfile& h = pool.instance.hardware;
  const EngineProfile& e = pool.instance.engine;
  const MemoryPlan& m = pool.memory;
  std::string out;
  out += "  hardware: " + h.name + "\n  model: " + pool.instance.model.name + "\n  engine: " + e.name + "\n";
  out += std::string("  quantization: ") + to_string(pool.instance.model.quantization) + "\n";
  const KernelSet* kernels = pool.instance.kernels.get();
  out += "  kernels: " +
         (kernels == nullptr ? std::string("none, roofline only")
                             : kernels->name() + " (" + to_string(kernels->rung("")) + ")") +
         "\n";
  out += "  seed: " + std::to_string(scenario.seed) + "\n  gpus: " + std::to_string(pool.gpus()) + "\n";
  write_settings(out, e, pool.instance.plan.tp);
  const auto bytes = [&](const char* name, Bytes v) {
    out += std::string("    ") + name + ": " + format_fixed(v.value(), 0) + "\n";
  };
  out += "  memory_bytes_per_gpu:\n";
  bytes("total", m.total);
  bytes("requested", m.requested);
  bytes("weights", m.weights);
  bytes("activation_peak", m.activation_peak);
  bytes("graphs", m.graphs);
  bytes("residue", m.residue);
  bytes("kv_available", m.kv_available);
  bytes("kv_per_token", m.kv_bytes_per_token);
  out += "    kv_blocks: " + std::to_string(m.kv_blocks) +
         "\n    kv_tokens: " + std::to_string(m.kv_tokens()) + "\n";
  if (m.max_sequences > 0) out += "    max_sequences: " + std::to_string(m.max_sequences) + "\n";
  out += std::string("    blocks_overridden: ") + (m.blocks_overridden ? "true" : "false") + "\n";
  out += "  figures:\n    hardware:\n";
  for (const auto& [dtype, figure] : h.matrix_rate)
    write_figure(out, (std::string("matrix_rate_") + to_string(dtype)).c_str(), figure);
  write_figure(out, "memory_total", h.memory_total);
  write_figure(out, "memory_bandwidth", h.memory_bandwidth);
  write_figure(out, "kernel_floor", h.kernel_floor);
  write_figure(out, "link_bandwidth", h.link_bandwidth);
  for (const auto& [name, efficiency] : h.efficiency)
    write_figure(out, ("efficiency_" + name).c_str(), efficiency.value);
  write_host(out, e.host);
  if (pool.instance.plan.pp > 1) write_pipeline(out, *e.pipeline);
  if (scenario.pd.nixl && pool.role == PoolRole::decode) write_nixl(out, *e.nixl);
  if (scenario.workload.openai_frontend && e.front_end) write_front_end(out, *e.front_end);
  if (pool.first_request_effects && e.first_use) write_first_use(out, *e.first_use);
  if (has_changes(scenario.faults, scenario.pools()) && e.start) write_start(out, *e.start);
  return out;
}

// What KV transfers, and collectives between nodes, rest on.
std::string resolved_fabric(const fabric::Topology& topology, bool transfers, const PdRules& pd) {
  const auto figure = [](const char* name, const fabric::Figure& f) {
    return std::string(name) + ": {value: " + format_number(f.value) + ", kind: " + to_string(f.kind) +
           ", source: " + Json(f.source).dump() + "}\n";
  };
  std::string out = "  fabric:\n";
  if (transfers) out += "    " + figure("kv_transfer_floor_seconds", kv_transfer_floor);
  if (pd.lease > SimDuration(0)) out += "    " + figure("lease_of_failed_seconds", kv_lease);
  out += "    topology: " + Json(topology.name).dump() + "\n    links:\n";
  for (const fabric::LinkSource& source : topology.sources) {
    out += "      - what: " + Json(source.what).dump() + "\n        class: " + to_string(source.link_class) +
           "\n        " + figure("bandwidth", source.bandwidth) + "        " +
           figure("latency", source.latency);
  }
  return out;
}

// A pool's map as an entry of a list in a map.
std::string as_entry(const std::string& name, const std::string& map) {
  std::string out = "    - name: " + Json(name).dump() + "\n";
  for (std::size_t from = 0; from < map.size();) {
    const std::size_t end = map.find('\n', from) + 1;
    out += "    " + map.substr(from, end - from);
    from = end;
  }
  return out;
}

}  // namespace

std::string Scenario::resolved_yaml() const {
  std::string out = yaml;
  // A file that was already resolved carries an older section; ours replaces it.
  if (const std::size_t old = out.find("\nresolved:"); old != std::string::npos) out.resize(old + 1);
  out += "resolved:\n";
  const std::string fabric =
      topology == nullptr ? std::string() : resolved_fabric(*topology, is_disaggregated(pools()), pd);
  if (other_pools.empty()) return out + resolved_pool(*this, pool) + fabric;
  out += "  gpus: " + std::to_string(gpus()) + "\n  pools:\n";
  for (const PoolSpec* one : pools()) out += as_entry(one->name, resolved_pool(*this, *one));
  return out + fabric;
}

}  // namespace orrery
