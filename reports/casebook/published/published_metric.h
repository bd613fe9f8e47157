// How a published metric and its unit map to one of ours.
#pragma once

#include <optional>
#include <string>

#include "reports/casebook/published/figure_rows.h"
#include "workloads/benchmark_result.h"

namespace orrery {

// `value` is the row's in our unit. Nothing: the simulation has no such figure, or the row does not say what
// it needs (a rate per GPU without the number of GPUs).
std::optional<BenchmarkMetric> published_metric(const FigureRow& row, std::int64_t gpus);

}  // namespace orrery
