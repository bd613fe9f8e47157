#include "sim/ensemble/find_rate.h"

namespace orrery {

namespace {

Result<RatePoint> try_rate(const Scenario& scenario, double factor,
                           const std::function<bool(std::uint64_t)>& keep_going, const PriceScales& scales) {
  RunOptions options;
  options.scales = scales;
  options.rate_factor = factor;
  options.keep_going = keep_going;
  auto run = run_scenario(scenario, options);
  if (!run.ok()) return run.errors();
  const RunResult& r = run.value();
  RatePoint point{.rate_factor = factor, .requests_per_s = 0, .attainment = 0, .meets = false};
  const double all = static_cast<double>(r.completed + r.failed + r.rejected + r.timed_out + r.cancelled);
  if (all > 0) point.attainment = static_cast<double>(r.slo_met) / all;
  const double span = static_cast<double>(r.series.arrivals.size()) * r.series.width.seconds();
  if (span > 0) {
    double offered = 0, bins = 0;
    for (std::size_t i = 0; i < r.series.arrivals.size(); ++i) {
      offered += r.series.arrivals[i];
      if (r.series.arrivals[i] > 0) bins = static_cast<double>(i + 1);
    }
    if (bins > 0) point.requests_per_s = offered / bins;
  }
  point.meets = point.attainment >= scenario.slo.percentile / 100.0;
  return point;
}

}  // namespace

Result<RateSearch> find_rate(const Scenario& scenario, const std::function<bool(std::uint64_t)>& keep_going,
                             const PriceScales& scales) {
  if (!scenario.slo.given) {
    return make_error(ErrorKind::invalid_input,
                      "--find-rate needs an SLO: add `slo: {ttft_ms: …, tpot_ms: …, percentile: 99}`",
                      {scenario.file, 0, 0}, "slo");
  }
  if (scenario.workload.closed_loop_concurrency > 0) {
    return make_error(ErrorKind::invalid_input,
                      "--find-rate scales arrival times, which a closed loop ignores", {scenario.file, 0, 0},
                      "workload.closed_loop");
  }
  RateSearch search;
  const auto probe = [&](double factor) -> Result<bool> {
    auto point = try_rate(scenario, factor, keep_going, scales);
    if (!point.ok()) return point.errors();
    search.points.push_back(point.value());
    if (point->meets && (!search.found || point->rate_factor > search.best.rate_factor)) {
      search.best = point.value();
      search.found = true;
    }
    return point->meets;
  };
  constexpr int most_doublings = 12;
  double low = 1, high = 1;  // low meets, high does not, once bracketed
  ORRERY_TRY(meets_now, probe(1));
  bool bracketed = false;
  for (int i = 0; i < most_doublings && !bracketed; ++i) {
    if (meets_now)
      high = low * 2;
    else
      low = high / 2;
    ORRERY_TRY(meets, probe(meets_now ? high : low));
    if (meets_now) {
      bracketed = !meets;
      if (meets) low = high;
    } else {
      bracketed = meets;
      if (!meets) high = low;
    }
  }
  if (!bracketed) return search;
  while (high / low > 1.01) {
    const double middle = 0.5 * (low + high);
    ORRERY_TRY(meets, probe(middle));
    (meets ? low : high) = middle;
  }
  return search;
}

}  // namespace orrery
