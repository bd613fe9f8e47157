// The API server of an engine as figures: what stands between a client on the network and the core's queue.
// What becomes of them in time is sim/front_end.h.
#pragma once

#include <cstdint>

#include "base/yaml_reader.h"
#include "costmodel/figure.h"

namespace orrery {

struct FrontEndCosts {
  std::int64_t processes = 1;          // equal API servers, each with an event loop of its own
  bool tokenizer_beside_loop = false;  // in a thread of its own; false: the event loop waits for it
  bool detokenizer_apart = false;      // in a process of its own, before the API server
  std::int64_t detokenizers = 1;       // or in so many, each with its share of the requests
  // CPU time on the event loop unless said otherwise.
  Figure<Seconds> request;        // per request: HTTP, validation, chat template, message to the core
  Figure<Seconds> tokenize;       // per prompt token of a text
  Figure<Seconds> read_token_id;  // per prompt token that comes as a number: read and checked, no tokeniser
  Figure<Seconds> message;        // per message of the core, one a step
  Figure<Seconds> detokenize;     // per output token
  Figure<Seconds> event;          // per stream event: serialise, frame, send; beside host.output_per_sequence
};

FrontEndCosts read_front_end(const Yaml& node);

}  // namespace orrery
