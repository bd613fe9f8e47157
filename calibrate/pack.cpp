#include "calibrate/pack.h"

#include <cmath>

#include "base/digest.h"
#include "base/files.h"
#include "base/json.h"
#include "base/text.h"
#include "calibrate/bound.h"
#include "calibrate/hardware_of.h"
#include "calibrate/tables.h"
#include "costmodel/hardware.h"
#include "costmodel/profile_folder.h"

namespace orrery::calibrate {

namespace {

constexpr int format_version = 1;
constexpr std::size_t most_errors = 20;
constexpr double memory_tolerance = 0.06;  // frameworks, drivers and data sheets count reserves differently
constexpr std::uint64_t most_bytes = std::uint64_t{1} << 29;
constexpr const char* journal_name = "journal.jsonl";
constexpr const char* check_name = "check.json";

std::string checksum(const std::string& text) {
  Digest digest;
  digest.add_text(text);
  return digest_text(digest.value());
}

// Of all files together, so that one cannot be exchanged for another's.
std::string checksum(const std::map<std::string, std::string>& files) {
  Digest digest;
  for (const auto& [name, text] : files) {
    digest.add_text(name);
    digest.add_text(text);
  }
  return digest_text(digest.value());
}

// "812 passed, 0 failed", or an error.
Result<std::string> check_verdict(const std::string& text, const std::string& name) {
  ORRERY_TRY(check, parse_json(text, name));
  const bool shaped = check.is_object() && check.contains("good") && check["good"].is_boolean() &&
                      check.contains("passed") && check["passed"].is_number_unsigned() &&
                      check.contains("failed") && check["failed"].is_number_unsigned();
  if (!shaped) return invalid_input("is not what orrery calibrate --check writes", {name, 1, 0});
  const std::string counts = std::to_string(check["passed"].get<std::uint64_t>()) + " passed, " +
                             std::to_string(check["failed"].get<std::uint64_t>()) + " failed";
  if (check["good"].get<bool>()) return counts;
  return invalid_input("the kernels did not pass their check (" + counts +
                           "): times of wrong results are no prices; send check.log instead",
                       {name, 1, 0}, "good");
}

std::vector<std::string> split_columns(const std::string& shape) {
  std::vector<std::string> out{""};
  for (const char c : shape) {
    if (c == ',')
      out.emplace_back();
    else
      out.back() += c;
  }
  return out;
}

class Validator {
 public:
  Validator(const std::string& file, Import& import) : file_(file), import_(import) {}
  Errors errors;

  void hardware() {
    const JournalHeader& h = import_.journal.header;
    auto profile = load_hardware(h.hardware);
    if (!profile.ok()) {
      const auto names = profile_names("hardware_profiles");
      return fail(1, "hardware",
                  "unknown hardware " + quote(h.hardware) + did_you_mean(h.hardware, names) +
                      "; known: " + join(names, ", "));
    }
    if (h.kernels != "orrery")
      fail(1, "kernels", "only calibrations of orrery's own kernels are imported, not " + quote(h.kernels));
    const auto named = hardware_of(h.device.name);
    if (!named.ok() || *named != h.hardware) {
      fail(1, "device.name", quote(h.device.name) + " is not the device of the profile " + h.hardware);
    }
    const double units = profile->compute_units.value, memory = profile->memory_total.value.value();
    if (h.device.compute_units != static_cast<std::int32_t>(units)) {
      fail(1, "device.compute_units",
           std::to_string(h.device.compute_units) + " where " + h.hardware + " has " + format_number(units));
    }
    if (std::abs(static_cast<double>(h.device.memory_bytes) / memory - 1) > memory_tolerance) {
      fail(1, "device.memory_bytes",
           human_bytes(static_cast<double>(h.device.memory_bytes)) + " where " + h.hardware + " has " +
               human_bytes(memory));
    }
    if (h.date.size() != 10) fail(1, "date", "must be written as 2026-11-25");
    figures(*profile);
  }

 private:
  void fail(int line, const std::string& key, const std::string& message) {
    if (errors.size() < most_errors) errors.push_back(invalid_input(message, {file_, line, 0}, key));
  }

  // The line of a point in the journal is not kept; its key names it as well.
  void figures(const HardwareProfile& profile) {
    for (const Measurement& m : import_.journal.points) {
      if (!has_figure(m.state)) continue;
      ++import_.figures;
      const auto spec = spec_of(m.table, split_columns(m.shape));
      if (!spec.ok()) {
        fail(0, m.key(), spec.errors().front().message);
        continue;
      }
      if (!m.unit.empty()) continue;  // a probe's: nothing is priced by it
      if (table_of(*spec) != m.table) {
        fail(0, m.key(), quote(spec->op) + " does not belong into the table " + m.table);
        continue;
      }
      if (m.kernel.empty()) fail(0, m.key(), "has no kernel");
      if (m.spread > 10) fail(0, m.key(), "a spread above 10 is no measurement");
      const auto least = least_us(*spec, profile);
      if (!least.ok()) {
        fail(0, m.key(), least.errors().front().message);
      } else if (m.us < *least) {
        fail(0, m.key(),
             nine_digits(m.us) + " us, and the data sheet of " + profile.name + " allows no less than " +
                 format_fixed(*least, 3) + " us: the unit, the shape or the part is another");
      }
    }
    if (import_.figures == 0) fail(0, "", "holds no figure");
  }

  std::string file_;
  Import& import_;
};

// The files of a pack whose checksums hold.
Result<std::map<std::string, std::string>> pack_files(const Json& pack, const std::string& name) {
  const SourceLocation where{name, 1, 0};
  if (!pack.is_object() || !pack.contains("orrery_calibration_pack"))
    return invalid_input("is not what orrery calibrate --pack writes", where);
  if (pack["orrery_calibration_pack"] != format_version)
    return invalid_input("a pack of another version; this Orrery reads version 1", where,
                         "orrery_calibration_pack");
  if (!pack.contains("files") || !pack["files"].is_object() || !pack.contains("checksum"))
    return invalid_input("files and their checksum are missing", where, "files");
  std::map<std::string, std::string> files;
  for (const auto& item : pack["files"].items()) {
    const Json& file = item.value();
    const bool shaped =
        file.is_object() && file.contains("text") && file["text"].is_string() && file.contains("checksum");
    if (!shaped) return invalid_input("must have text and checksum", where, "files." + item.key());
    files[item.key()] = file["text"].get<std::string>();
    if (file["checksum"] != checksum(files[item.key()]))
      return invalid_input("damaged on its way: the checksum is another; send it again", where,
                           "files." + item.key());
  }
  if (pack["checksum"] != checksum(files))
    return invalid_input("damaged on its way: the checksum is another; send it again", where, "checksum");
  for (const char* needed : {journal_name, check_name}) {
    if (files.count(needed) == 0) return invalid_input("is missing", where, std::string("files.") + needed);
  }
  return files;
}

}  // namespace

Result<std::string> pack_directory(const std::string& directory) {
  const std::string journal_path = directory + "/" + journal_name, check_path = directory + "/" + check_name;
  ORRERY_TRY(journal_text, read_text_file(journal_path, most_bytes));
  std::uint64_t used = 0;
  ORRERY_TRY(journal, parse_journal(journal_text, journal_path, &used));
  journal_text.resize(used);  // a line that was cut off says nothing
  auto check_text = read_text_file(check_path, most_bytes);
  if (!check_text.ok()) {
    return invalid_input("no check to pack: run orrery calibrate --check --out " + directory + " first",
                         {check_path, 0, 0});
  }
  ORRERY_TRY(verdict, check_verdict(*check_text, check_path));
  std::map<std::string, std::string> files = table_files(journal);
  files[journal_name] = journal_text;
  files[check_name] = *check_text;
  Json packed = Json::object();
  for (const auto& [name, text] : files) packed[name] = {{"checksum", checksum(text)}, {"text", text}};
  return canonical_json({{"orrery_calibration_pack", format_version},
                         {"hardware", journal.header.hardware},
                         {"kernels", journal.header.kernels},
                         {"device", header_json(journal.header)["device"]},
                         {"check", verdict},
                         {"checksum", checksum(files)},
                         {"files", packed}});
}

Result<Import> parse_pack(const std::string& text, const std::string& name) {
  ORRERY_TRY(pack, parse_json(text, name));
  ORRERY_TRY(files, pack_files(pack, name));
  Import import;
  ORRERY_TRY(verdict, check_verdict(files[check_name], name + ": " + check_name));
  import.check = verdict;
  ORRERY_TRY(journal, parse_journal(files[journal_name], name + ": " + journal_name));
  import.journal = std::move(journal);
  Validator validator(name + ": " + journal_name, import);
  validator.hardware();
  if (!validator.errors.empty()) return validator.errors;
  import.tables = table_files(import.journal);
  // Tables are made here from the journal. Those in the pack differ when another version wrote them.
  for (const auto& [file, content] : import.tables) {
    if (files.count(file) == 0 || files[file] != content)
      import.notes.push_back(file + " was written anew: Orrery " + import.journal.header.version +
                             " wrote it otherwise");
  }
  return import;
}

Result<Import> read_pack(const std::string& path) {
  ORRERY_TRY(text, read_text_file(path, most_bytes));
  return parse_pack(text, path);
}

}  // namespace orrery::calibrate
