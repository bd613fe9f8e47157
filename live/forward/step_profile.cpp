// What single launches of a step take where they stand: the step once more from a graph that has a clock
// between any two launches, so that no launch waits for the host.
#include <algorithm>

#include "live/forward/step_forward.h"

namespace orrery {

namespace {

// Replays without clocks first: the pause in which graphs are made lets the device rest, and what follows
// is to be as it is under load.
constexpr double warm_ns = 60e6;
constexpr int most_warm = 40;

void add_time(std::vector<LaunchTime>& sums, const LaunchTime& launch) {
  const auto known = std::find_if(sums.begin(), sums.end(), [&](const LaunchTime& s) {
    return std::string(s.use) == launch.use && s.op_class == launch.op_class;
  });
  LaunchTime& sum = known == sums.end() ? sums.emplace_back(launch.use, launch.op_class) : *known;
  ++sum.launches;
  sum.ns += launch.ns;
}

}  // namespace

void StepForward::time_from_here(const char* use, OpClass op_class) {
  ORRERY_CHECK(timed_.size() < clocks_, "a step has more launches than clocks");
  stream_->clock(timed_.size());
  timed_.push_back({use, op_class, 1, 0});
}

// One clock more than launches: behind the last one.
void StepForward::launch_timed(const DeviceStep& step, kernels::Stream stream) {
  timed_.clear();
  timing_ = true;
  launch_layers(step, stream);
  launch_head(step, stream);
  timing_ = false;
  stream_->clock(timed_.size());
}

Result<StepProfile> StepForward::profile(const StepBatch& batch) {
  if (fp32_ != nullptr || shape_.ranks > 1)
    return invalid_input("launches are timed one by one of our own kernels on one device", {}, "profile");
  stream_->make_current();
  Result<DeviceStep> step = inputs_.put(batch);
  if (!step) return step.errors();
  clocks_ = static_cast<std::size_t>(shape_.layers) * 40 + 16;  // launches of a step are fewer
  stream_->hold_clocks(clocks_ + 1);
  std::string why;
  const DeviceStep put = *step;
  const auto plain = stream_->capture(
      [this, put](kernels::Stream s) {
        launch_layers(put, s);
        launch_head(put, s);
      },
      why);
  const auto timed = stream_->capture([this, put](kernels::Stream s) { launch_timed(put, s); }, why);
  if (plain == nullptr || timed == nullptr) return make_error(ErrorKind::unavailable, why);
  const auto run = [&](kernels::StepStream::Graph& graph, double& ns) {
    stream_->begin_step();
    stream_->replay(graph);
    stream_->end_step();
    const bool good = stream_->wait(why);
    ns = stream_->step_ns();
    return good;
  };
  StepProfile out;
  out.rows = put.rows;
  double spent = 0;
  bool good = true;
  // The simulator's clock stands still: once is enough there.
  for (int i = 0; good && i < most_warm && (i == 0 || (spent > 0 && spent < warm_ns)); ++i) {
    good = run(*plain, out.graph_ns);
    spent += out.graph_ns;
  }
  if (!good || !run(*timed, out.timed_ns)) return make_error(ErrorKind::unavailable, why);
  for (std::size_t i = 0; i < timed_.size(); ++i) {
    timed_[i].ns = stream_->clock_ns(i, i + 1);
    add_time(out.launches, timed_[i]);
  }
  return out;
}

}  // namespace orrery
