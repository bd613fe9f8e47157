#include "base/mutation.h"

#ifdef ORRERY_MUTANTS
#include <cstdlib>

namespace orrery {

bool mutant_is(Mutant m) {
  static const int chosen = [] {
    const char* text = std::getenv("ORRERY_MUTANT");
    return text == nullptr ? 0 : std::atoi(text);
  }();
  return chosen == static_cast<int>(m);
}

}  // namespace orrery
#endif
