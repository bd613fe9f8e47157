// Who runs a step's kernels: live/forward on a GPU or in the CPU simulator, a stand-in in tests.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "costmodel/step_pricer.h"
#include "live/forward/launch_count.h"
#include "live/forward/step_batch.h"

namespace orrery {

// What a step worked through by operator class, counted where its kernels were launched; see LaunchCount.
struct StepWork {
  std::array<double, op_class_count> flops{}, memory_bytes{}, activation_bytes{}, link_bytes{};
};

struct StepResult {
  std::int64_t device_ns = 0;         // from the first kernel's begin to the last one's end
  std::int64_t launch_ns = 0;         // of the host
  std::vector<std::int32_t> sampled;  // one for each of StepBatch::sampled_rows
  bool first_use = false;             // products were planned, or a graph captured: it took longer
  StepWork work;
};

class StepRunner {
 public:
  virtual ~StepRunner() = default;
  // Launches the step and waits for its end. False with a reason when the device fails: then it is over.
  virtual bool run(const StepBatch& batch, StepResult& result, std::string& why) = 0;
  // The step that has just run, once more and launch by launch: keys and values are written again as they
  // were. False as above, or where there is nothing that could be timed so.
  virtual bool profile(const StepBatch&, StepProfile&, std::string& why) {
    why = "this device times no single launches";
    return false;
  }
  // Of the step under way: how many layers' keys and values are in the pool, asked by another thread. None
  // from begin_layers() on, which whoever runs steps calls before each.
  virtual void begin_layers() {}
  virtual std::int64_t layers_done() { return 0; }
};

}  // namespace orrery
