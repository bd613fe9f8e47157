// `orrery calibrate --check` and `--pack`: are the kernels right, and what to send.
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <limits>

#include "base/files.h"
#include "base/text.h"
#include "calibrate/check_children.h"
#include "calibrate/check_report.h"
#include "calibrate/duration.h"
#include "calibrate/pack.h"
#include "cli/commands/calibrate.h"
#include "cli/interrupt.h"
#include "kernels/case_table.h"

namespace orrery {

namespace fs = std::filesystem;
using namespace calibrate;

namespace {

std::string device_text(const kernels::Device& device) {
  const kernels::DeviceInfo& d = device.info();
  return d.name + ", driver " + (d.driver.empty() ? "unknown" : d.driver) + ", " + d.runtime;
}

// The simulator of one warp width is a program beside this one (calibrate/CMakeLists.txt says why).
Result<int> run_simulator(const char* name, const CalibrateOptions& options) {
  std::error_code ec;
  const fs::path program = fs::read_symlink("/proc/self/exe", ec).parent_path() / name;
  if (ec || !fs::exists(program)) {
    return make_error(ErrorKind::unavailable, "the simulator is not here: " + program.string() +
                                                  " is built with the tests (-DORRERY_TESTS=ON)");
  }
  std::vector<std::string> words{program.string(), options.out};
  words.insert(words.end(), options.ops.begin(), options.ops.end());
  std::vector<char*> arguments;
  arguments.reserve(words.size() + 1);
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  pid_t child = 0;
  int status = 0;
  std::fflush(stdout);
  const int failed = ::posix_spawn(&child, program.c_str(), nullptr, nullptr, arguments.data(), environ);
  if (failed != 0 || ::waitpid(child, &status, 0) != child)
    return make_error(ErrorKind::unavailable, program.string() + " could not be started");
  return WIFEXITED(status) ? WEXITSTATUS(status) : static_cast<int>(ExitCode::internal);
}

int run_simulators(const CalibrateOptions& options) {
  int worst = 0;
  for (const char* name : {"orrery-simulated-32", "orrery-simulated-64"}) {
    const auto code = run_simulator(name, options);
    if (!code.ok()) return report_errors(code.errors());
    worst = std::max(worst, *code);
  }
  return worst;
}

// Of the whole check, on the timer; a child is given what is left as its budget.
Result<double> deadline_of(const CalibrateOptions& options, Timer& timer) {
  if (options.budget.empty()) return std::numeric_limits<double>::infinity();
  ORRERY_TRY(budget, parse_duration(options.budget));
  return timer.seconds() - process_age() + budget;
}

// All operators, each in a process of its own.
Result<CheckSummary> check_in_children(const CalibrateOptions& options, double deadline, CheckLog& log) {
  std::error_code ec;
  const std::string program = fs::read_symlink("/proc/self/exe", ec).string();
  if (ec) return make_error(ErrorKind::unavailable, "cannot find this program: " + ec.message());
  ChildOptions children;
  children.directory = options.out;
  children.timeout_s = options.child_timeout;
  children.deadline = deadline;
  children.interrupted = [] { return interrupted(); };
  children.command = [&](const std::string& op, const std::string& part, double budget_s) {
    return std::vector<std::string>{program,
                                    "calibrate",
                                    "--check",
                                    "--ops",
                                    op,
                                    "--device",
                                    std::to_string(options.device),
                                    "--budget",
                                    std::to_string(static_cast<int>(std::max(budget_s, 1.0))) + "s",
                                    "--out",
                                    options.out,
                                    "--part",
                                    part};
  };
  std::vector<std::string> ops = options.ops;
  if (ops.empty()) {
    for (const kernels::CaseEntry& entry : kernels::case_table()) ops.emplace_back(entry.op);
  }
  WallTimer timer;
  return run_children(ops, children, timer, log);
}

CheckSummary check_here(const CalibrateOptions& options, double deadline, kernels::Device& gpu, CheckLog& log,
                        PartWriter* part) {
  const CheckTarget target{gpu.memory(), [&](const std::function<void(kernels::Stream)>& body,
                                             std::string& why) { return gpu.run(body, why); }};
  CheckOptions check;
  check.ops = options.ops;
  check.deadline = deadline;
  check.interrupted = [] { return interrupted(); };
  if (part != nullptr) {
    check.begin = [part](const CheckOutcome& o) { part->begin(o); };
    check.report = [part](const CheckOutcome& o) { part->end(o); };
  }
  return run_logged_checks(kernels::case_table(), target, check, log);
}

int exit_code(const CheckSummary& summary) {
  if (summary.interrupted) return static_cast<int>(ExitCode::interrupted);
  return static_cast<int>(summary.good() ? ExitCode::done : ExitCode::check_failed);
}

// One operator, for a process that watches: its cases go to a file, the operator's line is the parent's.
int check_part(const CalibrateOptions& options, double deadline, kernels::Device& gpu) {
  auto part = PartWriter::create(options.part);
  if (!part.ok()) return report_errors(part.errors());
  auto log = CheckLog::open(options.out, "check", true);
  if (!log.ok()) return report_errors(log.errors());
  log->of_part = true;
  return exit_code(check_here(options, deadline, gpu, *log, &*part));
}

}  // namespace

int run_kernel_checks(const CalibrateOptions& options, const CommandContext& context) {
  const Status known = known_operators(kernels::case_table(), options.ops);
  if (!known.ok()) return report_errors(known.errors());
  if (options.simulator) return run_simulators(options);
  WallTimer timer;
  const auto deadline = deadline_of(options, timer);
  if (!deadline.ok()) return report_errors(deadline.errors());
  auto device = open_device(options.device);
  if (!device.ok()) return report_errors(device.errors());
  watch_interrupts();
  kernels::Device& gpu = **device;
  if (!options.part.empty()) return check_part(options, *deadline, gpu);
  const std::string where = device_text(gpu);
  auto log = CheckLog::open(options.out, "check", false);
  if (!log.ok()) return report_errors(log.errors());
  log->quiet = context.quiet || context.json;
  log->line(where);
  Result<CheckSummary> summary = options.child_timeout > 0
                                     ? check_in_children(options, *deadline, *log)
                                     : check_here(options, *deadline, gpu, *log, nullptr);
  if (!summary.ok()) return report_errors(summary.errors());
  const Status written = write_check(*summary, where, options.out, "check", *log);
  if (!written.ok()) return report_errors(written.errors());
  if (context.json) {
    std::fputs(canonical_json(check_json(*summary, where)).c_str(), stdout);
  } else if (!context.quiet) {
    std::printf("%s\n\n%slog: %s/check.log\n", where.c_str(), summary_text(*summary).c_str(),
                options.out.c_str());
  }
  return exit_code(*summary);
}

int pack_calibration(const CalibrateOptions& options, const CommandContext& context) {
  auto text = pack_directory(options.out);
  if (!text.ok()) return report_errors(text.errors());
  const Status written = write_file_atomically(options.pack, *text);
  if (!written.ok()) return report_errors(written.errors());
  if (!context.quiet) {
    std::printf("%s: %s, to be read by orrery import calibration\n", options.pack.c_str(),
                human_bytes(static_cast<double>(text->size())).c_str());
  }
  return static_cast<int>(ExitCode::done);
}

}  // namespace orrery
