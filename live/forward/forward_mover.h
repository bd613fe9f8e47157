// Blocks from one forward pass' KV pool to another's, on a device that reaches the other's memory: one kernel
// reads them where they lie and stores them where they go (kernels/kv_transfer.h), on a stream of its own.
#pragma once

#include <memory>

#include "kernels/kv_transfer.h"
#include "live/forward/kv_mover.h"
#include "live/forward/step_forward.h"

namespace orrery {

class ForwardMover final : public KvMover {
 public:
  struct Side {
    const StepForward* forward = nullptr;
    kernels::DeviceMemory* memory = nullptr;
  };
  // Sides of one model, which outlive it. Errors: no room, no stream.
  static Result<std::unique_ptr<KvMover>> create(const Side& from, const Side& to);
  bool move(const KvMove& move, std::int64_t& ns, std::string& why) override;

 private:
  ForwardMover() = default;

  std::unique_ptr<kernels::StepStream> stream_;
  kernels::KvTransferLaunch launch_;  // of all layers' keys and values
  std::int64_t layers_ = 0, most_blocks_ = 0;
  std::int32_t pools_of_layer_ = 2;
  std::int32_t *ids_host_ = nullptr, *ids_ = nullptr;  // from, then to
};

}  // namespace orrery
