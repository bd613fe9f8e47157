#include "sim/stream_events.h"

#include <algorithm>

#include "base/mutation.h"
#include "sim/collector.h"

namespace orrery {

std::int64_t StreamRule::next(std::int64_t sent) const {
  if (sent == 0) return 1;
  return by_iterations ? (sent / interval + 1) * interval : sent + interval;
}

std::int64_t StreamRule::sent_of(std::int64_t outputs) const {
  if (outputs <= 1) return outputs;
  if (by_iterations) return std::max<std::int64_t>(1, outputs / interval * interval);
  return 1 + (outputs - 1) / interval * interval;
}

StreamEvents::StreamEvents(const StreamRule& rule, std::size_t lanes, bool per_request)
    : rule_(rule), per_request_(per_request), lanes_(lanes) {
  for (Lane& lane : lanes_) lane.steady.assign(static_cast<std::size_t>(rule_.interval), 0);
}

// ------------------------------------------------------------------------------------------------ membership

void StreamEvents::open(SequenceId sequence) {
  if (sequence.value() >= streams_.size()) streams_.resize(sequence.value() + 1);
  Stream& s = stream(sequence);
  ORRERY_CHECK(!s.runs, "a slot is given back before it is given away");
  const std::uint32_t epoch = s.epoch + 1;
  s = Stream{};
  s.epoch = epoch;
  s.lane = static_cast<std::uint32_t>(sequence.value() % lanes_.size());
}

void StreamEvents::leaves_after(SequenceId sequence, std::int64_t step, bool settled) {
  if (settled)
    leave(sequence);
  else
    leaving_.push_back({sequence, step});
}

void StreamEvents::close(SequenceId sequence) {
  leave(sequence);
  std::erase_if(leaving_, [&](const Leaving& l) { return l.sequence == sequence; });
}

// The token of its lane's last decode is its last for now.
void StreamEvents::leave(SequenceId sequence) {
  Stream& s = stream(sequence);
  if (!s.runs) return;
  Lane& lane = lane_of(sequence);
  const std::int64_t now = lane.decodes - 1;
  s.outputs += now - s.since;
  s.runs = false;
  ++s.epoch;
  if (!s.steady) return;
  const std::int64_t last = last_event(s, now);
  s.sent = s.outputs - (now - last);
  s.event_at = lane.time(last);
  if (per_request_) {
    for (std::int64_t e = s.event + rule_.interval; e <= last; e += rule_.interval)
      s.gaps.push_back((lane.time(e) - lane.time(e - rule_.interval)).ns());
  }
  --lane.steady[residue(s.event)];
  s.steady = false;
}

// It was just given a token, with its lane's last decode; from now on it is given one with every decode.
void StreamEvents::join(SequenceId sequence) {
  Stream& s = stream(sequence);
  Lane& lane = lane_of(sequence);
  s.runs = true;
  s.since = lane.decodes - 1;
  const std::int64_t ahead = rule_.next(rule_.by_iterations ? s.outputs : s.sent) - s.outputs;
  if (s.sent == s.outputs && ahead == rule_.interval) {
    s.steady = true;
    s.event = s.since;
    ++lane.steady[residue(s.event)];
    return;
  }
  lane.joining.push({.step = s.since + ahead,
                     .order = static_cast<std::int64_t>(sequence.value()),
                     .slot = static_cast<std::uint32_t>(sequence.value()),
                     .epoch = s.epoch});
}

// -------------------------------------------------------------------------------------------------- outcomes

std::span<const SimTime> StreamEvents::take(const StepOutcome& outcome, const UpdateEffects& effects,
                                            FrontEnd* front_end, RunCollector& collector) {
  const std::size_t updates = outcome.updates.size();
  told_.clear();
  for (std::size_t i = 0; i < updates; ++i) {
    outputs_ = {};
    together_.clear();
    due_.clear();
    decoded_.clear();
    for (std::size_t lane = 0; lane < lanes_.size(); ++lane) {
      outputs_.sequences += effects.regular_decodes[lane * updates + i];
      if (rule_.speculates || effects.was_stalled(lane * updates + i)) continue;
      decoded_.push_back(lane);
      decode(lanes_[lane]);
    }
    take_words(effects, i);
    const bool last = i + 1 == updates;
    if (last) {
      for (const Finished& f : effects.finished) flush(f);
    }
    if (ORRERY_MUTANT(stretch_sends_every_token) && updates > 1) outputs_.events = outputs_.sequences;
    told_.push_back(send(outcome.updates[i], front_end));
    note(told_.back(), collector);
    const auto step = static_cast<std::int64_t>(outcome.first.value() + i);
    if (!leaving_.empty()) {
      for (const Leaving& l : leaving_) {
        if (l.step <= step) leave(l.sequence);
      }
      std::erase_if(leaving_, [&](const Leaving& l) { return l.step <= step; });
    }
    if (last) {
      for (const Finished& f : effects.finished) close(f.sequence);
    }
  }
  for (std::size_t lane = 0; lane < lanes_.size(); ++lane) trim(lane);
  return told_;
}

void StreamEvents::decode(Lane& lane) {
  const std::int64_t now = lane.decodes++;
  std::int64_t& steady = lane.steady[residue(now)];
  if (steady > 0) {
    together_.push_back({lane.time(now - rule_.interval), static_cast<std::uint64_t>(steady)});
    outputs_.events += steady;
    outputs_.tokens += steady * rule_.interval;
  }
  const auto stale = [&](const DecodeEnds::End& e) { return streams_[e.slot].epoch != e.epoch; };
  while (const auto next = lane.joining.take_before(now + 1, stale)) {
    Stream& s = streams_[next->slot];
    tell(SequenceId(next->slot), s.event_at, s.sent, s.outputs + now - s.since);
    s.steady = true;
    s.event = now;
    ++steady;
  }
}

// Tokens that come alone: first ones, those behind a break, and all with drafts.
void StreamEvents::take_words(const UpdateEffects& effects, std::size_t update) {
  for (const FirstToken& token : effects.first_tokens) {
    if (token.update != update) continue;
    ++outputs_.sequences;
    say(token.sequence, 1);
    if (!rule_.speculates && !token.apart) join(token.sequence);
  }
  for (const Irregular& token : effects.irregular) {
    if (token.update != update) continue;
    ++outputs_.sequences;
    if (rule_.speculates) continue;  // stands in `said`
    say(token.sequence, 1);
    if (!token.apart) join(token.sequence);  // else each token comes by itself, the next one too
  }
  for (const Said& said : effects.said) say(said.sequence, said.tokens);
  if (!rule_.held_by_core) outputs_.tokens = outputs_.sequences + effects.further_tokens;
}

void StreamEvents::say(SequenceId sequence, std::int64_t tokens) {
  Stream& s = stream(sequence);
  ORRERY_CHECK(!s.runs, "a token that comes alone is nobody's who decodes with the others");
  s.outputs += tokens;
  ++s.iterations;
  const std::int64_t iterations = rule_.speculates ? s.iterations : s.outputs;
  const bool due = s.sent == 0 || (rule_.by_iterations ? iterations % rule_.interval == 0
                                                       : s.outputs - s.sent >= rule_.interval);
  if (!due) return;
  tell(sequence, s.event_at, s.sent, s.outputs);
  s.sent = s.outputs;
}

void StreamEvents::tell(SequenceId sequence, SimTime since, std::int64_t sent, std::int64_t outputs) {
  due_.push_back({sequence, since, outputs, sent == 0});
  ++outputs_.events;
  if (rule_.held_by_core) outputs_.tokens += outputs - sent;
}

// What the last token finds unsent goes with it.
void StreamEvents::flush(const Finished& f) {
  const Stream& s = stream(f.sequence);
  const Lane& lane = lane_of(f.sequence);
  const std::int64_t now = lane.decodes - 1;
  const std::int64_t outputs = s.runs ? s.outputs + now - s.since : s.outputs;
  ORRERY_CHECK(s.gone || outputs == f.output_tokens, "the tokens that clients are told are all there are");
  if (s.gone) return;
  const std::int64_t last = s.steady ? last_event(s, now) : 0;
  const std::int64_t sent = s.steady ? outputs - (now - last) : s.sent;
  if (sent < outputs) tell(f.sequence, s.steady ? lane.time(last) : s.event_at, sent, outputs);
}

SimTime StreamEvents::send(SimTime update, FrontEnd* front_end) {
  if (front_end == nullptr) return update;
  if (rule_.held_by_core) outputs_.sequences = outputs_.events;
  const SimTime told = front_end->deliver(update, outputs_);
  last_told_ = later(told, last_told_);
  return last_told_;
}

void StreamEvents::note(SimTime told, RunCollector& collector) {
  for (const std::size_t lane : decoded_) lanes_[lane].times.push_back(told);
  for (const Together& t : together_) collector.gap((told - t.since).ns(), t.count, told);
  for (const Due& due : due_) {
    Stream& s = stream(due.sequence);
    s.event_at = told;
    if (rule_.speculates) s.history.push_back({told, due.tokens});
    if (due.first) continue;
    const std::int64_t gap = (told - due.since).ns();
    collector.gap(gap, 1, told);
    if (per_request_) s.gaps.push_back(gap);
  }
}

std::int32_t StreamEvents::sent_by(SequenceId sequence, SimTime at, std::int32_t outputs) const {
  if (!rule_.speculates) return static_cast<std::int32_t>(rule_.sent_of(outputs));
  std::int64_t sent = 1;
  for (const Stream::Sent& s : streams_[sequence.value()].history) {
    if (s.at <= at) sent = s.tokens;
  }
  return static_cast<std::int32_t>(sent);
}

// Drops times that no sequence can still ask for; amortised over a doubling.
void StreamEvents::trim(std::size_t index) {
  Lane& lane = lanes_[index];
  if (lane.times.size() < lane.trim_at) return;
  std::int64_t oldest = std::max(lane.first_time, lane.decodes - rule_.interval);
  if (per_request_) {
    for (const Stream& s : streams_) {
      if (s.steady && s.lane == index) oldest = std::min(oldest, s.event);
    }
  }
  lane.times.erase(lane.times.begin(), lane.times.begin() + (oldest - lane.first_time));
  lane.first_time = oldest;
  lane.trim_at = std::max<std::size_t>(4096, 2 * lane.times.size());
}

}  // namespace orrery
