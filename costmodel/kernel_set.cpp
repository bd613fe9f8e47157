#include "costmodel/kernel_set.h"

#include <algorithm>

#include "base/check.h"
#include "base/det_math.h"

namespace orrery {

namespace {

double log_of(std::int64_t value) { return det_log(static_cast<double>(value)); }

struct FormatBytes {
  const char* format;
  DType math;
  double weight, activation;
};
// As tools/kernel_tables/base.py has them; weights of four bits in groups of 32, whose products are bf16.
constexpr std::array<FormatBytes, 7> formats{{{"bf16", DType::bf16, 2, 2},
                                              {"fp16", DType::fp16, 2, 2},
                                              {"fp8-tensor", DType::fp8, 1, 1},
                                              {"fp8-channel", DType::fp8, 1, 1},
                                              {"fp8-block", DType::fp8, 1, 1},
                                              {"mxfp4", DType::bf16, 17.0 / 32, 2},
                                              {"w4a16", DType::bf16, 9.0 / 16, 2}}};

// A shape narrower than any that was timed, from the narrowest. Kept utilisation would say that half a kernel
// that waits for its start takes half as long. `ratio(x)`: this bound ÷ the narrowest one's.
template <class Ratio>
FittedCurve narrowed(FittedCurve fitted, const Ratio& ratio) {
  std::vector<UtilisationPoint> points;
  for (const double x : fitted.curve.axis())
    points.push_back({x, ratio(x) / under_other_bound(1 / fitted.curve.at(x), 1, ratio(x))});
  fitted.curve = UtilisationCurve(points);
  fitted.shape_known = false;
  return fitted;
}

// The same of a row-wise kernel, whose bound counts elements, not bytes, narrower or wider than any that was
// timed: its start, the least time of the nearest one, stays, and what comes on top follows the width.
FittedCurve rows_of_width(FittedCurve fitted, double ratio) {
  double start = 1e300;
  for (const double rows : fitted.curve.axis()) start = std::min(start, rows / fitted.curve.at(rows));
  std::vector<UtilisationPoint> points;
  for (const double rows : fitted.curve.axis()) {
    const double time = start + (rows / fitted.curve.at(rows) - start) * ratio;
    points.push_back({rows, ratio * rows / time});
  }
  fitted.curve = UtilisationCurve(points);
  fitted.shape_known = false;
  return fitted;
}

}  // namespace

PartRates PartRates::of(const HardwareProfile& hardware) {
  PartRates rates;
  for (const auto& [dtype, figure] : hardware.matrix_rate)
    rates.matrix[static_cast<std::size_t>(dtype)] = figure.value.value() * 1e-9;
  rates.bandwidth = hardware.memory_bandwidth.value.value() * 1e-9;
  rates.link = hardware.link_bandwidth.value.value() * 1e-9;
  rates.units = static_cast<double>(hardware.compute_units.value);
  return rates;
}

double PartRates::bound_ns(double flops, DType math, double bytes) const {
  const double rate = matrix[static_cast<std::size_t>(math)];
  return rate > 0 && bandwidth > 0 ? std::max(flops / rate, bytes / bandwidth) : 0;
}

const std::vector<std::string>& expert_formats() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> out;
    for (const FormatBytes& f : formats) out.emplace_back(f.format);
    return out;
  }();
  return names;
}

double gemm_bound_ns(const PartRates& rates, const std::string& format, double m, double n, double k) {
  for (const FormatBytes& f : formats) {
    if (format == f.format)
      return rates.bound_ns(2 * m * n * k, f.math, n * k * f.weight + m * k * f.activation + m * n * 2);
  }
  return 0;
}

double experts_bound_ns(const PartRates& rates, const std::string& format, const ExpertShape& shape,
                        double rows, double distinct) {
  const double hidden = static_cast<double>(shape.hidden), inner = static_cast<double>(shape.intermediate);
  for (const FormatBytes& f : formats) {
    if (format != f.format) continue;
    const double bytes =
        distinct * 3 * hidden * inner * f.weight + rows * (hidden + inner) * (f.activation + 2);
    return rates.bound_ns(6 * rows * hidden * inner, f.math, bytes);
  }
  return 0;
}

double under_other_bound(double ns, double bound, double other) {
  constexpr double full_credit = 0.7;
  const double credit = std::min(1.0, bound / ns / full_credit);
  return std::max(ns + credit * (other - bound), other);
}

double decode_bound_ns(const PartRates& rates, const AttentionShape& shape, double sequences, double keys) {
  const double element = shape.kv_dtype == "fp8" ? 1 : 2;
  const double d = static_cast<double>(shape.head_dim);
  const double bytes = 2 * keys * static_cast<double>(shape.kv_heads) * d * element +
                       4 * sequences * static_cast<double>(shape.heads) * d;
  return bytes / rates.bandwidth;
}

double prefill_bound_ns(const PartRates& rates, const AttentionShape& shape, double tokens, double pairs) {
  const double d = static_cast<double>(shape.head_dim), heads = static_cast<double>(shape.heads);
  const double bytes = tokens * d * (4 * heads + 4 * static_cast<double>(shape.kv_heads));
  // With FP8 keys some kernels multiply in FP8 (TensorRT-LLM's reach 1.8 times the H20's bf16 rate).
  const bool fp8 = shape.kv_dtype == "fp8" && rates.matrix[static_cast<std::size_t>(DType::fp8)] > 0;
  return rates.bound_ns(4 * d * heads * pairs, fp8 ? DType::fp8 : DType::bf16, bytes);
}

double mla_decode_bound_ns(const PartRates& rates, const AttentionShape& shape, double sequences,
                           double keys) {
  const double element = shape.kv_dtype == "fp8" ? 1 : 2, heads = static_cast<double>(shape.heads);
  const double key = static_cast<double>(shape.head_dim), widths = key + static_cast<double>(shape.value_dim);
  return rates.bound_ns(2 * keys * heads * widths, DType::bf16,
                        keys * key * element + 2 * sequences * heads * widths);
}

double mla_prefill_bound_ns(const PartRates& rates, const AttentionShape& shape, double tokens,
                            double pairs) {
  const double widths = static_cast<double>(shape.heads * (shape.head_dim + shape.value_dim));
  return rates.bound_ns(2 * widths * pairs, DType::bf16, 2 * tokens * widths);
}

double mla_absorb_bound_ns(const PartRates& rates, std::int64_t heads, const LatentWidths& widths,
                           double tokens) {
  const double weights = static_cast<double>(heads * widths.latent * (widths.key + widths.value));
  const double row = static_cast<double>(heads * (2 * widths.latent + widths.key + widths.value));
  return rates.bound_ns(2 * tokens * weights, DType::bf16, 2 * (weights + tokens * row));
}

void ChunkTiles::add(double fresh, double context, double group) {
  const double packed = fresh * group;
  const double more = static_cast<double>((static_cast<std::int64_t>(packed) + rows - 1) / rows);
  const double seen = context + (fresh + 1) / 2;
  keys = (tiles * keys + more * seen) / (tiles + more);
  tiles += more;
}

double ChunkTiles::bound_ns(const PartRates& rates, const AttentionShape& shape) const {
  const double all = tiles * static_cast<double>(shape.kv_heads), units = std::max(1.0, rates.units);
  const double filled = std::ceil(all / units) * units;
  return rates.bound_ns(4 * static_cast<double>(shape.head_dim * rows) * filled * keys, DType::bf16, 0);
}

Rung KernelSet::rung(const std::string& op) const {
  const auto found = rungs_.find(op);
  return found == rungs_.end() ? rung_ : found->second;
}

FittedSurface::FittedSurface(std::vector<Part> parts, std::string kernel, bool shape_known,
                             bool smooth_lengths, double fold)
    : parts_(std::move(parts)), kernel_(std::move(kernel)), shape_known_(shape_known),
      smooth_lengths_(smooth_lengths), fold_(fold) {}

double FittedSurface::log_at(const std::vector<Line>& lines, double sequences, double length, bool smooth) {
  const auto above =
      std::find_if(lines.begin(), lines.end(), [&](const Line& line) { return line.length >= length; });
  if (above == lines.end()) return lines.back().over_sequences.smooth_log(sequences);
  if (above == lines.begin() || above->length == length) return above->over_sequences.smooth_log(sequences);
  // The two lines around the length; for a cubic also their neighbours.
  const auto from = smooth && above - 1 != lines.begin() ? above - 2 : above - 1;
  const auto to = smooth && above + 1 != lines.end() ? above + 2 : above + 1;
  std::array<double, 4> x{}, y{};
  std::size_t count = 0;
  for (auto line = from; line != to; ++line, ++count) {
    x[count] = det_log(line->length);
    y[count] = line->over_sequences.smooth_log(sequences);
  }
  return monotone_cubic(x.data(), y.data(), count, static_cast<std::size_t>(above - from) - 1,
                        det_log(length));
}

double FittedSurface::at(double sequences, double length) const {
  double log_mean = 0;
  for (const Part& part : parts_)
    log_mean += part.weight * log_at(*part.lines, sequences * fold_, length, smooth_lengths_);
  return det_exp(log_mean);
}

Hit FittedSurface::hit(double sequences, double length) const {
  Hit worst = Hit::exact;
  for (const Part& part : parts_) {
    const std::vector<Line>& lines = *part.lines;
    if (length < lines.front().length || length > lines.back().length) return Hit::extrapolated;
    const auto above =
        std::find_if(lines.begin(), lines.end(), [&](const Line& line) { return line.length >= length; });
    if (above->length != length) worst = Hit::interpolated;
    const Hit along = above->over_sequences.hit(sequences * fold_);
    if (along == Hit::extrapolated) return along;
    if (along == Hit::interpolated) worst = along;
  }
  return worst;
}

std::optional<FittedCurve> KernelSet::find(const std::string& key, const LogShape& logs) const {
  const auto table = shapes_.find(key);
  if (table == shapes_.end()) return std::nullopt;
  std::vector<LogShape> all;
  all.reserve(table->second.size());
  for (const Shape& shape : table->second) all.push_back(shape.logs);
  const auto weights = neighbour_weights(all, logs);
  std::vector<std::pair<const UtilisationCurve*, double>> curves;
  for (const auto& [index, weight] : weights) curves.emplace_back(&table->second[index].curve, weight);
  FittedCurve fitted;
  const Shape& nearest = table->second[weights.front().first];
  fitted.kernel = nearest.kernel;
  fitted.shape_known = nearest.logs == logs;
  fitted.curve = weights.size() == 1 ? nearest.curve : blend(curves);
  return fitted;
}

double KernelSet::narrowest(const std::string& key, std::size_t axis) const {
  double least = 1e9;
  for (const Shape& shape : shapes_.at(key)) least = std::min(least, shape.logs[axis]);
  return least;
}

double KernelSet::widest(const std::string& key, std::size_t axis) const {
  double most = -1e300;
  for (const Shape& shape : shapes_.at(key)) most = std::max(most, shape.logs[axis]);
  return most;
}

std::optional<FittedCurve> KernelSet::gemm(const std::string& format, std::int64_t n, std::int64_t k) const {
  const std::string key = "gemm/" + format;
  if (shapes_.count(key) == 0) return std::nullopt;
  const LogShape asked{log_of(n), log_of(k)};
  const LogShape timed{std::max(asked[0], narrowest(key, 0)), std::max(asked[1], narrowest(key, 1))};
  if (timed == asked) return find(key, asked);
  return narrowed(*find(key, timed), [&, n, k](double m) {
    return gemm_bound_ns(rates_, format, m, static_cast<double>(n), static_cast<double>(k)) /
           gemm_bound_ns(rates_, format, m, det_exp(timed[0]), det_exp(timed[1]));
  });
}

std::optional<FittedCurve> KernelSet::grouped_gemm(const std::string& format, std::int64_t n, std::int64_t k,
                                                   double distinct) const {
  return find("grouped_gemm/" + format, {log_of(n), log_of(k), det_log(std::max(1.0, distinct))});
}

std::optional<FittedCurve> KernelSet::experts(const std::string& format, const ExpertShape& shape) const {
  // Other numbers of experts or choices per token change how rows fall into tiles: only the widths blend.
  const std::string key =
      "experts/" + format + "/" + std::to_string(shape.experts) + "/" + std::to_string(shape.per_token);
  return find(key, {log_of(shape.hidden), log_of(shape.intermediate)});
}

bool KernelSet::experts_hold_choice(const std::string& format) const {
  return std::find(choice_inside_.begin(), choice_inside_.end(), format) != choice_inside_.end();
}

std::optional<FittedCurve> KernelSet::collective(const std::string& op, std::int64_t ranks) const {
  return find(op + "/" + std::to_string(ranks), {0, 0});
}

std::optional<FittedCurve> KernelSet::row_wise(const RowTable& table) const {
  std::string key = table.name + ":" + table.format + "/rows";
  if (table.format.empty() || shapes_.count(key) == 0) key = table.name + "/rows";
  // With and without the heads' norm is nearly the same kernel.
  if (shapes_.count(key) == 0 && table.name == "qk_norm_rotary") key = "rotary/rows";
  if (shapes_.count(key) == 0 && table.name == "rotary") key = "qk_norm_rotary/rows";
  const auto found = shapes_.find(key);
  if (found == shapes_.end()) return std::nullopt;
  const bool by_choices = std::any_of(found->second.begin(), found->second.end(),
                                      [](const Shape& shape) { return shape.logs[1] != 0; });
  const double choices = by_choices ? log_of(std::max<std::int64_t>(1, table.choices)) : 0;
  const double width = log_of(table.width);
  double timed = std::max(width, narrowest(key, 0));
  // The width of these two is a number of experts, and they are no streams: what more experts take beside the
  // start is not known.
  if (table.name != "topk" && table.name != "moe_align") timed = std::min(timed, widest(key, 0));
  if (timed == width) return find(key, {width, choices});
  return rows_of_width(*find(key, {timed, choices}), det_exp(width - timed));
}

std::optional<FittedCurve> KernelSet::copy() const { return find("copy/", {0, 0}); }

// Heads wider than 128 were timed with four KV heads at most. KV heads are tiles as sequences are: on the
// H200 a sequence of 4,096 keys reaches 0.204 of its bound with four KV heads, two of them 0.205 with two,
// four 0.206 with one. Twice as many heads are priced as twice the sequences.
double KernelSet::fold_of(const std::vector<AttentionTable>& tables, const AttentionShape& shape) {
  constexpr std::int64_t well_timed = 128;
  if (shape.head_dim <= well_timed || shape.value_dim > 0) return 1;
  std::int64_t most = 0;
  for (const AttentionTable& table : tables) {
    if (table.shape.head_dim == shape.head_dim && table.shape.kv_dtype == shape.kv_dtype &&
        table.shape.window == shape.window)
      most = std::max(most, table.shape.kv_heads);
  }
  if (most == 0 || shape.kv_heads <= most) return 1;
  return static_cast<double>(shape.kv_heads) / static_cast<double>(most);
}

std::optional<FittedSurface> KernelSet::find(const std::vector<AttentionTable>& tables,
                                             const AttentionShape& given, bool smooth_lengths) {
  const double fold = fold_of(tables, given);
  AttentionShape shape = given;
  shape.kv_heads = static_cast<std::int64_t>(static_cast<double>(given.kv_heads) / fold);
  shape.heads = given.heads * shape.kv_heads / given.kv_heads;
  std::vector<LogShape> all;
  std::vector<const AttentionTable*> candidates;
  for (const AttentionTable& table : tables) {
    if (table.shape.head_dim != shape.head_dim || table.shape.kv_dtype != shape.kv_dtype ||
        table.shape.window != shape.window || table.shape.value_dim != shape.value_dim)
      continue;
    candidates.push_back(&table);
    all.push_back({log_of(table.shape.kv_heads), log_of(table.shape.heads) - log_of(table.shape.kv_heads)});
  }
  // Wider groups of query heads than a table has run other kernels (TensorRT-LLM above 16: three to ten times
  // as long).
  double widest = 0;
  for (const LogShape& logs : all) widest = std::max(widest, logs[1]);
  if (candidates.empty() || log_of(shape.heads) - log_of(shape.kv_heads) > widest + 0.5) return std::nullopt;
  const auto weights =
      neighbour_weights(all, {log_of(shape.kv_heads), log_of(shape.heads) - log_of(shape.kv_heads)});
  std::vector<FittedSurface::Part> parts;
  for (const auto& [index, weight] : weights) parts.push_back({&candidates[index]->lines, weight});
  const AttentionTable& nearest = *candidates[weights.front().first];
  const bool known =
      fold == 1 && nearest.shape.heads == shape.heads && nearest.shape.kv_heads == shape.kv_heads;
  return FittedSurface(std::move(parts), nearest.kernel, known, smooth_lengths, fold);
}

std::optional<FittedSurface> KernelSet::attention_prefill(const AttentionShape& shape) const {
  return find(prefill_, shape, true);
}

std::optional<FittedSurface> KernelSet::attention_chunks(const AttentionShape& shape) const {
  return find(chunks_, shape, false);
}

std::optional<FittedSurface> KernelSet::attention_decode(const AttentionShape& shape) const {
  return find(decode_, shape, false);
}

std::optional<FittedSurface> KernelSet::mla_decode(const AttentionShape& shape) const {
  return find(mla_decode_, shape, false);
}

std::optional<FittedSurface> KernelSet::mla_prefill(const AttentionShape& shape) const {
  return find(mla_prefill_, shape, true);
}

std::optional<FittedCurve> KernelSet::mla_absorb(std::int64_t heads, const LatentWidths& widths) const {
  return find("mla_absorb/bf16/" + std::to_string(widths.latent) + "/" + std::to_string(widths.key) + "/" +
                  std::to_string(widths.value),
              {log_of(heads), 0});
}

double KernelSet::correction(const std::string& op, const std::string& format, double x) const {
  if (corrections_.empty()) return 1;
  auto found = corrections_.find(op + "/" + format);
  if (found == corrections_.end()) found = corrections_.find(op);
  return found == corrections_.end() ? 1 : found->second.at(x);
}

std::string KernelSet::corrected_as(const std::string& op, std::int64_t head_dim) const {
  const std::string own = op + "_" + std::to_string(head_dim);
  return corrections_.count(own) > 0 ? own : op;
}

TableError KernelSet::error(const std::string& op, const std::string& format, double x) const {
  for (const Region& region : regions_) {
    if (region.op == op && region.format == format && x >= region.low && x <= region.high)
      return region.error;
  }
  // A format that the errors do not tell apart (our own sets time attention's keys in bf16 only): the least
  // certain one's.
  TableError most;
  for (const Region& region : regions_) {
    if (region.op == op && x >= region.low && x <= region.high && region.error.points > most.points)
      most = region.error;
  }
  return most;
}

std::size_t KernelSet::points(const std::string& op) const {
  const auto found = points_.find(op);
  return found == points_.end() ? 0 : found->second;
}

}  // namespace orrery
