// How far off measured figures were and how much they scatter, region by region (region_path): what an
// interval's pool is scaled by.
#pragma once

#include <cstddef>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "reports/casebook/score_rows.h"
#include "sim/ensemble/interval_corrections.h"

namespace orrery {

// Figures of one quantity. A region's centre is the median of ln(measured ÷ predicted), drawn towards that of
// the region around. Its spread is taken of what centres leave: of each figure's distance from the narrowest
// centre that its own case has no part in, that within which `near_share` of the region's figures lie, drawn
// likewise. So how regions inside differ from one another, which their centres say, does not count as
// scatter. Every case weighs the same; n cases weigh n, the region around `centre_around` or `spread_around`:
// few cases say where a region lies sooner than how much it scatters. One of the same figures as the region
// around says nothing of its own.
constexpr double near_share = 0.7;
constexpr double centre_around = 3, spread_around = 4;
// As if a case were not there, the distances of others are from centres that it has no part in either; in
// regions of more figures than this it moves no centre that matters.
constexpr std::size_t few_figures = 60;
// A model that has no figures has no centre either: of regions wider than a model (`model_depth` names of
// region_path) *outside* is how far figures lie from the region's centre as if what lies beside them, their
// own model on their part and engine (or part, or rung), were not there: that within which `outside_share`
// of them lie, drawn towards that of the region around by the weight of two more such neighbours.
constexpr double outside_share = 0.8, outside_around = 2;

class FigureRegions {
 public:
  explicit FigureRegions(std::string quantity) : quantity_(std::move(quantity)) {}
  void add(const ScoreRow& row);
  // Sorts, and measures distances; before any other question.
  void close();
  // As if the row's case were not there.
  IntervalRegion without_its_case(const ScoreRow& row) const;
  // By quantity and path, figures rounded as a file has them.
  void append(std::map<std::string, IntervalRegion>& out) const;

 private:
  using Path = std::vector<std::string>;
  static constexpr std::size_t no_case = static_cast<std::size_t>(-1);

  struct Figure {
    double value = 0;
    std::size_t of_case = 0;
  };
  struct Weighted {
    double value = 0, weight = 0;
  };
  struct Placed {
    Path path;
    Figure figure;
  };
  struct Region {
    std::vector<Figure> figures;    // logarithms, ascending
    std::vector<Figure> distances;  // ascending
    std::vector<std::size_t> placed;
    std::map<std::size_t, std::size_t> of_cases;  // figures of each
    double weight(std::size_t of_case) const { return 1 / static_cast<double>(of_cases.at(of_case)); }
  };
  struct LeftOut {
    std::size_t one = no_case, other = no_case;
    const std::set<std::size_t>* many = nullptr;
    bool holds(std::size_t of_case) const {
      return of_case == one || of_case == other || (many != nullptr && many->contains(of_case));
    }
  };
  struct Outside {
    std::map<std::string, std::vector<Weighted>> distances;  // by the name that parts the region
    double of(const std::string& but) const;                 // 0: fewer than two of them
  };
  struct Question {
    double share, around;
  };

  static double quantile(const std::vector<Weighted>& sorted, double share);
  static std::vector<Weighted> kept(const Region& region, const std::vector<Figure>& figures, LeftOut left);
  // From the widest region to the narrowest; rows and cases of `out` become those of the last that has a say.
  double walk(const Question& question, const Path& path, LeftOut left,
              const std::function<std::vector<Weighted>(const Region&)>& values, IntervalRegion& out) const;
  double centre(const Path& path, LeftOut left, IntervalRegion& out) const;
  double spread(const Path& path, std::size_t left_out) const;
  // Of the region, without the part of it called `but`.
  double outside(const Path& path, const std::string& but) const;
  void measure_outside(const Path& path, Outside& out) const;
  IntervalRegion estimate(const Path& path, std::size_t left_out) const;

  std::string quantity_;
  std::map<std::string, std::size_t> cases_;
  std::map<Path, Region> regions_;
  std::vector<Placed> placed_;
  std::map<Path, Outside> outside_;
};

}  // namespace orrery
