#include "live/seam_tape.h"

namespace orrery {

void SeamTape::record_outcomes(const Outcomes& outcomes) {
  if (outcomes.empty()) return;
  out_.word(TapeWord::outcomes);
  TapeCodec<TapeOut> codec(out_, now_);
  std::vector<HostFree> free = outcomes.host_free;
  std::vector<TransferDone> transfers = outcomes.transfers;
  outcomes_.clear();
  for (const StepOutcome& o : outcomes.steps)
    outcomes_.push_back({o,
                         {o.updates.begin(), o.updates.end()},
                         {o.eos.begin(), o.eos.end()},
                         {o.spoken.begin(), o.spoken.end()}});
  codec.list(free);
  codec.list(outcomes_);
  codec.list(transfers);
}

void SeamTape::play_outcomes(Outcomes& outcomes) {
  if (given_up() || !in_.take(TapeWord::outcomes)) return;
  TapeCodec<TapeIn> codec(in_, now_);
  std::vector<HostFree> free;
  std::vector<TransferDone> transfers;
  codec.list(free);
  codec.list(outcomes_);
  codec.list(transfers);
  if (!readable()) return;
  for (TapedOutcome& o : outcomes_) {
    if (o.updates.empty()) return differ("an outcome on the tape has no step");
    o.show();
    outcomes.steps.push_back(o.outcome);
    last_ = {o.outcome.instance, o.outcome.first.value() + o.updates.size() - 1, o.outcome.at};
  }
  outcomes.host_free.insert(outcomes.host_free.end(), free.begin(), free.end());
  outcomes.transfers.insert(outcomes.transfers.end(), transfers.begin(), transfers.end());
}

void SeamTape::write_frame() {
  out_.word(TapeWord::told);
  out_.number(told());
  writer_->frame(out_.bytes());
  out_.clear();
}

void SeamTape::open_frame(SimTime now) {
  std::int64_t passed = (now - now_).ns();
  out_.word(TapeWord::reading);
  out_.integer(passed);
  now_ = now;
  ++readings_;
}

void SeamTape::close() { write_frame(); }

void SeamTape::load() {
  if (!plays()) return;
  std::string_view frame;
  switch (reader_->next(frame)) {
    case TapeReader::Found::frame: in_ = TapeIn(frame); break;
    case TapeReader::Found::end: ended_ = true; break;
    case TapeReader::Found::damaged:
      damaged_ = true;
      why_ = reader_->damage();
      break;
  }
}

bool SeamTape::end_frame() {
  if (!in_.take(TapeWord::told)) {
    differ("the recorded run was given an answer that this one did not ask for");
    return false;
  }
  if (in_.number() != told()) differ("the loop decided otherwise than in the recorded run");
  return !given_up();
}

SimTime SeamTape::next_reading(SimTime due) {
  if (given_up() || !end_frame()) return due;
  load();
  if (ended_) differ("the recorded run ended here, and this one goes on");
  if (given_up() || !expect(TapeWord::reading)) return due;
  std::int64_t passed = 0;
  in_.integer(passed);
  if (!readable() || passed < 0) return due;
  now_ = now_ + SimDuration(passed);
  ++readings_;
  return now_;
}

// Asked behind the last answer of a frame: whether another reading follows.
bool SeamTape::goes_on() const { return !given_up() && !ended_ && !reader_->at_end(); }

bool SeamTape::expect(TapeWord word) {
  if (given_up()) return false;
  if (!in_.take(word)) differ("this run asks for an answer that the recorded one did not need");
  return !given_up();
}

bool SeamTape::readable() {
  if (in_.failed()) differ("an answer on the tape cannot be read");
  return !given_up();
}

void SeamTape::differ(std::string why) {
  if (given_up()) return;
  differs_ = true;
  why_ = std::move(why);
}

bool SeamTape::over() {
  if (given_up()) return false;
  if (!end_frame()) return false;
  load();
  if (!ended_ && !damaged_) differ("this run ended, and the recorded one goes on");
  return ended_;
}

std::string SeamTape::last_step() const {
  std::string text =
      "reading " + std::to_string(readings_) + " of the clock, " + std::to_string(now_.seconds()) + " s; ";
  if (last_.instance.is_none()) return text + "no step had ended";
  return text + "last good step: " + std::to_string(last_.step) + " of instance " +
         std::to_string(last_.instance.value()) + ", which ended at " + std::to_string(last_.at.seconds()) +
         " s";
}

}  // namespace orrery
