#include "calibrate/session.h"

#include <algorithm>
#include <cmath>
#include <memory>

#include "base/json.h"
#include "base/text.h"

namespace orrery::calibrate {

namespace {

// After so many failures in a row without a success the device itself is gone (an illegal access poisons the
// context), and going on would only fill the journal with noise.
constexpr int most_failures_in_a_row = 12;

Point sentinel_point() {
  Point p;
  p.spec.op = "gemm";
  p.spec.m = p.spec.n = p.spec.k = 4096;
  p.table = "gemm";
  p.shape = shape_of(p.spec);
  return p;
}

// A reason that names its shape is the same reason at every shape.
std::string without_numbers(const std::string& text) {
  std::string out;
  for (const char c : text) {
    const bool digit = c >= '0' && c <= '9';
    if (!digit)
      out += c;
    else if (out.empty() || out.back() != '#')
      out += '#';
  }
  return out;
}

class Session {
 public:
  Session(kernels::Device& device, Timer& timer, const MakeCase& make, JournalWriter& journal,
          const SessionOptions& options)
      : device_(device), arena_(std::make_unique<Arena>(device, options.memory_share)), timer_(timer),
        make_(make), journal_(journal), options_(options), started_(timer.seconds()),
        end_(options.deadline - options.tables_s) {}

  Result<SessionSummary> run(const std::vector<Point>& plan, const std::set<std::string>& done) {
    summary_.planned = plan.size();
    ORRERY_TRY_STATUS(journal_.add(JournalEvent{"session", "begins", 0}, timer_.seconds()));
    ORRERY_TRY_STATUS(warm_up());
    std::size_t position = 0;
    for (const Point& point : plan) {
      ++position;
      if (done.count(point.key()) > 0) {
        ++summary_.skipped;
        continue;
      }
      if (stop()) break;
      ORRERY_TRY_STATUS(point.table == "probes" ? run_probe(point) : measure_one(point));
      if (timer_.seconds() - last_sentinel_ >= options_.sentinel_every_s) ORRERY_TRY_STATUS(read_sentinel());
      options_.progress(position, plan.size());
    }
    summary_.seconds = timer_.seconds() - started_;
    ORRERY_TRY_STATUS(journal_.sync());
    return summary_;
  }

 private:
  // A point may be begun only if one as long as the longest of late still fits.
  bool stop() {
    summary_.interrupted = options_.interrupted();
    summary_.out_of_time = timer_.seconds() + longest_of_late_ > end_;
    return summary_.interrupted || summary_.out_of_time;
  }

  MeasureOptions bounded() const {
    MeasureOptions m = options_.measure;
    m.deadline = std::min(m.deadline, end_);
    return m;
  }

  Status measure_one(const Point& point) {
    const double begun = timer_.seconds();
    const Measurement m = measure(point, device_, *arena_, timer_, make_, bounded());
    const double now = timer_.seconds();
    longest_of_late_ = std::max(0.97 * longest_of_late_, now - begun);
    ++summary_.states[to_string(m.state)];
    if (m.state == PointState::unsupported) {
      // Not journaled: a later build or a machine with more devices may have it. Each reason is told once.
      if (++summary_.unsupported[m.table + ": " + without_numbers(m.why)] == 1)
        options_.say(point.table + " " + point.shape + ": " + m.why);
      return ok_status();
    }
    if (m.state == PointState::rejected || m.state == PointState::failed)
      options_.say(point.table + " " + point.shape + ": " + to_string(m.state) + ": " + m.why);
    for (const std::string& other : m.passed_over) {
      if (++summary_.unsupported[without_numbers(other)] == 1) options_.say(other);
    }
    failures_ = m.state == PointState::failed ? failures_ + 1 : 0;
    ORRERY_TRY_STATUS(journal_.add(m, now));
    rest(m);
    if (failures_ < most_failures_in_a_row) return ok_status();
    return make_error(ErrorKind::unavailable, std::to_string(failures_) +
                                                  " points failed one after another, the last: " + m.why +
                                                  "; the device may need a new process: --resume");
  }

  // At the power cap the clock falls, and stays low for a while: without a rest the next point, however
  // light, would be timed at the clock of this one.
  void rest(const Measurement& m) {
    if (!m.telemetry) return;
    highest_mhz_ = std::max(highest_mhz_, m.sm_mhz);
    const double enough = options_.rested * highest_mhz_;
    const double until = std::min(timer_.seconds() + options_.rest_s, end_);
    for (double mhz = m.sm_mhz; mhz < enough && timer_.seconds() < until;) {
      timer_.pause(options_.rest_s / 16);
      const kernels::Telemetry now = device_.telemetry();
      mhz = now.valid ? now.sm_clock_mhz : enough;
    }
  }

  // Probes allocate for themselves, as much as there is.
  Status run_probe(const Point& point) {
    if (!options_.probe || timer_.seconds() + options_.probe_s > end_) {
      ++summary_.states[to_string(PointState::unsupported)];
      ++summary_
            .unsupported[options_.probe ? "probes: too little time is left" : "probes: none in this build"];
      return ok_status();
    }
    arena_.reset();
    std::vector<ProbeFigure> figures;
    std::string why;
    const bool fine = options_.probe(point.spec.op, device_, figures, why);
    if (!fine) options_.say("probe " + point.spec.op + ": " + why);
    ++summary_.states[to_string(fine ? PointState::ok : PointState::failed)];
    arena_ = std::make_unique<Arena>(device_, options_.memory_share);
    for (const ProbeFigure& figure : figures) {
      Measurement m;
      m.table = "probes";
      m.shape = figure.name + "," + std::to_string(figure.bytes);
      m.kernel = "orrery.probe";
      m.state = PointState::ok;
      m.value = figure.value;
      m.unit = figure.unit;
      ORRERY_TRY_STATUS(journal_.add(m, timer_.seconds()));
    }
    return ok_status();
  }

  Measurement time_sentinel() {
    MeasureOptions m = bounded();
    m.cap_s = std::min(m.cap_s, 0.1);
    m.retry_pause_s = 0;
    return measure(sentinel_point(), device_, *arena_, timer_, make_, m);
  }

  // How high the clock goes, from a pause after the warm-up: what a rest waits for is not known before.
  void learn_clock() {
    const double until = std::min(timer_.seconds() + options_.warm_up_s, end_);
    while (timer_.seconds() < until && !options_.interrupted()) {
      const double begun = timer_.seconds();
      timer_.pause(options_.rest_s / 4);
      const kernels::Telemetry now = device_.telemetry();
      if (now.valid) highest_mhz_ = std::max(highest_mhz_, now.sm_clock_mhz);
      if (timer_.seconds() <= begun) break;
    }
  }

  Status warm_up() {
    const double until = std::min(timer_.seconds() + options_.warm_up_s, end_);
    while (timer_.seconds() < until && !options_.interrupted()) {
      const double begun = timer_.seconds();
      if (!has_figure(time_sentinel().state) || timer_.seconds() <= begun) break;
    }
    learn_clock();
    return read_sentinel();
  }

  // At a rested clock, like the points.
  Status read_sentinel() {
    last_sentinel_ = timer_.seconds();
    rest(time_sentinel());
    Measurement m = time_sentinel();
    // A reading straight after a hot point says nothing of the part: one that has moved is taken again.
    if (has_figure(m.state) && first_sentinel_ > 0 && m.us / first_sentinel_ - 1 > options_.drift_limit) {
      timer_.pause(options_.rest_s);
      rest(m);
      const Measurement again = time_sentinel();
      if (has_figure(again.state) && again.us < m.us) m = again;
    }
    if (!has_figure(m.state)) return ok_status();
    ORRERY_TRY_STATUS(journal_.add(JournalEvent{"sentinel", m.kernel, m.us}, timer_.seconds()));
    if (first_sentinel_ == 0) first_sentinel_ = m.us;
    const double moved = m.us / first_sentinel_ - 1;
    summary_.drift = std::max(summary_.drift, std::abs(moved));
    if (std::abs(moved) <= options_.drift_limit) return ok_status();
    const std::string text = "the sentinel GEMM moved by " + format_fixed(100 * moved, 1) +
                             " % since the session began: clocks or neighbours changed";
    options_.say(text);
    return journal_.add(JournalEvent{"drift", text, std::abs(moved)}, timer_.seconds());
  }

  kernels::Device& device_;
  std::unique_ptr<Arena> arena_;
  Timer& timer_;
  const MakeCase& make_;
  JournalWriter& journal_;
  const SessionOptions& options_;
  double started_, end_;
  double highest_mhz_ = 0;
  double longest_of_late_ = 0, last_sentinel_ = -1e300, first_sentinel_ = 0;
  int failures_ = 0;
  SessionSummary summary_;
};

}  // namespace

Result<SessionSummary> run_session(const std::vector<Point>& plan, const std::set<std::string>& done,
                                   kernels::Device& device, Timer& timer, const MakeCase& make,
                                   JournalWriter& journal, const SessionOptions& options) {
  return Session(device, timer, make, journal, options).run(plan, done);
}

std::set<std::string> finished_keys(const Journal& journal) {
  std::set<std::string> keys;
  bool after_failure = false;
  for (const Measurement& m : journal.points) {
    const bool failed = m.state == PointState::failed;
    // The first of a row of failures is to blame; those behind it met a device that was already broken.
    if (has_figure(m.state) || (failed && !after_failure)) keys.insert(m.key());
    if (m.table == "probes") keys.insert("probes:" + m.shape.substr(0, m.shape.find('.')) + ",0");
    after_failure = failed;
  }
  return keys;
}

}  // namespace orrery::calibrate
