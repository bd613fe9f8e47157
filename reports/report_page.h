// The page of report.html around its data: reports/page/*.html, .css and .js, embedded by
// reports/CMakeLists.txt.
#pragma once

namespace orrery {

extern const char* const report_head;  // up to <body>
extern const char* const report_tail;  // the script that draws, and the end

}  // namespace orrery
