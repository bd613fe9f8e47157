// The reference's weights: downloaded, and joined where ranks have shares of them; sums over ranks.
#include <algorithm>
#include <functional>
#include <utility>

#include "kernels/reference.h"
#include "kernels/small_floats.h"
#include "live/forward/reference_forward.h"

namespace orrery {

namespace {

std::vector<float> fetch(const std::uint16_t* from, std::int64_t count, kernels::DeviceMemory& memory) {
  if (from == nullptr) return {};
  std::vector<std::uint16_t> bits(static_cast<std::size_t>(count));
  memory.download(bits.data(), from, bits.size() * 2);
  std::vector<float> values;
  values.reserve(bits.size());
  for (const std::uint16_t each : bits) values.push_back(kernels::bf16_to_float(each));
  return values;
}

// One expert's matrix.
std::vector<float> fetch(const Weight& weight, std::int64_t expert, kernels::DeviceMemory& memory) {
  const std::int64_t count = weight.n * weight.k;
  if (!weight.fp8())
    return fetch(static_cast<const std::uint16_t*>(weight.data) + expert * count, count, memory);
  const std::int64_t across = (weight.k + 127) / 128, scales = (weight.n + 127) / 128 * across;
  std::vector<std::uint8_t> bits(static_cast<std::size_t>(count));
  std::vector<float> scale(static_cast<std::size_t>(scales)), values;
  memory.download(bits.data(), static_cast<const std::uint8_t*>(weight.data) + expert * count, bits.size());
  memory.download(scale.data(), weight.scales + expert * scales, scale.size() * sizeof(float));
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int64_t block = i / weight.k / 128 * across + i % weight.k / 128;
    values.push_back(kernels::fp8_to_float(bits[static_cast<std::size_t>(i)], kernels::device_fp8()) *
                     scale[static_cast<std::size_t>(block)]);
  }
  return values;
}

}  // namespace

ReferenceForward::ReferenceForward(const std::vector<Share>& ranks, DevicePrecision precision)
    : shape_(*ranks.front().shape), precision_(precision) {
  const Share& first = ranks.front();
  const auto n = static_cast<std::int64_t>(ranks.size());
  for (std::int64_t* width :
       {&shape_.heads, &shape_.intermediate, &shape_.vocabulary, &shape_.shared_intermediate})
    *width *= n;
  if (!shape_.latent()) shape_.kv_heads *= n;
  if (!shape_.shares_experts) shape_.expert_intermediate *= n;
  // A tensor of every rank: which one, of a rank's weights.
  using Of = std::function<const Weight&(const ForwardWeights&)>;
  const auto of_one = [](const Weight& w, std::int64_t expert, kernels::DeviceMemory& memory) {
    return Matrix{fetch(w, expert, memory), static_cast<std::size_t>(w.n), static_cast<std::size_t>(w.k),
                  w.fp8()};
  };
  const auto whole = [&](const Weight& w, std::int64_t expert = 0) {
    return of_one(w, expert, *first.memory);
  };
  // Rows are shared out, in parts of these widths of one rank each (queries, keys, values).
  const auto by_rows = [&](const Of& of, std::vector<std::int64_t> parts, std::int64_t expert = 0) {
    Matrix joined = whole(of(*first.weights), expert);
    if (ranks.size() == 1) return joined;
    joined.n *= ranks.size();
    joined.values.clear();
    std::size_t begin = 0;
    for (const std::int64_t part : parts) {
      const std::size_t count = static_cast<std::size_t>(part) * joined.k;
      for (const Share& rank : ranks) {
        const std::vector<float> values = fetch(of(*rank.weights), expert, *rank.memory);
        const auto from = values.begin() + static_cast<std::ptrdiff_t>(begin);
        joined.values.insert(joined.values.end(), from, from + static_cast<std::ptrdiff_t>(count));
      }
      begin += count;
    }
    return joined;
  };
  // Columns are.
  const auto by_columns = [&](const Of& of, std::int64_t expert = 0) {
    Matrix joined = whole(of(*first.weights), expert);
    if (ranks.size() == 1) return joined;
    const std::size_t width = joined.k;
    joined.k *= ranks.size();
    joined.values.assign(joined.n * joined.k, 0);
    for (std::size_t r = 0; r < ranks.size(); ++r) {
      const std::vector<float> values = fetch(of(*ranks[r].weights), expert, *ranks[r].memory);
      for (std::size_t row = 0; row < joined.n; ++row)
        std::copy_n(values.begin() + static_cast<std::ptrdiff_t>(row * width), width,
                    joined.values.begin() + static_cast<std::ptrdiff_t>(row * joined.k + r * width));
    }
    return joined;
  };
  const ForwardShape& shape = *first.shape;
  embedding_ =
      by_rows([](const ForwardWeights& w) -> const Weight& { return w.embedding; }, {shape.vocabulary});
  head_ = by_rows([](const ForwardWeights& w) -> const Weight& { return w.head; }, {shape.vocabulary});
  final_norm_ = fetch(first.weights->final_norm, shape.hidden, *first.memory);
  for (std::size_t l = 0; l < first.weights->layers.size(); ++l) {
    const LayerWeights& w = first.weights->layers[l];
    const auto of = [l](Weight LayerWeights::*which) -> Of {
      return [l, which](const ForwardWeights& all) -> const Weight& { return all.layers[l].*which; };
    };
    Layer layer;
    layer.input_norm = fetch(w.input_norm, shape.hidden, *first.memory);
    layer.post_norm = fetch(w.post_norm, shape.hidden, *first.memory);
    layer.q_norm = fetch(w.q_norm, shape.head_dim, *first.memory);
    layer.k_norm = fetch(w.k_norm, shape.head_dim, *first.memory);
    if (shape.latent()) {
      layer.q = by_rows(of(&LayerWeights::q), {shape.q_width()});
      layer.kv_a = whole(w.kv_a);
      layer.latent_norm = fetch(w.latent_norm, kernels::latent_width, *first.memory);
      for (const Share& rank : ranks) {
        const LayerWeights& own = rank.weights->layers[l];
        for (std::int64_t head = 0; head < shape.heads; ++head) {
          layer.into_latent.push_back(of_one(own.into_latent, head, *rank.memory));
          layer.out_of_latent.push_back(of_one(own.out_of_latent, head, *rank.memory));
        }
      }
    } else {
      layer.qkv = by_rows(of(&LayerWeights::qkv), {shape.q_width(), shape.kv_width(), shape.kv_width()});
    }
    layer.o = by_columns(of(&LayerWeights::o));
    if (w.router.data != nullptr) layer.router = whole(w.router);
    if (w.shared_gate_up.data != nullptr) {
      const std::int64_t half = w.shared_gate_up.n / 2;
      layer.shared_gate_up = by_rows(of(&LayerWeights::shared_gate_up), {half, half});
      layer.shared_down = by_columns(of(&LayerWeights::shared_down));
    }
    const bool apart = shape.shares_experts && w.router.data != nullptr;
    for (std::int64_t expert = 0; apart && expert < shape.experts; ++expert) {
      const Share& rank = ranks[static_cast<std::size_t>(expert / shape.own_experts())];
      const LayerWeights& own = rank.weights->layers[l];
      const std::int64_t there = expert % shape.own_experts();
      layer.gate_up.push_back(of_one(own.gate_up, there, *rank.memory));
      layer.down.push_back(of_one(own.down, there, *rank.memory));
    }
    for (std::int64_t expert = 0; !apart && expert < w.gate_up.experts; ++expert) {
      const std::int64_t half = w.gate_up.n / 2;
      layer.gate_up.push_back(by_rows(of(&LayerWeights::gate_up), {half, half}, expert));
      layer.down.push_back(by_columns(of(&LayerWeights::down), expert));
    }
    layers_.push_back(std::move(layer));
  }
}

Estimates ReferenceForward::summed(const Matrix& weights, const Estimates& x,
                                   std::vector<std::vector<double>>* parts) const {
  Estimates out = product(weights, x);
  const auto ranks = static_cast<std::size_t>(shape_.ranks);
  if (ranks == 1) return out;
  std::vector<std::vector<double>> of_rank(ranks, std::vector<double>(weights.n));
  const std::size_t width = weights.k / ranks;
  for (std::size_t row = 0; row < weights.n; ++row) {
    const float* w = weights.values.data() + row * weights.k;
    for (std::size_t i = 0; i < weights.k; ++i)
      of_rank[i / width][row] += static_cast<double>(w[i]) * x.value[i];
  }
  round_parts(of_rank, out);
  if (parts != nullptr) *parts = std::move(of_rank);
  return out;
}

void ReferenceForward::round_parts(const std::vector<std::vector<double>>& parts, Estimates& sum) const {
  for (const std::vector<double>& part : parts)
    for (std::size_t i = 0; i < sum.size(); ++i)
      sum.variance[i] += precision_.stored * precision_.stored / 3 * part[i] * part[i];
}

}  // namespace orrery
