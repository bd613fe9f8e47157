#include "cli/commands/cost.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <memory>

#include "base/files.h"
#include "base/json.h"
#include "base/text.h"
#include "cli/commands/cost_compare.h"
#include "cli/commands/cost_images.h"
#include "cli/commands/cost_ops.h"
#include "cli/commands/cost_pairs.h"
#include "cli/commands/cost_steps.h"
#include "cli/commands/cost_text.h"
#include "cli/commands/energy_output.h"
#include "cli/interrupt.h"
#include "costmodel/draft_trees.h"
#include "costmodel/memory_plan.h"
#include "costmodel/step_pricer.h"
#include "sim/costed/scenario.h"
#include "sim/ensemble/interval_corrections.h"

namespace orrery {

namespace {

struct CostOptions {
  bool step_given = false, run = false, energy = false;
  std::vector<std::string> with;  // --set of the second scenario alone
  std::string scenario, step, steps, out, ops, hardware, kernels = "orrery", pool;
  std::vector<std::string> compare;
};

// A scenario with one pool: that of the file, or one of several.
struct Loaded {
  Scenario scenario;
  StepPricer pricer;
  std::string title;  // of the pool, where there are several
  const InstanceSpec& instance() const { return scenario.pool.instance; }
};

// `wanted`: a pool's name, empty for all.
Result<std::vector<Loaded>> pools_of(const Scenario& scenario, const std::string& wanted) {
  std::vector<Loaded> out;
  std::vector<std::string> names;
  for (const PoolSpec* pool : scenario.pools()) {
    names.push_back(pool->name);
    if (!wanted.empty() && pool->name != wanted) continue;
    ORRERY_TRY(pricer, StepPricer::create(pool->instance, scenario.what_if));
    Scenario one = scenario;
    one.pool = *pool;
    one.other_pools.clear();
    const bool several = !scenario.other_pools.empty();
    out.push_back({std::move(one), std::move(pricer),
                   several ? "pool " + pool->name + " (" + to_string(pool->role) + "): " : ""});
  }
  if (out.empty())
    return make_error(ErrorKind::usage,
                      "--pool: no pool is called " + quote(wanted) + "; there are " + join(names, ", "));
  return out;
}

// A model that does not fit has no step to price: the memory plan comes first (exit code 4).
Result<Scenario> load_file(const std::string& path, const std::vector<std::string>& overrides,
                           bool needs_workload = false) {
  ScenarioOptions options;
  options.overrides = overrides;
  options.needs_workload = needs_workload;
  return load_scenario(path, options);
}

Result<std::vector<Loaded>> load_pools(const std::string& path, const std::string& wanted,
                                       const CommandContext& context) {
  ORRERY_TRY(scenario, load_file(path, context.overrides));
  return pools_of(scenario, wanted);
}

// For what shows one pool only.
Result<Loaded> load(const std::string& path, const std::string& wanted, const CommandContext& context) {
  ORRERY_TRY(pools, load_pools(path, wanted, context));
  if (pools.size() > 1) return make_error(ErrorKind::usage, path + " has several pools; say --pool NAME");
  return std::move(pools.front());
}

int put(const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  return 0;
}

int write_file(const std::string& path, const std::string& text) {
  const Status written = write_file_atomically(path, text);
  return written.ok() ? 0 : report_errors(written.errors());
}

// What is shown when nobody asks for a step: a decode of a middling batch, and one full prefill.
std::vector<StepRequest> default_steps(const SchedulerSettings& settings) {
  StepRequest decode, prefill;
  decode.shape.decode_sequences =
      static_cast<std::int32_t>(std::min<std::int64_t>(64, settings.max_num_seqs));
  decode.shape.decode_context_tokens = decode.shape.decode_sequences * std::int64_t{1024};
  const std::int64_t tokens = std::min<std::int64_t>(2048, settings.max_num_batched_tokens);
  prefill.chunks.push_back({static_cast<std::int32_t>(tokens), 0});
  return {decode, prefill};
}

Result<std::vector<StepRequest>> steps_to_show(const CostOptions& options,
                                               const SchedulerSettings& settings) {
  if (options.step.empty()) return default_steps(settings);
  ORRERY_TRY(step, parse_step(options.step));
  return std::vector<StepRequest>{step};
}

std::string drafts_text(const StepShape& shape) {
  return shape.draft_tokens > 0 ? " with " + std::to_string(shape.draft_tokens) + " drafts to verify" : "";
}

std::string steps_csv(const Loaded& loaded, const std::vector<StepRequest>& steps) {
  std::string csv = step_csv_header;
  for (std::size_t i = 0; i < steps.size(); ++i) {
    append_step_csv(static_cast<std::int64_t>(i),
                    loaded.pricer.summarize(steps[i].view(loaded.instance().speculation.drafts())), csv);
  }
  return csv;
}

Result<std::optional<EnergyProfile>> energy_of(const CostOptions& options, const InstanceSpec& instance) {
  if (!options.energy) return std::optional<EnergyProfile>();
  ORRERY_TRY(profile, load_energy(instance.hardware));
  return std::optional(std::move(profile));
}

// `deviations`: of the memory plan, to either end of the interval of the KV cache.
Result<Json> pool_json(const CostOptions& options, const Loaded& loaded,
                       const std::vector<StepRequest>& steps, double deviations) {
  Json result{{"scenario", options.scenario},
              {"instance", instance_line(loaded.instance())},
              {"what_if", loaded.scenario.is_what_if},
              {"memory", memory_json(loaded.scenario.pool.memory, deviations)},
              {"steps", Json::array()}};
  if (!loaded.title.empty()) result["pool"] = loaded.scenario.pool.name;
  if (const SpeculationSpec& s = loaded.instance().speculation; s.tree != nullptr)
    result["draft_tree"] = {{"branches", s.branches},
                            {"verified", s.verified},
                            {"depth", s.tokens},
                            {"further_candidates", s.siblings_assumed ? "assumed" : "given"}};
  ORRERY_TRY(energy, energy_of(options, loaded.instance()));
  for (const StepRequest& step : steps) {
    const StepBreakdown cost = loaded.pricer.explain(step.view(loaded.instance().speculation.drafts()));
    result["steps"].push_back(step_json(to_text(step), cost));
    if (energy) result["steps"].back()["energy"] = step_energy_json(step_energy(*energy, cost));
  }
  return result;
}

Result<std::string> pool_text(const CostOptions& options, const Loaded& loaded,
                              const std::vector<StepRequest>& steps, double deviations) {
  const InstanceSpec& instance = loaded.instance();
  const std::int32_t drafts = instance.speculation.drafts();
  ORRERY_TRY(energy, energy_of(options, instance));
  std::string text = loaded.title + instance_line(instance) +
                     (loaded.scenario.is_what_if ? " (what-if)\n" : "\n") + tree_line(instance.speculation);
  if (options.step.empty()) {
    text += "\n" + loaded.scenario.pool.memory.to_table(deviations);
    ORRERY_TRY(images, image_table(loaded.scenario));
    if (!images.empty()) text += "\n" + images;
  }
  for (const StepRequest& step : steps) {
    const std::string alike = instance.plan.dp > 1 ? ", on each of " + std::to_string(instance.plan.dp) +
                                                         " ranks of attention data parallelism"
                                                   : "";
    const StepBreakdown cost = loaded.pricer.explain(step.view(drafts));
    text += "\n" + step_table("step: " + to_text(step) + drafts_text(step.view(drafts)) + alike, cost);
    if (energy) text += step_energy_text(step_energy(*energy, cost));
  }
  return text;
}

int explain_steps(const CostOptions& options, const CommandContext& context) {
  // A wrong --step is wrong usage, whatever the scenario holds: look at it first.
  if (options.step_given) {
    if (const auto step = parse_step(options.step); !step.ok()) return report_errors(step.errors());
  }
  auto pools = load_pools(options.scenario, options.pool, context);
  if (!pools.ok()) return report_errors(pools.errors());
  const auto corrections = shipped_interval_corrections();
  if (!corrections.ok()) return report_errors(corrections.errors());
  const double deviations = corrections->capacity.deviations;
  if (!options.out.empty() && pools->size() > 1)
    return report_errors(
        {make_error(ErrorKind::usage, options.scenario + " has several pools; say --pool NAME")});
  Json all = Json::array();
  std::string text;
  for (const Loaded& loaded : *pools) {
    auto steps = steps_to_show(options, loaded.instance().engine.settings);
    if (!steps.ok()) return report_errors(steps.errors());
    if (!options.out.empty()) {
      if (const int code = write_file(options.out, steps_csv(loaded, *steps)); code != 0) return code;
    }
    if (context.json) {
      auto json = pool_json(options, loaded, *steps, deviations);
      if (!json.ok()) return report_errors(json.errors());
      all.push_back(std::move(json).value());
    }
    auto shown = pool_text(options, loaded, *steps, deviations);
    if (!shown.ok()) return report_errors(shown.errors());
    text += (text.empty() ? "" : "\n") + *shown;
  }
  if (context.json) return put(canonical_json(all.size() == 1 ? all.front() : Json{{"pools", all}}));
  return context.quiet ? 0 : put(text);
}

Result<std::string> price_rows(const std::string& path, const StepPricer& pricer, std::int32_t drafts) {
  constexpr std::size_t most_errors = 20;
  ORRERY_TRY(reader, LineReader::open(path));
  std::string csv = step_csv_header;
  Errors errors;
  std::int64_t rows = 0;
  std::string_view line;
  while (errors.size() < most_errors && !interrupted() && reader.next(line)) {
    if (line.find_first_not_of(" \t") == std::string_view::npos) continue;
    auto step = parse_step_row(line, path, reader.line_number());
    if (!step.ok()) {
      errors.insert(errors.end(), step.errors().begin(), step.errors().end());
    } else if (errors.empty()) {
      append_step_csv(rows, pricer.summarize(step->view(drafts)), csv);
    }
    ++rows;
  }
  if (interrupted()) return interruption();
  if (reader.error() != nullptr) errors.push_back(*reader.error());
  if (errors.empty() && rows == 0) errors.push_back(invalid_input("no steps in it", {path, 0, 0}));
  if (!errors.empty()) return errors;
  return csv;
}

int price_step_list(const CostOptions& options, const CommandContext& context) {
  auto loaded = load(options.scenario, options.pool, context);
  if (!loaded.ok()) return report_errors(loaded.errors());
  auto csv = price_rows(options.steps, loaded->pricer, loaded->instance().speculation.drafts());
  if (!csv.ok()) return report_errors(csv.errors());
  return put_csv(*csv, options.out, context);
}

// One step on both, pool by pool of the same name; a pool that only one of them has is left out.
struct ComparedSteps {
  Json json = Json::array();
  std::string text;
};

Status compare_steps(const CostOptions& options, const Scenario& of_a, const Scenario& of_b,
                     ComparedSteps& out) {
  ORRERY_TRY(all_a, pools_of(of_a, options.pool));
  ORRERY_TRY(all_b, pools_of(of_b, options.pool));
  for (const Loaded& a : all_a) {
    const bool single = all_a.size() == 1 && all_b.size() == 1;
    const auto b = std::find_if(all_b.begin(), all_b.end(), [&](const Loaded& other) {
      return single || other.scenario.pool.name == a.scenario.pool.name;
    });
    if (b == all_b.end()) continue;
    ORRERY_TRY(steps, steps_to_show(options, a.instance().engine.settings));
    const auto name = [](const std::string& file, const Loaded& side) {
      return file + ": " + instance_line(side.instance()) + (side.scenario.is_what_if ? " (what-if)" : "");
    };
    for (const StepRequest& step : steps) {
      const StepBreakdown cost_a = a.pricer.explain(step.view(a.instance().speculation.drafts()));
      const StepBreakdown cost_b = b->pricer.explain(step.view(b->instance().speculation.drafts()));
      out.json.push_back({{"a", step_json(to_text(step), cost_a)}, {"b", step_json(to_text(step), cost_b)}});
      out.text += compare_table(a.title + "step: " + to_text(step), name(options.compare[0], a), cost_a,
                                name(options.compare[1], *b), cost_b) +
                  "\n";
    }
  }
  if (out.text.empty() && !options.run)
    return make_error(ErrorKind::usage,
                      "--compare: the two deployments have no pool of one name, so no step can be compared; "
                      "compare runs with --run");
  return ok_status();
}

Result<int> compare_scenarios(const CostOptions& options, const CommandContext& context) {
  std::vector<std::string> of_b = context.overrides;
  of_b.insert(of_b.end(), options.with.begin(), options.with.end());
  ORRERY_TRY(a, load_file(options.compare[0], context.overrides, options.run));
  ORRERY_TRY(b, load_file(options.compare[1], of_b, options.run));
  ComparedSteps steps;
  ORRERY_TRY_STATUS(compare_steps(options, a, b, steps));
  if (!options.run) return put(context.json ? canonical_json(steps.json) : steps.text);
  ORRERY_TRY(runs, run_both(a, b));
  if (context.json)
    return put(canonical_json(Json{{"steps", steps.json},
                                   {"run", run_comparison_json(runs)},
                                   {"what_if", {{"a", a.is_what_if}, {"b", b.is_what_if}}}}));
  const auto name = [](const std::string& file, const Scenario& s) {
    return file + (s.is_what_if ? " (what-if)" : "");
  };
  return put(steps.text +
             run_comparison_table(runs, name(options.compare[0], a), name(options.compare[1], b)));
}

int usage(const std::string& message) { return report_errors({make_error(ErrorKind::usage, message)}); }

int run_cost(const CostOptions& options, const CommandContext& context) {
  watch_interrupts();
  if (!options.ops.empty()) {
    if (options.hardware.empty())
      return usage("cost --ops needs --hardware NAME (see `orrery list hardware`)");
    return price_operators(options.ops, options.hardware, options.kernels, options.out, context);
  }
  if (!options.compare.empty() && asks_for_pairs(options.compare)) {
    if (options.run || !options.with.empty() || options.step_given)
      return usage("--run, --with and --step are for scenarios, not for kernel pairs");
    return price_pairs(options.compare, context);
  }
  if (!options.compare.empty()) {
    const Result<int> code = compare_scenarios(options, context);
    return code.ok() ? *code : report_errors(code.errors());
  }
  if (options.scenario.empty())
    return usage("cost needs a SCENARIO.yaml, --compare A B, or --ops FILE --hardware NAME");
  return options.steps.empty() ? explain_steps(options, context) : price_step_list(options, context);
}

}  // namespace

void register_cost_command(CLI::App& app, CommandContext& context) {
  CLI::App* cost = app.add_subcommand("cost", "prices steps and operators, and explains where the time goes");
  auto options = std::make_shared<CostOptions>();
  CLI::Option* scenario =
      cost->add_option("SCENARIO", options->scenario, "scenario; its workload is not needed");
  CLI::Option* step =
      cost->add_option("--step", options->step, "one step, e.g. \"prefill 2048@0 + decode 64@1024\"");
  CLI::Option* steps = cost->add_option("--steps", options->steps, "steps to price, one JSON object a line");
  CLI::Option* compare =
      cost->add_option(
              "--compare", options->compare,
              "two scenarios, side by side; or kernel pairs of the case studies by name (pairs: all)")
          ->expected(1, 64);
  cost->add_flag("--run", options->run, "with --compare: also replays both workloads, side by side")
      ->needs(compare);
  cost->add_option("--with", options->with,
                   "with --compare: path.to.key=value for the second scenario alone (repeatable)")
      ->needs(compare)
      ->allow_extra_args(false);
  CLI::Option* ops =
      cost->add_option("--ops", options->ops, "single operators to price, one JSON object a line");
  cost->add_flag("--energy", options->energy, "what a GPU draws in each step shown (docs/energy.md)")
      ->excludes(steps)
      ->excludes(compare)
      ->excludes(ops);
  cost->add_option("--pool", options->pool, "of a deployment of several pools, the one to price")
      ->excludes(ops);
  cost->add_option("--hardware", options->hardware, "part for --ops")->needs(ops);
  cost->add_option("--kernels", options->kernels,
                   "whose tables price --ops: orrery, vllm-0.24, …, or roofline")
      ->needs(ops);
  cost->add_option("--out", options->out, "CSV file to write instead of printing");
  step->excludes(steps);
  ops->excludes(step)->excludes(steps)->excludes(compare)->excludes(scenario);
  compare->excludes(steps)->excludes(scenario);
  cost->footer(
      "Examples:\n"
      "  orrery cost scenario.yaml\n"
      "  orrery cost scenario.yaml --step \"prefill 2048@0 + prefill 512@4096 + decode 64@1024\"\n"
      "  orrery cost scenario.yaml --steps steps.jsonl --out prices.csv\n"
      "  orrery cost --compare s.yaml s.yaml --with overrides.op_scale.grouped_gemm=0.8333 --run\n"
      "  orrery cost --compare ptpc-gemm swap-ab\n"
      "  orrery cost --ops ops.jsonl --hardware h200");
  cost->callback([options, step, &context] {
    options->step_given = step->count() > 0;
    context.action = [options, &context] { return run_cost(*options, context); };
  });
}

}  // namespace orrery
