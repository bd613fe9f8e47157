#include "reports/casebook/published/price_journal.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>

#include "base/digest.h"
#include "base/files.h"
#include "base/json.h"

namespace orrery {

namespace {

namespace fs = std::filesystem;

constexpr const char* kFile = "prices.jsonl";

Status add_file(const fs::path& path, Digest& digest) {
  std::ifstream in(path, std::ios::binary);
  if (!in) return make_error(ErrorKind::invalid_input, "cannot be read", {path.string(), 0, 0});
  std::string bytes((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  const std::size_t size = bytes.size();
  bytes.resize((size + 7) / 8 * 8, '\0');
  for (std::size_t i = 0; i < bytes.size(); i += 8) {
    std::uint64_t word = 0;
    std::memcpy(&word, bytes.data() + i, 8);
    digest.add(word);
  }
  digest.add(static_cast<std::uint64_t>(size));
  return ok_status();
}

std::string line_of(const std::string& key, const std::string& cost, const PricedSetup& priced) {
  Json metrics = Json::array(), provenance = Json::array();
  for (std::size_t i = 0; i < priced.metrics.size(); ++i) {
    const ComparedMetric& m = priced.metrics[i];
    metrics.push_back({m.name, m.predicted, m.low, m.high, static_cast<bool>(priced.intervals[i])});
  }
  for (const auto& [rung, share] : priced.provenance) provenance.push_back({rung, share});
  const Json line = {{"key", key},        {"cost", cost},       {"rule", static_cast<int>(priced.rule)},
                     {"why", priced.why}, {"metrics", metrics}, {"provenance", provenance}};
  return line.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}

// False for anything but what line_of writes.
bool read_line(const std::string& text, std::string& key, std::string& cost, PricedSetup& out) {
  const Json line = Json::parse(text, nullptr, false);
  if (!line.is_object()) return false;
  for (const char* const name : {"key", "cost"}) {
    if (!line.contains(name) || !line[name].is_string()) return false;
  }
  for (const char* const name : {"rule", "why", "metrics", "provenance"}) {
    if (!line.contains(name)) return false;
  }
  if (!line["rule"].is_number_unsigned() || line["rule"].get<std::uint64_t>() >= row_rules ||
      !line["why"].is_string() || !line["metrics"].is_array() || !line["provenance"].is_array())
    return false;
  key = line["key"].get<std::string>();
  cost = line["cost"].get<std::string>();
  out.rule = static_cast<RowRule>(line["rule"].get<int>());
  out.why = line["why"].get<std::string>();
  for (const Json& m : line["metrics"]) {
    if (!m.is_array() || m.size() != 5 || !m[0].is_string() || !m[1].is_number() || !m[2].is_number() ||
        !m[3].is_number() || !m[4].is_boolean())
      return false;
    out.metrics.push_back(
        {m[0].get<std::string>(), m[1].get<double>(), m[2].get<double>(), m[3].get<double>(), 0});
    out.intervals.push_back(m[4].get<bool>());
  }
  for (const Json& p : line["provenance"]) {
    if (!p.is_array() || p.size() != 2 || !p[0].is_string() || !p[1].is_number()) return false;
    out.provenance.emplace_back(p[0].get<std::string>(), p[1].get<double>());
  }
  return true;
}

}  // namespace

Result<std::uint64_t> profiles_digest() {
  std::vector<fs::path> files;
  std::error_code ec;
  for (const char* const folder : {"hardware_profiles", "engine_profiles", "model_profiles"}) {
    std::vector<fs::path> found;
    for (fs::recursive_directory_iterator at(data_directory() + "/" + folder, ec), end; !ec && at != end;
         at.increment(ec)) {
      if (at->is_regular_file(ec)) found.push_back(at->path());
    }
    std::sort(found.begin(), found.end());
    files.insert(files.end(), found.begin(), found.end());
  }
  Digest digest;
  for (const fs::path& file : files) {
    digest.add_text(fs::relative(file, data_directory(), ec).string());
    ORRERY_TRY_STATUS(add_file(file, digest));
  }
  return digest.value();
}

Result<std::uint64_t> cost_digest() {
  ORRERY_TRY(profiles, profiles_digest());
  Digest digest;
  digest.add(profiles);
  ORRERY_TRY_STATUS(add_file("/proc/self/exe", digest));
  return digest.value();
}

std::string price_key(std::uint64_t cost_digest, const PublishedSetup& setup, int runs) {
  Digest digest;
  digest.add(cost_digest);
  digest.add_text(setup.scenario);
  for (const BenchmarkMetric& m : setup.metrics) digest.add_text(m.name());
  digest.add(static_cast<std::int64_t>(runs));
  // A model may be a configuration outside the profiles.
  const std::string name = "\n  model: ";
  if (const std::size_t at = setup.scenario.find(name); at != std::string::npos) {
    const std::size_t begin = at + name.size();
    const std::string model = setup.scenario.substr(begin, setup.scenario.find('\n', begin) - begin);
    if (model.ends_with(".json")) {
      const auto text = read_text_file(model);
      digest.add_text(text.ok() ? *text : std::string());
    }
  }
  return digest_text(digest.value());
}

Result<PriceJournal> PriceJournal::open(const std::string& folder, std::uint64_t cost_digest) {
  PriceJournal out;
  out.cost_ = digest_text(cost_digest);
  std::error_code ec;
  fs::create_directories(folder, ec);
  out.path_ = folder + "/" + kFile;
  std::ifstream in(out.path_, std::ios::binary);
  const std::string text((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    std::string key, cost;
    PricedSetup priced;
    if (read_line(text.substr(begin, end - begin), key, cost, priced) && cost == out.cost_)
      out.priced_.insert_or_assign(key, std::move(priced));
    begin = end + 1;
  }
  std::ofstream touch(out.path_, std::ios::binary | std::ios::app);
  if (!text.empty() && text.back() != '\n') touch << '\n';  // what was torn stays a line of its own
  touch.flush();
  if (!touch) return make_error(ErrorKind::invalid_input, "cannot be written", {out.path_, 0, 0});
  return out;
}

const PricedSetup* PriceJournal::find(const std::string& key) const {
  const auto found = priced_.find(key);
  return found == priced_.end() ? nullptr : &found->second;
}

Status PriceJournal::add(const std::string& key, const PricedSetup& priced) {
  const std::string line = line_of(key, cost_, priced);
  // One write at the end of the file: whole lines, also beside another process with the same folder.
  const int file = ::open(path_.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
  const bool written =
      file >= 0 && ::write(file, line.data(), line.size()) == static_cast<ssize_t>(line.size());
  if (file >= 0) ::close(file);
  if (!written) return make_error(ErrorKind::invalid_input, "cannot be written", {path_, 0, 0});
  priced_.insert_or_assign(key, priced);
  return ok_status();
}

Status PriceJournal::settle(const std::vector<std::string>& keys) const {
  std::string text;
  std::set<std::string> first;
  for (const std::string& key : keys) {
    const PricedSetup* const priced = find(key);
    if (priced != nullptr && first.insert(key).second) text += line_of(key, cost_, *priced);
  }
  for (const auto& [key, priced] : priced_) {
    if (!first.contains(key)) text += line_of(key, cost_, priced);
  }
  return write_file_atomically(path_, text);
}

}  // namespace orrery
