// A tape at work: the seams' wrappers (live/taped_seams.h) ask it for every answer, and it either asks the
// seam behind them and writes down what it said, or reads what was said in the recorded run. What the loop
// tells the seams goes into a digest that each frame ends with, so that a run that decides otherwise is found
// at the next reading of the clock, before it is given another answer.
#pragma once

#include <string>

#include "base/digest.h"
#include "live/tape_codec.h"
#include "live/tape_file.h"

namespace orrery {

class SeamTape {
 public:
  static SeamTape recording(TapeWriter& writer) { return SeamTape(&writer, nullptr); }
  static SeamTape playing(TapeReader& reader) { return SeamTape(nullptr, &reader); }

  bool plays() const { return reader_ != nullptr; }
  // `ask` is called when recording only. `otherwise`: when the tape has no such answer, and the run is given
  // up.
  template <class T, class Ask>
  T answer(TapeWord word, T otherwise, Ask ask) {
    if (plays()) {
      if (!expect(word)) return otherwise;
      T value = otherwise;
      TapeCodec<TapeIn>(in_, now_).item(value);
      return readable() ? value : otherwise;
    }
    T value = ask();
    out_.word(word);
    TapeCodec<TapeOut>(out_, now_).item(value);
    return value;
  }
  // Of what is mostly nothing: an empty list is not on the tape.
  template <class T, class Ask>
  void append(TapeWord word, std::vector<T>& to, Ask ask) {
    std::vector<T> values;
    if (plays()) {
      if (given_up() || !in_.take(word)) return;
      TapeCodec<TapeIn>(in_, now_).list(values);
      if (!readable()) return;
    } else {
      ask(values);
      if (values.empty()) return;
      out_.word(word);
      TapeCodec<TapeOut>(out_, now_).list(values);
    }
    for (T& value : values) to.push_back(std::move(value));
  }
  void record_outcomes(const Outcomes& outcomes);
  void play_outcomes(Outcomes& outcomes);
  template <class... T>
  void tell(T... values) {
    (told_.add(static_cast<std::uint64_t>(values)), ...);
  }
  // The clock's next reading; `wait` asks the clock when recording.
  template <class Wait>
  SimTime reading(SimTime due, Wait wait) {
    if (plays()) return next_reading(due);
    write_frame();
    const SimTime now = wait(due);
    open_frame(now);
    return now;
  }
  // Playing: whether the next thing that the tape says comes from the inbox; whether the run goes on.
  bool arrivals_come() const {
    return !given_up() && (in_.next_is(TapeWord::arrivals) || in_.next_is(TapeWord::departures));
  }
  bool goes_on() const;
  SimTime now() const { return now_; }
  std::uint64_t readings() const { return readings_; }

  void close();  // recording: the last frame
  // Playing, and the loop has returned.
  bool given_up() const { return damaged_ || differs_; }
  bool damaged() const { return damaged_; }
  const std::string& why() const { return why_; }
  std::string last_step() const;  // the last one that the tape and the run agree upon
  bool over();                    // all of the tape was asked for

 private:
  SeamTape(TapeWriter* writer, TapeReader* reader) : writer_(writer), reader_(reader) { load(); }
  void write_frame();
  void open_frame(SimTime now);
  void load();
  SimTime next_reading(SimTime due);
  bool end_frame();
  bool expect(TapeWord word);
  bool readable();
  void differ(std::string why);
  std::uint32_t told() const { return static_cast<std::uint32_t>(told_.value() ^ told_.value() >> 32); }

  TapeWriter* writer_;
  TapeReader* reader_;
  TapeOut out_;
  TapeIn in_;
  Digest told_;
  SimTime now_;
  std::uint64_t readings_ = 0;
  std::vector<TapedOutcome> outcomes_;  // that the loop's spans show
  bool damaged_ = false, differs_ = false, ended_ = false;
  std::string why_;
  struct {
    InstanceId instance = InstanceId::none();
    std::uint64_t step = 0;
    SimTime at;
  } last_;
};

}  // namespace orrery
