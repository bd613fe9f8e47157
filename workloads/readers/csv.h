// Helpers for the published CSV traces: plain commas, no quoting (none of them quotes).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace orrery {

// Views into `line`, valid as long as it is. Surrounding blanks are trimmed.
void split_csv(std::string_view line, std::vector<std::string_view>& fields);

// "12.0500001" → 12050000100 for `decimals` = 9, exactly and without floating point; further digits are cut.
// Nothing for a sign, an exponent, an empty text or a number too large for 62 bits.
std::optional<std::int64_t> parse_decimal(std::string_view text, int decimals);

// A whole number without sign: "120", also "120.0" (some published files went through floating point).
std::optional<std::int64_t> parse_whole(std::string_view text);

// "2023-11-16 18:15:46.6805900", with "T" for the blank, with "Z" or "+hh:mm" behind it → ns since 1970
// (UTC).
std::optional<std::int64_t> parse_calendar(std::string_view text);

}  // namespace orrery
