#include "calibrate/tile_search.h"

#include <algorithm>
#include <cmath>

namespace orrery::calibrate {

namespace {

constexpr double most_waste = 2;      // of worth_timing
constexpr int least_effort = 4;       // of the last round
constexpr std::size_t finalists = 3;  // a round of so few is the last

std::int64_t over(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// Outputs that whole waves of a tile hold, padding and idle units included.
double outputs_of_waves(const SearchTile& tile, const TileProblem& problem, std::int64_t units) {
  std::int64_t down = 0;
  for (const std::int64_t rows : problem.spec.rows) down += over(rows, tile.rows);
  if (problem.spec.rows.empty()) down = over(problem.spec.m, tile.rows);
  const std::int64_t tiles =
      std::max<std::int64_t>(1, down) * over(problem.spec.n, tile.columns) * tile.splits;
  return static_cast<double>(over(tiles, units) * tile.rows * tile.columns);
}

struct Entry {
  std::size_t place = 0;
  double us = 0;
};

class Search {
 public:
  Search(const TileProblem& problem, const std::vector<SearchTile>& space, const SearchTile& own,
         TileTimer& timer, const TileLimits& limits)
      : problem_(problem), space_(space), timer_(timer), limits_(limits) {
    result_.space = space.size();
    result_.own.tile = own;
    last_.assign(space.size(), 0);
  }

  TileSearch run() {
    std::vector<std::size_t> places = worth_timing(space_, problem_, limits_);
    result_.pruned = space_.size() - places.size();
    for (int round = 0;; ++round) {
      const int effort = 1 << round;
      std::vector<Entry> timed = time_all(places, effort);
      if (result_.stopped) return std::move(result_);
      result_.own.us = time(result_.own.tile, effort);
      std::stable_sort(timed.begin(), timed.end(),
                       [](const Entry& a, const Entry& b) { return a.us < b.us; });
      if ((timed.size() <= finalists && effort >= least_effort) || timed.empty()) return finish(timed);
      timed.resize(std::min(timed.size(), std::max(finalists, (timed.size() + 1) / 2)));
      places.clear();
      for (const Entry& entry : timed) places.push_back(entry.place);
      std::sort(places.begin(), places.end());
    }
  }

 private:
  double time(const SearchTile& tile, int effort) {
    std::string why;
    ++result_.timings;
    return timer_.us(problem_, tile, effort, why);
  }

  std::vector<Entry> time_all(const std::vector<std::size_t>& places, int effort) {
    std::vector<Entry> timed;
    for (const std::size_t place : places) {
      if (limits_.stop()) {
        result_.stopped = true;
        return timed;
      }
      const double us = time(space_[place], effort);
      if (us > 0) {
        last_[place] = us;
        timed.push_back({place, us});
      } else {
        ++result_.refused;
      }
    }
    return timed;
  }

  TileSearch finish(const std::vector<Entry>& finals) {
    if (!finals.empty()) result_.winner = {space_[finals.front().place], finals.front().us};
    const bool own_is_best = result_.own.us > 0 && (finals.empty() || result_.own.us <= result_.winner.us);
    if (own_is_best) result_.winner = result_.own;
    for (std::size_t place = 0; place < space_.size(); ++place) {
      if (last_[place] > 0) result_.timed.push_back({space_[place], last_[place]});
    }
    std::stable_sort(result_.timed.begin(), result_.timed.end(),
                     [](const TimedTile& a, const TimedTile& b) { return a.us < b.us; });
    return std::move(result_);
  }

  const TileProblem& problem_;
  const std::vector<SearchTile>& space_;
  TileTimer& timer_;
  const TileLimits& limits_;
  std::vector<double> last_;
  TileSearch result_;
};

}  // namespace

std::string SearchTile::text() const {
  std::string out = std::to_string(rows) + "x" + std::to_string(columns) + "x" + std::to_string(depth) + " " +
                    std::to_string(stages) + " stages";
  if (warps != 4) out += " " + std::to_string(warps) + " warps";
  if (group != 1) out += " groups of " + std::to_string(group);
  if (swapped) out += " swapped";
  if (splits != 1) out += " split in " + std::to_string(splits);
  if (blocks != 1) out += " " + std::to_string(blocks) + " blocks each";
  return shared.empty() ? out : out + " " + shared + " shared";
}

Json tile_json(const SearchTile& tile) {
  return {{"rows", tile.rows},       {"columns", tile.columns}, {"depth", tile.depth},
          {"group", tile.group},     {"warps", tile.warps},     {"stages", tile.stages},
          {"swapped", tile.swapped}, {"shared", tile.shared},   {"variant", tile.variant},
          {"splits", tile.splits},   {"blocks", tile.blocks}};
}

bool read_tile(const Json& json, SearchTile& tile) {
  const std::pair<const char*, std::int64_t*> numbers[] = {{"rows", &tile.rows},   {"columns", &tile.columns},
                                                           {"depth", &tile.depth}, {"group", &tile.group},
                                                           {"warps", &tile.warps}, {"stages", &tile.stages}};
  if (!json.is_object()) return false;
  for (const auto& [name, value] : numbers) {
    if (!json.contains(name) || !json[name].is_number_unsigned()) return false;
    *value = json[name].get<std::int64_t>();
    if (*value < 1 || *value > 4096) return false;
  }
  if (!json.contains("swapped") || !json["swapped"].is_boolean() || !json.contains("shared") ||
      !json["shared"].is_string() || !json.contains("variant") || !json["variant"].is_number_integer())
    return false;
  for (const auto& [name, value] : {std::pair{"splits", &tile.splits}, std::pair{"blocks", &tile.blocks}}) {
    *value = 1;  // what a journal of before them has
    if (!json.contains(name)) continue;
    if (!json[name].is_number_unsigned()) return false;
    *value = json[name].get<std::int64_t>();
    if (*value < 1 || *value > 16) return false;
  }
  tile.swapped = json["swapped"].get<bool>();
  tile.shared = json["shared"].get<std::string>();
  tile.variant = json["variant"].get<std::int32_t>();
  return true;
}

std::vector<std::size_t> worth_timing(const std::vector<SearchTile>& space, const TileProblem& problem,
                                      const TileLimits& limits) {
  std::vector<std::size_t> fitting;
  double fewest = 0;
  for (std::size_t i = 0; i < space.size(); ++i) {
    const SearchTile& t = space[i];
    const double bytes =
        static_cast<double>(t.stages * (t.rows + t.columns) * t.depth) * limits.element_bytes;
    if (bytes > static_cast<double>(limits.shared_bytes)) continue;
    const double outputs = outputs_of_waves(t, problem, limits.units);
    fewest = fitting.empty() ? outputs : std::min(fewest, outputs);
    fitting.push_back(i);
  }
  std::vector<std::size_t> out;
  for (const std::size_t i : fitting) {
    if (outputs_of_waves(space[i], problem, limits.units) <= most_waste * fewest) out.push_back(i);
  }
  return out;
}

TileSearch search_tiles(const TileProblem& problem, const std::vector<SearchTile>& space,
                        const SearchTile& own, TileTimer& timer, const TileLimits& limits) {
  return Search(problem, space, own, timer, limits).run();
}

}  // namespace orrery::calibrate
