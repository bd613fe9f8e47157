// Polynomial kernels after Sun's fdlibm (e_log.c, e_exp.c, k_sin.c, k_cos.c; freely usable), written here with
// bit operations on the exponent and with every operation in a fixed order.
#include "base/det_math.h"

#include <bit>
#include <cstdint>
#include <limits>

#include "base/check.h"

namespace orrery {

namespace {

constexpr double ln2_high = 6.93147180369123816490e-01, ln2_low = 1.90821492927058770002e-10;
constexpr double two_pi = 6.28318530717958647692;

double scale_by_power_of_two(double x, int k) {
  const auto power = [](int e) { return std::bit_cast<double>(static_cast<std::uint64_t>(e + 1023) << 52); };
  if (k > 1023) return x * power(1023) * power(k - 1023);
  if (k < -1022) return x * power(-1022) * power(k + 1022 < -1022 ? -1022 : k + 1022);
  return x * power(k);
}

double sine_kernel(double x) {  // |x| ≤ π/4
  constexpr double s1 = -1.66666666666666324348e-01, s2 = 8.33333333332248946124e-03, s3 = -1.98412698298579493134e-04,
                   s4 = 2.75573137070700676789e-06, s5 = -2.50507602534068634195e-08, s6 = 1.58969099521155010221e-10;
  const double z = x * x;
  return x + x * z * (s1 + z * (s2 + z * (s3 + z * (s4 + z * (s5 + z * s6)))));
}

double cosine_kernel(double x) {  // |x| ≤ π/4
  constexpr double c1 = 4.16666666666666019037e-02, c2 = -1.38888888888741095749e-03, c3 = 2.48015872894767294178e-05,
                   c4 = -2.75573143513906633035e-07, c5 = 2.08757232129817482790e-09, c6 = -1.13596475577881948265e-11;
  const double z = x * x, half = 0.5 * z, w = 1.0 - half;
  return w + (((1.0 - w) - half) + z * z * (c1 + z * (c2 + z * (c3 + z * (c4 + z * (c5 + z * c6))))));
}

}  // namespace

double det_log(double x) {
  ORRERY_CHECK(x > 0, "logarithm of a number that is not positive");
  constexpr double l1 = 6.666666666666735130e-01, l2 = 3.999999999940941908e-01, l3 = 2.857142874366239149e-01,
                   l4 = 2.222219843214978396e-01, l5 = 1.818357216161805012e-01, l6 = 1.531383769920937332e-01,
                   l7 = 1.479819860511658591e-01;
  int exponent = 0;
  if (x < std::numeric_limits<double>::min()) {  // subnormal
    x *= 0x1.0p54;
    exponent = -54;
  }
  auto bits = std::bit_cast<std::uint64_t>(x);
  exponent += static_cast<int>(bits >> 52) - 1023;
  if (exponent >= 1024 - 0) return x;  // infinity
  bits = (bits & 0x000FFFFFFFFFFFFFull) | 0x3FF0000000000000ull;
  double m = std::bit_cast<double>(bits);
  if (m > 1.41421356237309504880) {
    m *= 0.5;
    ++exponent;
  }
  const double f = m - 1.0, s = f / (2.0 + f), z = s * s, w = z * z, k = exponent;
  const double r = w * (l2 + w * (l4 + w * l6)) + z * (l1 + w * (l3 + w * (l5 + w * l7)));
  const double half_square = 0.5 * f * f;
  return k * ln2_high - ((half_square - (s * (half_square + r) + k * ln2_low)) - f);
}

double det_exp(double x) {
  if (x > 709.782712893383973096) return std::numeric_limits<double>::infinity();
  if (x < -745.13321910194110842) return 0.0;
  constexpr double p1 = 1.66666666666666019037e-01, p2 = -2.77777777770155933842e-03, p3 = 6.61375632143793436117e-05,
                   p4 = -1.65339022054652515390e-06, p5 = 4.13813679705723846039e-08;
  const double scaled = x * 1.44269504088896338700;
  const int k = static_cast<int>(scaled + (scaled < 0 ? -0.5 : 0.5));
  const double high = x - k * ln2_high, low = k * ln2_low, r = high - low, t = r * r;
  const double c = r - t * (p1 + t * (p2 + t * (p3 + t * (p4 + t * p5))));
  const double y = 1.0 - ((low - (r * c) / (2.0 - c)) - high);
  return scale_by_power_of_two(y, k);
}

double det_pow(double x, double y) {
  ORRERY_CHECK(x >= 0, "power of a negative number");
  if (y == 0) return 1.0;
  if (x == 0) return y > 0 ? 0.0 : std::numeric_limits<double>::infinity();
  return det_exp(y * det_log(x));
}

// Kahan: the rounding of 1 + x cancels in log(u)·x/(u − 1).
double det_log1p(double x) {
  ORRERY_CHECK(x > -1, "log1p below −1");
  const double u = 1.0 + x;
  return u == 1.0 ? x : det_log(u) * (x / (u - 1.0));
}

double det_expm1(double x) {
  const double u = det_exp(x);
  if (u == 1.0) return x;
  const double v = u - 1.0;
  if (v == -1.0 || u > 1e300 || u == 0) return v;
  return v * (x / det_log(u));
}

double det_cos_turn(double u) {
  const int quarter = static_cast<int>(4.0 * u + 0.5);
  const double x = (u - 0.25 * quarter) * two_pi;
  switch (quarter & 3) {
    case 0: return cosine_kernel(x);
    case 1: return -sine_kernel(x);
    case 2: return -cosine_kernel(x);
    default: return sine_kernel(x);
  }
}

double det_sin_turn(double u) {
  const int quarter = static_cast<int>(4.0 * u + 0.5);
  const double x = (u - 0.25 * quarter) * two_pi;
  switch (quarter & 3) {
    case 0: return sine_kernel(x);
    case 1: return cosine_kernel(x);
    case 2: return -sine_kernel(x);
    default: return -cosine_kernel(x);
  }
}

}  // namespace orrery
