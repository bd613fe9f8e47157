// What commands say on stderr, a line each: errors, warnings, and with --log-level what they are doing.
#pragma once

#include <string>

namespace orrery {

enum class LogLevel { error, warning, info, debug };

// --log-level and --color hold for the whole process; main sets them once. `color`: auto colours labels when
// stderr is a terminal and NO_COLOR is not set.
void set_console(const std::string& log_level, const std::string& color);

// "orrery: TEXT" for errors, "orrery: warning: TEXT" and so on below; nothing below the level that was set.
void say(LogLevel level, const std::string& text);

}  // namespace orrery
