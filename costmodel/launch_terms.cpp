// What of a step's graph the host launches: counts of kernels, and what single ones take beside them.
#include "costmodel/pricer_state.h"

namespace orrery {

namespace {

double fitted_factor(const EngineProfile& engine, OpClass op_class) {
  for (const auto& [name, factor] : engine.operator_factors) {
    if (name == to_string(op_class)) return factor.value;
  }
  return 1;
}

// Steps with prompts, which are those launched kernel by kernel, exchange rows by other kernels. What split
// prompts add is counted apart (costmodel/context_price.cpp).
bool other_step(const InstanceSpec& spec, DependsOn d) {
  return d == DependsOn::split_prompts || (d == DependsOn::exchanged_low_latency &&
                                           spec.engine.settings.joint.exchange == ExpertExchange::by_prompts);
}

}  // namespace

void PricerState::count_kernels(const InstanceSpec& spec, const PriceScales& scales) {
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    const GraphNode& node = nodes[i];
    weights.push_back(static_cast<double>(node.count) *
                      scales.op[static_cast<std::size_t>(node.entry->op_class)] *
                      fitted_factor(spec.engine, node.entry->op_class));
    const DependsOn d = node.spec.depends_on;
    if (d == DependsOn::rows || (node.draft && d == DependsOn::drafting)) last_node = i;
    if (node.draft) continue;
    // Steps that launch kernel by kernel gather by sum (costmodel/joint_step.cpp), but for wide decodes.
    const bool gathered = is_gathered(d) && d != DependsOn::gathered_evenly && !other_step(spec, d);
    exchanges |= is_exchanged(d);
    if (d == DependsOn::tokens || d == DependsOn::rows || gathered)
      kernels_without_attention += node.kernels();
    const OpClass c = node.entry->op_class;
    const bool attends = c == OpClass::attention_decode, tree = node.name.starts_with("tree_");
    if (d == DependsOn::decode && tree) kernels_of_tree += node.kernels();
    if (d == DependsOn::decode && attends && !tree) attention_layers += node.count;
    if (d == DependsOn::decode && !attends && !tree) kernels_of_decode += node.kernels();
    if (d == DependsOn::prefill && c != OpClass::attention_prefill) kernels_of_prefill += node.kernels();
  }
}

void PricerState::add_launches(const InstanceSpec& spec, double scale) {
  const HostCosts& h = spec.engine.host;
  for (const GraphNode& node : nodes) {
    const DependsOn d = node.spec.depends_on;
    if (node.draft || d == DependsOn::handoff || d == DependsOn::two_batches || other_step(spec, d)) continue;
    const double count = static_cast<double>(node.count);
    // One call from Python, timed as a whole or kernel by kernel.
    if (node.name == "moe_experts" || node.name == "moe_gate_up" || node.name == "moe_experts_masked")
      host.launch_eager_more += count * nanoseconds(h.launch_experts, scale);
    if (node.entry->op_class == OpClass::collective && d != DependsOn::gathered_evenly)
      host.launch_eager_more += count * nanoseconds(h.launch_collective, scale);
  }
}

}  // namespace orrery
