// Checks the portable kernels in the CPU fibre simulator: OUT [OPERATOR…]. Started by
// `orrery calibrate --check --simulator`, once per warp width. Returns 0, or 7 when something failed.
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
  options.ops.assign(argv + 2, argv + argc);
  options.most_work = most_work;
  const Status known = calibrate::known_operators(kernels::case_table(), options.ops);
  if (!known.ok()) return fail(known.errors(), usage_code);
  kernels::HostMemory memory;
  const calibrate::CheckTarget target{memory,
                                      [](const std::function<void(kernels::Stream)>& body, std::string& why) {
                                        static_cast<void>(kernels::simulator::take_error());
                                        body(nullptr);
                                        why = kernels::simulator::take_error();
                                        return why.empty();
                                      },
                                      true};
  const auto summary = calibrate::run_reported_checks(kernels::case_table(), target, options, true);
  const std::string width = std::to_string(ORRERY_SIMULATED_WARP);
  const std::string where = "CPU fibre simulator, warps of " + width + " lanes";
  const Status written = calibrate::write_check(summary, where, out, "check_simulated_" + width);
  if (!written.ok()) return fail(written.errors(), input_code);
  std::printf("%s\n\n%s\n", where.c_str(), calibrate::summary_text(summary).c_str());
  return summary.good() ? 0 : failed_code;
}
