#include "calibrate/tune_timers.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "costmodel/moe.h"
#include "costmodel/weight_format.h"
#include "kernels/block_gemm.h"

namespace orrery::calibrate {

namespace {

constexpr double rested = 0.97, rest_s = 0.1;  // as a session rests, shorter: neighbours in time are alike

SearchTile search_tile(const kernels::BlockGemmTile& t, std::int32_t variant) {
  SearchTile tile;
  tile.rows = t.rows;
  tile.columns = t.columns;
  tile.stages = t.stages;
  tile.swapped = t.swapped;
  tile.shared = t.shared == kernels::SharedCopies::weights       ? "weights"
                : t.shared == kernels::SharedCopies::activations ? "activations"
                                                                 : "";
  tile.warps = t.rows * t.columns > 64 * 128 ? 8 : 4;  // warpgroups that multiply: one or two
  tile.variant = variant;
  tile.splits = t.splits;
  tile.blocks = t.blocks;
  return tile;
}

std::int64_t busy(const std::vector<std::int64_t>& rows) {
  return std::count_if(rows.begin(), rows.end(), [](std::int64_t n) { return n > 0; });
}

}  // namespace

DeviceTiles::DeviceTiles(kernels::Device& device, Timer& timer, MakeCase make, MeasureOptions options)
    : device_(device), timer_(timer), make_(std::move(make)), options_(std::move(options)),
      arena_(device, 0.6) {}

double DeviceTiles::us(const TileProblem& problem, const SearchTile& tile, int effort, std::string& why) {
  rest();
  Point point;
  point.spec = problem.spec;
  point.spec.variant = tile.variant;
  point.table = problem.table;
  point.shape = problem.shape;
  const auto alone = [&](const kernels::CaseSpec& form, std::string& refusal) {  // none of its other forms
    return form.op == point.spec.op ? make_(form, refusal) : nullptr;
  };
  MeasureOptions options = options_;
  options.cap_s = 0.004 * effort;
  options.target_spread = 0.02 / effort;
  options.retry_pause_s = 0.1;
  const Measurement m = measure(point, device_, arena_, timer_, alone, options);
  why = m.why;
  return has_figure(m.state) ? m.us : 0;
}

void DeviceTiles::rest() {
  const double until = timer_.seconds() + rest_s;
  for (;;) {
    const kernels::Telemetry now = device_.telemetry();
    if (!now.valid) return;
    highest_mhz_ = std::max(highest_mhz_, now.sm_clock_mhz);
    if (now.sm_clock_mhz >= rested * highest_mhz_ || timer_.seconds() >= until) return;
    timer_.pause(rest_s / 8);
  }
}

std::vector<SearchTile> DeviceTiles::space(const TileProblem&) const {
  const auto tiles = kernels::block_gemm_tiles();
  std::vector<SearchTile> space;
  for (std::size_t i = 0; i < tiles.size(); ++i) {
    std::int32_t most = 0;
    for (const kernels::BlockGemmTile& t : tiles) {
      if (t.rows == tiles[i].rows && t.columns == tiles[i].columns && t.swapped == tiles[i].swapped)
        most = std::max(most, t.stages);
    }
    if (tiles[i].splits > 1 || tiles[i].blocks > 1 || tiles[i].stages == 4 || tiles[i].stages == 8 ||
        tiles[i].stages == most)
      space.push_back(search_tile(tiles[i], static_cast<std::int32_t>(i)));
  }
  return space;
}

SearchTile DeviceTiles::own(const TileProblem& problem) const {
  kernels::BlockGemm p;
  const kernels::CaseSpec& s = problem.spec;
  p.n = static_cast<std::int32_t>(s.n);
  p.k = static_cast<std::int32_t>(s.k);
  p.rows = static_cast<std::int32_t>(s.m);
  if (!s.rows.empty()) {
    const std::int64_t all = std::accumulate(s.rows.begin(), s.rows.end(), std::int64_t{0});
    const std::int64_t some = std::max<std::int64_t>(1, busy(s.rows));
    p.rows = static_cast<std::int32_t>(all);
    p.rows_each = static_cast<std::int32_t>((all + some - 1) / some);
    p.layout = kernels::BlockGemmExperts::contiguous;
    p.experts = static_cast<std::int32_t>(s.rows.size());
  }
  p.workspace_bytes = kernels::block_gemm_workspace(device_.info().compute_units);  // as the case has it
  return search_tile(kernels::block_gemm_tile(p, device_.info().compute_units), -1);
}

TileLimits DeviceTiles::limits() const {
  TileLimits limits;
  limits.units = device_.info().compute_units;
  limits.shared_bytes = 227 << 10;
  return limits;
}

LawTiles::LawTiles(HardwareProfile part, Roofline roofline)
    : part_(std::move(part)), roofline_(std::move(roofline)) {}

Result<LawTiles> LawTiles::create(const HardwareProfile& part) {
  ORRERY_TRY(roofline, Roofline::create(part));
  LawTiles law(part, std::move(roofline));
  ORRERY_TRY(format, named_weight_format("fp8-block", law.roofline_));
  law.format_ = std::move(format);
  return law;
}

double LawTiles::us(const TileProblem& problem, const SearchTile& tile, int, std::string& why) {
  if (problem.spec.rows.empty()) {
    why = "the tile law is that of experts' products";
    return 0;
  }
  MoeTile cut{tile.rows, tile.columns, tile.depth, tile.group, tile.warps, tile.stages};
  GroupedRows rows;
  rows.block_rows = tile.rows;
  rows.tile = &cut;
  for (const std::int64_t n : problem.spec.rows) {
    rows.rows += static_cast<double>(n);
    rows.distinct += n > 0 ? 1 : 0;
    rows.row_tiles += static_cast<double>((n + tile.rows - 1) / tile.rows);
  }
  OpSpec spec;
  spec.n = problem.spec.n;
  spec.k = problem.spec.k;
  spec.format = format_;
  return grouped_gemm_cost(roofline_, spec, rows).ns() * 1e-3;
}

std::vector<SearchTile> LawTiles::space(const TileProblem&) const {
  std::vector<SearchTile> out;
  for (const MoeTile& t : moe_tile_space(part_, format_))
    out.push_back({t.rows, t.columns, t.depth, t.group, t.warps, t.stages, false, "", -1});
  return out;
}

SearchTile LawTiles::own(const TileProblem& problem) const {
  MoeShape shape;
  shape.format = format_;
  const MoeTile t = default_moe_tile(problem.tokens, shape, part_.vendor == "amd");
  return {t.rows, t.columns, t.depth, t.group, t.warps, t.stages, false, "", -1};
}

TileLimits LawTiles::limits() const {
  TileLimits limits;
  limits.units = roofline_.units();
  limits.shared_bytes = std::numeric_limits<std::int64_t>::max();  // moe_tile_space has looked
  return limits;
}

}  // namespace orrery::calibrate
