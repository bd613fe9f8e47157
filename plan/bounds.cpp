#include "plan/bounds.h"

#include <algorithm>
#include <cmath>

#include "base/json.h"
#include "base/text.h"

namespace orrery {

namespace {

// A tenth, for tables that are not monotone.
constexpr double room = 0.9;
// A prompt may be computed in any chunks, and those are priced by other figures than one launch: of 32,000
// tokens chunks of 2,048 took 14 % less (SGLang's tables of the H200), elsewhere up to 7 %.
constexpr double prompt_room = 0.75;
// TPOT is the time from the first token to the last, and the first may be handed over up to a step late: of
// requests with so many tokens that takes another tenth, of shorter ones nothing is said.
constexpr double first_token_room = 0.9;
constexpr std::int32_t least_output = 12;

// Kernels alone: no step follows another one faster.
double alone_ms(const StepPricer& pricer, const StepShape& shape) {
  return static_cast<double>(pricer.summarize(shape).timing.busy) * 1e-6;
}

// The cheapest step that decodes a sequence of this context: alone, or beside others that have next to none.
// (Kernels that are timed for batches may be slower for one row.)
double decode_ms(const StepPricer& pricer, std::int64_t context) {
  double least = 0;
  for (std::int32_t n = 1; n <= 256; n *= 4) {
    const double ms =
        alone_ms(pricer, {.prefill = {}, .decode_sequences = n, .decode_context_tokens = context + (n - 1)});
    if (n == 1 || ms < least) least = ms;
  }
  return least;
}

// The longest prompt whose bound stays below the limit, by bisection: bounds grow with the prompt.
template <class Bound>
std::int64_t longest_within(double limit_ms, std::int64_t longest, const Bound& bound) {
  std::int64_t low = 0, high = longest + 1;
  while (high - low > 1) {
    const std::int64_t middle = (low + high) / 2;
    (bound(middle) <= limit_ms ? low : high) = middle;
  }
  return low;
}

// Of this limit: how many requests may meet it, and what to say if those are too few. Those that arrive in
// the warm-up are not measured.
std::string judge(const std::vector<TraceRequest>& requests, const Scenario& scenario, std::int64_t longest,
                  bool decodes, const std::string& what) {
  const double percentile = scenario.slo.percentile;
  const SimTime from = requests.front().arrival + duration_from_seconds(scenario.workload.warmup_s);
  std::uint64_t within = 0, measured = 0;
  for (const TraceRequest& r : requests) {
    if (r.arrival < from) continue;
    ++measured;
    within += r.prompt_tokens <= longest || (decodes && r.output_tokens < least_output) ? 1 : 0;
  }
  if (measured == 0) return "";
  const double share = static_cast<double>(within) / static_cast<double>(measured);
  if (share >= percentile / 100) return "";
  return what + ": at most " + format_fixed(share * 100, 1) + " % of the requests can meet it, " +
         format_fixed(percentile, 1) + " % have to";
}

}  // namespace

bool prompts_can_hit(const std::vector<TraceRequest>& requests) {
  return std::any_of(requests.begin(), requests.end(),
                     [](const TraceRequest& r) { return !r.hash_ids.empty() || r.session != 0; });
}

bool one_plain_pool(const Scenario& scenario) {
  // Several pools share the work, speculation says several tokens a step, and stages run steps side by side.
  const InstanceSpec& instance = scenario.pool.instance;
  if (!scenario.other_pools.empty() || instance.speculation.on()) return false;
  if (instance.plan.pp > 1 || instance.plan.dp > 1 || instance.plan.cp > 1) return false;
  // Loads of experts that are drawn or follow a popularity are priced step by step.
  return !instance.experts.on();
}

std::string beyond_slo(const Scenario& scenario, const std::vector<TraceRequest>& requests,
                       const StepPricer& pricer) {
  const SloSpec& slo = scenario.slo;
  if (!slo.given || requests.empty() || !one_plain_pool(scenario)) return "";
  // Arrivals of a closed loop are not those of the trace, so that the warm-up takes in one knows not whom.
  if (scenario.workload.closed_loop_concurrency > 0 && scenario.workload.warmup_s > 0) return "";
  const std::int64_t longest =
      std::max_element(requests.begin(), requests.end(), [](const TraceRequest& a, const TraceRequest& b) {
        return a.prompt_tokens < b.prompt_tokens;
      })->prompt_tokens;
  // An API server that is behind hands the first token over late and the rest at once.
  if (slo.tpot_ms > 0 && !scenario.workload.openai_frontend) {
    const auto bound = [&](std::int64_t prompt) {
      return decode_ms(pricer, prompt) * room * first_token_room;
    };
    // Of the longest prompt: where a token behind it is in time, so is one behind any other.
    const std::string what = "a token of a lone sequence behind " + std::to_string(longest) +
                             " tokens takes at least " + format_fixed(bound(longest), 1) +
                             " ms, slo.tpot_ms is " + format_number(slo.tpot_ms);
    const std::int64_t within = longest_within(slo.tpot_ms, longest, bound);
    if (std::string reason = judge(requests, scenario, within, true, what); !reason.empty()) return reason;
  }
  if (slo.ttft_ms > 0 && !prompts_can_hit(requests)) {
    const auto bound = [&](std::int64_t prompt) {
      const PrefillChunk whole{.new_tokens = static_cast<std::int32_t>(prompt), .context = 0};
      return alone_ms(pricer, {.prefill = std::span(&whole, 1)}) * prompt_room;
    };
    const std::string what = "a lone prompt of " + std::to_string(longest) + " tokens takes at least " +
                             format_fixed(bound(longest), bound(longest) < 100 ? 1 : 0) +
                             " ms, slo.ttft_ms is " + format_number(slo.ttft_ms);
    return judge(requests, scenario, longest_within(slo.ttft_ms, longest, bound), false, what);
  }
  return "";
}

}  // namespace orrery
