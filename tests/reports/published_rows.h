// Rows of published_e2e.csv's layout, written by a test and imported with the shipped rules.
#pragma once

#include "base/support.h"
#include "catch.h"
#include "reports/casebook/published/import_rules.h"
#include "reports/casebook/published/run_import.h"

namespace orrery {

inline const std::string kHeader =
    "hw,gpus,engine,engine_version,model,quant,tp,ep,pp,dp,disagg,isl,osl,workload,load_type,load_value,"
    "metric,value,unit,source,locator,note\n";

inline std::vector<FigureRow> rows_of(const std::string& text) {
  const test::TempFolder folder;
  auto rows = read_figure_rows(folder.write("rows.csv", text));
  INFO((rows.ok() ? std::string() : to_string(rows.errors())));
  REQUIRE(rows.ok());
  return std::move(*rows);
}

inline const ImportRules& our_rules() {
  static const ImportRules rules = [] {
    auto loaded = load_import_rules(import_rules_path());
    REQUIRE(loaded.ok());
    return std::move(*loaded);
  }();
  return rules;
}

inline PublishedImport import_text(const std::string& text) {
  return import_rows(rows_of(kHeader + text), our_rules());
}

}  // namespace orrery
