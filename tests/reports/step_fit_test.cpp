// Fitting to a step log: known answers come back, and on runs of another host what is left out gets better.
#include "reports/casebook/step_fit.h"
#include "step_sample.h"

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "base/files.h"
#include "base/random.h"
#include "catch.h"
#include "costmodel/instance_spec.h"
#include "reports/casebook/calibration_update.h"
#include "reports/casebook/robust_fit.h"
#include "reports/casebook/step_samples.h"
#include "sim/costed/launch_jitter.h"

using namespace orrery;

namespace {

InstanceSpec instance(const std::string& hardware, const std::string& model, const std::string& engine,
                      const std::string& plan = "") {
  YamlDocument document =
      YamlDocument::parse("hardware: " + hardware + "\nmodel: " + model + "\nengine: " + engine + "\n" + plan,
                          "s.yaml")
          .value();
  Errors errors;
  InstanceSpec spec = read_instance_spec(document.root(), ".", errors);
  if (!errors.empty()) FAIL(to_string(errors));
  return spec;
}

MeasuredRun load(const std::string& name) {
  auto run = load_measured_run(std::string(ORRERY_SOURCE_DIR) + "/reports/cases/" + name);
  INFO((run.ok() ? "" : to_string(run.errors())));
  REQUIRE(run.ok());
  return std::move(run).value();
}

const FittedTerm& term(const std::vector<FittedTerm>& terms, const std::string& key) {
  for (const FittedTerm& t : terms) {
    if (t.key == key) return t;
  }
  FAIL("no term " << key);
  return terms.front();
}

const FitError& error(const StepFit& fit, const std::string& kind) {
  for (const FitError& e : fit.left_out) {
    if (e.kind == kind) return e;
  }
  FAIL("no kind " << kind);
  return fit.left_out.front();
}

// Launches of a step beside decodes, as a fit has them.
double busy_launch(const StepFit& fit, double kernels) {
  return term(fit.host, "launch_jitter_median").value *
         (term(fit.host, "launch_graph").value + kernels * term(fit.host, "launch_kernel").value);
}

// The log of an engine that behaves exactly as a profile says, launch times beside decodes spread as it says,
// with every host time multiplied and, one step in ten, delayed for no reason.
MeasuredRun made_up(const InstanceSpec& spec, double host, double gemm) {
  const StepPricer pricer = StepPricer::create(spec).value();
  const HostCosts& costs = spec.engine.host;
  LaunchJitter jitter({.median = costs.launch_jitter_median.value,
                       .below = costs.launch_jitter_below.value,
                       .above = costs.launch_jitter_above.value,
                       .correlation = costs.launch_jitter_correlation.value},
                      7, 1);
  MeasuredRun run;
  RandomStream random(5, RandomPurpose::property_test);
  for (int e = 0; e < 4; ++e) {
    MeasuredExperiment experiment;
    experiment.name = "e" + std::to_string(e);
    std::int64_t now = 0;  // one step after another: the device is never behind
    for (int i = 0; i < 300; ++i) {
      MeasuredStep s;
      s.step = i;
      s.decodes = 1 + static_cast<std::int64_t>(random.below(120));
      s.decode_context = s.decodes * static_cast<std::int64_t>(200 + random.below(4000));
      s.sequences = s.running = s.decodes;
      std::vector<PrefillChunk> chunks;
      const std::uint64_t kind = random.below(4);
      if (kind > 1) {
        const auto tokens =
            static_cast<std::int32_t>(kind == 2 ? 100 + random.below(250) : 1000 + random.below(200));
        chunks.push_back({tokens, 0});
        s.chunks.push_back({tokens, 0});
        s.admitted.push_back({i, 0});
        ++s.sequences;
        ++s.running;
      }
      StepShape shape{.prefill = {},
                      .decode_sequences = static_cast<std::int32_t>(s.decodes),
                      .decode_context_tokens = s.decode_context,
                      .new_requests = static_cast<std::int32_t>(chunks.size()),
                      .running = static_cast<std::int32_t>(s.running)};
      shape.prefill = chunks;
      const StepBreakdown priced = pricer.explain(shape);
      double device = 0;
      for (const OpLine& line : priced.ops)
        device += static_cast<double>(line.time_ns) * (line.op_class == OpClass::gemm ? gemm : 1);
      const double late = i % 10 == 0 ? 5e6 : 0;
      const HostCosts& h = spec.engine.host;
      s.times.schedule_ns =
          static_cast<std::int64_t>(host * static_cast<double>(priced.timing.schedule) + late);
      s.schedule_start_ns = now;
      s.times.execute_start_ns =
          now + s.times.schedule_ns + static_cast<std::int64_t>(host * h.prepare_base.value.value() * 1e9);
      s.times.known = true;
      const std::int64_t launch =
          chunks.empty() ? priced.timing.launch : jitter.next(0, priced.timing.launch);
      s.times.sample_end_ns = s.times.execute_start_ns +
                              static_cast<std::int64_t>(host * (static_cast<double>(launch) +
                                                                h.prepare_per_sequence.value.value() * 1e9 *
                                                                    static_cast<double>(s.sequences)) +
                                                        late);
      s.times.update_ns = static_cast<std::int64_t>(host * static_cast<double>(priced.timing.update) + late);
      s.times.gpu_rank0_ns = static_cast<std::int64_t>(device + late);
      now = std::max(s.times.sample_end_ns, s.times.execute_start_ns + s.times.gpu_rank0_ns) +
            s.times.update_ns + 1000;
      experiment.steps.push_back(std::move(s));
    }
    run.experiments.push_back(std::move(experiment));
  }
  return run;
}

}  // namespace

TEST_CASE("robust fit: exact data come back, a tenth of outliers does not matter, a bound holds") {
  RandomStream random(3, RandomPurpose::property_test);
  std::vector<std::vector<double>> rows;
  std::vector<double> y;
  for (int i = 0; i < 200; ++i) {
    rows.push_back({1, random.uniform() * 100, random.uniform() * 10});
    y.push_back(5 + 2 * rows.back()[1] + 0.1 * random.normal() + (i % 10 == 0 ? 400 : 0));
  }
  const RobustFit fit = robust_fit(rows, y, std::vector<Prior>(3));
  CHECK(fit.value[0] == Approx(5).margin(0.3));
  CHECK(fit.value[1] == Approx(2).margin(0.005));
  CHECK(fit.value[2] >= 0);
  CHECK(fit.value[2] < 0.05);
  CHECK(fit.condition < 100);
  // Two columns that are one cannot be told apart, and the fit says so.
  for (auto& row : rows) row[2] = row[1];
  CHECK(robust_fit(rows, y, std::vector<Prior>(3)).condition > 1e6);
  CHECK(shorth_of({1, 1.1, 1.2, 1.1, 9, 20, 1.05}) == Approx(1.1));
  CHECK(median_of({3, 1, 2}) == 2);
}

TEST_CASE("a log of one experiment is cut, so that something can be left out") {
  const InstanceSpec spec = instance("h200", "qwen3-8b", "vllm-0.24");
  MeasuredRun run = made_up(spec, 1.4, 1.1);
  CHECK(fit_steps(run, spec).value().parts == 0);
  const std::vector<std::string> others{"e1", "e2", "e3"};
  const StepFit fit = fit_steps(run, spec, others).value();
  CHECK(fit.parts == 4);
  CHECK(fit.experiments == 1);
  CHECK(term(fit.operators, "gemm").deviation > 0);
  CHECK(error(fit, "device, decode").steps > 50);
  CHECK(step_fit_text(fit).find("cut into 4 parts") != std::string::npos);
  run.experiments[0].steps.resize(20);
  CHECK(fit_steps(run, spec, others).value().parts == 0);  // too few to cut
}

TEST_CASE("what logging itself takes before a launch is no cost of the engine") {
  const InstanceSpec spec = instance("h200", "qwen3-8b", "vllm-0.24");
  MeasuredRun run = made_up(spec, 1, 1);
  const double before = term(fit_steps(run, spec).value().host, "prepare_base").value;
  for (const std::int64_t logged : {std::int64_t{20'000}, std::int64_t{0}}) {
    MeasuredRun late = run;
    for (MeasuredExperiment& e : late.experiments) {
      for (MeasuredStep& s : e.steps) {
        s.times.execute_start_ns += 20'000;
        s.times.sample_end_ns += 20'000;
        s.times.logging_ns = logged;
      }
    }
    const double after = term(fit_steps(late, spec).value().host, "prepare_base").value;
    CHECK(after == Approx(before + (logged > 0 ? 0 : 20)).margin(0.5));
  }
}

TEST_CASE("a made-up engine's host and products come back from its log") {
  const InstanceSpec spec = instance("h200", "qwen3-8b", "vllm-0.24");
  const StepFit fit = fit_steps(made_up(spec, 1.4, 1.1), spec).value();
  for (const char* key :
       {"schedule_base", "schedule_per_sequence", "prepare_base", "prepare_per_sequence", "launch_graph",
        "launch_piece", "launch_kernel", "update_base", "update_per_sequence"}) {
    const FittedTerm& t = term(fit.host, key);
    INFO(key);
    CHECK(t.fitted);
    // Launches beside decodes vary by a quarter, and a stall in ten moves the middle of them.
    const bool varies = t.key == "launch_piece" || t.key == "launch_kernel";
    CHECK(t.value == Approx(1.4 * t.before).epsilon(varies ? 0.09 : 0.03));
  }
  // No prompt was alone: those beside decodes stand for them, by the profile's spread.
  CHECK(term(fit.host, "launch_jitter_median").value == Approx(1.06));
  CHECK(term(fit.operators, "gemm").value == Approx(1.1).epsilon(0.01));
  CHECK_FALSE(term(fit.operators, "collective").fitted);
  for (const FitError& e : fit.left_out) {
    INFO(e.kind);
    const bool varies = e.kind == "launch, piecewise" || e.kind == "launch, eager";
    CHECK(e.after < (varies ? 0.7 * e.before : 1));
    CHECK(e.before > 4);
  }
  CHECK(fit.warnings.empty());
}

TEST_CASE("an engine as the profile has it keeps the profile: what differs is noise") {
  const InstanceSpec spec = instance("h200", "qwen3-8b", "vllm-0.24");
  const StepFit fit = fit_steps(made_up(spec, 1, 1), spec).value();
  for (const HostLevel& level : fit.levels) {
    INFO(level.kind << " " << level.factor);
    CHECK_FALSE(level.told);
    if (!level.few) CHECK(level.factor == Approx(1).epsilon(0.12));
  }
  for (const std::vector<FittedTerm>* terms : {&fit.host, &fit.operators}) {
    for (const FittedTerm& t : *terms) {
      INFO(t.key);
      CHECK_FALSE(t.fitted);
      CHECK(t.value == t.before);
      CHECK_FALSE(t.note.empty());
    }
  }
}

TEST_CASE("a level: loads count, not steps; what loads differ by is noise, a slow host is not") {
  const auto level = [](std::vector<double> loads, std::size_t steps, double spread) {
    LevelRatios ratios;
    for (std::size_t e = 0; e < loads.size(); ++e)
      for (std::size_t i = 0; i < steps; ++i)
        ratios[e].push_back(loads[e] * (i % 2 == 0 ? 1 + spread : 1 - spread));
    return host_level("x", ratios, LevelOf::middle_mean, 0.4);
  };
  CHECK_FALSE(level({1.1}, 4000, 0.05).told);  // one load, however long
  CHECK(level({1.1, 1.1, 1.1, 1.1}, 100, 0.05).told);
  CHECK(level({1.3}, 100, 0.05).told);
  CHECK_FALSE(level({1.7, 0.9}, 100, 0.05).told);  // they do not agree
  CHECK(level({1.3}, 11, 0.05).few);
  CHECK(level({1.3}, 100, 0.05).factor < 1.3);  // nearer the profile's by what is known of hosts
  CHECK(level({1.3}, 100, 0.05).factor > 1.27);
  // Hosts of which nothing is known move all the way.
  CHECK(level({1.3, 1.3}, 100, 0.0).deviation < level({1.3}, 100, 0.0).deviation);
  CHECK(middle_mean({0, 1, 1, 1, 1, 1, 1, 1, 1, 50}) == Approx(1));
}

TEST_CASE("the middle of the profile's spread is that of the launches that are drawn from it") {
  const HostCosts& host = instance("h200", "qwen3-8b", "vllm-0.24").engine.host;
  LaunchJitter jitter({.median = host.launch_jitter_median.value,
                       .below = host.launch_jitter_below.value,
                       .above = host.launch_jitter_above.value,
                       .correlation = 0},
                      3, 1);
  std::vector<double> drawn;
  for (int i = 0; i < 20000; ++i) drawn.push_back(static_cast<double>(jitter.next(0, 1'000'000)) / 1e6);
  CHECK(middle_mean_of_spread(host) == Approx(middle_mean(drawn)).epsilon(0.01));
}

TEST_CASE("launches are chosen by the price of the step, not by how long they took") {
  StepSample s = test::prompt_sample(25'000, 26'000);
  for (const double launch : {10'000.0, 17'000.0, 25'900.0}) {
    s.launch = launch;
    CHECK(s.unblocked());
  }
  s.launches = 2000;  // more than a stream's queue holds, and the device is behind
  CHECK_FALSE(s.unblocked());
  s.busy = 9000;  // … or ahead
  CHECK(s.unblocked());
  s.launches = 600;
  s.busy = 190'000;
  s.device = s.launch = 191'000;  // sampling waited for the device
  CHECK_FALSE(s.unblocked());
  s.launch = 18'000;
  CHECK(s.unblocked());
  s.clear = false;  // the step before fills the queue
  CHECK_FALSE(s.unblocked());
}

TEST_CASE(
    "beside drafts a step is priced with them, and launches that wait for a verification are no host's") {
  const std::string mtp = "speculation: {method: mtp, tokens: 1, acceptance: [0.75]}\n";
  const InstanceSpec spec = instance("h200", "mimo-7b", "vllm-0.24", mtp);
  const MeasuredRun run = load("h200_vllm_0_24_features/mimo-7b_bf16_mtp1");
  const auto samples = step_samples(run, spec, {});
  REQUIRE(samples.ok());
  std::size_t waits = 0;
  std::vector<double> launches;
  for (const StepSample& s : *samples) {
    waits += s.waits ? 1 : 0;
    if (s.prompts || !s.replayed()) continue;
    CHECK_FALSE(s.waits);
    CHECK(s.excess > 1000);  // drafting is launched kernel by kernel beside the graph
    launches.push_back(s.launch / (s.graph + s.excess));
  }
  CHECK(waits > 1000);
  CHECK(launches.size() > 20);
  CHECK(median_of(launches) < 1.5);
  // Without drafts in the price the same steps are a fifth longer than priced.
  const auto off = [](const std::vector<StepSample>& steps) {
    std::vector<double> ratios;
    for (const StepSample& s : steps)
      if (!s.prompts && s.sequences > 4) ratios.push_back(s.device / s.busy);
    return median_of(ratios);
  };
  const auto plain = step_samples(run, instance("h200", "mimo-7b", "vllm-0.24"), {});
  CHECK(off(*samples) == Approx(1).epsilon(0.1));
  // Drafts are launched by launch_kernel, of whose pace prompts say nothing.
  const StepFit fit = fit_steps(run, spec).value();
  CHECK(term(fit.host, "launch_kernel").value == 37);
  CHECK(term(fit.host, "launch_kernel").note.find("drafts") != std::string::npos);
  CHECK(off(*plain) > 1.1 * off(*samples));
}

TEST_CASE("prompts alone count where each is a load of its own, as a log of a server at rest has them") {
  const InstanceSpec spec = instance("h200", "llama-3.1-8b", "vllm-0.24");
  MeasuredRun run = load("h200_vllm_0_24_held_out/llama-3.1-8b_bf16_tp1");
  const std::vector<std::string> loads{"static_b1_c1024",   "static_b8_c1024",      "static_b32_c1024",
                                       "static_b128_c1024", "poisson_1024_128_r12", "lognormal_r20",
                                       "prefix_r12"};
  const StepFit one = fit_steps(run, spec, loads).value();
  MeasuredExperiment all = run.experiments.front();
  REQUIRE(all.name == "prefill_single");
  run.experiments.clear();
  for (const MeasuredStep& s : all.steps) {
    const bool begins = !s.chunks.empty() && s.chunks.front().context == 0;
    if (begins || run.experiments.empty()) {
      run.experiments.emplace_back();
      run.experiments.back().name = "load_" + std::to_string(run.experiments.size());
    }
    run.experiments.back().steps.push_back(s);
  }
  const StepFit apart = fit_steps(run, spec).value();
  CHECK(apart.experiments > 12);
  for (const std::size_t lone : {4, 5}) {
    INFO(one.levels[lone].kind);
    CHECK(one.levels[lone].told);
    CHECK(apart.levels[lone].steps == one.levels[lone].steps);
    CHECK(apart.levels[lone].factor == Approx(one.levels[lone].factor));
  }
}

TEST_CASE("prompts alone say what prompts alone take, and nothing of a busy host") {
  const InstanceSpec spec = instance("h200", "llama-3.1-8b", "vllm-0.24");
  const StepFit fit = fit_steps(load("h200_vllm_0_24_held_out/llama-3.1-8b_bf16_tp1"), spec,
                                {"static_b8_c1024", "static_b32_c1024", "static_b128_c1024",
                                 "poisson_1024_128_r12", "lognormal_r20", "prefix_r12"})
                          .value();
  const double alone = term(fit.host, "launch_kernel").value / term(fit.host, "launch_kernel").before;
  CHECK(alone > 1.25);
  CHECK(busy_launch(fit, 390) == Approx(1.06 * (1850 + 390 * 37.0)).epsilon(0.02));
  CHECK(fit.warnings.size() == 2);
  CHECK(step_fit_text(fit).find("warning: Prompts alone say") != std::string::npos);
}

TEST_CASE("the profile's own run gives back the profile") {
  const StepFit fit =
      fit_steps(load("h200_vllm_0_24/qwen3-8b_bf16_tp1"), instance("h200", "qwen3-8b", "vllm-0.24")).value();
  for (const FittedTerm& t : fit.host) {
    INFO(t.key << " " << t.value);
    if (!t.key.starts_with("launch_") || t.key == "launch_graph") CHECK(t.value == t.before);
  }
  // Prompts alone found a host that slept; beside decodes launches stay as they were.
  CHECK(term(fit.host, "launch_kernel").value > 1.2 * 37);
  CHECK(busy_launch(fit, 390) == Approx(1.06 * (1850 + 390 * 37.0)).epsilon(0.01));
  for (const FittedTerm& t : fit.operators) CHECK_FALSE(t.fitted);
}

TEST_CASE("another host: left-out experiments come nearer, and the file that is written says so again") {
  const InstanceSpec spec = instance("h100", "qwen3-30b-a3b", "vllm-0.24", "parallel: {tp: 2, ep: 2}\n");
  const StepFit fit = fit_steps(load("h100_vllm_0_24/qwen3-30b-a3b_bf16_tp2_ep2"), spec).value();
  for (const char* kind : {"launch, graph", "device, decode"})
    CHECK(error(fit, kind).after < 0.6 * error(fit, kind).before);
  const StepFit slow =
      fit_steps(load("h100_vllm_0_24/llama-3.1-8b_bf16_tp1"), instance("h100", "llama-3.1-8b", "vllm-0.24"))
          .value();
  for (const char* kind : {"launch, graph", "launch, piecewise", "launch, eager", "update"})
    CHECK(error(slow, kind).after < 0.6 * error(slow, kind).before);
  const std::string text = overlay_yaml(fit, spec, "mine", "step log \"of mine\"");
  const std::string path = (std::filesystem::temp_directory_path() / "orrery_step_fit_test.yaml").string();
  REQUIRE(write_file_atomically(path, text).ok());
  const auto loaded = load_engine(path);
  INFO((loaded.ok() ? "" : to_string(loaded.errors())));
  REQUIRE(loaded.ok());
  CHECK(loaded->name == "mine");
  CHECK(loaded->scheduler == "vllm-v1");
  CHECK(loaded->host.launch_graph.value.value() * 1e6 ==
        Approx(term(fit.host, "launch_graph").value).epsilon(1e-4));
  CHECK(loaded->host.launch_graph.kind == FigureKind::measured);
  CHECK(loaded->host.copy.value.value() == spec.engine.host.copy.value.value());
  CHECK_FALSE(loaded->operator_factors.empty());
  // What was fitted is what a scenario with that file is priced with.
  const InstanceSpec fitted = instance("h100", "qwen3-30b-a3b", path, "parallel: {tp: 2, ep: 2}\n");
  const StepShape decode{.prefill = {},
                         .decode_sequences = 16,
                         .decode_context_tokens = 16000,
                         .new_requests = 0,
                         .running = 16};
  const auto experts = [&](const InstanceSpec& s) {
    for (const OpLine& line : StepPricer::create(s).value().explain(decode).ops)
      if (line.name == "moe_experts") return static_cast<double>(line.time_ns);
    return 0.0;
  };
  CHECK(experts(fitted) / experts(spec) == Approx(term(fit.operators, "grouped_gemm").value).epsilon(1e-3));
  std::filesystem::remove(path);
}

TEST_CASE("figures over a profile: unknown terms and bases are located errors") {
  const auto errors = [](const std::string& text) {
    const std::string path = (std::filesystem::temp_directory_path() / "orrery_overlay_test.yaml").string();
    REQUIRE(write_file_atomically(path, text).ok());
    const auto loaded = load_engine(path);
    REQUIRE_FALSE(loaded.ok());
    return to_string(loaded.errors());
  };
  const std::string head = "name: x\ndescription: y\nbase: vllm-0.24\n";
  CHECK(errors(head + "host:\n  launch_kernels: {value: 1, unit: us, kind: measured, source: z}\n")
            .find("launch_kernel") != std::string::npos);
  CHECK(errors(head + "host:\n  launch_kernels: {value: 1, unit: us, kind: measured, source: z}\n")
            .find(":5:") != std::string::npos);
  CHECK(errors(head + "operators: {matmul: {value: 1, unit: ratio, kind: measured, source: z}}\n")
            .find("gemm") != std::string::npos);
  CHECK(errors("name: x\ndescription: y\nbase: vllm-9\n").find("vllm-9") != std::string::npos);
  CHECK(errors(head + "graphs: {}\n").find("graphs") != std::string::npos);
}

TEST_CASE("a profile over ours may give all models to the V1 runner, as earlier versions did") {
  const std::string path = (std::filesystem::temp_directory_path() / "orrery_v1_runner_test.yaml").string();
  REQUIRE(
      write_file_atomically(path, "name: x\ndescription: y\nbase: vllm-0.24\nv2_architectures: []\n").ok());
  CHECK(instance("h200", "qwen3-8b", "vllm-0.24", "").engine.runner == "v2");
  const InstanceSpec v1 = instance("h200", "qwen3-8b", path, "");
  CHECK(v1.engine.runner == "v1");
  CHECK(v1.engine.host.prepare_per_sequence_v1.value.value() >
        v1.engine.host.prepare_per_sequence.value.value());
  std::filesystem::remove(path);
}

TEST_CASE("a log without times is an error that says what to do") {
  MeasuredRun run = load("h100_vllm_0_24/qwen3-30b-a3b_bf16_tp2_ep2");
  for (MeasuredExperiment& e : run.experiments)
    for (MeasuredStep& s : e.steps) s.times.known = false;
  const auto fit =
      fit_steps(run, instance("h100", "qwen3-30b-a3b", "vllm-0.24", "parallel: {tp: 2, ep: 2}\n"));
  REQUIRE_FALSE(fit.ok());
  CHECK(fit.errors()[0].message.find("vllm_step_log.py") != std::string::npos);
}

TEST_CASE("an update is tried on steps that it has not seen, and is refused where they get no better") {
  const InstanceSpec spec = instance("h200", "qwen3-8b", "vllm-0.24");
  const MeasuredRun run = made_up(spec, 1.4, 1.1);
  const CalibrationUpdate update = update_calibration(run, spec, "mine", "a log").value();
  CHECK(update.host);
  CHECK(update.operators);
  CHECK(update.fitted_steps == 800);
  CHECK(update.held_out_steps == 400);
  for (const FitError& e : update.held_out) {
    INFO(e.kind);
    const bool varies = e.kind == "launch, piecewise" || e.kind == "launch, eager";
    CHECK(e.before > 4);
    CHECK(e.after < (varies ? 0.7 * e.before : 1));
  }
  CHECK(parse_engine(update.engine_yaml, "engine.yaml").value().name == "mine");

  // A host that is another one in the last third: what the first two say does not help there, products do.
  MeasuredRun turned = run;
  const MeasuredRun slow = made_up(spec, 1, 1.1);
  for (std::size_t e = 0; e < run.experiments.size(); ++e) {
    auto& steps = turned.experiments[e].steps;
    std::copy(slow.experiments[e].steps.begin() + 200, slow.experiments[e].steps.end(), steps.begin() + 200);
  }
  const CalibrationUpdate half = update_calibration(turned, spec, "mine", "a log").value();
  CHECK_FALSE(half.host);
  CHECK(half.operators);
  CHECK(term(half.fit.host, "launch_kernel").value == term(half.fit.host, "launch_kernel").before);
  CHECK(half.engine_yaml.find("host: {}") != std::string::npos);

  // Everything turns: nothing is written.
  const MeasuredRun other = made_up(spec, 1, 0.9);
  for (std::size_t e = 0; e < run.experiments.size(); ++e) {
    auto& steps = turned.experiments[e].steps;
    std::copy(other.experiments[e].steps.begin() + 200, other.experiments[e].steps.end(),
              steps.begin() + 200);
  }
  const auto refused = update_calibration(turned, spec, "mine", "a log");
  REQUIRE_FALSE(refused.ok());
  CHECK(refused.errors()[0].kind == ErrorKind::check_failed);
  CHECK(refused.errors()[0].message.find("held out") != std::string::npos);
}
