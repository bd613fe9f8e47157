// `orrery replay`: a recorded run once more, without what it ran on.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>

#include "base/digest.h"
#include "base/json.h"
#include "base/text.h"
#include "cli/command_table.h"
#include "cli/interrupt.h"
#include "live/tape.h"

namespace orrery {

namespace {

int print(const Replay& r, const std::string& path, const CommandContext& context) {
  if (context.json) {
    const Json json = {{"tape", path},
                       {"cell", r.header.cell},
                       {"recorded_by", r.header.version},
                       {"identical", true},
                       {"readings", r.readings},
                       {"steps", r.run.steps},
                       {"requests", r.recorded.requests},
                       {"digest", digest_text(r.run.digest)}};
    std::fputs(canonical_json(json).c_str(), stdout);
  } else if (!context.quiet) {
    std::printf("%s: identical: %llu readings of the clock, %llu steps, %llu requests\ndigest      %s\n",
                path.c_str(), static_cast<unsigned long long>(r.readings),
                static_cast<unsigned long long>(r.run.steps),
                static_cast<unsigned long long>(r.recorded.requests), digest_text(r.run.digest).c_str());
  }
  return static_cast<int>(ExitCode::done);
}

}  // namespace

void register_replay_command(CLI::App& app, CommandContext& context) {
  auto path = std::make_shared<std::string>();
  CLI::App* c = app.add_subcommand("replay",
                                   "replays a recorded run exactly; reports the first difference if any\n"
                                   "example: orrery replay out/run.tape");
  c->add_option("TAPE", *path, "what simulate --tape or live --tape wrote")->required();
  c->callback([&context, path] {
    context.action = [&context, path] {
      watch_interrupts();
      const Result<Replay> replay = replay_tape(*path, [](std::uint64_t) { return !interrupted(); });
      return replay.ok() ? print(*replay, *path, context) : report_errors(replay.errors());
    };
  });
}

}  // namespace orrery
