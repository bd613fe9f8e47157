#include "live/kernel_profile.h"

#include <algorithm>
#include <bit>
#include <charconv>
#include <cmath>

#include "base/det_math.h"
#include "base/text.h"

namespace orrery {

namespace {

const char* kind_of(const KernelStep& s) {
  return s.chunks.empty() ? "decode" : s.shape.decode_sequences > 0 ? "mixed" : "prefill";
}

std::int64_t tokens_of(const KernelStep& s) {
  std::int64_t tokens = s.shape.decode_sequences;
  for (const PrefillChunk& c : s.chunks) tokens += c.new_tokens;
  return tokens;
}

// The number behind `name` in what an operator says of its shape ("m=64 n=6144 k=4096 bf16"); 0: none.
double number_in(const std::string& shape, const std::string& name) {
  const std::size_t found = (" " + shape).find(" " + name + "=");
  if (found == std::string::npos) return 0;
  std::int64_t value = 0;
  const char* const from = shape.data() + found + name.size() + 1;
  std::from_chars(from, shape.data() + shape.size(), value);
  return static_cast<double>(value);
}

std::string last_word(const std::string& shape) { return shape.substr(shape.rfind(' ') + 1); }

// As costmodel/ops ask for a correction.
void find_correction(const OpLine& line, const KernelStep& step, LaunchResidual& out) {
  if (line.rung == to_string(Rung::roofline)) return;  // no table, nothing to correct
  const double sequences = number_in(line.shape, "sequences");
  const bool latent = line.shape.find("latent=") != std::string::npos;
  const std::size_t slash = line.shape.find('/', line.shape.find("heads="));
  switch (line.op_class) {
    case OpClass::gemm:
      if (line.shape.find("heads=") != std::string::npos) break;  // a matrix a head: two launches, one price
      out.corrected_as = "gemm/" + last_word(line.shape);
      out.at = number_in(line.shape, "m");
      break;
    case OpClass::grouped_gemm:
      out.corrected_as = "grouped_gemm/" + last_word(line.shape);
      out.at = number_in(line.shape, "rows") / std::max(1.0, number_in(line.shape, "experts"));
      break;
    case OpClass::attention_decode: {
      out.corrected_as = latent                ? "mla_decode"
                         : step.chunks.empty() ? "attention_decode"
                                               : "attention_decode_mixed";
      const double heads =
          slash == std::string::npos ? 1 : number_in("h=" + line.shape.substr(slash + 1), "h");
      out.at = latent ? sequences : sequences * heads;
      break;
    }
    case OpClass::attention_prefill:
      if (!latent) out.corrected_as = "attention_prefill";
      out.at = number_in(line.shape, "tokens");
      break;
    case OpClass::elementwise:
    case OpClass::routing:
    case OpClass::sampling:
      out.corrected_as = "elementwise";
      out.at = number_in(line.shape, "rows");
      break;
    default: break;
  }
  if (out.at <= 0) out.corrected_as.clear();
}

StepShape shape_of(const KernelStep& step) {
  StepShape shape = step.shape;
  shape.prefill = step.chunks;
  return shape;
}

// Whether the device waited for launches while the step ran as it does otherwise.
bool host_bound(const StepProfile& p) { return p.launch_ns > 0.8 * p.own_ns; }

struct Sum {
  OpClass op_class = OpClass::elementwise;
  double launches = 0, measured = 0, priced = 0;
};
struct Kind {
  double steps = 0, own = 0, launch = 0, graph = 0, timed = 0, priced = 0;
  std::vector<std::pair<std::string, Sum>> kernels;  // in the order of their first
};

double percent(double priced, double measured) { return measured > 0 ? (priced / measured - 1) * 100 : 0; }

double log2_of(double x) { return det_log(x) / det_log(2); }

// Up to 64 the sizes of captured graphs, 1, 2, 4, 8, 16, 24 …; above, halves of an octave.
std::int64_t region_of(double x) {
  if (x > 64) return 64 + std::llround(2 * log2_of(x / 64));
  if (x <= 4) return std::llround(8 * log2_of(x)) - 32;  // rows of an expert are fractions
  return static_cast<std::int64_t>(std::ceil(x / 8)) * 8;
}

}  // namespace

bool ProfileChoice::takes(const KernelStep& step) {
  if (left_ <= 0) return false;
  const auto tokens = static_cast<std::uint64_t>(tokens_of(step));
  const bool graph = step.padded_rows > 0;
  const std::pair<int, std::int64_t> like{
      graph                             ? 0
      : step.shape.decode_sequences > 0 ? 1
                                        : 2,
      graph ? step.padded_rows : static_cast<std::int64_t>(std::bit_width(tokens))};
  if (!std::has_single_bit(++met_[like])) return false;
  --left_;
  return true;
}

std::vector<LaunchResidual> launch_residuals(const ProfiledStep& profiled, const StepPricer& pricer) {
  const StepProfile& p = profiled.profile;
  std::vector<LaunchResidual> out;
  double launches = 0, sum = 0;
  for (const LaunchTime& l : p.launches) launches += static_cast<double>(l.launches);
  const double clocks = launches > 0 ? std::max(0.0, p.timed_ns - p.graph_ns) / launches : 0;
  for (const LaunchTime& l : p.launches) {
    LaunchResidual r;
    r.use = l.use;
    r.op_class = l.op_class;
    r.launches = l.launches;
    r.measured_ns = std::max(l.ns - clocks * static_cast<double>(l.launches), 0.2 * l.ns);
    sum += r.measured_ns;
    out.push_back(std::move(r));
  }
  // What a device that is fed launch by launch loses between kernels has a price of its own.
  double gaps = 0;
  const StepBreakdown priced = pricer.explain(shape_of(profiled.step));
  for (const OpLine& line : priced.ops)
    if (line.name == "stream_gaps") gaps += static_cast<double>(line.time_ns);
  const double whole = host_bound(p) || p.own_ns <= 2 * gaps ? p.graph_ns : p.own_ns - gaps;
  if (sum > 0 && whole > 0)
    for (LaunchResidual& r : out) r.measured_ns *= whole / sum;
  for (const OpLine& line : priced.ops) {
    auto known = std::find_if(out.begin(), out.end(), [&](const auto& r) { return r.use == line.name; });
    if (known == out.end()) {
      out.push_back({line.name, line.op_class, 0, 0, 0, {}, 0});
      known = out.end() - 1;
    }
    known->op_class = line.op_class;
    known->priced_ns += static_cast<double>(line.time_ns);
    if (line.name == "stream_gaps") known->measured_ns = std::max(0.0, p.own_ns - p.graph_ns);
    find_correction(line, profiled.step, *known);
  }
  return out;
}

Json kernel_profile_json(const std::vector<ProfiledStep>& steps, const StepPricer& pricer) {
  std::map<std::string, Kind> kinds;
  for (const ProfiledStep& s : steps) {
    Kind& k = kinds[kind_of(s.step)];
    k.steps += 1;
    k.own += s.profile.own_ns;
    k.launch += s.profile.launch_ns;
    k.graph += s.profile.graph_ns;
    k.timed += s.profile.timed_ns;
    for (const LaunchResidual& r : launch_residuals(s, pricer)) {
      auto known = std::find_if(k.kernels.begin(), k.kernels.end(),
                                [&](const auto& each) { return each.first == r.use; });
      if (known == k.kernels.end()) known = k.kernels.insert(known, {r.use, {}});
      known->second.op_class = r.op_class;
      known->second.launches += static_cast<double>(r.launches);
      known->second.measured += r.measured_ns;
      known->second.priced += r.priced_ns;
      k.priced += r.priced_ns;
    }
  }
  Json out = Json::object();
  for (const auto& [name, k] : kinds) {
    Json kernels = Json::array();
    double measured = 0;
    for (const auto& [use, sum] : k.kernels) measured += sum.measured;
    for (const auto& [use, sum] : k.kernels)
      kernels.push_back({{"use", use},
                         {"class", to_string(sum.op_class)},
                         {"launches", sum.launches / k.steps},
                         {"measured_us", sum.measured / k.steps * 1e-3},
                         {"priced_us", sum.priced / k.steps * 1e-3},
                         {"error_percent", percent(sum.priced, sum.measured)},
                         {"share_percent", measured > 0 ? sum.measured / measured * 100 : 0}});
    out[name] = {{"steps", k.steps},
                 {"own_ms", k.own / k.steps * 1e-6},
                 {"launch_ms", k.launch / k.steps * 1e-6},
                 {"graph_ms", k.graph / k.steps * 1e-6},
                 {"timed_ms", k.timed / k.steps * 1e-6},
                 {"priced_ms", k.priced / k.steps * 1e-6},
                 {"kernels", kernels}};
  }
  return out;
}

std::string chunk_lengths(const KernelStep& step) {
  std::string out;
  for (const PrefillChunk& c : step.chunks)
    out += (out.empty() ? "" : " ") + std::to_string(c.new_tokens) + "@" + std::to_string(c.context);
  return out;
}

std::string kernel_profile_csv(const std::vector<ProfiledStep>& steps, const StepPricer& pricer) {
  std::string out =
      "step,kind,tokens,decodes,decode_context,padded_rows,own_us,launch_us,graph_us,timed_us,chunk_lengths,"
      "use,"
      "class,"
      "launches,measured_us,priced_us,corrected_as,at\n";
  const auto us = [](double ns) { return format_fixed(ns * 1e-3, 3); };
  for (const ProfiledStep& s : steps) {
    const StepProfile& p = s.profile;
    const std::string head = std::to_string(s.step.step) + "," + kind_of(s.step) + "," +
                             std::to_string(tokens_of(s.step)) + "," +
                             std::to_string(s.step.shape.decode_sequences) + "," +
                             std::to_string(s.step.shape.decode_context_tokens) + "," +
                             std::to_string(s.step.padded_rows) + "," + us(p.own_ns) + "," + us(p.launch_ns) +
                             "," + us(p.graph_ns) + "," + us(p.timed_ns) + "," + chunk_lengths(s.step);
    for (const LaunchResidual& r : launch_residuals(s, pricer))
      out += head + "," + r.use + "," + to_string(r.op_class) + "," + std::to_string(r.launches) + "," +
             us(r.measured_ns) + "," + us(r.priced_ns) + "," + r.corrected_as + "," + format_fixed(r.at, 3) +
             "\n";
  }
  return out;
}

std::string kernel_profile_text(const Json& profile) {
  std::string out;
  const auto number = [](const Json& from, const char* key, int digits) {
    return format_fixed(from[key].get<double>(), digits);
  };
  for (const auto& [kind, k] : profile.items()) {
    out += "profiled    " + number(k, "steps", 0) + " " + kind + " steps: " + number(k, "own_ms", 3) +
           " ms, in one graph " + number(k, "graph_ms", 3) + ", launched in " + number(k, "launch_ms", 3) +
           ", kernels priced " + number(k, "priced_ms", 3) + "\n";
    for (const Json& kernel : k["kernels"])
      if (kernel["share_percent"].get<double>() >= 1)
        out += "            " + kernel["use"].get<std::string>() + " " + number(kernel, "measured_us", 1) +
               " us, priced " + number(kernel, "priced_us", 1) + " (" + number(kernel, "error_percent", 1) +
               " %)\n";
  }
  return out;
}

Corrections fitted_corrections(const std::vector<ProfiledStep>& steps, const StepPricer& pricer,
                               const KernelSet& set, const Corrections& before) {
  struct Region {
    double measured = 0, priced = 0, log_x = 0;
  };
  std::map<std::string, std::map<std::int64_t, Region>> seen;
  for (const ProfiledStep& s : steps) {
    for (const LaunchResidual& r : launch_residuals(s, pricer)) {
      if (r.corrected_as.empty() || r.launches == 0 || r.priced_ns <= 0) continue;
      Region& region = seen[r.corrected_as][region_of(r.at)];
      region.measured += r.measured_ns;
      region.priced += r.priced_ns;
      region.log_x += r.priced_ns * det_log(r.at);
    }
  }
  Corrections out = before;
  for (const auto& [op, regions] : seen) {
    std::vector<std::pair<double, double>> points;
    const std::size_t slash = op.find('/');
    const std::string name = op.substr(0, slash),
                      format = slash == std::string::npos ? "" : op.substr(slash + 1);
    for (const auto& [index, region] : regions) {
      const double x = det_exp(region.log_x / region.priced);
      points.emplace_back(x, set.correction(name, format, x) * region.measured / region.priced);
    }
    std::vector<std::pair<double, double>>& all = out[op];
    std::erase_if(all, [&](const auto& p) {
      return p.first >= points.front().first && p.first <= points.back().first;
    });
    all.insert(all.end(), points.begin(), points.end());
    std::sort(all.begin(), all.end());
  }
  return out;
}

std::string corrections_csv(const Corrections& corrections) {
  std::string out = "op,x,factor\n";
  for (const auto& [op, points] : corrections)
    for (const auto& [x, factor] : points)
      out += op + "," + format_fixed(x, 3) + "," + format_fixed(factor, 4) + "\n";
  return out;
}

}  // namespace orrery
