// Published rows → runs that can be simulated. Every row is either priced or left out by a named rule.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "reports/casebook/published/figure_rows.h"
#include "reports/casebook/published/import_rules.h"
#include "workloads/benchmark_result.h"

namespace orrery {

enum class RowRule : std::uint8_t {
  priced,
  value,           // not above 0
  metric,          // a figure that no simulation gives, or whose convention the row does not say
  hardware,        // no profile of the part
  engine,          // not modelled
  engine_version,  // vLLM before V1, and not a static batch
  disowned,        // its own source calls it unreliable
  cold,            // holds the first requests of a server that nothing had warmed up
  disaggregated,   // prefill and decode apart: links, routing and split are not in the rows
  speculation,     // drafts whose acceptance is not stated
  model,           // no profile and no configuration at hand
  quantization,    // not a name that is known
  workload,        // lengths or load are not stated
  plan,            // GPUs and parallel plan do not say which ranks there are
  fitted,          // a figure of the engine's profile was made from it
  refused,         // Orrery does not model this deployment (the error says why)
  does_not_fit,    // weights and cache do not fit as described
  no_answer,       // the simulation gives no value: no request was answered
  impossible  // read as it stands it asks for more of the part's matrix rate than was seen (beyond_part.h)
};
constexpr std::size_t row_rules = 19;
const char* to_string(RowRule rule);
const char* meaning(RowRule rule);  // for people
// A row left out by such a rule can be priced as if the rule did not hold (llama.cpp as vLLM, drafts as
// none): what the rule does to the medians.
bool can_be_lifted(RowRule rule);

// One simulation; several published runs may share it.
struct PublishedSetup {
  std::string scenario;                               // YAML
  std::vector<BenchmarkMetric> metrics;               // what is asked of it; `value` means nothing
  std::string hardware, engine, model, plan, load;    // for people
  std::int64_t input = 0, output = 0, in_flight = 0;  // tokens, tokens, requests (0: by rate)
  double rate = 0;                                    // requests per second
};

struct ImportedFigure {
  std::size_t row = 0;  // in the rows given
  RowRule rule = RowRule::priced;
  std::string why;         // beside the rule: the name that is not known
  bool has_setup = false;  // priced, or left out by a rule that can be lifted
  std::size_t setup = 0;   // in PublishedImport::setups
  std::size_t metric = 0;  // in the setup's metrics
  double measured = 0;     // in the unit of the metric
};

struct PublishedImport {
  std::vector<ImportedFigure> figures;  // one a row, in order
  std::vector<PublishedSetup> setups;   // in the order in which rows first need them
};

PublishedImport import_rows(const std::vector<FigureRow>& rows, const ImportRules& rules);

// Decode steps that a run is cut to, and the rounds that it has at least: a closed loop is in its steady
// state after a few rounds, and what the tool sends beyond is the same again.
constexpr std::int64_t most_decode_steps = 90'000;
constexpr std::int64_t least_rounds = 3;
// Of an open loop, behind an interval.
constexpr std::size_t most_open_requests = 1000;

}  // namespace orrery
