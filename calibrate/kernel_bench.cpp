#include "calibrate/kernel_bench.h"

#include <algorithm>

#include "base/json.h"
#include "calibrate/point.h"
#include "kernels/case_table.h"

namespace orrery::calibrate {

using kernels::CaseSpec;

CaseSpec decode_case(const char* op, const char* kv, std::int64_t heads, std::int64_t batch,
                     std::int64_t context) {
  CaseSpec s;
  s.op = op;
  s.kv_dtype = kv;
  s.heads = heads;
  s.contexts.assign(static_cast<std::size_t>(batch), context);
  s.block_size = 64;
  return s;
}

KernelBench::KernelBench(kernels::Device& device, double cap_s, double rest_s, int visits)
    : device_(device), arena_(device, 0.8), visits_(visits), rest_s_(rest_s) {
  options_.cap_s = cap_s;
}

double KernelBench::time(const CaseSpec& spec, std::string& why) {
  const double first = visit(spec, why), second = first > 0 && visits_ > 1 ? visit(spec, why) : first;
  return std::min(first, second);
}

double KernelBench::read_us(double bytes) {
  CaseSpec s;
  s.op = "read";
  s.bytes = static_cast<std::int64_t>(bytes) / 4096 * 4096;
  std::string why;
  return time(s, why);
}

double KernelBench::visit(const CaseSpec& spec, std::string& why) {
  rest();
  const Point point{spec, table_of(spec), shape_of(spec), 0, 0};
  const auto alone = [&](const CaseSpec& form, std::string& refused) {
    return form.op == spec.op ? kernels::make_case(form, refused) : nullptr;
  };
  const Measurement m = measure(point, device_, arena_, timer_, alone, options_);
  lowest_mhz_ = m.telemetry && (lowest_mhz_ == 0 || m.sm_mhz < lowest_mhz_) ? m.sm_mhz : lowest_mhz_;
  why = m.why;
  return has_figure(m.state) ? m.us : 0;
}

void KernelBench::rest() {
  const double until = timer_.seconds() + rest_s_;
  for (;;) {
    const kernels::Telemetry now = device_.telemetry();
    if (!now.valid) return;
    highest_mhz_ = std::max(highest_mhz_, now.sm_clock_mhz);
    if (now.sm_clock_mhz >= 0.97 * highest_mhz_ || timer_.seconds() > until) return;
    timer_.pause(0.02);
  }
}

void CheckCount::add(kernels::Device& device, const CaseSpec& spec, const std::string& what) {
  std::string why;
  const auto kernel = kernels::make_case(spec, why);
  if (kernel == nullptr) return skip(spec, what, why);
  bool good = kernel->prepare(device.memory(), 1, why) &&
              device.run([&](kernels::Stream s) { kernel->launch(0, s); }, why);
  if (good && !kernel->refusal().empty()) {
    why = kernel->refusal();
    device.memory().release_all();
    return skip(spec, what, why);
  }
  if (good) {
    const kernels::CheckResult result = kernel->check(device.memory());
    good = result.passed;
    why = result.detail + ", worst " + std::to_string(result.worst);
  }
  device.memory().release_all();
  ++(good ? passed_ : failed_);
  if (!good) std::printf("FAILED %s %s: %s\n", what.c_str(), shape_of(spec).c_str(), why.c_str());
  std::fflush(stdout);
}

void CheckCount::skip(const CaseSpec& spec, const std::string& what, const std::string& why) {
  ++skipped_;
  std::printf("skipped %s %s: %s\n", what.c_str(), shape_of(spec).c_str(), why.c_str());
}

int CheckCount::finish() const {
  std::printf("%d passed, %d failed, %d skipped: these did not run here\n", passed_, failed_, skipped_);
  return failed_ > 0 || passed_ == 0 ? 1 : 0;
}

std::string us_text(double us) { return us > 0 ? format_fixed(us, 1) : "–"; }
std::string ratio_text(double a, double b) { return a > 0 && b > 0 ? format_fixed(a / b, 2) : "–"; }
std::string rate_text(double flops, double us) { return us > 0 ? format_fixed(flops / us / 1e6, 0) : "–"; }

void table_row(std::FILE* out, const std::vector<std::string>& cells) {
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
