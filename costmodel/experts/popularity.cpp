#include "costmodel/experts/popularity.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <functional>
#include <map>
#include <numeric>
#include <set>
#include <string_view>

#include "base/check.h"
#include "base/det_math.h"
#include "base/files.h"
#include "base/random.h"
#include "costmodel/experts/demands.h"

namespace orrery {

namespace {

std::vector<std::string_view> cells_of(std::string_view line) {
  std::vector<std::string_view> cells;
  while (true) {
    const std::size_t comma = line.find(',');
    cells.push_back(line.substr(0, comma));
    if (comma == std::string_view::npos) return cells;
    line.remove_prefix(comma + 1);
  }
}

bool whole_number(std::string_view text, std::int64_t& value) {
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), value);
  return parsed.ec == std::errc() && parsed.ptr == text.data() + text.size() && value >= 0;
}

class CountsReader {
 public:
  explicit CountsReader(const std::string& path) : path_(path) {}

  Result<ExpertCounts> read(std::string_view text) {
    int line = 0;
    while (!text.empty()) {
      const std::size_t end = text.find('\n');
      std::string_view row = text.substr(0, end);
      if (!row.empty() && row.back() == '\r') row.remove_suffix(1);
      text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
      ++line;
      if (line == 1) {
        if (!read_header(row)) break;
      } else if (!row.empty()) {
        read_row(row, line);
      }
      if (errors_.size() > 20) break;
    }
    if (errors_.empty() && seen_.empty()) fail(1, "there are no rows of counts", "count");
    if (!errors_.empty()) return errors_;
    return collect();
  }

 private:
  void fail(int line, const std::string& what, const std::string& key) {
    errors_.push_back(invalid_input(what, {path_, line, 0}, key));
  }

  bool read_header(std::string_view row) {
    const std::vector<std::string_view> names = cells_of(row);
    width_ = names.size();
    for (const char* wanted : {"layer", "expert", "count", "task"}) {
      const auto at = std::find(names.begin(), names.end(), wanted);
      columns_.push_back(at == names.end() ? width_ : static_cast<std::size_t>(at - names.begin()));
      if (at == names.end() && std::string_view(wanted) != "task")
        fail(1,
             std::string("the header has no column `") + wanted + "`; expected layer, expert, count and, " +
                 "for several topics, task",
             wanted);
    }
    return errors_.empty();
  }

  void read_row(std::string_view row, int line) {
    const std::vector<std::string_view> cells = cells_of(row);
    if (cells.size() != width_)
      return fail(
          line,
          "has " + std::to_string(cells.size()) + " cells where the header has " + std::to_string(width_),
          "");
    std::int64_t value[3] = {0, 0, 0};
    constexpr const char* names[3] = {"layer", "expert", "count"};
    for (std::size_t i = 0; i < 3; ++i) {
      if (!whole_number(cells[columns_[i]], value[i]))
        return fail(line, "must be a whole number, is " + std::string(cells[columns_[i]]), names[i]);
    }
    const std::string topic(columns_[3] < width_ ? cells[columns_[3]] : std::string_view{});
    if (std::find(topics_.begin(), topics_.end(), topic) == topics_.end()) topics_.push_back(topic);
    layers_.insert(value[0]);
    experts_ = std::max(experts_, value[1] + 1);
    if (!seen_.emplace(std::make_pair(topic, std::make_pair(value[0], value[1])), value[2]).second)
      fail(line, "this layer and expert have a count already", "expert");
  }

  Result<ExpertCounts> collect() {
    ExpertCounts out{topics_, {}};
    for (const std::string& topic : topics_) {
      auto& rows = out.rows.emplace_back();
      for (const std::int64_t layer : layers_) {
        auto& counts = rows.emplace_back();
        for (std::int64_t expert = 0; expert < experts_; ++expert) {
          const auto at = seen_.find(std::make_pair(topic, std::make_pair(layer, expert)));
          if (at == seen_.end()) {
            fail(0,
                 "layer " + std::to_string(layer) + " has no count for expert " + std::to_string(expert) +
                     (topic.empty() ? "" : " of task " + topic) + "; write 0 where nobody chose it",
                 "expert");
            return errors_;
          }
          counts.push_back(std::max(0.5, static_cast<double>(at->second)));
        }
      }
    }
    return out;
  }

  std::string path_;
  std::size_t width_ = 0;
  std::vector<std::size_t> columns_;
  std::vector<std::string> topics_;
  std::set<std::int64_t> layers_;
  std::int64_t experts_ = 0;
  std::map<std::pair<std::string, std::pair<std::int64_t, std::int64_t>>, std::int64_t> seen_;
  Errors errors_;
};

void to_sum_one(std::vector<double>& weights) {
  const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
  for (double& w : weights) w /= sum;
}

// A name for a stream: which of the three kinds of number, layer and topic.
std::uint64_t entity(std::uint64_t kind, std::int64_t layer, std::int64_t topic) {
  return (kind << 60) | (static_cast<std::uint64_t>(layer) << 40) | static_cast<std::uint64_t>(topic);
}

}  // namespace

Result<ExpertCounts> load_expert_counts(const std::string& path) {
  ORRERY_TRY(text, read_text_file(path));
  return CountsReader(path).read(text);
}

ExpertPopularity::ExpertPopularity(const PopularitySpec& spec, std::int32_t layers, std::int32_t experts,
                                   std::int32_t per_token, std::uint64_t seed)
    : spec_(spec), layers_(layers), experts_(experts), per_token_(per_token), seed_(seed) {
  ORRERY_CHECK(layers > 0 && experts > 0 && per_token > 0 && per_token <= experts, "a model with experts");
  if (!spec.uniform() && spec.every_s > 0)
    epoch_ns_ = std::max<std::int64_t>(1, round_half_even(spec.every_s * 1e9 / spec.steps));
  if (spec.law != PopularitySpec::Law::file) return;
  const auto& rows = spec.counts.rows;
  const std::size_t topics = constant() ? 1 : rows.size();
  for (std::size_t topic = 0; topic < topics; ++topic) {
    auto& by_layer = fitted_.emplace_back();
    for (std::size_t layer = 0; layer < static_cast<std::size_t>(layers); ++layer) {
      std::vector<double> counts = rows[topic][layer];
      for (std::size_t other = 1; constant() && other < rows.size(); ++other) {  // all topics together
        for (std::size_t i = 0; i < counts.size(); ++i) counts[i] += rows[other][layer][i];
      }
      by_layer.push_back(spec.demands != nullptr ? spec.demands->weights(counts, per_token, spec.limit)
                                                 : weights_of_counts(counts, per_token, spec.limit));
    }
  }
}

// The unequal weights of a layer, the largest first.
std::vector<double> ExpertPopularity::shape(std::int32_t layer) const {
  std::vector<double> w(static_cast<std::size_t>(experts_));
  switch (spec_.law) {
    case PopularitySpec::Law::zipf:
      for (std::size_t i = 0; i < w.size(); ++i) w[i] = det_pow(static_cast<double>(i + 1), -spec_.parameter);
      break;
    case PopularitySpec::Law::dirichlet: {
      RandomStream stream(seed_, RandomPurpose::expert_popularity, entity(2, layer, 0));
      // Far below the least weight that matters: a small concentration underflows to 0.
      for (double& x : w) x = std::max(1e-12, stream.gamma(spec_.parameter, 1));
      break;
    }
    case PopularitySpec::Law::file: w = fitted_.front()[static_cast<std::size_t>(layer)]; break;
    case PopularitySpec::Law::uniform: std::fill(w.begin(), w.end(), 1.0); break;
  }
  std::sort(w.begin(), w.end(), std::greater<>());
  to_sum_one(w);
  return w;
}

// Standard normal; neighbours in layer share a part of it.
double ExpertPopularity::score(std::int32_t layer, std::int32_t expert, std::int64_t topic) const {
  const auto place = static_cast<std::uint64_t>(expert) << 24;
  RandomStream common(seed_, RandomPurpose::expert_popularity, entity(0, 0, topic) ^ place);
  RandomStream own(seed_, RandomPurpose::expert_popularity, entity(1, layer, topic) ^ place);
  return std::sqrt(spec_.layer_correlation) * common.normal() +
         std::sqrt(1 - spec_.layer_correlation) * own.normal();
}

std::vector<double> ExpertPopularity::weights(std::int32_t layer, std::int64_t epoch) const {
  const auto n = static_cast<std::size_t>(experts_);
  if (spec_.uniform()) return std::vector<double>(n, 1.0 / static_cast<double>(n));
  const std::int64_t topic = epoch / spec_.steps;
  const double phase = static_cast<double>(epoch % spec_.steps) / spec_.steps;
  if (spec_.law == PopularitySpec::Law::file && (constant() || fitted_.size() > 1)) {
    const std::size_t l = static_cast<std::size_t>(layer), t = static_cast<std::size_t>(topic);
    std::vector<double> w = fitted_[t % fitted_.size()][l];
    const std::vector<double>& next = fitted_[(t + 1) % fitted_.size()][l];
    for (std::size_t i = 0; i < n; ++i) w[i] = (1 - phase) * w[i] + phase * next[i];
    return w;
  }
  // Scores turn from one topic's to the next, standard normal all the way; by them the weights are dealt out.
  const double now = det_cos_turn(phase / 4), then = det_sin_turn(phase / 4);
  std::vector<double> z(n);
  for (std::size_t i = 0; i < n; ++i) {
    const auto expert = static_cast<std::int32_t>(i);
    z[i] = now * score(layer, expert, topic);
    if (then > 0) z[i] += then * score(layer, expert, topic + 1);
  }
  std::vector<std::size_t> order(n);
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return z[a] > z[b]; });
  const std::vector<double> ranked = shape(layer);
  std::vector<double> w(n);
  for (std::size_t i = 0; i < n; ++i) w[order[i]] = ranked[i];
  return w;
}

}  // namespace orrery
