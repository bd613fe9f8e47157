#include "live/forward/reference_forward.h"

#include <algorithm>
#include <cmath>

#include "kernels/small_floats.h"

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

constexpr double squared(double x) { return x * x; }

}  // namespace

ReferenceForward::ReferenceForward(const ForwardShape& shape, const ForwardWeights& weights,
                                   kernels::DeviceMemory& memory, DevicePrecision precision)
    : shape_(shape), precision_(precision) {
  const auto matrix = [&](const Weight& w) {
    return Matrix{fetch(w.data, w.n * w.k, memory), static_cast<std::size_t>(w.n),
                  static_cast<std::size_t>(w.k)};
  };
  embedding_ = matrix(weights.embedding);
  head_ = matrix(weights.head);
  final_norm_ = fetch(weights.final_norm, shape.hidden, memory);
  for (const LayerWeights& w : weights.layers) {
    Layer layer;
    layer.input_norm = fetch(w.input_norm, shape.hidden, memory);
    layer.post_norm = fetch(w.post_norm, shape.hidden, memory);
    layer.q_norm = fetch(w.q_norm, shape.head_dim, memory);
    layer.k_norm = fetch(w.k_norm, shape.head_dim, memory);
    layer.qkv = matrix(w.qkv);
    layer.o = matrix(w.o);
    layer.gate_up = matrix(w.gate_up);
    layer.down = matrix(w.down);
    layers_.push_back(std::move(layer));
  }
}

void ReferenceForward::round(Estimates& x) const {
  for (std::size_t i = 0; i < x.size(); ++i) {
    x.variance[i] += squared(precision_.stored) / 3 * (squared(x.value[i]) + x.variance[i]);
  }
}

// Rounded.
Estimates ReferenceForward::product(const Matrix& weights, const Estimates& x) const {
  Estimates out(weights.n);
  const double of_sum = static_cast<double>(weights.k) * squared(precision_.sum);
  for (std::size_t row = 0; row < weights.n; ++row) {
    const float* w = weights.values.data() + row * weights.k;
    double sum = 0, variance = 0, squares = 0;
    for (std::size_t i = 0; i < weights.k; ++i) {
      const double weight = static_cast<double>(w[i]), term = weight * x.value[i];
      sum += term;
      squares += term * term;
      variance += weight * weight * x.variance[i];
    }
    out.value[row] = sum;
    out.variance[row] = variance + of_sum * squares;
  }
  round(out);
  return out;
}

// y = x·r·w with r = 1/√(mean x² + ε): dyᵢ = wᵢ·r·(dxᵢ − xᵢ·r²·Σxⱼdxⱼ/n). Not rounded.
void ReferenceForward::normalise(Estimates& x, std::size_t first, std::size_t count,
                                 const std::vector<float>& weights) const {
  const double n = static_cast<double>(count);
  double squares = 0, along = 0;  // Σx², variance of Σx·dx
  for (std::size_t i = first; i < first + count; ++i) {
    squares += squared(x.value[i]);
    along += squared(x.value[i]) * x.variance[i];
  }
  const double r2 = 1 / (squares / n + static_cast<double>(norm_epsilon)), r = std::sqrt(r2);
  for (std::size_t i = first; i < first + count; ++i) {
    const double w = static_cast<double>(weights[i - first]) * r;
    const double common = squared(x.value[i] * r2 / n) * along;
    x.variance[i] = w * w * (x.variance[i] + common);
    x.value[i] *= w;
    x.variance[i] += n * squared(precision_.sum * x.value[i]);
  }
}

// A head's rotary embedding, with the table's fp32 cosines. Not rounded.
void ReferenceForward::turn(Estimates& x, std::size_t first, std::size_t position) const {
  const auto half = static_cast<std::size_t>(shape_.head_dim / 2);
  for (std::size_t i = 0; i < half; ++i) {
    const double angle = static_cast<double>(position) *
                         std::pow(rotary_base, -static_cast<double>(i) / static_cast<double>(half));
    const auto c = static_cast<double>(static_cast<float>(std::cos(angle))),
               s = static_cast<double>(static_cast<float>(std::sin(angle)));
    double &a = x.value[first + i], &b = x.value[first + half + i];
    const double turned = a * c - b * s;
    b = b * c + a * s;
    a = turned;
    double &of_a = x.variance[first + i], &of_b = x.variance[first + half + i];
    const double mixed = of_a * c * c + of_b * s * s;
    of_b = of_b * c * c + of_a * s * s;
    of_a = mixed;
  }
}

// o = Σpⱼvⱼ: with errors of scores, do = Σpⱼ·dsⱼ·(vⱼ − o) + Σpⱼ·dvⱼ; a rounded exponential counts as one of
// its score and, where the kernel's sum has it unrounded, with vⱼ itself. Rounded.
Estimates ReferenceForward::attend(const Estimates& queries, const Cache& cache) const {
  const auto width = static_cast<std::size_t>(shape_.head_dim),
             heads = static_cast<std::size_t>(shape_.heads),
             group = heads / static_cast<std::size_t>(shape_.kv_heads), tokens = cache.keys.size();
  const double scale = 1 / std::sqrt(static_cast<double>(width));
  const double rounding = squared(precision_.attention_weight) / 3;
  Estimates out(heads * width);
  std::vector<double> score(tokens), variance(tokens);
  for (std::size_t head = 0; head < heads; ++head) {
    const std::size_t q = head * width, kv = head / group * width;
    double largest = -HUGE_VAL, sum = 0;
    for (std::size_t t = 0; t < tokens; ++t) {
      const Estimates& key = cache.keys[t];
      double dot = 0, error = 0;
      for (std::size_t i = 0; i < width; ++i) {
        dot += queries.value[q + i] * key.value[kv + i];
        error += squared(queries.value[q + i]) * key.variance[kv + i] +
                 squared(key.value[kv + i]) * queries.variance[q + i];
      }
      score[t] = dot * scale;
      variance[t] = error * scale * scale;
      largest = std::max(largest, score[t]);
    }
    for (double& each : score) sum += each = std::exp(each - largest);
    for (std::size_t i = 0; i < width; ++i) {
      double& o = out.value[q + i];
      for (std::size_t t = 0; t < tokens; ++t) o += score[t] / sum * cache.values[t].value[kv + i];
      for (std::size_t t = 0; t < tokens; ++t) {
        const double p = score[t] / sum, v = cache.values[t].value[kv + i];
        const double apart = squared(v - o);
        out.variance[q + i] +=
            p * p *
            (variance[t] * apart + rounding * std::max(apart, v * v) + cache.values[t].variance[kv + i]);
      }
      out.variance[q + i] += static_cast<double>(tokens) * squared(precision_.sum * o);
    }
  }
  round(out);
  return out;
}

// silu(g)·u, silu′ = σ·(1 + g·(1 − σ)). Rounded.
Estimates ReferenceForward::gated(const Estimates& gate_up) const {
  const std::size_t width = gate_up.size() / 2;
  Estimates out(width);
  for (std::size_t i = 0; i < width; ++i) {
    const double g = gate_up.value[i], u = gate_up.value[width + i], sigmoid = 1 / (1 + std::exp(-g));
    out.value[i] = g * sigmoid * u;
    out.variance[i] = squared(sigmoid * (1 + g * (1 - sigmoid)) * u) * gate_up.variance[i] +
                      squared(g * sigmoid) * gate_up.variance[width + i] +
                      64 * squared(precision_.sum * out.value[i]);
  }
  round(out);
  return out;
}

// residual += x, rounded; x = its norm, rounded. The first layer adds to nothing.
void ReferenceForward::add_and_norm(const std::vector<float>& weights, Estimates& x, Estimates& residual,
                                    bool first) const {
  if (first) {
    residual = x;  // x + 0 is exact
  } else {
    for (std::size_t i = 0; i < x.size(); ++i) {
      residual.value[i] += x.value[i];
      residual.variance[i] += x.variance[i];
    }
    round(residual);
  }
  x = residual;
  normalise(x, 0, x.size(), weights);
  round(x);
}

void ReferenceForward::run_layer(const Layer& layer, std::size_t position, Cache& cache, Estimates& x,
                                 Estimates& residual, bool first) const {
  const auto width = static_cast<std::size_t>(shape_.head_dim),
             q = static_cast<std::size_t>(shape_.q_width()), kv = static_cast<std::size_t>(shape_.kv_width());
  add_and_norm(layer.input_norm, x, residual, first);
  Estimates made = product(layer.qkv, x), turned = made;
  for (std::size_t at = 0; at < q + kv; at += width) {
    const std::vector<float>& weights = at < q ? layer.q_norm : layer.k_norm;
    if (!weights.empty()) normalise(turned, at, width, weights);
    turn(turned, at, position);
  }
  round(turned);  // of queries and keys; values stay as the product made them
  const auto part = [](const Estimates& from, std::size_t begin, std::size_t count) {
    Estimates out(count);
    std::copy_n(from.value.begin() + static_cast<std::ptrdiff_t>(begin), count, out.value.begin());
    std::copy_n(from.variance.begin() + static_cast<std::ptrdiff_t>(begin), count, out.variance.begin());
    return out;
  };
  cache.keys.push_back(part(turned, q, kv));
  cache.values.push_back(part(made, q + kv, kv));
  x = product(layer.o, attend(part(turned, 0, q), cache));
  add_and_norm(layer.post_norm, x, residual, false);
  x = product(layer.down, gated(product(layer.gate_up, x)));
}

std::vector<Estimates> ReferenceForward::run(const std::vector<std::int32_t>& tokens,
                                             std::size_t first) const {
  std::vector<Cache> caches(layers_.size());
  std::vector<Estimates> logits;
  for (std::size_t position = 0; position < tokens.size(); ++position) {
    Estimates x(embedding_.k), residual;
    const auto* row = embedding_.values.data() + static_cast<std::size_t>(tokens[position]) * embedding_.k;
    std::copy_n(row, embedding_.k, x.value.begin());
    for (std::size_t l = 0; l < layers_.size(); ++l) {
      run_layer(layers_[l], position, caches[l], x, residual, l == 0);
    }
    if (position < first) continue;
    add_and_norm(final_norm_, x, residual, false);
    logits.push_back(product(head_, x));
  }
  return logits;
}

}  // namespace orrery
