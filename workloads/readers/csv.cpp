#include "workloads/readers/csv.h"

#include <limits>

namespace orrery {

namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t' || text.back() == '\r'))
    text.remove_suffix(1);
  return text;
}

// Exactly `width` digits at the front of `text`, removed from it; −1 when they are not there.
int take_digits(std::string_view& text, std::size_t width) {
  if (text.size() < width) return -1;
  int value = 0;
  for (std::size_t i = 0; i < width; ++i) {
    if (!is_digit(text[i])) return -1;
    value = value * 10 + (text[i] - '0');
  }
  text.remove_prefix(width);
  return value;
}

bool take(std::string_view& text, char c) {
  if (text.empty() || text.front() != c) return false;
  text.remove_prefix(1);
  return true;
}

// Days since 1970-01-01 in the Gregorian calendar (H. Hinnant, "chrono-Compatible Low-Level Date
// Algorithms").
std::int64_t days_from_civil(int year, int month, int day) {
  const int y = month <= 2 ? year - 1 : year;
  const int era = y / 400;
  const int year_of_era = y - era * 400;
  const int day_of_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
  const int day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
  return static_cast<std::int64_t>(era) * 146097 + day_of_era - 719468;
}

int days_in_month(int year, int month) {
  constexpr int kDays[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
  const bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
  return month == 2 && leap ? 29 : kDays[month - 1];
}

// Seconds to subtract for "+hh:mm", "-hh:mm", "Z" or nothing; empty for anything else.
std::optional<std::int64_t> parse_zone(std::string_view text) {
  if (text.empty() || text == "Z") return 0;
  const int sign = text.front() == '-' ? -1 : 1;
  if (!take(text, '+') && !take(text, '-')) return std::nullopt;
  const int hours = take_digits(text, 2);
  const bool colon = take(text, ':');
  const int minutes = text.empty() && !colon ? 0 : take_digits(text, 2);
  if (hours < 0 || hours > 14 || minutes < 0 || minutes > 59 || !text.empty()) return std::nullopt;
  return sign * (hours * 3600 + minutes * 60);
}

}  // namespace

void split_csv(std::string_view line, std::vector<std::string_view>& fields) {
  fields.clear();
  std::size_t start = 0;
  while (true) {
    const std::size_t comma = line.find(',', start);
    fields.push_back(trimmed(line.substr(start, comma == std::string_view::npos ? comma : comma - start)));
    if (comma == std::string_view::npos) return;
    start = comma + 1;
  }
}

std::optional<std::int64_t> parse_decimal(std::string_view text, int decimals) {
  constexpr std::int64_t kLimit = std::int64_t{1} << 62;
  std::int64_t value = 0;
  int after_point = -1;  // −1: no point yet
  bool any = false;
  for (const char c : text) {
    if (c == '.' && after_point < 0) {
      after_point = 0;
      continue;
    }
    if (!is_digit(c)) return std::nullopt;
    any = true;
    if (after_point >= decimals) continue;
    if (after_point >= 0) ++after_point;
    if (value > (kLimit - 9) / 10) return std::nullopt;
    value = value * 10 + (c - '0');
  }
  if (!any) return std::nullopt;
  for (int i = after_point < 0 ? 0 : after_point; i < decimals; ++i) {
    if (value > kLimit / 10) return std::nullopt;
    value *= 10;
  }
  return value;
}

std::optional<std::int64_t> parse_whole(std::string_view text) {
  const auto millionths = parse_decimal(text, 6);
  if (!millionths || *millionths % 1'000'000 != 0) return std::nullopt;
  return *millionths / 1'000'000;
}

std::optional<std::int64_t> parse_calendar(std::string_view text) {
  const int year = take_digits(text, 4);
  const bool dash1 = take(text, '-');
  const int month = take_digits(text, 2);
  const bool dash2 = take(text, '-');
  const int day = take_digits(text, 2);
  const bool gap = take(text, ' ') || take(text, 'T');
  const int hour = take_digits(text, 2);
  const bool colon1 = take(text, ':');
  const int minute = take_digits(text, 2);
  const bool colon2 = take(text, ':');
  const int second = take_digits(text, 2);
  if (!dash1 || !dash2 || !gap || !colon1 || !colon2) return std::nullopt;
  if (year < 1970 || year > 2200 || month < 1 || month > 12 || hour < 0 || hour > 23 || minute < 0 ||
      minute > 59 || second < 0 || second > 59 || day < 1 || day > days_in_month(year, month)) {
    return std::nullopt;
  }
  std::int64_t fraction_ns = 0;
  if (take(text, '.')) {
    std::size_t digits = 0;
    while (digits < text.size() && is_digit(text[digits])) ++digits;
    if (digits == 0) return std::nullopt;
    fraction_ns = *parse_decimal("0." + std::string(text.substr(0, digits)), 9);
    text.remove_prefix(digits);
  }
  const auto zone = parse_zone(text);
  if (!zone) return std::nullopt;
  const std::int64_t whole =
      days_from_civil(year, month, day) * 86400 + hour * 3600 + minute * 60 + second - *zone;
  return whole * 1'000'000'000 + fraction_ns;
}

}  // namespace orrery
