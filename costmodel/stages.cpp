#include "costmodel/stages.h"

#include <algorithm>

#include "base/check.h"

namespace orrery {

std::vector<std::int64_t> layers_of_stages(std::int64_t layers, std::int32_t pp, const std::string& engine) {
  ORRERY_CHECK(pp >= 1 && layers >= pp, "every stage has a layer");
  std::vector<std::int64_t> stages(static_cast<std::size_t>(pp), layers / pp);
  const std::int64_t rest = layers % pp;
  const std::int64_t first = engine == "tensorrt-llm" ? 0 : engine == "sglang" ? pp - rest : pp - rest - 1;
  for (std::int64_t i = 0; i < rest; ++i) ++stages[static_cast<std::size_t>(first + i)];
  return stages;
}

namespace {

// A stage of layers from `first` on: those of them that have experts.
void take_experts(const InstanceSpec& whole, std::int64_t first, const ModelSpec& stage,
                  ExpertSpec& experts) {
  std::int64_t before = 0, own = 0, layer = 0;
  for (const LayerKind& kind : whole.model.layer_kinds) {
    if (kind.moe && whole.model.kind_of_layer.empty())
      before += std::clamp<std::int64_t>(first - layer, 0, kind.count);
    layer += kind.count;
  }
  for (layer = 0; layer < first && !whole.model.kind_of_layer.empty(); ++layer)
    before += whole.model.layer_kinds[whole.model.kind_of_layer[static_cast<std::size_t>(layer)]].moe ? 1 : 0;
  for (const LayerKind& kind : stage.layer_kinds) own += kind.moe ? kind.count : 0;
  if (own == 0) experts = {};
  experts.layers = static_cast<std::int32_t>(own);
  experts.first_layer = static_cast<std::int32_t>(before);
}

}  // namespace

InstanceSpec stage_spec(const InstanceSpec& spec, std::int32_t stage) {
  const std::vector<std::int64_t> stages =
      layers_of_stages(spec.model.layers, spec.plan.pp, spec.engine.engine);
  InstanceSpec part = spec;
  part.stage = {stage, spec.plan.pp};
  ModelSpec& m = part.model;
  std::int64_t first = 0;
  for (std::int32_t s = 0; s < stage; ++s) first += stages[static_cast<std::size_t>(s)];
  m.layers = stages[static_cast<std::size_t>(stage)];
  const std::int64_t end = first + m.layers;
  m.kind_of_layer.clear();
  for (LayerKind& kind : m.layer_kinds) kind.count = 0;
  std::int64_t layer = 0;  // of the whole model
  for (std::size_t k = 0; k < spec.model.layer_kinds.size() && spec.model.kind_of_layer.empty(); ++k) {
    const std::int64_t next = layer + spec.model.layer_kinds[k].count;
    m.layer_kinds[k].count = std::max<std::int64_t>(0, std::min(end, next) - std::max(first, layer));
    layer = next;
  }
  if (!spec.model.kind_of_layer.empty()) {
    for (layer = first; layer < end; ++layer)
      ++m.layer_kinds[spec.model.kind_of_layer[static_cast<std::size_t>(layer)]].count;
  }
  take_experts(spec, first, m, part.experts);
  std::erase_if(m.layer_kinds, [](const LayerKind& kind) { return kind.count == 0; });
  std::erase_if(m.global_weights, [&](const WeightTensor& t) {
    const bool embedding = t.name == "embed_tokens";
    if (embedding) return !part.stage.first() && !(m.tied_embeddings && part.stage.last());
    return !part.stage.last();
  });
  return part;
}

bool alike(const InstanceSpec& a, const InstanceSpec& b) {
  if (a.stage.first() != b.stage.first() || a.stage.last() != b.stage.last()) return false;
  if ((a.experts.on() || b.experts.on()) && a.experts.first_layer != b.experts.first_layer) return false;
  const auto same_way = [&] {  // from the stage before
    const auto at = [&](const InstanceSpec& s) { return static_cast<std::size_t>(s.stage.index); };
    return a.links->handoff[at(a)] == b.links->handoff[at(b)];
  };
  if (a.links != nullptr && b.links != nullptr && !same_way()) return false;
  const std::vector<LayerKind>&x = a.model.layer_kinds, &y = b.model.layer_kinds;
  return std::equal(x.begin(), x.end(), y.begin(), y.end(), [](const LayerKind& p, const LayerKind& q) {
    return p.count == q.count && p.moe == q.moe && p.mixer == q.mixer && p.sliding_window == q.sliding_window;
  });
}

std::int32_t token_cadence(const InstanceSpec& spec) {
  if (!spec.engine.settings.async_scheduling || in_a_ring(spec.engine)) return 0;
  return spec.engine.runner == "v2" ? spec.plan.pp : 1;
}

bool in_a_ring(const EngineProfile& engine) {
  return engine.engine == "sglang" || engine.engine == "tensorrt-llm";
}

std::vector<std::string> not_modelled_in_stages(const SchedulerSettings& s) {
  std::vector<std::string> names;
  if (s.by_priority) names.emplace_back("scheduling_policy: priority");
  if (s.kv_offload_bytes > 0) names.emplace_back("offloading of the KV cache");
  if (s.tensorrt_llm.max_utilization) names.emplace_back("capacity_scheduler_policy: MAX_UTILIZATION");
  for (const char* name : {"enable_priority_scheduling", "enable_hierarchical_cache"})
    if (s.options.has(name) && s.options.flag(name)) names.emplace_back(name);
  return names;
}

std::int32_t batches_in_flight(const EngineProfile& engine, std::int32_t pp) {
  const bool async = engine.settings.async_scheduling;
  if (pp == 1) return async ? 2 : 1;
  return async && engine.runner == "v2" ? pp + 1 : pp;
}

}  // namespace orrery
