#include "cli/interrupt.h"

#include <csignal>

namespace orrery {

namespace {

volatile std::sig_atomic_t seen = 0;

// The second one ends the process at once: somebody is in a hurry.
void on_signal(int signal) {
  seen = 1;
  std::signal(signal, SIG_DFL);
}

}  // namespace

void watch_interrupts() {
  std::signal(SIGINT, on_signal);
  std::signal(SIGTERM, on_signal);
}

bool interrupted() { return seen != 0; }

Error interruption() { return make_error(ErrorKind::interrupted, "interrupted; nothing was written"); }

}  // namespace orrery
