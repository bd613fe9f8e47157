// Layers that keep a state of fixed size for each sequence instead of keys and values of its tokens: gated
// delta nets (Qwen3-Next, Qwen3.5) and Mamba2 (Nemotron-H). Both convolve a few tokens, then update one
// matrix a head. Shapes and types of what vLLM 0.24 keeps: model_executor/layers/mamba/mamba_utils.py
// (gated_delta_net_state_shape, mamba2_state_shape); docs/state_layers.md.
#pragma once

#include <cstdint>

#include "costmodel/hardware.h"

namespace orrery {

enum class StateRule : std::uint8_t { none, gated_delta, mamba2 };

struct StateLayers {
  StateRule rule = StateRule::none;
  // Gated delta: heads of keys and values, their widths. Mamba2: groups of B and C, heads, width of the state
  // and of a head.
  std::int64_t key_heads = 0, value_heads = 0, key_dim = 0, value_dim = 0;
  std::int64_t taps = 0;    // of the causal convolution
  std::int64_t chunk = 64;  // tokens that a scan of prompts takes at once
  bool conv_bias = false;
  bool interleaved = false;     // Qwen3-Next: q, k, v, z of a group beside one another, unpacked by a kernel
  DType dtype = DType::fp32;    // of the recurrent state; the convolution's has the activation type
  bool scan_by_triton = false;  // gdn_prefill_backend
  bool dtype_of_model = false;  // dtype follows the activation type (vLLM's mamba_ssm_cache_dtype: auto)

  bool present() const { return rule != StateRule::none; }
  std::int64_t keys() const { return key_heads * key_dim; }
  std::int64_t values() const { return value_heads * value_dim; }
  std::int64_t channels() const { return 2 * keys() + values(); }  // that are convolved
  // Elements of one layer and sequence on one of `tp` ranks. Precondition: tp divides both kinds of heads.
  // With speculation the convolution keeps the inputs of all `drafts` too.
  std::int64_t conv_elements(std::int64_t tp, std::int64_t drafts = 0) const {
    return channels() / tp * (taps - 1 + drafts);
  }
  std::int64_t state_elements(std::int64_t tp) const { return values() / tp * key_dim; }
  double bytes(std::int64_t tp, DType activation, std::int64_t drafts = 0) const;
};

}  // namespace orrery
