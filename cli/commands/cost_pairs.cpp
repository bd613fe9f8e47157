#include "cli/commands/cost_pairs.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>

#include "base/json.h"
#include "base/text.h"
#include "calibrate/pairs.h"

namespace orrery {

using namespace calibrate;

namespace {

std::string ratio_text(const KernelPair& pair) {
  if (pair.low <= 0) return "no number";
  return format_number(pair.low) + (pair.high > pair.low ? " to " + format_number(pair.high) : "");
}

std::string pair_text(const KernelPair& pair, const std::vector<PairFigure>& figures) {
  std::string text = pair.name + " (" + pair.study + ", " + pair.part + "): " + pair.what +
                     "\n  published, before ÷ after: " + ratio_text(pair) + " (" + pair.source + ")\n";
  for (const PairFigure& f : figures) {
    text += "  " + f.shape + ": ";
    text += f.why.empty() ? format_fixed(f.before_us, 2) + " us before, " + format_fixed(f.after_us, 2) +
                                " us after, ratio " + format_fixed(f.ratio(), 3) + " (" + f.detail + ")\n"
                          : "not priced: " + f.why + "\n";
  }
  return text;
}

Json pair_json(const KernelPair& pair, const std::vector<PairFigure>& figures) {
  Json published{{"source", pair.source}};
  if (pair.low > 0) {
    published["ratio"] = pair.low;
    published["to"] = pair.high;
  }
  Json json{{"name", pair.name},
            {"case", pair.study},
            {"what", pair.what},
            {"part", pair.part},
            {"published", published},
            {"kernels", pair.kernels},
            {"not_measured", pair.not_measured},
            {"shapes", Json::array()}};
  for (const PairFigure& f : figures) {
    if (f.why.empty())
      json["shapes"].push_back({{"shape", f.shape},
                                {"before_us", f.before_us},
                                {"after_us", f.after_us},
                                {"ratio", f.ratio()},
                                {"detail", f.detail}});
    else
      json["shapes"].push_back({{"shape", f.shape}, {"not_priced", f.why}});
  }
  return json;
}

}  // namespace

bool asks_for_pairs(const std::vector<std::string>& names) {
  std::error_code ec;
  return names.size() != 2 || std::none_of(names.begin(), names.end(), [&](const std::string& name) {
           return name.find_first_of("./") != std::string::npos || std::filesystem::exists(name, ec);
         });
}

int price_pairs(const std::vector<std::string>& names, const CommandContext& context) {
  auto pairs = load_pairs(pairs_path());
  if (!pairs.ok()) return report_errors(pairs.errors());
  std::vector<std::string> known{"pairs"};
  for (const KernelPair& pair : *pairs) known.push_back(pair.name);
  for (const std::string& name : names) {
    if (std::find(known.begin(), known.end(), name) != known.end()) continue;
    return report_errors(
        {make_error(ErrorKind::usage,
                    "--compare takes two scenario files, or names of kernel pairs: no pair is "
                    "called " +
                        quote(name) + did_you_mean(name, known) + "; `pairs` means all of them",
                    {}, "--compare")});
  }
  Json all = Json::array();
  std::string text;
  for (const KernelPair& pair : *pairs) {
    const bool asked = std::any_of(names.begin(), names.end(), [&](const std::string& name) {
      return name == pair.name || name == "pairs";
    });
    if (!asked) continue;
    const std::vector<PairFigure> figures = price_pair(pair);
    all.push_back(pair_json(pair, figures));
    text += (text.empty() ? "" : "\n") + pair_text(pair, figures);
  }
  if (context.json) text = canonical_json(all);
  if (context.json || !context.quiet) std::fwrite(text.data(), 1, text.size(), stdout);
  return 0;
}

}  // namespace orrery
