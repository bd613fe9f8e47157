#include "reports/casebook/score_rows.h"

#include <algorithm>

#include "base/digest.h"
#include "base/text.h"

namespace orrery {

namespace {

PriceEvidence evidence_of(const PublishedSetup& setup, const PricedSetup& priced) {
  PriceEvidence out{setup.hardware, setup.engine, main_rung(priced.provenance), setup.model};
  out.prompt_tokens = setup.input;
  out.output_tokens = setup.output;
  out.in_flight = setup.in_flight;
  out.tables = share_of_tables(priced.provenance);
  out.plan = setup.plan;
  return out;
}

// Null for a pair, and for a run of ours.
const PublishedRun* run_of(const CaseComparison& c, const ComparedRun& run) {
  const auto found = std::find_if(c.about.runs.begin(), c.about.runs.end(),
                                  [&](const PublishedRun& r) { return r.name == run.name; });
  return found == c.about.runs.end() ? nullptr : &*found;
}

bool is_pooled(const PublishedRun* run) {
  return run != nullptr && !run->step && !run->is_capacity() && !run->is_rate() && !run->does_not_fit;
}

// A run that is a named case and a row too is one case, in whatever words and by whatever profile: so a name
// is no finer than what both say. Of open loops sources round the rate and give lengths as means.
std::string group_name(const std::string& part, const std::string& engine, std::string model,
                       const std::string& plan, const std::string& load) {
  if (model.ends_with("-fp8")) model.resize(model.size() - 4);
  if (model == "deepseek-r1") model = "deepseek-v3";  // equal layers
  return join({part, engine_family(engine), model, plan, load}, ", ");
}

std::string at_once(std::int64_t input, std::int64_t output, std::int64_t requests) {
  return requests == 0 ? "by rate"
                       : std::to_string(input) + "+" + std::to_string(output) + ", " +
                             std::to_string(requests) + " at once";
}

std::string load_of(const WorkloadSpec& w) {
  const auto tokens = [](const LengthSpec& length) {
    return static_cast<std::int64_t>(length.kind == LengthSpec::Kind::uniform ? length.high : length.value);
  };
  if (!w.generator) return at_once(0, 0, 0);
  return at_once(tokens(w.generator->input), tokens(w.generator->output), w.closed_loop_concurrency);
}

// Lengths are looked at only where they are given as such.
void add_load(const PublishedRun& run, ScoreRow& row) {
  const WorkloadSpec& w = run.scenario.workload;
  row.batch = static_cast<double>(w.closed_loop_concurrency);
  if (run.step) {
    row.batch = run.step->decode_sequences;
    if (row.batch > 0) row.context = static_cast<double>(run.step->decode_context_tokens) / row.batch;
  } else if (w.generator && w.closed_loop_concurrency == 0) {
    row.rate = w.generator->arrivals.rate;
  }
}

void correct_capacity(ComparedMetric& m, const KvInterval& ends) {
  if (!(m.prices_high > 0)) {
    m.prices_low = m.low;
    m.prices_high = m.high;
  }
  m.low = static_cast<double>(ends.low);
  m.high = static_cast<double>(ends.high);
}

}  // namespace

const char* to_string(ScoreSource source) {
  switch (source) {
    case ScoreSource::named_case: return "case";
    case ScoreSource::own_run: return "own run";
    case ScoreSource::published_row: return "published row";
  }
  return "";
}

bool is_fitted_half(const std::string& group) {
  Digest digest;
  digest.add_text(group);
  return (digest.value() >> 40) % 2 == 0;
}

const char* half_of(const ScoreRow& row) {
  if (!row.interval || !row.pooled) return "";
  return is_fitted_half(row.group) ? "fitted" : "scored";
}

std::string case_name(const PublishedSetup& setup) {
  return group_name(setup.hardware, setup.engine, setup.model, setup.plan,
                    at_once(setup.input, setup.output, setup.in_flight));
}

std::vector<ScoreRow> score_rows(const std::vector<CaseComparison>& cases) {
  std::vector<ScoreRow> out;
  for (const CaseComparison& c : cases) {
    for (const ComparedRun& run : c.runs) {
      ScoreRow row;
      row.source = c.own ? ScoreSource::own_run : ScoreSource::named_case;
      row.id = c.about.id;
      row.run = run.name;
      row.evidence = {c.about.hardware, c.own ? own_engine : c.about.engine, main_rung(run.provenance)};
      row.model = c.about.model;
      row.group = c.about.id;
      const PublishedRun* const published = run_of(c, run);
      if (published != nullptr) {
        const InstanceSpec& instance = published->scenario.pool.instance;
        row.evidence = evidence_of(published->scenario, run.provenance);
        row.model = instance.model.name;
        row.group = group_name(instance.hardware.name, instance.engine.name, row.model,
                               plan_name(instance.plan), load_of(published->scenario.workload));
        add_load(*published, row);
      }
      row.pooled = is_pooled(published) || (published != nullptr && published->is_capacity());
      row.interval = run.intervals;
      for (const ComparedMetric& m : run.metrics) {
        row.metric = m;
        out.push_back(row);
      }
    }
  }
  return out;
}

std::vector<ScoreRow> score_rows(const PublishedBoard& board) {
  std::vector<ScoreRow> out;
  for (const BoardRow& b : board.board) {
    const FigureRow& figure = board.rows[b.row];
    const PublishedSetup& setup = board.setups[b.setup];
    ScoreRow row;
    row.source = ScoreSource::published_row;
    row.id = "line " + std::to_string(figure.line);
    row.run = figure[FigureColumn::source] + ": " + figure[FigureColumn::locator];
    row.evidence = evidence_of(setup, board.priced[b.setup]);
    row.model = setup.model;
    row.group = case_name(setup);
    row.batch = static_cast<double>(setup.in_flight);
    row.context = static_cast<double>(setup.input + setup.output);
    row.rate = setup.rate;
    row.metric = b.compared;
    row.interval = b.interval;
    row.pooled = true;
    out.push_back(std::move(row));
  }
  return out;
}

void correct_intervals(std::vector<CaseComparison>& cases, const IntervalCorrections& corrections) {
  for (CaseComparison& c : cases) {
    for (ComparedRun& run : c.runs) {
      const PublishedRun* const published = run_of(c, run);
      if (!run.intervals) continue;
      const PriceEvidence evidence =
          is_pooled(published) ? evidence_of(published->scenario, run.provenance) : PriceEvidence();
      if (published != nullptr && published->is_capacity()) {
        const KvInterval ends = kv_interval(published->scenario.pool.memory, corrections.capacity.deviations);
        for (ComparedMetric& m : run.metrics) correct_capacity(m, ends);
        continue;
      }
      for (ComparedMetric& m : run.metrics)
        correct_interval(m, is_pooled(published) ? corrections : IntervalCorrections(), evidence);
    }
  }
}

void correct_intervals(PublishedBoard& board, const IntervalCorrections& corrections) {
  for (BoardRow& row : board.board) {
    if (row.interval)
      correct_interval(row.compared, corrections,
                       evidence_of(board.setups[row.setup], board.priced[row.setup]));
  }
}

}  // namespace orrery
