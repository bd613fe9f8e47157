#include "base/random.h"

#include <bit>
#include <cmath>
#include <cstdlib>
#include <vector>

#include "base/det_math.h"
#include "base/digest.h"
#include "catch.h"
#include "support.h"

using namespace orrery;
using namespace orrery::test;

namespace {

using Block = std::array<std::uint32_t, 4>;

struct Moments {
  double mean = 0, variance = 0, skewness = 0;
};

template <class Draw>
Moments moments(int n, Draw draw) {
  std::vector<double> values(static_cast<std::size_t>(n));
  Moments m;
  for (double& v : values) m.mean += v = draw();
  m.mean /= n;
  double cubes = 0;
  for (const double v : values) {
    m.variance += (v - m.mean) * (v - m.mean);
    cubes += (v - m.mean) * (v - m.mean) * (v - m.mean);
  }
  m.variance /= n;
  m.skewness = cubes / n / std::pow(m.variance, 1.5);
  return m;
}

constexpr int draws = 200'000;

RandomStream stream(std::uint64_t seed, std::uint64_t entity = 0) {
  return RandomStream(seed, RandomPurpose::property_test, entity);
}

}  // namespace

// Random123 1.14, tests/kat_vectors: "philox4x32 10".
TEST_CASE("Philox gives the published vectors") {
  CHECK(philox4x32_10({0, 0, 0, 0}, {0, 0}) == Block{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  const std::uint32_t f = 0xffffffff;
  CHECK(philox4x32_10({f, f, f, f}, {f, f}) == Block{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
  CHECK(philox4x32_10({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}) ==
        Block{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
}

TEST_CASE("a value is a function of seed, purpose, entity and draw alone") {
  const std::uint64_t seed = 0x0123456789abcdef, entity = 0xfedcba9876543210;
  RandomStream s(seed, RandomPurpose::session, entity);
  for (std::uint32_t block = 0; block < 3; ++block) {
    const Block expected = philox4x32_10({block, 4, 0x76543210, 0xfedcba98}, {0x89abcdef, 0x01234567});
    CHECK(s.bits() == (std::uint64_t{expected[0]} << 32 | expected[1]));
    CHECK(s.bits() == (std::uint64_t{expected[2]} << 32 | expected[3]));
  }
}

TEST_CASE("no distribution keeps a value back for the next call") {
  RandomStream plain = stream(3), mixed = stream(3);
  std::vector<std::uint64_t> values;
  for (int i = 0; i < 8; ++i) values.push_back(plain.bits());
  (void)mixed.normal();  // two values
  CHECK(mixed.bits() == values[2]);
  (void)mixed.exponential(1);  // one
  (void)mixed.log_normal(0, 1);
  CHECK(mixed.bits() == values[6]);
}

TEST_CASE("drawing from one stream changes no other") {
  RandomStream alone = stream(5, 1);
  std::vector<std::uint64_t> expected;
  for (int i = 0; i < 100; ++i) expected.push_back(alone.bits());
  RandomStream watched = stream(5, 1), noise = stream(5, 2), other(5, RandomPurpose::arrivals, 1);
  for (int i = 0; i < 100; ++i) {
    for (int k = 0; k < i % 7; ++k) (void)noise.gamma(0.5, 1);
    (void)other.bits();
    REQUIRE(watched.bits() == expected[static_cast<std::size_t>(i)]);
  }
}

TEST_CASE("neighbouring streams are not correlated") {
  // Of 20,000 pairs of independent uniforms the correlation is below 0.035 with probability 1 − 7e-7.
  const auto correlation = [](RandomStream a, RandomStream b) {
    double sum = 0;
    for (int i = 0; i < 20'000; ++i) sum += (a.uniform() - 0.5) * (b.uniform() - 0.5);
    return sum / 20'000 * 12;
  };
  for (std::uint64_t k = 0; k < 20; ++k) {
    CHECK(std::fabs(correlation(stream(k), stream(k + 1))) < 0.035);
    CHECK(std::fabs(correlation(stream(1, k), stream(1, k + 1))) < 0.035);
    CHECK(std::fabs(correlation(stream(k), RandomStream(k, RandomPurpose::client))) < 0.035);
    RandomStream lagged = stream(k);
    (void)lagged.bits();
    CHECK(std::fabs(correlation(stream(k), lagged)) < 0.035);
  }
}

// Tolerances below are five standard errors of the estimator: 5·σ/√n for a mean, about
// 5·σ²·√((kurtosis − 1)/n) for a variance.
TEST_CASE("uniform values fill [0, 1) evenly") {
  RandomStream s = stream(11);
  const Moments m = moments(draws, [&] { return s.uniform(); });
  CHECK(std::fabs(m.mean - 0.5) < 0.0033);
  CHECK(std::fabs(m.variance - 1.0 / 12) < 0.0009);
  RandomStream low = stream(12), high = stream(12);
  for (int i = 0; i < 1000; ++i) {
    const double a = low.uniform(), b = high.uniform_open();
    REQUIRE(a >= 0);
    REQUIRE(a < 1);
    REQUIRE(b > 0);
    REQUIRE(b <= 1);
    REQUIRE(b - a == 0x1.0p-53);  // the same draw, the interval closed on the other side
  }
}

TEST_CASE("below(n) gives every value its share") {
  RandomStream s = stream(13);
  std::array<int, 6> counts{};
  for (int i = 0; i < 60'000; ++i) ++counts[s.below(6)];
  double chi = 0;
  for (const int c : counts) chi += (c - 10'000.0) * (c - 10'000.0) / 10'000.0;
  CHECK(chi < 30.9);  // 5 degrees of freedom: 1 in 100,000
  CHECK(s.below(1) == 0);
  // 3·2^62: four 64-bit inputs make three values, so without rejection every third would come twice as often.
  const std::uint64_t n = 3ull << 62;
  std::array<int, 3> residues{};
  for (int i = 0; i < 30'000; ++i) {
    const std::uint64_t v = s.below(n);
    REQUIRE(v < n);
    ++residues[v % 3];
  }
  for (const int count : residues) CHECK(std::abs(count - 10'000) < 5 * 82);  // five standard deviations
  CHECK(aborts([] { (void)stream(1).below(0); }));
}

TEST_CASE("exponential, normal and log-normal have their moments") {
  RandomStream s = stream(17);
  const Moments e = moments(draws, [&] { return s.exponential(2.5); });
  CHECK(std::fabs(e.mean - 2.5) < 5 * 2.5 / 447);
  CHECK(std::fabs(e.variance - 6.25) < 5 * 6.25 * std::sqrt(8.0) / 447);
  CHECK(std::fabs(e.skewness - 2) < 0.2);
  const Moments n = moments(draws, [&] { return s.normal(); });
  CHECK(std::fabs(n.mean) < 5.0 / 447);
  CHECK(std::fabs(n.variance - 1) < 5 * std::sqrt(2.0) / 447);
  CHECK(std::fabs(n.skewness) < 5 * std::sqrt(6.0) / 447);
  const double sigma = 0.5, mean = std::exp(1 + sigma * sigma / 2);
  const Moments l = moments(draws, [&] { return s.log_normal(1, sigma); });
  CHECK(std::fabs(l.mean - mean) < 5 * mean * std::sqrt(std::exp(sigma * sigma) - 1) / 447);
}

TEST_CASE("normal values have the right share beyond one, two and three deviations") {
  RandomStream s = stream(19);
  std::array<int, 4> beyond{};
  for (int i = 0; i < draws; ++i) {
    const double x = std::fabs(s.normal());
    for (std::size_t k = 1; k < 4; ++k) beyond[k] += x > static_cast<double>(k);
  }
  const double expected[] = {1, 0.317310508, 0.045500264, 0.002699796};
  for (std::size_t k = 1; k < 4; ++k) {
    const double p = expected[k];
    CHECK(std::fabs(beyond[k] - p * draws) < 5 * std::sqrt(p * (1 - p) * draws));
  }
}

TEST_CASE("gamma has its moments on both sides of shape 1") {
  for (const double shape : {0.1, 0.5, 0.99, 1.0, 2.5, 40.0}) {
    RandomStream s = stream(23, static_cast<std::uint64_t>(shape * 100));
    const double scale = 3;
    const Moments g = moments(draws, [&] { return s.gamma(shape, scale); });
    INFO("shape " << shape);
    CHECK(std::fabs(g.mean - shape * scale) < 5 * std::sqrt(shape) * scale / 447);
    // kurtosis of a gamma: 3 + 6/shape
    const double variance = shape * scale * scale;
    CHECK(std::fabs(g.variance - variance) < 5 * variance * std::sqrt((2 + 6 / shape) / draws));
  }
}

TEST_CASE("the distributions are bit-exact on every machine and compiler") {
  RandomStream s(2024, RandomPurpose::property_test, 7);
  Digest digest;
  const auto add = [&](double v) { digest.add(std::bit_cast<std::uint64_t>(v)); };
  for (int i = 0; i < 2000; ++i) {
    add(s.uniform());
    add(s.exponential(1.5));
    add(s.normal());
    add(s.log_normal(5, 1.2));
    add(s.gamma(0.3, 2));
    add(s.gamma(4, 0.5));
    digest.add(s.below(1000));
  }
  CHECK(digest_text(digest.value()) == "b827606e2a73ea77");
}
