#include "plan/bounds.h"

#include <algorithm>
#include <cmath>

#include "base/json.h"
#include "base/text.h"
#include "costmodel/step_pricer.h"

namespace orrery {

namespace {

constexpr double room = 0.9;

// Kernels alone: no step follows another one faster.
double alone_ms(const StepPricer& pricer, const StepShape& shape) {
  return static_cast<double>(pricer.summarize(shape).timing.busy) * 1e-6;
}

// The longest prompt whose bound stays below the limit, by bisection: bounds grow with the prompt.
template <class Bound>
std::int64_t longest_within(double limit_ms, std::int64_t longest, const Bound& bound) {
  std::int64_t low = 0, high = longest + 1;
  while (high - low > 1) {
    const std::int64_t middle = (low + high) / 2;
    (bound(middle) * room <= limit_ms ? low : high) = middle;
  }
  return low;
}

bool prompts_can_hit(const std::vector<TraceRequest>& requests) {
  return std::any_of(requests.begin(), requests.end(),
                     [](const TraceRequest& r) { return !r.hash_ids.empty() || r.session != 0; });
}

// Of this limit: how many requests may meet it, and what to say if those are too few.
std::string judge(const std::vector<TraceRequest>& requests, double percentile, std::int64_t longest,
                  bool decodes, const std::string& what) {
  const auto within = std::count_if(requests.begin(), requests.end(), [&](const TraceRequest& r) {
    return r.prompt_tokens <= longest || (decodes && r.output_tokens < 2);
  });
  const double share = static_cast<double>(within) / static_cast<double>(requests.size());
  if (share * 100 >= percentile) return "";
  return what + ": at most " + format_fixed(share * 100, 1) + " % of the requests can meet it, " +
         format_fixed(percentile, 1) + " % have to";
}

}  // namespace

std::string beyond_slo(const Scenario& scenario, const std::vector<TraceRequest>& requests) {
  const SloSpec& slo = scenario.slo;
  // Several pools share the work, speculation says several tokens a step, and stages run steps side by side.
  const InstanceSpec& instance = scenario.pool.instance;
  if (!slo.given || requests.empty() || !scenario.other_pools.empty()) return "";
  if (instance.speculation.on() || instance.plan.pp > 1 || instance.plan.dp > 1 || instance.plan.cp > 1)
    return "";
  auto pricer = StepPricer::create(instance, scenario.what_if);
  if (!pricer.ok()) return "";
  const std::int64_t longest =
      std::max_element(requests.begin(), requests.end(), [](const TraceRequest& a, const TraceRequest& b) {
        return a.prompt_tokens < b.prompt_tokens;
      })->prompt_tokens;
  if (slo.tpot_ms > 0) {
    const auto bound = [&](std::int64_t prompt) {
      return alone_ms(*pricer, {.prefill = {}, .decode_sequences = 1, .decode_context_tokens = prompt});
    };
    const std::string what = "a token of a lone sequence takes at least " + format_fixed(bound(1), 1) +
                             " ms, slo.tpot_ms is " + format_number(slo.tpot_ms);
    const std::int64_t within = longest_within(slo.tpot_ms, longest, bound);
    if (std::string reason = judge(requests, slo.percentile, within, true, what); !reason.empty())
      return reason;
  }
  if (slo.ttft_ms > 0 && !prompts_can_hit(requests)) {
    const auto bound = [&](std::int64_t prompt) {
      const PrefillChunk whole{.new_tokens = static_cast<std::int32_t>(prompt), .context = 0};
      return alone_ms(*pricer, {.prefill = std::span(&whole, 1)});
    };
    const std::string what = "a lone prompt of " + std::to_string(longest) + " tokens takes at least " +
                             format_fixed(bound(longest), 0) + " ms, slo.ttft_ms is " +
                             format_number(slo.ttft_ms);
    return judge(requests, slo.percentile, longest_within(slo.ttft_ms, longest, bound), false, what);
  }
  return "";
}

}  // namespace orrery
