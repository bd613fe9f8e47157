// What the client sent. There is deliberately no output length here: how long the model will talk is the
// oracle's secret (OutputLengths), which only executors see; a scheduler learns of an end from an outcome.
#pragma once

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "base/ids.h"
#include "base/time.h"
#include "sim/images.h"

namespace orrery {

// Which part of a request an instance is asked for: prefill and decode apart, or images encoded elsewhere.
enum class RequestLeg : std::uint8_t { whole, prefill, decode, encode };

struct Request {
  RequestId id;
  RequestLeg leg = RequestLeg::whole;
  std::uint32_t attempt = 0;           // of a leg sent at once with its other one: which of the request's
  SimTime arrival;                     // at the server; latencies count from here
  std::int32_t prompt_tokens = 0;      // ≥ 1
  std::int32_t max_output_tokens = 0;  // ≥ 1, what the client allowed
  std::int32_t priority = 0;
  SimTime gives_up = SimTime::never();  // the client goes away, and with what status its request ends then
  bool times_out = false;
  bool ignore_eos = false;  // the client wants max_output_tokens, whatever the model says
  std::int32_t hash_block_size = 512;
  std::uint64_t stream = 0;             // session's token stream, 0 = none (sim/kv_block_manager.h)
  std::vector<std::uint64_t> hash_ids;  // names of prompt blocks; empty = private content
  std::vector<PlacedImage> images;      // by offset; their placeholders are part of prompt_tokens
  SimDuration preparation, sending;     // CPU time that they took before the engine saw them; their way to it
};

// When the model ends by itself (an EOS) before max_output_tokens. Requests that run to their limit have no
// entry: everybody knows that end in advance.
class OutputLengths {
 public:
  void set(RequestId request, std::int32_t output_tokens) { eos_[request.value()] = output_tokens; }
  void forget(RequestId request) { eos_.erase(request.value()); }
  // Output tokens after which the model emits EOS; 0 = not before the client's limit.
  std::int32_t eos_after(RequestId request) const {
    if (eos_.empty()) return 0;
    const auto it = eos_.find(request.value());
    return it == eos_.end() ? 0 : it->second;
  }

 private:
  std::unordered_map<std::uint64_t, std::int32_t> eos_;  // looked up, never iterated
};

}  // namespace orrery
