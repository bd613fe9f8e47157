// What moves KV blocks from a prefill instance to a decode instance, and when they have arrived.
#pragma once

#include <cstdint>
#include <vector>

#include "base/ids.h"
#include "base/time.h"

namespace orrery {

struct KvPull {
  RequestId request;
  InstanceId from, to;
  std::int64_t blocks = 0;  // whole blocks of the deployment's block size; 0: only word that none is wanted
};

struct KvPullDone {
  RequestId request;
  SimTime at;
  bool lost = false;  // the bytes will not come: no way is left
};

class KvTransport {
 public:
  virtual ~KvTransport() = default;
  virtual void begin(const KvPull& pull, SimTime now) = 0;
  // When collect() has something next; may move either way after any call.
  virtual SimTime next_event() = 0;
  // Appends what has arrived by `now`, ordered by (time, request).
  virtual void collect(SimTime now, std::vector<KvPullDone>& done) = 0;
  // Faults. A pull that nobody waits for any more; unknown or ended: nothing happens.
  virtual void cancel(RequestId, SimTime) {}
  // One direction of a link keeps `factor` of its bandwidth; 0: both carry nothing. 1 mends it.
  virtual void set_link(std::uint32_t /*link*/, double /*factor*/, SimTime) {}
};

}  // namespace orrery
