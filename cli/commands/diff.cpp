// `orrery diff A B`: what differs between two runs: scenario, numbers, requests, decisions.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <map>
#include <memory>

#include "base/files.h"
#include "base/json.h"
#include "base/text.h"
#include "cli/command_table.h"

namespace orrery {

namespace {

void flatten(const Json& value, const std::string& path, std::vector<std::pair<std::string, Json>>& out) {
  if (!value.is_object()) {
    out.emplace_back(path, value);
    return;
  }
  for (auto it = value.begin(); it != value.end(); ++it)
    flatten(*it, path.empty() ? it.key() : path + "." + it.key(), out);
}

// Lines of two texts that stand in one but not the other, in order (settings files are short and sorted
// alike).
std::vector<std::string> line_difference(const std::string& a, const std::string& b) {
  const auto lines = [](const std::string& text) {
    std::vector<std::string> out;
    std::size_t from = 0;
    while (from < text.size()) {
      const std::size_t end = std::min(text.find('\n', from), text.size());
      out.push_back(text.substr(from, end - from));
      from = end + 1;
    }
    return out;
  };
  const auto la = lines(a), lb = lines(b);
  std::map<std::string, int> count;
  for (const auto& l : la) ++count[l];
  for (const auto& l : lb) --count[l];
  std::vector<std::string> out;
  for (const auto& l : la)
    if (count[l] > 0) out.push_back("- " + l);
  for (const auto& l : lb)
    if (count[l] < 0) out.push_back("+ " + l);
  return out;
}

struct RequestDifference {
  std::uint64_t rows = 0, differing = 0;
  std::int64_t first = -1;
  std::string first_a, first_b;
};

Result<RequestDifference> compare_requests(const std::string& a, const std::string& b) {
  ORRERY_TRY(ra, LineReader::open(a + "/requests.csv"));
  ORRERY_TRY(rb, LineReader::open(b + "/requests.csv"));
  RequestDifference d;
  std::string_view la, lb;
  for (;;) {
    const bool more_a = ra.next(la), more_b = rb.next(lb);
    if (ra.error() != nullptr) return *ra.error();
    if (rb.error() != nullptr) return *rb.error();
    if (!more_a && !more_b) return d;
    ++d.rows;
    if (more_a && more_b && la == lb) continue;
    ++d.differing;
    if (d.first >= 0) continue;
    d.first = static_cast<std::int64_t>(d.rows) - 2;  // line 1 is the header
    d.first_a = more_a ? std::string(la) : "(no such row)";
    d.first_b = more_b ? std::string(lb) : "(no such row)";
  }
}

int diff(const std::string& a, const std::string& b, const CommandContext& context) {
  Errors errors;
  auto sa = load_json(a + "/summary.json"), sb = load_json(b + "/summary.json");
  auto ya = read_text_file(a + "/scenario.resolved.yaml"), yb = read_text_file(b + "/scenario.resolved.yaml");
  for (const auto* r : {&sa, &sb})
    if (!r->ok()) errors.insert(errors.end(), r->errors().begin(), r->errors().end());
  for (const auto* r : {&ya, &yb})
    if (!r->ok()) errors.insert(errors.end(), r->errors().begin(), r->errors().end());
  if (!errors.empty()) return report_errors(errors);
  std::vector<std::pair<std::string, Json>> fa, fb;
  flatten(*sa, "", fa);
  flatten(*sb, "", fb);
  std::map<std::string, Json> other(fb.begin(), fb.end());
  Json metrics = Json::array();
  TextTable table({"metric", "A", "B", "change"});
  for (const auto& [name, value] : fa) {
    if (name.starts_with("simulator.") || !other.contains(name) || other[name] == value) continue;
    const Json& second = other[name];
    std::string change;
    if (value.is_number() && second.is_number() && value.get<double>() != 0) {
      change = format_fixed(100 * (second.get<double>() / value.get<double>() - 1), 2) + " %";
    }
    const auto cell = [](const Json& v) {
      const std::string text = v.is_number_float() ? format_fixed(v.get<double>(), 4) : v.dump();
      return text.size() > 24 ? text.substr(0, 21) + "..." : text;
    };
    table.add({name, cell(value), cell(second), change});
    metrics.push_back({{"metric", name}, {"a", value}, {"b", second}});
  }
  const auto settings = line_difference(*ya, *yb);
  auto requests = compare_requests(a, b);
  const bool same = (*sa)["digest"] == (*sb)["digest"];
  if (context.json) {
    Json out{{"same_digest", same}, {"metrics", metrics}, {"scenario", settings}, {"requests", nullptr}};
    if (requests.ok())
      out["requests"] = {{"differing", requests->differing},
                         {"first", requests->first},
                         {"a", requests->first_a},
                         {"b", requests->first_b}};
    std::fputs(canonical_json(out).c_str(), stdout);
    return 0;
  }
  std::printf("digest: %s\n", same ? "equal: every decision and every time is the same" : "different");
  if (!settings.empty()) std::printf("\nscenario (- A, + B):\n");
  for (const std::string& line : settings) std::printf("  %s\n", line.c_str());
  if (!metrics.empty()) std::printf("\n%s", table.to_string().c_str());
  if (!requests.ok()) {
    std::printf("\nrequests: not compared (%s)\n", requests.errors().front().to_string().c_str());
  } else if (requests->differing > 0) {
    std::printf("\nrequests: %llu of %llu rows differ; the first is request %lld:\n  A %s\n  B %s\n",
                static_cast<unsigned long long>(requests->differing),
                static_cast<unsigned long long>(requests->rows - 1), static_cast<long long>(requests->first),
                requests->first_a.c_str(), requests->first_b.c_str());
  } else {
    std::printf("\nrequests: all rows equal\n");
  }
  return 0;
}

}  // namespace

void register_diff_command(CLI::App& app, CommandContext& context) {
  struct Options {
    std::string a, b;
  };
  auto options = std::make_shared<Options>();
  CLI::App* c = app.add_subcommand("diff", "what differs between two runs\nexample: orrery diff out/a out/b");
  c->add_option("A", options->a, "what simulate --out wrote")->required();
  c->add_option("B", options->b, "what simulate --out wrote")->required();
  c->callback([&context, options] {
    context.action = [&context, options] { return diff(options->a, options->b, context); };
  });
}

}  // namespace orrery
