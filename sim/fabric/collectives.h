// Collectives on a topology: what each algorithm sends over which link, and how long a library takes for it.
//
// 1. An algorithm is phases of transfers between ranks, as shares of the buffer. Routed over the topology
// they give the
//    busiest link's seconds per byte of the buffer (`wire`) and the serial steps; nothing here is fitted.
// 2. Inside a node a library's time is latency + bytes · wire / efficiency, where latency, efficiency and the
// algorithm
//    are figures by range of the buffer's size (hardware_profiles/collectives/<part>.yaml): libraries switch
//    protocol and algorithm by size. The algorithm of a range is our reading of the library; no table logs
//    it.
// 3. Between nodes: across.h.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "sim/fabric/figure.h"
#include "sim/fabric/routes.h"
#include "sim/fabric/topology.h"

namespace orrery::fabric {

enum class CollectiveOp : std::uint8_t {
  all_reduce,
  all_gather,
  reduce_scatter,
  all_to_all,
  dispatch,
  combine
};
// dispatch and combine: tokens to and from their experts; transfers as all_to_all.
extern const std::vector<std::string> collective_op_names;

enum class Algorithm : std::uint8_t { ring, tree, one_shot, two_shot, direct, in_switch, hierarchical };
extern const std::vector<std::string> algorithm_names;

struct AlgorithmTerms {
  std::int32_t steps = 0;     // transfers that wait for each other
  double wire = 0;            // seconds per byte of the buffer: busiest link of each phase, phases added
  SimDuration route_latency;  // of the topology, all steps
};

// `ranks`: GPUs, at least two, none twice, in ring order. The buffer is one rank's full one (of an all_gather
// its result). Errors: an algorithm that does not do the operator, unequal nodes, no way between two ranks.
Result<AlgorithmTerms> algorithm_terms(Routes& routes, const Topology& topology,
                                       const std::vector<DeviceId>& ranks, CollectiveOp op,
                                       Algorithm algorithm);

struct CollectiveRange {
  Algorithm algorithm = Algorithm::ring;
  double up_to_bytes = 0;  // largest buffer of the range; infinity for the last
  Figure latency;          // seconds
  Figure efficiency;       // of the busiest link's bandwidth, above 0, at most 1
};
struct CollectiveSet {
  std::string library;
  CollectiveOp op = CollectiveOp::all_reduce;
  std::int32_t ranks = 2;
  std::vector<CollectiveRange> ranges;  // by size
};
struct CollectiveFigures {
  std::string part, topology;  // the topology preset on which they hold
  std::vector<CollectiveSet> sets;
};
Result<CollectiveFigures> load_collective_figures(const std::string& path);

struct CollectiveTime {
  double seconds = 0;
  Algorithm algorithm = Algorithm::ring;
};
// Errors name what is missing: figures for that library, operator and number of ranks; several nodes.
Result<CollectiveTime> collective_time(const CollectiveFigures& figures, Routes& routes,
                                       const Topology& topology, const std::vector<DeviceId>& ranks,
                                       const std::string& library, CollectiveOp op, double bytes);

}  // namespace orrery::fabric
