#include "calibrate/tune.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>

#include "base/text.h"
#include "calibrate/point.h"
#include "calibrate/routing.h"
#include "calibrate/tables.h"
#include "costmodel/model_spec.h"

namespace orrery::calibrate {

namespace {

constexpr std::array tuned_models{"qwen3-30b-a3b-fp8", "qwen3.5-35b-a3b", "deepseek-v3", "qwen3-8b"};
constexpr std::array<std::int64_t, 4> widths{1, 2, 4, 8};
// moe_tile_keys, coarse to fine.
constexpr std::array<std::int64_t, 18> batches{1,  64, 4096, 16, 256, 1024, 8,    2048, 128,
                                               32, 4,  512,  2,  96,  48,   1536, 24,   3072};

kernels::CaseSpec product(std::int64_t n, std::int64_t k) {
  kernels::CaseSpec spec;
  spec.op = "block_gemm_wgmma";
  spec.dtype = "fp8-block";
  spec.n = n;
  spec.k = k;
  return spec;
}

// Collects problems in the order of their making, each once.
class Plan {
 public:
  explicit Plan(const TuneOptions& options) : options_(options) {}

  void add_model(const ModelSpec& model, std::int64_t tokens) {
    for (const std::int64_t ranks : widths) {
      if (wanted("grouped_gemm") && model.experts > 0) add_experts(model, ranks, tokens);
      if (wanted("gemm")) add_dense(model, ranks, tokens);
    }
  }
  std::vector<TileProblem> take() { return std::move(problems_); }

 private:
  bool wanted(const std::string& table) const {
    return options_.tables.empty() ||
           std::find(options_.tables.begin(), options_.tables.end(), table) != options_.tables.end();
  }

  void add(TileProblem problem) {
    problem.shape = shape_of(problem.spec);
    if (options_.max_problems > 0 && problems_.size() >= options_.max_problems) return;
    if (seen_.insert(problem.key()).second) problems_.push_back(std::move(problem));
  }

  // Experts cut in `ranks` widths, or shared out whole: both are files of the engine's.
  void add_experts(const ModelSpec& model, std::int64_t ranks, std::int64_t tokens) {
    const std::int64_t width = model.expert_intermediate / ranks;
    if (model.expert_intermediate % ranks == 0 && width % 64 == 0)
      add_layer(model, model.experts, width, tokens);
    if (ranks > 1 && model.experts % ranks == 0)
      add_layer(model, model.experts / ranks, model.expert_intermediate, tokens);
  }

  void add_layer(const ModelSpec& model, std::int64_t held, std::int64_t width, std::int64_t tokens) {
    std::vector<std::int64_t> rows =
        expert_rows(RowPattern::routed, model.experts, model.experts_per_token, tokens);
    rows.resize(static_cast<std::size_t>(held));  // of the first rank
    const bool none = std::all_of(rows.begin(), rows.end(), [](std::int64_t n) { return n == 0; });
    if (none) rows.front() = 1;
    for (const auto& [n, k] : {std::pair{2 * width, model.hidden}, std::pair{model.hidden, width}}) {
      TileProblem problem;
      problem.table = "grouped_gemm";
      problem.spec = product(n, k);
      problem.spec.rows = rows;
      problem.tokens = tokens;
      problem.layer =
          "E=" + std::to_string(held) + ",N=" + std::to_string(width) + ",K=" + std::to_string(model.hidden);
      add(std::move(problem));
    }
  }

  void add_dense(const ModelSpec& model, std::int64_t ranks, std::int64_t tokens) {
    if (model.latent.present() || model.heads % ranks != 0 || model.head_dim == 0) return;
    const std::int64_t q = model.heads / ranks * model.head_dim;
    const std::int64_t kv = std::max<std::int64_t>(1, model.kv_heads / ranks) * model.head_dim;
    add_product(q + 2 * kv, model.hidden, tokens);
    add_product(model.hidden, q, tokens);
    if (model.experts > 0 || model.intermediate % ranks != 0) return;
    add_product(2 * model.intermediate / ranks, model.hidden, tokens);
    add_product(model.hidden, model.intermediate / ranks, tokens);
  }

  void add_product(std::int64_t n, std::int64_t k, std::int64_t tokens) {
    if (n % 8 != 0 || k % 128 != 0) return;
    TileProblem problem;
    problem.table = "gemm";
    problem.spec = product(n, k);
    problem.spec.m = tokens;
    problem.tokens = tokens;
    add(std::move(problem));
  }

  const TuneOptions& options_;
  std::vector<TileProblem> problems_;
  std::set<std::string> seen_;
};

Json timed_json(const TimedTile& timed) { return {{"tile", tile_json(timed.tile)}, {"us", timed.us}}; }

bool read_timed(const Json& json, TimedTile& timed) {
  if (!json.is_object() || !json.contains("tile") || !json.contains("us") || !json["us"].is_number())
    return false;
  timed.us = json["us"].get<double>();
  return std::isfinite(timed.us) && timed.us >= 0 && read_tile(json["tile"], timed.tile);
}

std::optional<TuneRecord> read_record(const Json& json) {
  TuneRecord record;
  const std::pair<const char*, std::string*> texts[] = {
      {"table", &record.table}, {"shape", &record.shape}, {"layer", &record.layer}};
  for (const auto& [name, value] : texts) {
    if (!json.is_object() || !json.contains(name) || !json[name].is_string()) return {};
    *value = json[name].get<std::string>();
  }
  if (!json.contains("tokens") || !json["tokens"].is_number_unsigned() || !json.contains("winner") ||
      !json.contains("own") || !json.contains("timed") || !json["timed"].is_array())
    return {};
  record.tokens = json["tokens"].get<std::int64_t>();
  if (!read_timed(json["winner"], record.search.winner) || !read_timed(json["own"], record.search.own))
    return {};
  for (const Json& item : json["timed"]) {
    TimedTile timed;
    if (!read_timed(item, timed)) return {};
    record.search.timed.push_back(std::move(timed));
  }
  return record;
}

}  // namespace

Result<std::vector<TileProblem>> tune_plan(const TuneOptions& options) {
  Plan plan(options);
  std::vector<std::string> names = options.models;
  if (names.empty()) names.assign(tuned_models.begin(), tuned_models.end());
  std::vector<ModelSpec> models;
  for (const std::string& name : names) {
    ORRERY_TRY(model, load_model(name, ".", "", "auto"));
    models.push_back(std::move(model));
  }
  for (const std::int64_t tokens : batches) {
    for (const ModelSpec& model : models) plan.add_model(model, tokens);
  }
  return plan.take();
}

Json record_json(const TileProblem& problem, const TileSearch& search) {
  Json timed = Json::array();
  for (const TimedTile& each : search.timed) timed.push_back(timed_json(each));
  return {{"table", problem.table},
          {"shape", problem.shape},
          {"layer", problem.layer},
          {"tokens", problem.tokens},
          {"winner", timed_json(search.winner)},
          {"own", timed_json(search.own)},
          {"space", search.space},
          {"pruned", search.pruned},
          {"refused", search.refused},
          {"timings", search.timings},
          {"timed", std::move(timed)}};
}

Result<TuneJournal> parse_tune_journal(const std::string& text, const std::string& name,
                                       std::uint64_t* used_bytes) {
  TuneJournal journal;
  std::size_t from = 0;
  for (int line = 1; from < text.size(); ++line) {
    const std::size_t end = text.find('\n', from);
    if (end == std::string::npos) break;
    const std::string row = text.substr(from, end - from + 1);
    if (line == 1) {
      ORRERY_TRY(head, parse_journal(row, name));
      journal.header = head.header;
    } else {
      auto json = parse_json(row, name);
      std::optional<TuneRecord> record;
      if (json.ok()) record = read_record(*json);
      if (!record) return invalid_input("not a record of a tile search", {name, line, 0});
      journal.records.push_back(std::move(*record));
    }
    from = end + 1;
  }
  if (from == 0) return invalid_input("is empty: not a journal of tile searches", {name, 0, 0});
  if (used_bytes != nullptr) *used_bytes = from;
  return journal;
}

Result<TuneSummary> run_tune(const std::vector<TileProblem>& plan, const std::set<std::string>& done,
                             TileTimer& tiles, Timer& timer, JournalWriter& journal,
                             const TuneSession& session) {
  TuneSummary summary;
  summary.planned = plan.size();
  TileLimits limits = session.limits;
  limits.stop = [&] {
    summary.interrupted = summary.interrupted || session.interrupted();
    summary.out_of_time = summary.out_of_time || timer.seconds() >= session.deadline;
    return summary.interrupted || summary.out_of_time;
  };
  std::size_t position = 0;
  for (const TileProblem& problem : plan) {
    session.progress(position++, plan.size());
    if (done.count(problem.key()) > 0) {
      ++summary.skipped;
      continue;
    }
    const TileSearch found =
        search_tiles(problem, session.space(problem), session.own(problem), tiles, limits);
    summary.timings += found.timings;
    if (found.stopped || limits.stop()) break;
    if (found.winner.us <= 0) {  // tried again by a resumed session: another build may have the kernel
      ++summary.unsupported;
      continue;
    }
    ++summary.searched;
    ORRERY_TRY_STATUS(journal.add(record_json(problem, found), timer.seconds()));
  }
  session.progress(position, plan.size());
  ORRERY_TRY_STATUS(journal.sync());
  return summary;
}

std::map<std::string, std::string> tuned_files(const TuneJournal& journal) {
  struct RowLess {
    bool operator()(const std::string& a, const std::string& b) const { return row_less(a, b); }
  };
  std::map<std::string, std::map<std::string, std::string, RowLess>> rows;
  for (const TuneRecord& r : journal.records) {
    const auto field = [](std::string text) {
      std::replace(text.begin(), text.end(), ',', ' ');
      return text;
    };
    rows[r.table][r.shape] = nine_digits(r.search.winner.us) + ",orrery.block_gemm_wgmma.fp8_block.v1," +
                             field(r.search.winner.tile.text()) + "," + nine_digits(r.search.own.us) + "," +
                             field(r.search.own.tile.text());
  }
  std::map<std::string, std::string> files;
  for (const auto& [table, by_shape] : rows) {
    std::string& text = files[table + "_tuned.csv"];
    text = std::string(find_table(table)->columns) + ",us,kernel,tile,default_us,default_tile\n";
    for (const auto& [shape, row] : by_shape) text += shape + "," + row + "\n";
  }
  return files;
}

}  // namespace orrery::calibrate
