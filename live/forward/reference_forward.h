// The same forward pass in double precision, token by token over a whole sequence: no pages, no chunks, no
// batch. Beside each number it carries the variance of what the device's may be off by.
//
// The bound. The device rounds where the kernels say so (to bf16 what a kernel writes, and attention's
// exponentials), and adds in fp32. Rounding x to nearest with unit roundoff u errs by at most u·|x|, and by a
// variance of at most u²x²/3 when the error is uniform in that range; a sum of k products in fp32 adds at
// most k·u₃₂²·Σ(terms²). Errors pass on to first order through the derivative of each operator, and are taken
// as independent: with weights that know nothing of the errors, cross terms have mean zero (probabilistic
// rounding error analysis: Higham and Mary 2019, doi:10.1137/18M1226312). A sum of bounded independent errors
// is beyond z deviations with probability at most 2·exp(−z²/2): z = 7 is 5·10⁻¹¹ a logit. Second-order terms
// are left out: they are 2⁻⁸ of the first.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/kernel_case.h"
#include "live/forward/forward_weights.h"

namespace orrery {

// Unit roundoffs.
struct DevicePrecision {
  double stored = 1.0 / 256;            // bf16
  double attention_weight = 1.0 / 256;  // of the exponentials before they meet values
  double sum = 1.0 / 8388608;           // fp32, truncated as tensor cores may
};

// Numbers with the variances of the device's errors.
struct Estimates {
  std::vector<double> value, variance;
  explicit Estimates(std::size_t count = 0) : value(count), variance(count) {}
  std::size_t size() const { return value.size(); }
};

class ReferenceForward {
 public:
  // Downloads the weights.
  ReferenceForward(const ForwardShape& shape, const ForwardWeights& weights, kernels::DeviceMemory& memory,
                   DevicePrecision precision = {});
  // Logits behind each of the tokens from `first` on.
  std::vector<Estimates> run(const std::vector<std::int32_t>& tokens, std::size_t first = 0) const;

 private:
  struct Matrix {
    std::vector<float> values;  // [n][k]
    std::size_t n = 0, k = 0;
  };
  struct Layer {
    std::vector<float> input_norm, post_norm, q_norm, k_norm;
    Matrix qkv, o, gate_up, down;
  };
  struct Cache {
    std::vector<Estimates> keys, values;  // of a layer, a token each
  };

  void round(Estimates& x) const;
  Estimates product(const Matrix& weights, const Estimates& x) const;
  void normalise(Estimates& x, std::size_t first, std::size_t count, const std::vector<float>& weights) const;
  void turn(Estimates& x, std::size_t first, std::size_t position) const;
  Estimates attend(const Estimates& queries, const Cache& cache) const;
  Estimates gated(const Estimates& gate_up) const;
  void run_layer(const Layer& layer, std::size_t position, Cache& cache, Estimates& x, Estimates& residual,
                 bool first) const;
  void add_and_norm(const std::vector<float>& weights, Estimates& x, Estimates& residual, bool first) const;

  ForwardShape shape_;
  DevicePrecision precision_;
  Matrix embedding_, head_;
  std::vector<float> final_norm_;
  std::vector<Layer> layers_;
};

}  // namespace orrery
