// Groups of layers that share a block table, for models in which layers keep different tokens
// (vLLM 0.24: v1/core/kv_cache_utils.py `get_kv_cache_groups`, `get_kv_cache_capacity`;
// ../shared/reference/vllm_0_24.md §2.7, §4).
#pragma once

#include <cstdint>

#include "costmodel/engine_profile.h"
#include "costmodel/model_spec.h"

namespace orrery {

struct KvCacheGroups {
  std::int64_t full = 1, windowed = 0;  // groups of layers that keep all tokens, and a window of them
  std::int64_t window = 0;              // tokens that a windowed layer sees, the newest included
  std::int64_t layers = 0;              // of one group; the last of a kind may be padded up to it
  std::int64_t window_layers = 0;       // layers with a window that the engine nevertheless keeps in full
  std::int64_t states = 0;  // groups of layers that keep a state: a block each, whatever the length
  // With prefix caching more: one for every block of tokens, or two (`chunk_ends`).
  bool cached_states = false, chunk_ends = false;
  bool simple() const { return windowed == 0 && states == 0; }

  // Blocks that the engine reckons for one sequence of `tokens`, in all groups: a windowed one holds at most
  // a window and a step's tokens, and a block for the odd end (`max_admission_blocks_per_request`).
  std::int64_t blocks_of_sequence(std::int64_t tokens, const SchedulerSettings& settings) const;
};

// The window as attention meets it: 0 = none, or one that no sequence of max_model_len outgrows.
std::int64_t window_met(const LayerKind& kind, const EngineProfile& engine);

// The width of the model's windowed layers; 0 = it has none.
std::int64_t window_of(const ModelSpec& model);

// A model's layers in equal parts, the largest that hold layers of one kind only: of two layers each,
// Gemma 3 1B has 2 parts that keep all tokens, and 11 that keep a window.
struct LayerParts {
  std::int64_t layers = 1, full = 1, windowed = 0;
};
LayerParts layer_parts(const ModelSpec& model, std::int64_t drafting = 0);  // drafting: layers that keep all

// vLLM's rule: layers of one kind are spread over groups of equal size, the number of layers of the rarer
// kind, or of the commoner when it has less than 1.5 times as many; a model whose layers all have the window
// is one group. Other engines, and vLLM with disable_hybrid_kv_cache_manager where layers differ, keep every
// token of every layer here: one group, and `window_layers` says for how many layers that is more than the
// model needs. Layers that keep a state are spread over groups by the same rule
// (`_get_kv_cache_groups_uniform_page_size`); `drafting`: layers of a drafting network, which attend to all
// tokens, join those that do.
KvCacheGroups kv_cache_groups(const ModelSpec& model, const EngineProfile& engine, std::int64_t drafting = 0);

// Tokens of a block where layers keep a state: the least multiple of `alignment` whose page in a layer that
// attends holds a state (platforms/interface.py, `_align_hybrid_block_size`, mamba_cache_mode: none).
// `page_token` and `state`: bytes of one token and of one state in one layer of a rank.
std::int64_t block_with_state(std::int64_t alignment, double page_token, double state);

}  // namespace orrery
