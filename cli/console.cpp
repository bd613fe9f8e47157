#include "cli/console.h"

#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstdlib>

namespace orrery {

namespace {

struct Label {
  const char* name;
  const char* text;
  const char* color;  // of a terminal: red, yellow, cyan, grey
};
constexpr std::array<Label, 4> labels = {{{"error", "orrery:", "\033[1;31m"},
                                          {"warning", "orrery: warning:", "\033[1;33m"},
                                          {"info", "orrery: info:", "\033[36m"},
                                          {"debug", "orrery: debug:", "\033[90m"}}};

LogLevel shown = LogLevel::warning;
bool colored = false;

}  // namespace

void set_console(const std::string& log_level, const std::string& color) {
  for (std::size_t i = 0; i < labels.size(); ++i) {
    if (log_level == labels[i].name) shown = static_cast<LogLevel>(i);
  }
  const char* no_color = std::getenv("NO_COLOR");
  const bool wanted = (no_color == nullptr || *no_color == '\0') && isatty(STDERR_FILENO) == 1;
  colored = color == "always" || (color == "auto" && wanted);
}

void say(LogLevel level, const std::string& text) {
  if (level > shown) return;
  const Label& label = labels[static_cast<std::size_t>(level)];
  std::fprintf(stderr, "%s%s%s %s\n", colored ? label.color : "", label.text, colored ? "\033[0m" : "",
               text.c_str());
}

}  // namespace orrery
