#include "base/det_math.h"

#include <bit>
#include <cmath>
#include <limits>

#include "base/digest.h"
#include "base/random.h"
#include "catch.h"
#include "support.h"

using namespace orrery;
using namespace orrery::test;

namespace {

static_assert(std::numeric_limits<long double>::digits >= 64, "the references need more bits than a double");

constexpr double infinity = std::numeric_limits<double>::infinity();

// Distance from the true value in units of the last place of the nearest double.
double ulps(double got, long double truth) {
  const double nearest = static_cast<double>(truth);
  if (got == nearest) return 0;
  if (!std::isfinite(got) || !std::isfinite(nearest)) return infinity;
  const double unit = std::nextafter(std::fabs(nearest), infinity) - std::fabs(nearest);
  return static_cast<double>(std::fabs(static_cast<long double>(got) - truth) / unit);
}

template <class Input, class Function, class Reference>
void check_within_two_ulp(const char* what, Input input, Function function, Reference reference) {
  double worst = 0, at = 0;
  for (int i = 0; i < 100'000; ++i) {
    const double x = input();
    const double distance = ulps(function(x), reference(static_cast<long double>(x)));
    if (distance > worst) {
      worst = distance;
      at = x;
    }
  }
  INFO(what << ": worst at " << at);
  CHECK(worst <= 2.0);
}

RandomStream& draws() {
  static RandomStream stream(99, RandomPurpose::property_test);
  return stream;
}
auto between(double low, double high) {
  return [=] { return low + (high - low) * draws().uniform(); };
}
auto power_of_two_between(double low, double high) {  // exponents evenly, so that every size is seen
  return [=] { return std::exp2(low + (high - low) * draws().uniform()); };
}
auto negated(double low, double high) {
  return [=] { return -std::exp2(low + (high - low) * draws().uniform()); };
}

const auto ln = [](long double x) { return std::log(x); };
const auto e_to = [](long double x) { return std::exp(x); };
const auto ln_plus = [](long double x) { return std::log1p(x); };
const auto e_minus = [](long double x) { return std::expm1(x); };

// sin or cos of 2πu in long double, the argument reduced exactly: near a zero the reference would be worse
// than what it checks.
long double turn(double u, int shift) {
  const int quarter = static_cast<int>(4 * u + 0.5);
  const long double x = 6.283185307179586476925286766559L * (static_cast<long double>(u) - 0.25L * quarter);
  switch ((quarter + shift) & 3) {
    case 0: return std::sin(x);
    case 1: return std::cos(x);
    case 2: return -std::sin(x);
    default: return -std::cos(x);
  }
}

}  // namespace

TEST_CASE("logarithm within 2 ulp") {
  check_within_two_ulp("normal range", power_of_two_between(-1022, 1023.99), det_log, ln);
  check_within_two_ulp("around 1", between(0.5, 2), det_log, ln);
  check_within_two_ulp(
      "next to 1", [] { return 1 + (draws().uniform() - 0.5) * 1e-7; }, det_log, ln);
  check_within_two_ulp("subnormal", power_of_two_between(-1073, -1022), det_log, ln);
}

TEST_CASE("exponential within 2 ulp") {
  check_within_two_ulp("normal range", between(-708, 709.78), det_exp, e_to);
  check_within_two_ulp("around 0", between(-1, 1), det_exp, e_to);
  check_within_two_ulp("subnormal results", between(-744, -708), det_exp, e_to);
}

TEST_CASE("log1p and expm1 within 2 ulp, also where the naive forms cancel") {
  check_within_two_ulp("log1p small", power_of_two_between(-80, 0), det_log1p, ln_plus);
  check_within_two_ulp("log1p small, negative", negated(-80, -0.001), det_log1p, ln_plus);
  check_within_two_ulp("log1p large", power_of_two_between(0, 1023), det_log1p, ln_plus);
  check_within_two_ulp("expm1 small", power_of_two_between(-80, 0), det_expm1, e_minus);
  check_within_two_ulp("expm1 small, negative", negated(-80, 0), det_expm1, e_minus);
  check_within_two_ulp("expm1 large", between(1, 709.7), det_expm1, e_minus);
  check_within_two_ulp("expm1 large, negative", between(-60, -1), det_expm1, e_minus);
}

TEST_CASE("power within 2 ulp up to the ends of the range") {
  for (const double size : {0.01, 1.0, 10.0, 100.0, 708.0}) {
    double worst = 0;
    for (int i = 0; i < 100'000; ++i) {
      const double x = std::exp2(-30 + 60 * draws().uniform());
      const double y = size * (2 * draws().uniform() - 1) / std::fabs(std::log(x));
      worst = std::fmax(worst, ulps(det_pow(x, y), std::pow(static_cast<long double>(x), y)));
    }
    INFO("|y·log x| up to " << size);
    CHECK(worst <= 2.0);
  }
}

TEST_CASE("sine and cosine of turns within 2 ulp, also next to their zeros") {
  const auto sine = [](long double u) { return turn(static_cast<double>(u), 0); };
  const auto cosine = [](long double u) { return turn(static_cast<double>(u), 1); };
  check_within_two_ulp("cos", between(0, 1), det_cos_turn, cosine);
  check_within_two_ulp("sin", between(0, 1), det_sin_turn, sine);
  for (const double zero : {0.25, 0.5, 0.75}) {
    const auto near = [=] { return zero + (draws().uniform() - 0.5) * 1e-9; };
    check_within_two_ulp("cos near a quarter", near, det_cos_turn, cosine);
    check_within_two_ulp("sin near a quarter", near, det_sin_turn, sine);
  }
}

TEST_CASE("exact values and the ends of the ranges") {
  CHECK(det_log(1) == 0);
  CHECK(det_log(infinity) == infinity);
  CHECK(det_exp(0) == 1);
  CHECK(det_exp(-746) == 0);
  CHECK(det_exp(-infinity) == 0);
  CHECK(det_exp(709.79) == infinity);
  CHECK(det_exp(infinity) == infinity);
  CHECK(det_log1p(0) == 0);
  CHECK(det_log1p(infinity) == infinity);
  CHECK(det_expm1(0) == 0);
  CHECK(det_expm1(-infinity) == -1);
  CHECK(det_expm1(infinity) == infinity);
  CHECK(det_pow(0, 2) == 0);
  CHECK(det_pow(0, -1) == infinity);
  CHECK(det_pow(0, 0) == 1);
  CHECK(det_pow(7, 0) == 1);
  CHECK(det_pow(1, 1e300) == 1);
  CHECK(det_pow(infinity, -1) == 0);
  CHECK(det_pow(2, 1e300) == infinity);
  CHECK(det_pow(2, -1e300) == 0);
  CHECK(det_cos_turn(0) == 1);
  CHECK(det_cos_turn(0.25) == 0);
  CHECK(det_cos_turn(0.5) == -1);
  CHECK(det_sin_turn(0.25) == 1);
  CHECK(det_sin_turn(0.5) == 0);
  CHECK(det_sin_turn(1) == 0);
  for (const double whole : {2.0, 3.0, 10.0}) CHECK(det_pow(whole, 3) == whole * whole * whole);
}

TEST_CASE("arguments outside the domain abort instead of giving NaN") {
  CHECK(aborts([] { (void)det_log(0); }));
  CHECK(aborts([] { (void)det_log(-1); }));
  CHECK(aborts([] { (void)det_log(std::nan("")); }));
  CHECK(aborts([] { (void)det_exp(std::nan("")); }));
  CHECK(aborts([] { (void)det_expm1(std::nan("")); }));
  CHECK(aborts([] { (void)det_log1p(-1); }));
  CHECK(aborts([] { (void)det_pow(-1, 2); }));
  CHECK(aborts([] { (void)det_pow(2, std::nan("")); }));
}

// A change of any last bit shows here: on another compiler, with fused multiply-add, or after an edit.
TEST_CASE("values are bit-exact") {
  CHECK(std::bit_cast<std::uint64_t>(det_log(10)) == 0x40026bb1bbb55516);
  CHECK(std::bit_cast<std::uint64_t>(det_exp(1)) == 0x4005bf0a8b14576a);
  CHECK(std::bit_cast<std::uint64_t>(det_pow(10, -0.3)) == 0x3fe009b9cf334252);
  CHECK(std::bit_cast<std::uint64_t>(det_log1p(0.1)) == 0x3fb8663f793c46c7);
  CHECK(std::bit_cast<std::uint64_t>(det_expm1(0.1)) == 0x3fbaec7b35a00d3a);
  CHECK(std::bit_cast<std::uint64_t>(det_cos_turn(0.1)) == 0x3fe9e3779b97f4a8);
  CHECK(std::bit_cast<std::uint64_t>(det_sin_turn(0.1)) == 0x3fe2cf2304755a5e);
  RandomStream stream(1, RandomPurpose::property_test);
  Digest digest;
  const auto add = [&](double v) { digest.add(std::bit_cast<std::uint64_t>(v)); };
  for (int i = 0; i < 20'000; ++i) {
    const double u = stream.uniform_open(), v = stream.uniform();
    add(det_log(u * 1e6));
    add(det_exp(1400 * v - 700));
    add(det_pow(50 * u, 40 * v - 20));
    add(det_log1p(v - 0.5));
    add(det_expm1(4 * v - 2));
    add(det_cos_turn(v));
    add(det_sin_turn(v));
  }
  CHECK(digest_text(digest.value()) == "714dfeda39e16c8b");
}
