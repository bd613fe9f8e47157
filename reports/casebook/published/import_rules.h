// What published rows mean: how their names map to profiles, and how the client and the server behind a
// source's figures were set up. Data, not code: reports/cases/import_rules.yaml.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "reports/casebook/published/figure_rows.h"

namespace orrery {

// A profile and the names that rows give it.
struct NamedProfile {
  std::string profile;
  std::vector<std::string> names;
};

// Which profile serves versions from `from` (release_number) on; the last one that holds.
struct VersionRule {
  std::string family;  // an engine of ours
  int from = 0;
  std::string profile;
  bool static_only = false;  // its scheduler is another one: static batches only
};

// `kind: shipped` stands for the checkpoint's own.
struct QuantizationRule {
  std::vector<std::string> names;
  std::string quantization, kv_cache_dtype;  // "" = the model's
};

// Values of one run that conditions and expressions may name.
struct RunFacts {
  std::string hardware, model, family;           // profiles, and our engine
  int version = -1;                              // release_number; −1 = not said
  std::string source, locator, workload, quant;  // cells
  std::int64_t input = 0, output = 0, load = 0, ep = 1;
};

// One value of engine_args: YAML text in which $load stands for the load, or a sum over facts.
struct ArgumentValue {
  std::string text;
  std::vector<std::string> sum;  // "load", "input", "output" or a number; empty: text
  std::int64_t multiple_of = 1, at_least = 0;
  std::string of(const RunFacts& facts) const;
};

// What a rule says of the runs that its conditions hold for. Later rules win.
struct RunSetting {
  // Conditions: all that are given must hold; of a list, one of its values.
  std::vector<std::string> sources, locators, workloads;  // parts of the cell
  std::vector<std::string> quants;                        // the whole cell
  std::vector<std::string> hardware, models, families;
  // experts: the row's ep; a version without a patch stands for all of its patches
  std::vector<std::int64_t> inputs, outputs, versions, experts;
  bool holds(const RunFacts& facts) const;

  std::vector<std::pair<std::string, ArgumentValue>> engine_args;
  std::string quantization, kv_cache_dtype, frontend;  // "" = says nothing
  std::string profile;                                 // of the engine, where the version's is not the one
  double low_share = -1;                               // of lengths: drawn from low_share · length to length
  double rounds = 0;                                   // requests per place of the closed loop
  double duration_s = 0;                               // open loop: the rate is requests ÷ this
  int version = -1;                                    // where the row says none: no newer than this
  bool plan_multiplied = false;  // tp, dp or the number of GPUs stands there multiplied with ep
  bool drafts = false;           // speculative decoding that the row does not tell
  bool fitted = false;           // a figure of the engine's profile was made from the row
  std::string other_engine;      // what really served them, where the row's name is that of an engine of ours
  bool load_unstated = false;    // the row's load is not the server's
  bool disowned = false;         // the source says that its figures are not to be relied on
  std::vector<std::string> cold;  // metrics that hold what a server compiles or tunes at its first requests
};

// A target of docs/validation.md that `--bars` asks for.
struct AccuracyBar {
  std::vector<std::string> hardware, families;  // empty: all
  std::string quantity;                         // "tpot_ms", "throughput", "ttft_ms"
  double median_abs_percent = 0;
};

// What is known of why rows are off: conditions as a setting's, but `engines` are profiles.
struct RowExplanation {
  std::vector<std::string> sources;  // parts of the cell
  std::vector<std::string> hardware, engines, models, quantities;
  std::string text;
  bool holds(const std::string& source, const std::string& part, const std::string& engine,
             const std::string& model, const std::string& quantity) const;
};

struct ImportRules {
  std::vector<NamedProfile> hardware, models, engines;  // engines: to our engine's name
  std::vector<NamedProfile> locator_models;             // the model by a part of the locator
  std::vector<std::string> no_model;                    // names that say nothing: the locator decides
  std::vector<VersionRule> versions;
  std::vector<std::pair<std::string, int>> named_versions;  // "nightly 2026-02" → 0.16
  std::vector<QuantizationRule> quantizations;
  std::vector<RunSetting> settings;
  double most_of_peak = 0;  // of the part's matrix rate; 0: not looked at (beyond_part.h)
  std::vector<AccuracyBar> bars;
  std::vector<RowExplanation> explanations;  // the first that holds is printed
};

Result<ImportRules> load_import_rules(const std::string& path);
std::string import_rules_path();

// A release as one number, three digits a part: "lmsysorg/sglang:v0.5.12-cu130" → 5,012, "1.0.0rc3" →
// 1,000,000; −1: none is said.
int release_number(const std::string& text);
const NamedProfile* find_name(const std::vector<NamedProfile>& list, const std::string& name);

}  // namespace orrery
