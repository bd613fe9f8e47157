// How far off measured figures were and how much they scatter, region by region (region_path): what an
// interval's pool is scaled by.
#pragma once

#include <cstddef>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "reports/casebook/score_rows.h"
#include "sim/ensemble/interval_corrections.h"

namespace orrery {

// Figures of one quantity. A region's centre is the median of ln(measured ÷ predicted), its spread the
// distance from it within which `near_share` of them lie; every case weighs the same. Both are drawn towards
// those of the region around: n cases weigh n, it weighs `weight_around`. One of the same figures as the
// region around says nothing of its own.
constexpr double near_share = 0.7;
constexpr double weight_around = 3;

class FigureRegions {
 public:
  explicit FigureRegions(std::string quantity) : quantity_(std::move(quantity)) {}
  void add(const ScoreRow& row);
  // Sorts; before any other question.
  void close();
  // As if the row's case were not there.
  IntervalRegion without_its_case(const ScoreRow& row) const;
  // By quantity and path, figures rounded as a file has them.
  void append(std::map<std::string, IntervalRegion>& out) const;

 private:
  struct Figure {
    double off = 0;
    std::size_t of_case = 0;
  };
  struct Region {
    std::vector<Figure> figures;                  // by `off`
    std::map<std::size_t, std::size_t> of_cases;  // figures of each
  };
  static constexpr std::size_t no_case = static_cast<std::size_t>(-1);

  void draw(const Region& region, std::size_t left_out, IntervalRegion& estimate) const;
  IntervalRegion estimate(const std::vector<std::string>& path, std::size_t left_out) const;

  std::string quantity_;
  std::map<std::string, std::size_t> cases_;
  std::map<std::vector<std::string>, Region> regions_;
};

}  // namespace orrery
