// Canonical JSON (rule D7): keys in the order in which the writer put them, two-space indentation,
// shortest round-trip numbers, a newline at the end. Reading is strict: duplicate keys, trailing text
// and nesting deeper than 200 are located errors.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "base/result.h"

namespace orrery {

using Json = nlohmann::ordered_json;

std::string canonical_json(const Json& value);  // a NaN or infinity becomes null
std::string format_number(double value);  // shortest text that reads back as the same double; "" for NaN
std::string format_fixed(double value, int decimals);        // the exact value rounded, ties to even
std::string format_nanoseconds_as_seconds(std::int64_t ns);  // nine decimals, exact: "1.500000000"
Result<Json> parse_json(const std::string& text, const std::string& file_name);
Result<Json> load_json(const std::string& path);
// Line and column of a byte offset.
SourceLocation locate(const std::string& text, std::size_t byte, const std::string& file_name);

}  // namespace orrery
