// Experts by popularity: what the simulation's hotspot asks of a layer, for kernels that draw it row by row
// (kernels/router_drawn.h), the same experts for the same token of a request.
#pragma once

#include <cstdint>
#include <memory>

#include "costmodel/experts/popularity.h"
#include "kernels/kernel_case.h"
#include "kernels/router_drawn.h"
#include "kernels/step_stream.h"

namespace orrery {

class DrawnChoices {
 public:
  // False: no room. The stream outlives it.
  bool prepare(std::shared_ptr<const ExpertPopularity> popularity, kernels::StepStream& stream,
               kernels::DeviceMemory& memory);
  bool on() const { return popularity_ != nullptr; }
  // What follows on the stream is of this epoch of the popularity. The step before has been waited for.
  void follow(std::int64_t epoch);
  // Fills in what is asked of the layer, by its number among those with experts.
  void of_layer(std::int64_t layer, kernels::RouterDrawnLaunch& launch) const;

 private:
  void upload();
  std::size_t entries() const {
    return static_cast<std::size_t>(popularity_->layers()) * static_cast<std::size_t>(popularity_->experts());
  }

  std::shared_ptr<const ExpertPopularity> popularity_;
  kernels::StepStream* stream_ = nullptr;
  std::int64_t epoch_ = 0;
  kernels::DrawnExpert *table_ = nullptr, *host_table_ = nullptr;  // [layers][experts]
  double *weights_ = nullptr, *host_weights_ = nullptr;
};

}  // namespace orrery
