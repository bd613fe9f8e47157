// The price of a step whose prompts are dealt to the ranks of context parallelism, and what a split cache
// adds to the host's work.
#include <algorithm>
#include <string_view>

#include "costmodel/pricer_state.h"

namespace orrery {

void GraphPadding::deal_out(const StepShape& shape, PaddedStep& step) const {
  step.split_prompts = context_.splits && can_split(shape, context_.prompt_ranks);
  step.gathered = step.tokens;
  if (!step.split_prompts) return;
  step.tokens = split_rows(shape, context_.prompt_ranks);
  step.gathered = step.tokens * context_.prompt_ranks;
}

double PricerState::context_ns(const PaddedStep& padded) const {
  return padded.split_prompts ? over_ns(split_table, DependsOn::split_prompts, padded.gathered)
                              : over_ns(whole_table, DependsOn::whole_step, padded.gathered);
}

void PricerState::add_context(const InstanceSpec& spec, double host_scale) {
  const ContextSettings& context = spec.engine.settings.context;
  const auto ns = [&](const Figure<Seconds>& f) { return f.value.value() * 1e9 * host_scale; };
  const double kernel = ns(spec.engine.host.launch_kernel),
               collective = ns(spec.engine.host.launch_collective);
  for (const GraphNode& node : nodes) {
    const bool joins = node.entry->op_class == OpClass::collective;
    if (node.spec.depends_on == DependsOn::split_prompts) {
      kernels_of_split += node.kernels();
      if (joins) host.launch_split_more += static_cast<double>(node.count) * collective;
    }
    // vLLM's attention is one custom operator between graph pieces: all that it launches is launched by
    // itself. (What every attention launches is counted already.)
    const std::string_view name = node.name;
    if (context.splits_cache() && (name.starts_with("dcp_") || name == "attention_new_tokens"))
      host.launch_piecewise += static_cast<double>(node.kernels()) * kernel +
                               (joins ? static_cast<double>(node.count) * collective : 0);
  }
  shares_prompts = context.shares_prompts();
  if (!shares_prompts) return;
  gathered_table = PriceTable::create();
  split_table = PriceTable::create();
  whole_table = PriceTable::create();
}

}  // namespace orrery
