// What the vision encoder costs: its operators in launch order, priced by the same rules as a step's
// (roofline.h, kernel tables), for the images that one step encodes together. Formulas: docs/multimodal.md.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "costmodel/step_pricer.h"

namespace orrery {

// What the encoder is given for one image: `tiles` pictures of rows × columns patches.
struct EncoderImage {
  std::int32_t rows = 0, columns = 0, tiles = 1;
  std::int64_t patches() const { return std::int64_t{rows} * columns * tiles; }
};

struct EncoderTiming {
  std::int64_t busy = 0;    // device: sum of kernels, the slowest rank, ns
  std::int64_t launch = 0;  // host: the encoder is not captured, every kernel is launched by itself, ns
};

class EncoderPricer {
 public:
  // Precondition: spec.model.vision. Errors: what Roofline::create reports; a part without link figures that
  // tensor parallelism needs, or without pcie_bandwidth.
  static Result<EncoderPricer> create(const InstanceSpec& spec, const PriceScales& scales = {});
  EncoderPricer(EncoderPricer&&) noexcept;
  EncoderPricer& operator=(EncoderPricer&&) noexcept;
  ~EncoderPricer();

  // One forward pass over all images, as vLLM batches them. Precondition: at least one image.
  EncoderTiming price(std::span<const EncoderImage> images) const;
  // The same as lines that sum to `busy`, for people.
  std::vector<OpLine> explain(std::span<const EncoderImage> images) const;

 private:
  struct State;
  explicit EncoderPricer(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

// Bytes of one GPU for the encoder: its weights, and what profiling it with the largest items adds to the
// step's peak (activations of the widest part of a layer; the outputs stay until the step has run).
struct EncoderMemory {
  Bytes weights, activations, outputs;
};
EncoderMemory encoder_memory(const InstanceSpec& spec);

}  // namespace orrery
