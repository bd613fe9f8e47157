// What moves KV blocks from a prefill instance to a decode instance, and when they have arrived.
#pragma once

#include <cstdint>
#include <vector>

#include "base/ids.h"
#include "base/time.h"

namespace orrery {

// A decode instance fetches what a prefill instance holds.
struct KvPull {
  RequestId request;
  InstanceId from, to;
  std::int64_t blocks = 0;   // whole blocks of the deployment's block size; 0: only word that none is wanted
  SimTime posted_from = {};  // when the decode instance begins to ask for them; not before `now` of begin()
  std::int32_t from_rank = 0, to_rank = 0;   // of attention data parallelism, within the instances
  SequenceId sequence = SequenceId::none();  // of the decode instance, which waits for them
};

// A prefill instance sends what it has computed so far: of `blocks`, cut into `of` equal parts (layers, or
// pages of the prompt), those in [first, last). Parts of a request leave in order; the one with last = of is
// its last.
struct KvSend {
  RequestId request;
  InstanceId from, to;
  std::int64_t blocks = 0;
  std::int64_t first = 0, last = 0, of = 1;
  std::int32_t from_rank = 0, to_rank = 0;   // as a pull's
  SequenceId sequence = SequenceId::none();  // likewise
};

struct KvPullDone {
  RequestId request;
  SimTime at;
  bool failed = false;  // nothing of it can be used; what was under way is given up
};

class KvTransport {
 public:
  virtual ~KvTransport() = default;
  // How long the decode instance's launcher is busy with asking for it, before begin().
  virtual SimDuration posting(const KvPull&) const { return SimDuration(0); }
  virtual void begin(const KvPull& pull, SimTime now) = 0;
  virtual void send(const KvSend& part, SimTime now) = 0;
  // Nothing more of it is wanted, and nothing will be reported; no effect where nothing is under way.
  virtual void forget(RequestId request, SimTime now) = 0;
  // When collect() has something next; may move either way after any call.
  virtual SimTime next_event() = 0;
  // Appends what has arrived, or failed, by `now`, ordered by (time, request).
  virtual void collect(SimTime now, std::vector<KvPullDone>& done) = 0;
  // Faults. One direction of a link keeps `factor` of its bandwidth; 0: both carry nothing. 1 mends it.
  virtual void set_link(std::uint32_t /*link*/, double /*factor*/, SimTime) {}
  // The instance's process is gone, and all that it had under way was forgotten.
  virtual void begin_anew(InstanceId) {}
  // Weights of an instance that starts, from their source; or from another instance, if one is named.
  virtual void load(InstanceId, InstanceId /*peer*/, SimTime) {}
  virtual void drop_load(InstanceId, SimTime) {}
  virtual bool load_stuck(InstanceId) const { return false; }              // no way is left for some of it
  virtual bool load_way(InstanceId, InstanceId /*peer*/) { return true; }  // there is one for all of it
  virtual SimTime next_load() { return SimTime::never(); }  // when take_loaded() may have something next
  virtual void take_loaded(SimTime, std::vector<InstanceId>& /*done*/) {}
};

}  // namespace orrery
