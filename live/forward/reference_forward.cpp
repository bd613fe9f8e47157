#include "live/forward/reference_forward.h"

#include <algorithm>
#include <cmath>

#include "kernels/reference.h"
#include "kernels/small_floats.h"
#include "live/forward/forward_check.h"

namespace orrery {

namespace {

constexpr double squared(double x) { return x * x; }

Estimates part(const Estimates& from, std::size_t begin, std::size_t count) {
  Estimates out(count);
  std::copy_n(from.value.begin() + static_cast<std::ptrdiff_t>(begin), count, out.value.begin());
  std::copy_n(from.variance.begin() + static_cast<std::ptrdiff_t>(begin), count, out.variance.begin());
  return out;
}
void put(const Estimates& from, Estimates& to, std::size_t begin) {
  std::copy(from.value.begin(), from.value.end(), to.value.begin() + static_cast<std::ptrdiff_t>(begin));
  std::copy(from.variance.begin(), from.variance.end(),
            to.variance.begin() + static_cast<std::ptrdiff_t>(begin));
}

}  // namespace

ReferenceForward::ReferenceForward(const ForwardShape& shape, const ForwardWeights& weights,
                                   kernels::DeviceMemory& memory, DevicePrecision precision)
    : ReferenceForward({Share{&shape, &weights, &memory}}, precision) {}

void ReferenceForward::round(Estimates& x) const {
  for (std::size_t i = 0; i < x.size(); ++i) {
    x.variance[i] += squared(precision_.stored) / 3 * (squared(x.value[i]) + x.variance[i]);
  }
}

// To e4m3: 4 significant bits, above a step that the group's largest magnitude sets.
void ReferenceForward::quantise(Estimates& x) const {
  constexpr std::size_t group = 128;
  const kernels::Fp8Format format = kernels::device_fp8();
  for (std::size_t first = 0; first < x.size(); first += group) {
    double largest = 0;
    for (std::size_t i = first; i < first + group; ++i) largest = std::max(largest, std::fabs(x.value[i]));
    const double least =
        largest / static_cast<double>(kernels::fp8_largest(format)) * kernels::fp8_smallest(format) / 2;
    for (std::size_t i = first; i < first + group; ++i) {
      const double off = std::max(std::fabs(x.value[i]) * kernels::fp8_rounding, least);
      x.variance[i] += off * off / 3;
    }
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
void ReferenceForward::turn(Estimates& x, std::size_t first, std::size_t width, std::size_t position) const {
  const std::size_t half = width / 2;
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
Estimates ReferenceForward::attend(const Widths& widths, const Estimates& queries, const Cache& cache) const {
  const std::size_t tokens = cache.keys.size();
  const double rounding = squared(precision_.attention_weight) / 3;
  Estimates out(widths.heads * widths.value);
  std::vector<double> score(tokens), variance(tokens);
  for (std::size_t head = 0; head < widths.heads; ++head) {
    const std::size_t q = head * widths.key, key_at = head / widths.group * widths.key,
                      o_at = head * widths.value, value_at = head / widths.group * widths.value;
    double largest = -HUGE_VAL, sum = 0;
    for (std::size_t t = 0; t < tokens; ++t) {
      const Estimates& key = cache.keys[t];
      double dot = 0, error = 0;
      for (std::size_t i = 0; i < widths.key; ++i) {
        dot += queries.value[q + i] * key.value[key_at + i];
        error += squared(queries.value[q + i]) * key.variance[key_at + i] +
                 squared(key.value[key_at + i]) * queries.variance[q + i];
      }
      score[t] = dot * widths.scale;
      variance[t] = error * squared(widths.scale);
      largest = std::max(largest, score[t]);
    }
    for (double& each : score) sum += each = std::exp(each - largest);
    for (std::size_t i = 0; i < widths.value; ++i) {
      double& o = out.value[o_at + i];
      for (std::size_t t = 0; t < tokens; ++t) o += score[t] / sum * cache.values[t].value[value_at + i];
      for (std::size_t t = 0; t < tokens; ++t) {
        const double p = score[t] / sum, v = cache.values[t].value[value_at + i];
        const double apart = squared(v - o);
        out.variance[o_at + i] += p * p *
                                  (variance[t] * apart + rounding * std::max(apart, v * v) +
                                   cache.values[t].variance[value_at + i]);
      }
      out.variance[o_at + i] += static_cast<double>(tokens) * squared(precision_.sum * o);
    }
  }
  round(out);
  return out;
}

// silu(g)·u, silu′ = σ·(1 + g·(1 − σ)). Not rounded.
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
  return out;
}

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
}

Estimates ReferenceForward::attention_of(const Layer& layer, std::size_t position, Cache& cache,
                                         const Estimates& x) const {
  const auto width = static_cast<std::size_t>(shape_.head_dim),
             q = static_cast<std::size_t>(shape_.q_width()), kv = static_cast<std::size_t>(shape_.kv_width()),
             heads = static_cast<std::size_t>(shape_.heads);
  const Estimates made = product(layer.qkv, x);
  Estimates turned = made;
  for (std::size_t at = 0; at < q + kv; at += width) {
    const std::vector<float>& weights = at < q ? layer.q_norm : layer.k_norm;
    if (!weights.empty()) normalise(turned, at, width, weights);
    turn(turned, at, width, position);
  }
  round(turned);  // of queries and keys; values stay as the product made them
  cache.keys.push_back(part(turned, q, kv));
  cache.values.push_back(part(made, q + kv, kv));
  const Widths widths{heads, heads / static_cast<std::size_t>(shape_.kv_heads), width, width,
                      1 / std::sqrt(static_cast<double>(width))};
  return attend(widths, part(turned, 0, q), cache);
}

// As the device does it, absorbed: q·(W·latent) is (Wᵀ·q)·latent.
Estimates ReferenceForward::latent_attention_of(const Layer& layer, std::size_t position, Cache& cache,
                                                const Estimates& x) const {
  constexpr auto latent = static_cast<std::size_t>(kernels::latent_width),
                 rotary = static_cast<std::size_t>(kernels::latent_rotary), key = latent + rotary;
  const auto heads = static_cast<std::size_t>(shape_.heads),
             plain = static_cast<std::size_t>(shape_.latent_plain);
  Estimates queries = product(layer.q, x), stored = product(layer.kv_a, x), absorbed(heads * key);
  normalise(stored, 0, latent, layer.latent_norm);
  turn(stored, latent, rotary, position);
  round(stored);
  cache.keys.push_back(stored);
  cache.values.push_back(part(stored, 0, latent));
  for (std::size_t head = 0; head < heads; ++head) {
    const std::size_t at = head * (plain + rotary);
    put(product(layer.into_latent[head], part(queries, at, plain)), absorbed, head * key);
    Estimates turned = part(queries, at + plain, rotary);
    turn(turned, 0, rotary, position);
    round(turned);
    put(turned, absorbed, head * key + latent);
  }
  const Widths widths{heads, heads, key, latent, 1 / std::sqrt(static_cast<double>(plain + rotary))};
  const Estimates got = attend(widths, absorbed, cache);
  const auto value = static_cast<std::size_t>(shape_.latent_value);
  Estimates out(heads * value);
  for (std::size_t head = 0; head < heads; ++head)
    put(product(layer.out_of_latent[head], part(got, head * latent, latent)), out, head * value);
  return out;
}

// The device's experts, where the reference's logits say so or cannot say otherwise.
std::vector<std::size_t> ReferenceForward::choose(const Estimates& logits,
                                                  const std::vector<std::int32_t>& device) {
  std::vector<std::size_t> chosen(device.begin(), device.end());
  std::vector<bool> taken(logits.size());
  for (const std::size_t expert : chosen) {
    if (expert >= logits.size() || taken[expert]) {
      ++wrong_choices_;
      return {};
    }
    taken[expert] = true;
  }
  if (given_choices_) return chosen;
  for (const std::size_t expert : chosen) {
    for (std::size_t other = 0; other < logits.size(); ++other) {
      if (taken[other]) continue;
      const double lead = logits.value[other] - logits.value[expert];
      if (lead > bound_deviations * std::sqrt(logits.variance[other] + logits.variance[expert]))
        ++wrong_choices_;
    }
  }
  return chosen;
}

Estimates ReferenceForward::mlp(const Matrix& gate_up, const Matrix& down, const Estimates& x) const {
  Estimates inner = gated(product(gate_up, x));
  store_for(down, inner);
  return summed(down, inner);
}

// Σ wⱼ·yⱼ with w a softmax over the chosen: dwⱼ = wⱼ·(dlⱼ − Σ wᵢ·dlᵢ), so Σ dwⱼ·yⱼ = Σ wⱼ·dlⱼ·(yⱼ − out).
Estimates ReferenceForward::mixed(const Layer& layer, const Estimates& x,
                                  const std::vector<std::int32_t>& device) {
  const Estimates logits = product(layer.router, x);
  const std::vector<std::size_t> chosen = choose(logits, device);
  Estimates out(static_cast<std::size_t>(shape_.hidden)), read = x;
  if (layer.gate_up.front().fp8) quantise(read);
  double largest = -HUGE_VAL, sum = 0;
  for (const std::size_t expert : chosen) largest = std::max(largest, logits.value[expert]);
  for (const std::size_t expert : chosen) sum += std::exp(logits.value[expert] - largest);
  std::vector<Estimates> given;
  std::vector<double> weight;
  std::vector<std::vector<double>> of_rank;  // what each adds up, before the sum over ranks
  for (const std::size_t expert : chosen) {
    Estimates inner = gated(product(layer.gate_up[expert], read));
    round(inner);
    if (layer.down[expert].fp8) quantise(inner);
    std::vector<std::vector<double>> parts;
    if (shape_.shares_experts) {  // one rank's, whole
      given.push_back(product(layer.down[expert], inner));
      parts.assign(static_cast<std::size_t>(shape_.ranks), std::vector<double>(out.size()));
      parts[expert / static_cast<std::size_t>(shape_.own_experts())] = given.back().value;
    } else {
      given.push_back(summed(layer.down[expert], inner, &parts));
    }
    weight.push_back(std::exp(logits.value[expert] - largest) / sum);
    of_rank.resize(parts.size(), std::vector<double>(out.size()));
    for (std::size_t r = 0; r < parts.size(); ++r)
      for (std::size_t i = 0; i < out.size(); ++i) of_rank[r][i] += weight.back() * parts[r][i];
    for (std::size_t i = 0; i < out.size(); ++i) out.value[i] += weight.back() * given.back().value[i];
  }
  for (std::size_t j = 0; j < chosen.size(); ++j) {
    for (std::size_t i = 0; i < out.size(); ++i) {
      out.variance[i] +=
          squared(weight[j]) *
          (given[j].variance[i] + logits.variance[chosen[j]] * squared(given[j].value[i] - out.value[i]));
    }
  }
  round_parts(of_rank, out);
  round(out);
  if (layer.shared_down.n == 0) return out;
  const Estimates shared = mlp(layer.shared_gate_up, layer.shared_down, x);
  for (std::size_t i = 0; i < out.size(); ++i) {
    out.value[i] += shared.value[i];
    out.variance[i] += shared.variance[i];
  }
  round(out);
  return out;
}

std::vector<Estimates> ReferenceForward::run(const std::vector<std::int32_t>& tokens,
                                             const std::vector<ChosenExperts>& chosen) {
  std::vector<Cache> caches(layers_.size());
  std::vector<Estimates> logits;
  for (std::size_t position = 0; position < tokens.size(); ++position) {
    Estimates x(embedding_.k), residual;
    const auto* row = embedding_.values.data() + static_cast<std::size_t>(tokens[position]) * embedding_.k;
    std::copy_n(row, embedding_.k, x.value.begin());
    for (std::size_t l = 0; l < layers_.size(); ++l) {
      const Layer& layer = layers_[l];
      add_and_norm(layer.input_norm, x, residual, l == 0);
      store_for(layer.qkv, x);
      x = shape_.latent() ? latent_attention_of(layer, position, caches[l], x)
                          : attention_of(layer, position, caches[l], x);
      if (layer.o.fp8) quantise(x);
      x = summed(layer.o, x);
      add_and_norm(layer.post_norm, x, residual, false);
      if (layer.router.n > 0) {
        round(x);
        x = mixed(layer, x, chosen[position][l]);
        continue;
      }
      store_for(layer.gate_up.front(), x);
      x = mlp(layer.gate_up.front(), layer.down.front(), x);
    }
    add_and_norm(final_norm_, x, residual, false);
    round(x);
    logits.push_back(product(head_, x));
  }
  return logits;
}

}  // namespace orrery
