#include "costmodel/collective.h"

#include <algorithm>

namespace orrery {

namespace {

constexpr double kib = 1024;

// vLLM's custom all-reduce (csrc/custom_all_reduce.cuh): one shot (every rank reads the whole buffer of every
// other) for two ranks, for small buffers up to 512 KiB at four and 256 KiB at eight; else two shots.
bool one_shot(double bytes, std::int32_t ranks) {
  if (ranks == 2) return true;
  return bytes < (ranks <= 4 ? 512 : 256) * kib;
}

// Every rank also reads its buffer and writes the result.
void add_memory(const Roofline& roofline, double bytes, OpCost& cost) {
  cost.memory_ns = roofline.stream_ns(2 * bytes, roofline.stays_in_cache(2 * bytes), 0, KernelClass::memory);
  if (!roofline.stays_in_cache(2 * bytes)) cost.bytes = 2 * bytes;
}

}  // namespace

const char* to_string(Collective collective) {
  switch (collective) {
    case Collective::all_reduce: return "all_reduce";
    case Collective::all_gather: return "all_gather";
    case Collective::reduce_scatter: return "reduce_scatter";
    case Collective::all_to_all: return "all_to_all";
    case Collective::send_recv: break;
  }
  return "send_recv";
}

// Measured on two and four H200 (reports/results/nccl_groups_h200.txt): a group of three all-gathers and a
// reduce-scatter between products, in a graph, take 15.0 and 24.5 µs, where an all-gather and a
// reduce-scatter are priced 11.8 and 17.2: a quarter of the small all-reduce a tensor and rank.
double further_tensor_ns(const Roofline& roofline, std::int32_t ranks) {
  return 0.25 * ranks * roofline.collective_latency_ns();
}

double custom_all_reduce_limit(std::int32_t ranks, bool meshed) {
  return (ranks <= 4 || meshed ? 8 * kib : 256) * kib;
}

OpCost collective_cost(const Roofline& roofline, Collective collective, double bytes, std::int32_t ranks) {
  ORRERY_CHECK(ranks >= 2 && roofline.has_link(), "a collective needs two ranks and a link");
  const double n = ranks;
  OpCost cost;
  cost.latency_ns = roofline.library_latency_ns(ranks);
  switch (collective) {
    case Collective::all_reduce:
      cost.link_bytes = 2 * (n - 1) / n * bytes;
      if (bytes < custom_all_reduce_limit(ranks, roofline.meshed())) {
        cost.latency_ns = roofline.small_all_reduce_ns(ranks);
        if (one_shot(bytes, ranks)) cost.link_bytes = (n - 1) * bytes;
      }
      break;
    case Collective::all_gather:
    case Collective::reduce_scatter:
    case Collective::all_to_all: cost.link_bytes = (n - 1) / n * bytes; break;
    case Collective::send_recv:
      cost.link_bytes = bytes;
      cost.latency_ns = roofline.library_latency_ns(2);
      break;
  }
  const double rate = roofline.link_rate(collective == Collective::send_recv ? 2 : ranks);
  cost.link_ns = cost.link_bytes / rate;
  cost.inside_ns = cost.link_ns * roofline.link_efficiency();
  add_memory(roofline, bytes, cost);
  return cost;
}

double way_ns(const Roofline& roofline, const CollectiveWay& way, double bytes) {
  const double inside = way.inside_ns / roofline.link_efficiency();
  return way.latency_ns + bytes * std::max(inside, way.between_ns);
}

const CollectiveWay& quickest_way(const Roofline& roofline, Collective collective, double bytes,
                                  const GroupLinks& group) {
  const std::vector<CollectiveWay>& ways = group.of(collective);
  ORRERY_CHECK(group.crosses() && !ways.empty(), "a collective over several nodes has a way");
  return *std::min_element(ways.begin(), ways.end(), [&](const CollectiveWay& a, const CollectiveWay& b) {
    return way_ns(roofline, a, bytes) < way_ns(roofline, b, bytes);
  });
}

OpCost across_nodes_cost(const Roofline& roofline, Collective collective, double bytes,
                         const GroupLinks& group) {
  const CollectiveWay& way = quickest_way(roofline, collective, bytes, group);
  const double n = group.ranks, part = (n - 1) / n;
  OpCost cost;
  cost.link_bytes = collective == Collective::send_recv    ? bytes
                    : collective == Collective::all_reduce ? 2 * part * bytes
                                                           : part * bytes;
  cost.latency_ns = way.latency_ns;
  cost.link_ns = way_ns(roofline, way, bytes) - way.latency_ns;
  cost.inside_ns = bytes * way.inside_ns;
  cost.network_ns = bytes * way.between_ns;
  cost.network_bytes = bytes * way.network_share;
  cost.error =
      std::max(way.compared ? across_error : unseen_error, 2 * roofline.error(KernelClass::collective));
  add_memory(roofline, bytes, cost);
  return cost;
}

}  // namespace orrery
