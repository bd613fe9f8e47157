// Timed rows of attention on their way into a kernel set (costmodel/kernel_set_reader.cpp).
#pragma once

#include <cmath>
#include <map>
#include <string>
#include <string_view>
#include <utility>

#include "base/det_math.h"
#include "costmodel/csv_table.h"
#include "costmodel/kernel_set.h"

namespace orrery {

// Lines of a timed attention: by head layout, then length; whichever kernel was fastest at a point.
struct TimedLine {
  AttentionShape shape;
  std::string kernel;
  double length = 0;
  std::map<double, std::pair<double, int>> points;  // x → sum of log(utilisation), how many
  void add(double x, double utilisation) {
    auto& point = points[x];
    point.first += det_log(utilisation);
    ++point.second;
  }
};
using TimedLines = std::map<std::pair<std::string, double>, TimedLine>;

inline TimedLine& line_of(TimedLines& lines, const AttentionShape& shape, double length,
                          const std::string& kernel) {
  const std::string heads = std::to_string(shape.heads) + "/" + std::to_string(shape.kv_heads) + "/" +
                            std::to_string(shape.head_dim) + "/" + shape.kv_dtype;
  TimedLine& line = lines[{heads, length}];
  line.shape = shape;
  line.kernel = kernel;
  line.length = length;
  return line;
}

// Equal chunks of one launch: "16x512@4096". False for anything else.
inline bool equal_chunks(const std::string& text, double& count, double& tokens, double& context) {
  const std::size_t times = text.find('x'), at = text.find('@');
  const std::size_t first = times == std::string::npos ? 0 : times + 1;
  if (text.find(' ') != std::string::npos || at == std::string::npos) return false;
  count = 1;
  return (first == 0 || number(std::string_view(text).substr(0, times), count)) &&
         number(std::string_view(text).substr(first, at - first), tokens) &&
         number(std::string_view(text).substr(at + 1), context) && count >= 1 && tokens >= 1;
}

// Chunks of different lengths may fill as many tiles with nearly as many keys: one point an eighth octave.
inline double near(double keys) { return det_exp(std::round(det_log(keys) * 11.5) / 11.5); }

// Prompts of one length are the work of heads × sequences alike and independent tiles: where a head layout
// was timed for few sequences only, layouts with more heads say what more sequences take. Of two that say
// it the one with the nearer number of heads is taken.
inline TimedLines completed(const TimedLines& lines) {
  TimedLines out = lines;
  for (auto& [key, line] : out) {
    const double most = line.points.rbegin()->first;
    std::map<double, double> distance;  // of who gave the point
    for (const auto& [other_key, other] : lines) {
      if (other.length != line.length || other.shape.head_dim != line.shape.head_dim ||
          other.shape.kv_dtype != line.shape.kv_dtype)
        continue;
      const double ratio = static_cast<double>(other.shape.heads) / static_cast<double>(line.shape.heads);
      for (const auto& [sequences, sum] : other.points) {
        const double here = sequences * ratio, apart = std::abs(det_log(ratio));
        if (here <= most) continue;
        const auto given = distance.find(here);
        if (given != distance.end() && given->second <= apart) continue;
        distance[here] = apart;
        line.points[here] = sum;
      }
    }
  }
  return out;
}

}  // namespace orrery
