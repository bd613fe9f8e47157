#include "costmodel/queue_arguments.h"

#include <string>
#include <utility>

#include "costmodel/engine_profile.h"
#include "costmodel/parallel_plan.h"

namespace orrery {

namespace {

// handle_cache_compatibility (arg_groups/kv_cache_hook.py); get_eviction_strategy takes only its own policy's
// parameters.
template <class Given, class Fail>
void check_eviction(const NamedOptions& o, const Given& given, const Fail& fail) {
  if (!o.has("radix_eviction_policy")) return;
  const std::string policy = o.text("radix_eviction_policy");
  const std::string group = "radix_eviction_policy_config.";
  const auto value = [&](const std::string& name) {
    return o.has(group + name) ? o.integer(group + name) : std::int64_t{0};
  };
  for (const auto& [name, of] :
       {std::pair{"protected_threshold", "slru"}, {"threshold", "tlru"}, {"next_prompt_estimate", "tlru"}}) {
    if (given("radix_eviction_policy_config") && o.has(group + name) && policy != of)
      fail("radix_eviction_policy_config", std::string(name) + " is a parameter of " + of + ", not of " +
                                               policy + " (the engine does not start)");
  }
  if (policy == "tlru" && value("threshold") <= value("next_prompt_estimate"))
    fail(given("radix_eviction_policy_config") ? "radix_eviction_policy_config" : "radix_eviction_policy",
         "tlru needs radix_eviction_policy_config.threshold above its next_prompt_estimate (the engine does "
         "not start)");
}

}  // namespace

// `_validate_and_adjust_policy` (managers/schedule_policy.py), PrefillDelayer.__init__ and, for stages,
// arg_groups/validation_hook.py of 0.5.23.
void check_queue_arguments(EngineProfile& engine, const ParallelPlan& plan, const Yaml& args,
                           const Yaml& place) {
  const NamedOptions& o = engine.settings.options;
  const auto given = [&](const char* name) { return args.present() && args.optional(name).present(); };
  const auto fail = [&](const char* name, const std::string& message) {
    (given(name) ? args.optional(name) : place).fail(message);
  };
  if (o.has("schedule_policy") && o.text("schedule_policy") == "shortest-prefill-first" &&
      o.flag("disable_radix_cache"))
    fail("schedule_policy", "shortest-prefill-first needs the radix cache (the engine does not start)");
  if (plan.pp > 1 && given("min_free_slots_delay"))
    fail("min_free_slots_delay", "does not go with pipeline stages (the engine asserts it)");
  check_eviction(o, given, fail);
  const bool delays = o.has("enable_prefill_delayer") && o.flag("enable_prefill_delayer");
  if (delays && plan.pp > 1)
    fail("enable_prefill_delayer", "needs the overlap loop, which pipeline stages turn off");
  for (const char* name : {"prefill_delayer_max_delay_passes", "prefill_delayer_token_usage_low_watermark",
                           "prefill_delayer_queue_min_ratio", "prefill_delayer_max_delay_ms"}) {
    if (given(name) && !delays) engine.ignored_args.emplace_back(name);
  }
  if (given("default_priority_value") && !o.flag("enable_priority_scheduling"))
    engine.ignored_args.emplace_back("default_priority_value");  // validation_hook.py: "has no effect"
}

}  // namespace orrery
