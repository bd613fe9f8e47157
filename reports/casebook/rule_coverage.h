// Which rules of an engine's reference text are implemented, refused or ignored. The table is data
// (engine_profiles/rules/<engine>.yaml); that an implemented rule has a test is looked up in the tests' own
// names, so the table cannot claim what no test cites.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"

namespace orrery {

struct RuleCoverage {
  std::string section, title, status;  // status: implemented | partly | refused | ignored | data
  std::string note;                    // partly, refused, ignored: what and why; data: where
  std::vector<std::string> tests;      // "file: name" of the test cases that cite the section
};
struct EngineCoverage {
  std::string engine, reference;
  std::vector<RuleCoverage> rules;
  // Implemented or partly, and no test cites it; sections of the reference that the table lacks (when
  // ../shared is there). Both fail the check.
  std::vector<std::string> uncited, missing;
  bool reference_read = false, tests_read = false;
};
Result<std::vector<EngineCoverage>> rule_coverage();

}  // namespace orrery
