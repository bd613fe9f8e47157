// Rows of tokens on their way to the ranks that hold their experts, and back, by point-to-point kernels
// (DeepEP, MoRI). Figures: hardware_profiles/exchange/<part>.yaml, fitted to published timings by
// tools/expert_exchange_fit.py; what stands behind them: docs/expert_exchange.md.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "base/result.h"
#include "costmodel/figure.h"
#include "costmodel/hardware.h"

namespace orrery {

struct StepInput;  // costmodel/operator.h

// GPUs of one scale-up domain of the parts in the tables, all of which come in nodes of eight.
constexpr std::int32_t gpus_of_node = 8;

// One direction of one kind of kernels. With E experts, rows of r bytes and N nodes
//   time = start + per_expert·E + per_row_kib·r/1024 + per_doubling·log2 N + max(a, b) + unhidden·min(a, b),
// a and b being what a rank sends (or gets, whichever is more) over scale-up links at `rate` and over its
// network link at `network`.
struct ExchangeFigures {
  Figure<Seconds> start, per_expert, per_row_kib, per_doubling;
  Figure<BytesPerSecond> rate, network;
  Figure<double> unhidden;
  Figure<double> error, network_error;  // one standard deviation of log(time), inside a node and over nodes
};
struct ExchangeKernels {
  ExchangeFigures dispatch, combine;
};

// Experts' products of what low-latency kernels deliver: masked ones (DeepGEMM), which find every expert's
// rows in a buffer of its own and compute whole tiles of them (costmodel/ops/masked_experts.cpp).
struct MaskedExperts {
  Figure<Seconds> start;           // of both products, with activation and quantising between them
  Figure<double> memory, compute;  // of the part's rates
  Figure<double> rows, error;      // of a tile; one standard deviation of log(time)
  bool present() const { return start.present(); }
};

struct ExchangeTable {
  std::string name, library, architecture;  // the part that was timed: "h200", "deepep", "sm_90a"
  Figure<BytesPerSecond> network_link;      // of each GPU, where they were timed; absent: one node only
  Figure<double> multiprocessors;           // that the normal kernels occupy
  std::int64_t least_experts = 0;           // fewer do not follow the formula
  ExchangeKernels low_latency, normal;      // low_latency absent where it has no figures
  MaskedExperts masked;                     // absent likewise
  // Of a part without timings of its own: links in proportion, and more doubt.
  double link_ratio = 1, network_ratio = 1, more_error = 0;
  bool own() const { return more_error == 0; }
};
// Added for a part whose own exchange nobody published.
constexpr double exchange_transport_error = 0.15;

Result<ExchangeTable> parse_exchange(const std::string& text, const std::string& file_name);
// The part's own table, else that of a part of its architecture, by the ratio of the links. Error: no table
// of this library for such a part.
Result<ExchangeTable> load_exchange(const std::string& library, const HardwareProfile& hardware);

// How many of `groups` equal groups of experts k distinct, uniformly chosen ones fall into:
// G·(1 − C(E − E/G, k)/C(E, k)).
double expected_distinct_groups(double groups, double experts, std::int64_t per_token);

// One use: everything but the number of rows.
struct ExchangeShape {
  std::shared_ptr<const ExchangeTable> table;
  bool dispatch = true, low_latency = false;
  std::int32_t ranks = 1;
  std::int64_t experts = 0, experts_per_token = 0;
  double row_bytes = 0;
  std::int32_t own_parts = 1;  // GPUs that share out the rows of their attention rank
  double links = 1;  // share of a GPU's scale-up links that lead to the other ranks (mesh: fewer peers,
                     // fewer)
  std::int32_t nodes() const { return (ranks + gpus_of_node - 1) / gpus_of_node; }
};

// Bytes that one token sends over scale-up links and over the network, on average over where it stands. Low
// latency: a row for every chosen expert. Normal: one for every distinct rank, and over the network one for
// every distinct node, which is dealt out there.
struct ExchangeBytes {
  double near = 0, far = 0;
};
ExchangeBytes exchange_bytes(const ExchangeShape& shape);

// Nanoseconds. `fixed` does not depend on the rows; `near` and `far` do not contain it.
struct ExchangeTime {
  double fixed = 0, near = 0, far = 0, unhidden = 0;
  double ns() const { return fixed + (near > far ? near : far) + unhidden * (near > far ? far : near); }
};
// Tokens whose rows the busiest rank sends or gets over scale-up links and over the network: its own or what
// a rank gets on average, and under a hotspot as much more as its rows (low latency), or the tokens with rows
// on it and on its node (normal), are beyond those of the busiest rank of a uniform batch: what uniform
// choices leave uneven is in the timings, which were taken with random ones.
struct ExchangeRows {
  double near = 0, far = 0;
};
ExchangeRows busiest_rows(const ExchangeShape& shape, const StepInput& input);
ExchangeTime exchange_time(const ExchangeShape& shape, const ExchangeRows& rows);
inline ExchangeTime exchange_time(const ExchangeShape& shape, double rows) {
  return exchange_time(shape, ExchangeRows{rows, rows});
}
// ExchangeShape::links. Through a switch all links lead to any peer; in a full mesh one to each.
double exchange_links(const HardwareProfile& hardware, std::int32_t ranks);

}  // namespace orrery
