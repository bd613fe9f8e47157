#include "costmodel/engine_profile.h"

#include <algorithm>
#include <array>
#include <filesystem>

#include "base/text.h"
#include "costmodel/host_terms.h"
#include "costmodel/profile_folder.h"
#include "costmodel/profile_reader.h"
#include "costmodel/step_pricer.h"
#include "costmodel/tensorrt_llm_profile.h"
#include "costmodel/typed_defaults.h"

namespace orrery {

namespace {

void read_defaults(const Yaml& node, EngineProfile& e) {
  SchedulerSettings& s = e.settings;
  s.block_size = node.require("block_size").integer(16, 1, 4096);
  s.gpu_memory_utilization = node.require("gpu_memory_utilization").number(0.9, 0.01, 1);
  s.enable_prefix_caching = node.require("enable_prefix_caching").boolean(true);
  s.enable_chunked_prefill = node.require("enable_chunked_prefill").boolean(true);
  s.async_scheduling = node.require("async_scheduling").boolean(true);
  s.enforce_eager = node.require("enforce_eager").boolean(false);
  s.scheduler_reserve_full_isl = node.require("scheduler_reserve_full_isl").boolean(true);
  s.long_prefill_token_threshold = node.require("long_prefill_token_threshold").integer(0, 0);
  s.watermark = node.require("watermark").number(0, 0, 1);
  node.require("source").text();
  for (const Yaml& row : node.require("by_device").items()) {
    DeviceDefaults d;
    if (const Yaml memory = row.optional("memory_at_least"); memory.present()) {
      d.memory_at_least = read_figure<Bytes>(memory).value;
    }
    d.max_num_batched_tokens = row.require("max_num_batched_tokens").integer(2048, 1);
    d.max_num_seqs = row.require("max_num_seqs").integer(256, 1);
    e.device_defaults.push_back(d);
  }
  if (e.device_defaults.empty() || e.device_defaults.back().memory_at_least.value() > 0) {
    node.optional("by_device").fail("the last entry must hold for every device: no memory_at_least");
  }
}

void read_graphs(const Yaml& node, EngineProfile& e) {
  node.require("source").text();
  for (const Yaml& size : node.require("dense").items()) e.graph_rule.dense.push_back(size.integer(1, 1));
  for (const Yaml& row : node.require("ranges").items()) {
    e.graph_rule.ranges.push_back({row.require("from").integer(8, 1), row.require("step").integer(8, 1)});
  }
  e.graph_rule.per_sequence = node.require("per_sequence").integer(2, 1);
  e.graph_rule.maximum = node.require("maximum").integer(512, 1);
  if (const Yaml own = node.optional("maximum_of"); own.present()) {
    for (const auto& [architecture, size] : own.entries())
      e.graph_rule.maximum_of.emplace_back(architecture, size.integer(1024, 1));
  }
}

void read_host(const Yaml& node, HostCosts& h) {
  for (const HostTerm& term : host_terms(h)) {
    const Yaml figure = term.optional ? node.optional(term.key) : node.require(term.key);
    if (figure.present() || !term.optional) *term.figure = read_figure<Seconds>(figure, true);
  }
  for (const HostRatio& term : host_ratios(h))
    *term.figure = read_number_figure(node.require(term.key), Dimension::ratio, true);
}

void read_memory(const Yaml& node, EngineProfile& e) {
  struct Runner {
    const char* key;
    Figure<double>* logit;
    Figure<Bytes>*graph, *residue;
  };
  const std::array runners{Runner{"v1", &e.logit_bytes_v1, &e.graph_bytes_v1, &e.residue_v1},
                           Runner{"v2", &e.logit_bytes_v2, &e.graph_bytes_v2, &e.residue_v2}};
  for (const Runner& runner : runners) {
    const Yaml row = node.require(runner.key);
    *runner.logit = read_number_figure(row.require("bytes_per_logit"), Dimension::count);
    *runner.graph = read_figure<Bytes>(row.require("bytes_per_graph"), true);
    *runner.residue = read_figure<Bytes>(row.require("residue"), true);
    if (const Yaml layer = row.optional("bytes_per_graph_layer");
        runner.key == std::string_view("v1") && layer.present())
      e.graph_layer_bytes_v1 = read_figure<Bytes>(layer);
  }
}

PipelineCosts read_pipeline(const Yaml& node) {
  PipelineCosts p;
  p.execute_share = read_number_figure(node.require("execute_share"), Dimension::ratio);
  p.message = read_figure<Seconds>(node.require("message"), true);
  p.empty_wait = read_figure<Seconds>(node.require("empty_wait"), true);
  return p;
}

void add_argument(const Yaml& place, EngineArgument argument, EngineProfile& e) {
  for (const EngineArgument& other : e.arguments) {
    if (other.name == argument.name) place.fail("argument " + quote(argument.name) + " is listed twice");
  }
  e.arguments.push_back(std::move(argument));
}

// `effective` and `ignored` are lists of names; `fixed` maps a name to {only, why}; `elsewhere` a name to a
// scenario key; `refused` a reason to a list of names.
void read_arguments(const Yaml& node, EngineProfile& e) {
  const Yaml effective = node.require("effective");
  if (e.typed) {
    read_typed_arguments(effective, *e.typed);
    for (const auto& [name, row] : effective.entries())
      add_argument(row, {name, ArgumentEffect::effective, {}, ""}, e);
  } else {
    for (const Yaml& name : effective.items())
      add_argument(name, {name.text(), ArgumentEffect::effective, {}, ""}, e);
  }
  for (const Yaml& name : node.require("ignored").items())
    add_argument(name, {name.text(), ArgumentEffect::ignored, {}, ""}, e);
  for (const auto& [name, row] : node.require("fixed").entries()) {
    std::vector<std::string> only;
    if (const Yaml values = row.require("only"); values.is_list()) {
      for (const Yaml& value : values.items()) only.push_back(value.text());
    } else {
      only.push_back(values.text());
    }
    add_argument(row, {name, ArgumentEffect::fixed, std::move(only), row.require("why").text()}, e);
  }
  for (const auto& [name, key] : node.require("elsewhere").entries()) {
    add_argument(key, {name, ArgumentEffect::elsewhere, {}, key.text()}, e);
  }
  for (const auto& [why, names] : node.require("refused").entries()) {
    for (const Yaml& name : names.items())
      add_argument(name, {name.text(), ArgumentEffect::refused, {}, why}, e);
  }
}

Result<EngineProfile> read_engine(YamlDocument document, const std::string& expected_name) {
  const Yaml root = document.root();
  EngineProfile e;
  e.name = root.require("name").text();
  if (!expected_name.empty()) check_profile_name(root.optional("name"), expected_name);
  e.description = root.require("description").text();
  e.engine = root.require("engine").text();
  e.version = root.require("version").text();
  e.scheduler = root.require("scheduler").text();
  e.kernels = root.require("kernels").text();
  if (root.optional("roles").present()) {
    e.typed = read_typed_profile(root);
    e.single_process_per_gpu = root.require("single_process_per_gpu").boolean(false);
    e.single_process_at_one_gpu = true;
  } else if (e.engine == "tensorrt-llm") {
    e.single_process_at_one_gpu = root.require("single_process_at_one_gpu").boolean(true);
    read_tensorrt_llm(root, e);
  } else {
    e.single_process_at_one_gpu = root.require("single_process_at_one_gpu").boolean(true);
    read_defaults(root.require("defaults"), e);
    read_graphs(root.require("graphs"), e);
    for (const Yaml& name : root.require("v2_architectures").items())
      e.v2_architectures.push_back(name.text());
    read_memory(root.require("memory"), e);
  }
  read_host(root.require("host"), e.host);
  e.image_costs = read_image_costs(root.optional("images"));
  if (const Yaml front_end = root.optional("front_end")) e.front_end = read_front_end(front_end);
  if (const Yaml first = root.optional("first_use")) {
    e.first_use = FirstUseCosts{.fused_experts = read_figure<Seconds>(first.require("fused_experts")),
                                .mxfp4_experts = read_figure<Seconds>(first.require("mxfp4_experts"))};
  }
  if (const Yaml start = root.optional("start")) {
    e.start = StartCosts{.engine = read_figure<Seconds>(start.require("engine")),
                         .engine_fp8_block = read_figure<Seconds>(start.require("engine_fp8_block")),
                         .load = read_figure<BytesPerSecond>(start.require("load"))};
  }
  if (const Yaml stages = root.optional("pipeline")) e.pipeline = read_pipeline(stages);
  e.overlap = read_overlap(root.optional("overlap"));
  if (const Yaml nixl = root.optional("nixl")) e.nixl = read_nixl_figures(nixl);
  if (const Yaml ranks = root.optional("data_parallel")) e.data_parallel = read_data_parallel(ranks);
  e.interval_host_error = read_number_figure(root.require("host_error"), Dimension::ratio).value;
  e.memory_error = read_memory_error(root.optional("memory_error"));
  read_latent_backends(root.optional("latent_attention"), e);
  e.kernel_laws = read_kernel_laws(root.optional("kernel_laws"));
  read_arguments(root.require("arguments"), e);
  document.finish();
  if (!document.errors().empty()) return document.errors();
  return e;
}

bool is_path(const std::string& name_or_path) {
  return name_or_path.find('/') != std::string::npos || name_or_path.ends_with(".yaml");
}

// What another version takes by default: `defaults` of an overlay, each a plain setting of its base.
void change_defaults(const Yaml& node, EngineProfile& e) {
  if (!node.present()) return;
  if (e.typed) return change_typed_defaults(node, *e.typed);
  SchedulerSettings& s = e.settings;
  node.require("source").text();
  if (e.engine == "tensorrt-llm") {  // moe_config.backend
    if (node.require("moe_backend").choice({"TRITON"}) == 0)
      s.options.set("moe_backend", std::string("TRITON"));
    return;
  }
  if (const Yaml v = node.optional("gpu_memory_utilization"); v.present())
    s.gpu_memory_utilization = v.number(0.9, 0.01, 1);
  if (const Yaml v = node.optional("async_scheduling"); v.present()) s.async_scheduling = v.boolean(true);
  if (const Yaml v = node.optional("scheduler_reserve_full_isl"); v.present())
    s.scheduler_reserve_full_isl = v.boolean(true);
  if (const Yaml v = node.optional("cudagraph_mode"); v.present())
    s.graphs_of_decodes_only = v.choice({"FULL_AND_PIECEWISE", "FULL_DECODE_ONLY"}) == 1;
}

// An overlay's laws stand in place of its base's for the same architecture.
void add_laws(std::vector<KernelLaws> laws, EngineProfile& e) {
  for (KernelLaws& law : laws) {
    const auto same = [&](const KernelLaws& l) { return l.architecture == law.architecture; };
    e.kernel_laws.erase(std::remove_if(e.kernel_laws.begin(), e.kernel_laws.end(), same),
                        e.kernel_laws.end());
    e.kernel_laws.push_back(std::move(law));
  }
}

constexpr int most_bases = 8;  // more, and the profiles name one another in a circle
Result<EngineProfile> load_named(const std::string& name, int overlays);

// One's own figures over a profile of ours, or another version over its neighbour.
Result<EngineProfile> read_overlay(YamlDocument document, const std::string& expected_name, int overlays) {
  const Yaml root = document.root();
  const Yaml base = root.require("base");
  if (is_path(base.text())) base.fail("must name a profile of engine_profiles/, not a file");
  if (overlays > most_bases) base.fail("the bases of this profile name one another in a circle");
  if (!document.errors().empty()) return document.errors();
  ORRERY_TRY(e, load_named(base.text(), overlays + 1));
  e.name = root.require("name").text();
  if (!expected_name.empty() && e.name != expected_name)
    root.optional("name").fail("must be the file's name, " + quote(expected_name));
  e.description = root.require("description").text();
  if (const Yaml version = root.optional("version"); version.present()) e.version = version.scalar_text();
  if (const Yaml only = root.optional("static_batches"); only.present())
    e.static_batches = only.boolean(false);
  change_defaults(root.optional("defaults"), e);
  if (const Yaml kernels = root.optional("kernels"); kernels.present())
    e.kernels = kernels.text() + " " + e.kernels;
  for (const auto& [name, row] : root.optional("host").entries()) {
    bool known = false;
    std::vector<std::string> names;
    for (const HostTerm& term : host_terms(e.host)) {
      names.emplace_back(term.key);
      if (name != term.key) continue;
      *term.figure = read_figure<Seconds>(row, true);
      known = true;
    }
    for (const HostRatio& term : host_ratios(e.host)) {
      names.emplace_back(term.key);
      if (name != term.key) continue;
      *term.figure = read_number_figure(row, Dimension::ratio, true);
      known = true;
    }
    if (!known) row.fail("unknown host term" + did_you_mean(name, names) + "; known: " + join(names, ", "));
  }
  if (const Yaml runner = root.optional("v2_architectures"); runner.present()) {
    e.v2_architectures.clear();
    for (const Yaml& name : runner.items()) e.v2_architectures.push_back(name.text());
  }
  if (const Yaml laws = root.optional("kernel_laws"); laws.present()) add_laws(read_kernel_laws(laws), e);
  if (const Yaml latent = root.optional("latent_attention"); latent.present()) {
    e.latent_backends.clear();
    read_latent_backends(latent, e);
  }
  if (const Yaml overlap = root.optional("overlap"); overlap.present()) {
    const OverlapRules changed = read_overlap(overlap);
    if (overlap.optional("shared_experts").present()) e.overlap.shared = changed.shared;
    if (overlap.optional("fused_all_reduce").present()) e.overlap.fused_of = changed.fused_of;
    if (overlap.optional("dependent_launch").present()) e.overlap.launch = changed.launch;
  }
  if (const Yaml error = root.optional("host_error"); error.present())
    e.interval_host_error = read_number_figure(error, Dimension::ratio).value;
  if (const Yaml error = root.optional("memory_error"); error.present())
    e.memory_error = read_memory_error(error);
  for (const auto& [name, row] : root.optional("operators").entries()) {
    std::vector<std::string> names;
    for (std::size_t i = 0; i < op_class_count; ++i) names.emplace_back(to_string(static_cast<OpClass>(i)));
    if (std::find(names.begin(), names.end(), name) == names.end())
      row.fail("unknown operator class" + did_you_mean(name, names) + "; known: " + join(names, ", "));
    e.operator_factors.emplace_back(name, read_number_figure(row, Dimension::ratio));
  }
  document.finish();
  if (!document.errors().empty()) return document.errors();
  return e;
}

Result<EngineProfile> read_any(YamlDocument document, const std::string& expected_name, int overlays) {
  return document.root().optional("base").present()
             ? read_overlay(std::move(document), expected_name, overlays)
             : read_engine(std::move(document), expected_name);
}

Result<EngineProfile> load_named(const std::string& name, int overlays) {
  ORRERY_TRY(path, find_profile("engine_profiles", name, "engine"));
  ORRERY_TRY(document, YamlDocument::load(path));
  return read_any(std::move(document), name, overlays);
}

}  // namespace

Result<EngineProfile> load_engine(const std::string& name, const std::string& folder) {
  if (is_path(name)) {
    const std::string own = (std::filesystem::path(folder) / name).lexically_normal().string();
    ORRERY_TRY(document, YamlDocument::load(own));
    return read_any(std::move(document), "", 0);
  }
  return load_named(name, 0);
}

Result<EngineProfile> parse_engine(const std::string& text, const std::string& file_name) {
  ORRERY_TRY(document, YamlDocument::parse(text, file_name));
  return read_any(std::move(document), "", 0);
}

}  // namespace orrery
