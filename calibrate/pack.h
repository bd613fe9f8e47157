// One file that carries a calibration from the owner of a part to us: journal, tables, check, each with a
// checksum; and the import that believes none of it.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "base/result.h"
#include "calibrate/journal.h"

namespace orrery::calibrate {

// Canonical JSON of what a calibration directory holds (journal.jsonl, check.json); tables are made from the
// journal. Errors: no journal, no check, a check that failed.
Result<std::string> pack_directory(const std::string& directory);

struct Import {
  Journal journal;
  std::map<std::string, std::string> tables;  // file name → text
  std::size_t figures = 0;
  std::string check;  // "812 passed, 0 failed"
  std::vector<std::string> notes;
};

// Everything that is wrong, located in the file: format, checksums, unknown hardware, a device that is not
// that part, rows that do not parse, figures below what the part's data sheet allows, tables that do not
// follow from the journal, a check that failed.
Result<Import> read_pack(const std::string& path);
Result<Import> parse_pack(const std::string& text, const std::string& name);

}  // namespace orrery::calibrate
