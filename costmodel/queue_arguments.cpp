#include "costmodel/queue_arguments.h"

#include "costmodel/engine_profile.h"
#include "costmodel/parallel_plan.h"

namespace orrery {

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
  const bool delays = o.has("enable_prefill_delayer") && o.flag("enable_prefill_delayer");
  if (delays && plan.pp > 1)
    fail("enable_prefill_delayer", "needs the overlap loop, which pipeline stages turn off");
  if (delays && plan.dp > 1)
    fail("enable_prefill_delayer",
         "is modelled for one rank; what ranks of attention data parallelism tell one another is not");
  for (const char* name : {"prefill_delayer_max_delay_passes", "prefill_delayer_token_usage_low_watermark",
                           "prefill_delayer_queue_min_ratio", "prefill_delayer_max_delay_ms"}) {
    if (given(name) && !delays) engine.ignored_args.emplace_back(name);
  }
}

}  // namespace orrery
