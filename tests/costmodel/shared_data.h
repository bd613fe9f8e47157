// Data beside the repository (../shared), which a checkout may lack: tests that need it say so and pass.
#pragma once

#include <cstdio>
#include <filesystem>
#include <string>

namespace orrery {

inline std::string shared_folder() { return std::string(ORRERY_SOURCE_DIR) + "/../shared"; }

// False, with a line on stderr, when it is not there.
inline bool has_shared(const std::string& what) {
  if (std::filesystem::exists(shared_folder() + "/" + what)) return true;
  std::fprintf(stderr, "SKIPPED: ../shared/%s is not here; this test needs it\n", what.c_str());
  return false;
}

}  // namespace orrery
