#include "costmodel/overlap.h"

#include <algorithm>
#include <limits>

#include "costmodel/engine_profile.h"
#include "costmodel/hardware.h"
#include "costmodel/model_spec.h"
#include "costmodel/parallel_plan.h"
#include "costmodel/profile_reader.h"

namespace orrery {

namespace {

constexpr double mib = 1024.0 * 1024;
constexpr std::int64_t most = 1'000'000'000;

SharedExpertStream read_shared(const Yaml& node) {
  SharedExpertStream s;
  s.on = node.require("on").boolean(false);
  s.vendor = node.optional("vendor").text();
  s.most_tokens = node.optional("most_tokens").integer(0, 1, most);
  s.full_graphs_only = node.require("graphs").choice({"any", "full"}) == 1;
  s.exchanged =
      static_cast<BesideExchange>(node.require("exchanged").choice({"nothing", "combine", "everything"}));
  s.fork_join = read_figure<Seconds>(node.require("fork_join"), true);
  s.bandwidth = read_number_figure(node.require("bandwidth"), Dimension::ratio);
  node.require("source").text();
  return s;
}

FusedAllReduce read_fused(const Yaml& node) {
  FusedAllReduce f;
  f.on = node.require("on").boolean(false);
  f.architecture = node.require("architecture").text();
  if (const Yaml models = node.optional("models"); models.present()) {
    for (const Yaml& model : models.items()) f.models.push_back(model.text());
  }
  f.most_tokens = node.optional("most_tokens").integer(0, 1, most);
  if (const Yaml sizes = node.optional("most_mib"); sizes.present()) {
    for (const Yaml& row : sizes.items())
      f.most_bytes.emplace_back(row.optional("ranks").integer(0, 2, 1024),
                                row.require("mib").number(0, 0, 1e6) * mib);
  }
  f.embedding = node.optional("embedding").boolean(false);
  f.static_scale = node.optional("static_scale").boolean(false);
  f.quantises = node.optional("quantises").boolean(false);
  node.require("source").text();
  return f;
}

bool among(const std::vector<std::string>& names, const std::string& name) {
  return names.empty() || std::find(names.begin(), names.end(), name) != names.end();
}

// SGLang (0.5.23, arg_groups/serving_hook.py, overrides.py): the deprecated switch asks for the back end
// `auto`; enforcing wins over everything. On ROCm the argument is AITER's.
void take_sglang_arguments(OverlapRules& rules, const NamedOptions& options, bool amd) {
  const auto flag = [&](const char* name) { return options.has(name) && options.flag(name); };
  if (amd) {
    if (flag("enable_aiter_allreduce_fusion")) rules.fused_given = 1;
    return;
  }
  if (options.has("flashinfer_allreduce_fusion_backend") || flag("enable_flashinfer_allreduce_fusion"))
    rules.fused_given = 1;
  if (flag("enforce_disable_flashinfer_allreduce_fusion")) rules.fused_given = 0;
}

// Tokens of a step up to which its buffer may be fused; 0 = none.
std::int64_t fused_tokens(const FusedAllReduce& f, const ModelSpec& model, std::int64_t tp, double given) {
  std::int64_t tokens = f.most_tokens > 0 ? f.most_tokens : std::numeric_limits<std::int64_t>::max();
  if (f.most_bytes.empty()) return tokens;
  const auto row = std::find_if(f.most_bytes.begin(), f.most_bytes.end(),
                                [&](const auto& size) { return size.first == 0 || size.first == tp; });
  if (row == f.most_bytes.end()) return 0;
  const double bytes = given >= 0 ? given : row->second;
  return std::min(tokens, static_cast<std::int64_t>(bytes) / (2 * model.hidden));
}

// Asked for, and the engine does without.
void ignore_fusing(EngineProfile& engine) {
  if (engine.engine == "vllm")
    return engine.ignored_args.push_back("compilation_config.pass_config.fuse_allreduce_rms");
  for (const char* name : {"flashinfer_allreduce_fusion_backend", "enable_flashinfer_allreduce_fusion",
                           "enable_aiter_allreduce_fusion"}) {
    if (engine.typed && engine.settings.options.has(name)) engine.ignored_args.push_back(name);
  }
}

}  // namespace

OverlapRules read_overlap(const Yaml& node) {
  OverlapRules rules;
  if (!node.present()) return rules;
  if (const Yaml shared = node.optional("shared_experts"); shared.present())
    rules.shared = read_shared(shared);
  if (const Yaml fused = node.optional("fused_all_reduce"); fused.present()) {
    for (const Yaml& row : fused.items()) rules.fused_of.push_back(read_fused(row));
  }
  if (const Yaml launch = node.optional("dependent_launch"); launch.present()) {
    rules.launch.on = launch.require("on").boolean(false);
    rules.launch.architecture = launch.require("architecture").text();
    rules.launch.saved = read_figure<Seconds>(launch.require("saved"));
    launch.require("source").text();
  }
  return rules;
}

bool apply_overlap_argument(const std::string& name, const Yaml& value, OverlapRules& rules) {
  if (name == "VLLM_DISABLE_SHARED_EXPERTS_STREAM") {
    if (value.integer(0, 0, 1) == 1) rules.shared.on = false;
  } else if (name == "VLLM_SHARED_EXPERTS_STREAM_TOKEN_THRESHOLD") {
    rules.shared.most_tokens = value.integer(256, 0, most);
    if (rules.shared.most_tokens == 0) rules.shared.on = false;
  } else if (name == "env_overrides.TRTLLM_ENABLE_PDL") {
    rules.launch.on = value.integer(1, 0, 1) == 1;
  } else if (name.starts_with("env_overrides.TRTLLM_") && name.ends_with("_EAGER_FUSION_DISABLED")) {
    if (value.integer(0, 0, 1) == 1) rules.fused_given = 0;
  } else {
    return false;
  }
  return true;
}

// config/vllm.py, `enable_allreduce_rms_fusion`, and config/compilation.py, `PassConfig`.
void apply_fusion_passes(const Yaml& value, EngineProfile& engine) {
  for (const auto& [key, entry] : value.entries()) {
    if (key == "fuse_allreduce_rms") {
      engine.overlap.fused_given = entry.boolean(false) ? 1 : 0;
    } else if (key == "fi_allreduce_fusion_max_size_mb") {
      engine.overlap.fused_bytes_given = entry.number(0, 0, 1e6) * mib;
    } else {
      accept_all(entry);
      entry.fail(
          "this pass is not modelled by this version of Orrery; modelled: fuse_allreduce_rms, "
          "fi_allreduce_fusion_max_size_mb");
    }
  }
}

void resolve_overlap(EngineProfile& engine, const HardwareProfile& hardware, const ModelSpec& model,
                     const ParallelPlan& plan, const Yaml& place) {
  OverlapRules& rules = engine.overlap;
  if (!rules.shared.vendor.empty() && rules.shared.vendor != hardware.vendor) rules.shared.on = false;
  if (model.shared_expert_intermediate == 0) rules.shared.on = false;
  if (rules.launch.architecture != hardware.architecture) rules.launch.on = false;
  if (engine.typed) take_sglang_arguments(rules, engine.settings.options, hardware.vendor == "amd");
  rules.fused_tokens = 0;
  const auto of_part =
      std::find_if(rules.fused_of.begin(), rules.fused_of.end(),
                   [&](const FusedAllReduce& f) { return f.architecture == hardware.architecture; });
  if (of_part == rules.fused_of.end()) {
    if (rules.fused_given == 1)
      place.fail("all-reduces fused with norms: " + engine.engine + " has no such kernel on " +
                 hardware.name + "; leave the argument out");
    return;
  }
  rules.fused = *of_part;
  const bool by_default = rules.fused.on && among(rules.fused.models, model.architecture) &&
                          (engine.engine == "vllm" || plan.dp == 1) && !engine.settings.joint.exchanges();
  if (rules.fused_given == 0 || (rules.fused_given < 0 && !by_default)) return;
  // Compiled passes alone fuse on vLLM; SGLang's ranks of attention data parallelism reduce otherwise; a norm
  // of what attention gives (Gemma) is another kernel. Under context parallelism sums are of other GPUs' rows
  // too, and stand behind the way back to a rank's own.
  const bool vllm = engine.engine == "vllm";
  const bool apart = plan.tp < 2 || plan.cp > 1 || (vllm && engine.settings.enforce_eager) ||
                     model.output_norms || (!vllm && plan.dp > 1);
  const bool by_flashinfer = hardware.vendor == "nvidia";
  if (!apart) {
    const double given = by_flashinfer ? rules.fused_bytes_given : -1;
    rules.fused_tokens = fused_tokens(rules.fused, model, plan.tp, given);
  }
  if (rules.fused_given == 1 && rules.fused_tokens == 0) ignore_fusing(engine);
  if (vllm && rules.fused_bytes_given >= 0 && !by_flashinfer)
    engine.ignored_args.push_back("compilation_config.pass_config.fi_allreduce_fusion_max_size_mb");
}

}  // namespace orrery
