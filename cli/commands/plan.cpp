// `orrery plan`: searches deployments for the best one, and says how sure that is.
#include <CLI/CLI.hpp>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <sstream>

#include "base/json.h"
#include "base/text.h"
#include "cli/command_table.h"
#include "cli/console.h"
#include "cli/interrupt.h"
#include "cli/version.h"
#include "plan/recommendation.h"

namespace orrery {

namespace {

struct PlanOptions {
  std::string space, trace, out;
  bool resume = false, bounds_only = false, exhaustive = false;
  std::int64_t seed = -1;
};

constexpr const char* store_name = "plan.sqlite";

Result<PlanSearch> search_with_progress(const PlanSpace& space, const PlanOptions& options,
                                        const CommandContext& context) {
  SearchOptions search;
  search.threads = context.threads;
  search.version = version();
  search.resume = options.resume;
  search.exhaustive = options.exhaustive;
  if (!options.out.empty()) search.store = options.out + "/" + store_name;
  search.keep_going = [] { return !interrupted(); };
  // A line for each round, gone from the terminal before anything is printed.
  std::unique_ptr<Progress> progress;
  std::uint64_t before = 0;
  search.progress = [&](std::uint64_t done, std::uint64_t of, const char* what) {
    if (progress == nullptr || done < before) progress = std::make_unique<Progress>(what, of, !context.quiet);
    progress->update(before = done);
  };
  return search_plans(space, search);
}

Status check_out(const PlanOptions& options) {
  if (options.resume && options.out.empty())
    return make_error(ErrorKind::usage, "--resume goes on with the search in --out DIR; name it");
  std::error_code ignored;
  if (std::filesystem::exists(options.out, ignored) && !std::filesystem::is_directory(options.out, ignored)) {
    return invalid_input("is no folder; name another one", {options.out, 0, 0}, "--out");
  }
  return ok_status();
}

// Without what results do not depend on, for outputs that are the same after a stop.
std::string command_of(const std::string& line) {
  std::istringstream in(line);
  std::string out;
  for (std::string word; std::getline(in, word, ' ');) {
    if (word == "--resume" || word.starts_with("--threads=")) continue;
    if (word == "--threads") {
      std::getline(in, word, ' ');
      continue;
    }
    out += (out.empty() ? "" : " ") + word;
  }
  return out;
}

// How far bounds alone come, and how fast.
Result<int> print_bounds(const PlanSpace& space, const CommandContext& context) {
  SearchOptions search;
  search.threads = context.threads;
  search.keep_going = [] { return !interrupted(); };
  ORRERY_TRY(bounds, bound_plans(space, search));
  Json out;
  out["candidates"] = bounds.candidates;
  out["step_graphs"] = bounds.graphs;
  out["rejected"] = bounds.rejected;
  out["bounded"] = bounds.bounded;
  out["best_bound"] = bounds.bounded > 0 ? Json(std::abs(bounds.best)) : Json(nullptr);
  out["worst_bound"] = bounds.bounded > 0 ? Json(std::abs(bounds.worst)) : Json(nullptr);
  std::fputs(canonical_json(out).c_str(), stdout);
  say(LogLevel::info, "bounds of " + std::to_string(bounds.candidates) + " combinations took " +
                          format_fixed(bounds.seconds * 1e3, 3) + " ms of processor time");
  return static_cast<int>(ExitCode::done);
}

Result<int> plan(const PlanOptions& options, const CommandContext& context) {
  ORRERY_TRY(space,
             load_space(options.space,
                        {.overrides = context.overrides, .trace = options.trace, .seed = options.seed}));
  ORRERY_TRY_STATUS(check_out(options));
  say(LogLevel::info, options.space + ": " + std::to_string(space.candidates()) + " combinations");
  if (options.bounds_only) return print_bounds(space, context);
  auto searched = search_with_progress(space, options, context);
  if (interrupted()) {
    const bool begun = !options.out.empty() && std::filesystem::exists(options.out + "/" + store_name);
    if (!begun) return interruption();
    return make_error(ErrorKind::interrupted, "interrupted; the same command with --resume goes on");
  }
  ORRERY_TRY(search, std::move(searched));
  const RecommendationInput input{&space, &search, command_of(context.command_line), version()};
  if (!options.out.empty()) ORRERY_TRY_STATUS(write_recommendation(options.out, input));
  if (context.json)
    std::fputs(canonical_json(recommendation_json(input)).c_str(), stdout);
  else if (!context.quiet)
    std::fputs(recommendation_text(input).c_str(), stdout);
  if (!has_choice(search)) return no_deployment(input);
  if (!context.json && !context.quiet && !options.out.empty())
    std::printf("outputs     %s\n", options.out.c_str());
  return static_cast<int>(ExitCode::done);
}

}  // namespace

void register_plan_command(CLI::App& app, CommandContext& context) {
  auto options = std::make_shared<PlanOptions>();
  CLI::App* c = app.add_subcommand("plan",
                                   "searches deployments for the best one, and says how sure that is\n"
                                   "example: orrery plan examples/plan-qwen3-8b.yaml --out out/plan");
  c->add_option("SPACE", options->space, "a scenario with one more key, `search` (docs/planner.md)")
      ->required();
  c->add_option("--trace", options->trace, "replay this trace instead of the workload of the file");
  c->add_option("--out", options->out, "folder for the recommendation and for the results of every run");
  c->add_flag("--resume", options->resume, "go on with the search that --out holds");
  c->add_flag("--exhaustive", options->exhaustive,
              "run every combination on the whole workload: what the search is compared with");
  c->add_flag("--bounds-only", options->bounds_only, "say what bounds rule out, and run nothing");
  c->add_option("--seed", options->seed, "seed of the workload and of all draws");
  c->callback([&context, options] {
    context.action = [&context, options] {
      watch_interrupts();
      const Result<int> code = plan(*options, context);
      return code.ok() ? *code : report_errors(code.errors());
    };
  });
}

}  // namespace orrery
