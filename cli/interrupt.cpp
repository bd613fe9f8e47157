#include "cli/interrupt.h"

#include <unistd.h>

#include <csignal>

namespace orrery {

namespace {

volatile std::sig_atomic_t seen = 0;

void on_signal(int) {
  if (seen != 0) _exit(130);
  seen = 1;
}

}  // namespace

void watch_interrupts() {
  std::signal(SIGINT, on_signal);
  std::signal(SIGTERM, on_signal);
}

bool interrupted() { return seen != 0; }

}  // namespace orrery
