#include "reports/casebook/measured_run.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <filesystem>
#include <functional>
#include <map>
#include <string_view>

#include "base/files.h"
#include "base/json.h"
#include "base/text.h"
#include "reports/casebook/measured_model.h"

namespace orrery {

namespace {

using Fields = std::vector<std::string_view>;

std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  while (true) {
    const std::size_t at = text.find(separator);
    parts.push_back(text.substr(0, at));
    if (at == std::string_view::npos) return parts;
    text.remove_prefix(at + 1);
  }
}

template <class T>
bool parse(std::string_view text, T& value) {
  const auto end = text.data() + text.size();
  const auto parsed = std::from_chars(text.data(), end, value);
  return parsed.ec == std::errc() && parsed.ptr == end;
}

// A table with a header; `row` says what is wrong with a line, or nothing.
class Table {
 public:
  static Result<Table> open(const std::string& folder, const std::string& name,
                            const std::vector<std::string>& columns,
                            const std::vector<std::string>& may_lack = {}) {
    ORRERY_TRY(path, existing(folder, name));
    ORRERY_TRY(lines, LineReader::open(path));
    Table table(std::move(lines));
    std::string_view header;
    if (!table.lines_.next(header)) return table.failure("is empty, expected a header line");
    const Fields names = split(header, ',');
    for (const std::string& column : columns) {
      const auto at = std::find(names.begin(), names.end(), column);
      if (at == names.end()) return table.failure("has no column " + quote(column));
      table.columns_.push_back(static_cast<std::size_t>(at - names.begin()));
    }
    for (const std::string& column : may_lack) {
      const auto at = std::find(names.begin(), names.end(), column);
      table.columns_.push_back(at == names.end() ? absent : static_cast<std::size_t>(at - names.begin()));
    }
    table.width_ = names.size();
    return table;
  }

  // False at the end or on an error.
  bool next(Fields& fields) {
    std::string_view line;
    if (error_ || !lines_.next(line)) return false;
    all_ = split(line, ',');
    if (all_.size() != width_) {
      fail("has " + std::to_string(all_.size()) + " fields, the header " + std::to_string(width_));
      return false;
    }
    fields.clear();
    for (const std::size_t at : columns_) fields.push_back(at == absent ? std::string_view() : all_[at]);
    return true;
  }
  void fail(const std::string& what) { error_ = std::make_unique<Error>(failure(what)); }
  Status status() const {
    if (error_) return *error_;
    if (lines_.error() != nullptr) return *lines_.error();
    return ok_status();
  }

  static Result<std::string> existing(const std::string& folder, const std::string& name) {
    for (const char* suffix : {".gz", "", ".zst"}) {
      const std::string path = folder + "/" + name + suffix;
      if (std::filesystem::exists(path)) return path;
    }
    return invalid_input(
        "no " + name + " (or " + name + ".gz) here: expected a run in the layout of shared/truth",
        {folder, 0, 0});
  }

 private:
  static constexpr std::size_t absent = SIZE_MAX;
  explicit Table(LineReader lines) : lines_(std::move(lines)) {}
  Error failure(const std::string& what) const {
    return invalid_input(what, {lines_.path(), static_cast<int>(lines_.line_number()), 0});
  }

  LineReader lines_;
  std::vector<std::size_t> columns_;
  std::size_t width_ = 0;
  Fields all_;
  std::unique_ptr<Error> error_;
};

// The engine's rules for its `speculative_config` (v1/core/sched/scheduler.py, __init__: lookahead where a
// network drafts).
SpeculationRules speculation_of(const Json& config) {
  if (!config.is_object()) return {};
  const auto tokens = config.value("num_speculative_tokens", std::int32_t{0});
  const bool network = config.value("method", std::string()) != "ngram";
  return {.tokens = tokens, .lookahead = network ? tokens : 0, .drops_last_hit = network};
}

Result<MeasuredEngine> load_engine(const std::string& folder) {
  const std::string path = folder + "/engine.json";
  ORRERY_TRY(json, load_json(path));
  MeasuredEngine e;
  Errors errors;
  const auto number = [&](const char* key, auto& into, bool required) {
    if (json.contains(key) && json[key].is_number_integer()) {
      into = json[key].get<std::remove_reference_t<decltype(into)>>();
    } else if (required || json.contains(key)) {
      errors.push_back(invalid_input("expected a whole number", {path, 0, 0}, key));
    }
  };
  number("num_gpu_blocks", e.num_gpu_blocks, true);
  number("block_size", e.block_size, true);
  number("max_num_batched_tokens", e.max_num_batched_tokens, true);
  number("max_num_seqs", e.max_num_seqs, true);
  number("max_model_len", e.max_model_len, true);
  number("long_prefill", e.long_prefill_token_threshold, false);
  if (!errors.empty()) return errors;
  e.async_scheduling = json.value("async_scheduling", true);
  e.arguments = json.value("engine", Json::object());
  if (e.arguments.contains("model") && e.arguments["model"].is_string())
    e.model = e.arguments["model"].get<std::string>();
  const auto text = [&](const char* key) {
    return json.contains(key) && json[key].is_string() ? json[key].get<std::string>() : std::string();
  };
  e.gpu = text("gpu");
  e.sglang = json.contains("sglang");
  e.version = text(e.sglang ? "sglang" : "vllm");
  if (json.contains("engine")) e.enable_prefix_caching = json["engine"].value("enable_prefix_caching", true);
  e.speculation = speculation_of(e.arguments.value("speculative_config", Json()));
  for (const Json& budget : json.value("encoder_budget_tokens", Json::array())) {
    if (budget.is_string() && !parse(budget.get<std::string>(), e.encoder_budget)) e.encoder_budget = 0;
  }
  const bool hybrid =
      !json.contains("engine") || !json["engine"].value("disable_hybrid_kv_cache_manager", false);
  if (hybrid) e.kv_groups = kv_groups_of_model(e.model);
  for (const Json& line : json.value("backends", Json::array())) {
    if (line.is_string() && line.get<std::string>().find("V2 Model Runner") != std::string::npos)
      e.v2_runner = true;
  }
  return e;
}

Status load_experiments(MeasuredRun& run) {
  ORRERY_TRY(path, Table::existing(run.folder, "experiments.jsonl"));
  ORRERY_TRY(lines, LineReader::open(path, 256u << 20));
  std::string_view line;
  std::uint64_t images = 0;
  while (lines.next(line)) {
    if (line.empty()) continue;
    const SourceLocation where{path, static_cast<int>(lines.line_number()), 0};
    auto parsed = parse_json(std::string(line), path);
    if (!parsed.ok()) return invalid_input("not a JSON object: " + to_string(parsed.errors()), where);
    const Json& json = *parsed;
    if (!json.contains("name") || !json.contains("reqs") || !json["reqs"].is_array()) {
      return invalid_input("an experiment needs name and reqs", where);
    }
    MeasuredExperiment experiment{.name = json["name"].get<std::string>(),
                                  .serial = json.value("serial", false),
                                  .concurrency = json.value("conc", std::int64_t{0}),
                                  .keeps_cache = json.value("cache", std::string()) == "kept",
                                  .hash_block_size = json.value("hash_block_size", 512),
                                  .requests = {},
                                  .steps = {}};
    for (const Json& r : json["reqs"]) {
      if (!r.contains("in") || !r.contains("out")) return invalid_input("a request needs in and out", where);
      MeasuredRequest request;
      request.prompt_tokens = r["in"].get<std::int32_t>();
      request.output_tokens = r["out"].get<std::int32_t>();
      if (r.contains("hash")) request.hash_ids = r["hash"].get<std::vector<std::uint64_t>>();
      for (const Json& image : r.value("images", Json::array())) {
        PlacedImage placed;
        placed.id = ++images;
        placed.offset = image.value("offset", std::int32_t{0});
        placed.tokens = placed.embeddings = image.value("tokens", std::int32_t{0});
        request.images.push_back(placed);
      }
      experiment.requests.push_back(std::move(request));
    }
    run.experiments.push_back(std::move(experiment));
  }
  if (lines.error() != nullptr) return *lines.error();
  return ok_status();
}

MeasuredExperiment* find(MeasuredRun& run, std::string_view name) {
  const auto at = std::find_if(run.experiments.begin(), run.experiments.end(),
                               [&](const MeasuredExperiment& e) { return e.name == name; });
  return at == run.experiments.end() ? nullptr : &*at;
}

// The columns of tools/vllm_step_log.py; an empty cell = does not apply.
void parse_life(const Fields& f, MeasuredRequest& r) {
  double known = 0, finished = 0;
  if (parse(f[5], known)) r.known_ns = static_cast<std::int64_t>(std::llround(known * 1e9));
  if (!parse(f[6], r.max_output_tokens)) r.max_output_tokens = 0;
  const std::string_view reason = f[7];
  if ((reason == "stop" || reason == "repetition") && !parse(f[8], r.stop_step)) r.stop_step = -1;
  if ((reason == "abort" || reason == "error") && parse(f[9], finished))
    r.gone_ns = static_cast<std::int64_t>(std::llround(finished * 1e9));
}

Status load_requests(MeasuredRun& run) {
  ORRERY_TRY(table, Table::open(run.folder, "requests.csv", {"experiment", "request", "submit_s"},
                                {"ttft_s", "e2e_s", "known_s", "max_output_tokens", "finish_reason",
                                 "finish_step", "finish_s"}));
  Fields f;
  while (table.next(f)) {
    MeasuredExperiment* experiment = find(run, f[0]);
    std::size_t index = 0;
    double submit = 0;
    if (experiment == nullptr) {
      table.fail("names the experiment " + quote(f[0]) + ", which experiments.jsonl lacks");
    } else if (!parse(f[1], index) || index >= experiment->requests.size() || !parse(f[2], submit)) {
      table.fail("expected a request of the experiment and the second in which it was sent");
    } else {
      MeasuredRequest& request = experiment->requests[index];
      request.submit_ns = static_cast<std::int64_t>(submit * 1e9);
      double ttft = 0, e2e = 0;
      if (parse(f[3], ttft) && parse(f[4], e2e)) {
        request.ttft_ns = static_cast<std::int64_t>(ttft * 1e9);
        request.e2e_ns = static_cast<std::int64_t>(e2e * 1e9);
      }
      parse_life(f, request);
    }
  }
  return table.status();
}

bool parse_pairs(std::string_view text, char separator,
                 const std::function<void(std::int64_t, std::int64_t)>& add) {
  if (text.empty()) return true;
  for (const std::string_view item : split(text, ' ')) {
    const std::vector<std::string_view> halves = split(item, separator);
    std::int64_t a = 0, b = 0;
    if (halves.size() != 2 || !parse(halves[0], a) || !parse(halves[1], b)) return false;
    add(a, b);
  }
  return true;
}

bool parse_counts(std::string_view text, std::vector<MeasuredStep::Count>& counts) {
  return parse_pairs(text, ':', [&](std::int64_t a, std::int64_t b) { counts.push_back({a, b}); });
}

// request@offset:tokens
bool parse_encoded(std::string_view text, std::vector<MeasuredStep::Count>& images) {
  if (text.empty()) return true;
  for (const std::string_view item : split(text, ' ')) {
    MeasuredStep::Count& image = images.emplace_back();
    const std::size_t at = item.find('@'), colon = item.find(':');
    if (at == std::string_view::npos || colon == std::string_view::npos ||
        !parse(item.substr(0, at), image.request) || !parse(item.substr(colon + 1), image.tokens))
      return false;
  }
  return true;
}

bool parse_ids(std::string_view text, std::vector<std::int64_t>& ids) {
  if (text.empty()) return true;
  for (const std::string_view item : split(text, ' ')) {
    if (!parse(item, ids.emplace_back())) return false;
  }
  return true;
}

// The columns behind those that schedules need; an empty cell = not logged.
void parse_times(const Fields& f, MeasuredStep& s) {
  double schedule = 0, execute = 0, sampled = 0, gpu = 0, gpu1 = 0, update = 0;
  s.times.known = parse(f[13], schedule) && parse(f[14], execute) && parse(f[15], sampled) &&
                  parse(f[16], gpu) && parse(f[18], update);
  s.times.gpu_rank0_ns = static_cast<std::int64_t>(gpu * 1e3);
  if (parse(f[17], gpu1)) gpu = std::max(gpu, gpu1);
  const auto ns = [](double us) { return static_cast<std::int64_t>(us * 1e3); };
  s.times.schedule_ns = ns(schedule);
  s.times.execute_start_ns = ns(execute);
  s.times.sample_end_ns = ns(sampled);
  s.times.gpu_ns = ns(gpu);
  s.times.update_ns = ns(update);
  double decodes = 0, context = 0;
  if (parse(f[19], decodes)) {
    s.decodes = static_cast<std::int64_t>(decodes);
    s.decode_context = parse(f[20], context) ? static_cast<std::int64_t>(context) : 0;
  }
  if (double logging = 0; parse(f[22], logging)) s.times.logging_ns = ns(logging);
  if (!parse(f[21], s.new_requests)) s.new_requests = static_cast<std::int64_t>(s.admitted.size());
}

bool parse_step(const Fields& f, MeasuredStep& s) {
  double schedule = 0, update = 0;
  const bool numbers = parse(f[1], s.step) && parse(f[2], schedule) && parse(f[3], update) &&
                       parse(f[4], s.tokens) && parse(f[5], s.sequences) && parse(f[6], s.running) &&
                       parse(f[7], s.waiting) && parse(f[8], s.free_blocks);
  s.schedule_start_ns = static_cast<std::int64_t>(schedule * 1e3);
  s.update_start_ns = static_cast<std::int64_t>(update * 1e3);
  return numbers &&
         parse_pairs(f[9], '@',
                     [&](std::int64_t a, std::int64_t b) {
                       s.chunks.push_back({a, b});
                     }) &&
         parse_ids(f[10], s.chunk_requests) &&
         parse_pairs(f[11], ':',
                     [&](std::int64_t a, std::int64_t b) {
                       s.admitted.push_back({a, b});
                     }) &&
         parse_ids(f[12], s.preempted) && parse_counts(f[23], s.drafts) && parse_counts(f[24], s.said) &&
         parse_encoded(f[25], s.encoded) && parse_counts(f[26], s.said_before);
}

Status load_steps(MeasuredRun& run) {
  ORRERY_TRY(table, Table::open(run.folder, "steps.csv",
                                {"experiment", "step", "schedule_start_us", "update_start_us", "tokens",
                                 "sequences", "running", "waiting", "free_blocks", "prefill_chunks",
                                 "prefill_request_ids", "new_request_ids", "preempted_request_ids"},
                                {"schedule_us", "execute_start_us", "sample_end_us", "gpu_us", "gpu_us_rank1",
                                 "update_us", "decode_sequences", "decode_context_tokens", "new_requests",
                                 "logging_us", "drafts", "said", "encoded", "said_before"}));
  Fields f;
  while (table.next(f)) {
    MeasuredExperiment* experiment = find(run, f[0]);
    MeasuredStep step;
    if (experiment == nullptr) {
      table.fail("names the experiment " + quote(f[0]) + ", which experiments.jsonl lacks");
    } else if (!parse_step(f, step)) {
      table.fail("expected numbers, chunks as length@context and new requests as id:cached");
    } else if (!experiment->steps.empty() || !step.admitted.empty()) {
      parse_times(f, step);
      experiment->steps.push_back(std::move(step));
    }
  }
  return table.status();
}

}  // namespace

Result<MeasuredRun> load_measured_run(const std::string& folder) {
  MeasuredRun run;
  run.folder = folder;
  ORRERY_TRY(engine, load_engine(folder));
  run.engine = engine;
  ORRERY_TRY_STATUS(load_experiments(run));
  ORRERY_TRY_STATUS(load_requests(run));
  ORRERY_TRY_STATUS(load_steps(run));
  return run;
}

}  // namespace orrery
