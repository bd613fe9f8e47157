#include "calibrate/bench.h"

#include <algorithm>
#include <cstdint>

#include "base/json.h"
#include "kernels/case_table.h"

namespace orrery::calibrate {

double Bench::time(const kernels::CaseSpec& spec, std::string& why) {
  const double first = visit(spec, why), second = first > 0 && visits_ > 1 ? visit(spec, why) : first;
  return std::min(first, second);
}

double Bench::visit(const kernels::CaseSpec& spec, std::string& why) {
  rest();
  const Point point{spec, table_of(spec), shape_of(spec), 0, 0};
  const auto alone = [&](const kernels::CaseSpec& form, std::string& refused) {  // none of its other forms
    return form.op == spec.op ? kernels::make_case(form, refused) : nullptr;
  };
  const Measurement m = measure(point, device_, arena_, timer_, alone, options_);
  lowest_mhz_ = m.telemetry && (lowest_mhz_ == 0 || m.sm_mhz < lowest_mhz_) ? m.sm_mhz : lowest_mhz_;
  why = m.why;
  return has_figure(m.state) ? m.us : 0;
}

void Bench::rest() {
  const double until = timer_.seconds() + rest_s_;
  for (;;) {
    const kernels::Telemetry now = device_.telemetry();
    if (!now.valid) return;
    highest_mhz_ = std::max(highest_mhz_, now.sm_clock_mhz);
    if (now.sm_clock_mhz >= 0.97 * highest_mhz_ || timer_.seconds() > until) return;
    timer_.pause(0.02);
  }
}

double Bench::read_bandwidth() {
  kernels::CaseSpec s;
  s.op = "read";
  s.bytes = std::int64_t{1} << 30;
  std::string why;
  const double us = time(s, why);
  return us > 0 ? static_cast<double>(s.bytes) / us * 1e6 : 0;
}

std::string us_text(double us) { return us > 0 ? format_fixed(us, 1) : "–"; }
std::string ratio_text(double a, double b) { return a > 0 && b > 0 ? format_fixed(a / b, 2) : "–"; }
std::string rate_text(double flops, double us) { return us > 0 ? format_fixed(flops / us / 1e6, 0) : "–"; }

void row(std::FILE* out, const std::vector<std::string>& cells) {
  std::string line = "|";
  for (const std::string& cell : cells) line += " " + cell + " |";
  std::fprintf(out, "%s\n", line.c_str());
  std::fflush(out);
}

void report_head(kernels::Device& device, WallTimer& timer, std::FILE* out, const char* title,
                 const char* program, const char* how) {
  const kernels::DeviceInfo& d = device.info();
  std::fprintf(out, "# %s on the %s\n\nMade by `%s FILE.md` on %s: driver %s, %s", title, d.name.c_str(),
               program, timer.date().c_str(), d.driver.c_str(), d.runtime.c_str());
  for (const auto& [name, version] : device.libraries())
    std::fprintf(out, ", %s %s", name.c_str(), version.c_str());
  std::fprintf(out, ". Medians of replayed graphs on random data, %s\n\n", how);
}

}  // namespace orrery::calibrate
