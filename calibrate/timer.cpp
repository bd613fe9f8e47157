#include "calibrate/timer.h"

#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <ctime>
#include <fstream>
#include <sstream>
#include <thread>

namespace orrery::calibrate {

double WallTimer::seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

void WallTimer::pause(double seconds) { std::this_thread::sleep_for(std::chrono::duration<double>(seconds)); }

std::string WallTimer::date() {
  const std::time_t now = std::chrono::system_clock::to_time_t(std::chrono::system_clock::now());
  std::tm parts{};
  gmtime_r(&now, &parts);
  char text[16];
  std::strftime(text, sizeof text, "%Y-%m-%d", &parts);
  return text;
}

namespace {
// Sandboxes exist whose processes all started at boot; loading takes seconds at most.
constexpr double slowest_start = 20;
}  // namespace

// Field 22 of /proc/self/stat is the start in clock ticks after boot; the name before it may hold blanks.
double process_age() {
  std::ifstream stat("/proc/self/stat"), uptime("/proc/uptime");
  std::string line;
  double up = 0;
  if (!std::getline(stat, line) || !(uptime >> up)) return 0;
  const std::size_t name_end = line.rfind(')');
  if (name_end == std::string::npos) return 0;
  std::istringstream fields(line.substr(name_end + 1));
  std::string field;
  for (int i = 3; i <= 22; ++i) fields >> field;
  const double started = std::strtod(field.c_str(), nullptr) / static_cast<double>(sysconf(_SC_CLK_TCK));
  const double age = up - started;
  return age > 0 && age < slowest_start ? age : 0;
}

}  // namespace orrery::calibrate
