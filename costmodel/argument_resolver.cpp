#include "costmodel/argument_resolver.h"

#include <algorithm>

#include "base/text.h"

namespace orrery {

namespace {

// null, false, 0, "none" and empty collections: how an engine says that a feature is off.
bool is_off(const Yaml& value) {
  if (value.is_null()) return true;
  if (value.is_map()) return value.entries().empty();
  if (value.is_list()) return value.items().empty();
  const std::string text = value.scalar_text();
  return text == "false" || text == "0" || text == "none" || text == "None" || text.empty();
}

}  // namespace

void ArgumentResolver::apply_all(const Yaml& args) {
  if (!args.present()) return;
  apply_map(args, "");
}

// An argument that the profile lists by the names inside it ("kv_cache_config.dtype") is a map of those.
void ArgumentResolver::apply_map(const Yaml& map, const std::string& prefix) {
  for (const auto& [key, value] : map.entries()) {
    const std::string name = prefix + key;
    if (is_group(name) && value.is_map())
      apply_map(value, name + ".");
    else
      apply(name, value);
  }
}

bool ArgumentResolver::is_group(const std::string& name) const {
  return std::any_of(engine_.arguments.begin(), engine_.arguments.end(),
                     [&](const EngineArgument& a) { return a.name.starts_with(name + "."); });
}

void ArgumentResolver::apply(const std::string& name, const Yaml& value) {
  const EngineArgument* argument = nullptr;
  std::vector<std::string> names;
  for (const EngineArgument& a : engine_.arguments) {
    names.push_back(a.name);
    if (a.name == name) argument = &a;
  }
  const std::string version = engine_.engine + " " + engine_.version;
  if (argument == nullptr && is_group(name)) {
    accept_all(value);
    value.fail("expected a map of its settings");
    return;
  }
  if (argument == nullptr) {
    accept_all(value);
    value.fail("unknown argument of " + version + did_you_mean(name, names) +
               "; names are those of the engine's Python API");
    return;
  }
  // null turns a group off, where the engine's file says so.
  if (value.is_null() && is_group(name) && argument->effect == ArgumentEffect::effective)
    return apply_effective(name, value);
  if (value.is_null() || (argument->effect == ArgumentEffect::ignored)) {
    accept_all(value);
    engine_.ignored_args.push_back(name);
    return;
  }
  switch (argument->effect) {
    case ArgumentEffect::effective:
      if (!apply_overlap_argument(name, value, engine_.overlap)) apply_effective(name, value);
      break;
    case ArgumentEffect::ignored: break;
    case ArgumentEffect::elsewhere: apply_elsewhere(*argument, value); break;
    case ArgumentEffect::fixed:
      accept_all(value);
      if (std::find(argument->only.begin(), argument->only.end(), value.scalar_text()) ==
          argument->only.end()) {
        value.fail(argument->why + " is not modelled by this version of Orrery; only " + name + ": " +
                   join(argument->only, " or ") + " is");
      } else {
        engine_.ignored_args.push_back(name);
      }
      break;
    case ArgumentEffect::refused:
      if (is_off(value)) {
        engine_.ignored_args.push_back(name);
      } else {
        accept_all(value);
        value.fail(argument->why + " is not modelled by this version of Orrery; remove the argument");
      }
      break;
  }
}

// Accepted when it repeats what the scenario says.
void ArgumentResolver::apply_elsewhere(const EngineArgument& argument, const Yaml& value) {
  accept_all(value);
  const std::string text = value.scalar_text();
  // SGLang's and TensorRT-LLM's tensor width counts the GPUs of all attention ranks, and of context
  // parallelism.
  const std::int64_t tp = engine_.engine == "vllm" ? plan_.tp : plan_.mlp_ranks();
  const bool tensor = argument.why == "deployment.parallel.tp" && text == std::to_string(tp);
  const bool stages = argument.why == "deployment.parallel.pp" && text == std::to_string(plan_.pp);
  const bool context = argument.why == "deployment.parallel.cp" && text == std::to_string(plan_.cp);
  const bool other = argument.why != "deployment.parallel.tp" && argument.why != "deployment.parallel.pp";
  const bool one = other && argument.why.starts_with("deployment.parallel.") && text == "1";
  const bool ranks = argument.name == "enable_attention_dp" && text == (plan_.dp > 1 ? "true" : "false");
  const bool shared_out = (argument.name == "ep_size" || argument.name == "moe_expert_parallel_size") &&
                          text == std::to_string(plan_.ep);
  const bool parts =
      argument.name == "moe_tensor_parallel_size" && text == std::to_string(plan_.mlp_ranks() / plan_.ep);
  if (tensor || stages || shared_out || parts || context || one || ranks || text == "auto") {
    engine_.ignored_args.push_back(argument.name);
  } else {
    value.fail("say it by the scenario's key " + argument.why);
  }
}

}  // namespace orrery
