// Host work of paths that not every model or deployment takes: several groups of KV layers, layers with a
// state, n-grams. Read in vLLM 0.24; the figures are the engine profile's.
#include "costmodel/kv_groups.h"
#include "costmodel/pricer_state.h"

namespace orrery {

// Every group of KV layers has a block table and slots of its own: copied, computed by a kernel and handed to
// a metadata builder (v1/worker/gpu_model_runner.py, _prepare_inputs, _get_slot_mappings,
// _build_attention_metadata; the V2 runner has one kernel for all groups, gpu/block_table.py). And the
// scheduler asks each group's manager for every sequence (v1/core/kv_cache_coordinator.py).
void add_group_terms(const InstanceSpec& spec, double scale, HostNanoseconds& ns) {
  const KvCacheGroups groups = kv_cache_groups(spec.model, spec.engine);
  const auto further = static_cast<double>(groups.full + groups.windowed + groups.states - 1);
  if (further <= 0) return;
  const HostCosts& h = spec.engine.host;
  ns.schedule_per_sequence += further * nanoseconds(h.schedule_per_group, scale);
  if (spec.engine.runner == "v1") ns.prepare_base += further * nanoseconds(h.prepare_per_group, scale);
}

// vLLM: NgramProposer.propose, on the CPU behind the sampled tokens' copy and before the scheduler's update
// (gpu_model_runner.py, sample_tokens: propose_drafts_after_bookkeeping).
void set_proposing_terms(const HostCosts& host, double scale, HostNanoseconds& ns) {
  ns.ngram_token = nanoseconds(host.ngram_token, scale);
  ns.ngram_propose = nanoseconds(host.ngram_propose, scale);
  ns.ngram_propose_per_sequence = nanoseconds(host.ngram_propose_per_sequence, scale);
}

// A search looks through all tokens that the sequences have after the step.
double PricerState::proposing_ns(const StepShape& shape) const {
  if (host.ngram_token == 0 && host.ngram_propose == 0) return 0;
  std::int64_t tokens = shape.decode_context_tokens + shape.decode_sequences + shape.draft_tokens;
  for (const PrefillChunk& chunk : shape.prefill) tokens += chunk.context + chunk.new_tokens;
  const auto sequences =
      static_cast<double>(shape.decode_sequences) + static_cast<double>(shape.prefill.size());
  return host.ngram_token * static_cast<double>(tokens) + host.ngram_propose +
         host.ngram_propose_per_sequence * sequences;
}

// All that a layer with a state runs between its products is one custom operator, launched from Python kernel
// by kernel (mamba/gdn/qwen_gdn_linear_attn.py, _forward_core).
void PricerState::add_state_launches(const InstanceSpec& spec, double scale) {
  const double triton = nanoseconds(spec.engine.host.launch_triton, scale);
  for (const GraphNode& node : nodes) {
    if (node.draft || node.entry->op_class != OpClass::linear_attention) continue;
    HostNanoseconds::StateLaunches& launches =
        node.spec.depends_on == DependsOn::decode ? host.state_decodes : host.state_prompts;
    launches.kernels += static_cast<double>(node.kernels());
    launches.more += static_cast<double>(node.count * node.entry->triton) * triton;
  }
}

// Kernels of a step without a graph are counted with all others. Two batches launch everything twice.
double PricerState::state_launch_ns(const StepShape& shape, const PaddedStep& padded) const {
  if (padded.mode == GraphMode::full) return 0;
  double ns = 0;
  const auto add = [&](const HostNanoseconds::StateLaunches& launches) {
    ns += launches.more + (padded.mode == GraphMode::piecewise ? launches.kernels * host.launch_kernel : 0);
  };
  if (!shape.prefill.empty()) add(host.state_prompts);
  if (shape.decode_sequences > 0) add(host.state_decodes);
  return padded.two_batches ? 2 * ns : ns;
}

}  // namespace orrery
