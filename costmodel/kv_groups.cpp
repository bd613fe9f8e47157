#include "costmodel/kv_groups.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace orrery {

namespace {

std::int64_t divided_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// Layers of a group: those of the rarer kind, or of the commoner one with less than 1.5 times as many.
std::int64_t group_size(std::int64_t a, std::int64_t b) {
  const std::int64_t fewer = std::min(a, b), more = std::max(a, b);
  return 2 * more < 3 * fewer ? more : fewer;
}

KvCacheGroups groups_with_states(const ModelSpec& model, const EngineProfile& engine, std::int64_t drafting) {
  const std::int64_t attending = model.attention_layers() + drafting, stateful = model.state_layers();
  KvCacheGroups groups;
  groups.layers = group_size(attending, stateful);
  groups.full = divided_up(attending, groups.layers);
  groups.states = divided_up(stateful, groups.layers);
  groups.cached_states = engine.settings.enable_prefix_caching;
  groups.chunk_ends = groups.cached_states && !engine.settings.state_every_block;
  return groups;
}

}  // namespace

std::int64_t KvCacheGroups::blocks_of_sequence(std::int64_t tokens, const SchedulerSettings& settings) const {
  const std::int64_t most = std::min(window - 1 + settings.max_num_batched_tokens, tokens);
  const std::int64_t whole = divided_up(tokens, settings.block_size);
  // MambaSpec.max_memory_usage_bytes
  const std::int64_t of_state = settings.draft_tokens + (!cached_states ? 1 : chunk_ends ? 2 : whole);
  return states * of_state + full * whole +
         (windowed == 0 ? 0 : windowed * (divided_up(most, settings.block_size) + 1));
}

std::int64_t window_met(const LayerKind& kind, const EngineProfile& engine) {
  const std::int64_t longest = engine.settings.max_model_len;
  return longest > 0 && kind.sliding_window >= longest ? 0 : kind.sliding_window;
}

LayerParts layer_parts(const ModelSpec& model, std::int64_t drafting) {
  std::int64_t full = drafting, windowed = 0;
  for (const LayerKind& kind : model.layer_kinds) {
    if (kind.mixer == Mixer::attention) (kind.sliding_window > 0 ? windowed : full) += kind.count;
  }
  const std::int64_t layers = std::max<std::int64_t>(1, std::gcd(full, windowed));
  return {layers, full / layers, windowed / layers};
}

std::int64_t window_of(const ModelSpec& model) {
  for (const LayerKind& kind : model.layer_kinds) {
    if (kind.sliding_window > 0) return kind.sliding_window;  // one width a model: its reader allows no other
  }
  return 0;
}

std::int64_t block_with_state(std::int64_t alignment, double page_token, double state) {
  const double step = static_cast<double>(alignment) * page_token;
  return alignment * std::max<std::int64_t>(1, static_cast<std::int64_t>(std::ceil(state / step)));
}

KvCacheGroups kv_cache_groups(const ModelSpec& model, const EngineProfile& engine, std::int64_t drafting) {
  // SGLang: states have a pool of their own (costmodel/state_pool.h).
  if (model.state.present() && engine.engine == "vllm") return groups_with_states(model, engine, drafting);
  std::int64_t with_window = 0;
  for (const LayerKind& kind : model.layer_kinds) {
    if (kind.sliding_window > 0) with_window += kind.count;
  }
  KvCacheGroups groups{.layers = model.layers};
  if (with_window == 0) return groups;
  const std::int64_t without = model.layers - with_window + drafting;
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
  groups.layers = group_size(with_window, without);
  groups.full = divided_up(without, groups.layers);
  groups.windowed = divided_up(with_window, groups.layers);
  return groups;
}

}  // namespace orrery
