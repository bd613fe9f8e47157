#include "costmodel/memory_plan.h"

#include <algorithm>
#include <cmath>

#include "base/text.h"

namespace orrery {

namespace {

// Weights of one rank: matrices are split over the tensor-parallel ranks, norms and routers are replicated; KV heads
// are replicated when there are fewer of them than ranks.
Bytes weights_of_rank(const ModelSpec& m, std::int32_t tp) {
  const auto share = [&](const WeightTensor& w) {
    const bool replicated = w.columns == 1 || w.name == "router";
    if (replicated) return w.bytes();
    const bool kv = w.name == "k_proj" || w.name == "v_proj";
    const double parts = kv ? static_cast<double>(std::min<std::int64_t>(tp, m.kv_heads)) : static_cast<double>(tp);
    return w.bytes() / parts;
  };
  Bytes sum;
  for (const LayerKind& kind : m.layer_kinds) {
    for (const WeightTensor& w : kind.weights) sum += share(w) * static_cast<double>(kind.count);
  }
  for (const WeightTensor& w : m.global_weights) sum += share(w);
  return sum;
}

// Torch's peak in one dummy step of max_num_batched_tokens tokens: the widest pair of neighbouring activations of a layer
// beside the residual stream, or the sampler on its logit rows, whichever is more (they are not alive together).
Bytes activation_peak(const InstanceSpec& spec) {
  const ModelSpec& m = spec.model;
  const SchedulerSettings& s = spec.engine.settings;
  const auto tp = static_cast<double>(spec.plan.tp);
  const auto tokens = static_cast<double>(s.max_num_batched_tokens);
  const auto hidden = static_cast<double>(m.hidden);
  double widest = 3.0 * static_cast<double>(m.intermediate) / tp;  // gate_up (2 I) and its product (I)
  if (m.experts > 0) {
    const double k = static_cast<double>(m.experts_per_token), i = static_cast<double>(m.expert_intermediate) / tp;
    widest = k * (std::max(2.0 * i, hidden) + i);  // the two grouped GEMMs share one buffer (vLLM fused_experts)
  }
  const double forward = tokens * 2.0 * (2.0 * hidden + widest);
  const double rows = static_cast<double>(std::min(s.max_num_seqs, s.max_num_batched_tokens));
  const double per_logit = spec.engine.runner == "v2" ? spec.engine.sampler_bytes_v2.value : spec.engine.sampler_bytes_v1.value;
  const double sampler = rows * static_cast<double>(m.vocabulary) * per_logit;
  return Bytes(std::max(forward, sampler));
}

std::string gib(Bytes b) { return human_bytes(b.value()); }

Error does_not_fit(const InstanceSpec& spec, const MemoryPlan& p, double missing) {
  const std::int32_t tp = spec.plan.tp;
  return make_error(ErrorKind::infeasible,
                    spec.model.name + " does not fit on " + std::to_string(tp) + " x " + spec.hardware.name + ": per GPU " +
                        gib(p.weights) + " of weights, " + gib(p.activation_peak + p.graphs + p.residue) +
                        " of activations, graphs and framework, " + gib(p.requested) + " requested; " +
                        human_bytes(missing) + " missing. Try tp: " + std::to_string(2 * tp) +
                        ", a smaller quantization, or a higher gpu_memory_utilization (now " +
                        std::to_string(spec.engine.settings.gpu_memory_utilization).substr(0, 4) + ")");
}

}  // namespace

Result<MemoryPlan> plan_memory(const InstanceSpec& spec) {
  const ModelSpec& m = spec.model;
  const SchedulerSettings& s = spec.engine.settings;
  const bool v2 = spec.engine.runner == "v2";
  MemoryPlan p;
  p.block_size = s.block_size;
  p.total = spec.hardware.memory_total.value;
  p.requested = Bytes(std::ceil(p.total.value() * s.gpu_memory_utilization));
  p.weights = weights_of_rank(m, spec.plan.tp);
  p.activation_peak = activation_peak(spec);
  p.graphs = v2 || s.cudagraph_sizes.empty() ? Bytes(0) : spec.engine.graph_estimate_v1.value;
  p.residue = v2 ? spec.engine.residue_v2.value : spec.engine.residue_v1.value;
  p.kv_available = p.requested - p.weights - p.activation_peak - p.graphs - p.residue;
  if (s.kv_cache_memory_bytes > 0) p.kv_available = Bytes(static_cast<double>(s.kv_cache_memory_bytes));
  // page = 2·bs·max(kv_heads/TP, 1)·d·bytes of one layer; blocks = (avail // page) // layers.
  const std::int64_t heads = std::max<std::int64_t>(1, m.kv_heads / spec.plan.tp);
  const double per_layer_token = 2.0 * static_cast<double>(heads * m.head_dim) * bytes_per_element(m.kv_dtype);
  p.kv_bytes_per_token = Bytes(per_layer_token * static_cast<double>(m.layers));
  const double page = per_layer_token * static_cast<double>(s.block_size);
  if (p.weights.value() + p.residue.value() > p.total.value()) {
    return does_not_fit(spec, p, p.weights.value() + p.residue.value() - p.total.value());
  }
  p.blocks_overridden = s.num_gpu_blocks_override > 0;
  if (p.blocks_overridden) {
    p.kv_blocks = s.num_gpu_blocks_override;
  } else {
    if (p.kv_available.value() < page * static_cast<double>(m.layers)) return does_not_fit(spec, p, -p.kv_available.value());
    p.kv_blocks = static_cast<std::int64_t>(p.kv_available.value() / page) / m.layers;
  }
  // The engine refuses to start when one request of max_model_len cannot be held (check_enough_kv_cache_memory).
  const std::int64_t needed = (s.max_model_len + s.block_size - 1) / s.block_size;
  if (p.kv_blocks < needed) {
    const double missing = static_cast<double>(needed - p.kv_blocks) * page * static_cast<double>(m.layers);
    return make_error(ErrorKind::infeasible,
                      "the KV cache of " + std::to_string(p.kv_blocks) + " blocks (" + std::to_string(p.kv_tokens()) +
                          " tokens) cannot hold one request of max_model_len = " + std::to_string(s.max_model_len) +
                          " tokens; " + human_bytes(missing) + " per GPU are missing. What fits: max_model_len: " +
                          std::to_string(std::max<std::int64_t>(0, p.kv_tokens() - s.block_size)) + ", or tp: " +
                          std::to_string(2 * spec.plan.tp));
  }
  return p;
}

std::string MemoryPlan::to_table() const {
  TextTable table({"memory per GPU", "bytes", "share"});
  const auto row = [&](const char* name, Bytes b) {
    table.add({name, human_bytes(b.value()), std::to_string(static_cast<int>(std::lround(100.0 * (b / total)))) + " %"});
  };
  row("total (framework)", total);
  row("requested by the engine", requested);
  row("  weights", weights);
  row("  activation peak", activation_peak);
  row("  graphs", graphs);
  row("  framework and workspaces", residue);
  row("  KV cache", kv_available);
  std::string text = table.to_string();
  text += "KV cache: " + human_count(static_cast<double>(kv_blocks)) + " blocks of " + std::to_string(block_size) + " = " +
          human_count(static_cast<double>(kv_tokens())) + " tokens, " + human_bytes(kv_bytes_per_token.value()) + " a token" +
          (blocks_overridden ? " (blocks overridden)" : "") + "\n";
  return text;
}

}  // namespace orrery
