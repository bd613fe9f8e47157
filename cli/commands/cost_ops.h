// `orrery cost --ops FILE.jsonl --hardware NAME`: single operators (interfaces §7).
#pragma once

#include <string>
#include <string_view>

#include "base/result.h"
#include "cli/command.h"
#include "costmodel/op_query.h"

namespace orrery {

// One line of the file; `line` is from 1.
Result<OpQuery> parse_operator_row(std::string_view row, const std::string& file, std::int64_t line);

// Writes the CSV to `out`, or to standard output (with --json as JSON) when it is empty. Returns the exit
// code.
int price_operators(const std::string& file, const std::string& hardware, const std::string& kernels,
                    const std::string& out, const CommandContext& context);

}  // namespace orrery
