#include "calibrate/check_report.h"

#include <cstdio>
#include <filesystem>

#include "base/files.h"
#include "base/json.h"
#include "base/text.h"

namespace orrery::calibrate {

namespace fs = std::filesystem;

Result<CheckLog> CheckLog::open(const std::string& out, const std::string& name, bool append) {
  std::error_code ec;
  fs::create_directories(out, ec);
  if (ec) return invalid_input("cannot be created: " + ec.message(), {out, 0, 0});
  const std::string path = out + "/" + name + ".log";
  if (!append) fs::remove(path, ec);
  std::FILE* file = std::fopen(path.c_str(), "ae");
  if (file == nullptr) return invalid_input("cannot be written", {path, 0, 0});
  return CheckLog(file);
}

void CheckLog::line(const std::string& text) {
  const std::string whole = text + "\n";
  std::fwrite(whole.data(), 1, whole.size(), file_.get());
  std::fflush(file_.get());
}

void CheckLog::outcome(const CheckOutcome& o) {
  line(outcome_text(o));
  if (o.state == CheckState::failed) std::fprintf(stderr, "orrery: %s\n", outcome_text(o).c_str());
}

void CheckLog::operator_done(const OperatorSummary& o) {
  if (of_part) return;
  line("== " + operator_text(o));
  if (quiet) return;
  std::printf("%s\n", operator_text(o).c_str());
  std::fflush(stdout);
}

Status write_check(const CheckSummary& summary, const std::string& where, const std::string& out,
                   const std::string& name, CheckLog& log) {
  log.line("\n" + where + "\n\n" + summary_text(summary));
  return write_file_atomically(out + "/" + name + ".json", canonical_json(check_json(summary, where)));
}

Status known_operators(std::span<const kernels::CaseEntry> entries, const std::vector<std::string>& ops) {
  std::vector<std::string> names;
  for (const kernels::CaseEntry& entry : entries) names.emplace_back(entry.op);
  for (const std::string& op : ops) {
    bool known = false;
    for (const std::string& name : names) known = known || name == op;
    if (known) continue;
    return make_error(
        ErrorKind::usage,
        "no kernel for operator " + quote(op) + did_you_mean(op, names) + "; there are " + join(names, ", "),
        {}, "--ops");
  }
  return ok_status();
}

CheckSummary run_logged_checks(std::span<const kernels::CaseEntry> entries, const CheckTarget& target,
                               CheckOptions options, CheckLog& log) {
  options.report = [&log, told = options.report](const CheckOutcome& o) {
    log.outcome(o);
    told(o);
  };
  options.operator_done = [&log, told = options.operator_done](const OperatorSummary& o) {
    log.operator_done(o);
    told(o);
  };
  return run_checks(entries, target, options);
}

}  // namespace orrery::calibrate
