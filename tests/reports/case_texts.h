// Case files that a test writes, and what is said of bad ones.
#pragma once

#include "base/support.h"
#include "catch.h"
#include "reports/casebook/published_case.h"

namespace orrery::test {

inline std::string replaced(std::string text, const std::string& what, const std::string& by) {
  const std::size_t at = text.find(what);
  REQUIRE(at != std::string::npos);
  return text.replace(at, what.size(), by);
}

inline std::string case_errors(const std::string& text) {
  const TempFolder folder;
  const auto loaded = load_published_case(folder.write("bad.yaml", text));
  REQUIRE_FALSE(loaded.ok());
  return to_string(loaded.errors());
}

}  // namespace orrery::test
