#include "reports/casebook/step_samples.h"

#include <algorithm>

#include "base/text.h"
#include "costmodel/step_graph.h"

namespace orrery {

namespace {

double us(std::int64_t ns) { return static_cast<double>(ns) / 1e3; }

// Calls from Python that launch several kernels: routing, alignment, two products, activation, their
// quantisation and the sum of a layer's experts.
constexpr double kernels_of_experts = 10;

StepSample sample_of(const MeasuredStep& s, std::size_t experiment, const StepPricer& pricer,
                     double launch_graph, bool speculates) {
  std::vector<PrefillChunk> chunks;
  for (const MeasuredStep::Chunk& c : s.chunks)
    chunks.push_back({static_cast<std::int32_t>(c.tokens), c.context});
  StepShape shape{.prefill = {},
                  .decode_sequences = static_cast<std::int32_t>(s.decodes),
                  .decode_context_tokens = s.decode_context,
                  .new_requests = static_cast<std::int32_t>(s.admitted.size()),
                  .running = static_cast<std::int32_t>(s.running)};
  shape.prefill = chunks;
  // Beside drafts the log's contexts hold the step's own tokens.
  for (const MeasuredStep::Count& c : s.drafts) shape.draft_tokens += static_cast<std::int32_t>(c.tokens);
  if (speculates) shape.decode_context_tokens -= shape.decode_sequences + shape.draft_tokens;
  shape.decode_context_tokens = std::max<std::int64_t>(shape.decode_context_tokens, 0);
  const StepBreakdown priced = pricer.explain(shape);
  StepSample out;
  out.experiment = experiment;
  out.schedule = us(s.times.schedule_ns);
  out.handover =
      us(s.times.execute_start_ns - s.schedule_start_ns - s.times.schedule_ns - s.times.logging_ns);
  out.launch = us(s.times.sample_end_ns - s.times.execute_start_ns);
  out.update = us(s.times.update_ns);
  out.device = us(s.times.gpu_rank0_ns);
  out.running = static_cast<double>(s.running);
  out.admitted = static_cast<double>(s.admitted.size());
  out.sequences = static_cast<double>(s.sequences);
  out.mode = priced.graph_mode == "full"        ? StepSample::Mode::full
             : priced.graph_mode == "piecewise" ? StepSample::Mode::piecewise
                                                : StepSample::Mode::none;
  out.graph = launch_graph;
  out.excess = us(priced.timing.launch) - launch_graph;
  out.busy = us(priced.timing.busy);
  for (const OpLine& line : priced.ops) {
    out.parts[static_cast<std::size_t>(line.op_class)] += us(line.time_ns);
    out.launches +=
        static_cast<double>(line.count) * (line.op_class == OpClass::grouped_gemm ? kernels_of_experts : 1);
  }
  out.prompts = !chunks.empty();
  out.decodes = s.decodes > 0;
  return out;
}

// A name that is not there would leave out nothing, and whoever tests on it would test on what was fitted.
Status check_names(const MeasuredRun& run, const std::vector<std::string>& leave_out) {
  std::vector<std::string> names;
  for (const MeasuredExperiment& experiment : run.experiments) names.push_back(experiment.name);
  const auto known = [&](const std::string& name) {
    return std::find(names.begin(), names.end(), name) != names.end();
  };
  const auto left_out = [&](const std::string& name) {
    return std::find(leave_out.begin(), leave_out.end(), name) != leave_out.end();
  };
  for (const std::string& name : leave_out) {
    if (!known(name))
      return invalid_input("has no experiment \"" + name + "\" to leave out" + did_you_mean(name, names) +
                               "; known: " + join(names, ", "),
                           {run.folder, 0, 0});
  }
  if (!names.empty() && std::all_of(names.begin(), names.end(), left_out))
    return invalid_input("has no experiment that is not left out", {run.folder, 0, 0});
  return ok_status();
}

}  // namespace

double host_doubt(const InstanceSpec& spec) { return std::max(spec.engine.interval_host_error, 0.1); }

bool StepSample::unblocked() const {
  constexpr double queue = 900;
  const double priced = graph + excess;
  const bool fits = mode == Mode::piecewise || launches < queue || busy < 0.7 * priced;
  // Sampling that waits for the device (`first_request_effects`): the launch of a long step that is over when
  // the step is.
  const bool waited = busy > 2.5 * priced && launch > 0.8 * device;
  return clear && fits && !waited;
}

Result<std::vector<StepSample>> step_samples(const MeasuredRun& run, const InstanceSpec& spec,
                                             const std::vector<std::string>& leave_out) {
  ORRERY_TRY_STATUS(check_names(run, leave_out));
  ORRERY_TRY(pricer, StepPricer::create(spec));
  const double launch_graph = spec.engine.host.launch_graph.value.value() * 1e6;
  std::vector<StepSample> samples;
  bool logged = false;
  for (std::size_t e = 0; e < run.experiments.size(); ++e) {
    const MeasuredExperiment& experiment = run.experiments[e];
    if (std::find(leave_out.begin(), leave_out.end(), experiment.name) != leave_out.end()) continue;
    // When the device was done with the step before: it begins when that is, or when launching begins, and is
    // timed from there.
    std::int64_t step = -1, device_end = 0;
    for (const MeasuredStep& s : experiment.steps) {
      logged = logged || s.times.known;
      if (!s.times.known || s.times.gpu_rank0_ns <= 0) {
        step = -1;
        continue;
      }
      const bool follows = s.step == step + 1;
      const std::int64_t ahead = device_end - s.times.execute_start_ns;
      device_end = std::max(follows ? device_end : 0, s.times.execute_start_ns) + s.times.gpu_rank0_ns;
      step = s.step;
      if (s.decodes < 0 || (s.chunks.empty() && s.decodes == 0)) continue;
      StepSample sample = sample_of(s, e, pricer, launch_graph, spec.speculation.on());
      // A request that comes alone, after others that did (each by a clock of its own) or as the first of a
      // load, finds an idle device.
      const bool alone = s.decodes == 0 && s.chunks.size() == 1 && s.chunks.front().context == 0;
      const bool first = alone && (experiment.serial || &s == experiment.steps.data());
      sample.clear = first || (follows && us(ahead) <= 0.5 * (sample.graph + sample.excess));
      // It waits behind the launch of the model: one that is long is over when the step before is.
      sample.waits = drafts_by_v1(spec) && !first && follows && ahead > 0 &&
                     (sample.mode == StepSample::Mode::full || !sample.clear);
      samples.push_back(std::move(sample));
    }
  }
  if (!logged)
    return invalid_input(
        "has no host and device times of steps: expected the columns execute_start_us, "
        "execute_host_us, sample_end_us and gpu_us (tools/vllm_step_log.py writes them)",
        {run.folder + "/steps.csv", 0, 0});
  if (samples.size() < least_steps)
    return invalid_input("has fewer than " + std::to_string(least_steps) + " steps that can be used",
                         {run.folder + "/steps.csv", 0, 0});
  return samples;
}

}  // namespace orrery
