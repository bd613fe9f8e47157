#include "reports/casebook/published/run_import.h"

#include <algorithm>
#include <array>
#include <map>

#include "base/files.h"
#include "base/json.h"
#include "base/text.h"
#include "costmodel/profile_folder.h"
#include "reports/casebook/published/published_metric.h"
#include "reports/casebook/published_requests.h"

namespace orrery {

namespace {

using Column = FigureColumn;

struct RuleText {
  const char *name, *meaning;
  bool lifted;
};
constexpr std::array<RuleText, row_rules> kRules = {{
    {"priced", "simulated and compared", false},
    {"value", "the figure is not above 0", false},
    {"metric", "a figure that no simulation gives (power, prices, accuracy) or that needs the number of GPUs",
     false},
    {"hardware", "no profile of the part", false},
    {"engine", "engine not modelled", true},
    {"engine_version", "vLLM before V1, not a static batch", true},
    {"disowned", "the source says that its figures are not to be relied on", true},
    {"cold", "the figure is decided by the first requests of a server that the client had not warmed up",
     true},
    {"disaggregated", "prefill and decode apart: the rows do not say links, routing and KV transfer", false},
    {"speculation", "speculative decoding: the rows do not say the acceptance", true},
    {"model", "no model profile and no configuration at hand", false},
    {"quantization", "number format not known", false},
    {"workload", "lengths or load are not stated", false},
    {"plan", "the GPUs and the parallel plan do not agree", false},
    {"fitted", "a figure of the engine's profile was made from it", false},
    {"refused", "this version does not model the deployment", false},
    {"does_not_fit", "weights and KV cache do not fit as described", false},
    {"no_answer", "the simulation answers no request", false},
    {"impossible", "of a file in which, read as it stands, a run multiplies faster than its part was seen to",
     true},
}};

bool among(const std::vector<std::string>& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

bool holds(const std::string& text, const char* part) { return text.find(part) != std::string::npos; }

struct ModelChoice {
  std::string name;      // a profile, or the path of a config.json
  bool shipped = false;  // brings a quantisation of its own
};

// What the rows of one run have in common, as far as it could be made out.
struct Run {
  RunFacts facts;
  ModelChoice model;
  std::string engine;  // profile
  std::string quantization, kv_cache_dtype, frontend = "openai";
  std::int64_t tp = 1, ep = 1, pp = 1, dp = 1, gpus = 0;
  std::int64_t requests = 0;
  double low_share = 1, rounds = 10;
  bool static_batch = false;
  double rate = 0;  // > 0: an open loop
  std::map<std::string, std::string> engine_args;
};

class Importer {
 public:
  explicit Importer(const ImportRules& rules) : rules_(rules) {}

  PublishedImport import(const std::vector<FigureRow>& rows) {
    for (std::size_t i = 0; i < rows.size(); ++i) {
      ImportedFigure figure;
      figure.row = i;
      place(rows[i], figure);
      out_.figures.push_back(std::move(figure));
    }
    return std::move(out_);
  }

 private:
  // The first rule that leaves the row out; a rule that can be lifted lets the others be looked at, for the
  // setup that the row would have.
  void place(const FigureRow& row, ImportedFigure& figure) {
    Run run;
    bool stopped = false;
    const auto leave = [&](RowRule rule, std::string why) {
      if (figure.rule == RowRule::priced) {
        figure.rule = rule;
        figure.why = std::move(why);
      }
      stopped = stopped || !can_be_lifted(rule);
    };
    if (!(row.value > 0)) leave(RowRule::value, quote(row[Column::value]));
    read_names(row, run, leave);
    if (!stopped) read_load(row, run, leave);
    if (!stopped) apply_settings(row, run);
    if (!stopped) read_plan(row, run, leave);
    if (stopped) return;
    const std::optional<BenchmarkMetric> metric = published_metric(row, run.gpus);
    if (!metric) return leave(RowRule::metric, row[Column::metric] + ", " + row[Column::unit]);
    figure.measured = metric->value;
    figure.has_setup = true;
    figure.setup = setup_of(run);
    std::vector<BenchmarkMetric>& metrics = out_.setups[figure.setup].metrics;
    const auto known = std::find_if(metrics.begin(), metrics.end(),
                                    [&](const BenchmarkMetric& m) { return m.name() == metric->name(); });
    figure.metric = static_cast<std::size_t>(known - metrics.begin());
    if (known == metrics.end()) metrics.push_back(*metric);
  }

  template <class Leave>
  void read_names(const FigureRow& row, Run& run, const Leave& leave) {
    RunFacts& f = run.facts;
    f.source = row[Column::source];
    f.locator = row[Column::locator];
    f.workload = row[Column::workload];
    f.quant = row[Column::quant];
    if (const NamedProfile* part = find_name(rules_.hardware, row[Column::hw]))
      f.hardware = part->profile;
    else
      leave(RowRule::hardware, row[Column::hw]);
    if (const NamedProfile* engine = find_name(rules_.engines, row[Column::engine])) {
      f.family = engine->profile;
    } else {
      f.family = "vllm";  // as if, for what the rule does
      leave(RowRule::engine, row[Column::engine]);
    }
    if (row[Column::disagg] == "1" || holds(row[Column::workload], "MORI-IO"))
      leave(RowRule::disaggregated, row[Column::tp]);
    read_speculation(row, leave);
    run.model = find_model(row);
    if (run.model.name.empty()) leave(RowRule::model, row[Column::model]);
    f.model = run.model.name;
    read_quantization(row, run, leave);
    f.version = version_of(row);
    f.ep = std::max<std::int64_t>(1, whole_cell(row[Column::ep]));
    for (const RunSetting& s : rules_.settings) {
      if (!s.holds(f)) continue;
      if (s.version >= 0 && f.version < 0) f.version = s.version;
      if (!s.other_engine.empty()) leave(RowRule::engine, s.other_engine);
      if (s.disowned) leave(RowRule::disowned, f.source);
      if (among(s.cold, row[Column::metric])) leave(RowRule::cold, row[Column::metric]);
      if (s.drafts) leave(RowRule::speculation, "by the source");
      if (s.fitted) leave(RowRule::fitted, f.model);
      if (s.load_unstated) leave(RowRule::workload, "load of the server");
    }
  }

  template <class Leave>
  static void read_speculation(const FigureRow& row, const Leave& leave) {
    const std::string& note = row[Column::note];
    const bool off = holds(note, "spec=none") || holds(note, "no EAGLE");
    const bool glm = holds(note, "MTP1 on for GLM-5");  // of that model's rows only
    const bool on = holds(note, "spec=") || holds(note, "EAGLE") || holds(note, "MTP") ||
                    holds(row[Column::quant], "MTP");
    if (on && !off && (!glm || holds(row[Column::model], "GLM-5")))
      leave(RowRule::speculation, note.empty() ? row[Column::quant] : note);
  }

  ModelChoice find_model(const FigureRow& row) {
    const std::string& name = row[Column::model];
    ModelChoice choice;
    if (among(rules_.no_model, name)) {
      for (const NamedProfile& page : rules_.locator_models) {
        for (const std::string& part : page.names) {
          if (row[Column::locator].find(part) != std::string::npos) choice.name = page.profile;
        }
      }
    } else if (const NamedProfile* known = find_name(rules_.models, name)) {
      choice.name = known->profile;
    } else if (const std::size_t slash = name.find('/'); slash != std::string::npos) {
      choice.name = find_shared_file("data/hf_configs/" + name.substr(0, slash) + "--" +
                                     name.substr(slash + 1) + "_config.json");
    }
    if (choice.name.empty()) return choice;
    const auto found = shipped_.find(choice.name);
    if (found != shipped_.end()) {
      choice.shipped = found->second;
      return choice;
    }
    const bool path = choice.name.ends_with(".json");
    const auto text = read_text_file(path ? choice.name : profile_path("model_profiles", choice.name));
    choice.shipped = text.ok() && text->find("quantization_config") != std::string::npos;
    shipped_.emplace(choice.name, choice.shipped);
    return choice;
  }

  template <class Leave>
  void read_quantization(const FigureRow& row, Run& run, const Leave& leave) const {
    const std::string& cell = row[Column::quant];
    for (const QuantizationRule& rule : rules_.quantizations) {
      if (!among(rule.names, cell)) continue;
      if (!run.model.shipped) run.quantization = rule.quantization;
      run.kv_cache_dtype = rule.kv_cache_dtype;
      return;
    }
    if (!run.model.shipped) leave(RowRule::quantization, cell);
  }

  int version_of(const FigureRow& row) const {
    const std::string& cell = row[Column::engine_version];
    for (const auto& [name, version] : rules_.named_versions) {
      if (cell == name) return version;
    }
    // A date is not a version, and the image of Dynamo names Dynamo's own.
    return holds(cell, "tensorrtllm-runtime") || cell.starts_with("20") ? -1 : release_number(cell);
  }

  template <class Leave>
  void read_load(const FigureRow& row, Run& run, const Leave& leave) const {
    RunFacts& f = run.facts;
    f.input = whole_cell(row[Column::isl]);
    f.output = whole_cell(row[Column::osl]);
    f.load = whole_cell(row[Column::load_value]);
    const std::string& type = row[Column::load_type];
    run.static_batch = type == "batch_size";
    if (type == "qps" || type == "qps_poisson") {
      run.rate = number_cell(row[Column::load_value]);
      f.load = 0;
    }
    if (type != "concurrency" && !run.static_batch && !(run.rate > 0))
      return leave(RowRule::workload, "load " + type);
    if (f.input == 0 || f.output == 0 || (f.load == 0 && !(run.rate > 0)))
      return leave(RowRule::workload, "lengths " + row[Column::isl] + ", " + row[Column::osl] + ", load " +
                                          row[Column::load_value]);
    const VersionRule* chosen = nullptr;
    for (const VersionRule& rule : rules_.versions) {
      if (rule.family == f.family && (f.version < 0 || rule.from <= f.version)) chosen = &rule;
    }
    if (chosen == nullptr) return leave(RowRule::engine_version, row[Column::engine_version]);
    run.engine = chosen->profile;
    if (chosen->static_only && !run.static_batch) leave(RowRule::engine_version, row[Column::engine_version]);
  }

  void apply_settings(const FigureRow& row, Run& run) const {
    double seconds = 0;
    for (const RunSetting& s : rules_.settings) {
      if (!s.holds(run.facts)) continue;
      for (const auto& [name, value] : s.engine_args) run.engine_args[name] = value.of(run.facts);
      if (!s.quantization.empty()) run.quantization = s.quantization;
      if (!s.kv_cache_dtype.empty()) run.kv_cache_dtype = s.kv_cache_dtype;
      if (!s.frontend.empty()) run.frontend = s.frontend;
      if (!s.profile.empty()) run.engine = s.profile;
      if (s.low_share >= 0) run.low_share = s.low_share;
      if (s.rounds > 0) run.rounds = s.rounds;
      if (s.duration_s > 0) seconds = s.duration_s;
    }
    run.requests = stated_requests(row[Column::workload]);
    if (run.static_batch) run.requests = run.facts.load;
    if (run.rate > 0 && seconds > 0 && run.requests > 0)
      run.rate = static_cast<double>(run.requests) / seconds;
  }

  // "80 prompts", "n=320.0", "2363 req": 0 when it says none.
  static std::int64_t stated_requests(const std::string& workload) {
    for (const char* const unit : {" prompts", " req"}) {
      const std::size_t end = workload.find(unit);
      if (end == std::string::npos || end == 0) continue;
      std::size_t begin = end;
      while (begin > 0 && workload[begin - 1] >= '0' && workload[begin - 1] <= '9') --begin;
      return whole_cell(workload.substr(begin, end - begin));
    }
    const std::size_t n = workload.find(" n=");
    return n == std::string::npos ? 0 : whole_cell(workload.substr(n + 3, workload.find(' ', n + 3) - n - 3));
  }

  template <class Leave>
  void read_plan(const FigureRow& row, Run& run, const Leave& leave) const {
    const bool ranks = holds(row[Column::dp], "dp_attn") || holds(row[Column::dp], "attention_dp");
    run.gpus = whole_cell(row[Column::gpus]);
    run.tp = whole_cell(row[Column::tp]);
    run.pp = std::max<std::int64_t>(1, whole_cell(row[Column::pp]));
    run.ep = run.facts.ep;
    run.dp = ranks ? 1 : std::max<std::int64_t>(1, whole_cell(row[Column::dp]));
    if (run.tp == 0)
      run.tp = run.gpus > 0 && run.gpus % (run.pp * run.dp) == 0 ? run.gpus / (run.pp * run.dp) : 0;
    bool multiplied = false;
    for (const RunSetting& s : rules_.settings)
      multiplied = multiplied || (s.plan_multiplied && s.holds(run.facts));
    if (multiplied && run.ep > 1) {
      if (run.tp * run.dp == run.ep * run.ep) (run.dp > 1 ? run.dp : run.tp) /= run.ep;
      if (run.gpus == run.ep * run.ep) run.gpus = run.ep;
    }
    if (ranks) std::swap(run.tp, run.dp);
    const std::int64_t planned = run.tp * run.dp * run.pp;
    if (run.gpus == 0) run.gpus = planned;
    if (planned == 0 || planned != run.gpus)
      leave(RowRule::plan, "tp " + row[Column::tp] + ", ep " + row[Column::ep] + ", pp " + row[Column::pp] +
                               ", dp " + row[Column::dp] + " on " + row[Column::gpus] + " GPUs");
  }

  static std::string lengths(double low_share, std::int64_t length) {
    const auto low =
        std::max<std::int64_t>(1, static_cast<std::int64_t>(low_share * static_cast<double>(length)));
    if (low >= length) return "{distribution: fixed, value: " + std::to_string(length) + "}";
    return "{distribution: uniform, low: " + std::to_string(low) + ", high: " + std::to_string(length) + "}";
  }

  // As many requests as the tool sends, within the most decode steps.
  static std::int64_t requests_of(const Run& run) {
    const RunFacts& f = run.facts;
    if (run.static_batch) return run.requests;
    if (run.rate > 0) return run.requests > 0 ? std::min<std::int64_t>(run.requests, 4000) : 500;
    const std::int64_t sent =
        run.requests > 0 ? run.requests : static_cast<std::int64_t>(run.rounds * static_cast<double>(f.load));
    const std::int64_t rounds = std::max(least_rounds, most_decode_steps / f.output);
    return std::max<std::int64_t>(1, std::min(sent, rounds * f.load));
  }

  std::size_t setup_of(const Run& run) {
    const RunFacts& f = run.facts;
    PublishedSetup setup;
    setup.hardware = f.hardware;
    setup.engine = run.engine;
    setup.model = f.model.ends_with(".json") ? f.model.substr(f.model.rfind('/') + 1) : f.model;
    setup.plan = "tp " + std::to_string(run.tp) + (run.ep > 1 ? " ep " + std::to_string(run.ep) : "") +
                 (run.pp > 1 ? " pp " + std::to_string(run.pp) : "") +
                 (run.dp > 1 ? " dp " + std::to_string(run.dp) : "");
    setup.load = std::to_string(f.input) + "+" + std::to_string(f.output) + ", " +
                 (run.rate > 0       ? shown_rate(run.rate) + "/s"
                  : run.static_batch ? "batch of " + std::to_string(f.load)
                                     : std::to_string(f.load) + " in flight");
    setup.input = f.input;
    setup.output = f.output;
    setup.in_flight = run.rate > 0 ? 0 : f.load;
    setup.rate = run.rate;
    std::string args;
    for (const auto& [name, value] : run.engine_args)
      args += (args.empty() ? "" : ", ") + name + ": " + value;
    std::string& text = setup.scenario;
    text = "deployment:\n  hardware: " + f.hardware + "\n  model: " + f.model + "\n  engine: " + run.engine +
           "\n  parallel: {tp: " + std::to_string(run.tp) + ", pp: " + std::to_string(run.pp) +
           ", ep: " + std::to_string(run.ep) + ", dp: " + std::to_string(run.dp) + "}\n";
    if (!run.quantization.empty()) text += "  quantization: " + run.quantization + "\n";
    if (!run.kv_cache_dtype.empty()) text += "  kv_cache_dtype: " + run.kv_cache_dtype + "\n";
    if (!args.empty()) text += "  engine_args: {" + args + "}\n";
    text += "workload:\n  frontend: " + (run.static_batch ? "none" : run.frontend) + "\n";
    if (!(run.rate > 0)) text += "  closed_loop: {concurrency: " + std::to_string(f.load) + "}\n";
    text += "  generator:\n    requests: " + std::to_string(requests_of(run)) + "\n    arrivals: " +
            (run.rate > 0 ? "{process: poisson, rate: " + format_number(run.rate) + "}"
                          : "{process: fixed, rate: 1000}") +
            "\n    input: " + lengths(run.low_share, f.input) +
            "\n    output: " + lengths(run.low_share, f.output) + "\n";
    const auto [at, added] = by_text_.emplace(text, out_.setups.size());
    if (added) out_.setups.push_back(std::move(setup));
    return at->second;
  }

  // For people; the scenario has every digit.
  static std::string shown_rate(double rate) {
    return rate < 0.1 ? format_number(rate) : format_fixed(rate, 3);
  }

  const ImportRules& rules_;
  PublishedImport out_;
  std::map<std::string, std::size_t> by_text_;  // scenario → setup
  std::map<std::string, bool> shipped_;         // model → brings its own quantisation
};

}  // namespace

const char* to_string(RowRule rule) { return kRules[static_cast<std::size_t>(rule)].name; }
const char* meaning(RowRule rule) { return kRules[static_cast<std::size_t>(rule)].meaning; }
bool can_be_lifted(RowRule rule) { return kRules[static_cast<std::size_t>(rule)].lifted; }

PublishedImport import_rows(const std::vector<FigureRow>& rows, const ImportRules& rules) {
  return Importer(rules).import(rows);
}

}  // namespace orrery
