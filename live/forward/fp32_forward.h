// The dense forward pass in fp32, with the same weights, batch, block tables and pool of pages, by plain
// kernels (kernels/plain_fp32.h): what a check runs to see that every token is the reference's.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/kernel_case.h"
#include "live/forward/forward_inputs.h"
#include "live/forward/forward_weights.h"

namespace orrery {

class Fp32Forward {
 public:
  // Null when there is no room.
  static std::unique_ptr<Fp32Forward> create(const ForwardShape& shape, const ForwardWeights& weights,
                                             const float* rotary, std::int64_t rows, std::int64_t kv_blocks,
                                             kernels::DeviceMemory& memory);
  void layers(const DeviceStep& step, kernels::Stream stream) const;
  // Logits of the sampled rows.
  void head(const DeviceStep& step, float* logits, kernels::Stream stream) const;

 private:
  struct Matrix {
    float* data = nullptr;
    std::int32_t n = 0, k = 0;
  };
  struct Layer {
    float *input_norm = nullptr, *post_norm = nullptr, *q_norm = nullptr, *k_norm = nullptr;
    Matrix qkv, o, gate_up, down;
    float *keys = nullptr, *values = nullptr;
  };

  explicit Fp32Forward(const ForwardShape& shape) : shape_(shape) {}
  void norm(const float* residual, const float* weight, const DeviceStep& step, kernels::Stream stream) const;
  void attend(const Layer& layer, const DeviceStep& step, kernels::Stream stream) const;
  static void multiply(const Matrix& weights, const float* in, float* out, std::int32_t rows,
                       kernels::Stream stream);

  ForwardShape shape_;
  Matrix embedding_, head_;
  float* final_norm_ = nullptr;
  const float* rotary_ = nullptr;
  std::vector<Layer> layers_;
  float *x_ = nullptr, *residual_ = nullptr, *zeros_ = nullptr, *normed_ = nullptr, *qkv_ = nullptr,
        *queries_ = nullptr, *attended_ = nullptr, *gate_up_ = nullptr, *inner_ = nullptr,
        *sampled_ = nullptr;
};

}  // namespace orrery
