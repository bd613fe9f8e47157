#include "live/forward/forward_weights.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "base/random.h"
#include "kernels/small_floats.h"

namespace orrery {

namespace {

// Embeddings have deviation 1; norms' weights stand around 1, far enough from it that a norm without them
// shows.
constexpr float embedding_deviation = 1, norm_deviation = 0.125F;
constexpr float fp8_deviation = 64;  // of what is stored, of which 448 is the largest

std::int64_t blocks(std::int64_t features) { return (features + 127) / 128; }

class Maker {
 public:
  Maker(const ForwardShape& shape, std::uint64_t seed, kernels::DeviceMemory& memory)
      : shape_(shape), seed_(seed), memory_(memory) {}

  bool room() const { return room_; }

  // What follows is this rank's alone, or (false) the same on all.
  void shard(bool on) { sharded_ = on; }

  Weight matrix(std::int64_t n, std::int64_t k, float deviation, std::int64_t experts = 1) {
    Weight weight{nullptr, n, k, experts, nullptr};
    fill(weight, "bf16", 2, deviation);
    return weight;
  }
  // Deviation 1/√k, with the features of all ranks where they sum; of the layers' own products 8 bits where
  // the model's are.
  Weight product(std::int64_t n, std::int64_t k, bool fp8 = false, std::int64_t experts = 1,
                 std::int64_t summing = 1) {
    const auto deviation = static_cast<float>(1 / std::sqrt(static_cast<double>(k * summing)));
    if (!fp8) return matrix(n, k, deviation, experts);
    Weight weight{nullptr, n, k, experts, nullptr};
    fill(weight, "fp8", 1, fp8_deviation);
    std::vector<float> scales(static_cast<std::size_t>(experts * blocks(n) * blocks(k)));
    RandomStream random(next_stream(), RandomPurpose::kernel_operands);
    for (float& scale : scales)  // apart by up to three times, so that a wrong one shows
      scale = deviation / fp8_deviation * (0.5F + static_cast<float>(random.uniform()));
    weight.scales = upload(scales);
    return weight;
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
    return {upload(values), shape_.vocabulary, shape_.hidden, 1, nullptr};
  }

  LayerWeights layer(bool experts) {
    LayerWeights made;
    made.input_norm = norm(shape_.hidden);
    made.post_norm = norm(shape_.hidden);
    shape_.latent() ? add_latent(made) : add_heads(made);
    shard(true);
    made.o = product(shape_.hidden, shape_.attended_width(), shape_.fp8, 1, shape_.ranks);
    const std::int64_t inner = experts ? shape_.expert_intermediate : shape_.intermediate,
                       count = experts ? shape_.own_experts() : 1,
                       summing = experts && shape_.shares_experts ? 1 : shape_.ranks;
    shard(false);
    if (experts) made.router = product(shape_.experts, shape_.hidden);
    shard(true);
    made.gate_up = product(2 * inner, shape_.hidden, shape_.fp8, count);
    made.down = product(shape_.hidden, inner, shape_.fp8, count, summing);
    if (experts && shape_.shared_intermediate > 0) {
      made.shared_gate_up = product(2 * shape_.shared_intermediate, shape_.hidden, shape_.fp8);
      made.shared_down = product(shape_.hidden, shape_.shared_intermediate, shape_.fp8, 1, shape_.ranks);
    }
    shard(false);
    return made;
  }

 private:
  void add_heads(LayerWeights& made) {
    if (shape_.qk_norm) {
      made.q_norm = norm(shape_.head_dim);
      made.k_norm = norm(shape_.head_dim);
    }
    shard(true);
    made.qkv = product(shape_.qkv_width(), shape_.hidden, shape_.fp8);
  }
  void add_latent(LayerWeights& made) {
    using kernels::latent_width;
    shard(true);
    made.q = product(shape_.q_width(), shape_.hidden);
    shard(false);
    made.kv_a = product(kernels::latent_key, shape_.hidden);
    made.latent_norm = norm(latent_width);
    shard(true);
    // Keys of a head are its matrix times the latent; queries meet it the other way round.
    made.into_latent =
        matrix(latent_width, shape_.latent_plain,
               static_cast<float>(1 / std::sqrt(static_cast<double>(latent_width))), shape_.heads);
    made.out_of_latent = product(shape_.latent_value, latent_width, false, shape_.heads);
  }
  void fill(Weight& weight, const char* type, std::size_t element_bytes, float deviation) {
    const auto elements = static_cast<std::size_t>(weight.experts * weight.n * weight.k);
    weight.data = memory_.allocate(elements * element_bytes);
    const std::uint64_t stream = next_stream();
    room_ = room_ && weight.data != nullptr;
    if (room_) memory_.fill_random(weight.data, elements, type, deviation, stream);
  }
  template <class T>
  T* upload(const std::vector<T>& values) {
    auto* to = static_cast<T*>(memory_.allocate(values.size() * sizeof(T)));
    room_ = room_ && to != nullptr;
    if (room_) memory_.upload(to, values.data(), values.size() * sizeof(T));
    return to;
  }
  // A tensor's stream: its number in the model's order, and whose share it is.
  std::uint64_t next_stream() {
    const std::uint64_t whole = RandomStream(seed_, RandomPurpose::kernel_operands, tensor_++).bits();
    if (!sharded_ || shape_.rank == 0) return whole;
    return RandomStream(whole, RandomPurpose::kernel_operands, static_cast<std::uint64_t>(shape_.rank))
        .bits();
  }

  const ForwardShape& shape_;
  std::uint64_t seed_, tensor_ = 0;
  kernels::DeviceMemory& memory_;
  bool room_ = true, sharded_ = false;
};

void refuse_features(const ModelSpec& model, std::vector<std::string>& missing) {
  const auto refuse = [&](bool has, const char* what) {
    if (has) missing.emplace_back(what);
  };
  const LatentAttention& latent = model.latent;
  refuse(latent.present() &&
             (latent.rank != kernels::latent_width || latent.rotary_dim != kernels::latent_rotary),
         "latents of other than 512 and 64");
  refuse(latent.present() && latent.query_rank > 0, "queries of low rank");
  refuse(latent.present() && model.quantization != Quantization::none, "8-bit products beside a latent");
  refuse(model.sparse.present(), "sparse attention");
  refuse(model.state.present(), "layers with a state");
  refuse(model.shared_expert_intermediate > 0 &&
             (model.shared_expert_gate || model.quantization != Quantization::none),
         "gated or 8-bit shared experts");
  refuse(model.expert_groups > 1, "groups of experts");
  refuse(model.router_fp32, "a router in fp32");
  refuse(model.experts % 8 != 0, "experts that are no multiple of 8");
  refuse(model.attention_bias, "biases of q, k and v");
  refuse(model.attention_sinks, "attention sinks");
  refuse(model.output_norms, "norms of outputs");
  refuse(model.gelu || !model.gated_mlp, "an MLP other than SiLU-gated");
  refuse(model.attention_softcap || model.logit_softcap, "capped scores or logits");
  refuse(model.scaled_embedding, "scaled embeddings");
  refuse(model.output_gate, "gated attention");
  refuse(!model.rotary, "attention without positions");
  refuse(model.vision != nullptr, "images");
  const bool fp8 = model.quantization == Quantization::fp8_block;
  refuse(!fp8 && model.quantization != Quantization::none, "weights of 8 or 4 bits other than fp8-block");
  refuse(fp8 && model.quantization_block != 128, "blocks of scales other than 128");
  const auto in_blocks = [](std::int64_t width) { return width % 128 == 0; };
  refuse(fp8 && !(in_blocks(model.hidden) && in_blocks(model.heads * model.head_dim) &&
                  in_blocks(model.intermediate) && in_blocks(model.expert_intermediate)),
         "8-bit products of widths that are no multiple of 128");
  refuse(model.activation_dtype != DType::bf16, "activations other than bf16");
  refuse(model.kv_dtype != DType::bf16, "a cache of other than bf16");
  refuse(!latent.present() && model.head_dim != 64 && model.head_dim != 128, "heads of other than 64 or 128");
  refuse(model.vocabulary % 64 != 0, "a vocabulary that is no multiple of 64");
  bool windows = false;
  for (const LayerKind& kind : model.layer_kinds) windows = windows || kind.sliding_window > 0;
  refuse(windows, "sliding windows");
}

// What a plan of `ranks` divides must be divisible; of 8 bits into whole blocks of scales.
void refuse_shares(const ModelSpec& model, std::int32_t ranks, bool shares_experts,
                   std::vector<std::string>& missing) {
  if (ranks == 1) return;
  const std::int64_t unit = model.quantization == Quantization::fp8_block ? 128 : 8;
  // A latent is every rank's; its heads are shared out.
  const bool whole = model.heads % ranks == 0 && (model.latent.present() || model.kv_heads % ranks == 0) &&
                     model.vocabulary % (8 * std::int64_t{ranks}) == 0;
  bool widths = true;
  for (const std::int64_t width :
       {model.intermediate, shares_experts ? 0 : model.expert_intermediate, model.shared_expert_intermediate,
        model.heads * (model.latent.present() ? model.latent.value_dim : model.head_dim)})
    widths = widths && width % (unit * ranks) == 0;
  const std::string over = " over " + std::to_string(ranks) + " ranks";
  if (!whole) missing.push_back("heads or a vocabulary that do not divide" + over);
  if (!widths) missing.push_back("widths that do not divide" + over);
  if (shares_experts && (model.experts == 0 || model.experts % ranks != 0))
    missing.push_back(std::to_string(model.experts) + " experts shared out" + over);
}

std::vector<bool> experts_of_layers(const ModelSpec& model) {
  std::vector<bool> experts;
  for (const std::uint8_t kind : model.kind_of_layer) experts.push_back(model.layer_kinds[kind].moe);
  if (!experts.empty()) return experts;
  for (const LayerKind& kind : model.layer_kinds)
    experts.insert(experts.end(), static_cast<std::size_t>(kind.count), kind.moe);
  return experts;
}

}  // namespace

double Weight::bytes() const {
  const double parameters = static_cast<double>(n * k);
  return fp8() ? parameters + 4 * static_cast<double>(blocks(n) * blocks(k)) : 2 * parameters;
}

Result<ForwardShape> forward_shape(const ModelSpec& model, std::int32_t ranks, std::int32_t rank,
                                   bool shares_experts) {
  std::vector<std::string> missing;
  refuse_features(model, missing);
  refuse_shares(model, ranks, shares_experts, missing);
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
  shape.experts_of_layer = experts_of_layers(model);
  const auto& experts = shape.experts_of_layer;
  const bool mlps = std::find(experts.begin(), experts.end(), false) != experts.end();
  shape.intermediate = mlps ? model.intermediate : 0;
  shape.vocabulary = model.vocabulary;
  shape.experts = model.experts;
  shape.experts_per_token = model.experts_per_token;
  shape.expert_intermediate = model.expert_intermediate;
  if (model.experts > 0) shape.shared_intermediate = model.shared_expert_intermediate;
  shape.latent_plain = model.latent.key_dim;
  shape.latent_value = model.latent.value_dim;
  shape.qk_norm = model.qk_norm;
  shape.fp8 = model.quantization == Quantization::fp8_block;
  shape.tied = model.tied_embeddings;
  shape.ranks = ranks;
  shape.rank = rank;
  shape.shares_experts = shares_experts;
  for (std::int64_t* width :
       {&shape.heads, &shape.intermediate, &shape.vocabulary, &shape.shared_intermediate})
    *width /= ranks;
  if (!shape.latent()) shape.kv_heads /= ranks;
  if (!shares_experts) shape.expert_intermediate /= ranks;
  return shape;
}

Result<ForwardWeights> make_weights(const ForwardShape& shape, std::uint64_t seed, float head_spread,
                                    kernels::DeviceMemory& memory) {
  Maker maker(shape, seed, memory);
  ForwardWeights weights;
  maker.shard(true);
  weights.embedding = maker.matrix(shape.vocabulary, shape.hidden, embedding_deviation);
  maker.shard(false);
  weights.final_norm = maker.norm(shape.hidden);
  maker.shard(true);
  if (shape.tied) {
    weights.head = weights.embedding;
  } else if (head_spread > 0) {
    weights.head = maker.spread_head(head_spread);
  } else {
    weights.head = maker.product(shape.vocabulary, shape.hidden);
  }
  maker.shard(false);
  for (std::int64_t l = 0; l < shape.layers && maker.room(); ++l) {
    weights.layers.push_back(maker.layer(shape.experts_of_layer[static_cast<std::size_t>(l)]));
  }
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
