#include "calibrate/check_report.h"

#include <cstdio>
#include <filesystem>

#include "base/files.h"
#include "base/json.h"
#include "base/text.h"

namespace orrery::calibrate {

namespace fs = std::filesystem;

Status write_check(const CheckSummary& summary, const std::string& where, const std::string& out,
                   const std::string& name) {
  std::error_code ec;
  fs::create_directories(out, ec);
  if (ec) return invalid_input("cannot be created: " + ec.message(), {out, 0, 0});
  std::string log = where + "\n\n" + summary_text(summary) + "\n";
  for (const CheckOutcome& o : summary.outcomes) log += outcome_text(o) + "\n";
  ORRERY_TRY_STATUS(write_file_atomically(out + "/" + name + ".log", log));
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

CheckSummary run_reported_checks(std::span<const kernels::CaseEntry> entries, const CheckTarget& target,
                                 CheckOptions options, bool show_progress) {
  std::uint64_t done = 0;
  Progress progress("checking", 0, show_progress);
  options.report = [&](const CheckOutcome& o) {
    if (o.state == CheckState::failed) std::fprintf(stderr, "orrery: %s\n", outcome_text(o).c_str());
    progress.update(++done);
  };
  return run_checks(entries, target, options);
}

}  // namespace orrery::calibrate
