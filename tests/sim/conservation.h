// What holds of every run under any scheduler.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "../catch.h"
#include "world.h"

namespace orrery::world {

// What random worlds came across, so that a test can say that they visit what they are meant to visit.
struct Visited {
  std::uint64_t preemptions = 0, cached = 0, eos = 0, stretches = 0, rejected = 0;
  std::uint64_t accepted = 0, rejected_drafts = 0;  // with speculation
};

// Every request ends once, as it should; tokens add up; each token after a request's first has exactly one
// gap. `refused(request)`: the engine must turn it away.
template <class Refused>
void check_conservation(World w, const std::vector<TraceRequest>& requests, Refused refused,
                        Visited& visited) {
  Records records;
  w.sink = &records;
  const RunResult r = run(w, requests);
  REQUIRE(records.all.size() == requests.size());
  std::vector<int> ends(requests.size(), 0);
  std::uint64_t tokens = 0, gaps = 0;
  for (const RequestRecord& q : records.all) {
    REQUIRE(++ends[q.request] == 1);
    const TraceRequest& asked = requests[q.request];
    if (refused(asked)) {
      REQUIRE(q.status == RequestStatus::rejected);
      ++visited.rejected;
      continue;
    }
    REQUIRE(q.status == RequestStatus::completed);
    const std::int64_t room = w.config.max_model_len - asked.prompt_tokens;
    REQUIRE(q.output_tokens == std::min<std::int64_t>(asked.output_tokens, room));
    REQUIRE(q.ttft.ns() > 0);
    REQUIRE(q.e2e >= q.ttft);
    REQUIRE(q.ttft >= q.queue);
    REQUIRE(q.cached_tokens < q.prompt_tokens);
    tokens += static_cast<std::uint64_t>(q.output_tokens);
    gaps += static_cast<std::uint64_t>(q.output_tokens - 1);
    visited.cached += q.cached_tokens > 0 ? 1 : 0;
    visited.eos += asked.max_output_tokens > asked.output_tokens ? 1 : 0;
  }
  // Little's law: sequences in the system, over time, are the requests' stays in it, which e2e is but for the
  // way in and out (a few milliseconds, and a place in a step's outputs).
  double present = 0, stays = 0;
  for (std::size_t i = 0; i < r.series.running.size(); ++i)
    present += (r.series.running[i] + r.series.waiting[i]) * static_cast<double>(r.series.width.ns());
  for (const RequestRecord& q : records.all) stays += static_cast<double>(q.e2e.ns());
  const double ways = 12e6 * static_cast<double>(r.completed);
  CAPTURE(present, stays, r.completed);
  // The loop learns of an end when the core is free again: with stages up to a sleep of 1 ms later.
  const double learned = w.config.pipeline.stages > 1 ? 1.1e6 * static_cast<double>(records.all.size()) : 0;
  REQUIRE(present <= stays * (1 + 1e-9) + learned);
  REQUIRE(present >= stays - ways);
  REQUIRE(r.output_tokens == tokens);
  if (w.config.speculation.tokens == 0) {
    REQUIRE(r.itl.count == gaps);
  } else {  // one event of a sequence and step, however many tokens it carries
    REQUIRE(r.speculation.tokens <= tokens);
    REQUIRE(r.speculation.tokens + records.all.size() + r.preemptions >= tokens);
    REQUIRE(r.itl.count >= r.speculation.decodes);
    REQUIRE(r.itl.count <= r.speculation.decodes + r.preemptions);
    visited.accepted += r.speculation.accepted;
    visited.rejected_drafts += r.speculation.drafts - r.speculation.accepted;
  }
  visited.preemptions += r.preemptions;
  visited.stretches += r.stretches;
}

// Single steps decide as stretches do, at the same nanosecond, whatever the order of what comes at once.
// Returns the run in stretches.
inline RunResult check_stretches(World w, const std::vector<TraceRequest>& requests, std::uint64_t seed) {
  Records by_stretch, by_step;
  w.itl = true;
  w.sink = &by_stretch;
  const RunResult a = run(w, requests);
  w.sink = &by_step;
  w.config.stretches = false;
  const RunResult b = run(w, requests);
  REQUIRE(a.digest == b.digest);
  REQUIRE(a.steps == b.steps);
  for (std::size_t i = 0; i < requests.size(); ++i) {
    REQUIRE(by_stretch.all[i].e2e == by_step.all[i].e2e);
    REQUIRE(by_stretch.all[i].itl_max == by_step.all[i].itl_max);
  }
  w.sink = nullptr;
  w.config.stretches = true;
  REQUIRE(run(w, requests, seed).digest == a.digest);
  return a;
}

// `slack_ns`: a first token waits its turn among its step's outputs, so that the gaps may add up to a little
// more than the time from it to the end.
inline void check_gaps(World w, const std::vector<TraceRequest>& requests, std::int64_t slack_ns) {
  Records records;
  w.sink = &records;
  w.itl = true;
  run(w, requests);
  for (const RequestRecord& q : records.all) {
    if (q.output_tokens < 2) {
      REQUIRE(q.itl_max == -1);
      continue;
    }
    REQUIRE(q.itl_p50 <= q.itl_p99);
    REQUIRE(q.itl_p99 <= q.itl_max);
    const std::int64_t span = (q.e2e - q.ttft).ns();
    REQUIRE(q.itl_max <= span + slack_ns);
    REQUIRE(q.itl_max * (q.output_tokens - 1) >= span);
  }
}

}  // namespace orrery::world
