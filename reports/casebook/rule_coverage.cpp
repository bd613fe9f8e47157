#include "reports/casebook/rule_coverage.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <set>

#include "base/files.h"
#include "base/yaml_reader.h"
#include "costmodel/profile_folder.h"

namespace orrery {

namespace fs = std::filesystem;

namespace {

struct TestCase {
  std::string file, name;
};

// The names of all test cases of a file: what stands in the quotes behind TEST_CASE.
std::vector<TestCase> test_cases(const fs::path& path) {
  std::vector<TestCase> cases;
  auto text = read_text_file(path.string());
  if (!text.ok()) return cases;
  for (std::size_t at = 0; (at = text->find("TEST_CASE(", at)) != std::string::npos; ++at) {
    const std::size_t open = text->find('"', at), close = text->find('"', open + 1);
    if (open == std::string::npos || close == std::string::npos) break;
    cases.push_back({path.filename().string(), text->substr(open + 1, close - open - 1)});
  }
  return cases;
}

// True when `name` cites §section or a part of it (§1.2.3 is one of §1.2), and not another number (§2.10 of
// §2.1).
bool cites(const std::string& name, const std::string& section) {
  const std::string mark = "§" + section;
  for (std::size_t at = 0; (at = name.find(mark, at)) != std::string::npos; at += mark.size()) {
    const std::size_t end = at + mark.size();
    if (end == name.size() || !std::isdigit(static_cast<unsigned char>(name[end]))) return true;
  }
  return false;
}

// Numbers of the sections of a reference text that are rules: "### 2.4 …", and "## 3. …" without parts.
std::set<std::string> sections_of(const std::string& text) {
  std::set<std::string> all;
  std::size_t at = 0;
  while (at < text.size()) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    std::string line = text.substr(at, end - at);
    at = end + 1;
    const std::size_t hashes = line.find_first_not_of('#');
    if (hashes != 2 && hashes != 3) continue;
    std::string number;
    for (std::size_t i = hashes + 1; i < line.size() && line[i] != ' '; ++i) number += line[i];
    while (!number.empty() && number.back() == '.') number.pop_back();
    if (number.empty() || !std::isdigit(static_cast<unsigned char>(number.front()))) continue;
    if (hashes == 3) all.erase(number.substr(0, number.find('.')));
    all.insert(number);
  }
  return all;
}

Result<EngineCoverage> coverage_of(const std::string& engine) {
  const std::string root = data_directory();
  ORRERY_TRY(document, YamlDocument::load(root + "/engine_profiles/rules/" + engine + ".yaml"));
  EngineCoverage c;
  c.engine = engine;
  const Yaml top = document.root();
  c.reference = top.require("reference").text();
  std::vector<TestCase> cases;
  for (const Yaml& prefix : top.require("tests").items()) {
    const std::string start = prefix.text();
    std::error_code ec;
    std::vector<fs::path> files;
    for (const char* folder : {"/tests/sim", "/tests/costmodel"}) {
      for (fs::directory_iterator it(root + folder, ec), end; !ec && it != end; it.increment(ec)) {
        if (it->path().filename().string().starts_with(start) && it->path().extension() == ".cpp")
          files.push_back(it->path());
      }
    }
    std::sort(files.begin(), files.end());
    for (const fs::path& file : files) {
      const auto more = test_cases(file);
      cases.insert(cases.end(), more.begin(), more.end());
    }
  }
  c.tests_read = !cases.empty();
  static constexpr std::array known{"implemented", "partly", "refused", "ignored", "data"};
  std::set<std::string> listed;
  for (const auto& [section, row] : top.require("rules").entries()) {
    RuleCoverage rule;
    rule.section = section;
    rule.title = row.require("title").text();
    rule.status = row.require("status").text();
    if (std::find(known.begin(), known.end(), rule.status) == known.end())
      row.require("status").fail("expected implemented, partly, refused, ignored or data");
    // What of an implemented one has no input here, or is named otherwise, may be said.
    const Yaml note = rule.status == "implemented" ? row.optional("note") : row.require("note");
    if (note.present()) rule.note = note.text();
    for (const TestCase& t : cases) {
      if (cites(t.name, section)) rule.tests.push_back(t.file + ": " + t.name);
    }
    const bool claims = rule.status == "implemented" || rule.status == "partly";
    if (claims && c.tests_read && rule.tests.empty()) c.uncited.push_back(section);
    listed.insert(section);
    c.rules.push_back(std::move(rule));
  }
  document.finish();
  if (!document.errors().empty()) return document.errors();
  const std::string reference = root + "/../shared/reference/" + c.reference;
  if (fs::exists(reference)) {
    ORRERY_TRY(text, read_text_file(reference));
    c.reference_read = true;
    for (const std::string& section : sections_of(text)) {
      if (!listed.contains(section)) c.missing.push_back(section);
    }
  }
  return c;
}

}  // namespace

Result<std::vector<EngineCoverage>> rule_coverage() {
  std::vector<EngineCoverage> all;
  for (const std::string& engine : profile_names("engine_profiles/rules")) {
    ORRERY_TRY(one, coverage_of(engine));
    all.push_back(std::move(one));
  }
  return all;
}

}  // namespace orrery
