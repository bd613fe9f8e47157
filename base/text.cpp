#include "base/text.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>

namespace orrery {

namespace {

// Insertions, deletions, replacements and swaps of neighbours, the commonest slip of typing fingers.
std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> above(b.size() + 1), row(b.size() + 1), next(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    next[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      next[j] = std::min({row[j] + 1, next[j - 1] + 1, row[j - 1] + (a[i - 1] == b[j - 1] ? 0u : 1u)});
      const bool swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
      if (swapped) next[j] = std::min(next[j], above[j - 2] + 1);
    }
    above.swap(row);
    row.swap(next);
  }
  return row[b.size()];
}

std::string with_digits(double value, int decimals) {
  char buffer[64];
  std::snprintf(buffer, sizeof buffer, "%.*f", decimals, value);
  return buffer;
}

// Characters, not bytes: continuation bytes of UTF-8 take no column.
std::size_t width(const std::string& text) {
  return static_cast<std::size_t>(std::count_if(
      text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; }));
}

double wall_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

std::string did_you_mean(std::string_view given, const std::vector<std::string>& names) {
  if (given.size() > 100) return "";
  const std::string* best = nullptr;
  std::size_t best_distance = std::max<std::size_t>(1, given.size() / 3) + 1;
  for (const std::string& name : names) {
    const std::size_t distance = edit_distance(given, name);
    if (distance < best_distance) {
      best = &name;
      best_distance = distance;
    }
  }
  return best == nullptr ? "" : " (did you mean \"" + *best + "\"?)";
}

std::string join(const std::vector<std::string>& parts, std::string_view separator) {
  std::string text;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    if (i > 0) text += separator;
    text += parts[i];
  }
  return text;
}

std::string human_bytes(double bytes) {
  static constexpr const char* units[] = {"B", "kB", "MB", "GB", "TB", "PB"};
  std::size_t unit = 0;
  double value = bytes;
  while (std::fabs(value) >= 999.95 && unit < 5) {
    value /= 1000.0;
    ++unit;
  }
  return with_digits(value, unit == 0 ? 0 : 1) + " " + units[unit];
}

std::string human_seconds(double s) {
  const double a = std::fabs(s);
  if (a == 0) return "0 s";
  if (a < 1e-6) return with_digits(s * 1e9, 0) + " ns";
  if (a < 1e-3) return with_digits(s * 1e6, a < 1e-5 ? 2 : 1) + " µs";
  if (a < 1) return with_digits(s * 1e3, a < 1e-1 ? 2 : 1) + " ms";
  if (a < 120) return with_digits(s, 2) + " s";
  const std::string sign = s < 0 ? "-" : "";
  const auto whole = static_cast<long long>(a + 0.5);  // rounded first, so that 60 s cannot appear
  if (whole < 7200) return sign + std::to_string(whole / 60) + " min " + std::to_string(whole % 60) + " s";
  return sign + std::to_string(whole / 3600) + " h " + std::to_string(whole / 60 % 60) + " min";
}

std::string human_count(double count) {
  if (std::fabs(count) >= 1e12) return with_digits(count / 1e12, 2) + " T";
  if (std::fabs(count) >= 1e9) return with_digits(count / 1e9, 2) + " G";
  if (std::fabs(count) >= 1e6) return with_digits(count / 1e6, 2) + " M";
  if (count != std::floor(count)) return with_digits(count, 2);
  std::string digits = with_digits(count, 0), text;
  for (std::size_t i = 0; i < digits.size(); ++i) {
    const std::size_t left = digits.size() - i;
    if (i > 0 && left % 3 == 0 && digits[i - 1] != '-') text += ',';
    text += digits[i];
  }
  return text;
}

std::string quote(std::string_view text) {
  std::string out = "\"";
  std::size_t shown = std::min<std::size_t>(text.size(), 80);
  // Not in the middle of a UTF-8 character.
  while (shown < text.size() && shown > 76 && (static_cast<unsigned char>(text[shown]) & 0xC0) == 0x80)
    --shown;
  for (const char c : text.substr(0, shown)) {
    const auto u = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (u < 0x20 || u == 0x7F) {
      char buffer[8];
      std::snprintf(buffer, sizeof buffer, "\\x%02x", u);
      out += buffer;
    } else {
      out += c;
    }
  }
  return out + (text.size() > shown ? "…\"" : "\"");
}

TextTable::TextTable(std::vector<std::string> header) { rows_.push_back(std::move(header)); }
void TextTable::add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }

std::string TextTable::to_string() const {
  std::vector<std::size_t> widths;
  for (const auto& row : rows_) {
    widths.resize(std::max(widths.size(), row.size()));
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], width(row[i]));
  }
  std::string text;
  for (std::size_t r = 0; r < rows_.size(); ++r) {
    std::string line;
    for (std::size_t i = 0; i < rows_[r].size(); ++i) {
      const std::string pad(widths[i] - width(rows_[r][i]), ' ');
      line += (i > 0 ? "  " : "") + (i == 0 ? rows_[r][i] + pad : pad + rows_[r][i]);
    }
    while (!line.empty() && line.back() == ' ') line.pop_back();
    text += line + "\n";
    if (r == 0) {
      std::size_t total = 2 * (widths.empty() ? 0 : widths.size() - 1);
      for (const std::size_t w : widths) total += w;
      text += std::string(total, '-') + "\n";
    }
  }
  return text;
}

Progress::Progress(std::string what, std::uint64_t total, bool enabled)
    : what_(std::move(what)), total_(total), enabled_(enabled && isatty(STDERR_FILENO) == 1),
      started_(wall_seconds()) {}

Progress::~Progress() {
  if (enabled_ && last_ > 0) std::fprintf(stderr, "\r\033[K");
}

void Progress::update(std::uint64_t done) {
  if (!enabled_) return;
  const double now = wall_seconds();
  if (now - last_ < 0.1 || now - started_ < 0.5) return;
  last_ = now;
  const double rate = static_cast<double>(done) / (now - started_);
  std::string line = what_ + ": " + human_count(static_cast<double>(done));
  if (total_ > 0) line += " of " + human_count(static_cast<double>(total_));
  line += ", " + human_count(std::floor(rate)) + "/s";
  if (total_ > done && rate > 0)
    line += ", " + human_seconds(static_cast<double>(total_ - done) / rate) + " left";
  std::fprintf(stderr, "\r\033[K%s", line.c_str());
}

}  // namespace orrery
