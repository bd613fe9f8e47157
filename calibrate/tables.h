// A journal as the tables that the cost model reads: hardware_profiles/tables/<hardware>/<kernels>/.
#pragma once

#include <map>
#include <string>

#include "base/result.h"
#include "calibrate/journal.h"

namespace orrery::calibrate {

// Names of files → their text; a function of the journal alone. Files without a row are left out.
std::map<std::string, std::string> table_files(const Journal& journal);

// Writes them into `directory` as a whole.
Status write_tables(const Journal& journal, const std::string& directory);

std::string nine_digits(double value);  // "12.3456789"

// Orders rows as people would: columns that are numbers by value.
bool row_less(const std::string& a, const std::string& b);

}  // namespace orrery::calibrate
