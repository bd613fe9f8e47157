#include "reports/casebook/published/beyond_part.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "base/text.h"
#include "reports/casebook/published/published_board.h"

namespace orrery {

namespace {

// Where rows of one measurement stand; two sources may call their files alike.
std::string file_of(const FigureRow& row) {
  const std::string& note = row[FigureColumn::note];
  const std::string key = "source_file=";
  std::string file;
  if (const std::size_t at = note.find(key); at != std::string::npos) {
    const std::size_t begin = at + key.size();
    file = note.substr(begin, note.find(';', begin) - begin);
  }
  return row[FigureColumn::source] + ": " + (file.empty() ? row[FigureColumn::locator] : file);
}

struct RunTimes {
  double ttft_ms = 0, tpot_ms = 0;
};

// Tokens a second whose products take the whole matrix rate of all GPUs. 0: it cannot be said of this setup.
double tokens_at_peak(const PublishedSetup& setup) {
  const auto scenario = read_setup(setup);
  if (!scenario.ok()) return 0;
  const InstanceSpec& instance = scenario->pool.instance;
  double peak = 0;
  for (const auto& [dtype, rate] : instance.hardware.matrix_rate) peak = std::max(peak, rate.value.value());
  const ModelSpec& m = instance.model;
  // Neither a look-up nor the head, which runs for one row of a prompt.
  const auto products = static_cast<double>(m.active_parameters() - 2 * m.vocabulary * m.hidden);
  return products > 0 ? peak * static_cast<double>(scenario->gpus()) / (2 * products) : 0;
}

// Setups of one part, model and plan are alike in it, and reading one takes a while.
class PeakTokens {
 public:
  double of(const PublishedSetup& setup) {
    const std::string key = setup.hardware + ", " + setup.model + ", " + setup.plan;
    const auto known = known_.find(key);
    if (known != known_.end()) return known->second;
    return known_.emplace(key, tokens_at_peak(setup)).first->second;
  }

 private:
  std::map<std::string, double> known_;
};

double tokens_per_second(const PublishedSetup& setup, const RunTimes& times) {
  const auto output = static_cast<double>(setup.output);
  const double seconds = (times.ttft_ms + (output - 1) * times.tpot_ms) / 1000;
  return static_cast<double>(setup.in_flight) * (static_cast<double>(setup.input) + output) / seconds;
}

}  // namespace

void leave_out_impossible(const std::vector<FigureRow>& rows, const ImportRules& rules,
                          PublishedImport& import) {
  if (!(rules.most_of_peak > 0)) return;
  std::map<std::pair<std::string, std::size_t>, RunTimes> runs;  // locator, setup
  for (const ImportedFigure& f : import.figures) {
    if (f.rule != RowRule::priced || import.setups[f.setup].in_flight == 0) continue;
    const std::string metric = import.setups[f.setup].metrics[f.metric].name();
    RunTimes& run = runs[{rows[f.row][FigureColumn::locator], f.setup}];
    if (metric == "ttft_ms.mean") run.ttft_ms = f.measured;
    if (metric == "tpot_ms.mean") run.tpot_ms = f.measured;
  }
  PeakTokens peaks;
  std::set<std::pair<std::string, std::size_t>> flagged;
  for (const auto& [key, times] : runs) {
    if (!(times.ttft_ms > 0) || !(times.tpot_ms > 0)) continue;
    const PublishedSetup& setup = import.setups[key.second];
    const double peak = peaks.of(setup);
    if (peak > 0 && tokens_per_second(setup, times) > rules.most_of_peak * peak) flagged.insert(key);
  }
  std::set<std::string> files;
  for (const ImportedFigure& f : import.figures) {
    if (f.has_setup && flagged.contains({rows[f.row][FigureColumn::locator], f.setup}))
      files.insert(file_of(rows[f.row]));
  }
  for (ImportedFigure& f : import.figures) {
    if (f.rule != RowRule::priced || !files.contains(file_of(rows[f.row]))) continue;
    f.rule = RowRule::impossible;
    f.why = file_of(rows[f.row]);
  }
}

}  // namespace orrery
