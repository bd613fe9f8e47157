#include "calibrate/measure.h"

#include <algorithm>
#include <cmath>

#include "base/json.h"
#include "calibrate/median.h"

namespace orrery::calibrate {

namespace {

constexpr int most_sets = 256;      // small weights: a graph of 256 launches still captures in a millisecond
constexpr int most_launches = 512;  // per graph
constexpr int warm_up_replays = 2;
constexpr int first_replays = 20;  // the first look; each further look doubles what is there
// Of replays longer than this, fewer: events and clocks disturb them less.
constexpr double long_replay_ns = 1.5e6;
constexpr int first_long_replays = 10;

// Prepared operands are given back whatever happens in between.
class Prepared {
 public:
  explicit Prepared(kernels::DeviceMemory& memory) : memory_(memory) {}
  ~Prepared() { memory_.release_all(); }
  Prepared(const Prepared&) = delete;
  Prepared& operator=(const Prepared&) = delete;

 private:
  kernels::DeviceMemory& memory_;
};

struct Replay {
  kernels::Device& device;
  std::function<void(int, kernels::Stream)> body;
  int launches = 1;
  double expected_ns = 0;  // of a replay, from the warm-up
};

// Launches a graph holds: every set once, and enough of them that a replay is long beside the events' grain.
int launches_for(double ns_per_launch, int sets, double graph_us) {
  const double wanted = std::max(1.0, graph_us * 1e3 / std::max(ns_per_launch, 100.0));
  const int rounds = static_cast<int>(std::ceil(std::min(wanted, double{most_launches}) / sets));
  return std::clamp(rounds * sets, sets, std::max(most_launches, sets));
}

void note_telemetry(const kernels::Telemetry& t, Measurement& m) {
  m.telemetry = t.valid;
  if (!t.valid) return;
  m.sm_mhz = t.sm_clock_mhz;
  m.memory_mhz = t.memory_clock_mhz;
  m.power_w = t.power_w;
  m.temperature_c = t.temperature_c;
  m.throttle_reasons = t.throttle_reasons;
}

// Replays in growing batches until the interval is narrow, the cap is reached or the session ends. False when
// the device reports an error.
bool sample(const Replay& replay, Timer& timer, const MeasureOptions& options, Measurement& m) {
  std::vector<double> ns;
  const double started = timer.seconds();
  int batch = replay.expected_ns > long_replay_ns ? first_long_replays : first_replays;
  for (;;) {
    if (!replay.device.time(replay.body, replay.launches, batch, ns, m.why)) return false;
    if (ns.empty()) {
      m.why = "the device returned no timings";
      return false;
    }
    const MedianInterval interval = median_interval(ns);
    m.us = interval.median / 1e3;
    m.spread = std::isfinite(interval.spread) ? interval.spread : 1;
    m.samples = static_cast<std::int64_t>(ns.size());
    if (m.spread <= options.target_spread) {
      m.state = PointState::ok;
      m.why.clear();
      return true;
    }
    const double now = timer.seconds();
    const double per_sample = (now - started) / static_cast<double>(m.samples);
    const double left = std::min(options.cap_s - (now - started), options.deadline - now);
    const double room = left / std::max(per_sample, 1e-9);
    const auto rest = std::min<double>(room, static_cast<double>(options.max_samples - m.samples));
    batch = static_cast<int>(std::min<double>(rest, static_cast<double>(m.samples)));
    if (batch >= 1) continue;
    m.state = PointState::unconverged;
    m.why = "the interval of the median is wider than asked for";
    return true;
  }
}

// Telemetry is read once, after the replays: a reading takes the driver milliseconds.
// One attempt: warm-up, a first estimate, the replays. True when it may stand, i.e. nothing was throttled.
bool attempt(const Replay& warm, int sets, Timer& timer, const MeasureOptions& options, Measurement& m) {
  std::vector<double> first;
  m.state = PointState::failed;
  if (!warm.device.time(warm.body, sets, warm_up_replays, first, m.why)) return true;
  if (first.empty()) {
    m.why = "the device returned no timings";
    return true;
  }
  const double estimate = *std::min_element(first.begin(), first.end());
  const int launches = launches_for(estimate, sets, options.graph_us);
  const Replay replay{warm.device, warm.body, launches, estimate * launches};
  if (!sample(replay, timer, options, m)) return true;
  const kernels::Telemetry after = warm.device.telemetry();
  note_telemetry(after, m);
  return !(after.valid && after.throttled);
}

Measurement believed(Measurement m, double least_us) {
  if (!has_figure(m.state) || m.us >= least_us) return m;
  m.state = PointState::failed;
  m.why = format_number(m.us) + " us is less than the part's data sheet allows (" + format_number(least_us) +
          " us): nothing was computed";
  return m;
}

}  // namespace

const char* to_string(PointState state) {
  switch (state) {
    case PointState::ok: return "ok";
    case PointState::unconverged: return "unconverged";
    case PointState::rejected: return "rejected";
    case PointState::failed: return "failed";
    case PointState::unsupported: return "unsupported";
  }
  return "?";
}

int operand_sets(const kernels::CaseSpec& spec, std::size_t bytes_per_set, std::size_t l2_bytes,
                 std::size_t room) {
  if (!(cold_bytes(spec) > 0)) return 1;
  // Everything that a launch touches, activations too, pushes the set before it out.
  const double touched = std::max(cold_bytes(spec), static_cast<double>(bytes_per_set));
  const double wanted = std::ceil(2.0 * static_cast<double>(l2_bytes) / touched) + 1;
  // Slices are padded and aligned; a twentieth is kept for that.
  const double fitting =
      std::floor(0.95 * static_cast<double>(room) / std::max(1.0, static_cast<double>(bytes_per_set)));
  return static_cast<int>(std::clamp(std::min(wanted, fitting), 1.0, double{most_sets}));
}

namespace {

// Operands and a first launch outside a graph: an error then has the launch's name, and what is loaded lazily
// is loaded. False with m's state and reason.
bool prepare(kernels::KernelCase& kernel, int sets, kernels::Device& device, Arena& arena, Measurement& m) {
  m.state = PointState::unsupported;
  if (!kernel.prepare(arena, sets, m.why)) return false;
  m.kernel = kernel.kernel();  // libraries choose when they know the device
  m.state = PointState::failed;
  const bool ran = device.run([&](kernels::Stream stream) { kernel.launch(0, stream); }, m.why);
  if (!kernel.refusal().empty()) m.why = kernel.refusal();
  return ran && kernel.refusal().empty();
}

Measurement measure_form(const Point& point, const std::string& form, kernels::Device& device, Arena& arena,
                         Timer& timer, const MakeCase& make, const MeasureOptions& options) {
  Measurement m;
  m.table = point.table;
  m.shape = point.shape;
  m.kernel = form;  // until the case says more
  const double begun = timer.seconds();
  kernels::CaseSpec spec = point.spec;
  spec.op = form;
  const auto kernel = make(spec, m.why);
  if (kernel == nullptr) {
    m.state = PointState::unsupported;
    return m;
  }
  m.kernel = kernel->kernel();
  const Prepared prepared(arena);
  const int sets = operand_sets(point.spec, kernel->bytes_per_set(), device.info().l2_bytes, arena.size());
  if (!prepare(*kernel, sets, device, arena, m)) return m;
  const double ready = timer.seconds();
  m.prepare_ms = 1e3 * (ready - begun);
  const Replay replay{device, [&](int i, kernels::Stream stream) { kernel->launch(i % sets, stream); }, sets};
  bool stands = attempt(replay, sets, timer, options, m);
  if (!stands) {
    timer.pause(std::min(options.retry_pause_s, std::max(0.0, options.deadline - timer.seconds())));
    stands = attempt(replay, sets, timer, options, m);
  }
  m.run_ms = 1e3 * (timer.seconds() - ready);
  if (stands) return believed(m, options.least_us(point.spec));
  m.state = PointState::rejected;
  m.why = "throttled in two attempts (reasons " + std::to_string(m.throttle_reasons) + ")";
  return m;
}

// A kernel that the device lacks is no reason to do without the others' figures.
bool better(const Measurement& a, const Measurement& b) {
  if (has_figure(a.state) != has_figure(b.state)) return has_figure(a.state);
  return has_figure(a.state) ? a.us < b.us : a.state < b.state;
}

// Where the device runs an operator's own form of the same source's products, the form for every target is
// not timed beside it: it would cost most of the time and never win.
bool superseded(const std::string& form, const std::vector<Measurement>& before) {
  return form == "block_gemm" && std::any_of(before.begin(), before.end(), [](const Measurement& m) {
           return m.kernel.find("block_gemm_wgmma") != std::string::npos && has_figure(m.state);
         });
}

}  // namespace

Measurement measure(const Point& point, kernels::Device& device, Arena& arena, Timer& timer,
                    const MakeCase& make, const MeasureOptions& options) {
  std::vector<Measurement> all;
  for (const std::string& form : forms_of(point.spec)) {
    if (superseded(form, all)) continue;
    all.push_back(measure_form(point, form, device, arena, timer, make, options));
    if (all.back().state == PointState::failed) return all.back();  // the device may be gone
  }
  std::stable_sort(all.begin(), all.end(), better);
  Measurement best = all.front();
  for (std::size_t i = 1; i < all.size(); ++i) {
    best.prepare_ms += all[i].prepare_ms;
    best.run_ms += all[i].run_ms;
    if (has_figure(all[i].state))
      best.slower.emplace_back(all[i].kernel, all[i].us);
    else if (has_figure(best.state))
      best.passed_over.push_back(all[i].kernel + ": " + all[i].why);
  }
  return best;
}

}  // namespace orrery::calibrate
