#include "calibrate/plan.h"

#include <algorithm>
#include <array>
#include <map>

#include "base/text.h"
#include "calibrate/bound.h"
#include "calibrate/routing.h"

namespace orrery::calibrate {

namespace {

constexpr double least_turn = 0.03;  // an operator's turns in a round, as a share of all

// Families that begin one round after the focus; each doubling of the number begins one round later. Products
// have utilisations of their own per shape; row-wise operators differ by little more than their bytes.
struct FirstFamilies {
  const char* kind;
  std::size_t count;
};
constexpr std::array<FirstFamilies, 4> first_families{
    {{"gemm", 12}, {"grouped_gemm", 6}, {"attention_decode", 3}, {"attention_prefill", 3}}};

std::size_t first_of(const std::string& kind) {
  for (const FirstFamilies& f : first_families) {
    if (kind.substr(0, kind.find(' ')) == f.kind) return f.count;
  }
  return 1;
}

// Kernels compete for turns under this name: row-wise operators each, a GEMM per type.
std::string turn_of(const Point& p) {
  if (p.table == "gemm" || p.table == "grouped_gemm") return p.table + " " + p.spec.dtype;
  if (p.table == "attention_decode" || p.table == "attention_prefill") return p.table + " " + p.spec.kv_dtype;
  return p.spec.op;
}

struct Queue {
  std::vector<Point> points;  // best first
  std::size_t next = 0;
  double weight = 0;
};

// Stride scheduling: whoever has had the least for its weight goes next; ties by name (the map's order).
void take_turns(std::map<std::string, Queue>& queues, std::vector<Point>& out) {
  double total = 0;
  for (auto& [name, queue] : queues) {
    std::sort(queue.points.begin(), queue.points.end(), [](const Point& a, const Point& b) {
      return a.share != b.share ? a.share > b.share : a.key() < b.key();
    });
    for (const Point& p : queue.points) queue.weight += p.share;
    total += queue.weight;
  }
  for (;;) {
    Queue* best = nullptr;
    double least = 0;
    for (auto& [name, queue] : queues) {
      if (queue.next == queue.points.size()) continue;
      const double weight = std::max(least_turn, total > 0 ? queue.weight / total : 0);
      const double served = static_cast<double>(queue.next + 1) / weight;
      if (best != nullptr && served >= least) continue;
      best = &queue;
      least = served;
    }
    if (best == nullptr) return;
    out.push_back(best->points[best->next++]);
  }
}

// Operators without a point in round 0 get their coarsest ones there.
void lift_coarsest(Demand& demand) {
  std::map<std::string, int> first;
  for (const auto& [key, point] : demand.points) {
    const auto [at, is_new] = first.emplace(point.spec.op, point.round);
    if (!is_new) at->second = std::min(at->second, point.round);
  }
  std::map<std::string, std::string> family;  // of those points, the one with the largest share
  for (const auto& [key, point] : demand.points) {
    if (point.round != first[point.spec.op]) continue;
    const auto [at, is_new] = family.emplace(point.spec.op, demand.family_of[key]);
    if (!is_new && demand.families[demand.family_of[key]].share > demand.families[at->second].share)
      at->second = demand.family_of[key];
  }
  for (auto& [key, point] : demand.points) {
    const int round = first[point.spec.op];
    if (round > 0 && point.table != "probes" && point.round == round &&
        demand.family_of[key] == family[point.spec.op])
      point.round = 0;
  }
}

// Which of the grids that round 1 begins with a point belongs to; negative: to none.
int grid_of(const Point& p, bool focus) {
  if (p.table == "probes") return 0;
  if (!focus) return -1;
  if (p.table == "gemm") return 1;
  if (p.table == "attention_decode") return 2;
  if (p.table == "attention_prefill") return 3;
  if (p.table == "grouped_gemm") {
    std::int64_t rows = 0;
    for (const std::int64_t each : p.spec.rows) rows += each;
    const bool routed = p.spec.top_k > 0 && p.spec.rows == expert_rows(RowPattern::routed, p.spec.experts,
                                                                       p.spec.top_k, rows / p.spec.top_k);
    return routed ? 4 : -1;
  }
  return p.table == "elementwise" ? 5 : -1;
}

// Grid by grid, coarse to fine, by share.
void take_grids(std::vector<std::pair<int, Point>> grids, std::vector<Point>& out) {
  std::sort(grids.begin(), grids.end(), [](const auto& a, const auto& b) {
    if (a.first != b.first) return a.first < b.first;
    if (a.second.round != b.second.round) return a.second.round < b.second.round;
    return a.second.share != b.second.share ? a.second.share > b.second.share
                                            : a.second.key() < b.second.key();
  });
  for (auto& [grid, point] : grids) {
    point.round = 1;
    out.push_back(std::move(point));
  }
}

bool wanted(const Point& p, const std::vector<std::string>& ops) {
  return ops.empty() || std::find(ops.begin(), ops.end(), p.spec.op) != ops.end() ||
         std::find(ops.begin(), ops.end(), p.table) != ops.end() ||
         std::find(ops.begin(), ops.end(), p.table + "/" + p.spec.dtype) != ops.end();
}

constexpr double longest_us = 6000;

bool too_long(const Point& p, const HardwareProfile& hardware) {
  const auto least = least_us(p.spec, hardware);
  return least.ok() && *least > longest_us;
}

// `--ops` with a name that nothing has is a slip, not an empty plan.
Status check_ops(const Demand& demand, const std::vector<std::string>& ops) {
  std::vector<std::string> known;
  for (const TableEntry& t : table_entries()) known.emplace_back(t.name);
  for (const auto& [key, point] : demand.points) {
    if (std::find(known.begin(), known.end(), point.spec.op) == known.end()) known.push_back(point.spec.op);
  }
  for (const std::string& op : ops) {
    const auto of_format = [&](const auto& entry) {
      return op == entry.second.table + "/" + entry.second.spec.dtype;
    };
    if (std::any_of(demand.points.begin(), demand.points.end(), of_format)) continue;
    if (std::find(known.begin(), known.end(), op) != known.end()) continue;
    return make_error(
        ErrorKind::usage,
        "unknown operator " + quote(op) + did_you_mean(op, known) + "; use " + join(known, ", "), {},
        "--ops");
  }
  return ok_status();
}

}  // namespace

int starting_round(std::size_t rank, std::size_t first, bool focus) {
  if (focus) return 0;
  int round = 1;
  for (std::size_t reach = first; rank >= reach; reach *= 2) ++round;
  return round;
}

std::vector<Point> order_points(Demand demand) {
  // Ranks of families of one kind of kernel and type (the first two words of their names), by share.
  std::map<std::string, std::vector<std::pair<double, std::string>>> kinds;
  for (const auto& [name, family] : demand.families)
    kinds[name.substr(0, name.find(' ', name.find(' ') + 1))].emplace_back(-family.share, name);
  std::map<std::string, int> starts;
  for (auto& [kind, families] : kinds) {
    std::sort(families.begin(), families.end());
    for (std::size_t i = 0; i < families.size(); ++i)
      starts[families[i].second] =
          starting_round(i, first_of(kind), demand.families[families[i].second].focus);
  }
  for (auto& [key, point] : demand.points) point.round += starts[demand.family_of[key]];
  lift_coarsest(demand);
  std::map<int, std::map<std::string, Queue>> rounds;
  std::vector<std::pair<int, Point>> grids;  // with what they belong to
  for (auto& [key, point] : demand.points) {
    const int grid = point.round == 0 ? -1 : grid_of(point, demand.families[demand.family_of[key]].focus);
    if (grid >= 0)
      grids.emplace_back(grid, point);
    else
      rounds[point.round][turn_of(point)].points.push_back(point);
  }
  std::vector<Point> out;
  take_turns(rounds[0], out);
  take_grids(std::move(grids), out);
  for (auto& [round, queues] : rounds) {
    if (round > 0) take_turns(queues, out);
  }
  return out;
}

Result<std::vector<Point>> plan_points(const HardwareProfile& hardware, const PlanOptions& options) {
  ORRERY_TRY(demand, collect_demand(hardware, options.demand));
  ORRERY_TRY_STATUS(check_ops(demand, options.ops));
  for (auto at = demand.points.begin(); at != demand.points.end();) {
    const bool kept = wanted(at->second, options.ops) && !too_long(at->second, hardware);
    at = kept ? std::next(at) : demand.points.erase(at);
  }
  std::vector<Point> points = order_points(std::move(demand));
  if (options.max_points > 0 && points.size() > options.max_points) points.resize(options.max_points);
  return points;
}

}  // namespace orrery::calibrate
