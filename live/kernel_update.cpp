#include "live/kernel_update.h"

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "base/files.h"
#include "base/statistics.h"
#include "base/text.h"
#include "base/yaml_reader.h"
#include "costmodel/csv_table.h"
#include "live/kernel_profile.h"

namespace orrery {

namespace {

namespace fs = std::filesystem;

// Measured steps beside two price lists.
struct Tried {
  double measured = 0, before = 0, after = 0;
  std::vector<double> before_errors, after_errors;
};

double absolute_percent(double priced, double measured) { return std::abs(priced / measured - 1) * 100; }

double median(std::vector<double>& values) {
  std::sort(values.begin(), values.end());
  return linear_percentile(values, 50);
}

// The last third of each pool's steps, whose numbers are its own, is held out: from this number on.
using Cuts = std::map<std::uint32_t, std::uint64_t>;
Cuts cuts_of(const std::vector<KernelStep>& steps) {
  std::map<std::uint32_t, std::vector<std::uint64_t>> numbers;
  for (const KernelStep& s : steps) numbers[s.pool].push_back(s.step);
  Cuts cuts;
  for (auto& [pool, of_pool] : numbers) {
    std::sort(of_pool.begin(), of_pool.end());
    const std::size_t kept = of_pool.size() - of_pool.size() / 3;
    cuts[pool] = kept < of_pool.size() ? of_pool[kept] : of_pool.back() + 1;
  }
  return cuts;
}

bool held_out(const Cuts& cuts, const KernelStep& s) {
  const auto cut = cuts.find(s.pool);
  return cut != cuts.end() && s.step >= cut->second;
}

std::vector<TableUpdate::HeldOut> try_on(const KernelRun& run, const Cuts& cuts, const StepPricer& before,
                                         const StepPricer& after) {
  std::map<std::string, Tried> kinds;
  for (const KernelStep& s : run.steps) {
    if (!held_out(cuts, s) || s.device_ns <= 0 || s.first_use) continue;
    const double measured = static_cast<double>(s.device_ns), was = priced_device_ns(before, s),
                 is = priced_device_ns(after, s);
    for (const char* kind : {s.chunks.empty() ? "decode" : "with prompts", "all"}) {
      Tried& t = kinds[kind];
      t.measured += measured;
      t.before += was;
      t.after += is;
      t.before_errors.push_back(absolute_percent(was, measured));
      t.after_errors.push_back(absolute_percent(is, measured));
    }
  }
  std::vector<TableUpdate::HeldOut> out;
  for (auto& [kind, t] : kinds)
    out.push_back({kind, t.before_errors.size(), (t.before / t.measured - 1) * 100,
                   (t.after / t.measured - 1) * 100, median(t.before_errors), median(t.after_errors)});
  return out;
}

std::string held_out_text(const std::vector<TableUpdate::HeldOut>& held_out) {
  TextTable table({"held-out steps", "n", "tables", "updated", "median |error|", "updated"});
  const auto percent = [](double value) { return format_fixed(value, 1) + " %"; };
  for (const auto& h : held_out)
    table.add({h.kind, std::to_string(h.steps), percent(h.before), percent(h.after), percent(h.before_median),
               percent(h.after_median)});
  return table.to_string();
}

// What corrects the tables now, and the set whose files they are.
struct KnownCorrections {
  std::string base;
  Corrections corrections;
};
Result<KnownCorrections> corrections_of(const InstanceSpec& spec) {
  const std::string folder =
      data_directory() + "/hardware_profiles/tables/" + spec.hardware.name + "/" + spec.kernels->name();
  std::error_code none;
  if (!fs::exists(folder + "/table.yaml", none))
    return invalid_input(
        "--update-calibration corrects a set of the part (orrery list kernels), not a folder "
        "of one's own, which is corrected already",
        {}, "deployment.kernels");
  KnownCorrections out{spec.kernels->name(), {}};
  ORRERY_TRY(document, YamlDocument::load(folder + "/table.yaml"));
  if (const Yaml base = document.root().optional("base"); base.present()) out.base = base.text();
  if (!fs::exists(folder + "/corrections.csv", none)) return out;
  ORRERY_TRY(table, CsvTable::load(folder + "/corrections.csv"));
  Errors errors;
  for (const CsvTable::Row& row : table.rows())
    out.corrections[table.text(row, "op")].emplace_back(table.positive(row, "x", errors),
                                                        table.positive(row, "factor", errors));
  if (!errors.empty()) return errors;
  return out;
}

}  // namespace

Status check_table_update(const Scenario& scenario) {
  if (scenario.pool.instance.kernels == nullptr)
    return invalid_input("--update-calibration corrects tables: deployment.kernels other than roofline", {},
                         "deployment.kernels");
  const Result<KnownCorrections> known = corrections_of(scenario.pool.instance);
  if (!known.ok()) return known.errors();
  return ok_status();
}

Result<TableUpdate> update_tables(const Scenario& scenario, const KernelRun& run, const std::string& source,
                                  const std::string& folder) {
  InstanceSpec spec = scenario.pool.instance;
  ORRERY_TRY_STATUS(check_table_update(scenario));
  if (run.profiled.empty())
    return invalid_input("--update-calibration corrects tables by launches: it needs --profile-steps");
  ORRERY_TRY(known, corrections_of(spec));
  const Cuts cuts = cuts_of(run.steps);
  std::vector<ProfiledStep> seen;
  for (const ProfiledStep& p : run.profiled)
    if (!held_out(cuts, p.step)) seen.push_back(p);
  ORRERY_TRY(before, StepPricer::create(spec));
  TableUpdate out;
  out.name = known.base + "-updated";
  const std::string set = folder + "/" + out.name;
  std::error_code failed;
  fs::create_directories(set, failed);
  ORRERY_TRY_STATUS(write_file_atomically(
      set + "/corrections.csv",
      corrections_csv(fitted_corrections(seen, before, *spec.kernels, known.corrections))));
  ORRERY_TRY_STATUS(write_file_atomically(
      set + "/table.yaml", "hardware: " + spec.hardware.name + "\nkernels: " + out.name +
                               "\nbase: " + known.base + "\nkind: " + to_string(spec.kernels->rung("")) +
                               "\nsource: " + quote(source) + "\n"));
  ORRERY_TRY(corrected, KernelSet::load(spec.hardware, set, spec.kernels->tuned()));
  spec.kernels = corrected;
  ORRERY_TRY(after, StepPricer::create(spec));
  out.fitted_steps = seen.size();
  out.held_out_steps = static_cast<std::size_t>(std::count_if(
      run.steps.begin(), run.steps.end(), [&](const KernelStep& s) { return held_out(cuts, s); }));
  out.held_out = try_on(run, cuts, before, after);
  const auto all =
      std::find_if(out.held_out.begin(), out.held_out.end(), [](const auto& h) { return h.kind == "all"; });
  if (all != out.held_out.end() && all->after_median < all->before_median) return out;
  fs::remove_all(set, failed);
  return make_error(ErrorKind::check_failed,
                    "--update-calibration: what launches took does not make the run's last third better, "
                    "which was held out; no tables were written\n" +
                        held_out_text(out.held_out));
}

Json table_update_json(const TableUpdate& u) {
  Json held_out = Json::array();
  for (const auto& h : u.held_out)
    held_out.push_back({{"kind", h.kind},
                        {"steps", h.steps},
                        {"before_percent", h.before},
                        {"after_percent", h.after},
                        {"before_median_percent", h.before_median},
                        {"after_median_percent", h.after_median}});
  return {{"tables", u.name},
          {"fitted_steps", u.fitted_steps},
          {"held_out_steps", u.held_out_steps},
          {"held_out", held_out}};
}

std::string table_update_text(const TableUpdate& u) {
  return "\ntables corrected by the launches of " + std::to_string(u.fitted_steps) +
         " profiled steps, tried on the run's last third, " +
         human_count(static_cast<double>(u.held_out_steps)) + " steps\n" + held_out_text(u.held_out);
}

}  // namespace orrery
