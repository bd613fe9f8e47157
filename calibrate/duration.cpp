#include "calibrate/duration.h"

#include <charconv>

#include "base/text.h"

namespace orrery::calibrate {

Result<double> parse_duration(const std::string& text) {
  const Error wrong = make_error(ErrorKind::usage,
                                 "not a duration: " + quote(text) + "; write 90s, 8m, 1h30m", {}, "--budget");
  double seconds = 0;
  const char *at = text.data(), *end = text.data() + text.size();
  while (at != end) {
    std::int64_t value = 0;
    const auto number = std::from_chars(at, end, value);
    if (number.ec != std::errc() || number.ptr == end || value < 0 || value > 1'000'000) return wrong;
    const char unit = *number.ptr;
    if (unit != 's' && unit != 'm' && unit != 'h') return wrong;
    seconds += static_cast<double>(value) * (unit == 's' ? 1 : unit == 'm' ? 60 : 3600);
    at = number.ptr + 1;
  }
  if (!(seconds > 0)) return wrong;
  return seconds;
}

}  // namespace orrery::calibrate
