#include "base/random.h"

#include <cmath>

#include "base/check.h"
#include "base/det_math.h"

namespace orrery {

namespace {

constexpr std::uint32_t multiplier_0 = 0xD2511F53u, multiplier_1 = 0xCD9E8D57u;
constexpr std::uint32_t weyl_0 = 0x9E3779B9u, weyl_1 = 0xBB67AE85u;

constexpr std::uint32_t high(std::uint64_t x) { return static_cast<std::uint32_t>(x >> 32); }
constexpr std::uint32_t low(std::uint64_t x) { return static_cast<std::uint32_t>(x); }

}  // namespace

std::array<std::uint32_t, 4> philox4x32_10(std::array<std::uint32_t, 4> c, std::array<std::uint32_t, 2> k) {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = std::uint64_t{multiplier_0} * c[0], p1 = std::uint64_t{multiplier_1} * c[2];
    c = {high(p1) ^ c[1] ^ k[0], low(p1), high(p0) ^ c[3] ^ k[1], low(p0)};
    k[0] += weyl_0;
    k[1] += weyl_1;
  }
  return c;
}

RandomStream::RandomStream(std::uint64_t seed, RandomPurpose purpose, std::uint64_t entity)
    : seed_(seed), entity_(entity), purpose_(static_cast<std::uint32_t>(purpose)) {}

// Counter: (draw block, purpose, entity); key: seed. Two 64-bit values a block.
std::uint64_t RandomStream::bits() {
  if (left_ == 0) {
    ORRERY_CHECK(draw_ >> 32 == 0, "a random stream is used up: its 2^33 values would repeat");
    block_ = philox4x32_10({static_cast<std::uint32_t>(draw_), purpose_, low(entity_), high(entity_)},
                           {low(seed_), high(seed_)});
    ++draw_;
    left_ = 2;
  }
  --left_;
  const auto i = static_cast<std::size_t>(left_ == 1 ? 0 : 2);
  return (std::uint64_t{block_[i]} << 32) | block_[i + 1];
}

double RandomStream::uniform() { return static_cast<double>(bits() >> 11) * 0x1.0p-53; }
double RandomStream::uniform_open() { return (static_cast<double>(bits() >> 11) + 1.0) * 0x1.0p-53; }

// Lemire 2019: multiply and reject the few values that would bias.
std::uint64_t RandomStream::below(std::uint64_t n) {
  ORRERY_CHECK(n >= 1, "a draw below zero has no value");
  __extension__ using Wide = unsigned __int128;
  const std::uint64_t threshold = (0 - n) % n;
  for (;;) {
    const Wide product = static_cast<Wide>(bits()) * n;
    if (static_cast<std::uint64_t>(product) >= threshold) return static_cast<std::uint64_t>(product >> 64);
  }
}

double RandomStream::exponential(double mean) { return -mean * det_log(uniform_open()); }

double RandomStream::normal() {
  const double radius = std::sqrt(-2.0 * det_log(uniform_open()));
  return radius * det_cos_turn(uniform());
}

double RandomStream::log_normal(double mu, double sigma) { return det_exp(mu + sigma * normal()); }

double RandomStream::gamma(double shape, double scale) {
  if (shape < 1.0) {  // boost: G(a) = G(a + 1)·U^(1/a)
    const double u = uniform_open();
    return gamma(shape + 1.0, scale) * det_pow(u, 1.0 / shape);
  }
  const double d = shape - 1.0 / 3.0, c = 1.0 / std::sqrt(9.0 * d);
  for (;;) {
    const double x = normal(), v = 1.0 + c * x;
    const double u = uniform_open();
    if (v <= 0) continue;
    const double cube = v * v * v;
    if (det_log(u) < 0.5 * x * x + d - d * cube + d * det_log(cube)) return d * cube * scale;
  }
}

}  // namespace orrery
