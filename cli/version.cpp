#include "cli/version.h"

namespace orrery {
std::string version() {
  const std::string commit = ORRERY_COMMIT;
  return std::string(ORRERY_VERSION) + (commit.empty() ? "" : " (" + commit + ")");
}
}  // namespace orrery
