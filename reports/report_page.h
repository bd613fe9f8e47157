// The pages of report.html and scoreboard.html around their data: reports/page/*.html, .css and .js, embedded
// by reports/CMakeLists.txt.
#pragma once

namespace orrery {

extern const char* const report_head;      // up to <body>
extern const char* const report_tail;      // the script that draws, and the end
extern const char* const board_tail;       // of scoreboard.html
extern const char* const comparison_tail;  // of live's comparison.html
extern const char* const plan_tail;        // of plan's recommendation.html

}  // namespace orrery
