// The pipeline recurrence in its limits.
#include "costmodel/pipeline.h"

#include "catch.h"
#include "costmodel/breakdown.h"

using namespace orrery;

namespace {
StepTiming timing(std::int64_t busy) {
  StepTiming t;
  t.schedule = 100;
  t.prepare = 200;
  t.launch = 300;
  t.busy = busy;
  t.last_kernel = 10;
  t.copy = 40;
  t.update = 50;
  t.gap = 20;
  return t;
}
}  // namespace

TEST_CASE("§6.1 one step at a time adds everything up") {
  // schedule + prepare, then the device, copy, update, gap.
  CHECK(steady_step_ns(timing(5000), 1, true) == 100 + 200 + 5000 + 40 + 50 + 20);
  CHECK(steady_step_ns(timing(100), 1, true) == 100 + 200 + 300 + 10 + 40 + 50 + 20);  // launch-bound
}

TEST_CASE("§6.1 two in flight: a busy device hides the host") {
  CHECK(steady_step_ns(timing(5000), 2, true) == 5000);
  CHECK(steady_step_ns(timing(5000), 2, false) == 5000);
}

TEST_CASE("§6.1 two in flight: an idle device shows the host") {
  // The core thread launches itself: schedule, prepare, launch, update and gap in turn.
  CHECK(steady_step_ns(timing(1), 2, true) == 100 + 200 + 300 + 50 + 20);
  // A launcher of its own overlaps with the core; the slower of the two sets the pace.
  CHECK(steady_step_ns(timing(1), 2, false) < steady_step_ns(timing(1), 2, true));
  CHECK(steady_step_ns(timing(1), 2, false) >= 300);
}

TEST_CASE("two in flight: a step that needs the tokens of the one before is launched behind their copy") {
  HostPipeline pipeline(true);
  StepTiming t = timing(5000);
  t.needs_tokens = true;
  const StepTimes first = pipeline.begin(t, SimTime(0));
  const StepTimes second = pipeline.begin(t, pipeline.core_free());
  CHECK(first.device_end.ns() == 5300);
  CHECK(second.launch_begin.ns() == 5300 + 40);
  // Scheduling is hidden, launch and copy are not.
  CHECK(steady_step_ns(t, 2, true) == 5000 + 40);
}

TEST_CASE("an open pipeline begins on the device only after the step before") {
  HostPipeline pipeline(true);
  StepTimes first = pipeline.begin(timing(5000), SimTime(0));
  const StepTimes second = pipeline.begin(timing(5000), pipeline.core_free());
  CHECK(first.device_begin.ns() == 300);
  CHECK(first.device_end.ns() == 5300);
  CHECK(second.schedule_begin.ns() == 600);
  CHECK(second.device_begin.ns() == 5300);
  pipeline.update(timing(5000), first);
  CHECK(first.update_begin.ns() == 5340);
  CHECK(pipeline.core_free().ns() == 5410);
}

TEST_CASE("a device that waits sees its first kernel only after the inputs are prepared") {
  StepTiming t = timing(5000);
  t.first_kernel = 150;
  HostPipeline pipeline(true);
  const StepTimes first = pipeline.begin(t, SimTime(0));
  CHECK(first.device_begin.ns() == 300);  // a log's clock starts with the launch
  CHECK(first.device_end.ns() == 300 + 150 + 5000);
  const StepTimes second = pipeline.begin(t, pipeline.core_free());  // behind it: prepared long before
  CHECK(second.device_end.ns() == 5450 + 5000);
  // Launches that take longer than the device hide it.
  t.busy = 100;
  HostPipeline slow(true);
  CHECK(slow.begin(t, SimTime(0)).device_end.ns() == 300 + 300 + 10);
}

TEST_CASE("two steps back to back stand a gap apart on the device") {
  StepTiming t = timing(5000);
  t.step_gap = 3;
  CHECK(steady_step_ns(t, 2, true) == 5003);
  HostPipeline pipeline(true);
  CHECK(pipeline.begin(t, SimTime(0)).device_end.ns() == 5300);  // nothing ahead of it
}

TEST_CASE("a log that knows when the device was free is followed") {
  HostPipeline pipeline(true);
  pipeline.begin(timing(5000), SimTime(0));
  pipeline.device_known_free(SimTime(9000));
  CHECK(pipeline.begin(timing(5000), pipeline.core_free()).device_end.ns() == 14000);
}

TEST_CASE("work before a launch is a longer preparation: launched after it, the device waits or does not") {
  for (const bool launcher_is_core : {true, false}) {
    for (const std::int64_t work : {0, 10, 700, 9000}) {
      for (const std::int64_t busy : {1, 400, 5000}) {
        HostPipeline held(launcher_is_core), longer(launcher_is_core);
        const StepTiming before = timing(5000);
        held.begin(before, SimTime(0));
        longer.begin(before, SimTime(0));
        const SimTime now = held.core_free();
        StepTiming t = timing(busy);
        t.first_kernel = 30;
        t.step_gap = 5;
        StepTimes s = held.begin(t, now);
        const SimTime begin = held.hold_launch(t, s, SimDuration(work));
        // The recurrence itself: behind whatever the launcher still does, so much later.
        const SimTime was = later(now + SimDuration(300), begin);
        t.prepare += (was - (now + SimDuration(300))).ns() + work;
        const StepTimes expected = longer.begin(t, now);
        CHECK(s.launch_begin == expected.launch_begin);
        CHECK(s.launch_end == expected.launch_end);
        CHECK(s.device_begin == expected.device_begin);
        CHECK(s.device_end == expected.device_end);
        CHECK(held == longer);
      }
    }
  }
}

TEST_CASE("work with no step to launch delays the next one only if that comes too early") {
  HostPipeline pipeline(true);
  CHECK(pipeline.occupy_launcher(SimTime(100), SimDuration(1000)) == SimTime(100));
  CHECK(pipeline.occupy_launcher(SimTime(500), SimDuration(1000)) == SimTime(1100));  // one after the other
  CHECK(pipeline.begin(timing(10), SimTime(500)).launch_begin == SimTime(2100));
  HostPipeline late(true);
  late.occupy_launcher(SimTime(100), SimDuration(1000));
  CHECK(late.begin(timing(10), SimTime(5000)).launch_begin == SimTime(5300));
}
