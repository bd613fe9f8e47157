#include "costmodel/engine_argument_table.h"

#include <algorithm>

#include "base/text.h"
#include "costmodel/profile_reader.h"

namespace orrery {

namespace {

class ArgumentTable {
 public:
  ArgumentTable(EngineProfile& engine, const ParallelPlan& plan,
                const std::function<void(const std::string&, const Yaml&)>& effective)
      : engine_(engine), plan_(plan), effective_(effective) {}

  void apply_all(const Yaml& map, const std::string& prefix) {
    for (const auto& [key, value] : map.entries()) {
      const std::string name = prefix + key;
      if (is_group(name) && value.is_map())
        apply_all(value, name + ".");
      else
        apply(name, value);
    }
  }

 private:
  // null, false, 0, "none" and empty collections: how an engine says that a feature is off.
  static bool is_off(const Yaml& value) {
    if (value.is_null()) return true;
    if (value.is_map()) return value.entries().empty();
    if (value.is_list()) return value.items().empty();
    const std::string text = value.scalar_text();
    return text == "false" || text == "0" || text == "none" || text == "None" || text.empty();
  }

  bool is_group(const std::string& name) const {
    return std::any_of(engine_.arguments.begin(), engine_.arguments.end(),
                       [&](const EngineArgument& a) { return a.name.starts_with(name + "."); });
  }

  void apply(const std::string& name, const Yaml& value) {
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
    const bool null_means_off = value.is_null() && is_group(name);
    if (null_means_off && argument->effect == ArgumentEffect::effective) return effective_(name, value);
    if (value.is_null() || (argument->effect == ArgumentEffect::ignored)) {
      accept_all(value);
      engine_.ignored_args.push_back(name);
      return;
    }
    switch (argument->effect) {
      case ArgumentEffect::effective: effective_(name, value); break;
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
  void apply_elsewhere(const EngineArgument& argument, const Yaml& value) {
    accept_all(value);
    const std::string text = value.scalar_text();
    const bool width = argument.name == "tensor_parallel_size" && text == std::to_string(plan_.tp);
    const bool one =
        argument.name.ends_with("_parallel_size") && text == "1" && argument.name != "tensor_parallel_size";
    if (width || one || text == "auto") {
      engine_.ignored_args.push_back(argument.name);
    } else {
      value.fail("say it by the scenario's key " + argument.why);
    }
  }

  EngineProfile& engine_;
  const ParallelPlan& plan_;
  const std::function<void(const std::string&, const Yaml&)>& effective_;
};

}  // namespace

void apply_engine_arguments(EngineProfile& engine, const ParallelPlan& plan, const Yaml& args,
                            const std::function<void(const std::string&, const Yaml&)>& effective) {
  if (args.present()) ArgumentTable(engine, plan, effective).apply_all(args, "");
}

}  // namespace orrery
