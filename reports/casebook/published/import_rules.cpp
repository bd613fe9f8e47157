#include "reports/casebook/published/import_rules.h"

#include <algorithm>
#include <charconv>

#include "base/files.h"
#include "base/text.h"
#include "base/yaml_reader.h"

namespace orrery {

namespace {

// A scalar, or a list of them.
std::vector<std::string> read_names(const Yaml& node) {
  if (!node.present()) return {};
  if (node.is_scalar()) return {node.scalar_text()};
  std::vector<std::string> out;
  for (const Yaml& item : node.items()) out.push_back(item.scalar_text());
  return out;
}

std::vector<std::int64_t> read_numbers(const Yaml& node) {
  std::vector<std::int64_t> out;
  if (!node.present()) return out;
  if (node.is_scalar()) return {node.integer(1, 0)};
  for (const Yaml& item : node.items()) out.push_back(item.integer(1, 0));
  return out;
}

std::vector<NamedProfile> read_profiles(const Yaml& node) {
  std::vector<NamedProfile> out;
  for (const auto& [profile, names] : node.entries()) out.push_back({profile, read_names(names)});
  return out;
}

int read_version(const Yaml& node) {
  const int version = release_number(node.scalar_text());
  if (version < 0) node.fail("expected a version as \"0.12\"");
  return version;
}

ArgumentValue read_argument(const Yaml& node) {
  ArgumentValue value;
  if (!node.is_map()) {
    value.text = node.scalar_text();
    return value;
  }
  value.sum = read_names(node.require("sum"));
  for (const std::string& term : value.sum) {
    if (term != "load" && term != "input" && term != "output" && whole_cell(term) == 0)
      node.optional("sum").fail("expected load, input, output or a number, got " + quote(term));
  }
  value.multiple_of = node.optional("multiple_of").integer(1, 1);
  value.at_least = node.optional("at_least").integer(0, 0);
  return value;
}

RunSetting read_setting(const Yaml& node) {
  RunSetting s;
  const Yaml when = node.require("when"), set = node.require("set");
  s.sources = read_names(when.optional("source"));
  s.locators = read_names(when.optional("locator"));
  s.workloads = read_names(when.optional("workload"));
  s.quants = read_names(when.optional("quant"));
  s.hardware = read_names(when.optional("hardware"));
  s.models = read_names(when.optional("model"));
  s.families = read_names(when.optional("engine"));
  s.inputs = read_numbers(when.optional("input"));
  s.outputs = read_numbers(when.optional("output"));
  s.experts = read_numbers(when.optional("ep"));
  const Yaml version = when.optional("version");
  if (version.is_list()) {
    for (const Yaml& item : version.items()) s.versions.push_back(read_version(item));
  } else if (version.present()) {
    s.versions.push_back(read_version(version));
  }
  if (const Yaml args = set.optional("engine_args"); args.present()) {
    for (const auto& [name, value] : args.entries()) s.engine_args.emplace_back(name, read_argument(value));
  }
  s.quantization = set.optional("quantization").scalar_text();
  s.kv_cache_dtype = set.optional("kv_cache_dtype").scalar_text();
  s.frontend = set.optional("frontend").scalar_text();
  if (const Yaml share = set.optional("low_share"); share.present()) s.low_share = share.number(1, 0, 1);
  if (const Yaml rounds = set.optional("rounds"); rounds.present()) s.rounds = rounds.number(1, 1, 1000);
  if (const Yaml seconds = set.optional("duration_s"); seconds.present())
    s.duration_s = seconds.number(1, 1, 1e6);
  if (const Yaml latest = set.optional("version"); latest.present()) s.version = read_version(latest);
  s.profile = set.optional("profile").scalar_text();
  s.fitted = set.optional("fitted").boolean(false);
  s.drafts = set.optional("drafts").boolean(false);
  s.other_engine = set.optional("other_engine").scalar_text();
  s.load_unstated = set.optional("load_unstated").boolean(false);
  s.disowned = set.optional("disowned").boolean(false);
  s.cold = read_names(set.optional("cold"));
  s.plan_multiplied = set.optional("plan_multiplied").boolean(false);
  node.require("why").text();
  return s;
}

bool holds_part(const std::vector<std::string>& parts, const std::string& cell) {
  return parts.empty() || std::any_of(parts.begin(), parts.end(), [&](const std::string& part) {
           return cell.find(part) != std::string::npos;
         });
}

template <class T, class V>
bool holds_one(const std::vector<T>& values, const V& value) {
  return values.empty() || std::find(values.begin(), values.end(), value) != values.end();
}

bool holds_version(const std::vector<std::int64_t>& versions, std::int64_t version) {
  return versions.empty() || std::any_of(versions.begin(), versions.end(), [&](std::int64_t v) {
           return v % 1000 == 0 ? version >= v && version < v + 1000 : version == v;
         });
}

}  // namespace

std::string ArgumentValue::of(const RunFacts& facts) const {
  if (sum.empty()) {
    const std::string name = "$load";
    const std::size_t at = text.find(name);
    if (at == std::string::npos) return text;
    return text.substr(0, at) + std::to_string(facts.load) + text.substr(at + name.size());
  }
  std::int64_t total = 0;
  for (const std::string& term : sum)
    total += term == "load"     ? facts.load
             : term == "input"  ? facts.input
             : term == "output" ? facts.output
                                : whole_cell(term);
  total = (total + multiple_of - 1) / multiple_of * multiple_of;
  return std::to_string(std::max(total, at_least));
}

bool RunSetting::holds(const RunFacts& facts) const {
  return holds_part(sources, facts.source) && holds_part(locators, facts.locator) &&
         holds_part(workloads, facts.workload) && holds_one(quants, facts.quant) &&
         holds_one(hardware, facts.hardware) && holds_one(models, facts.model) &&
         holds_one(families, facts.family) && holds_one(inputs, facts.input) &&
         holds_one(outputs, facts.output) && holds_one(experts, facts.ep) &&
         holds_version(versions, facts.version);
}

bool RowExplanation::holds(const std::string& source, const std::string& part, const std::string& engine,
                           const std::string& model, const std::string& quantity) const {
  return holds_part(sources, source) && holds_one(hardware, part) && holds_one(engines, engine) &&
         holds_one(models, model) && holds_one(quantities, quantity);
}

Result<ImportRules> load_import_rules(const std::string& path) {
  ORRERY_TRY(document, YamlDocument::load(path));
  const Yaml root = document.root();
  ImportRules rules;
  rules.hardware = read_profiles(root.require("hardware"));
  rules.engines = read_profiles(root.require("engines"));
  rules.models = read_profiles(root.require("models"));
  rules.locator_models = read_profiles(root.require("locator_models"));
  rules.no_model = read_names(root.require("no_model"));
  for (const Yaml& row : root.require("versions").items())
    rules.versions.push_back({row.require("engine").text(), read_version(row.require("from")),
                              row.require("profile").text(), row.optional("static_only").boolean(false)});
  for (const auto& [name, version] : root.require("named_versions").entries())
    rules.named_versions.emplace_back(name, read_version(version));
  for (const Yaml& row : root.require("quantizations").items())
    rules.quantizations.push_back({read_names(row.require("names")),
                                   row.optional("quantization").scalar_text(),
                                   row.optional("kv_cache_dtype").scalar_text()});
  for (const Yaml& row : root.require("settings").items()) rules.settings.push_back(read_setting(row));
  if (const Yaml most = root.optional("most_of_peak"); most.present()) {
    rules.most_of_peak = most.require("share").number(0, 0, 1);
    most.require("why").text();
  }
  for (const Yaml& row : root.require("bars").items())
    rules.bars.push_back({read_names(row.optional("hardware")), read_names(row.optional("engine")),
                          row.require("quantity").text(), row.require("median_abs_percent").number(10, 0)});
  if (const Yaml known = root.optional("explanations"); known.present()) {
    for (const Yaml& row : known.items())
      rules.explanations.push_back({read_names(row.optional("source")), read_names(row.optional("hardware")),
                                    read_names(row.optional("engine")), read_names(row.optional("model")),
                                    read_names(row.optional("quantity")), row.require("text").text()});
  }
  document.finish();
  if (!document.errors().empty()) return document.errors();
  return rules;
}

std::string import_rules_path() { return data_directory() + "/reports/cases/import_rules.yaml"; }

int release_number(const std::string& text) {
  // The first "number.number" in it: names of images may hold digits before the tag.
  const char* const end = text.data() + text.size();
  for (std::size_t i = 0; i < text.size(); ++i) {
    int major = 0, minor = 0, patch = 0;
    const auto first = std::from_chars(text.data() + i, end, major);
    if (first.ec != std::errc()) continue;
    if (first.ptr != end && *first.ptr == '.') {
      const auto second = std::from_chars(first.ptr + 1, end, minor);
      if (second.ec == std::errc() && major >= 0 && major < 100 && minor >= 0 && minor < 1000) {
        if (second.ptr != end && *second.ptr == '.') std::from_chars(second.ptr + 1, end, patch);
        return (major * 1000 + minor) * 1000 + (patch >= 0 && patch < 1000 ? patch : 0);
      }
    }
    i = static_cast<std::size_t>(first.ptr - text.data());
  }
  return -1;
}

const NamedProfile* find_name(const std::vector<NamedProfile>& list, const std::string& name) {
  for (const NamedProfile& entry : list) {
    if (std::find(entry.names.begin(), entry.names.end(), name) != entry.names.end()) return &entry;
  }
  return nullptr;
}

}  // namespace orrery
