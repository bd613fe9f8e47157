// Steps of a KernelExecutor on the forward pass.
#pragma once

#include <memory>

#include "live/forward/ranked_forward.h"
#include "live/forward/step_runner.h"

namespace orrery {

class ForwardRunner final : public StepRunner {
 public:
  // `again`: a step in which a product was planned or a graph captured runs a second time, and what it took
  // then is what it takes (measured simulation). Errors as RankedForward::create.
  static Result<std::unique_ptr<StepRunner>> create(const ModelSpec& model, const ForwardOptions& options,
                                                    kernels::DeviceMemory& memory, bool again,
                                                    const RankedForward::Options& ranks = {});
  const StepForward& forward() const { return forward_->of_rank(0); }
  bool run(const StepBatch& batch, StepResult& result, std::string& why) override;
  bool profile(const StepBatch& batch, StepProfile& profile, std::string& why) override;
  void begin_layers() override { forward_->of_rank(0).begin_layers(); }
  std::int64_t layers_done() override { return forward_->of_rank(0).layers_done(); }

 private:
  ForwardRunner(std::unique_ptr<RankedForward> forward, bool again)
      : forward_(std::move(forward)), again_(again) {}
  bool run_once(const StepBatch& batch, StepResult& result, std::string& why);

  std::unique_ptr<RankedForward> forward_;
  bool again_;
};

}  // namespace orrery
