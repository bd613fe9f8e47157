// What clients send, one request at a time, in arrival order. Sources stream: memory does not grow with
// the length of the trace.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/time.h"

namespace orrery {

struct ImageSize {
  std::int32_t width = 0;     // pixels
  std::int32_t height = 0;    // pixels
  std::uint64_t id = 0;       // equal ids are equal images; 0 = like no other
  std::int32_t position = 0;  // text tokens of the prompt that stand before it
};

// One request as the trace or generator has it. The output length is the oracle: it goes to executors and
// load generators, never to a scheduler (see sim/request.h).
struct TraceRequest {
  std::uint64_t index = 0;              // position in the trace, from 0
  SimTime arrival;                      // timestamp / time_scale, not rebased
  std::int32_t prompt_tokens = 0;       // ≥ 1; of text: what images become is added by the model's rule
  std::int32_t output_tokens = 0;       // ≥ 1: tokens that the model emits
  std::int32_t max_output_tokens = 0;   // what the client sent; ≥ output_tokens. Equal: the end is known in
                                        // advance; larger: the end is an EOS, learned late
  std::vector<std::uint64_t> hash_ids;  // names of consecutive prompt blocks of hash_block_size tokens; empty
                                        // = no sharing. Exactly ⌈prompt_tokens / hash_block_size⌉ ids
                                        // (surplus ids are dropped by readers)
  std::int32_t hash_block_size = 512;   // tokens
  std::uint64_t session = 0;  // 0 = none; otherwise requests of one session follow each other, and a later
                              // prompt that is longer than the previous prompt + output begins with exactly
                              // those tokens
  std::int32_t priority = 0;  // smaller is more urgent, as in vLLM
  SimDuration timeout, cancel_after;  // the client gives up so long after submitting; 0 = never
  std::vector<ImageSize> images;
  SourceLocation where;  // of a request with images, whose sizes are judged later
  std::string tenant;
};

class RequestSource {
 public:
  virtual ~RequestSource() = default;
  // False at the end or after an error. The object's buffers are reused between calls.
  virtual bool next(TraceRequest& request) = 0;
  // Set when the source stopped because of bad input (file, line, what was expected); null at a good end.
  virtual const Error* error() const = 0;
  // How many requests there will be, when that is known without reading everything; 0 = unknown.
  virtual std::uint64_t size_hint() const { return 0; }
};

}  // namespace orrery
