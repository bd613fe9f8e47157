#include "calibrate/plan.h"

#include <algorithm>
#include <array>
#include <map>

#include "base/text.h"

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

bool wanted(const Point& p, const std::vector<std::string>& ops) {
  return ops.empty() || std::find(ops.begin(), ops.end(), p.spec.op) != ops.end() ||
         std::find(ops.begin(), ops.end(), p.table) != ops.end();
}

// `--ops` with a name that nothing has is a slip, not an empty plan.
Status check_ops(const Demand& demand, const std::vector<std::string>& ops) {
  std::vector<std::string> known;
  for (const TableEntry& t : table_entries()) known.emplace_back(t.name);
  for (const auto& [key, point] : demand.points) {
    if (std::find(known.begin(), known.end(), point.spec.op) == known.end()) known.push_back(point.spec.op);
  }
  for (const std::string& op : ops) {
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
  std::map<int, std::map<std::string, Queue>> rounds;
  for (auto& [key, point] : demand.points) {
    point.round += starts[demand.family_of[key]];
    rounds[point.round][turn_of(point)].points.push_back(point);
  }
  std::vector<Point> out;
  for (auto& [round, queues] : rounds) take_turns(queues, out);
  return out;
}

Result<std::vector<Point>> plan_points(const HardwareProfile& hardware, const PlanOptions& options) {
  ORRERY_TRY(demand, collect_demand(hardware, options.demand));
  ORRERY_TRY_STATUS(check_ops(demand, options.ops));
  for (auto at = demand.points.begin(); at != demand.points.end();) {
    at = wanted(at->second, options.ops) ? std::next(at) : demand.points.erase(at);
  }
  std::vector<Point> points = order_points(std::move(demand));
  if (options.max_points > 0 && points.size() > options.max_points) points.resize(options.max_points);
  return points;
}

}  // namespace orrery::calibrate
