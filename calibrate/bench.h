// What the reports of single kernels share: a card on which points are timed one by one, and the lines of
// their tables.
#pragma once

#include <cstdio>
#include <string>
#include <vector>

#include "calibrate/measure.h"
#include "calibrate/timer.h"

namespace orrery::calibrate {

// The card, and how a point is timed on it: after a rest, since under the power cap the clock stays low.
class Bench {
 public:
  Bench(kernels::Device& device, double cap_s, double rest_s, int visits)
      : device_(device), arena_(device, 0.8), visits_(visits), rest_s_(rest_s) {
    options_.cap_s = cap_s;
  }

  // Microseconds of the operator's own kernel, the better of the visits; 0 where nothing was timed, and
  // `why`.
  double time(const kernels::CaseSpec& spec, std::string& why);
  // Bytes a second of the `read` probe, over more than any cache; 0 where it was not timed.
  double read_bandwidth();
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

std::string us_text(double us);                  // "–" where nothing was timed
std::string ratio_text(double a, double b);      // a ÷ b
std::string rate_text(double flops, double us);  // TFLOP/s
// A line of a Markdown table.
void row(std::FILE* out, const std::vector<std::string>& cells);
// Title, date, card and versions of a report; `how` says what was rotated and rested.
void report_head(kernels::Device& device, WallTimer& timer, std::FILE* out, const char* title,
                 const char* program, const char* how);

}  // namespace orrery::calibrate
