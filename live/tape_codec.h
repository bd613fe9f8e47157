// The words of a tape: what passes the three seams, written and read by one description each, so that the two
// cannot drift apart. Numbers are variable-length; instants are differences to the one before.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "sim/executor.h"
#include "sim/inbox.h"
#include "sim/kv_transport.h"

namespace orrery {

// What one answer of a seam, or an end of one frame, begins with. Append, never renumber.
enum class TapeWord : std::uint8_t {
  reading = 1,  // of the clock
  outcomes,
  arrivals,
  depth,
  output_delay,
  output_per_sequence,
  launch_held,
  device_span,
  posting,
  pulls,
  loaded,
  load_stuck,
  told,  // ends a frame: digest of what the loop told the seams
  end,   // the run is over
  departures,
  client_reads,
};

class TapeOut {
 public:
  static constexpr bool reads = false;
  void word(TapeWord word) { bytes_.push_back(static_cast<char>(word)); }
  void number(std::uint64_t v) {
    for (; v >= 0x80; v >>= 7) bytes_.push_back(static_cast<char>(v | 0x80));
    bytes_.push_back(static_cast<char>(v));
  }
  template <class T>
  void integer(T& v) {
    if constexpr (std::is_unsigned_v<T>)
      number(v);
    else
      number((static_cast<std::uint64_t>(v) << 1) ^ static_cast<std::uint64_t>(std::int64_t{v} >> 63));
  }
  const std::string& bytes() const { return bytes_; }
  void clear() { bytes_.clear(); }

 private:
  std::string bytes_;
};

// Of one frame, whose checksum was right; what it says may still be nonsense, which ends in failed().
class TapeIn {
 public:
  static constexpr bool reads = true;
  explicit TapeIn(std::string_view bytes = {}) : left_(bytes) {}
  bool empty() const { return left_.empty(); }
  bool failed() const { return failed_; }
  bool next_is(TapeWord word) const { return !left_.empty() && left_.front() == static_cast<char>(word); }
  // False, and nothing is taken, when another one comes next.
  bool take(TapeWord word) {
    if (!next_is(word)) return false;
    left_.remove_prefix(1);
    return true;
  }
  std::uint64_t number() {
    std::uint64_t v = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      if (left_.empty()) break;
      const auto byte = static_cast<unsigned char>(left_.front());
      left_.remove_prefix(1);
      v |= std::uint64_t{byte & 0x7Fu} << shift;
      if (byte < 0x80) return v;
    }
    failed_ = true;
    return 0;
  }
  template <class T>
  void integer(T& v) {
    const std::uint64_t n = number();
    if constexpr (std::is_unsigned_v<T>)
      v = static_cast<T>(n);
    else
      v = static_cast<T>(static_cast<std::int64_t>(n >> 1) ^ -static_cast<std::int64_t>(n & 1));
  }
  // Entries that a frame of this size can hold; each takes a byte at least.
  std::size_t count() {
    const std::uint64_t n = number();
    if (n > left_.size()) failed_ = true;
    return failed_ ? 0 : static_cast<std::size_t>(n);
  }

 private:
  std::string_view left_;
  bool failed_ = false;
};

// A step outcome that owns what its spans show.
struct TapedOutcome {
  StepOutcome outcome;
  std::vector<SimTime> updates;
  std::vector<SequenceId> eos;
  std::vector<SpokenTokens> spoken;
  void show() {
    outcome.updates = updates;
    outcome.eos = eos;
    outcome.spoken = spoken;
  }
};

// Archive: TapeOut or TapeIn.
template <class Archive>
class TapeCodec {
 public:
  // `near`: an instant that those to come are not far from.
  TapeCodec(Archive& archive, SimTime near) : archive_(archive), near_(near.ns()) {}

  template <class T>
  void list(std::vector<T>& values) {
    if constexpr (Archive::reads)
      values.resize(archive_.count());
    else
      archive_.number(values.size());
    for (T& v : values) item(v);
  }
  template <class Tag, class Rep>
  void item(StrongId<Tag, Rep>& id) {
    Rep value = static_cast<Rep>(id.value() + 1);  // none becomes 0
    archive_.integer(value);
    id = StrongId<Tag, Rep>(static_cast<Rep>(value - 1));
  }
  // Two instants of one record are near each other; never() is far from all and written as itself.
  void item(SimTime& t) {
    std::int64_t difference = t.is_never() ? INT64_MIN : t.ns() - near_;
    archive_.integer(difference);
    if (difference == INT64_MIN) {
      t = SimTime::never();
      return;
    }
    near_ =
        static_cast<std::int64_t>(static_cast<std::uint64_t>(near_) + static_cast<std::uint64_t>(difference));
    t = SimTime(near_);
  }
  void item(SimDuration& d) {
    std::int64_t ns = d.ns();
    archive_.integer(ns);
    d = SimDuration(ns);
  }
  template <class T, std::enable_if_t<std::is_integral_v<T> && !std::is_same_v<T, bool>, int> = 0>
  void item(T& v) {
    archive_.integer(v);
  }
  template <class T, std::enable_if_t<std::is_enum_v<T> || std::is_same_v<T, bool>, int> = 0>
  void item(T& v) {
    auto raw = static_cast<std::uint8_t>(v);
    archive_.integer(raw);
    v = static_cast<T>(raw);
  }
  void item(HostFree& h) { all(h.instance, h.at); }
  void item(TransferDone& t) { all(t.instance, t.id, t.at); }
  void item(KvPullDone& p) { all(p.request, p.at, p.failed); }
  void item(DeviceSpan& s) { all(s.begin, s.end); }
  void item(StepStamp& s) { all(s.schedule_begin, s.launch_begin, s.device_begin, s.device_end); }
  void item(SpokenTokens& s) {
    all(s.sequence, s.request, s.drafts, s.accepted, s.tokens, s.next_drafts, s.eos, s.first);
  }
  void item(TapedOutcome& t) {
    StepOutcome& o = t.outcome;
    all(o.instance, o.first, o.scheduled);
    instants(t.updates);
    list(t.eos);
    list(t.spoken);
    all(o.at, o.first_stamp, o.second_stamp, o.last_stamp);
    if constexpr (Archive::reads) t.show();
  }
  void item(PlacedImage& i) {
    all(i.id, i.offset, i.tokens, i.embeddings, i.lead, i.rows, i.columns, i.tiles);
  }
  void item(Request& r) {
    all(r.id, r.leg, r.attempt, r.arrival, r.prompt_tokens, r.max_output_tokens, r.priority, r.gives_up,
        r.times_out, r.ignore_eos, r.hash_block_size, r.stream, r.preparation, r.sending);
    list(r.hash_ids);
    list(r.images);
  }

 private:
  template <class... T>
  void all(T&... values) {
    (item(values), ...);
  }
  // Updates of a stretch: their distances change slowly, and the changes are what is written.
  void instants(std::vector<SimTime>& times) {
    if constexpr (Archive::reads)
      times.resize(archive_.count());
    else
      archive_.number(times.size());
    std::uint64_t before = static_cast<std::uint64_t>(near_), step = 0;
    for (SimTime& t : times) {
      auto change = static_cast<std::int64_t>(static_cast<std::uint64_t>(t.ns()) - before - step);
      archive_.integer(change);
      step += static_cast<std::uint64_t>(change);
      before += step;
      t = SimTime(static_cast<std::int64_t>(before));
    }
    near_ = static_cast<std::int64_t>(before);
  }

  Archive& archive_;
  std::int64_t near_;
};

}  // namespace orrery
