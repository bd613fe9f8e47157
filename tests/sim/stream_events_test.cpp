// `stream_interval`: which token goes with which event, by hand for each engine and against a plain model;
// worlds in which nothing but the events moves.
#include "sim/stream_events.h"

#include <deque>
#include <map>

#include "../sanitized.h"
#include "catch.h"
#include "ranks_world.h"
#include "sglang_features_world.h"
#include "sim/collector.h"
#include "tensorrt_llm_world.h"
#include "world.h"

namespace orrery {
namespace {

using world::RandomWorld;

constexpr std::uint64_t seeds = sanitized ? 6 : 16;

StreamRule vllm(std::int32_t interval) { return {.interval = interval}; }
StreamRule sglang(std::int32_t interval) { return {.interval = interval, .held_by_core = true}; }
StreamRule tensorrt_llm(std::int32_t interval) {
  return {.interval = interval, .by_iterations = true, .held_by_core = true};
}

// One request under drafts: `tokens` come with each update, the first one with the first, a millisecond
// apart. Returns the gaps between its events in milliseconds.
std::vector<std::int64_t> gaps_with_drafts(StreamRule rule, const std::vector<std::int32_t>& tokens) {
  rule.speculates = true;
  StreamEvents events(rule, 1, true);
  RunCollector collector(Slo{}, nullptr);
  const SequenceId id(0);
  events.open(id);
  std::int32_t sum = 0;
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    const SimTime at(static_cast<std::int64_t>(i + 1) * 1'000'000);
    StepOutcome outcome;
    outcome.first = StepId(i);
    outcome.updates = {&at, 1};
    UpdateEffects effects;
    sum += tokens[i];
    effects.regular_decodes = {i == 0 ? 0 : 1};
    if (i == 0)
      effects.first_tokens.push_back({.sequence = id, .request = RequestId(0)});
    else
      effects.said.push_back({id, tokens[i]});
    if (i + 1 == tokens.size())
      effects.finished.push_back({.sequence = id, .request = RequestId(0), .output_tokens = sum});
    events.take(outcome, effects, nullptr, collector);
  }
  std::vector<std::int64_t> gaps;
  for (const std::int64_t gap : events.gaps(id)) gaps.push_back(gap / 1'000'000);
  return gaps;
}

// One request alone, its tokens a millisecond apart, all updates in one outcome or each in its own.
std::vector<std::int64_t> gaps_alone(const StreamRule& rule, std::int32_t outputs, bool together) {
  StreamEvents events(rule, 1, true);
  RunCollector collector(Slo{}, nullptr);
  const SequenceId id(0);
  events.open(id);
  std::vector<SimTime> at;
  for (std::int32_t i = 0; i < outputs; ++i) at.emplace_back((i + 1) * 1'000'000);
  for (std::size_t i = 0; i < at.size();) {
    const std::size_t updates = together ? at.size() : 1;
    StepOutcome outcome;
    outcome.first = StepId(i);
    outcome.updates = std::span(at).subspan(i, updates);
    UpdateEffects effects;
    for (std::size_t k = 0; k < updates; ++k) effects.regular_decodes.push_back(i + k == 0 ? 0 : 1);
    if (i == 0) effects.first_tokens.push_back({.sequence = id, .request = RequestId(0)});
    i += updates;
    if (i == at.size())
      effects.finished.push_back(
          {.sequence = id, .request = RequestId(0), .output_tokens = outputs, .update = updates - 1});
    events.take(outcome, effects, nullptr, collector);
  }
  std::vector<std::int64_t> gaps;
  for (const std::int64_t gap : events.gaps(id)) gaps.push_back(gap / 1'000'000);
  std::sort(gaps.begin(), gaps.end());
  return gaps;
}

using Gaps = std::vector<std::int64_t>;

// v1/engine/output_processor.py, make_request_output: "finished", "first token", "reached the stream
// interval".
TEST_CASE("§6.3 vLLM: the first token, every N after it, and what is left with the last") {
  for (const bool together : {false, true}) {
    CHECK(gaps_alone(vllm(4), 10, together) == Gaps{1, 4, 4});  // tokens 1, 5, 9, 10
    CHECK(gaps_alone(vllm(4), 9, together) == Gaps{4, 4});      // 1, 5, 9
    CHECK(gaps_alone(vllm(4), 3, together) == Gaps{2});         // 1, 3
    CHECK(gaps_alone(vllm(4), 1, together).empty());
    CHECK(gaps_alone(vllm(2), 6, together) == Gaps{1, 2, 2});
    CHECK(gaps_alone(vllm(1000), 20, together) == Gaps{19});
  }
}

// scheduler_components/output_streamer.py, accept: num_unsent >= stream_interval, or the first, or finished.
TEST_CASE("SGLang: the same tokens as vLLM") {
  for (const bool together : {false, true}) CHECK(gaps_alone(sglang(4), 10, together) == Gaps{1, 4, 4});
}

// pyexecutor/py_executor.py, _handle_responses: py_decoding_iter == 1, is_finished, or % stream_interval ==
// 0.
TEST_CASE("TensorRT-LLM: the first token, the multiples of N, the last") {
  for (const bool together : {false, true}) {
    CHECK(gaps_alone(tensorrt_llm(4), 10, together) == Gaps{2, 3, 4});  // tokens 1, 4, 8, 10
    CHECK(gaps_alone(tensorrt_llm(4), 8, together) == Gaps{3, 4});      // 1, 4, 8
    CHECK(gaps_alone(tensorrt_llm(4), 3, together) == Gaps{2});
    CHECK(gaps_alone(tensorrt_llm(2), 5, together) == Gaps{1, 1, 2});  // 1, 2, 4, 5
  }
}

// A step brings a token and the drafts that were accepted. vLLM and SGLang count tokens, TensorRT-LLM steps.
TEST_CASE("with drafts an event waits for N unsent tokens, or for the N-th iteration") {
  const std::vector<std::int32_t> tokens{1, 3, 1, 2, 4, 1, 1};
  // Unsent after each step: 1 sent; 3; 4 sent; 2; 6 sent; 1; 2, the last.
  CHECK(gaps_with_drafts(vllm(4), tokens) == Gaps{2, 2, 2});
  CHECK(gaps_with_drafts(sglang(4), tokens) == Gaps{2, 2, 2});
  CHECK(gaps_with_drafts(sglang(3), tokens) == Gaps{1, 2, 1, 2});  // 1; 3; 3 of two steps; 4; the last
  CHECK(gaps_with_drafts(tensorrt_llm(4), tokens) == Gaps{3, 3});  // iterations 1, 4, the last
}

TEST_CASE("tokens of a client that leaves are those of whole events") {
  CHECK(vllm(4).sent_of(1) == 1);
  CHECK(vllm(4).sent_of(4) == 1);
  CHECK(vllm(4).sent_of(5) == 5);
  CHECK(vllm(4).sent_of(12) == 9);
  CHECK(tensorrt_llm(4).sent_of(3) == 1);
  CHECK(tensorrt_llm(4).sent_of(4) == 4);
  CHECK(tensorrt_llm(4).sent_of(11) == 8);
}

// --------------------------------------------------------------------------------------------- a plain model

// Sequences of two lanes that join, rest, stall and end at random, in outcomes of several updates. The model
// keeps every token's time and walks it by the rule.
struct PlainStream {
  std::vector<SimTime> tokens;
  bool live = false, runs = false, leaves = false;
};

Gaps walk(const StreamRule& rule, const PlainStream& s) {
  Gaps gaps;
  std::int64_t sent = 0;
  SimTime at;
  for (std::size_t i = 0; i < s.tokens.size(); ++i) {
    const auto token = static_cast<std::int64_t>(i + 1);
    const bool every = rule.by_iterations ? token % rule.interval == 0 : token - sent >= rule.interval;
    if (sent > 0 && !every && i + 1 < s.tokens.size()) continue;
    if (sent > 0) gaps.push_back((s.tokens[i] - at).ns());
    sent = token;
    at = s.tokens[i];
  }
  std::sort(gaps.begin(), gaps.end());
  return gaps;
}

class Play {
 public:
  Play(const StreamRule& rule, std::uint64_t seed)
      : rule_(rule), r_(seed, RandomPurpose::property_test, 41), events_(rule, lanes, true),
        collector_(Slo{}, nullptr) {}

  void run() {
    for (int round = 0; round < 300; ++round) {
      begin_outcome();
      for (std::size_t slot = 0; slot < slots; ++slot) live(slot);
      StepOutcome outcome;
      outcome.first = StepId(step_);
      outcome.updates = at_;
      step_ += at_.size();
      events_.take(outcome, effects_, nullptr, collector_);
      settle();
    }
    CHECK(gaps_ > 100);
    // What the collector has more are the events of those that still run.
    const RunResult result = collector_.finish(1);
    CHECK(result.itl.count >= gaps_);
    CHECK(result.itl.mean * static_cast<double>(result.itl.count) >= sum_ * (1 - 1e-9));
  }

 private:
  static constexpr std::size_t slots = 12, lanes = 2;

  void begin_outcome() {
    const std::size_t updates = r_.below(3) == 0 ? 1 + r_.below(40) : 1;
    at_.clear();
    for (std::size_t i = 0; i < updates; ++i)
      at_.emplace_back(now_ += 1 + static_cast<std::int64_t>(r_.below(1000)));
    effects_.clear();
    effects_.regular_decodes.assign(lanes * updates, 0);
    effects_.stalled.assign(lanes * updates, false);
    for (std::size_t lane = 0; lane < lanes; ++lane) {
      stalls_[lane] = updates == 1 && r_.below(6) == 0;
      for (std::size_t i = 0; i < updates; ++i) effects_.stalled[lane * updates + i] = stalls_[lane];
    }
  }

  void live(std::size_t slot) {
    PlainStream& s = streams_[slot];
    const SequenceId id(static_cast<std::uint32_t>(slot));
    const std::size_t lane = slot % lanes, updates = at_.size();
    if (!s.live) {
      if (r_.below(4) != 0) return;
      s.live = true;
      events_.open(id);
      s.runs = !stalls_[lane] && r_.below(3) != 0;
      effects_.first_tokens.push_back({.sequence = id, .request = RequestId(slot), .apart = !s.runs});
      s.tokens.push_back(at_[0]);
      if (s.runs) s.tokens.insert(s.tokens.end(), at_.begin() + 1, at_.end());
    } else if (s.runs && !stalls_[lane]) {
      for (std::size_t i = 0; i < updates; ++i) ++effects_.regular_decodes[lane * updates + i];
      s.tokens.insert(s.tokens.end(), at_.begin(), at_.end());
    } else if (!s.runs && !stalls_[lane] && r_.below(3) == 0) {
      effects_.irregular.push_back({.sequence = id, .update = 0});
      s.tokens.insert(s.tokens.end(), at_.begin(), at_.end());
      s.runs = true;
    }
    if (s.tokens.back() == at_.back() && r_.below(10) == 0) {
      effects_.finished.push_back({.sequence = id,
                                   .request = RequestId(slot),
                                   .output_tokens = static_cast<std::int32_t>(s.tokens.size()),
                                   .update = updates - 1});
    } else if (s.runs && r_.below(8) == 0) {
      // Known before the outcome, as when it is preempted with its token in flight.
      events_.leaves_after(id, static_cast<std::int64_t>(step_ + updates - 1), false);
      s.leaves = true;
    }
  }

  void settle() {
    for (std::size_t slot = 0; slot < slots; ++slot) {
      PlainStream& s = streams_[slot];
      if (std::exchange(s.leaves, false)) s.runs = false;
      if (!s.runs || r_.below(20) != 0) continue;
      events_.leaves_now(SequenceId(static_cast<std::uint32_t>(slot)));  // its token in flight is thrown away
      s.runs = false;
    }
    for (const Finished& f : effects_.finished) {
      Gaps got = events_.gaps(f.sequence);
      std::sort(got.begin(), got.end());
      const Gaps expected = walk(rule_, streams_[f.sequence.value()]);
      REQUIRE(got == expected);
      gaps_ += expected.size();
      for (const std::int64_t gap : expected) sum_ += static_cast<double>(gap);
      streams_[f.sequence.value()] = {};
    }
  }

  StreamRule rule_;
  RandomStream r_;
  StreamEvents events_;
  RunCollector collector_;
  std::array<PlainStream, slots> streams_;
  bool stalls_[lanes] = {};
  std::vector<SimTime> at_;
  UpdateEffects effects_;
  std::uint64_t step_ = 0, gaps_ = 0;
  double sum_ = 0;
  std::int64_t now_ = 0;
};

TEST_CASE("a plain model that keeps every token finds the same gaps") {
  for (std::uint64_t seed = 1; seed <= (sanitized ? 6 : 30); ++seed) {
    for (const std::int32_t interval : {2, 3, 7, 50}) {
      CAPTURE(seed, interval);
      Play(vllm(interval), seed).run();
      Play(tensorrt_llm(interval), seed).run();
    }
  }
}

// ------------------------------------------------------------------------------------------------ whole
// worlds

RandomWorld priority_world(std::uint64_t seed) {
  RandomWorld out = world::random_world(seed);
  out.world.config.by_priority = true;
  return out;
}

RandomWorld vllm_speculating_world(std::uint64_t seed) {
  RandomWorld out = world::random_world(seed);
  RandomStream r(seed, RandomPurpose::property_test, 42);
  world::speculate(out.world, r);
  return out;
}

// Who decides on drafts outlives the world that is handed out.
RandomWorld tensorrt_llm_speculating_world(std::uint64_t seed) {
  static std::deque<world::FeaturedWorld> kept;
  kept.push_back(world::tensorrt_llm_featured_world(seed));
  return kept.back().random;
}

constexpr std::array engines{world::random_world,
                             priority_world,
                             vllm_speculating_world,
                             world::random_sglang_world,
                             world::random_sglang_features,
                             world::random_rank_world,
                             world::tensorrt_llm_world,
                             world::tensorrt_llm_tier_world,
                             world::tensorrt_llm_windows_world,
                             tensorrt_llm_speculating_world};

StreamRule rule_of(const world::World& w, std::int32_t interval) {
  const std::string_view name = w.scheduler;
  return name == "vllm-v1" ? vllm(interval) : name == "sglang" ? sglang(interval) : tensorrt_llm(interval);
}

std::int64_t events_of(const StreamRule& rule, std::int64_t outputs) {
  std::int64_t events = 0;
  for (std::int64_t sent = 0; sent < outputs; ++events) sent = std::min(outputs, rule.next(sent));
  return events;
}

FrontEndConfig front_end() {
  return {.processes = 2,
          .tokenizer_beside_loop = true,
          .request = SimDuration(200'000),
          .message = SimDuration(20'000),
          .tokenize_ps = 3'000'000,
          .detokenize_ps = 1'000'000,
          .output_ps = 29'000'000,
          .event_ps = 60'000'000};
}

double sum_of(const Distribution& d) { return d.mean * static_cast<double>(d.count); }

TEST_CASE("an interval moves events and nothing else: steps, tokens, TTFT, E2E and the sum of gaps stay") {
  std::uint64_t compared = 0;
  for (std::uint64_t seed = 0; seed < seeds; ++seed) {
    for (const auto make : engines) {
      RandomWorld w = make(seed);
      world::Records one, many;
      w.world.sink = &one;
      w.world.itl = true;
      const RunResult at_once = world::run(w.world, w.requests);
      for (const std::int32_t interval : {2, 7, 100'000}) {
        many = {};
        w.world.sink = &many;
        w.world.stream = rule_of(w.world, interval);
        const RunResult held = world::run(w.world, w.requests);
        CAPTURE(seed, w.world.scheduler, interval);
        REQUIRE(held.digest == at_once.digest);
        REQUIRE(held.steps == at_once.steps);
        CHECK(held.ttft.mean == at_once.ttft.mean);
        CHECK(held.e2e.mean == at_once.e2e.mean);
        CHECK(held.tpot.mean == at_once.tpot.mean);
        if (held.failed + held.rejected > 0) continue;  // what they had been sent stands in no record
        CHECK(sum_of(held.itl) == Approx(sum_of(at_once.itl)).epsilon(1e-9));
        std::int64_t gaps = 0, longest = -1;
        for (std::size_t i = 0; i < many.all.size(); ++i) {
          const RequestRecord& r = many.all[i];
          if (r.output_tokens > 0) gaps += events_of(w.world.stream, r.output_tokens) - 1;
          longest = std::max(longest, r.itl_max);
          CHECK(r.itl_max >= one.all[i].itl_max);
        }
        if (w.world.acceptance == nullptr) CHECK(static_cast<std::int64_t>(held.itl.count) == gaps);
        if (held.itl.count > 0 && held.itl.exact) CHECK(held.itl.max == longest);
        ++compared;
      }
    }
  }
  CHECK(compared > 15 * seeds);
}

TEST_CASE("held tokens: stretches, ties and single steps send the same events at the same nanosecond") {
  std::uint64_t stretches = 0;
  for (std::uint64_t seed = 0; seed < seeds; ++seed) {
    for (const auto make : engines) {
      RandomWorld w = make(seed);
      w.world.stream = rule_of(w.world, static_cast<std::int32_t>(2 + seed % 9));
      if (seed % 2 == 0) w.world.front_end = front_end();
      w.world.itl = true;
      world::Records together, alone;
      w.world.sink = &together;
      const RunResult stretched = world::run(w.world, w.requests);
      w.world.sink = nullptr;
      CAPTURE(seed, w.world.scheduler);
      CHECK(world::run(w.world, w.requests, 17 + seed).digest == stretched.digest);
      w.world.config.stretches = false;
      w.world.sink = &alone;
      const RunResult single = world::run(w.world, w.requests);
      REQUIRE(single.digest == stretched.digest);
      CHECK(single.itl.count == stretched.itl.count);
      CHECK(single.itl.mean == stretched.itl.mean);
      CHECK(single.itl.p99 == stretched.itl.p99);
      stretches += stretched.stretches;
      for (std::size_t i = 0; i < alone.all.size(); ++i) {
        REQUIRE(alone.all[i].e2e == together.all[i].e2e);
        REQUIRE(alone.all[i].itl_p50 == together.all[i].itl_p50);
        REQUIRE(alone.all[i].itl_max == together.all[i].itl_max);
      }
    }
  }
  CHECK(stretches > seeds);
}

TEST_CASE("who goes away has the tokens of the events that came before") {
  std::uint64_t partial = 0;
  for (std::uint64_t seed = 0; seed < seeds; ++seed) {
    for (const auto make : engines) {
      RandomWorld w = make(seed);
      RandomStream r(seed, RandomPurpose::property_test, 99);
      for (TraceRequest& q : w.requests) {
        if (r.below(3) == 0) q.cancel_after = duration_from_seconds(0.001 + 2 * r.uniform() * r.uniform());
      }
      if (seed % 2 == 1) w.world.front_end = front_end();
      w.world.stream = rule_of(w.world, static_cast<std::int32_t>(2 + seed % 5));
      world::Records records;
      w.world.sink = &records;
      const RunResult together = world::run(w.world, w.requests);
      w.world.sink = nullptr;
      w.world.config.stretches = false;
      CAPTURE(seed, w.world.scheduler);
      CHECK(world::run(w.world, w.requests).digest == together.digest);
      for (const RequestRecord& record : records.all) {
        if (record.status != RequestStatus::cancelled || record.output_tokens < 2) continue;
        ++partial;
        if (w.world.acceptance != nullptr) continue;
        CHECK(w.world.stream.sent_of(record.output_tokens) == record.output_tokens);
      }
    }
  }
  CHECK(partial > seeds);
}

// ------------------------------------------------------------------------------------------------- front end

TEST_CASE("what the API server does for a held token: vLLM detokenises it, the others do not see it") {
  // 8 sequences, tokens 1 to 9 of each, all in step: events with tokens 1, 5 and 9.
  const auto work = [](const StreamRule& rule) {
    StreamEvents events(rule, 1, false);
    RunCollector collector(Slo{}, nullptr);
    FrontEndConfig config;
    config.message = SimDuration(50'000);
    config.detokenize_ps = 1'000'000;
    config.output_ps = 29'000'000;
    config.event_ps = 35'000'000;
    FrontEnd front_end(config);
    for (std::uint32_t i = 0; i < 8; ++i) events.open(SequenceId(i));
    for (std::uint64_t step = 0; step < 9; ++step) {
      const SimTime at(static_cast<std::int64_t>(step) * 1'000'000'000);
      StepOutcome outcome;
      outcome.first = StepId(step);
      outcome.updates = {&at, 1};
      UpdateEffects effects;
      effects.regular_decodes = {step == 0 ? 0 : 8};
      for (std::uint32_t i = 0; i < 8; ++i) {
        if (step == 0) effects.first_tokens.push_back({.sequence = SequenceId(i), .request = RequestId(i)});
        if (step == 8)
          effects.finished.push_back(
              {.sequence = SequenceId(i), .request = RequestId(i), .output_tokens = 9});
      }
      events.take(outcome, effects, &front_end, collector);
    }
    return front_end.loop_work().ns();
  };
  CHECK(work(vllm(4)) == 9 * 50'000 + 72 * 30'000 + 24 * 35'000);
  CHECK(work(sglang(4)) == 3 * 50'000 + 72 * 1'000 + 24 * 64'000);
  // TensorRT-LLM: tokens 1, 4, 8 and 9.
  CHECK(work(tensorrt_llm(4)) == 4 * 50'000 + 72 * 1'000 + 32 * 64'000);
}

TEST_CASE("a loop that could not keep up with every token keeps up with every tenth") {
  world::World w;
  std::vector<TraceRequest> requests;
  for (std::uint64_t i = 0; i < 100; ++i) requests.push_back(world::request(i, 0, 16, 301));
  const RunResult beside = world::run(w, requests);
  w.front_end = front_end();
  w.front_end->processes = 1;
  w.front_end->event_ps = 300'000'000;
  const RunResult every = world::run(w, requests);
  w.stream = sglang(10);
  const RunResult tenth = world::run(w, requests);
  CHECK(every.e2e.p50 > 2 * beside.e2e.p50);
  CHECK(static_cast<double>(tenth.e2e.p50) < 1.1 * static_cast<double>(beside.e2e.p50));
  // Ten tokens an event: the gap is ten steps long.
  CHECK(static_cast<double>(tenth.itl.p50) == Approx(10 * static_cast<double>(beside.itl.p50)).epsilon(0.05));
}

}  // namespace
}  // namespace orrery
