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

void check_one(const kernels::CaseEntry& entry, const kernels::CaseSpec& spec, const CheckTarget& target,
               double most_work, CheckOutcome& o) {
  const auto kernel = entry.make(spec, o.detail);
  if (kernel == nullptr) return;
  o.kernel = kernel->kernel();
  if (most_work > 0 && kernel->flops() + kernel->bytes() > most_work) {
    o.detail = "too large for the simulator";
    return;
  }
  const Released released(target.memory);
  o.refused_here = !kernel->prepare(target.memory, 1, o.detail);
  if (o.refused_here) return;
  o.kernel = kernel->kernel();
  o.state = CheckState::failed;
  const bool ran = target.run([&](kernels::Stream stream) { kernel->launch(0, stream); }, o.detail);
  if (!kernel->refusal().empty()) o.detail = kernel->refusal();
  if (!ran || !kernel->refusal().empty()) return;
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
}

// A case and what it costs: its work, of which the reference takes a sample.
struct Planned {
  double work = 0;
  kernels::CaseSpec spec;
};

// Cheap ones first; those of one shape stay together.
std::vector<Planned> plan_cases(const kernels::CaseEntry& entry) {
  std::vector<Planned> out;
  for (kernels::CaseSpec spec : check_shapes(entry.op)) {
    std::string why;
    const auto kernel = entry.make(spec, why);
    const double work = kernel == nullptr ? 0 : kernel->flops() + kernel->bytes();
    for (const kernels::Fill fill : check_fills()) {
      spec.fill = fill;
      out.push_back({work, spec});
    }
  }
  std::stable_sort(out.begin(), out.end(),
                   [](const Planned& a, const Planned& b) { return a.work < b.work; });
  return out;
}

CheckOutcome outcome_of(const kernels::CaseSpec& spec) {
  CheckOutcome o;
  o.op = spec.op;
  o.shape = shape_of(spec);
  o.fill = to_string(spec.fill);
  return o;
}

// After so many launches in a row that the device refused, its context is gone: the rest would say the same.
constexpr int most_refusals = 8;

// False when interrupted.
bool check_operator(const kernels::CaseEntry& entry, const CheckTarget& target, const CheckOptions& options,
                    double until, std::vector<CheckOutcome>& outcomes) {
  int refusals = 0;
  for (const Planned& planned : plan_cases(entry)) {
    if (options.interrupted()) return false;
    CheckOutcome o = outcome_of(planned.spec);
    if (options.seconds() >= until || refusals >= most_refusals) {
      o.state = CheckState::left_out;
      o.detail = refusals >= most_refusals ? "the device is lost" : "no time left";
    } else {
      options.begin(o);
      check_one(entry, planned.spec, target, options.most_work, o);
      const bool refused = o.state == CheckState::failed && o.compared == 0;
      refusals = refused ? refusals + 1 : o.state == CheckState::skipped ? refusals : 0;
    }
    options.report(o);
    outcomes.push_back(std::move(o));
  }
  return true;
}

bool chosen(const kernels::CaseEntry& entry, const CheckTarget& target, const std::vector<std::string>& ops) {
  if (target.simulator && !entry.simulated) return false;
  return ops.empty() || std::find(ops.begin(), ops.end(), entry.op) != ops.end();
}

}  // namespace

const char* to_string(CheckState state) {
  switch (state) {
    case CheckState::passed: return "passed";
    case CheckState::failed: return "FAILED";
    case CheckState::skipped: return "skipped";
    case CheckState::left_out: return "left out";
  }
  return "?";
}

void CheckSummary::add(const CheckOutcome& o) {
  passed += o.state == CheckState::passed ? 1 : 0;
  failed += o.state == CheckState::failed ? 1 : 0;
  skipped += o.state == CheckState::skipped ? 1 : 0;
  left_out += o.state == CheckState::left_out ? 1 : 0;
  outcomes.push_back(o);
}

OperatorSummary summarise(const std::string& op, const std::vector<CheckOutcome>& outcomes) {
  OperatorSummary s;
  s.op = op;
  for (const CheckOutcome& o : outcomes) {
    if (o.op != op) continue;
    s.passed += o.state == CheckState::passed ? 1 : 0;
    s.failed += o.state == CheckState::failed ? 1 : 0;
    s.skipped += o.state == CheckState::skipped ? 1 : 0;
    s.left_out += o.state == CheckState::left_out ? 1 : 0;
    if (std::isfinite(o.worst)) s.worst = std::max(s.worst, o.worst);
    s.guards_intact = s.guards_intact && o.guards_intact;
  }
  return s;
}

void note_unchecked(const std::string& op, const std::vector<CheckOutcome>& outcomes, CheckSummary& s) {
  std::string reason, reason_here;
  for (const CheckOutcome& o : outcomes) {
    if (o.op != op) continue;
    if (o.state != CheckState::skipped) return;
    (o.refused_here ? reason_here : reason) = o.detail;
  }
  if (reason_here.empty())
    s.unchecked.push_back(op + " (" + reason + ")");
  else
    s.unavailable.push_back(op + " (" + reason_here + ")");
}

CheckSummary run_checks(std::span<const kernels::CaseEntry> entries, const CheckTarget& target,
                        const CheckOptions& options) {
  CheckSummary s;
  std::vector<const kernels::CaseEntry*> wanted;
  for (const kernels::CaseEntry& entry : entries) {
    if (chosen(entry, target, options.ops)) wanted.push_back(&entry);
  }
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    const double now = options.seconds();
    const double until = now + (options.deadline - now) / static_cast<double>(wanted.size() - i);
    std::vector<CheckOutcome> outcomes;
    s.interrupted = !check_operator(*wanted[i], target, options, until, outcomes);
    for (const CheckOutcome& o : outcomes) s.add(o);
    if (s.interrupted) return s;
    OperatorSummary line = summarise(wanted[i]->op, outcomes);
    line.seconds = options.seconds() - now;
    options.operator_done(line);
    note_unchecked(wanted[i]->op, outcomes, s);
  }
  return s;
}

std::string outcome_text(const CheckOutcome& o) {
  std::string text = std::string(to_string(o.state)) + "  " + o.op + " " + o.shape + " " + o.fill;
  if (!o.kernel.empty()) text += " [" + o.kernel + "]";
  if (o.state == CheckState::passed || o.state == CheckState::failed) {
    text += "  error " + format_fixed(o.worst, 3) + " of the tolerance over " + std::to_string(o.compared) +
            " outputs, guards " + (o.guards_intact ? "intact" : "BROKEN");
  }
  return o.detail.empty() ? text : text + "  " + o.detail;
}

std::string operator_text(const OperatorSummary& o) {
  return o.op + ": " + std::to_string(o.passed) + " passed, " + std::to_string(o.failed) + " failed, " +
         std::to_string(o.skipped) + " refused" +
         (o.left_out > 0 ? ", " + std::to_string(o.left_out) + " LEFT OUT" : "") +
         ", worst error/tolerance " + format_fixed(o.worst, 3) + ", " + format_fixed(o.seconds, 1) + " s";
}

std::string summary_text(const CheckSummary& s) {
  std::vector<std::string> ops;  // in the order in which they ended
  for (const CheckOutcome& o : s.outcomes) {
    if (std::find(ops.begin(), ops.end(), o.op) == ops.end()) ops.push_back(o.op);
  }
  TextTable table({"operator", "passed", "failed", "skipped", "left out", "worst error/tolerance", "guards"});
  for (const std::string& op : ops) {
    const OperatorSummary row = summarise(op, s.outcomes);
    table.add({op, std::to_string(row.passed), std::to_string(row.failed), std::to_string(row.skipped),
               std::to_string(row.left_out), format_fixed(row.worst, 3),
               row.guards_intact ? "intact" : "BROKEN"});
  }
  std::string text = table.to_string() + std::to_string(s.passed) + " passed, " + std::to_string(s.failed) +
                     " failed, " + std::to_string(s.skipped) + " skipped (not offered)\n";
  if (s.left_out > 0)
    text += std::to_string(s.left_out) + " cases were LEFT OUT: no time; a larger --budget takes them in\n";
  for (const std::string& op : s.unchecked) text += "unchecked: " + op + "\n";
  for (const std::string& op : s.unavailable) text += "cannot run here: " + op + "\n";
  if (s.interrupted) text += "interrupted: the rest was not checked\n";
  return text;
}

Json outcome_json(const CheckOutcome& o) {
  return {{"op", o.op},
          {"shape", o.shape},
          {"fill", o.fill},
          {"kernel", o.kernel},
          {"state", to_string(o.state)},
          {"worst", std::isfinite(o.worst) ? o.worst : 1e300},
          {"compared", o.compared},
          {"guards_intact", o.guards_intact},
          {"refused_here", o.refused_here},
          {"detail", o.detail}};
}

bool parse_outcome(const Json& json, CheckOutcome& o) {
  if (!json.is_object()) return false;
  for (const char* key : {"op", "shape", "fill", "kernel", "state", "detail"}) {
    if (!json.contains(key) || !json[key].is_string()) return false;
  }
  for (const char* key : {"worst", "compared"}) {
    if (!json.contains(key) || !json[key].is_number()) return false;
  }
  for (const char* key : {"guards_intact", "refused_here"}) {
    if (!json.contains(key) || !json[key].is_boolean()) return false;
  }
  o.op = json["op"].get<std::string>();
  o.shape = json["shape"].get<std::string>();
  o.fill = json["fill"].get<std::string>();
  o.kernel = json["kernel"].get<std::string>();
  o.detail = json["detail"].get<std::string>();
  o.worst = json["worst"].get<double>();
  o.compared = json["compared"].get<std::int64_t>();
  o.guards_intact = json["guards_intact"].get<bool>();
  o.refused_here = json["refused_here"].get<bool>();
  for (const CheckState state :
       {CheckState::passed, CheckState::failed, CheckState::skipped, CheckState::left_out}) {
    if (json["state"].get<std::string>() != to_string(state)) continue;
    o.state = state;
    return true;
  }
  return false;
}

Json check_json(const CheckSummary& s, const std::string& where) {
  Json cases = Json::array();
  for (const CheckOutcome& o : s.outcomes) cases.push_back(outcome_json(o));
  Json unchecked = Json::array();
  for (const std::string& op : s.unchecked) unchecked.push_back(op);
  Json unavailable = Json::array();
  for (const std::string& op : s.unavailable) unavailable.push_back(op);
  return {{"where", where},         {"passed", s.passed},         {"failed", s.failed},
          {"skipped", s.skipped},   {"left_out", s.left_out},     {"good", s.good()},
          {"unchecked", unchecked}, {"unavailable", unavailable}, {"cases", cases}};
}

}  // namespace orrery::calibrate
