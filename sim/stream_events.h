// `stream_interval` above 1: a stream event carries several tokens of a request. Which ones, by engine
// (docs/streaming.md has the sources):
//
//   by unsent tokens   the first token at once, then whenever `interval` tokens are unsent, and the last one:
//                      tokens 1, 1 + N, 1 + 2N, … (vLLM's output processor, SGLang's scheduler)
//   by iterations      the first token, then with every iteration of the request that N divides, and the last
//                      one: tokens 1, N, 2N, … without drafts (TensorRT-LLM's executor)
//
// A token that is held waits for the event that takes it along; nothing else moves: steps, TTFT and E2E are
// those of interval 1 but for what the API server saves. The gaps between events are the ITL.
//
// Constant work a step and a change: sequences that decode in every step of their lane have their events in
// step modulo N, so a step counts the events of its residue, all with the gap since the step N before. A
// sequence is by itself only from when it joins the decode set until its next event, and when it leaves.
// With drafts an outcome says token by token, as schedulers do then, O(running).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/ids.h"
#include "base/time.h"
#include "sim/decode_ends.h"
#include "sim/front_end.h"
#include "sim/scheduler.h"

namespace orrery {

class RunCollector;

struct StreamRule {
  std::int32_t interval = 1;   // tokens
  bool by_iterations = false;  // TensorRT-LLM; false: by unsent tokens
  // Held tokens do not leave the core: no part of its messages. false: the API server holds them (vLLM).
  bool held_by_core = false;
  bool speculates = false;

  // The token with the next event after the one with token `sent`, a token an iteration; 0 sent: the first.
  std::int64_t next(std::int64_t sent) const;
  // Tokens that events have brought when `outputs` are there and the last one is not; a token an iteration.
  std::int64_t sent_of(std::int64_t outputs) const;
};

class StreamEvents {
 public:
  StreamEvents(const StreamRule& rule, std::size_t lanes, bool per_request);

  void open(SequenceId sequence);
  void place(SequenceId sequence, std::uint32_t lane) { stream(sequence).lane = lane; }
  // The sequence is left out of steps behind `step`, which may be in flight; `settled`: it is not.
  void leaves_after(SequenceId sequence, std::int64_t step, bool settled);
  // Likewise at once: what a step in flight samples for it is thrown away.
  void leaves_now(SequenceId sequence) { leave(sequence); }
  void client_left(SequenceId sequence) { stream(sequence).gone = true; }
  // Dropped with no outcome to come.
  void close(SequenceId sequence);

  // When clients have the events of each update; without a front end when updates end. Gaps go to the
  // collector. Valid until the next call.
  std::span<const SimTime> take(const StepOutcome& outcome, const UpdateEffects& effects, FrontEnd* front_end,
                                RunCollector& collector);
  // Of `outputs` tokens that had been processed by `at`, those that events had brought.
  std::int32_t sent_by(SequenceId sequence, SimTime at, std::int32_t outputs) const;
  // Of a sequence that has ended, all its gaps; only when asked for.
  std::vector<std::int64_t>& gaps(SequenceId sequence) { return stream(sequence).gaps; }

 private:
  struct Stream {
    std::int64_t outputs = 0;     // tokens; while it runs up to the one at `since`
    std::int64_t iterations = 0;  // speculation: that brought them
    std::int64_t sent = 0;        // of them, with the event at `event_at`; while it is steady: older
    std::int64_t since = 0;       // its lane's decode that brought token `outputs`
    std::int64_t event = 0;       // steady: a decode of its lane that was an event
    SimTime event_at;
    std::uint32_t epoch = 0, lane = 0;
    bool runs = false;    // a token with every decode of its lane
    bool steady = false;  // and an event with every N-th of them
    bool gone = false;    // nobody is there to be told the rest
    std::vector<std::int64_t> gaps;
    struct Sent {
      SimTime at;
      std::int64_t tokens;
    };
    std::vector<Sent> history;  // speculation
  };
  struct Lane {
    std::int64_t decodes = 0;          // so far
    std::vector<std::int64_t> steady;  // sequences by the residue of their events
    std::vector<SimTime> times;        // of decodes first_time, …
    std::int64_t first_time = 0;
    std::size_t trim_at = 0;
    DecodeEnds joining;  // next events of sequences that run and are not steady yet, by decode
    SimTime time(std::int64_t decode) const { return times[static_cast<std::size_t>(decode - first_time)]; }
  };
  struct Leaving {
    SequenceId sequence;
    std::int64_t step;
  };
  struct Together {  // events of one residue
    SimTime since;
    std::uint64_t count;
  };
  struct Due {
    SequenceId sequence;
    SimTime since;
    std::int64_t tokens;  // brought by it and all before it
    bool first;
  };

  Stream& stream(SequenceId sequence) { return streams_[sequence.value()]; }
  Lane& lane_of(SequenceId sequence) { return lanes_[stream(sequence).lane]; }
  std::size_t residue(std::int64_t decode) const {
    return static_cast<std::size_t>(decode % std::int64_t{rule_.interval});
  }
  std::int64_t last_event(const Stream& s, std::int64_t decode) const {
    return decode - (decode - s.event) % rule_.interval;
  }
  void decode(Lane& lane);
  void take_words(const UpdateEffects& effects, std::size_t update);
  void say(SequenceId sequence, std::int64_t tokens);
  void join(SequenceId sequence);
  void tell(SequenceId sequence, SimTime since, std::int64_t sent, std::int64_t outputs);
  void flush(const Finished& finished);
  SimTime send(SimTime update, FrontEnd* front_end);
  void note(SimTime told, RunCollector& collector);
  void leave(SequenceId sequence);
  void trim(std::size_t lane);

  StreamRule rule_;
  bool per_request_;
  std::vector<Stream> streams_;  // by sequence slot
  std::vector<Lane> lanes_;
  std::vector<Leaving> leaving_;
  // Of the present update.
  std::vector<Together> together_;
  std::vector<Due> due_;
  std::vector<std::size_t> decoded_;  // lanes
  FrontEnd::Outputs outputs_;
  std::vector<SimTime> told_;
  SimTime last_told_;
};

}  // namespace orrery
