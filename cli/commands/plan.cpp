// `orrery plan`: searches deployments for the best one, and says how sure that is.
#include <CLI/CLI.hpp>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <memory>

#include "base/json.h"
#include "base/text.h"
#include "cli/command_table.h"
#include "cli/commands/plan_emit.h"
#include "cli/commands/plan_sharing.h"
#include "cli/console.h"
#include "cli/interrupt.h"
#include "cli/version.h"
#include "plan/mpi_crew.h"
#include "plan/recommendation.h"

namespace orrery {

namespace {

struct PlanOptions {
  std::string space, trace, out;
  bool resume = false, bounds_only = false, exhaustive = false;
  std::int64_t seed = -1;
  PlanSharing sharing;
  std::string emit;
  int shards = 8;
};

Result<PlanSpace> space_of(const PlanOptions& options, const CommandContext& context) {
  return load_space(options.space,
                    {.overrides = context.overrides, .trace = options.trace, .seed = options.seed});
}

Result<PlanSearch> search_with_progress(const PlanSpace& space, SearchOptions search,
                                        const CommandContext& context) {
  search.threads = context.threads;
  search.version = version();
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
  if (!options.emit.empty() && (options.out.empty() || options.resume || options.sharing.asked()))
    return make_error(ErrorKind::usage,
                      "--emit writes scripts into --out DIR and runs nothing; name DIR alone");
  if (options.sharing.asked() && options.out.empty())
    return make_error(ErrorKind::usage, "shards keep their results in --out DIR; name it");
  if (int(options.resume) + int(options.sharing.merge) + int(!options.sharing.shard.empty()) > 1) {
    return make_error(ErrorKind::usage, "one of --resume, --shard and --merge (shards go on by themselves)");
  }
  std::error_code ignored;
  if (std::filesystem::exists(options.out, ignored) && !std::filesystem::is_directory(options.out, ignored)) {
    return invalid_input("is no folder; name another one", {options.out, 0, 0}, "--out");
  }
  return ok_status();
}

// A rank of mpirun above 0: its results are rank 0's, which also says what is wrong.
int follow(const PlanOptions& options, CommandContext context, MpiCrew& ranks) {
  context.quiet = true;
  SearchOptions settings;
  settings.exhaustive = options.exhaustive;
  settings.crew = &ranks;
  const auto space = space_of(options, context);
  if (space.ok()) (void)search_with_progress(*space, settings, context);
  return static_cast<int>(ExitCode::done);
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
  std::unique_ptr<MpiCrew> ranks;
  if (MpiCrew::started_by_mpi() && !options.sharing.asked()) {
    ORRERY_TRY(started, MpiCrew::start());
    ranks = std::move(started);
    if (ranks->rank() > 0) return follow(options, context, *ranks);
  }
  ORRERY_TRY(space, space_of(options, context));
  ORRERY_TRY_STATUS(check_out(options));
  say(LogLevel::info, options.space + ": " + std::to_string(space.candidates()) + " combinations");
  if (options.bounds_only) return print_bounds(space, context);
  if (!options.emit.empty()) {
    ORRERY_TRY(next, emit_scripts({.kind = options.emit,
                                   .command = command_without_sharing(context.command_line),
                                   .out = options.out,
                                   .shards = options.shards}));
    if (!context.quiet) std::fputs(next.c_str(), stdout);
    return static_cast<int>(ExitCode::done);
  }
  SearchOptions settings;
  settings.exhaustive = options.exhaustive;
  if (!options.out.empty()) settings.store = options.out + "/" + plan_store_name;
  if (options.resume) settings.start = StoreStart::resume;
  std::unique_ptr<ShardCrew> shard;
  if (options.sharing.asked()) {
    ORRERY_TRY(crew, set_up_sharing(options.sharing, options.out, settings));
    shard = std::move(crew);
    settings.crew = shard.get();
  }
  if (ranks != nullptr) settings.crew = ranks.get();
  auto searched = search_with_progress(space, settings, context);
  if (interrupted()) {
    if (settings.store.empty() || !std::filesystem::exists(settings.store)) return interruption();
    return make_error(ErrorKind::interrupted, options.sharing.asked()
                                                  ? "interrupted; the same command goes on"
                                                  : "interrupted; the same command with --resume goes on");
  }
  const bool answered = searched.ok() && (options.sharing.merge || searched->finalists.empty());
  if (shard != nullptr && (shard->missing() > 0 || (searched.ok() && !answered))) {
    if (options.sharing.merge) return not_merged(*shard, options.out);
    if (!context.quiet)
      std::fputs(shard_text(options.sharing, *shard, options.out, context.json).c_str(), stdout);
    return static_cast<int>(ExitCode::done);
  }
  ORRERY_TRY(search, std::move(searched));
  const RecommendationInput input{&space, &search, command_without_sharing(context.command_line), version()};
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
  c->add_option("--shard", options->sharing.shard,
                "i/n: make this share of the search's results, into --out");
  const CLI::Option* merge = c->add_option("--merge", options->sharing.stores,
                                           "join what shards have made (--out's, or these) and answer")
                                 ->expected(0, -1);
  c->add_flag("--exhaustive", options->exhaustive,
              "run every combination on the whole workload: what the search is compared with");
  c->add_flag("--bounds-only", options->bounds_only, "say what bounds rule out, and run nothing");
  c->add_option("--emit", options->emit, "write scripts into --out that run the shards: slurm or k8s")
      ->check(CLI::IsMember({"slurm", "k8s"}));
  c->add_option("--shards", options->shards, "how many shards --emit's scripts run")
      ->check(CLI::Range(1, 10'000));
  c->add_option("--seed", options->seed, "seed of the workload and of all draws");
  c->callback([&context, options, merge] {
    options->sharing.merge = merge->count() > 0;
    std::erase(options->sharing.stores, "");  // of --merge alone
    context.action = [&context, options] {
      watch_interrupts();
      const Result<int> code = plan(*options, context);
      return code.ok() ? *code : report_errors(code.errors());
    };
  });
}

}  // namespace orrery
