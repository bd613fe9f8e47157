// SGLang's prefill delayer (managers/prefill_delayer.py of 0.5.23): whether prompts may run in a pass, by
// what all ranks of attention data parallelism say. One rank alone negotiates with itself.
#pragma once

#include <cstdint>
#include <span>

#include "base/time.h"

namespace orrery {

// Of PrefillDelayer; and of MinFreeSlotsDelayer (min_free_slots_delayer.py), which every rank has for itself.
struct PrefillDelays {
  bool on = false;              // enable_prefill_delayer
  std::int64_t passes = 30;     // prefill_delayer_max_delay_passes
  double low_usage = 0;         // ..._token_usage_low_watermark; 0 = none
  double queue_ratio = 0;       // ..._queue_min_ratio; 0 = none
  double most_ms = 5000;        // ..._max_delay_ms, of the queue's trigger
  std::int64_t free_slots = 0;  // min_free_slots_delay; up to 1 = off
};

// What a rank gathers into `_global_info_buffer`; only `asks` counts of who could admit nobody.
struct PrefillVote {
  bool asks = false;         // local_prefillable
  bool little_used = false;  // local_token_watermark_force_allow
  std::int64_t running = 0, largest = 0, waiting = 0;
};

class PrefillDelayer {
 public:
  struct Limits {
    std::int64_t running_requests = 0;  // of a rank
    std::int64_t prefill_requests = 0;  // prefill_max_requests; 0 = none
  };
  // `_negotiate_should_allow_prefill_pure`: once a pass.
  bool allows(const PrefillDelays& rules, std::span<const PrefillVote> ranks, const Limits& limits,
              SimTime now);

 private:
  bool delay(const PrefillDelays& rules, SimTime now);
  bool waits(const PrefillDelays& rules, std::span<const PrefillVote> ranks, const Limits& limits,
             SimTime now) const;

  std::int64_t delayed_ = 0;  // passes in a row
  SimTime since_;             // the first of them
  bool skips_first_ = true;
};

}  // namespace orrery
