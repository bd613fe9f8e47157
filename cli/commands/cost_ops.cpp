#include "cli/commands/cost_ops.h"

#include <algorithm>
#include <limits>

#include "base/files.h"
#include "base/json.h"
#include "base/text.h"
#include "cli/commands/cost_text.h"
#include "cli/interrupt.h"

namespace orrery {

namespace {

constexpr std::int64_t most = std::int64_t{1} << 40;
constexpr std::int64_t most_int32 = std::numeric_limits<std::int32_t>::max() / 64;

const std::vector<std::string>& known_keys() {
  static const std::vector<std::string> keys{
      "op",       "m",        "n",     "k",       "dtype",    "rows",      "heads", "kv_heads",
      "head_dim", "kv_dtype", "batch", "context", "contexts", "sequences", "bytes", "ranks"};
  return keys;
}

class OperatorRow {
 public:
  OperatorRow(const Json& object, const std::string& file, std::int64_t line)
      : object_(object), where_{file, static_cast<int>(line), 0} {}

  OpQuery read() {
    OpQuery q;
    for (const auto& item : object_.items()) {
      const auto& keys = known_keys();
      if (std::find(keys.begin(), keys.end(), item.key()) == keys.end()) {
        fail(item.key(), "unknown key" + did_you_mean(item.key(), keys));
      }
    }
    q.op = text("op", "");
    q.dtype = text("dtype", "bf16");
    q.kv_dtype = text("kv_dtype", "auto");
    q.m = integer("m", most_int32);
    q.n = integer("n", most_int32);
    q.k = integer("k", most_int32);
    q.heads = integer("heads", 1 << 20);
    q.kv_heads = integer("kv_heads", 1 << 20);
    q.head_dim = integer("head_dim", 1 << 20);
    q.ranks = static_cast<std::int32_t>(integer("ranks", 1 << 20));
    q.bytes = static_cast<double>(integer("bytes", std::int64_t{1} << 50));
    for (const Json& item : list("rows")) q.rows.push_back(integer_of(item, "rows", most_int32));
    for (const Json& item : list("sequences")) {
      if (!item.is_array() || item.size() != 2) {
        fail("sequences", "each item is [new tokens, context before]");
        break;
      }
      q.sequences.push_back({static_cast<std::int32_t>(integer_of(item[0], "sequences", most_int32)),
                             integer_of(item[1], "sequences", most)});
    }
    read_contexts(q);
    return q;
  }

  const Errors& errors() const { return errors_; }
  void fail(const std::string& key, const std::string& message) {
    errors_.push_back(invalid_input(message, where_, key));
  }

 private:
  // Either `batch` sequences of one `context`, or `contexts` one by one.
  void read_contexts(OpQuery& q) {
    const std::int64_t batch = integer("batch", most_int32);
    const std::int64_t context = integer("context", most / std::max<std::int64_t>(1, batch));
    q.batch = static_cast<std::int32_t>(batch);
    q.context_sum = batch * context;
    if (!object_.contains("contexts")) return;
    if (object_.contains("context")) return fail("contexts", "give `context` or `contexts`, not both");
    q.context_sum = 0;
    std::int64_t count = 0;
    for (const Json& item : list("contexts")) {
      q.context_sum += integer_of(item, "contexts", most / most_int32);
      ++count;
    }
    if (object_.contains("batch") && batch != count) fail("contexts", "must have `batch` entries");
    q.batch = static_cast<std::int32_t>(count);
  }

  std::string text(const std::string& key, const std::string& fallback) {
    if (!object_.contains(key)) return fallback;
    if (object_[key].is_string()) return object_[key].get<std::string>();
    fail(key, "must be text");
    return fallback;
  }

  std::int64_t integer(const std::string& key, std::int64_t high) {
    return object_.contains(key) ? integer_of(object_[key], key, high) : 0;
  }

  std::int64_t integer_of(const Json& value, const std::string& key, std::int64_t high) {
    if (value.is_number_unsigned() && value.get<std::uint64_t>() <= static_cast<std::uint64_t>(high)) {
      return value.get<std::int64_t>();
    }
    fail(key, "must be a whole number from 0 to " + std::to_string(high) + ", not " + value.dump());
    return 0;
  }

  const Json& list(const std::string& key) {
    static const Json none = Json::array();
    if (!object_.contains(key)) return none;
    if (object_[key].is_array()) return object_[key];
    fail(key, "must be a list");
    return none;
  }

  const Json& object_;
  SourceLocation where_;
  Errors errors_;
};

// The tables that price the list. Our own are the default; a part that has none is priced by the roofline,
// and the column `rung` says so. Any other set must be there.
Result<std::shared_ptr<const KernelSet>> kernels_named(const std::string& name, const HardwareProfile& part) {
  const std::vector<std::string> known = KernelSet::names(part.name);
  const bool there = std::find(known.begin(), known.end(), name) != known.end();
  if (name == "roofline" || (name == "orrery" && !there)) return std::shared_ptr<const KernelSet>();
  return KernelSet::load(part, name);
}

Result<std::string> operator_csv(const std::string& file, const Roofline& roofline) {
  ORRERY_TRY(reader, LineReader::open(file));
  std::string out = "operator,us,low_us,high_us,bound,rung,hit\n";
  Errors errors;
  std::string_view row;
  std::int64_t rows = 0;
  while (errors.size() < 20 && !interrupted() && reader.next(row)) {
    if (row.find_first_not_of(" \t") == std::string_view::npos) continue;
    const std::int64_t line = reader.line_number();
    ++rows;
    auto query = parse_operator_row(row, file, line);
    if (!query.ok()) {
      errors.insert(errors.end(), query.errors().begin(), query.errors().end());
      continue;
    }
    auto price = price_operator(*query, roofline);
    if (!price.ok()) {
      for (Error error : price.errors()) {
        error.where = {file, static_cast<int>(line), 0};
        errors.push_back(error);
      }
      continue;
    }
    out += query->op + "," + microseconds_text(price->ns) + "," + microseconds_text(price->low_ns) + "," +
           microseconds_text(price->high_ns) + "," + to_string(price->cost.bound()) + "," + price->rung +
           "," + price->hit + "\n";
  }
  if (interrupted()) return interruption();
  if (reader.error() != nullptr) errors.push_back(*reader.error());
  if (errors.empty() && rows == 0) errors.push_back(invalid_input("no operators in it", {file, 0, 0}));
  if (!errors.empty()) return errors;
  return out;
}

}  // namespace

Result<OpQuery> parse_operator_row(std::string_view row, const std::string& file, std::int64_t line) {
  auto parsed = parse_json(std::string(row), file);
  if (!parsed.ok()) {
    Errors errors = parsed.errors();
    for (Error& error : errors) error.where.line = static_cast<int>(line);
    return errors;
  }
  if (!parsed->is_object())
    return invalid_input("expected an object with \"op\"", {file, static_cast<int>(line), 0});
  OperatorRow reader(*parsed, file, line);
  OpQuery query = reader.read();
  if (!reader.errors().empty()) return reader.errors();
  return query;
}

int price_operators(const std::string& file, const std::string& hardware, const std::string& kernels,
                    const std::string& out, const CommandContext& context) {
  auto profile = load_hardware(hardware);
  if (!profile.ok()) return report_errors(profile.errors());
  auto set = kernels_named(kernels, *profile);
  if (!set.ok()) return report_errors(set.errors());
  auto roofline = Roofline::create(*profile, *set);
  if (!roofline.ok()) return report_errors(roofline.errors());
  auto csv = operator_csv(file, *roofline);
  if (!csv.ok()) return report_errors(csv.errors());
  return put_csv(*csv, out, context);
}

}  // namespace orrery
