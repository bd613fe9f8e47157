// Checks the portable kernels in the CPU fibre simulator: OUT [OPERATOR…]. Started by
// `orrery calibrate --check --simulator`, once per warp width; operators that do not run here are passed
// over. Returns 0, or 7 when something failed.
#include <cstdio>
#include <string>
#include <vector>

#include "calibrate/check_report.h"
#include "kernels/case_table.h"
#include "kernels/cpu_simulator.h"
#include "kernels/guarded_memory.h"

namespace {

// Flops and bytes of a case that fibres still work through in about a second.
constexpr double most_work = 2e6;
constexpr int usage_code = 2, input_code = 3, failed_code = 7;

int fail(const orrery::Errors& errors, int code) {
  for (const orrery::Error& error : errors) std::fprintf(stderr, "orrery: %s\n", error.to_string().c_str());
  return code;
}

}  // namespace

int main(int argc, char** argv) {
  using namespace orrery;
  if (argc < 2) {
    std::fprintf(stderr, "usage: %s OUT [OPERATOR…]\n", argv[0]);
    return usage_code;
  }
  const std::string out = argv[1];
  calibrate::CheckOptions options;
  options.most_work = most_work;
  const std::string width = std::to_string(ORRERY_SIMULATED_WARP);
  const std::string where = "CPU fibre simulator, warps of " + width + " lanes";
  for (int i = 2; i < argc; ++i) {
    const kernels::CaseEntry* entry = kernels::find_case(argv[i]);
    if (entry != nullptr && entry->simulated) options.ops.emplace_back(argv[i]);
  }
  if (argc > 2 && options.ops.empty()) {
    std::printf("%s: none of these operators runs here\n", where.c_str());
    return 0;
  }
  kernels::HostMemory memory;
  const calibrate::CheckTarget target{memory,
                                      [](const std::function<void(kernels::Stream)>& body, std::string& why) {
                                        static_cast<void>(kernels::simulator::take_error());
                                        body(nullptr);
                                        why = kernels::simulator::take_error();
                                        return why.empty();
                                      },
                                      true};
  const std::string name = "check_simulated_" + width;
  auto log = calibrate::CheckLog::open(out, name, false);
  if (!log.ok()) return fail(log.errors(), input_code);
  log->quiet = true;
  const auto summary = calibrate::run_logged_checks(kernels::case_table(), target, options, *log);
  const Status written = calibrate::write_check(summary, where, out, name, *log);
  if (!written.ok()) return fail(written.errors(), input_code);
  std::printf("%s\n\n%s\n", where.c_str(), calibrate::summary_text(summary).c_str());
  return summary.good() ? 0 : failed_code;
}
