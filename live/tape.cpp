#include "live/tape.h"

#include "sim/simulation.h"

namespace orrery {

namespace {

std::uint64_t ended(const RunResult& r) {
  return r.completed + r.failed + r.cancelled + r.timed_out + r.rejected + r.warmup_requests;
}

Error damaged(const std::string& path, const SeamTape& tape) {
  return invalid_input(tape.why() + "; good up to " + tape.last_step(), {path, 0, 0});
}

Error differs(const std::string& what, const SeamTape& tape, const TapeHeader& header) {
  return make_error(ErrorKind::check_failed, "the replay differs from the recorded run: " + what + "; " +
                                                 tape.last_step() + " (recorded by " + header.version + ")");
}

}  // namespace

Result<TapeRecorder> TapeRecorder::create(const std::string& path, const Scenario& scenario,
                                          const std::string& version, const std::string& cell,
                                          bool stretches) {
  ORRERY_TRY(writer, TapeWriter::create(path, {.version = version,
                                               .cell = cell,
                                               .file = scenario.file,
                                               .scenario = scenario.yaml,
                                               .stretches = stretches}));
  return TapeRecorder(std::move(writer));
}

Status TapeRecorder::finish(const RunResult& run) {
  parts_->tape.close();
  return parts_->writer.finish({.readings = parts_->tape.readings(),
                                .steps = run.steps,
                                .requests = ended(run),
                                .digest = run.digest});
}

Result<Replay> replay_tape(const std::string& path, const std::function<bool(std::uint64_t)>& keep_going) {
  ORRERY_TRY(reader, TapeReader::open(path));
  const TapeHeader& header = reader.header();
  ORRERY_TRY(scenario,
             load_scenario(
                 path, {.overrides = {}, .trace = {}, .needs_workload = false, .document = header.scenario}));
  SeamTape tape = SeamTape::playing(reader);
  TapedSeams seams(tape);
  RunOptions run;
  run.stretches = header.stretches;
  run.keep_going = [&](std::uint64_t done) { return !tape.given_up() && (!keep_going || keep_going(done)); };
  run.make_inbox = [&](SimDuration, OutputLengths&) { return seams.inbox(); };
  run.arrange = [&](SimulationSetup& setup) { seams.arrange(setup); };
  auto result = run_scenario(scenario, run);
  if (!result.ok() && !tape.given_up() && result.errors().front().kind == ErrorKind::interrupted)
    return result.errors();
  const bool whole = tape.over() && result.ok();
  if (tape.damaged()) return damaged(path, tape);
  if (tape.given_up()) return differs(tape.why(), tape, header);
  if (!result.ok()) return result.errors();
  Replay replay{.header = header, .recorded = reader.end(), .run = *result, .readings = tape.readings()};
  if (!whole || replay.run.digest != replay.recorded.digest)
    return differs("its digest is " + digest_text(replay.run.digest) + ", the recorded one " +
                       digest_text(replay.recorded.digest),
                   tape, header);
  return replay;
}

}  // namespace orrery
