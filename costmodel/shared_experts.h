// A shared expert that an engine runs as one more of the routed ones.
#pragma once

#include <optional>

#include "costmodel/kernel_set.h"
#include "costmodel/step_pricer.h"

namespace orrery {

// SGLang, `determine_num_fused_shared_experts` (models/deepseek_v2.py of 0.4.6 to 0.5.9; 0.5.23:
// `shared_experts_fusion_disable_reason`): on parts where its profile says so (kernel_laws), one shared
// expert as wide as a routed one and in its format, 256 of those, on one rank's share of every expert,
// without exchanged rows or two batches; on NVIDIA's parts of DeepSeek-V3 alone.
inline bool shared_among_routed(const InstanceSpec& spec, bool same_format) {
  const ModelSpec& model = spec.model;
  const JointSettings& joint = spec.engine.settings.joint;
  return !spec.engine.kernel_laws.empty() && spec.engine.kernel_laws.front().shared_among_routed &&
         (spec.hardware.vendor == "amd" || model.architecture == "DeepseekV3ForCausalLM") &&
         model.experts == 256 && model.shared_expert_intermediate == model.expert_intermediate &&
         same_format && spec.plan.ep == 1 && !joint.exchanges() && !joint.two_batches.on &&
         !spec.experts.on();
}

// The timed layer that stands for one of this shape: itself; or, where the last expert is a shared one, the
// layer without it, to which that is then added. Neither: none.
struct TimedExperts {
  ExpertShape shape;
  bool without_shared = false;
};
inline std::optional<TimedExperts> timed_experts(const KernelSet& kernels, const std::string& format,
                                                 ExpertShape shape, bool with_shared) {
  if (kernels.experts(format, shape)) return TimedExperts{shape, false};
  if (!with_shared) return std::nullopt;
  --shape.experts;
  --shape.per_token;
  if (kernels.experts(format, shape)) return TimedExperts{shape, true};
  return std::nullopt;
}

}  // namespace orrery
