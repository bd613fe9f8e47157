#include "costmodel/kv_groups.h"

#include <algorithm>

namespace orrery {

namespace {

std::int64_t divided_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

}  // namespace

std::int64_t KvCacheGroups::blocks_of_sequence(std::int64_t tokens, const SchedulerSettings& settings) const {
  const std::int64_t most = std::min(window - 1 + settings.max_num_batched_tokens, tokens);
  return full * divided_up(tokens, settings.block_size) +
         (windowed == 0 ? 0 : windowed * (divided_up(most, settings.block_size) + 1));
}

std::int64_t window_met(const LayerKind& kind, const EngineProfile& engine) {
  const std::int64_t longest = engine.settings.max_model_len;
  return longest > 0 && kind.sliding_window >= longest ? 0 : kind.sliding_window;
}

std::int64_t window_of(const ModelSpec& model) {
  for (const LayerKind& kind : model.layer_kinds) {
    if (kind.sliding_window > 0) return kind.sliding_window;  // one width a model: its reader allows no other
  }
  return 0;
}

KvCacheGroups kv_cache_groups(const ModelSpec& model, const EngineProfile& engine) {
  std::int64_t with_window = 0;
  for (const LayerKind& kind : model.layer_kinds) {
    if (kind.sliding_window > 0) with_window += kind.count;
  }
  KvCacheGroups groups{.layers = model.layers};
  if (with_window == 0) return groups;
  const std::int64_t without = model.layers - with_window;
  // Layers that are all alike are one group with a window even then (`unify_hybrid_kv_cache_specs`).
  const bool unified = without > 0 && engine.settings.disable_hybrid_kv_cache_manager;
  if (engine.engine != "vllm" || unified) {
    if (engine.settings.tensorrt_llm.window == 0) groups.window_layers = with_window;
    return groups;
  }
  groups.window = window_of(model);
  if (without == 0) {
    groups.full = 0;
    groups.windowed = 1;
    return groups;
  }
  const std::int64_t fewer = std::min(with_window, without), more = std::max(with_window, without);
  groups.layers = 2 * more < 3 * fewer ? more : fewer;
  groups.full = divided_up(without, groups.layers);
  groups.windowed = divided_up(with_window, groups.layers);
  return groups;
}

}  // namespace orrery
