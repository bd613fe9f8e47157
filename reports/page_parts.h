// What pages with charts are made of.
#pragma once

#include <string>

#include "base/json.h"
#include "base/result.h"

namespace orrery {

std::string escape_html(const std::string& text);
std::string charts_library();  // path of Plotly; empty when it was not fetched (tools/fetch_plotly.py)
// The elements that a page's script reads: the data, and the charts library packed.
Result<std::string> page_scripts(const Json& data);

}  // namespace orrery
