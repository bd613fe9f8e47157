// Who moves keys and values of a prompt from one device's pool to another's: our kernel over the link between
// GPUs, a stand-in in tests.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace orrery {

struct KvMove {
  std::vector<std::int32_t> from, to;  // blocks, in order: there and here
  // Of `of` equal parts (layers, or 1) those in [first, last).
  std::int64_t first = 0, last = 1, of = 1;
};

class KvMover {
 public:
  virtual ~KvMover() = default;
  // Waits for the end. False with a reason when the device fails.
  virtual bool move(const KvMove& move, std::int64_t& ns, std::string& why) = 0;
};

}  // namespace orrery
