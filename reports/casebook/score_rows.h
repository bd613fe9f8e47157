// One predicted figure beside a measured one, wherever it comes from: what coverage, corrections and charts
// are made of.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "reports/benchmark_comparison.h"
#include "reports/casebook/case_comparison.h"
#include "reports/casebook/published/published_board.h"
#include "sim/ensemble/interval_corrections.h"

namespace orrery {

enum class ScoreSource : std::uint8_t { named_case, own_run, published_row };
const char* to_string(ScoreSource source);

struct ScoreRow {
  ScoreSource source = ScoreSource::named_case;
  std::string id, run;  // as in scoreboard.json
  std::string group;    // the case by whose name the halves are split: part, engine family, model, plan, load
  PriceEvidence evidence;
  std::string model;
  // What residuals are drawn over; 0 = the source does not say, or it is no such load.
  double batch = 0, context = 0, rate = 0;  // requests at once; tokens at the end of a request; requests per
                                            // s
  ComparedMetric metric;
  bool interval = false;  // of the run's prices; a ratio has one too, but no pool
  bool pooled = false;    // its quantity, rung and part say something of others: no ratio, step or rate
};

std::vector<ScoreRow> score_rows(const std::vector<CaseComparison>& cases);
std::vector<ScoreRow> score_rows(const PublishedBoard& board);

// The case that a published run belongs to.
std::string case_name(const PublishedSetup& setup);

// Which half of the cases a group belongs to: true for the one that widths come from; the other is scored. By
// the hash of its name alone, so all figures of a run stand on one side, and no case moves another.
bool is_fitted_half(const std::string& group);

// "fitted" or "scored"; "" for what no correction moves: without an interval, or a ratio, step or rate.
const char* half_of(const ScoreRow& row);

// Moves the ends of every interval that has a pool (ComparedMetric::correction says which).
void correct_intervals(std::vector<CaseComparison>& cases, const IntervalCorrections& corrections);
void correct_intervals(PublishedBoard& board, const IntervalCorrections& corrections);

}  // namespace orrery
