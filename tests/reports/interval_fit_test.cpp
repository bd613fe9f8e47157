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
#include "reports/casebook/figure_regions.h"
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
  // Latencies that are sums of the times of tokens share TPOT's pools.
  CHECK(c.find("itl_ms.p50", {"h100", "vllm-0.16", "published"}) ==
        c.find("tpot_ms.p50", {"h100", "vllm-0.16", "published"}));
  CHECK(c.find("itl_ms.p50", {"h100", "vllm-0.16", "published"}) != nullptr);
}

TEST_CASE("many figures of few cases make no pool") {
  std::vector<ScoreRow> rows = made_up(2000, 1.2);
  for (std::size_t i = 0; i < rows.size(); ++i) rows[i].group = "case " + std::to_string(i % 39);
  CHECK(fit_intervals(rows).pools.empty());  // of 39 some are on the fitted half
}

TEST_CASE("of a region a case is one voice, however loud") {
  std::vector<ScoreRow> rows = made_up(2000, 1.2);
  const auto loud =
      std::find_if(rows.begin(), rows.end(), [](const ScoreRow& r) { return is_fitted_half(r.group); });
  ScoreRow far = *loud;
  far.metric.measured = 100 * far.metric.predicted;
  const IntervalCorrections before = fit_intervals(rows);
  for (int i = 0; i < 1000; ++i) rows.push_back(far);  // half of all figures, one case of some 250
  const IntervalCorrections after = fit_intervals(rows);
  const IntervalRegion &was = before.regions.at("tpot_ms"), &is = after.regions.at("tpot_ms");
  CHECK(is.cases == was.cases);
  CHECK(is.rows == was.rows + 1000);
  CHECK(std::abs(is.centre - was.centre) < 0.01);
  CHECK(std::abs(is.spread - was.spread) < 0.01);
}

TEST_CASE("ends are the ones of rank by hand, rounded outwards") {
  // Cases of one figure: of 199, i-th is off by i thousandths and a half; prices claim nothing.
  std::vector<ScoreRow> rows;
  for (int i = 0; rows.size() < 199; ++i) {
    ScoreRow row = made_up(1, 1)[0];
    row.group = "case " + std::to_string(i);
    if (!is_fitted_half(row.group)) continue;
    row.metric.low = row.metric.prices_low = row.metric.high = row.metric.prices_high = 10;
    row.metric.measured = 10 * std::exp(0.001 * (static_cast<double>(rows.size()) + 0.5));
    rows.push_back(row);
  }
  const IntervalCorrections c = fit_intervals(rows);
  REQUIRE_FALSE(c.pools.empty());
  // All stand in one region, which is listed once: centre the 100th of them, spread the distance of the 140th
  // nearest.
  REQUIRE(c.regions.size() == 1);
  const IntervalRegion& all = c.regions.at("tpot_ms");
  CHECK(all.centre == Approx(0.1).margin(0.0011));
  CHECK(all.spread == Approx(0.07).margin(0.0011));
  // Shares of 2.5 to 7.5 % leave ranks 195 to 185 of 199, figures 0.1945 to 0.1845, in scatters from the
  // centre.
  const double scatter = all.spread + least_spread;
  CHECK(c.pools[0].high >= (0.1845 - all.centre) / scatter - 0.03);
  CHECK(c.pools[0].high <= (0.1945 - all.centre) / scatter + 0.03);
  CHECK(std::abs(1000 * c.pools[0].high - std::round(1000 * c.pools[0].high)) < 1e-6);
}

TEST_CASE("where figures agree intervals are narrow, and a figure's own case is no witness") {
  // One model comes out as predicted within 2 %, the other within 20 %; a third has no figure at all.
  std::vector<ScoreRow> rows;
  RandomStream stream(7, RandomPurpose::perturbation, 1);
  for (int i = 0; i < 1600; ++i) {
    ScoreRow row = made_up(1, 1)[0];
    const bool sure = i % 2 == 0;
    row.group = "case " + std::to_string(i);
    row.model = row.evidence.model = sure ? "sure" : "unsure";
    row.metric.measured = 10 * stream.log_normal(0, sure ? 0.02 : 0.2);
    rows.push_back(row);
  }
  const IntervalCorrections c = fit_intervals(rows);
  correct(rows, c);
  const auto half_width = [&](const std::string& model) {
    PriceEvidence evidence = rows[0].evidence;
    evidence.model = model;
    double low = 9.9, high = 10.1;
    REQUIRE(c.correct("tpot_ms.p50", evidence, 10, low, high) != "");
    return (high - low) / 20;
  };
  CHECK(half_width("sure") < 0.1);
  CHECK(half_width("unsure") > 0.25);
  CHECK(half_width("unsure") < 0.5);
  CHECK(half_width("new") > 1.5 * half_width("sure"));  // as all figures of the part and engine scatter
  std::size_t inside = 0, scored = 0;
  for (const ScoreRow& row : rows) {
    if (is_fitted_half(row.group)) continue;
    ++scored;
    inside += row.metric.inside();
  }
  CHECK(static_cast<double>(inside) / static_cast<double>(scored) > 0.86);

  // A region of one case does not narrow that case's own figure: without it the region is what lies around.
  ScoreRow alone = rows[1];
  for (int i = 0; !is_fitted_half(alone.group); ++i) alone.group = "alone " + std::to_string(i);
  alone.model = alone.evidence.model = "alone";
  FigureRegions regions("tpot_ms");
  for (const ScoreRow& row : rows) regions.add(row);
  regions.add(alone);
  regions.close();
  std::map<std::string, IntervalRegion> listed;
  regions.append(listed);
  const IntervalRegion around = regions.without_its_case(alone);
  CHECK(around.cases == 1600);
  CHECK(listed.at("tpot_ms, published, h100 vllm, alone").cases == 1);
  CHECK(listed.at("tpot_ms").cases == 1601);
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

TEST_CASE("block counts say how many deviations of the memory plan nine in ten lie within") {
  // Plans of 10,000 blocks that claim a deviation of 50; what is logged scatters by 100.
  std::vector<ScoreRow> rows;
  RandomStream stream(3, RandomPurpose::perturbation, 1);
  for (int i = 0; i < 200; ++i) {
    ScoreRow row;
    row.group = "h100, vllm, model " + std::to_string(i) + ", tp 1, by rate";
    row.interval = row.pooled = true;
    ComparedMetric& m = row.metric;
    m.name = capacity_metric;
    m.predicted = 10000;
    m.low = m.prices_low = 10000 - 50 * normal_deviations;
    m.high = m.prices_high = 10000 + 50 * normal_deviations;
    m.measured = 10000 + 100 * det_log(stream.log_normal(0, 1));
    rows.push_back(row);
  }
  const IntervalCorrections c = fit_intervals(rows);
  CHECK(c.pools.empty());
  CHECK(c.capacity.cases > 80);
  CHECK(c.capacity.deviations == Approx(2 * normal_deviations).epsilon(0.2));
  int scored = 0, inside = 0;
  for (const ScoreRow& row : rows) {
    if (is_fitted_half(row.group)) continue;
    ++scored;
    inside += std::abs(row.metric.measured - 10000) <= 50 * c.capacity.deviations;
  }
  CHECK(static_cast<double>(inside) / scored == Approx(0.9).margin(0.07));
  // The other half has no part in it, and eight cases cannot say it.
  std::vector<ScoreRow> few;
  for (ScoreRow& row : rows) {
    if (!is_fitted_half(row.group))
      row.metric.measured *= 2;
    else if (few.size() < 8)
      few.push_back(row);
  }
  CHECK(fit_intervals(rows).capacity.deviations == c.capacity.deviations);
  CHECK(fit_intervals(few).capacity.deviations == normal_deviations);
  // Blocks that were given claim no deviation, and say nothing.
  for (ScoreRow& row : few) row.metric.prices_low = row.metric.prices_high = 10000;
  CHECK(fit_intervals(few).capacity.rows == 0);
  const Folder folder;
  REQUIRE(write_file_atomically(folder.path + "/c.yaml", corrections_yaml(c, {})).ok());
  const auto read = load_interval_corrections(folder.path + "/c.yaml");
  REQUIRE(read.ok());
  CHECK(read->capacity.deviations == c.capacity.deviations);
  CHECK(read->capacity.cases == c.capacity.cases);
}

TEST_CASE("regions that differ from one another scatter by what is left in each") {
  // Two models, 30 % above and below the prediction, each within 2 %.
  FigureRegions regions("tpot_ms");
  std::vector<ScoreRow> rows = made_up(400, 1);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    ScoreRow& row = rows[i];
    const bool slow = i / 4 % 2 == 0;
    row.model = row.evidence.model = slow ? "slow" : "quick";
    row.metric.measured = 10 * (slow ? 1.3 : 0.7) * (i % 4 < 2 ? 1.01 : 0.99);
    regions.add(row);
  }
  regions.close();
  for (const std::size_t i : {0U, 4U}) {
    const IntervalRegion at = regions.without_its_case(rows[i]);
    CHECK(at.centre == Approx(std::log(i == 0 ? 1.3 : 0.7)).margin(0.06));
    CHECK(at.spread < 0.1);  // not 0.3, how far the models lie apart
  }
  // A third model, of one figure, has the spread of what is known around: far less than between the two.
  std::map<std::string, IntervalRegion> listed;
  regions.append(listed);
  CHECK(listed.at("tpot_ms").spread < 0.1);
}

TEST_CASE(
    "a model without figures scatters as models do from one another, a known one as its own figures do") {
  // Models lie 20 % apart, each within 1 %: what one has figures of is sure, what is new is not.
  FigureRegions regions("tpot_ms");
  std::vector<ScoreRow> rows;
  for (int model = 0; model < 5; ++model) {
    for (ScoreRow row : made_up(160, 1)) {
      row.evidence.model = "m" + std::to_string(model);
      row.group = row.evidence.model + ", " + row.group;
      row.metric.measured = 10 * std::exp(0.2 * (model - 2)) * (row.id.ends_with("1") ? 1.01 : 1);
      regions.add(row);
      rows.push_back(row);
    }
  }
  regions.close();
  IntervalCorrections c;
  c.pools.push_back({"tpot_ms", "published", "", "", 1, 1, 1, 1});
  regions.append(c.regions);
  PriceEvidence known = rows.front().evidence, unknown = known;
  unknown.model = "another";
  const IntervalRegion of_known = c.region(c.pools[0], "tpot_ms.mean", known),
                       of_unknown = c.region(c.pools[0], "tpot_ms.mean", unknown);
  // Without their own, the middle of four others is the lower one's: 2, 1 or 1, 1, 3 steps of 0.2 off.
  CHECK(of_unknown.spread == Approx(0.4).margin(0.21));
  CHECK(of_unknown.spread > 3 * of_known.spread);
  CHECK(of_unknown.centre == Approx(0).margin(0.05));
  // Fitted ends see a model of one case as one without figures.
  ScoreRow lone = rows.front();
  lone.evidence.model = "lone";
  lone.group = "lone";
  regions = FigureRegions("tpot_ms");
  for (const ScoreRow& row : rows) regions.add(row);
  regions.add(lone);
  regions.close();
  CHECK(regions.without_its_case(lone).spread > 3 * regions.without_its_case(rows.front()).spread);
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
  CHECK_FALSE(shipped->regions.empty());
  for (const IntervalPool& pool : shipped->pools)
    CHECK(pool.rows >= static_cast<std::int64_t>(least_pool_rows));
}

TEST_CASE("where a figure stands is said as far as it is known") {
  PriceEvidence e{"h200", "sglang-0.5.9", "published", "deepseek-r1"};
  using Path = std::vector<std::string>;
  CHECK(region_path("tpot_ms.mean", {}) == Path{});
  CHECK(region_path("tpot_ms.mean", {"", "", "published", "m"}) == Path{"published"});
  CHECK(region_path("ttft_ms.p99", e) ==
        Path{"published", "h200 sglang", "deepseek-r1", "sglang-0.5.9", "tail"});
  e.plan = "tp 8";
  e.prompt_tokens = 8192;
  e.output_tokens = 1024;
  CHECK(region_path("ttft_ms.p50", e) == Path{"published", "h200 sglang", "deepseek-r1", "sglang-0.5.9",
                                              "middle", "tp 8", "prompts", "by rate"});
  e.output_tokens = 8192;
  e.in_flight = 16;
  const Path path = region_path("throughput.output_tokens_per_s", e);
  CHECK(path[6] == "both");
  CHECK(path[7] == "16 to 63");
  CHECK(share_of_tables({{"measured", 0.1}, {"published", 0.85}, {"roofline", 0.05}}) == Approx(0.95));
  CHECK(share_of_tables({}) == 0);
}

TEST_CASE("intervals of a run say which figures moved them, and what prices alone say") {
  Intervals intervals;
  intervals.metrics = {{.name = "tpot_ms.p50", .nominal = 10, .low = 9, .high = 11},
                       {.name = "goodput.attainment", .nominal = 0.5, .low = 0.4, .high = 0.6}};
  IntervalCorrections c;
  c.pools = {{"tpot_ms", "published", "", "", 200, 20, 2, 3}};
  c.regions["tpot_ms"] = {300, 30, 0.0, 0.2};
  c.regions["tpot_ms, published, h100 vllm"] = {200, 20, 0.05, 0.1};
  correct_intervals(intervals, c, {"h100", "vllm-0.18", "published"});
  const MetricInterval& m = intervals.metrics[0];
  CHECK(m.nominal == 10);
  const double scatter = 0.1 + least_spread + share_of_price_doubt * std::log(11.0 / 9) / 2;
  CHECK(m.low == Approx(10 * std::exp(0.05 - 2 * scatter)));
  CHECK(m.high == Approx(10 * std::exp(0.05 + 3 * scatter)));
  CHECK(m.correction == "tpot_ms, published (no figures of this model)");
  CHECK(m.prices_low == 9);
  CHECK(m.prices_high == 11);
  CHECK(intervals.metrics[1].correction.empty());
  CHECK(intervals.metrics[1].high == 0.6);
  // A region of the model itself, or one within it.
  const PriceEvidence of_model = {"h100", "vllm-0.18", "published", "m"};
  c.regions["tpot_ms, published, h100 vllm, m2, vllm-0.18, tail"] = {9, 2, 0.05, 0.1};
  CHECK_FALSE(c.knows_model(c.pools[0], "tpot_ms.p50", of_model));
  c.regions["tpot_ms, published, h100 vllm, m, vllm-0.18, tail"] = {9, 2, 0.05, 0.1};
  CHECK(c.knows_model(c.pools[0], "tpot_ms.p50", of_model));
  correct_intervals(intervals, c, of_model);
  CHECK(intervals.metrics[0].correction == "tpot_ms, published");
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
