// What `live --endpoint --out` left, read back: files that somebody changed are refused with the row, and end
// nothing.
#include "live/measurement.h"

#include <filesystem>

#include "base/files.h"
#include "base/json.h"
#include "catch.h"
#include "live/endpoint_comparison.h"
#include "sim/costed/scenario.h"
#include "workloads/workload.h"

using namespace orrery;

namespace {

const std::string root = std::string(ORRERY_SOURCE_DIR) + "/reports/cases/h200_vllm_0_24_endpoint/qwen3-8b/";

struct Folder {
  std::filesystem::path path = std::filesystem::temp_directory_path() / "orrery_measurement_test";
  Folder() { std::filesystem::create_directories(path); }
  ~Folder() { std::filesystem::remove_all(path); }
};

Result<EndpointRun> read(const std::string& json, const std::string& rows) {
  const Folder folder;
  REQUIRE(write_file_atomically(folder.path / "comparison.json", json).ok());
  REQUIRE(write_file_atomically(folder.path / "measured.csv", rows).ok());
  const Scenario scenario = load_scenario(root + "mooncake.yaml", {}).value();
  auto source = open_workload(scenario.workload, scenario.seed).value();
  return read_measurement(folder.path.string(), *source);
}

const std::string json = read_text_file(root + "mooncake/comparison.json").value();
const std::string rows = read_text_file(root + "mooncake/measured.csv").value();

}  // namespace

TEST_CASE("what a client saw is written and read back") {
  const auto run = read(json, rows);
  REQUIRE(run.ok());
  CHECK(run->records.size() == 75);
  CHECK(run->model == "qwen3-8b");
  CHECK(measured_csv(*run) == rows);
}

TEST_CASE("a row with what no client can have seen is named") {
  const std::size_t first = rows.find('\n') + 1;
  const std::string row = rows.substr(first, rows.find('\n', first) - first);
  std::vector<std::string> cells;
  for (std::size_t at = 0; at <= row.size();) {
    const std::size_t end = std::min(row.find(',', at), row.size());
    cells.push_back(row.substr(at, end - at));
    at = end + 1;
  }
  REQUIRE(cells.size() == 10);
  // Columns: request, intended, sent, ttft, e2e, prompt and output tokens, events, tries, status.
  for (const auto& [column, value] : {std::pair<std::size_t, const char*>{1, "-5.000000000"},
                                      {1, "9223372036854775807.000000000"},
                                      {3, "-0.500000000"},
                                      {3, "99999999999.000000000"},
                                      {3, "9000.000000000"},
                                      {4, "9223372036.854775807"},
                                      {5, "-5"},
                                      {5, "9000000000000000000"},
                                      {7, "-1"},
                                      {8, "4294967297"}}) {
    auto changed = cells;
    changed[column] = value;
    std::string text;
    for (const std::string& cell : changed) text += (text.empty() ? "" : ",") + cell;
    const auto run = read(json, rows.substr(0, first) + text + rows.substr(first + row.size()));
    CAPTURE(column, value);
    REQUIRE_FALSE(run.ok());
    CHECK(to_string(run.errors()).find("measured.csv:2:1") != std::string::npos);
  }
}

TEST_CASE("a comparison with other types than were written has nothing in their place") {
  for (const char* part : {"server", "client", "itl_ms.mean", "kv_cache.blocks"}) {
    for (const Json& other : {Json(3), Json("x"), Json::array({1, 2}), Json(nullptr)}) {
      Json changed = Json::parse(json);
      changed[part] = other;
      CAPTURE(part, other.dump());
      CHECK(read(changed.dump(), rows).ok());
    }
  }
  Json changed = Json::parse(json);
  changed["server"]["model"] = 3;
  changed["server"]["metrics"] = "none";
  changed["server"]["retried"] = -1e300;
  changed["client"]["prompts"] = Json::array();
  changed["kv_cache.blocks"]["measured"] = 1e300;
  const auto run = read(changed.dump(), rows);
  REQUIRE(run.ok());
  CHECK(run->model.empty());
  CHECK(run->scrapes.empty());
  CHECK(run->retried == 0);
}
