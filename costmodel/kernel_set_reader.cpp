// Reads hardware_profiles/tables/<part>/<set>/: table.yaml and CSVs, fitted (columns that are numbers are
// points of the moving axis, cells utilisation or blank) or timed (column `us`, a launch a row).
#include <algorithm>
#include <filesystem>

#include "base/det_math.h"
#include "base/files.h"
#include "base/text.h"
#include "base/yaml_reader.h"
#include "costmodel/csv_table.h"
#include "costmodel/kernel_set.h"
#include "costmodel/profile_reader.h"
#include "costmodel/timed_attention.h"

namespace orrery {

namespace {

namespace fs = std::filesystem;

std::string folder_of(const std::string& hardware, const std::string& name) {
  return data_directory() + "/hardware_profiles/tables/" + hardware + (name.empty() ? "" : "/" + name);
}

// "3 0 9 4", or "64x8" for 64 experts of 8 rows each: total rows and experts that have any.
bool rows_per_expert(std::string_view text, double& rows, double& distinct) {
  rows = distinct = 0;
  while (!text.empty()) {
    const std::size_t space = text.find(' ');
    const std::string_view item = text.substr(0, space);
    text = space == std::string_view::npos ? std::string_view{} : text.substr(space + 1);
    const std::size_t times = item.find('x');
    double experts = 1, each = 0;
    if (times != std::string_view::npos && !number(item.substr(0, times), experts)) return false;
    if (!number(times == std::string_view::npos ? item : item.substr(times + 1), each)) return false;
    if (each < 0 || experts < 0) return false;
    rows += experts * each;
    distinct += each > 0 ? experts : 0;
  }
  return rows > 0;
}

// Samples of one static shape, gathered until the file ends; the median of equal points.
struct Gathered {
  LogShape logs{};
  std::string kernel;
  std::map<double, std::vector<double>> by_x;
  std::map<double, std::vector<double>> searched;  // the own choice as a search timed it; counts where alone
  std::vector<UtilisationPoint> points() const {
    std::vector<UtilisationPoint> out;
    std::map<double, std::vector<double>> all = by_x;
    all.insert(searched.begin(), searched.end());
    for (auto& [x, values] : all) {
      std::sort(values.begin(), values.end());
      out.push_back({x, values[values.size() / 2]});
    }
    return out;
  }
};

// Our kernels' names, where the step graph has others.
std::string row_wise_name(const std::string& kernel) { return kernel == "router_topk" ? "topk" : kernel; }

// Rows move, or are added up, once for each expert that a token chose.
bool depends_on_choices(const std::string& op) {
  return op == "topk" || op == "moe_align" || op == "moe_permute" || op == "moe_combine";
}

double log_of(double value) { return det_log(std::max(1.0, value)); }

}  // namespace

class KernelSetReader {
 public:
  KernelSetReader(const HardwareProfile& hardware, std::string folder, bool tuned)
      : hardware_(hardware), rates_(PartRates::of(hardware)), source_rates_(rates_), tuned_(tuned),
        folder_(std::move(folder)) {}

  Result<std::shared_ptr<const KernelSet>> read(const std::string& name) {
    ORRERY_TRY_STATUS(read_description(name));
    const std::pair<const char*, void (KernelSetReader::*)(const CsvTable&)> files[] = {
        {"gemm", &KernelSetReader::read_gemm},
        {"grouped_gemm", &KernelSetReader::read_grouped},
        {"experts", &KernelSetReader::read_experts},
        {"attention_prefill", &KernelSetReader::read_prefill},
        {"attention_decode", &KernelSetReader::read_decode},
        {"mla_prefill", &KernelSetReader::read_mla_prefill},
        {"mla_decode", &KernelSetReader::read_mla_decode},
        {"mla_absorb", &KernelSetReader::read_mla_absorb},
        {"collectives", &KernelSetReader::read_collectives},
        {"elementwise", &KernelSetReader::read_elementwise},
        {"copy", &KernelSetReader::read_copy},
        {"corrections", &KernelSetReader::read_corrections},
        {"errors", &KernelSetReader::read_errors}};
    for (const auto& [file, read] : files) {
      read_file(std::string(file) + ".csv", read);
      // A set may hold both: what a kernel's own choice of a tile takes, and what the fastest does.
      reads_ = tuned_ ? Rows::fastest : Rows::own_choice;
      set_->tuned_ |= read_file(std::string(file) + "_tuned.csv", read) && tuned_;
      reads_ = Rows::all;
      add_gathered();
    }
    if (errors_.size() > 20) errors_.resize(20);
    if (!errors_.empty()) return errors_;
    return std::shared_ptr<const KernelSet>(set_);
  }

 private:
  enum class Rows { all, fastest, own_choice };
  const char* time_column() const { return reads_ == Rows::own_choice ? "default_us" : "us"; }

  bool read_file(const std::string& name, void (KernelSetReader::*take)(const CsvTable&)) {
    std::error_code ec;
    std::string path = folder_ + "/" + name;
    if (!base_.empty() && !fs::exists(path, ec)) path = base_ + "/" + name;
    if (!fs::exists(path, ec)) return false;
    auto table = CsvTable::load(path);
    if (table.ok() && (reads_ != Rows::own_choice || table->has("default_us")))
      (this->*take)(*table);
    else if (!table.ok())
      errors_.insert(errors_.end(), table.errors().begin(), table.errors().end());
    return true;
  }

  Status read_description(const std::string& name) {
    ORRERY_TRY(document, YamlDocument::load(folder_ + "/table.yaml"));
    const Yaml root = document.root();
    const Yaml hardware = root.require("hardware"), kernels = root.require("kernels");
    if (hardware.text() != hardware_.name) hardware.fail("must be " + quote(hardware_.name) + ", its folder");
    if (kernels.text() != name) kernels.fail("must be " + quote(name) + ", its folder");
    set_->name_ = name;
    set_->rates_ = rates_;
    set_->source_ = root.require("source").text();
    set_->rung_ = read_rung(root.require("kind"));
    if (const Yaml from = root.optional("from"); from.present()) carry_from(from);
    if (const Yaml base = root.optional("base"); base.present()) stand_on(base);
    for (const auto& [op, rung] : root.optional("rungs").entries()) set_->rungs_[op] = read_rung(rung);
    read_choice(root);
    accept_all(root);  // device, libraries, clocks: for people
    document.finish();
    return document.errors().empty() ? ok_status() : Status(document.errors());
  }

  void stand_on(const Yaml& base) {
    base_ = folder_of(hardware_.name, base.text());
    auto document = YamlDocument::load(base_ + "/table.yaml");
    if (!document.ok()) return base.fail("names no set of this part");
    const Yaml root = document->root();
    if (carried_ || root.optional("from").present() || root.optional("base").present())
      base.fail("must be a set with files of its own, and not beside `from`");
    read_choice(root);
    errors_.insert(errors_.end(), document->errors().begin(), document->errors().end());
  }

  // What layers were timed with: of a set over another that one's unless it says so itself.
  void read_choice(const Yaml& root) {
    const Yaml choice = root.optional("choice_inside");
    if (choice.present()) set_->choice_inside_.clear();
    for (const Yaml& format : choice.items())
      set_->choice_inside_.push_back(expert_formats()[format.choice(expert_formats())]);
  }

  // Figures of a relative: its files, its bounds.
  void carry_from(const Yaml& from) {
    auto relative = load_hardware(from.text());
    if (!relative.ok()) return from.fail(to_string(relative.errors()));
    source_rates_ = PartRates::of(*relative);
    folder_ = folder_of(from.text(), set_->name_);
    carried_ = true;
  }

  // What a launch that took `us` on the part it was timed on takes on this one.
  double carried(double us, double bound, double source_bound) const {
    if (!carried_ || bound <= 0 || source_bound <= 0) return us;
    return under_other_bound(us * 1000, source_bound, bound) / 1000;
  }

  static Rung read_rung(const Yaml& node) {
    for (const Rung rung : {Rung::measured, Rung::published, Rung::transported})
      if (node.text() == to_string(rung)) return rung;
    node.fail("must be measured, published or transported");
    return Rung::transported;
  }

  void add_shape(const std::string& key, const LogShape& logs, const std::string& kernel,
                 const std::vector<UtilisationPoint>& points) {
    if (points.empty()) return;
    set_->points_[key.substr(0, key.find('/'))] += points.size();
    set_->shapes_[key].push_back({logs, UtilisationCurve(points), kernel});
  }

  // Timed rows of one shape go together: key and logs name it.
  void gather(const std::string& key, const LogShape& logs, const std::string& kernel, double x, double u) {
    std::vector<Gathered>& shapes = gathered_[key];
    auto found =
        std::find_if(shapes.begin(), shapes.end(), [&](const Gathered& g) { return g.logs == logs; });
    if (found == shapes.end()) {
      shapes.push_back({logs, kernel, {}, {}});
      found = shapes.end() - 1;
    }
    if (reads_ == Rows::own_choice) {
      found->searched[x].push_back(u);
      return;
    }
    std::vector<double>& there = found->by_x[x];
    if (reads_ == Rows::fastest && !there.empty()) {  // another kernel of the set may be faster still
      u = std::max(u, *std::max_element(there.begin(), there.end()));
      there.clear();
    }
    there.push_back(u);
  }
  void add_gathered() {
    for (const auto& [key, shapes] : gathered_) {
      for (const Gathered& g : shapes) add_shape(key, g.logs, g.kernel, g.points());
    }
    gathered_.clear();
  }

  void read_gemm(const CsvTable& table) {
    for (const CsvTable::Row& row : table.rows()) {
      const double n = table.positive(row, "n", errors_), k = table.positive(row, "k", errors_);
      const std::string format = table.text(row, "dtype"), kernel = table.text(row, "kernel");
      const LogShape logs{log_of(n), log_of(k)};
      if (!table.timed()) {
        add_shape("gemm/" + format, logs, kernel, table.points(row, errors_));
        continue;
      }
      const double m = table.positive(row, "m", errors_), us = table.positive(row, time_column(), errors_);
      const double bound = gemm_bound_ns(rates_, format, m, n, k);
      if (bound <= 0) {
        table.fail(row, "dtype", "the part has no matrix rate for " + quote(format), errors_);
        continue;
      }
      const double source = gemm_bound_ns(source_rates_, format, m, n, k);
      gather("gemm/" + format, logs, kernel, m, bound / (carried(us, bound, source) * 1000));
    }
  }

  // Balanced groups: bytes of the weights that are read and the rows' operations.
  void read_grouped(const CsvTable& table) {
    for (const CsvTable::Row& row : table.rows()) {
      const double n = table.positive(row, "n", errors_), k = table.positive(row, "k", errors_);
      const double us = table.positive(row, time_column(), errors_);
      double rows = 0, distinct = 0;
      if (!rows_per_expert(table.text(row, "rows"), rows, distinct)) {
        table.fail(row, "rows", "must be rows per expert, as \"3 0 9\" or \"64x8\"", errors_);
        continue;
      }
      const std::string format = table.text(row, "dtype");
      const double bound = gemm_bound_ns(rates_, format, rows / distinct, n, k) * distinct;
      if (bound <= 0) continue;
      const double source = gemm_bound_ns(source_rates_, format, rows / distinct, n, k) * distinct;
      gather("grouped_gemm/" + format, {log_of(n), log_of(k), log_of(distinct)}, table.text(row, "kernel"),
             rows / distinct, bound / (carried(us, bound, source) * 1000));
    }
  }

  void read_experts(const CsvTable& table) {
    for (const CsvTable::Row& row : table.rows()) {
      const std::string key = "experts/" + table.text(row, "dtype") + "/" + table.text(row, "experts") + "/" +
                              table.text(row, "per_token");
      add_shape(key,
                {log_of(table.positive(row, "hidden", errors_)),
                 log_of(table.positive(row, "intermediate", errors_))},
                table.text(row, "kernel"), table.points(row, errors_));
    }
  }

  // The widths of a head say whether its keys are the latent or were expanded.
  void read_mla(const CsvTable& table, const char* op, std::vector<KernelSet::AttentionTable>& tables) {
    for (const CsvTable::Row& row : table.rows()) {
      AttentionShape shape;
      shape.heads = table.whole(row, "heads", errors_, -1);
      shape.kv_heads = 1;
      shape.head_dim = table.whole(row, "head_dim", errors_, -1);
      shape.value_dim = table.whole(row, "value_dim", errors_, -1);
      shape.kv_dtype = table.text(row, "kv_dtype");
      if (!add_line(tables, op, shape, table.text(row, "kernel"), table.positive(row, "length", errors_),
                    table.points(row, errors_)))
        table.fail(row, "length", "stands twice for this shape", errors_);
    }
  }
  void read_mla_prefill(const CsvTable& t) { read_mla(t, "mla_prefill", set_->mla_prefill_); }
  void read_mla_decode(const CsvTable& t) { read_mla(t, "mla_decode", set_->mla_decode_); }
  void read_mla_absorb(const CsvTable& table) {
    for (const CsvTable::Row& row : table.rows()) {
      std::string key = "mla_absorb/" + table.text(row, "dtype");
      for (const char* width : {"latent", "key_dim", "value_dim"}) key += "/" + table.text(row, width);
      add_shape(key, {log_of(table.positive(row, "heads", errors_)), 0}, table.text(row, "kernel"),
                table.points(row, errors_));
    }
  }

  AttentionShape attention_shape(const CsvTable& table, const CsvTable::Row& row) {
    AttentionShape shape;
    shape.heads = table.whole(row, "heads", errors_, -1);
    shape.kv_heads = table.whole(row, "kv_heads", errors_, -1);
    shape.head_dim = table.whole(row, "head_dim", errors_, -1);
    shape.window = table.whole(row, "window", errors_);
    shape.kv_dtype = table.text(row, "kv_dtype");
    return shape;
  }

  // False when the shape has a line of this length already: between equal lengths there is no slope.
  bool add_line(std::vector<KernelSet::AttentionTable>& tables, const char* op, const AttentionShape& shape,
                const std::string& kernel, double length, const std::vector<UtilisationPoint>& points) {
    if (points.empty()) return true;
    set_->points_[op] += points.size();
    auto found = std::find_if(tables.begin(), tables.end(), [&](const KernelSet::AttentionTable& t) {
      return t.shape.heads == shape.heads && t.shape.kv_heads == shape.kv_heads &&
             t.shape.head_dim == shape.head_dim && t.shape.window == shape.window &&
             t.shape.kv_dtype == shape.kv_dtype && t.shape.value_dim == shape.value_dim;
    });
    if (found == tables.end()) {
      tables.push_back({shape, kernel, {}});
      found = tables.end() - 1;
    }
    for (const FittedSurface::Line& line : found->lines) {
      if (line.length == length) return false;
    }
    // Short ones may run another kernel: the one of the longest stands for the table.
    if (found->lines.empty() || length > found->lines.back().length) found->kernel = kernel;
    found->lines.push_back({length, UtilisationCurve(points)});
    std::sort(found->lines.begin(), found->lines.end(),
              [](const auto& a, const auto& b) { return a.length < b.length; });
    return true;
  }

  void read_fitted_attention(const CsvTable& table, const char* op, const char* length,
                             std::vector<KernelSet::AttentionTable>& tables) {
    for (const CsvTable::Row& row : table.rows()) {
      if (!add_line(tables, op, attention_shape(table, row), table.text(row, "kernel"),
                    table.positive(row, length, errors_), table.points(row, errors_)))
        table.fail(row, length, "stands twice for this shape", errors_);
    }
  }

  void read_prefill(const CsvTable& table) {
    if (!table.timed()) read_fitted_attention(table, "attention_prefill", "tokens", set_->prefill_);
    if (table.timed()) read_timed_prefill(table);
  }

  void add_lines(std::vector<KernelSet::AttentionTable>& tables, const char* op, const TimedLines& lines) {
    for (const auto& [key, line] : lines) {
      std::vector<UtilisationPoint> points;
      for (const auto& [x, sum] : line.points) points.push_back({x, det_exp(sum.first / sum.second)});
      add_line(tables, op, line.shape, line.kernel, line.length, points);
    }
  }

  void read_timed_prefill(const CsvTable& table) {
    TimedLines prompts, chunks;
    for (const CsvTable::Row& row : table.rows()) {
      const AttentionShape shape = attention_shape(table, row);
      const double us = table.positive(row, "us", errors_);
      double count = 0, tokens = 0, context = 0;
      if (!equal_chunks(table.text(row, "sequences"), count, tokens, context) || shape.kv_heads < 1) continue;
      if (context > 0) {
        add_chunks(chunks, shape, {count, tokens, context}, us, table.text(row, "kernel"));
        continue;
      }
      const double pairs = count * tokens * (tokens + 1) / 2;
      const double bound = prefill_bound_ns(rates_, shape, count * tokens, pairs);
      const double source = prefill_bound_ns(source_rates_, shape, count * tokens, pairs);
      if (bound > 0)
        line_of(prompts, shape, tokens, table.text(row, "kernel"))
            .add(count, bound / (carried(us, bound, source) * 1000));
    }
    add_lines(set_->prefill_, "attention_prefill", completed(prompts));
    add_lines(set_->chunks_, "attention_prefill", chunks);
  }

  struct EqualChunks {
    double count, tokens, context;
  };
  void add_chunks(TimedLines& lines, const AttentionShape& shape, const EqualChunks& chunks, double us,
                  const std::string& kernel) {
    ChunkTiles tiles;
    const double group = static_cast<double>(shape.heads) / static_cast<double>(shape.kv_heads);
    for (double i = 0; i < chunks.count; ++i) tiles.add(chunks.tokens, chunks.context, group);
    const double bound = tiles.bound_ns(rates_, shape);
    if (bound <= 0) return;
    const double source = tiles.bound_ns(source_rates_, shape);
    line_of(lines, shape, tiles.tiles, kernel)
        .add(near(tiles.keys), bound / (carried(us, bound, source) * 1000));
  }

  void read_decode(const CsvTable& table) {
    if (!table.timed()) return read_fitted_attention(table, "attention_decode", "context", set_->decode_);
    TimedLines lines;
    for (const CsvTable::Row& row : table.rows()) {
      const AttentionShape shape = attention_shape(table, row);
      const double us = table.positive(row, "us", errors_), batch = table.positive(row, "batch", errors_);
      const double context = table.positive(row, "context", errors_);
      const double bound = decode_bound_ns(rates_, shape, batch, batch * context);
      const double source = decode_bound_ns(source_rates_, shape, batch, batch * context);
      line_of(lines, shape, context, table.text(row, "kernel"))
          .add(batch, bound / (carried(us, bound, source) * 1000));
    }
    add_lines(set_->decode_, "attention_decode", lines);
  }

  // Utilisation of collectives and row-wise kernels is against bytes at the part's link or memory rate; the
  // constant is the same when the curve is used, so any would do.
  void read_collectives(const CsvTable& table) {
    for (const CsvTable::Row& row : table.rows()) {
      const std::string key = table.text(row, "op") + "/" + table.text(row, "ranks");
      if (!table.timed()) {
        add_shape(key, {0, 0}, table.text(row, "kernel"), table.points(row, errors_));
        continue;
      }
      const double bytes = table.positive(row, "bytes", errors_), us = table.positive(row, "us", errors_);
      if (rates_.link <= 0) continue;
      gather(key, {0, 0}, table.text(row, "kernel"), bytes, bytes / rates_.link / (us * 1000));
    }
  }

  void read_elementwise(const CsvTable& table) {
    for (const CsvTable::Row& row : table.rows()) {
      const double rows = table.positive(row, "rows", errors_), n = table.positive(row, "n", errors_);
      const double us = table.positive(row, "us", errors_);
      const double bound = rows * n / rates_.bandwidth, source = rows * n / source_rates_.bandwidth;
      const std::string op = row_wise_name(table.text(row, "op")), kernel = table.text(row, "kernel");
      const double choices = depends_on_choices(op) ? static_cast<double>(table.whole(row, "k", errors_)) : 0;
      const LogShape logs{log_of(n), log_of(choices)};
      const double utilisation = bound / (carried(us, bound, source) * 1000);
      gather(op + "/rows", logs, kernel, rows, utilisation);
      const std::string format = table.text(row, "dtype");
      if (format.starts_with("fp8")) gather(op + ":" + format + "/rows", logs, kernel, rows, utilisation);
    }
  }

  void read_copy(const CsvTable& table) {
    for (const CsvTable::Row& row : table.rows()) {
      const double bytes = table.positive(row, "bytes", errors_), us = table.positive(row, "us", errors_);
      const double bound = 2 * bytes / rates_.bandwidth, source = 2 * bytes / source_rates_.bandwidth;
      gather("copy/", {0, 0}, "copy", bytes, bound / (carried(us, bound, source) * 1000));
    }
  }

  void read_corrections(const CsvTable& table) {
    std::map<std::string, std::vector<UtilisationPoint>> by_op;
    for (const CsvTable::Row& row : table.rows()) {
      std::vector<UtilisationPoint>& points = by_op[table.text(row, "op")];
      const double x = table.positive(row, "x", errors_);
      if (!points.empty() && x <= points.back().x) {
        table.fail(row, "x", "must ascend within an operator", errors_);
        continue;
      }
      points.push_back({x, table.positive(row, "factor", errors_)});
    }
    for (const auto& [op, points] : by_op) set_->corrections_.emplace(op, UtilisationCurve(points));
  }

  void read_errors(const CsvTable& table) {
    for (const CsvTable::Row& row : table.rows()) {
      set_->regions_.push_back(
          {table.text(row, "op"),
           table.text(row, "dtype"),
           table.positive(row, "low", errors_),
           table.positive(row, "high", errors_),
           {table.positive(row, "points", errors_), table.positive(row, "shapes", errors_)}});
    }
  }

  const HardwareProfile& hardware_;
  PartRates rates_, source_rates_;  // of this part, and of the one that was timed
  bool carried_ = false, tuned_ = false;
  Rows reads_ = Rows::all;
  std::string folder_, base_;  // base: another set of the part, for files that this one has not
  std::shared_ptr<KernelSet> set_ = std::make_shared<KernelSet>();
  std::map<std::string, std::vector<Gathered>> gathered_;
  Errors errors_;
};

std::vector<std::string> KernelSet::names(const std::string& hardware) {
  std::vector<std::string> out;
  std::error_code ec;
  for (fs::directory_iterator it(folder_of(hardware, ""), ec), end; !ec && it != end; it.increment(ec)) {
    if (fs::exists(it->path() / "table.yaml")) out.push_back(it->path().filename().string());
  }
  std::sort(out.begin(), out.end());
  return out;
}

Result<std::shared_ptr<const KernelSet>> KernelSet::load(const HardwareProfile& hardware,
                                                         const std::string& name, bool tuned) {
  if (name.find('/') != std::string::npos)  // one's own
    return KernelSetReader(hardware, name, tuned).read(fs::path(name).filename().string());
  const std::vector<std::string> known = names(hardware.name);
  if (!std::binary_search(known.begin(), known.end(), name)) {
    return invalid_input(
        "no tables of kernels " + quote(name) + " for " + hardware.name + did_you_mean(name, known) +
            "; there are: " + (known.empty() ? "none" : join(known, ", ")) + ", and roofline",
        {}, "kernels");
  }
  return KernelSetReader(hardware, folder_of(hardware.name, name), tuned).read(name);
}

}  // namespace orrery
