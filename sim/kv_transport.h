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
  std::int32_t from_rank = 0, to_rank = 0;  // of attention data parallelism, within the instances
};

struct KvPullDone {
  RequestId request;
  SimTime at;
};

class KvTransport {
 public:
  virtual ~KvTransport() = default;
  virtual void begin(const KvPull& pull, SimTime now) = 0;
  // When collect() has something next; may move either way after any call.
  virtual SimTime next_event() = 0;
  // Appends what has arrived by `now`, ordered by (time, request).
  virtual void collect(SimTime now, std::vector<KvPullDone>& done) = 0;
};

}  // namespace orrery
