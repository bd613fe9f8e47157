#include "sim/costed/request_watch.h"

#include <algorithm>
#include <map>
#include <set>

#include "sim/costed/run.h"

namespace orrery {

namespace {

class Watch final : public RunObserver, public RecordSink {
 public:
  explicit Watch(std::uint64_t request) : request_(request) {}

  void on_request_event(const RequestEvent& e) override {
    using Kind = RequestEvent::Kind;
    std::set<std::uint64_t>& present = present_[e.instance];
    const bool over = e.kind == Kind::finished || e.kind == Kind::departed || e.kind == Kind::answered ||
                      e.kind == Kind::lost;
    std::set<std::uint64_t>& running = running_[e.instance];
    if (e.request == request_) {
      story.events.push_back(e);
      if (story.events.size() == 1) story.ahead.assign(present.begin(), present.end());
      if (e.kind == Kind::admitted || e.kind == Kind::resumed) {
        here_ = true;
        instance_ = e.instance;
        companions_.insert(running.begin(), running.end());
      }
      if (e.kind == Kind::preempted || over) here_ = false;
      if (over) seen_ = true;
    } else if (here_ && e.instance == instance_ && (e.kind == Kind::admitted || e.kind == Kind::resumed)) {
      companions_.insert(e.request);
    }
    if (e.kind == Kind::arrived) present.insert(e.request);
    if (over) present.erase(e.request);
    if (e.kind == Kind::admitted || e.kind == Kind::resumed) running.insert(e.request);
    if (e.kind == Kind::preempted || over) running.erase(e.request);
  }

  // A step is reported when its outputs are processed, after the events that its scheduling caused.
  void on_step(const StepRecord& s) override {
    if ((here_ || seen_) && s.instance == instance_) story.steps.push_back(s);
    if (seen_) seen_ = false;
  }

  void on_request(const RequestRecord& r) override {
    if (r.request != request_) return;
    story.record = r;
    found = true;
  }

  void close() { story.companions.assign(companions_.begin(), companions_.end()); }

  RequestStory story;
  bool found = false;

 private:
  std::uint64_t request_;
  bool here_ = false, seen_ = false;
  InstanceId instance_;
  std::map<InstanceId, std::set<std::uint64_t>> present_, running_;
  std::set<std::uint64_t> companions_;
};

}  // namespace

Result<RequestStory> watch_request(const Scenario& scenario, std::uint64_t request,
                                   const std::function<bool(std::uint64_t)>& keep_going) {
  Watch watch(request);
  RunOptions options;
  options.sink = &watch;
  options.observer = &watch;
  options.per_request_itl = true;
  options.keep_going = keep_going;
  auto run = run_scenario(scenario, options);
  if (!run.ok()) return run.errors();
  if (!watch.found) {
    const RunResult& r = run.value();
    return make_error(ErrorKind::usage, "there is no request " + std::to_string(request) +
                                            "; the run has requests 0 to " +
                                            std::to_string(r.completed + r.rejected + r.failed - 1));
  }
  watch.close();
  watch.story.digest = run->digest;
  return std::move(watch.story);
}

}  // namespace orrery
