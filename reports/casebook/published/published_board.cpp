#include "reports/casebook/published/published_board.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <mutex>
#include <optional>
#include <thread>

#include "base/statistics.h"
#include "base/text.h"
#include "base/yaml_reader.h"
#include "reports/casebook/case_comparison.h"
#include "reports/casebook/published/beyond_part.h"
#include "reports/casebook/published/price_journal.h"
#include "reports/casebook/score_rows.h"

namespace orrery {

Result<Scenario> read_setup(const PublishedSetup& setup) {
  ORRERY_TRY(document, YamlDocument::parse(setup.scenario, "published row"));
  const Yaml root = document.root();
  Errors errors;
  Scenario scenario = read_scenario_parts(root.require("deployment"), root.require("workload"), ".", errors);
  if (errors.empty()) document.finish();
  errors.insert(errors.begin(), document.errors().begin(), document.errors().end());
  if (!errors.empty()) return errors;
  ORRERY_TRY_STATUS(plan_pools(scenario));
  return scenario;
}

namespace {

PricedSetup leave_out(const Errors& errors) {
  PricedSetup out;
  const Error& first = errors.front();
  out.rule = first.kind == ErrorKind::infeasible ? RowRule::does_not_fit : RowRule::refused;
  out.why = first.key.empty() ? first.message : first.key + ": " + first.message;
  return out;
}

// The spread of perturbed runs over fewer requests, relative to the nominal run over the same ones; a metric
// of which they say nothing stays without. Errors: interrupted only.
Status price_interval(const Scenario& scenario, const BenchmarkResult& wanted, BenchmarkWorkload workload,
                      const BenchmarkCompareOptions& comparing, PricedSetup& out) {
  const auto most = workload.concurrency > 0 ? static_cast<std::size_t>(least_rounds * workload.concurrency)
                                             : most_open_requests;
  if (workload.requests.size() > most) workload.requests.resize(most);
  const auto compared = compare_with_benchmark(scenario, wanted, workload, comparing);
  if (!compared.ok()) {
    if (compared.errors().front().kind == ErrorKind::interrupted) return compared.errors();
    return Unit{};
  }
  for (std::size_t i = 0; i < out.metrics.size(); ++i) {
    ComparedMetric& metric = out.metrics[i];
    for (const ComparedMetric& m : compared->metrics) {
      if (m.name != metric.name || !(m.predicted > 0)) continue;
      metric.low = metric.predicted * m.low / m.predicted;
      metric.high = metric.predicted * m.high / m.predicted;
      out.intervals[i] = true;
    }
  }
  return Unit{};
}

// Errors: interrupted only.
Result<PricedSetup> price_setup(const PublishedSetup& setup, const BoardOptions& options) {
  const auto scenario = read_setup(setup);
  if (!scenario.ok()) return leave_out(scenario.errors());
  const auto workload = requests_of(*scenario);
  if (!workload.ok()) return leave_out(workload.errors());
  BenchmarkResult wanted;
  wanted.metrics = setup.metrics;
  BenchmarkCompareOptions comparing;
  comparing.runs = 0;
  comparing.keep_going = options.keep_going;
  auto compared = compare_with_benchmark(*scenario, wanted, *workload, comparing);
  if (!compared.ok()) {
    if (compared.errors().front().kind == ErrorKind::interrupted) return compared.errors();
    return leave_out(compared.errors());
  }
  PricedSetup out;
  out.metrics = std::move(compared->metrics);
  out.intervals.assign(out.metrics.size(), false);
  out.provenance = std::move(compared->provenance);
  comparing.runs = options.runs;
  if (options.runs > 0) ORRERY_TRY_STATUS(price_interval(*scenario, wanted, *workload, comparing, out));
  return out;
}

// Setups whose rows are all left out are simulated only where the report says what their rule does.
std::vector<bool> wanted_setups(const PublishedImport& import) {
  std::vector<std::size_t> by_rule(row_rules);
  for (const ImportedFigure& f : import.figures) ++by_rule[static_cast<std::size_t>(f.rule)];
  std::vector<bool> wanted(import.setups.size());
  for (const ImportedFigure& f : import.figures) {
    const bool large = 20 * by_rule[static_cast<std::size_t>(f.rule)] > import.figures.size();
    if (f.has_setup && (f.rule == RowRule::priced || large)) wanted[f.setup] = true;
  }
  return wanted;
}

// Runs that stand in the journal, and where the others go.
class PricedBefore {
 public:
  static Result<PricedBefore> open(const PublishedImport& import, const BoardOptions& options) {
    PricedBefore out;
    out.keys_.resize(import.setups.size());
    if (options.journal.empty()) return out;
    ORRERY_TRY(cost, cost_digest());
    ORRERY_TRY(journal, PriceJournal::open(options.journal, cost));
    out.journal_.emplace(std::move(journal));
    for (std::size_t i = 0; i < out.keys_.size(); ++i)
      out.keys_[i] = price_key(cost, import.setups[i], options.runs);
    return out;
  }
  const PricedSetup* find(std::size_t setup) const {
    return journal_ ? journal_->find(keys_[setup]) : nullptr;
  }
  Status add(std::size_t setup, const PricedSetup& priced) {
    return journal_ ? journal_->add(keys_[setup], priced) : ok_status();
  }
  Status settle(const std::vector<std::size_t>& setups) const {
    if (!journal_) return ok_status();
    std::vector<std::string> keys;
    for (const std::size_t setup : setups) keys.push_back(keys_[setup]);
    return journal_->settle(keys);
  }
  bool on() const { return journal_.has_value(); }

 private:
  std::optional<PriceJournal> journal_;
  std::vector<std::string> keys_;  // of each setup
};

// Those of `order`, on so many threads.
Status price_missing(const std::vector<std::size_t>& order, const PublishedImport& import,
                     const BoardOptions& options, PricedBefore& before, std::vector<PricedSetup>& priced) {
  std::atomic<std::size_t> next{0}, done{0};
  std::mutex guard;
  Errors errors;
  const auto work = [&] {
    for (std::size_t i = next++; i < order.size(); i = next++) {
      auto one = price_setup(import.setups[order[i]], options);
      const std::lock_guard<std::mutex> lock(guard);
      const Status kept = one.ok() ? before.add(order[i], *one) : ok_status();
      if (!one.ok() || !kept.ok()) {
        if (errors.empty()) errors = one.ok() ? kept.errors() : one.errors();
        next = order.size();
        return;
      }
      priced[order[i]] = std::move(*one);
      if (options.progress) options.progress(++done, order.size());
    }
  };
  std::vector<std::jthread> pool;
  for (int t = 1; t < options.threads; ++t) pool.emplace_back(work);
  work();
  pool.clear();
  if (!errors.empty()) return errors;
  return ok_status();
}

Result<std::vector<PricedSetup>> price_setups(const PublishedImport& import, const BoardOptions& options) {
  const std::vector<bool> wanted = wanted_setups(import);
  ORRERY_TRY(before, PricedBefore::open(import, options));
  std::vector<PricedSetup> priced(import.setups.size());
  std::vector<std::size_t> all, missing;
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    if (!wanted[i]) continue;
    all.push_back(i);
    if (const PricedSetup* const known = before.find(i))
      priced[i] = *known;
    else
      missing.push_back(i);
  }
  if (before.on() && options.resumed) options.resumed(all.size() - missing.size(), all.size());
  ORRERY_TRY_STATUS(price_missing(missing, import, options, before, priced));
  ORRERY_TRY_STATUS(before.settle(all));
  return priced;
}

void place(const ImportedFigure& figure, PublishedBoard& out) {
  LeftOutRow left{figure.row, figure.rule, figure.why, std::nullopt};
  if (!figure.has_setup) return out.left_out.push_back(std::move(left));
  const PricedSetup& setup = out.priced[figure.setup];
  const std::string name = out.setups[figure.setup].metrics[figure.metric].name();
  const auto found = std::find_if(setup.metrics.begin(), setup.metrics.end(),
                                  [&](const ComparedMetric& m) { return m.name == name; });
  const bool answered = found != setup.metrics.end() && found->predicted > 0;
  if (figure.rule == RowRule::priced && setup.rule != RowRule::priced) {
    left.rule = setup.rule;
    left.why = setup.why;
  } else if (figure.rule == RowRule::priced && !answered) {
    left.rule = RowRule::no_answer;
    left.why = name;
  } else if (answered) {
    ComparedMetric metric = *found;
    metric.measured = figure.measured;
    if (figure.rule == RowRule::priced) {
      const bool interval = setup.intervals[static_cast<std::size_t>(found - setup.metrics.begin())];
      return out.board.push_back({figure.row, figure.setup, metric, interval});
    }
    left.error_percent = metric.error_percent();
  }
  out.left_out.push_back(std::move(left));
}

double percentile(std::vector<double> values, double p) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  return linear_percentile(values, p);
}

std::vector<double> absolute(std::vector<double> values) {
  for (double& v : values) v = std::abs(v);
  return values;
}

bool concerns(const std::vector<std::string>& names, const std::string& name) {
  return names.empty() || std::any_of(names.begin(), names.end(), [&](const std::string& n) {
           return name == n || name.starts_with(n + "-");
         });
}

}  // namespace

Result<PublishedBoard> price_published(std::vector<FigureRow> rows, const ImportRules& rules,
                                       const BoardOptions& options) {
  PublishedImport import = import_rows(rows, rules);
  leave_out_impossible(rows, rules, import);
  PublishedBoard out;
  ORRERY_TRY(priced, price_setups(import, options));
  out.priced = std::move(priced);
  out.setups = std::move(import.setups);
  out.rows = std::move(rows);
  out.bars = rules.bars;
  out.explanations = rules.explanations;
  out.runs = options.runs;
  for (const ImportedFigure& figure : import.figures) place(figure, out);
  return out;
}

void BoardGroup::add(const ComparedMetric& metric, bool with_interval) {
  errors.push_back(metric.error_percent());
  if (!with_interval) return;
  ++intervals;
  covered += metric.inside();
  const std::string v = verdict(metric, true);
  inside += v == "inside";
  uninformative += v == "uninformative";
}

double BoardGroup::median() const { return percentile(errors, 50); }
double BoardGroup::median_absolute() const { return percentile(absolute(errors), 50); }
double BoardGroup::p90_absolute() const { return percentile(absolute(errors), 90); }

bool is_scored(const PublishedBoard& board, const BoardRow& row) {
  return row.interval && !is_fitted_half(case_name(board.setups[row.setup]));
}

std::map<std::string, BoardGroup> group_board(
    const PublishedBoard& board,
    const std::function<std::string(const FigureRow&, const PublishedSetup&, const ComparedMetric&)>& key) {
  std::map<std::string, BoardGroup> groups;
  for (const BoardRow& row : board.board)
    groups[key(board.rows[row.row], board.setups[row.setup], row.compared)].add(row.compared,
                                                                                is_scored(board, row));
  return groups;
}

std::vector<BarResult> compare_bars(const PublishedBoard& board) {
  std::vector<BarResult> out;
  for (const AccuracyBar& bar : board.bars) {
    BoardGroup group;
    for (const BoardRow& row : board.board) {
      const PublishedSetup& setup = board.setups[row.setup];
      if (concerns(bar.hardware, setup.hardware) && concerns(bar.families, setup.engine) &&
          quantity_of(row.compared.name) == bar.quantity)
        group.add(row.compared, false);
    }
    out.push_back({bar, group.errors.size(), group.median_absolute()});
  }
  return out;
}

}  // namespace orrery
