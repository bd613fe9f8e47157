// `orrery calibrate --pairs`: both sides of the case studies' kernel pairs on this device, into
// OUT/pairs.csv.
#include <cstdio>
#include <filesystem>

#include "base/files.h"
#include "base/json.h"
#include "base/text.h"
#include "calibrate/pairs.h"
#include "cli/command_table.h"
#include "cli/commands/calibrate.h"
#include "cli/interrupt.h"
#include "cli/version.h"
#include "kernels/case_table.h"

namespace orrery {

using namespace calibrate;

namespace {

std::string csv_field(std::string text) {
  for (char& c : text) {
    if (c == ',' || c == '\n' || c == '"') c = ';';
  }
  return text;
}

// Our kernel alone, no other form of its operator.
Measurement time_alone(const kernels::CaseSpec& spec, kernels::Device& device, Arena& arena, Timer& timer) {
  Point point;
  point.spec = spec;
  point.table = table_of(spec);
  point.shape = shape_of(spec);
  const MakeCase alone = [&](const kernels::CaseSpec& form, std::string& why) {
    return form.op == spec.op ? kernels::make_case(form, why) : nullptr;
  };
  Measurement best = measure(point, device, arena, timer, alone, {});
  timer.pause(0.02);  // a clock that fell rises again
  const Measurement again = measure(point, device, arena, timer, alone, {});
  return has_figure(again.state) && again.us < best.us ? again : best;
}

Result<int> measure_pairs(const CalibrateOptions& options) {
  WallTimer timer;
  ORRERY_TRY(pairs, load_pairs(pairs_path()));
  ORRERY_TRY(device, open_device(options.device));
  watch_interrupts();
  Arena arena(*device, 0.6);
  const kernels::DeviceInfo& info = device->info();
  std::string csv = "# " + info.name + ", driver " + info.driver + ", " + info.runtime + ", " + timer.date() +
                    ", Orrery " + version() + "\npair,shape,before_us,after_us,ratio,kernels,why\n";
  for (const KernelPair& pair : pairs) {
    if (interrupted()) return interruption();
    const auto figures = measure_pair(
        pair, [&](const kernels::CaseSpec& spec) { return time_alone(spec, *device, arena, timer); });
    for (const PairFigure& f : figures) {
      csv += pair.name + "," + csv_field(f.shape) + ",";
      csv += f.why.empty() ? format_fixed(f.before_us, 3) + "," + format_fixed(f.after_us, 3) + "," +
                                 format_fixed(f.ratio(), 4) + "," + csv_field(f.detail) + ","
                           : ",,,," + csv_field(f.why);
      csv += "\n";
    }
  }
  std::error_code ec;
  std::filesystem::create_directories(options.out, ec);
  ORRERY_TRY_STATUS(write_file_atomically(options.out + "/pairs.csv", csv));
  std::fputs(csv.c_str(), stdout);
  return static_cast<int>(ExitCode::done);
}

}  // namespace

int run_pairs(const CalibrateOptions& options) {
  const Result<int> code = measure_pairs(options);
  return code.ok() ? *code : report_errors(code.errors());
}

}  // namespace orrery
