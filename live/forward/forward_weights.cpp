#include "live/forward/forward_weights.h"

#include <cmath>
#include <string>

#include "base/random.h"
#include "kernels/small_floats.h"

namespace orrery {

namespace {

// Embeddings have deviation 1; norms' weights stand around 1, far enough from it that a norm without them
// shows.
constexpr float embedding_deviation = 1, norm_deviation = 0.125F;

class Maker {
 public:
  Maker(const ForwardShape& shape, std::uint64_t seed, kernels::DeviceMemory& memory)
      : shape_(shape), seed_(seed), memory_(memory) {}

  bool room() const { return room_; }

  Weight matrix(std::int64_t n, std::int64_t k, float deviation) {
    Weight weight{nullptr, n, k};
    const auto elements = static_cast<std::size_t>(n * k);
    weight.data = static_cast<std::uint16_t*>(memory_.allocate(elements * 2));
    const std::uint64_t stream = next_stream();
    if (weight.data == nullptr) {
      room_ = false;
      return weight;
    }
    memory_.fill_random(weight.data, elements, "bf16", deviation, stream);
    return weight;
  }
  Weight product(std::int64_t n, std::int64_t k) {
    return matrix(n, k, static_cast<float>(1 / std::sqrt(static_cast<double>(k))));
  }

  std::uint16_t* norm(std::int64_t width) {
    RandomStream random(next_stream(), RandomPurpose::kernel_operands);
    std::vector<std::uint16_t> values(static_cast<std::size_t>(width));
    for (auto& value : values) {
      value = kernels::float_to_bf16(1 + norm_deviation * static_cast<float>(random.normal()));
    }
    return upload(values);
  }

  // Rows of different sizes: drawn on the host, so for small vocabularies.
  Weight spread_head(float spread) {
    RandomStream random(next_stream(), RandomPurpose::kernel_operands);
    std::vector<std::uint16_t> values;
    const double deviation = 1 / std::sqrt(static_cast<double>(shape_.hidden));
    for (std::int64_t row = 0; row < shape_.vocabulary; ++row) {
      const double scale = deviation * random.log_normal(0, static_cast<double>(spread));
      for (std::int64_t i = 0; i < shape_.hidden; ++i) {
        values.push_back(kernels::float_to_bf16(static_cast<float>(scale * random.normal())));
      }
    }
    return {upload(values), shape_.vocabulary, shape_.hidden};
  }

  LayerWeights layer() {
    LayerWeights made;
    made.input_norm = norm(shape_.hidden);
    made.post_norm = norm(shape_.hidden);
    if (shape_.qk_norm) {
      made.q_norm = norm(shape_.head_dim);
      made.k_norm = norm(shape_.head_dim);
    }
    made.qkv = product(shape_.qkv_width(), shape_.hidden);
    made.o = product(shape_.hidden, shape_.q_width());
    made.gate_up = product(2 * shape_.intermediate, shape_.hidden);
    made.down = product(shape_.hidden, shape_.intermediate);
    return made;
  }

 private:
  std::uint16_t* upload(const std::vector<std::uint16_t>& values) {
    auto* to = static_cast<std::uint16_t*>(memory_.allocate(values.size() * 2));
    if (to == nullptr) {
      room_ = false;
      return nullptr;
    }
    memory_.upload(to, values.data(), values.size() * 2);
    return to;
  }
  // A tensor's stream: its number in the model's order.
  std::uint64_t next_stream() {
    return RandomStream(seed_, RandomPurpose::kernel_operands, tensor_++).bits();
  }

  const ForwardShape& shape_;
  std::uint64_t seed_, tensor_ = 0;
  kernels::DeviceMemory& memory_;
  bool room_ = true;
};

void refuse_features(const ModelSpec& model, std::vector<std::string>& missing) {
  const auto refuse = [&](bool has, const char* what) {
    if (has) missing.emplace_back(what);
  };
  refuse(model.latent.present(), "latent attention");
  refuse(model.sparse.present(), "sparse attention");
  refuse(model.state.present(), "layers with a state");
  refuse(model.experts > 0, "mixtures of experts");
  refuse(model.attention_bias, "biases of q, k and v");
  refuse(model.attention_sinks, "attention sinks");
  refuse(model.output_norms, "norms of outputs");
  refuse(model.gelu || !model.gated_mlp, "an MLP other than SiLU-gated");
  refuse(model.attention_softcap || model.logit_softcap, "capped scores or logits");
  refuse(model.scaled_embedding, "scaled embeddings");
  refuse(model.output_gate, "gated attention");
  refuse(!model.rotary, "attention without positions");
  refuse(model.vision != nullptr, "images");
  refuse(model.quantization != Quantization::none, "weights of 8 or 4 bits");
  refuse(model.activation_dtype != DType::bf16, "activations other than bf16");
  refuse(model.kv_dtype != DType::bf16, "a cache of other than bf16");
  refuse(model.head_dim != 64 && model.head_dim != 128, "heads of other than 64 or 128");
  refuse(model.vocabulary % 64 != 0, "a vocabulary that is no multiple of 64");
  bool windows = false;
  for (const LayerKind& kind : model.layer_kinds) windows = windows || kind.sliding_window > 0;
  refuse(windows, "sliding windows");
}

}  // namespace

Result<ForwardShape> forward_shape(const ModelSpec& model) {
  std::vector<std::string> missing;
  refuse_features(model, missing);
  if (!missing.empty()) {
    std::string text;
    for (const std::string& each : missing) text += (text.empty() ? "" : ", ") + each;
    return invalid_input("the kernel executor does not run " + model.name + ": it has no code for " + text +
                             " (docs/limits.md)",
                         {}, "model");
  }
  ForwardShape shape;
  shape.layers = model.layers;
  shape.hidden = model.hidden;
  shape.heads = model.heads;
  shape.kv_heads = model.kv_heads;
  shape.head_dim = model.head_dim;
  shape.intermediate = model.intermediate;
  shape.vocabulary = model.vocabulary;
  shape.qk_norm = model.qk_norm;
  shape.tied = model.tied_embeddings;
  return shape;
}

Result<ForwardWeights> make_weights(const ForwardShape& shape, std::uint64_t seed, float head_spread,
                                    kernels::DeviceMemory& memory) {
  Maker maker(shape, seed, memory);
  ForwardWeights weights;
  weights.embedding = maker.matrix(shape.vocabulary, shape.hidden, embedding_deviation);
  weights.final_norm = maker.norm(shape.hidden);
  if (shape.tied) {
    weights.head = weights.embedding;
  } else if (head_spread > 0) {
    weights.head = maker.spread_head(head_spread);
  } else {
    weights.head = maker.product(shape.vocabulary, shape.hidden);
  }
  for (std::int64_t l = 0; l < shape.layers && maker.room(); ++l) weights.layers.push_back(maker.layer());
  if (!maker.room())
    return make_error(ErrorKind::infeasible, "the device has no room for the model's weights", {}, "model");
  return weights;
}

const float* make_rotary_table(std::int64_t positions, std::int64_t head_dim, kernels::DeviceMemory& memory) {
  const auto half = static_cast<std::size_t>(head_dim / 2), rows = static_cast<std::size_t>(positions);
  std::vector<float> table(rows * 2 * half);
  for (std::size_t i = 0; i < half; ++i) {
    const double frequency = std::pow(rotary_base, -static_cast<double>(i) / static_cast<double>(half));
    for (std::size_t p = 0; p < rows; ++p) {
      const double angle = static_cast<double>(p) * frequency;
      table[p * 2 * half + i] = static_cast<float>(std::cos(angle));
      table[p * 2 * half + half + i] = static_cast<float>(std::sin(angle));
    }
  }
  auto* to = static_cast<float*>(memory.allocate(table.size() * sizeof(float)));
  if (to != nullptr) memory.upload(to, table.data(), table.size() * sizeof(float));
  return to;
}

}  // namespace orrery
