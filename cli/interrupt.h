// Ctrl-C during long work: the work is asked to stop and ends with exit code 130, leaving nothing
// half-written.
#pragma once

#include "base/result.h"

namespace orrery {
void watch_interrupts();  // SIGINT and SIGTERM set a flag; the second one ends the process at once
bool interrupted();
Error interruption();  // what a command that keeps nothing reports, as exit code 130
}  // namespace orrery
