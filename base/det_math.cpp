// Polynomial kernels after Sun's fdlibm (e_log.c, e_exp.c, k_sin.c, k_cos.c; freely usable), written here
// with bit operations on the exponent and with every operation in a fixed order.
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

// x = k·ln 2 + r; e^r = 1 − (below − high), with r split so that no bit of it is lost.
struct ReducedExp {
  int k = 0;
  double high = 0, below = 0;
};

ReducedExp reduce_exp(double x) {
  constexpr double p1 = 1.66666666666666019037e-01, p2 = -2.77777777770155933842e-03,
                   p3 = 6.61375632143793436117e-05, p4 = -1.65339022054652515390e-06,
                   p5 = 4.13813679705723846039e-08;
  const double scaled = x * 1.44269504088896338700;
  const int k = static_cast<int>(scaled + (scaled < 0 ? -0.5 : 0.5));
  const double high = x - k * ln2_high, low = k * ln2_low, r = high - low, t = r * r;
  const double c = r - t * (p1 + t * (p2 + t * (p3 + t * (p4 + t * p5))));
  return {k, high, low - (r * c) / (2.0 - c)};
}

// An unevaluated sum of two doubles (Dekker 1971): about 106 bits.
struct Pair {
  double high = 0, low = 0;
};

Pair exact_sum(double a, double b) {
  const double sum = a + b, part = sum - a;
  return {sum, (a - (sum - part)) + (b - part)};
}

Pair exact_product(double a, double b) {  // Veltkamp's split; without fused multiply-add (rule D6)
  constexpr double split = 134217729.0;   // 2^27 + 1
  const double ca = split * a, a_high = ca - (ca - a), a_low = a - a_high;
  const double cb = split * b, b_high = cb - (cb - b), b_low = b - b_high;
  const double product = a * b;
  return {product, ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low};
}

struct Split {
  double mantissa = 0;  // in (√½, √2]
  int exponent = 0;
};

Split split_exponent(double x) {  // x positive and finite
  int exponent = 0;
  if (x < std::numeric_limits<double>::min()) {  // subnormal
    x *= 0x1.0p54;
    exponent = -54;
  }
  const auto bits = std::bit_cast<std::uint64_t>(x);
  exponent += static_cast<int>(bits >> 52) - 1023;
  const auto mantissa = std::bit_cast<double>((bits & 0x000FFFFFFFFFFFFFull) | 0x3FF0000000000000ull);
  if (mantissa > 1.41421356237309504880) return {mantissa * 0.5, exponent + 1};
  return {mantissa, exponent};
}

// log x to about 2^-64 of itself, for det_pow: an exponent of 700 costs ten bits. With s = f/(2 + f),
// log(1 + f) = 2s + s³·2/3 + s⁵·2/5 + …; the first two terms as pairs, the rest is below 2^-12 of them.
Pair log_pair(double x) {
  const Split parts = split_exponent(x);
  const double f = parts.mantissa - 1.0, k = parts.exponent;
  const Pair divisor = exact_sum(2.0, f);
  const double s = f / divisor.high;
  const Pair back = exact_product(s, divisor.high);
  const double s_low = (((f - back.high) - back.low) - s * divisor.low) / divisor.high;
  const Pair z = exact_product(s, s);
  double tail = 2.0 / 27.0;  // Horner over 2/(2n + 1), n = 12 … 2; z ≤ 0.0295, so z^13 < 2^-66
  for (int n = 12; n >= 2; --n) tail = 2.0 / (2 * n + 1) + z.high * tail;
  const Pair cube = exact_product(z.high, s);
  constexpr double third_high = 2.0 / 3.0, third_low = 3.70074341541718826e-17;  // 2/3 − third_high
  const Pair third = exact_product(third_high, cube.high);
  const double cube_low = cube.low + z.low * s + 3.0 * z.high * s_low;
  const double rest = third.low + third_low * cube.high + third_high * cube_low + cube.high * z.high * tail;
  const Pair first = exact_sum(k * ln2_high, 2.0 * s), second = exact_sum(first.high, third.high);
  const double low = first.low + second.low + (2.0 * s_low + rest + k * ln2_low);
  return exact_sum(second.high, low);
}

double sine_kernel(double x) {  // |x| ≤ π/4
  constexpr double s1 = -1.66666666666666324348e-01, s2 = 8.33333333332248946124e-03,
                   s3 = -1.98412698298579493134e-04, s4 = 2.75573137070700676789e-06,
                   s5 = -2.50507602534068634195e-08, s6 = 1.58969099521155010221e-10;
  const double z = x * x;
  return x + x * z * (s1 + z * (s2 + z * (s3 + z * (s4 + z * (s5 + z * s6)))));
}

double cosine_kernel(double x) {  // |x| ≤ π/4
  constexpr double c1 = 4.16666666666666019037e-02, c2 = -1.38888888888741095749e-03,
                   c3 = 2.48015872894767294178e-05, c4 = -2.75573143513906633035e-07,
                   c5 = 2.08757232129817482790e-09, c6 = -1.13596475577881948265e-11;
  const double z = x * x, half = 0.5 * z, w = 1.0 - half;
  return w + (((1.0 - w) - half) + z * z * (c1 + z * (c2 + z * (c3 + z * (c4 + z * (c5 + z * c6))))));
}

}  // namespace

double det_log(double x) {
  ORRERY_CHECK(x > 0, "logarithm of a number that is not positive");
  constexpr double l1 = 6.666666666666735130e-01, l2 = 3.999999999940941908e-01,
                   l3 = 2.857142874366239149e-01, l4 = 2.222219843214978396e-01,
                   l5 = 1.818357216161805012e-01, l6 = 1.531383769920937332e-01,
                   l7 = 1.479819860511658591e-01;
  if (x > std::numeric_limits<double>::max()) return x;
  const Split parts = split_exponent(x);
  const double m = parts.mantissa;
  const double f = m - 1.0, s = f / (2.0 + f), z = s * s, w = z * z, k = parts.exponent;
  const double r = w * (l2 + w * (l4 + w * l6)) + z * (l1 + w * (l3 + w * (l5 + w * l7)));
  const double half_square = 0.5 * f * f;
  return k * ln2_high - ((half_square - (s * (half_square + r) + k * ln2_low)) - f);
}

double det_exp(double x) {
  ORRERY_CHECK(x == x, "exponential of NaN");
  if (x > 709.782712893383973096) return std::numeric_limits<double>::infinity();
  if (x < -745.13321910194110842) return 0.0;
  const ReducedExp reduced = reduce_exp(x);
  return scale_by_power_of_two(1.0 - (reduced.below - reduced.high), reduced.k);
}

double det_pow(double x, double y) {
  ORRERY_CHECK(x >= 0 && y == y, "power of a negative number or of NaN");
  if (y == 0 || x == 1) return 1.0;
  if (x == 0) return y > 0 ? 0.0 : std::numeric_limits<double>::infinity();
  const double estimate = y * det_log(x);
  // Far outside the range of det_exp; also keeps infinities and huge y out of the products below.
  if (estimate > 800 || estimate < -800) return det_exp(estimate);
  const Pair log = log_pair(x), product = exact_product(y, log.high);
  const double low = product.low + y * log.low;
  const double power = det_exp(product.high);  // e^(high + low) = e^high·(1 + low) for |low| < 2^-42
  return power > std::numeric_limits<double>::max() ? power : power + power * low;
}

// The rounding of u = 1 + x is known exactly, and d log(u)/du = 1/u (fdlibm, s_log1p.c).
double det_log1p(double x) {
  ORRERY_CHECK(x > -1, "log1p below −1");
  const double u = 1.0 + x;
  if (u == 1.0) return x;
  if (u > 0x1.0p60) return det_log(u);
  const double lost = x > 1.0 ? 1.0 - (u - x) : x - (u - 1.0);
  return det_log(u) + lost / u;
}

// 2^k·(e^r − 1 + 1 − 2^−k): one rounding between close terms instead of the cancelling e^x − 1.
double det_expm1(double x) {
  ORRERY_CHECK(x == x, "exponential of NaN");
  if (x > 40 || x < -40) return det_exp(x) - 1.0;
  const ReducedExp reduced = reduce_exp(x);
  const double below_one = reduced.high - reduced.below;  // e^r − 1
  return scale_by_power_of_two((1.0 - scale_by_power_of_two(1.0, -reduced.k)) + below_one, reduced.k);
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
