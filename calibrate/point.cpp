#include "calibrate/point.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <limits>

#include "base/text.h"

namespace orrery::calibrate {

namespace {

constexpr std::array<TableEntry, 8> tables{{
    {"gemm", "dtype,m,n,k", "us,spread,kernel"},
    {"grouped_gemm", "dtype,n,k,rows", "us,spread,kernel"},
    {"attention_prefill", "dtype,kv_dtype,heads,kv_heads,head_dim,sequences", "us,spread,kernel"},
    {"attention_decode", "dtype,kv_dtype,heads,kv_heads,head_dim,batch,context", "us,spread,kernel"},
    {"elementwise", "op,dtype,rows,n,k", "us,spread,kernel"},
    {"collectives", "op,ranks,bytes", "us,spread,kernel"},
    {"copy", "probe,bytes", "us,spread,kernel"},
    {"probes", "probe,bytes", "value,unit"},
}};

constexpr std::array collectives{"all_reduce",
                                 "all_gather",
                                 "reduce_scatter",
                                 "all_to_all",
                                 "send_recv",
                                 "peer_all_reduce",
                                 "peer_all_reduce_lines",
                                 "peer_all_reduce_one_shot",
                                 "peer_all_reduce_two_shot"};
constexpr std::array probes{"copy", "read", "write", "bandwidth", "host_copies", "launches", "sustained"};

template <std::size_t n>
bool among(const std::array<const char*, n>& names, const std::string& op) {
  return std::any_of(names.begin(), names.end(), [&](const char* name) { return op == name; });
}

std::string joined(std::initializer_list<std::int64_t> values) {
  std::string text;
  for (const std::int64_t v : values) text += "," + std::to_string(v);
  return text;
}

// What a row-wise operator calls its width: features, experts, or the heads that it turns.
std::int64_t width_of(const kernels::CaseSpec& s) {
  if (s.n > 0) return s.n;
  if (s.experts > 0) return s.experts;
  return (s.heads + s.kv_heads) * s.head_dim;
}
std::int64_t second_of(const kernels::CaseSpec& s) {
  if (s.k > 0) return s.k;
  return s.top_k > 0 ? s.top_k : s.head_dim;
}

Result<std::int64_t> whole(std::string_view text, const char* what) {
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const bool read = error == std::errc() && end == text.data() + text.size() && !text.empty();
  if (read && value >= 0 && value <= (std::int64_t{1} << 50)) return value;
  return invalid_input(std::string(what) + " must be a whole number, not " + quote(text));
}

std::vector<std::string_view> words(std::string_view text) {
  std::vector<std::string_view> out;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find(' '), text.size());
    if (end > 0) out.push_back(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return out;
}

// "64x8" → (64, "8"); "8" → (1, "8").
Result<std::int64_t> take_run(std::string_view& word) {
  const std::size_t cross = word.find('x');
  if (cross == std::string_view::npos) return std::int64_t{1};
  ORRERY_TRY(run, whole(word.substr(0, cross), "a run's length"));
  if (run < 1 || run > 65536) return invalid_input("a run's length must be 1 to 65536");
  word.remove_prefix(cross + 1);
  return run;
}

template <class Item, class Text>
std::string run_lengths(const std::vector<Item>& items, Text text) {
  std::string out;
  for (std::size_t i = 0; i < items.size();) {
    std::size_t end = i;
    while (end < items.size() && items[end] == items[i]) ++end;
    if (!out.empty()) out += ' ';
    if (end - i > 1) out += std::to_string(end - i) + "x";
    out += text(items[i]);
    i = end;
  }
  return out;
}

// Reads named integer columns in order; the first that fails is the error.
class Columns {
 public:
  Columns(const TableEntry& table, const std::vector<std::string>& values) : table_(table), values_(values) {}
  const std::string& text(std::size_t i) const { return values_[i]; }
  std::int64_t integer(std::size_t i, std::int64_t low = 1) {
    const auto value = whole(values_[i], "a column of numbers");
    if (value.ok() && *value >= low) return *value;
    const std::string what = value.ok() ? "must be at least " + std::to_string(low)
                                        : "must be a whole number, not " + quote(values_[i]);
    errors_.push_back(
        invalid_input("column " + std::to_string(i + 1) + " of \"" + table_.columns + "\" " + what));
    return low;
  }
  Errors errors_;

 private:
  const TableEntry& table_;
  const std::vector<std::string>& values_;
};

void read_attention(Columns& c, kernels::CaseSpec& s) {
  s.dtype = c.text(0);
  s.kv_dtype = c.text(1);
  s.heads = c.integer(2);
  s.kv_heads = c.integer(3);
  s.head_dim = c.integer(4);
}

}  // namespace

std::span<const TableEntry> table_entries() { return tables; }

const TableEntry* find_table(std::string_view name) {
  for (const TableEntry& entry : tables) {
    if (entry.name == name) return &entry;
  }
  return nullptr;
}

bool is_collective(const std::string& op) { return among(collectives, op); }
bool is_probe(const std::string& op) { return among(probes, op); }

std::string rows_text(const std::vector<std::int64_t>& rows) {
  return run_lengths(rows, [](std::int64_t n) { return std::to_string(n); });
}

std::string sequences_text(const std::vector<std::pair<std::int64_t, std::int64_t>>& sequences) {
  return run_lengths(sequences, [](const std::pair<std::int64_t, std::int64_t>& s) {
    return std::to_string(s.first) + "@" + std::to_string(s.second);
  });
}

Result<std::vector<std::int64_t>> parse_rows(const std::string& text) {
  std::vector<std::int64_t> rows;
  for (std::string_view word : words(text)) {
    ORRERY_TRY(run, take_run(word));
    ORRERY_TRY(value, whole(word, "rows of an expert"));
    rows.insert(rows.end(), static_cast<std::size_t>(run), value);
  }
  if (rows.empty()) return invalid_input("rows: at least one expert is needed");
  return rows;
}

Result<std::vector<std::pair<std::int64_t, std::int64_t>>> parse_sequences(const std::string& text) {
  std::vector<std::pair<std::int64_t, std::int64_t>> out;
  for (std::string_view word : words(text)) {
    ORRERY_TRY(run, take_run(word));
    const std::size_t at = word.find('@');
    if (at == std::string_view::npos)
      return invalid_input("sequences: write new@context, not " + quote(word));
    ORRERY_TRY(fresh, whole(word.substr(0, at), "new tokens"));
    ORRERY_TRY(context, whole(word.substr(at + 1), "context"));
    if (fresh < 1) return invalid_input("sequences: a sequence has at least one new token");
    out.insert(out.end(), static_cast<std::size_t>(run), {fresh, context});
  }
  if (out.empty()) return invalid_input("sequences: at least one is needed");
  return out;
}

namespace {

// "attention_prefill_wgmma" is another kernel for the same operator, "block_gemm" one for two of them.
std::string operator_of(const kernels::CaseSpec& s) {
  for (const char* known : {"grouped_gemm", "attention_prefill"}) {
    if (s.op.starts_with(known)) return known;
  }
  if (s.op.starts_with("block_gemm")) return s.rows.empty() ? "gemm" : "grouped_gemm";
  return s.op;
}

// Operators of latent and sparse attention; none has a table of its own.
bool is_latent(const kernels::CaseSpec& s) { return s.op.starts_with("mla_") || s.op.starts_with("index_"); }

std::string batch_and_context(const kernels::CaseSpec& s) {
  std::int64_t sum = 0;
  for (const std::int64_t c : s.contexts) sum += c;
  const auto batch = static_cast<std::int64_t>(s.contexts.size());
  return joined({batch, batch == 0 ? 0 : sum / batch});
}

}  // namespace

std::string table_of(const kernels::CaseSpec& s) {
  const std::string op = operator_of(s);
  if (op == "gemm" || op == "grouped_gemm" || op == "attention_prefill" || op == "attention_decode")
    return op;
  if (is_collective(s.op)) return "collectives";
  if (s.op == "copy") return "copy";
  return is_probe(s.op) ? "probes" : "elementwise";
}

std::string shape_of(const kernels::CaseSpec& s) {
  if (operator_of(s) == "gemm") return s.dtype + joined({s.m, s.n, s.k});
  if (operator_of(s) == "grouped_gemm") return s.dtype + joined({s.n, s.k}) + "," + rows_text(s.rows);
  const std::string heads = s.dtype + "," + s.kv_dtype + joined({s.heads, s.kv_heads, s.head_dim});
  if (operator_of(s) == "attention_prefill") return heads + "," + sequences_text(s.sequences);
  if (s.op.starts_with("attention_decode")) return heads + batch_and_context(s);
  if (is_latent(s)) {
    const std::string of = s.op + "," + s.kv_dtype + joined({s.heads, s.top_k, s.block_size});
    return s.op.starts_with("mla_prefill") ? of + "," + sequences_text(s.sequences)
                                           : of + batch_and_context(s);
  }
  if (is_collective(s.op)) return s.op + joined({s.ranks, s.bytes});
  if (is_probe(s.op)) return s.op + joined({s.bytes});
  // A cache is written in its own type, whatever the activations are.
  const std::string& dtype = s.op.starts_with("kv_write") ? s.kv_dtype : s.dtype;
  return s.op + "," + dtype + joined({s.m, width_of(s), second_of(s)});
}

std::vector<std::string> forms_of(const kernels::CaseSpec& s) {
  const bool scaled = s.dtype == "fp8-block" || s.dtype == "fp8-channel";
  if (s.op == "gemm" && scaled) return {s.op, "block_gemm_wgmma", "block_gemm"};
  if (s.op == "grouped_gemm" && scaled) return {s.op, "grouped_gemm_wgmma", "block_gemm_wgmma", "block_gemm"};
  if (s.op == "grouped_gemm") return {s.op, "grouped_gemm_wgmma"};
  if (s.op != "attention_prefill") return {s.op};
  std::vector<std::string> forms{s.op, "attention_prefill_wgmma"};
  const bool prompts =
      std::all_of(s.sequences.begin(), s.sequences.end(), [](const auto& each) { return each.second == 0; });
  if (prompts) forms.emplace_back("attention_prefill_cudnn");
  return forms;
}

Result<kernels::CaseSpec> spec_of(const std::string& table, const std::vector<std::string>& columns) {
  const TableEntry* entry = find_table(table);
  ORRERY_CHECK(entry != nullptr, "a table that nobody knows");
  const std::string header = entry->columns;
  const auto wanted = static_cast<std::size_t>(std::count(header.begin(), header.end(), ',')) + 1;
  if (columns.size() != wanted) return invalid_input("expected the columns " + header);
  Columns c(*entry, columns);
  kernels::CaseSpec s;
  s.op = table;
  if (table == "gemm") {
    s.dtype = c.text(0);
    s.m = c.integer(1);
    s.n = c.integer(2);
    s.k = c.integer(3);
  } else if (table == "grouped_gemm") {
    s.dtype = c.text(0);
    s.n = c.integer(1);
    s.k = c.integer(2);
    ORRERY_TRY(rows, parse_rows(c.text(3)));
    s.rows = rows;
  } else if (table == "attention_prefill") {
    read_attention(c, s);
    ORRERY_TRY(sequences, parse_sequences(c.text(5)));
    s.sequences = sequences;
  } else if (table == "attention_decode") {
    read_attention(c, s);
    const std::int64_t batch = c.integer(5), context = c.integer(6);
    if (batch > 1 << 20) return invalid_input("a batch of more than a million sequences");
    s.contexts.assign(static_cast<std::size_t>(batch), context);
  } else if (table == "elementwise") {
    s.op = c.text(0);
    s.dtype = c.text(1);
    s.m = c.integer(2);
    s.n = c.integer(3, 0);
    s.k = c.integer(4, 0);
  } else if (table == "collectives") {
    s.op = c.text(0);
    s.ranks = static_cast<std::int32_t>(std::min<std::int64_t>(c.integer(1, 2), 1 << 20));
    s.bytes = c.integer(2);
  } else {
    s.op = c.text(0);
    s.bytes = c.integer(1, 0);
  }
  if (!c.errors_.empty()) return c.errors_;
  return s;
}

double weight_bytes_per_parameter(const std::string& dtype) {
  if (dtype.starts_with("w4")) return 0.5 + 2.0 / 128;  // with a bf16 scale for a group of 128
  return dtype.starts_with("fp8") ? 1 : 2;
}

double cold_bytes(const kernels::CaseSpec& s) {
  const double matrix = static_cast<double>(s.n * s.k) * weight_bytes_per_parameter(s.dtype);
  if (operator_of(s) == "gemm") return matrix;
  if (s.op == "copy") return 2.0 * static_cast<double>(s.bytes);
  if (operator_of(s) == "grouped_gemm") {
    const auto used = std::count_if(s.rows.begin(), s.rows.end(), [](std::int64_t n) { return n > 0; });
    return static_cast<double>(used) * matrix;
  }
  const double per_key = 2.0 * static_cast<double>(s.kv_heads * s.head_dim) * (s.kv_dtype == "fp8" ? 1 : 2);
  double keys = 0;
  if (s.op.starts_with("attention_decode"))
    for (const std::int64_t c : s.contexts) keys += static_cast<double>(c);
  if (is_latent(s)) {
    // A latent, packed or in its type; an indexer's key and its scale.
    const double of_latent = s.kv_dtype == "bf16" ? 1152 : s.kv_dtype == "fp8" ? 576 : 656;
    const bool sparse = s.op.starts_with("mla_sparse");
    double tokens = 0;
    for (const std::int64_t c : s.contexts) tokens += static_cast<double>(sparse ? std::min(c, s.top_k) : c);
    // Of prompts the keys of 192 and values of 128 that every head has of the tokens before.
    const double expanded = 2 * (192 + 128) * static_cast<double>(s.heads);
    for (const auto& sequence : s.sequences) keys += static_cast<double>(sequence.second);
    if (s.op.starts_with("mla_prefill")) return keys * expanded;
    if (s.op.starts_with("index_")) return s.op == "index_scores" ? tokens * 132 : 0;
    return tokens * of_latent;
  }
  if (s.op == "attention_prefill")
    for (const auto& sequence : s.sequences) keys += static_cast<double>(sequence.second);
  return keys * per_key;
}

}  // namespace orrery::calibrate
