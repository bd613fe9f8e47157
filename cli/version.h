// Version and commit of this binary.
#pragma once

#include <string>

namespace orrery {
std::string version();  // "0.1.0 (1a2b3c4d5e6f)"
}
