// An engine's API server in time (`workload.frontend: openai`): event loops as serial servers.
//
//   request   event loop: HTTP, validation, template, message to the core; then the tokeniser, on the loop or
//             in a thread beside it; then the core's queue
//   output    one message a step: walk its sequences, detokenise every token, serialise and send every event;
//             first come, first served, with the loop's share of the requests that came before. A loop that
//             gets more work than it can do falls behind, and what the client sees is the loop's pace
//
// Requests do not wait for the backlog of outputs: the loop takes turns, and an output handler gives way
// after at most 128 of them (vLLM: VLLM_V1_OUTPUT_PROC_CHUNK_SIZE); the wait for one such turn is left out.
// Several processes share requests by index and every message in equal parts, all in step. Constant work a
// request and a message: nothing here is done per token.
#pragma once

#include <cstdint>
#include <deque>
#include <vector>

#include "base/time.h"

namespace orrery {

struct FrontEndConfig {
  std::int32_t processes = 1;
  bool tokenizer_beside_loop = false, detokenizer_apart = false;
  std::int32_t detokenizers = 1;  // processes that share every message in equal parts, if apart
  SimDuration request, message;
  // Picoseconds: a prompt token takes less than a few hundred nanoseconds.
  std::int64_t tokenize_ps = 0, detokenize_ps = 0, output_ps = 0, event_ps = 0;
};

class FrontEnd {
 public:
  explicit FrontEnd(const FrontEndConfig& config);

  // A request comes at `at` (calls in order of time); returns when it reaches the core's queue, ≥ `at`.
  SimTime accept(std::uint64_t request, std::int32_t prompt_tokens, SimTime at);
  // What the core's message of a step holds, and what becomes of it.
  struct Outputs {
    std::int64_t sequences = 0, tokens = 0;  // in the message
    std::int64_t events = 0;                 // sent to clients
  };
  // The core sent the outputs of a step at `update` (calls in order); returns when the last of them has left.
  // Every request that came before `update` must have been accepted.
  SimTime deliver(SimTime update, const Outputs& outputs);
  // Work of the busiest event loop so far.
  SimDuration loop_work() const { return SimDuration(loop_work_ps_ / 1000); }

 private:
  struct Work {
    SimTime at;
    std::int64_t ps;
  };
  void take_requests(SimTime before);

  FrontEndConfig config_;
  std::vector<SimTime> loop_in_, tokenizer_;  // by process: free again
  std::deque<Work> requests_;                 // share of a loop, not yet in loop_out_
  SimTime loop_out_, detokenizer_;
  std::int64_t loop_work_ps_ = 0;
};

}  // namespace orrery
