// Transcendental functions from +, −, ×, ÷ and exponent bits only (rule D3): the C library's results
// differ between versions and machines, and one last bit changes a digest. Accuracy: within 2 ulp of
// the correctly rounded result over the normal range; tested against long double references.
// sqrt is IEEE-exact everywhere, so std::sqrt may be used.
#pragma once

namespace orrery {

double det_log(double x);            // natural logarithm, x > 0
double det_exp(double x);            // e^x; 0 below −745, +inf above 709.78
double det_pow(double x, double y);  // x^y, x ≥ 0; det_pow(0, y > 0) = 0; det_pow(x, 0) = 1
double det_log1p(double x);          // log(1 + x), x > −1
double det_expm1(double x);          // exp(x) − 1
double det_cos_turn(double u);       // cos(2πu), u in [0, 1]
double det_sin_turn(double u);       // sin(2πu), u in [0, 1]

}  // namespace orrery
