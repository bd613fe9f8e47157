// Architectures whose configurations are read (costmodel/model_config.cpp), by the name in `architectures`.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "base/text.h"

namespace orrery {

enum class Family : std::uint8_t {
  dense,
  qwen_moe,
  mixtral,
  gpt_oss,
  deepseek,
  gemma,
  glm,
  gated_delta,
  nemotron,
  minimax
};

struct Architecture {
  const char* name;
  Family family;
  bool qk_norm;
  bool qkv_bias;  // always, whatever the config says
};
inline constexpr std::array architectures{
    Architecture{"LlamaForCausalLM", Family::dense, false, false},
    Architecture{"MistralForCausalLM", Family::dense, false, false},
    Architecture{"Phi3ForCausalLM", Family::dense, false, false},  // q, k, v and gate, up stored as one each
    Architecture{"Qwen2ForCausalLM", Family::dense, false, true},
    Architecture{"MiMoForCausalLM", Family::dense, false, true},  // Qwen2's layers (models/mimo.py of vLLM)
    Architecture{"Qwen3ForCausalLM", Family::dense, true, false},
    Architecture{"Qwen3MoeForCausalLM", Family::qwen_moe, true, false},
    Architecture{"MixtralForCausalLM", Family::mixtral, false, false},
    Architecture{"GptOssForCausalLM", Family::gpt_oss, false, true},
    Architecture{"Gemma2ForCausalLM", Family::gemma, false, false},
    Architecture{"Gemma3ForCausalLM", Family::gemma, true, false},
    Architecture{"Glm4MoeForCausalLM", Family::glm, false, false},  // both as the config says
    Architecture{"MiniMaxM2ForCausalLM", Family::minimax, true, false},
    Architecture{"Qwen3NextForCausalLM", Family::gated_delta, true, false},
    Architecture{"Qwen3_5ForCausalLM", Family::gated_delta, true, false},
    Architecture{"Qwen3_5MoeForCausalLM", Family::gated_delta, true, false},
    Architecture{"NemotronHForCausalLM", Family::nemotron, false, false},
    Architecture{"DeepseekV2ForCausalLM", Family::deepseek, false, false},
    Architecture{"DeepseekV3ForCausalLM", Family::deepseek, false, false},
    Architecture{"DeepseekV32ForCausalLM", Family::deepseek, false, false},
    Architecture{"GlmMoeDsaForCausalLM", Family::deepseek, false, false},
};

inline std::string supported_architectures() {
  std::vector<std::string> names;
  for (const Architecture& a : architectures) names.emplace_back(a.name);
  return join(names, ", ");
}

}  // namespace orrery
