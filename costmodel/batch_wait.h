// TensorRT-LLM's batch_wait_timeout_ms.
#pragma once

#include "costmodel/engine_profile.h"

namespace orrery {

// `_get_from_request_queue` (executor_request_queue.py): whether it has work or not, a pass that fetched less
// than a full batch waits for so long before it composes; an idle engine does so from the first request on.
// (That the wait ends early when a full batch has come is left out.)
inline double batch_wait_ns(const SchedulerSettings& settings) {
  const NamedOptions& options = settings.options;
  return options.has("batch_wait_timeout_ms") ? options.number("batch_wait_timeout_ms") * 1e6 : 0;
}

}  // namespace orrery
