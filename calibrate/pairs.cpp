#include "calibrate/pairs.h"

#include <algorithm>
#include <map>

#include "base/files.h"
#include "base/json.h"
#include "base/text.h"
#include "base/yaml_reader.h"
#include "calibrate/point.h"
#include "calibrate/routing.h"
#include "calibrate/tune_timers.h"
#include "costmodel/op_query.h"
#include "kernels/block_gemm.h"

namespace orrery::calibrate {

namespace {

using Fields = std::map<std::string, Yaml>;  // of an operator, those of the shape over its own

// An operator of a side. Every key that a case reads has its own name; `of`: experts of the model, of which
// `experts` are here.
class OpReader {
 public:
  explicit OpReader(const Fields& fields) : fields_(fields) {}

  PairOp read() {
    PairOp op;
    kernels::CaseSpec& s = op.spec;
    s.op = text("op");
    s.dtype = text("dtype", "bf16");
    s.kv_dtype = text("kv_dtype", "bf16");
    for (const auto& [name, value] :
         std::initializer_list<std::pair<const char*, std::int64_t*>>{{"m", &s.m},
                                                                      {"n", &s.n},
                                                                      {"k", &s.k},
                                                                      {"heads", &s.heads},
                                                                      {"kv_heads", &s.kv_heads},
                                                                      {"head_dim", &s.head_dim},
                                                                      {"experts", &s.experts},
                                                                      {"top_k", &s.top_k},
                                                                      {"groups", &s.groups},
                                                                      {"top_groups", &s.top_groups},
                                                                      {"block_size", &s.block_size},
                                                                      {"bytes", &s.bytes},
                                                                      {"tokens", &op.tokens},
                                                                      {"times", &op.times}}) {
      if (const auto found = fields_.find(name); found != fields_.end())
        *value = found->second.integer(0, 1, std::int64_t{1} << 40);
    }
    if (const auto ranks = fields_.find("ranks"); ranks != fields_.end())
      s.ranks = static_cast<std::int32_t>(ranks->second.integer(2, 2, 1024));
    if (const auto batch = fields_.find("batch"); batch != fields_.end())
      s.contexts.assign(static_cast<std::size_t>(batch->second.integer(1, 1, 1 << 20)), context());
    op.tile = text("tile");
    if (const auto per_row = fields_.find("m_times"); per_row != fields_.end())
      s.m *= per_row->second.integer(1, 1, 4096);
    if (s.op == "rms_norm_heads") {  // the rows of a norm are heads
      s.op = "rms_norm";
      s.m *= s.heads;
      s.n = s.head_dim;
    }
    if (const auto of = fields_.find("of"); of != fields_.end()) {
      s.rows = expert_rows(RowPattern::routed, of->second.integer(1, 1, 4096), s.top_k, op.tokens);
      s.rows.resize(static_cast<std::size_t>(s.experts));
    }
    return op;
  }

 private:
  std::int64_t context() const {
    const auto found = fields_.find("context");
    return found == fields_.end() ? 0 : found->second.integer(1, 1, 1 << 24);
  }
  std::string text(const char* name, const char* fallback = "") const {
    const auto found = fields_.find(name);
    return found == fields_.end() ? fallback : found->second.text();
  }
  const Fields& fields_;
};

constexpr std::string_view op_keys[] = {
    "op",       "dtype",    "kv_dtype", "m",       "n",          "k",       "heads",     "experts",
    "kv_heads", "head_dim", "top_k",    "groups",  "top_groups", "bytes",   "tokens",    "times",
    "ranks",    "tile",     "of",       "m_times", "batch",      "context", "block_size"};

Fields fields_of(const Yaml& node, Fields fields) {
  for (const auto& [key, value] : node.entries()) {
    const bool known = std::find(std::begin(op_keys), std::end(op_keys), key) != std::end(op_keys);
    if (!known) value.fail("unknown key of an operator");
    fields[key] = value;
  }
  return fields;
}

std::vector<PairOp> read_side(const Yaml& list, const Fields& shape) {
  std::vector<PairOp> side;
  if (!list.present()) return side;
  for (const Yaml& item : list.items()) {
    Fields fields = fields_of(item, {});
    for (const auto& [key, value] : shape) fields.try_emplace(key, value);
    side.push_back(OpReader(fields).read());
    if (side.back().spec.op.empty()) item.fail("an operator needs `op`");
  }
  return side;
}

KernelPair read_pair(const Yaml& node) {
  KernelPair pair;
  pair.name = node.require("name").text();
  pair.study = node.require("case").text();
  pair.what = node.require("what").text();
  const Yaml published = node.require("published");
  if (const Yaml ratio = published.optional("ratio"); ratio.present()) {
    pair.low = ratio.number(1, 0.01, 1000);
    pair.high = published.optional("to").number(pair.low, pair.low, 1000);
  }
  pair.source = published.require("source").text();
  pair.part = node.require("part").text();
  pair.kernels = node.optional("kernels").text("roofline");
  pair.not_priced = node.optional("not_priced").text();
  pair.not_measured = node.optional("not_measured").text();
  const Yaml before = node.optional("before"), after = node.optional("after");
  for (const Yaml& at : node.require("at").items()) {
    const Fields fields = fields_of(at, {});
    PairShape shape;
    for (const auto& [key, value] : at.entries())
      shape.text += (shape.text.empty() ? "" : " ") + key + "=" + value.scalar_text();
    shape.before = read_side(before, fields);
    shape.after = read_side(after, fields);
    pair.shapes.push_back(std::move(shape));
  }
  const bool whole = before.present() && after.present();
  if (!whole && pair.not_measured.empty()) node.fail("a side is missing: say why as `not_measured`");
  if (!whole && pair.not_priced.empty()) node.fail("a side is missing: say why as `not_priced`");
  return pair;
}

// "64x128"
bool read_extents(const std::string& tile, std::int64_t& rows, std::int64_t& columns) {
  const std::size_t cross = tile.find('x');
  if (cross == std::string::npos) return false;
  rows = std::atoll(tile.substr(0, cross).c_str());
  columns = std::atoll(tile.substr(cross + 1).c_str());
  return rows > 0 && columns > 0;
}

// As `cost --ops` asks for it. A tile that is not swapped multiplies whole tiles of rows.
OpQuery query_of(const PairOp& op) {
  const kernels::CaseSpec& s = op.spec;
  OpQuery query;
  query.op = table_of(s);
  query.dtype = s.dtype;
  query.n = s.n;
  query.k = s.k;
  std::int64_t rows = 1, columns = 1;
  if (!read_extents(op.tile, rows, columns)) rows = 1;
  query.m = (s.m + rows - 1) / rows * rows;
  for (const std::int64_t each : s.rows) query.rows.push_back((each + rows - 1) / rows * rows);
  query.bytes = static_cast<double>(s.bytes);
  query.ranks = s.ranks;
  if (query.op == "collectives" || query.op == "elementwise" || query.op == "copy") query.op = s.op;
  if (table_of(s) != "elementwise") return query;
  // "op,dtype,rows,n,k"
  const std::string shape = shape_of(s);
  std::vector<std::string> columns_of_shape;
  for (std::size_t from = 0; from <= shape.size();) {
    const std::size_t end = std::min(shape.find(',', from), shape.size());
    columns_of_shape.push_back(shape.substr(from, end - from));
    from = end + 1;
  }
  query.dtype = columns_of_shape[1];
  query.n = std::atoll(columns_of_shape[3].c_str());
  query.k = std::atoll(columns_of_shape[4].c_str());
  return query;
}

class Pricer {
 public:
  static Result<Pricer> create(const KernelPair& pair) {
    ORRERY_TRY(part, load_hardware(pair.part));
    std::shared_ptr<const KernelSet> set;
    if (pair.kernels != "roofline") {
      ORRERY_TRY(loaded, KernelSet::load(part, pair.kernels));
      set = loaded;
    }
    ORRERY_TRY(roofline, Roofline::create(part, set));
    ORRERY_TRY(law, LawTiles::create(part));
    return Pricer(std::move(roofline), std::move(law));
  }

  Result<double> us(const PairOp& op, std::string& rung) {
    if (op.tile == "default" || op.tile == "tuned") {
      rung = "tile law";
      return by_law(op);
    }
    ORRERY_TRY(price, price_operator(query_of(op), roofline_));
    if (rung.find(price.rung) == std::string::npos) rung += (rung.empty() ? "" : ", ") + price.rung;
    return static_cast<double>(op.times * price.ns) * 1e-3;
  }

 private:
  Pricer(Roofline roofline, LawTiles law) : roofline_(std::move(roofline)), law_(std::move(law)) {}

  Result<double> by_law(const PairOp& op) {
    TileProblem problem;
    problem.spec = op.spec;
    problem.tokens = op.tokens;
    const SearchTile own = law_.own(problem);
    const TileSearch found = search_tiles(problem, law_.space(problem), own, law_, law_.limits());
    if (found.own.us <= 0) return invalid_input("the tile law is that of experts' products");
    return op.tile == "default" ? found.own.us : found.winner.us;
  }

  Roofline roofline_;
  LawTiles law_;
};

std::string error_text(const Errors& errors) {
  const Error& e = errors.front();
  return e.key.empty() ? e.message : e.key + ": " + e.message;
}

// A place among the tiles whose features in are not split, the one with most stages; -1 for the kernel's own
// choice, -2 for none.
std::int32_t variant_of(const std::string& tile) {
  std::int64_t rows = 0, columns = 0;
  if (tile.empty()) return -1;
  if (!read_extents(tile, rows, columns)) return -2;
  const auto tiles = kernels::block_gemm_tiles();
  std::int32_t found = -2;
  for (std::size_t i = 0; i < tiles.size(); ++i) {
    const kernels::BlockGemmTile& t = tiles[i];
    if (t.rows == rows && t.columns == columns && !t.swapped && t.splits == 1 && t.blocks == 1 &&
        t.shared == kernels::SharedCopies::none)
      found = static_cast<std::int32_t>(i);
  }
  return found;
}

double measure_side(const std::vector<PairOp>& side, const TimeOp& time, PairFigure& figure) {
  double sum = 0;
  for (const PairOp& op : side) {
    kernels::CaseSpec spec = op.spec;
    spec.variant = variant_of(op.tile);
    if (spec.variant < -1) {
      figure.why = "no tile " + op.tile + " of " + spec.op + " in this build";
      return 0;
    }
    const Measurement m = time(spec);
    if (!has_figure(m.state)) {
      figure.why = spec.op + ": " + m.why;
      return 0;
    }
    figure.detail += (figure.detail.empty() ? "" : " ") +
                     (op.times > 1 ? std::to_string(op.times) + "x" : std::string()) + m.kernel;
    sum += static_cast<double>(op.times) * m.us;
  }
  return sum;
}

}  // namespace

std::string pairs_path() { return data_directory() + "/reports/cases/pairs.yaml"; }

Result<std::vector<KernelPair>> load_pairs(const std::string& path) {
  ORRERY_TRY(document, YamlDocument::load(path));
  std::vector<KernelPair> pairs;
  for (const Yaml& node : document.root().require("pairs").items()) {
    pairs.push_back(read_pair(node));
    const auto same = [&](const KernelPair& other) { return other.name == pairs.back().name; };
    if (std::any_of(pairs.begin(), pairs.end() - 1, same)) node.fail("two pairs have this name");
  }
  document.finish();
  if (!document.errors().empty()) return document.errors();
  return pairs;
}

std::vector<PairFigure> price_pair(const KernelPair& pair) {
  std::vector<PairFigure> figures;
  auto pricer = Pricer::create(pair);
  for (const PairShape& shape : pair.shapes) {
    PairFigure figure;
    figure.shape = shape.text;
    figure.why = pricer.ok() ? pair.not_priced : error_text(pricer.errors());
    for (const bool before : {true, false}) {
      if (!figure.why.empty()) break;
      for (const PairOp& op : before ? shape.before : shape.after) {
        const auto us = pricer->us(op, figure.detail);
        if (us.ok())
          (before ? figure.before_us : figure.after_us) += *us;
        else if (figure.why.empty())
          figure.why = op.spec.op + ": " + error_text(us.errors());
      }
    }
    if (!figure.why.empty()) figure.before_us = figure.after_us = 0;
    figures.push_back(std::move(figure));
  }
  return figures;
}

std::vector<PairFigure> measure_pair(const KernelPair& pair, const TimeOp& time) {
  std::vector<PairFigure> figures;
  for (const PairShape& shape : pair.shapes) {
    PairFigure figure;
    figure.shape = shape.text;
    figure.why = pair.not_measured;
    if (figure.why.empty()) figure.before_us = measure_side(shape.before, time, figure);
    if (figure.why.empty()) figure.detail += " |";
    if (figure.why.empty()) figure.after_us = measure_side(shape.after, time, figure);
    if (!figure.why.empty()) figure.before_us = figure.after_us = 0;
    figures.push_back(std::move(figure));
  }
  return figures;
}

}  // namespace orrery::calibrate
