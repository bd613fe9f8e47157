// steps.csv: one engine step, or one stretch of decode steps, a row.
#pragma once

#include <string>

#include "base/files.h"
#include "sim/results.h"

namespace orrery {

class StepsCsv final : public RunObserver {
 public:
  static Result<StepsCsv> create(const std::string& path);
  void on_step(const StepRecord& step) override;
  Status commit();

 private:
  explicit StepsCsv(AtomicFile file) : file_(std::move(file)) {}
  AtomicFile file_;
};

}  // namespace orrery
