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

// Activations that 8-bit weights meet are rounded to e4m3 with a scale for 128 of them; the reference does
// not round them, it counts the error. Experts: near a tie the device may choose others than the reference. A
// choice that the bound cannot tell from the reference's is taken over, and any other is counted as wrong.

// Unit roundoffs.
struct DevicePrecision {
  double stored = 1.0 / 256;            // bf16
  double attention_weight = 1.0 / 256;  // of the exponentials before they meet values
  double sum = 1.0 / 8388608;           // fp32, truncated as tensor cores may
  static DevicePrecision fp32() { return {0x1p-23, 0x1p-21, 0x1p-23}; }  // exponentials to a few units
};

// Numbers with the variances of the device's errors.
struct Estimates {
  std::vector<double> value, variance;
  explicit Estimates(std::size_t count = 0) : value(count), variance(count) {}
  std::size_t size() const { return value.size(); }
};

// Experts that the device chose for a token, a list a layer; empty where the model has none.
using ChosenExperts = std::vector<std::vector<std::int32_t>>;

class ReferenceForward {
 public:
  // Downloads the weights.
  ReferenceForward(const ForwardShape& shape, const ForwardWeights& weights, kernels::DeviceMemory& memory,
                   DevicePrecision precision = {});
  // Joins the shares of ranks to one model.
  struct Share {
    const ForwardShape* shape = nullptr;
    const ForwardWeights* weights = nullptr;
    kernels::DeviceMemory* memory = nullptr;
  };
  ReferenceForward(const std::vector<Share>& ranks, DevicePrecision precision);
  // From here on the device's experts are taken as they are: they were drawn, whatever the logits say.
  void take_choices() { given_choices_ = true; }
  // Logits behind each of the tokens.
  std::vector<Estimates> run(const std::vector<std::int32_t>& tokens,
                             const std::vector<ChosenExperts>& chosen);
  std::int64_t wrong_choices() const { return wrong_choices_; }  // of experts, in all runs

 private:
  struct Matrix {
    std::vector<float> values;  // [n][k]
    std::size_t n = 0, k = 0;
    bool fp8 = false;
  };
  struct Layer {
    std::vector<float> input_norm, post_norm, q_norm, k_norm;
    Matrix qkv, o, router;
    std::vector<Matrix> gate_up, down;  // of each expert; one where there are none
    Matrix shared_gate_up, shared_down;
    Matrix q, kv_a;                                  // latent attention
    std::vector<Matrix> into_latent, out_of_latent;  // of each head
    std::vector<float> latent_norm;
  };
  struct Cache {
    std::vector<Estimates> keys, values;  // of a layer, a token each
  };

  void round(Estimates& x) const;
  void quantise(Estimates& x) const;
  // As a kernel stores what products with `reader` read.
  void store_for(const Matrix& reader, Estimates& x) const { reader.fp8 ? quantise(x) : round(x); }
  Estimates product(const Matrix& weights, const Estimates& x) const;
  // Of features that ranks share out, whose parts are rounded as well: by rank in `parts`, when asked for.
  Estimates summed(const Matrix& weights, const Estimates& x,
                   std::vector<std::vector<double>>* parts = nullptr) const;
  void round_parts(const std::vector<std::vector<double>>& parts, Estimates& sum) const;
  void normalise(Estimates& x, std::size_t first, std::size_t count, const std::vector<float>& weights) const;
  void turn(Estimates& x, std::size_t first, std::size_t width, std::size_t position) const;
  struct Widths {
    std::size_t heads = 0, group = 0;  // queries' heads to one of keys and values
    std::size_t key = 0, value = 0;    // of a head
    double scale = 1;
  };
  Estimates attend(const Widths& widths, const Estimates& queries, const Cache& cache) const;
  Estimates mlp(const Matrix& gate_up, const Matrix& down, const Estimates& x) const;
  Estimates latent_attention_of(const Layer& layer, std::size_t position, Cache& cache,
                                const Estimates& x) const;
  Estimates gated(const Estimates& gate_up) const;
  Estimates attention_of(const Layer& layer, std::size_t position, Cache& cache, const Estimates& x) const;
  Estimates mixed(const Layer& layer, const Estimates& x, const std::vector<std::int32_t>& device);
  std::vector<std::size_t> choose(const Estimates& logits, const std::vector<std::int32_t>& device);
  // residual += x; x = its norm, not yet rounded. The first layer adds to nothing.
  void add_and_norm(const std::vector<float>& weights, Estimates& x, Estimates& residual, bool first) const;

  ForwardShape shape_;
  DevicePrecision precision_;
  Matrix embedding_, head_;
  std::vector<float> final_norm_;
  std::vector<Layer> layers_;
  std::int64_t wrong_choices_ = 0;
  bool given_choices_ = false;
};

}  // namespace orrery
