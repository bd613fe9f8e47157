#include "costmodel/draft_windows.h"

#include "costmodel/speculation.h"

namespace orrery {

// `get_pp_layers` of _torch/pyexecutor/resource_manager.py: a network's layers stand behind the model's in
// the same cache, and the list of windows goes on over them. A network in an engine of its own has a cache of
// its own, which takes the same settings (`KvCacheCreator.build_managers`), and with several window sizes a
// cache is given all of max_gpu_total_bytes (`calculate_max_num_blocks_from_cpp`): the second one finds no
// memory. A comment of later sources says so.
void check_draft_windows(const InstanceSpec& spec, const Yaml& args) {
  if (spec.engine.settings.tensorrt_llm.window == 0 || !spec.speculation.on()) return;
  const Yaml nested = args.optional("kv_cache_config").optional("max_attention_window");
  const Yaml list = nested.present() ? nested : args.optional("kv_cache_config.max_attention_window");
  if (spec.speculation.method == SpeculationMethod::eagle && !spec.speculation.one_model)
    return list.fail(
        "TensorRT-LLM 1.2 gives the cache of a drafting network in an engine of its own as much memory as "
        "the model's where window sizes differ, which it then does not have; take "
        "speculation.one_model: true");
  const std::vector<Yaml> sizes = list.items();
  const std::int64_t layers = spec.model.layers, longest = spec.engine.settings.max_model_len;
  const std::int64_t drafting = draft_layers_cached(spec.speculation, spec.model, spec.engine.engine);
  for (std::int64_t layer = layers; layer < layers + drafting; ++layer) {
    const std::int64_t size = sizes[static_cast<std::size_t>(layer) % sizes.size()].integer(1, 1);
    if (size >= longest) continue;
    return list.fail("would keep " + std::to_string(size) + " tokens of layer " + std::to_string(layer) +
                     ", the drafting network's, which sees all; expected a list of all " +
                     std::to_string(layers + drafting) + " layers, with " + std::to_string(longest) +
                     " for the network's");
  }
}

}  // namespace orrery
