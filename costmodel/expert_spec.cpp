#include "costmodel/expert_spec.h"

#include <algorithm>
#include <filesystem>

#include "costmodel/experts/demands.h"
#include "costmodel/model_spec.h"
#include "costmodel/parallel_plan.h"

namespace orrery {

namespace {

using Law = PopularitySpec::Law;
using Policy = BalancingSpec::Policy;

void read_counts(const Yaml& key, const std::string& folder, ExpertSpec& spec, const ModelSpec& model) {
  PopularitySpec& p = spec.popularity;
  p.file = (std::filesystem::path(folder) / key.text()).lexically_normal().string();
  auto counts = load_expert_counts(p.file);
  if (!counts.ok()) return key.fail(to_string(counts.errors()));
  p.counts = std::move(counts).value();
  if (static_cast<std::int64_t>(p.counts.experts()) == model.experts &&
      static_cast<std::int64_t>(p.counts.layers()) == spec.layers)
    return;
  key.fail("counts " + std::to_string(p.counts.experts()) + " experts in " +
           std::to_string(p.counts.layers()) + " layers; " + model.name + " has " +
           std::to_string(model.experts) + " in " + std::to_string(spec.layers) + " layers with experts");
}

void read_popularity(const Yaml& node, const std::string& folder, ExpertSpec& spec, const ModelSpec& model) {
  PopularitySpec& p = spec.popularity;
  if (!node.present()) return;
  if (!node.is_map()) {
    if (node.scalar_text() != "uniform")
      node.fail("expected uniform, {zipf: EXPONENT}, {dirichlet: CONCENTRATION} or {file: COUNTS.csv}");
    return;
  }
  const Yaml zipf = node.optional("zipf"), dirichlet = node.optional("dirichlet"),
             file = node.optional("file");
  if (zipf.present() + dirichlet.present() + file.present() != 1)
    return node.fail("expected one of zipf, dirichlet and file");
  if (zipf.present()) {
    p.law = Law::zipf;
    p.parameter = zipf.number(1, 0, 8);
  } else if (dirichlet.present()) {
    p.law = Law::dirichlet;
    p.parameter = dirichlet.number(1, 0.01, 1e6);
  } else {
    p.law = Law::file;
    read_counts(file, folder, spec, model);
  }
}

// What the engines do where the scenario says nothing. vLLM 0.24 (config/parallel.py, eplb_state.py): window
// 1000, every 3000 steps, the first after a quarter of that, weights moved while steps run. SGLang 0.5: every
// 1000 passes over their counts, the pass waits (../shared/reference/sglang_0_5.md §6).
void set_engine_defaults(const std::string& engine, const Yaml& every, const Yaml& window,
                         BalancingSpec& eplb) {
  const bool vllm = engine == "vllm";
  eplb.every_steps = every.integer(vllm ? 3000 : 1000, 1, 1'000'000'000);
  eplb.window_steps = window.integer(vllm ? 1000 : eplb.every_steps, 1, 1'000'000'000);
  eplb.first_steps = vllm ? std::max<std::int64_t>(1, eplb.every_steps / 4) : eplb.every_steps;
  eplb.overlapped = vllm;
}

void read_eplb(const Yaml& node, const std::string& engine, const ModelSpec& model, std::int32_t ep,
               BalancingSpec& eplb) {
  if (!node.present()) return;
  const Yaml policy = node.optional("policy"), redundant = node.optional("redundant"),
             every = node.optional("every_steps"), window = node.optional("window_steps"),
             threshold = node.optional("threshold"), overlapped = node.optional("overlapped"),
             nodes = node.optional("nodes");
  if (policy.present())
    eplb.policy = static_cast<Policy>(policy.choice({"off", "static", "periodic", "threshold"}));
  eplb.redundant = static_cast<std::int32_t>(redundant.integer(0, 0, 65536));
  set_engine_defaults(engine, every, window, eplb);
  eplb.threshold = threshold.number(0.9, 0.01, 1);
  eplb.overlapped = overlapped.boolean(eplb.overlapped);
  eplb.nodes = static_cast<std::int32_t>(nodes.integer(1, 1, 4096));
  eplb.groups = static_cast<std::int32_t>(std::max<std::int64_t>(1, model.expert_groups));
  const std::int64_t slots = model.experts + eplb.redundant;
  if (eplb.policy == Policy::off) {
    if (eplb.redundant > 0) redundant.fail("redundant experts need a policy: static, periodic or threshold");
    return;
  }
  if (ep == 1) {
    node.fail(
        "balancing experts needs expert parallelism, where ranks differ; set parallel.ep, or policy: off");
  } else if (slots % ep != 0) {
    (redundant.present() ? redundant : node)
        .fail("experts and redundant ones (" + std::to_string(slots) +
              ") must divide by ep = " + std::to_string(ep));
  }
  if (ep % eplb.nodes != 0 || slots % eplb.nodes != 0)
    nodes.fail("must divide ep = " + std::to_string(ep) + " and the " + std::to_string(slots) + " slots");
  if (eplb.policy != Policy::threshold && threshold.present()) threshold.fail("is for policy: threshold");
  if (engine == "tensorrt-llm" && eplb.moves())
    policy.fail(
        "TensorRT-LLM's online balancer, which moves some layers in every iteration, is not modelled by "
        "this version of Orrery; use static or off");
}

void check_groups(const Yaml& node, const ModelSpec& model) {
  const std::int64_t reachable = model.experts / model.expert_groups * model.expert_groups_chosen;
  if (model.expert_groups > most_groups)
    node.fail(model.name + "'s router chooses among more than " + std::to_string(most_groups) +
              " groups of experts, which is not modelled; remove the key");
  if (reachable < model.experts_per_token)
    node.fail(model.name + "'s chosen groups have " + std::to_string(reachable) +
              " experts, and a token asks for " + std::to_string(model.experts_per_token));
}

}  // namespace

const char* to_string(Policy policy) {
  switch (policy) {
    case Policy::fixed: return "static";
    case Policy::periodic: return "periodic";
    case Policy::threshold: return "threshold";
    case Policy::off: break;
  }
  return "off";
}

ExpertSpec read_experts(const Yaml& node, const ModelSpec& model, const ParallelPlan& plan,
                        const std::string& engine, const std::string& folder) {
  ExpertSpec spec;
  for (const LayerKind& kind : model.layer_kinds) {
    if (!kind.moe) continue;
    spec.layers += static_cast<std::int32_t>(kind.count);
    spec.expert_bytes = 0;
    for (const WeightTensor& t : kind.weights) {
      if (t.name.starts_with("experts."))
        spec.expert_bytes += t.bytes().value() / static_cast<double>(t.copies);
    }
  }
  spec.all_layers = spec.layers;
  if (!node.present()) return spec;
  if (model.expert_groups_chosen < model.expert_groups) {
    spec.popularity.limit = {.groups = static_cast<std::int32_t>(model.expert_groups),
                             .chosen = static_cast<std::int32_t>(model.expert_groups_chosen),
                             .best = static_cast<std::int32_t>(model.expert_group_best)};
    spec.popularity.demands = std::make_shared<ExpertDemands>();
    spec.clumped = plan.ep > 1 && spec.layers > 0;
    check_groups(node, model);
  }
  read_popularity(node.optional("popularity"), folder, spec, model);
  PopularitySpec& p = spec.popularity;
  p.layer_correlation = node.optional("layer_correlation").number(0, 0, 1);
  if (const Yaml drift = node.optional("drift"); drift.present()) {
    p.every_s = drift.require("every_s").number(60, 1e-3, 1e9);
    p.steps = static_cast<std::int32_t>(drift.optional("steps").integer(1, 1, 1000));
    if (p.uniform())
      drift.fail("uniform popularity does not drift; give popularity: zipf, dirichlet or file");
  }
  if (const Yaml routing = node.optional("routing"); routing.present())
    spec.sampled = routing.choice({"expected", "sampled"}) == 1;
  read_eplb(node.optional("eplb"), engine, model, plan.ep, spec.eplb);
  if (plan.pp > 1 && spec.eplb.moves())
    node.optional("eplb").optional("policy").fail(
        "moving experts in a run works with pipeline stages in neither engine (docs/experts.md); use static, "
        "off or pp: 1");
  if (spec.on() && spec.layers == 0) node.fail(model.name + " has no experts; remove the key");
  return spec;
}

ExpertPlacement first_placement(const ExpertSpec& spec, const ExpertPopularity& popularity,
                                std::int32_t ranks, std::int32_t layer) {
  const BalancingSpec& eplb = spec.eplb;
  if (eplb.policy != Policy::fixed || ranks == 1)
    return initial_placement(popularity.experts(), eplb.redundant, ranks);
  const auto demand = popularity.demand(layer, 0);
  return balance_experts(
      demand->inclusion,
      {.redundant = eplb.redundant, .ranks = ranks, .groups = eplb.groups, .nodes = eplb.nodes});
}

}  // namespace orrery
