// Intervals that hold: widths from one half of the cases, coverage on the other, and no point prediction
// moved.
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>

#include "base/det_math.h"
#include "base/digest.h"
#include "base/files.h"
#include "base/random.h"
#include "catch.h"
#include "reports/casebook/interval_fit.h"
#include "reports/casebook/published/import_rules.h"
#include "reports/casebook/published/price_journal.h"
#include "reports/casebook/whole_board.h"
#include "reports/page_parts.h"

using namespace orrery;

namespace {

// Figures that are `bias` times the prediction, with a log-normal error; prices claim ± 2 %. Four to a case.
std::vector<ScoreRow> made_up(std::size_t n, double bias, const std::string& part = "h100",
                              const std::string& rung = "published") {
  std::vector<ScoreRow> rows;
  RandomStream stream(7, RandomPurpose::perturbation, n);
  for (std::size_t i = 0; i < n; ++i) {
    ScoreRow row;
    row.source = ScoreSource::published_row;
    row.id = "line " + std::to_string(i);
    row.group = part + ", case " + std::to_string(i / 4);
    row.evidence = {part, "vllm-0.18", rung};
    row.interval = row.pooled = true;
    row.batch = 8;
    ComparedMetric& m = row.metric;
    m.name = "tpot_ms.mean";
    m.predicted = 10;
    m.low = m.prices_low = 9.8;
    m.high = m.prices_high = 10.2;
    m.measured = 10 * bias * stream.log_normal(0, 0.1);
    rows.push_back(row);
  }
  return rows;
}

void correct(std::vector<ScoreRow>& rows, const IntervalCorrections& corrections) {
  for (ScoreRow& row : rows) correct_interval(row.metric, corrections, row.evidence);
}

bool same_pools(const IntervalCorrections& a, const IntervalCorrections& b) {
  return corrections_yaml(a, {}) == corrections_yaml(b, {});
}

struct Folder {
  Folder() {
    std::string name = (std::filesystem::temp_directory_path() / "orrery-fit-XXXXXX").string();
    REQUIRE(mkdtemp(name.data()) != nullptr);
    path = name;
  }
  ~Folder() { std::filesystem::remove_all(path); }
  std::string path;
};

}  // namespace

TEST_CASE("Wilson's interval is the textbook's") {
  CHECK(wilson(8, 10).low == Approx(0.4902).margin(1e-4));
  CHECK(wilson(8, 10).high == Approx(0.9433).margin(1e-4));
  CHECK(wilson(0, 10).low == 0);
  CHECK(wilson(0, 10).high == Approx(0.2775).margin(1e-4));
}

TEST_CASE("halves are fixed by a case's name alone, and about equal") {
  int fitted = 0;
  for (int i = 0; i < 2000; ++i)
    fitted += is_fitted_half("h100, vllm-0.18, qwen3-8b, tp 1, " + std::to_string(i));
  CHECK(fitted > 900);
  CHECK(fitted < 1100);
  CHECK(is_fitted_half("a") == is_fitted_half("a"));
}

TEST_CASE("nine figures in ten of the other half lie in the corrected interval, which is not enormous") {
  for (const double bias : {1.0, 1.3, 0.8}) {
    std::vector<ScoreRow> rows = made_up(4000, bias);
    const IntervalCorrections corrections = fit_intervals(rows);
    correct(rows, corrections);
    const Coverage coverage = coverage_of(rows);
    REQUIRE(coverage.by_rung.size() == 1);
    const CoverageCell& cell = coverage.by_rung[0];
    CHECK(cell.coverage() > 0.87);
    CHECK(cell.coverage() < 0.97);  // a bias leaves one end at the prediction, beyond which hardly any figure
                                    // lies
    CHECK(static_cast<double>(cell.covered_by_prices) / static_cast<double>(cell.rows) < 0.2);
    CHECK(cell.median_half_width() < 0.5 * std::abs(bias - 1) + 0.2);
    // The bias shows in the interval, on its side.
    const ComparedMetric& m = rows[0].metric;
    CHECK(m.low <= m.predicted);
    CHECK(m.high >= m.predicted);
    if (bias > 1) CHECK(m.high - m.predicted > 4 * (m.predicted - m.low));
    if (bias < 1) CHECK(m.predicted - m.low > 4 * (m.high - m.predicted));
  }
}

TEST_CASE("the scored half has no part in the widths; no case moves a prediction") {
  const std::vector<ScoreRow> rows = made_up(2000, 1.2);
  const IntervalCorrections fitted = fit_intervals(rows);
  std::vector<ScoreRow> other = rows;
  for (ScoreRow& row : other) {
    if (!is_fitted_half(row.group)) row.metric.measured *= 3;
  }
  CHECK(same_pools(fitted, fit_intervals(other)));
  other = rows;
  for (ScoreRow& row : other) {
    if (is_fitted_half(row.group)) row.metric.measured *= 3;
  }
  CHECK_FALSE(same_pools(fitted, fit_intervals(other)));

  // Without one case of the fitted half other corrections may follow, and never another prediction.
  std::vector<ScoreRow> fewer = rows;
  std::erase_if(fewer, [&](const ScoreRow& row) { return row.group == rows[0].group; });
  REQUIRE(fewer.size() < rows.size());
  std::vector<ScoreRow> with = rows, without = rows;
  correct(with, fitted);
  correct(without, fit_intervals(fewer));
  for (std::size_t i = 0; i < rows.size(); ++i) {
    CHECK(with[i].metric.predicted == rows[i].metric.predicted);
    CHECK(without[i].metric.predicted == rows[i].metric.predicted);
  }
}

TEST_CASE("a small pool borrows the next wider one's correction, and no part and engine is exempt") {
  std::vector<ScoreRow> rows = made_up(2000, 1.2);
  const std::vector<ScoreRow> few = made_up(100, 1.6, "l40s"),
                              roofline = made_up(100, 2.0, "r9700", "roofline");
  rows.insert(rows.end(), few.begin(), few.end());
  rows.insert(rows.end(), roofline.begin(), roofline.end());
  const IntervalCorrections c = fit_intervals(rows);
  const auto pool = [&](const PriceEvidence& evidence) {
    const IntervalPool* const found = c.find("tpot_ms.p50", evidence);
    return found == nullptr ? std::string("none") : found->name();
  };
  CHECK(pool({"h100", "vllm-0.16", "published"}) == "tpot_ms, published, h100 vllm");
  CHECK(pool({"l40s", "vllm-0.18", "published"}) == "tpot_ms, published");
  CHECK(pool({"r9700", "vllm-0.18", "roofline"}) == "tpot_ms");
  CHECK(pool({"", "", "published"}) == "tpot_ms, published");               // pools of several parts
  CHECK(pool({"h200", "vllm-0.24", "published"}) == "tpot_ms, published");  // logged by Orrery
  CHECK(pool({"h200", "vllm-0.24", "measured"}) == "tpot_ms");
  CHECK(engine_family("tensorrt-llm-1.2") == "tensorrt-llm");
  CHECK(engine_family("vllm-v1-runner") == "vllm");
  CHECK(engine_family("mine-2") == "mine-2");
  CHECK(engine_family("vllm-0.5-rocm") == "vllm-v0");
  CHECK(engine_family("vllm-0.24") == "vllm");
  CHECK(c.find("goodput.attainment", {"h100", "vllm-0.16", "published"}) == nullptr);
  // Latencies of too few cases borrow TPOT's.
  CHECK(c.find("itl_ms.p50", {"h100", "vllm-0.16", "published"}) ==
        c.find("tpot_ms.p50", {"h100", "vllm-0.16", "published"}));
  CHECK(c.find("itl_ms.p50", {"h100", "vllm-0.16", "published"}) != nullptr);
}

TEST_CASE("many figures of few cases make no pool") {
  std::vector<ScoreRow> rows = made_up(2000, 1.2);
  for (std::size_t i = 0; i < rows.size(); ++i) rows[i].group = "case " + std::to_string(i % 60);
  CHECK(fit_intervals(rows).pools.empty());  // of 60 some 30 are on the fitted half
}

TEST_CASE("a case weighs the same with one figure or a hundred") {
  std::vector<ScoreRow> rows = made_up(2000, 1.2);
  const auto loud =
      std::find_if(rows.begin(), rows.end(), [](const ScoreRow& r) { return is_fitted_half(r.group); });
  ScoreRow far = *loud;
  far.metric.measured = 100 * far.metric.predicted;
  const IntervalCorrections before = fit_intervals(rows);
  for (int i = 0; i < 1000; ++i) rows.push_back(far);  // half of all figures, one case of some 250
  const IntervalCorrections after = fit_intervals(rows);
  REQUIRE(before.pools.size() == after.pools.size());
  for (std::size_t i = 0; i < before.pools.size(); ++i) {
    CHECK(after.pools[i].cases == before.pools[i].cases);
    CHECK(std::abs(after.pools[i].high - before.pools[i].high) < 0.05);
  }
}

TEST_CASE("ends are the ones of rank by hand, rounded outwards") {
  // Cases of one figure, i-th of them beyond its end by i thousandths and a half.
  std::vector<ScoreRow> rows;
  for (int i = 0; rows.size() < 199; ++i) {
    ScoreRow row = made_up(1, 1)[0];
    row.group = "case " + std::to_string(i);
    if (!is_fitted_half(row.group)) continue;
    row.metric.low = row.metric.prices_low = 9;
    row.metric.measured = 10.2 * std::exp(0.001 * (static_cast<double>(rows.size()) + 0.5));
    rows.push_back(row);
  }
  const IntervalCorrections c = fit_intervals(rows);
  REQUIRE_FALSE(c.pools.empty());
  // Shares of 2.5 to 7.5 % leave ranks 195 to 185 of 199, figures 0.1945 to 0.1845: one of them, rounded up.
  CHECK(c.pools[0].high >= 0.185);
  CHECK(c.pools[0].high <= 0.195);
  const double past = 1000 * c.pools[0].high - 0.5;
  CHECK(past - std::floor(past) == Approx(0.5).margin(1e-6));
}

TEST_CASE("shipped corrections are of today's rules and profiles") {
  const auto text = read_text_file(interval_corrections_path());
  const auto rules = read_text_file(import_rules_path());
  const auto profiles = profiles_digest();
  REQUIRE(text.ok());
  REQUIRE(rules.ok());
  REQUIRE(profiles.ok());
  Digest digest;
  digest.add_text(*rules);
  INFO("run `orrery validate --fit-intervals`: the corrections stand on other rules or profiles");
  CHECK(text->find("{file: reports/cases/import_rules.yaml, digest: \"" + digest_text(digest.value()) +
                   "\"}") != std::string::npos);
  CHECK(text->find("{file: profiles, digest: \"" + digest_text(*profiles) + "\"}") != std::string::npos);
}

TEST_CASE("corrections are read as they were written") {
  const Folder folder;
  const std::string path = folder.path + "/c.yaml";
  const IntervalCorrections c = fit_intervals(made_up(2000, 1.2));
  REQUIRE(write_file_atomically(path, corrections_yaml(c, {{"rows.csv", "0123"}})).ok());
  const auto read = load_interval_corrections(path);
  INFO((read.ok() ? std::string() : to_string(read.errors())));
  REQUIRE(read.ok());
  CHECK(same_pools(*read, c));
  REQUIRE(write_file_atomically(path, corrections_yaml({}, {})).ok());
  CHECK(load_interval_corrections(path).ok());
  REQUIRE(write_file_atomically(path, "inputs: []\npools: [{quantity: x, rows: 1}]\n").ok());
  CHECK_FALSE(load_interval_corrections(path).ok());
  const auto shipped = load_interval_corrections(interval_corrections_path());
  REQUIRE(shipped.ok());
  CHECK_FALSE(shipped->pools.empty());
  for (const IntervalPool& pool : shipped->pools)
    CHECK(pool.rows >= static_cast<std::int64_t>(least_pool_rows));
}

TEST_CASE("intervals of a run say which figures moved them, and what prices alone say") {
  Intervals intervals;
  intervals.metrics = {{.name = "tpot_ms.p50", .nominal = 10, .low = 9, .high = 11},
                       {.name = "goodput.attainment", .nominal = 0.5, .low = 0.4, .high = 0.6}};
  IntervalCorrections c;
  c.pools = {{"tpot_ms", "published", "", "", 200, 20, 0.1, 0.2}};
  correct_intervals(intervals, c, {"h100", "vllm-0.18", "published"});
  const MetricInterval& m = intervals.metrics[0];
  CHECK(m.nominal == 10);
  CHECK(m.low == Approx(9 * std::exp(-0.1)));
  CHECK(m.high == Approx(11 * std::exp(0.2)));
  CHECK(m.correction == "tpot_ms, published");
  CHECK(m.prices_low == 9);
  CHECK(m.prices_high == 11);
  CHECK(intervals.metrics[1].correction.empty());
  CHECK(intervals.metrics[1].high == 0.6);
}

TEST_CASE("the whole board has every row once, and coverage of the scored half alone") {
  WholeBoard board;
  board.rows = made_up(1200, 1.2);
  board.corrections = fit_intervals(board.rows);
  correct(board.rows, board.corrections);
  board.coverage = coverage_of(board.rows);
  const Json json = whole_board_json(board);
  CHECK(json["cases"].size() == 1200);
  std::size_t scored = 0, inside = 0;
  for (const Json& row : json["cases"]) {
    if (row["half"] != "scored") continue;
    ++scored;
    inside += row["low"].get<double>() <= row["published"].get<double>() &&
              row["published"].get<double>() <= row["high"].get<double>();
  }
  CHECK(scored > 400);
  CHECK(json["coverage"].get<double>() == Approx(static_cast<double>(inside) / static_cast<double>(scored)));
  CHECK(json["by_part"]["h100"]["rows"] == 1200);
  CHECK(json["by_part"]["h100"]["with_interval"] == scored);
  const std::string csv = whole_board_csv(board);
  CHECK(std::count(csv.begin(), csv.end(), '\n') == 1201);
  CHECK(whole_board_markdown(board).find("tpot_ms, published, h100 vllm") != std::string::npos);
  if (charts_library().empty()) return;
  const auto page = whole_board_page(board);
  REQUIRE(page.ok());
  CHECK(page->find("id=\"against-tpot_ms\"") != std::string::npos);
  CHECK(page->find("src=") == std::string::npos);  // offline
}
