#include "sim/costed/mean_steps.h"

#include <algorithm>

namespace orrery {

std::vector<MeanStep> mean_steps(const StepPricer& pricer, const CostModelExecutor::Usage& usage) {
  std::vector<MeanStep> out;
  for (const CostModelExecutor::StepKind& kind : {usage.prefill, usage.mixed, usage.decode}) {
    if (kind.steps == 0 || kind.ns == 0) continue;
    const std::int64_t parts = kind.steps * pricer.ranks();  // of a step, those of its ranks
    const auto mean = [&](std::int64_t sum) { return (sum + parts / 2) / parts; };
    std::vector<PrefillChunk> chunks;
    if (kind.chunks > 0)
      chunks.push_back({static_cast<std::int32_t>(std::max<std::int64_t>(2, mean(kind.prefill_tokens))),
                        kind.prefill_context / kind.chunks});
    StepShape shape;
    shape.prefill = chunks;
    shape.decode_sequences = static_cast<std::int32_t>(mean(kind.decodes));
    if (chunks.empty()) shape.decode_sequences = std::max(1, shape.decode_sequences);
    shape.decode_context_tokens = mean(kind.decode_context);
    shape.draft_tokens = static_cast<std::int32_t>(mean(kind.drafts));
    out.push_back({pricer.explain(shape), kind.ns});
  }
  return out;
}

double add_price_sources(const StepPricer& pricer, const EncoderPricer* encoder,
                         const CostModelExecutor::Usage& usage, RungTimes& ns) {
  double total = 0;
  for (const MeanStep& mean : mean_steps(pricer, usage)) {
    for (const OpLine& line : mean.step.ops) {
      const double share = static_cast<double>(line.time_ns) / static_cast<double>(mean.step.timing.busy);
      ns[static_cast<std::size_t>(rung_named(line.rung))] += share * static_cast<double>(mean.ns);
    }
    total += static_cast<double>(mean.ns);
  }
  if (usage.encoder_ns > 0) {
    const std::vector<OpLine> lines = encoder->explain(usage.largest_pass);
    double busy = 0;
    for (const OpLine& line : lines) busy += static_cast<double>(line.time_ns);
    for (const OpLine& line : lines) {
      ns[static_cast<std::size_t>(rung_named(line.rung))] +=
          static_cast<double>(line.time_ns) / busy * static_cast<double>(usage.encoder_ns);
    }
    total += static_cast<double>(usage.encoder_ns);
  }
  return total;
}

std::vector<std::pair<std::string, double>> shares_of(const RungTimes& ns, double total) {
  std::vector<std::pair<std::string, double>> out;
  for (std::size_t i = 0; i < ns.size(); ++i) {
    if (ns[i] > 0) out.emplace_back(to_string(static_cast<Rung>(i)), ns[i] / total);
  }
  if (out.empty()) out.emplace_back(to_string(Rung::roofline), 1.0);
  return out;
}

}  // namespace orrery
