#include "plan/doubt.h"

#include <algorithm>
#include <cmath>

#include "base/det_math.h"
#include "sim/ensemble/ensemble.h"

namespace orrery {

namespace {

double correlation(const std::vector<double>& x, const std::vector<double>& y) {
  const auto n = static_cast<double>(x.size());
  double mx = 0, my = 0;
  for (std::size_t i = 0; i < x.size(); ++i) mx += x[i] / n, my += y[i] / n;
  double xx = 0, yy = 0, xy = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    xx += (x[i] - mx) * (x[i] - mx);
    yy += (y[i] - my) * (y[i] - my);
    xy += (x[i] - mx) * (y[i] - my);
  }
  return xx > 0 && yy > 0 ? xy / std::sqrt(xx * yy) : 0;
}

// What `orrery calibrate --ops` calls the kernels of a class; host times are an engine's, seen live.
std::string measurement(std::size_t op_class) {
  switch (static_cast<OpClass>(op_class)) {
    case OpClass::gemm: return "gemm";
    case OpClass::grouped_gemm: return "grouped_gemm";
    case OpClass::attention_prefill: return "attention_prefill";
    case OpClass::attention_decode: return "attention_decode";
    case OpClass::elementwise: return "elementwise";
    case OpClass::routing: return "router_topk,moe_align,moe_permute,moe_combine";
    case OpClass::collective: return "collectives";
    case OpClass::sampling: return "argmax,sample";
    case OpClass::linear_attention:
    case OpClass::count: break;
  }
  return "";
}

}  // namespace

double least_correlation(std::size_t draws) {
  if (draws < 5) return 1;
  const double z = 1.96 / std::sqrt(static_cast<double>(draws) - 3);
  const double e = det_exp(2 * z);
  return (e - 1) / (e + 1);
}

std::vector<DoubtSource> doubt_of(const PlanSearch& search, std::uint64_t seed, std::size_t draws) {
  std::vector<DoubtSource> out;
  if (search.finalists.size() < 2) return out;
  const std::vector<PlanScore>&a = search.finalists[0].draws, &b = search.finalists[1].draws;
  bool attainment = false;
  for (std::size_t k = 0; k < draws; ++k) attainment |= a[k].meets != b[k].meets;
  std::vector<double> distance;
  for (std::size_t k = 0; k < draws; ++k)
    distance.push_back(attainment ? a[k].attainment - b[k].attainment : b[k].objective - a[k].objective);
  PriceUncertainty one;  // so that a factor's logarithm is the normal that every finalist's draw has
  one.op.fill(1);
  one.host = 1;
  std::vector<std::vector<double>> normals(op_class_count + 1);
  for (std::size_t k = 0; k < draws; ++k) {
    const PriceScales scales = draw_scales(one, seed, k + 1);
    for (std::size_t c = 0; c < op_class_count; ++c) normals[c].push_back(det_log(scales.op[c]));
    normals[op_class_count].push_back(det_log(scales.host));
  }
  for (std::size_t c = 0; c <= op_class_count; ++c) {
    const double r = correlation(normals[c], distance);
    if (r == 0) continue;
    const bool host = c == op_class_count;
    out.push_back({.name = host ? "host" : to_string(static_cast<OpClass>(c)),
                   .measure = host ? "" : measurement(c),
                   .correlation = r});
  }
  std::stable_sort(out.begin(), out.end(), [](const DoubtSource& x, const DoubtSource& y) {
    return std::abs(x.correlation) > std::abs(y.correlation);
  });
  return out;
}

}  // namespace orrery
