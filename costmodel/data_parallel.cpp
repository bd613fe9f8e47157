#include "costmodel/data_parallel.h"

#include "costmodel/model_spec.h"
#include "costmodel/operator.h"
#include "costmodel/profile_reader.h"

namespace orrery {

DataParallelRules read_data_parallel(const Yaml& node) {
  DataParallelRules r;
  static const std::vector<std::string> rules{"sglang", "vllm", "tensorrt-llm"};
  r.rule = static_cast<JointRule>(node.require("rule").choice(rules));
  r.sync = read_figure<Seconds>(node.require("sync"), true);
  if (r.rule != JointRule::sglang) {
    r.sync_per_rank = read_figure<Seconds>(node.require("sync_per_rank"), true);
    return r;
  }
  r.largest_custom_all_reduce = read_figure<Bytes>(node.require("largest_custom_all_reduce"));
  r.conservativeness = read_number_figure(node.require("conservativeness"), Dimension::ratio);
  r.per_decode_slot = read_figure<Bytes>(node.require("per_decode_slot"), true);
  r.per_decode_slot_of_many = read_figure<Bytes>(node.require("per_decode_slot_of_many"), true);
  r.many_slots = read_number_figure(node.require("many_slots"), Dimension::count);
  return r;
}

double dispatch_bytes(const ModelSpec& model, const WeightFormat& experts, JointRule rule) {
  const auto hidden = static_cast<double>(model.hidden);
  const bool blocks = model.quantization == Quantization::fp8_block;
  const double chosen = 8 * static_cast<double>(model.experts_per_token);
  if (rule == JointRule::tensorrt_llm && blocks)
    return hidden * bytes_per_element(model.activation_dtype) + chosen;
  const double scales = experts.activation_bytes >= 2 ? 0
                        : blocks                      ? hidden / static_cast<double>(model.quantization_block)
                                                      : 1;
  return hidden * experts.activation_bytes + 4 * scales + chosen;
}

}  // namespace orrery
