// Who wants something: a trace, a closed loop of clients, or sockets.
#pragma once

#include <vector>

#include "base/result.h"
#include "base/time.h"
#include "sim/request.h"

namespace orrery {

using Arrivals = std::vector<Request>;

class Inbox {
 public:
  virtual ~Inbox() = default;
  // The next arrival that is already known; never() when there is none (or only the outside knows).
  virtual SimTime next() const = 0;
  // Appends everything that has reached the engines by `now`. Order does not matter: the loop sorts by
  // request.
  virtual void poll(SimTime now, Arrivals& arrivals) = 0;
  // Asked behind it: whose clients have gone, of which no request said so beforehand (`gives_up`). next()
  // holds for them too.
  virtual void poll_departures(SimTime, std::vector<RequestId>&) {}
  // The client has its last token, at `at` (which may lie after the loop's now).
  virtual void on_finished(RequestId request, SimTime at) = 0;
  // When a client that shares the requests' process reads what an update sent, `delay` after it: not while
  // that process prepares images, which those of earlier requests hold up. Asked in any order, and only where
  // `PoolSetup::client_prepares`. Counted from the update, as if there were no delay.
  virtual SimTime client_reads(SimTime update, SimDuration delay) {
    (void)delay;
    return update;
  }
  // Set when the source stopped because of bad input.
  virtual const Error* error() const { return nullptr; }
};

}  // namespace orrery
