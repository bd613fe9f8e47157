// The option --intervals: how many paired runs stand behind a prediction's error bars.
#pragma once

#include <charconv>
#include <string>

#include "base/result.h"
#include "base/text.h"

namespace orrery {

// off → 0 runs, auto → 16, N → N.
inline Result<int> interval_runs(const std::string& text) {
  if (text == "off") return 0;
  if (text == "auto") return 16;
  int runs = 0;
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), runs);
  if (parsed.ec == std::errc() && parsed.ptr == text.data() + text.size() && runs >= 2 && runs <= 10000)
    return runs;
  return make_error(ErrorKind::usage,
                    "--intervals takes off, auto or a number of runs from 2 to 10000, not " + quote(text));
}

}  // namespace orrery
