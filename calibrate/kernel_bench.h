// How a report times a kernel on one card.
#pragma once

#include <cstdio>
#include <string>
#include <vector>

#include "calibrate/measure.h"
#include "calibrate/timer.h"
#include "kernels/kernel_case.h"

namespace orrery::calibrate {

// A point is timed after a rest, since under the power cap the clock stays low.
class KernelBench {
 public:
  KernelBench(kernels::Device& device, double cap_s, double rest_s, int visits);

  // Microseconds of the operator's own kernel, none of its other forms, the better of the visits; 0 where
  // nothing was timed, and `why`.
  double time(const kernels::CaseSpec& spec, std::string& why);
  double read_us(double bytes);  // by the `read` probe
  double highest_mhz() const { return highest_mhz_; }
  double lowest_mhz() const { return lowest_mhz_; }
  WallTimer& timer() { return timer_; }

 private:
  double visit(const kernels::CaseSpec& spec, std::string& why);
  void rest();

  kernels::Device& device_;
  Arena arena_;
  WallTimer timer_;
  MeasureOptions options_;
  int visits_;
  double rest_s_, highest_mhz_ = 0, lowest_mhz_ = 0;
};

// Decodes of `batch` sequences over contexts of one length, in blocks of 64 tokens.
kernels::CaseSpec decode_case(const char* op, const char* kv, std::int64_t heads, std::int64_t batch,
                              std::int64_t context);

// Launches and checks cases on the card; prints what failed, and what was skipped because there is no such
// case or launch.
class CheckCount {
 public:
  void add(kernels::Device& device, const kernels::CaseSpec& spec, const std::string& what);
  int failed() const { return failed_; }
  int finish() const;  // prints all three counts; 0 where something ran and nothing failed

 private:
  void skip(const kernels::CaseSpec& spec, const std::string& what, const std::string& why);
  int passed_ = 0, failed_ = 0, skipped_ = 0;
};

// Cells of tables in Markdown.
std::string us_text(double us);                  // "–" where nothing was timed
std::string ratio_text(double a, double b);      // a / b
std::string rate_text(double flops, double us);  // TFLOP/s
void table_row(std::FILE* out, const std::vector<std::string>& cells);
// Title, date, card and versions of a report; `how` says what was rotated and rested.
void report_head(kernels::Device& device, WallTimer& timer, std::FILE* out, const char* title,
                 const char* program, const char* how);

}  // namespace orrery::calibrate
