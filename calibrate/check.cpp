#include "calibrate/check.h"

#include <algorithm>
#include <cmath>

#include "base/text.h"
#include "calibrate/check_shapes.h"
#include "calibrate/point.h"

namespace orrery::calibrate {

namespace {

// Every buffer is released whatever happens.
class Released {
 public:
  explicit Released(kernels::DeviceMemory& memory) : memory_(memory) {}
  ~Released() { memory_.release_all(); }
  Released(const Released&) = delete;
  Released& operator=(const Released&) = delete;

 private:
  kernels::DeviceMemory& memory_;
};

CheckOutcome check_one(const kernels::CaseEntry& entry, const kernels::CaseSpec& spec,
                       const CheckTarget& target, double most_work) {
  CheckOutcome o;
  o.op = spec.op;
  o.shape = shape_of(spec);
  o.fill = to_string(spec.fill);
  const auto kernel = entry.make(spec, o.detail);
  if (kernel == nullptr) return o;
  o.kernel = kernel->kernel();
  if (most_work > 0 && kernel->flops() + kernel->bytes() > most_work) {
    o.detail = "too large for the simulator";
    return o;
  }
  const Released released(target.memory);
  o.refused_here = !kernel->prepare(target.memory, 1, o.detail);
  if (o.refused_here) return o;
  o.kernel = kernel->kernel();
  o.state = CheckState::failed;
  if (!target.run([&](kernels::Stream stream) { kernel->launch(0, stream); }, o.detail)) return o;
  const kernels::CheckResult result = kernel->check(target.memory);
  o.worst = result.worst;
  o.compared = result.compared;
  o.detail = result.detail;
  std::string guards;
  o.guards_intact = target.memory.guards_intact(guards);
  if (!o.guards_intact) o.detail += (o.detail.empty() ? "" : "; ") + ("guard zone: " + guards);
  if (result.compared == 0) o.detail += "; nothing was compared";
  const bool good = result.passed && o.guards_intact && result.compared > 0 && result.worst <= 1;
  if (good) o.state = CheckState::passed;
  return o;
}

void count(CheckSummary& s, const CheckOutcome& o) {
  s.passed += o.state == CheckState::passed ? 1 : 0;
  s.failed += o.state == CheckState::failed ? 1 : 0;
  s.skipped += o.state == CheckState::skipped ? 1 : 0;
}

}  // namespace

const char* to_string(CheckState state) {
  switch (state) {
    case CheckState::passed: return "passed";
    case CheckState::failed: return "FAILED";
    case CheckState::skipped: return "skipped";
  }
  return "?";
}

CheckSummary run_checks(std::span<const kernels::CaseEntry> entries, const CheckTarget& target,
                        const CheckOptions& options) {
  CheckSummary s;
  for (const kernels::CaseEntry& entry : entries) {
    const auto& ops = options.ops;
    if (!ops.empty() && std::find(ops.begin(), ops.end(), entry.op) == ops.end()) continue;
    if (target.simulator && !entry.simulated) continue;
    const std::size_t ran_before = s.passed + s.failed;
    std::string reason, reason_here;
    for (kernels::CaseSpec spec : check_shapes(entry.op)) {
      for (const kernels::Fill fill : check_fills()) {
        s.interrupted = s.interrupted || options.interrupted();
        if (s.interrupted) return s;
        spec.fill = fill;
        const CheckOutcome o = check_one(entry, spec, target, options.most_work);
        if (o.state == CheckState::skipped) (o.refused_here ? reason_here : reason) = o.detail;
        count(s, o);
        options.report(o);
        s.outcomes.push_back(o);
      }
    }
    if (s.passed + s.failed > ran_before) continue;
    if (reason_here.empty())
      s.unchecked.push_back(std::string(entry.op) + " (" + reason + ")");
    else
      s.unavailable.push_back(std::string(entry.op) + " (" + reason_here + ")");
  }
  return s;
}

std::string outcome_text(const CheckOutcome& o) {
  std::string text = std::string(to_string(o.state)) + "  " + o.op + " " + o.shape + " " + o.fill;
  if (!o.kernel.empty()) text += " [" + o.kernel + "]";
  if (o.state != CheckState::skipped) {
    text += "  error " + format_fixed(o.worst, 3) + " of the tolerance over " + std::to_string(o.compared) +
            " outputs, guards " + (o.guards_intact ? "intact" : "BROKEN");
  }
  return o.detail.empty() ? text : text + "  " + o.detail;
}

std::string summary_text(const CheckSummary& s) {
  struct Row {
    std::size_t passed = 0, failed = 0, skipped = 0;
    double worst = 0;
    bool guards = true;
  };
  std::vector<std::pair<std::string, Row>> rows;  // in the table's order
  for (const CheckOutcome& o : s.outcomes) {
    if (rows.empty() || rows.back().first != o.op) rows.push_back({o.op, {}});
    Row& row = rows.back().second;
    row.passed += o.state == CheckState::passed ? 1 : 0;
    row.failed += o.state == CheckState::failed ? 1 : 0;
    row.skipped += o.state == CheckState::skipped ? 1 : 0;
    if (std::isfinite(o.worst)) row.worst = std::max(row.worst, o.worst);
    row.guards = row.guards && o.guards_intact;
  }
  TextTable table({"operator", "passed", "failed", "skipped", "worst error/tolerance", "guard zones"});
  for (const auto& [op, row] : rows) {
    table.add({op, std::to_string(row.passed), std::to_string(row.failed), std::to_string(row.skipped),
               format_fixed(row.worst, 3), row.guards ? "intact" : "BROKEN"});
  }
  std::string text = table.to_string() + std::to_string(s.passed) + " passed, " + std::to_string(s.failed) +
                     " failed, " + std::to_string(s.skipped) + " skipped (not offered)\n";
  for (const std::string& op : s.unchecked) text += "unchecked: " + op + "\n";
  for (const std::string& op : s.unavailable) text += "cannot run here: " + op + "\n";
  if (s.interrupted) text += "interrupted: the rest was not checked\n";
  return text;
}

Json check_json(const CheckSummary& s, const std::string& where) {
  Json cases = Json::array();
  for (const CheckOutcome& o : s.outcomes) {
    cases.push_back({{"op", o.op},
                     {"shape", o.shape},
                     {"fill", o.fill},
                     {"kernel", o.kernel},
                     {"state", to_string(o.state)},
                     {"worst", o.worst},
                     {"compared", o.compared},
                     {"guards_intact", o.guards_intact},
                     {"detail", o.detail}});
  }
  Json unchecked = Json::array();
  for (const std::string& op : s.unchecked) unchecked.push_back(op);
  Json unavailable = Json::array();
  for (const std::string& op : s.unavailable) unavailable.push_back(op);
  return {{"where", where},   {"passed", s.passed},     {"failed", s.failed},         {"skipped", s.skipped},
          {"good", s.good()}, {"unchecked", unchecked}, {"unavailable", unavailable}, {"cases", cases}};
}

}  // namespace orrery::calibrate
