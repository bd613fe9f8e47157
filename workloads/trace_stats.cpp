#include "workloads/trace_stats.h"

#include <algorithm>
#include <cmath>

#include "base/text.h"

namespace orrery {

void TraceStats::add(const TraceRequest& request) {
  if (requests_ == 0) {
    first_ = request.arrival;
  } else {
    const double gap = (request.arrival - last_).seconds();
    const double before = gap - gap_mean_;
    gap_mean_ += before / static_cast<double>(requests_);
    gap_squares_ += before * (gap - gap_mean_);
  }
  ++requests_;
  last_ = request.arrival;
  ++inputs_[request.prompt_tokens];
  ++outputs_[request.output_tokens];
  if (request.session != 0) sessions_.insert(request.session);
  blocks_ += request.hash_ids.size();
  bool prefix_known = true;
  for (const std::uint64_t id : request.hash_ids) {
    const bool is_new = seen_blocks_.insert(id).second;
    prefix_known = prefix_known && !is_new;
    if (prefix_known) ++shared_blocks_;
  }
}

double TraceStats::duration_s() const {
  // Divided, not multiplied by 1e-9: nine decimals come out as nine decimals.
  return static_cast<double>((last_ - first_).ns()) / 1e9;
}

double TraceStats::rate() const {
  return duration_s() > 0 ? static_cast<double>(requests_ - 1) / duration_s() : 0;
}

double TraceStats::gap_cv() const {
  if (requests_ < 3 || gap_mean_ <= 0) return 0;
  return std::sqrt(gap_squares_ / static_cast<double>(requests_ - 1)) / gap_mean_;
}

double TraceStats::shared_block_share() const {
  return blocks_ == 0 ? 0 : static_cast<double>(shared_blocks_) / static_cast<double>(blocks_);
}

LengthSummary TraceStats::summary(const Histogram& histogram) const {
  LengthSummary result;
  if (histogram.empty()) return result;
  const auto at = [&](double p) {
    const auto index =
        std::min(requests_ - 1, static_cast<std::uint64_t>(std::floor(p * static_cast<double>(requests_))));
    std::uint64_t passed = 0;
    for (const auto& [length, count] : histogram) {
      passed += count;
      if (passed > index) return length;
    }
    return histogram.rbegin()->first;
  };
  double sum = 0;
  for (const auto& [length, count] : histogram)
    sum += static_cast<double>(length) * static_cast<double>(count);
  result.mean = sum / static_cast<double>(requests_);
  result.min = histogram.begin()->first;
  result.max = histogram.rbegin()->first;
  result.p50 = at(0.50);
  result.p90 = at(0.90);
  result.p99 = at(0.99);
  return result;
}

Json TraceStats::to_json() const {
  const auto lengths = [](const LengthSummary& s) {
    return Json{{"mean", s.mean}, {"min", s.min}, {"p50", s.p50},
                {"p90", s.p90},   {"p99", s.p99}, {"max", s.max}};
  };
  Json json;
  json["requests"] = requests_;
  json["duration_s"] = duration_s();
  json["requests_per_s"] = rate();
  json["gap_cv"] = gap_cv();
  json["input_tokens"] = lengths(input());
  json["output_tokens"] = lengths(output());
  json["prompt_blocks"] = blocks_;
  json["shared_block_share"] = blocks_ == 0 ? Json() : Json(shared_block_share());
  json["sessions"] = sessions();
  return json;
}

std::string TraceStats::to_text(const std::string& title) const {
  std::string text = title + "\n";
  text += "  requests   " + human_count(static_cast<double>(requests_)) + " over " +
          human_seconds(duration_s()) + ", " + format_fixed(rate(), 3) + " a second, gaps vary by " +
          format_fixed(gap_cv(), 2) + " (1 = Poisson)\n";
  if (blocks_ > 0) {
    text += "  sharing    " + format_fixed(100 * shared_block_share(), 1) + " % of " +
            human_count(static_cast<double>(blocks_)) + " prompt blocks begin a prompt seen before\n";
  }
  if (!sessions_.empty()) text += "  sessions   " + human_count(static_cast<double>(sessions())) + "\n";
  TextTable table({"tokens", "mean", "min", "p50", "p90", "p99", "max"});
  const auto row = [&](const char* name, const LengthSummary& s) {
    table.add({name, format_fixed(s.mean, 1), std::to_string(s.min), std::to_string(s.p50),
               std::to_string(s.p90), std::to_string(s.p99), std::to_string(s.max)});
  };
  row("input", input());
  row("output", output());
  return text + "\n" + table.to_string();
}

}  // namespace orrery
