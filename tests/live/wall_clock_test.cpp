// A clock that waits, and requests that come while it does.
#include "live/wall_clock.h"

#include <chrono>
#include <thread>

#include "catch.h"
#include "live/socket_inbox.h"

using namespace orrery;

TEST_CASE("a wall clock reads the instant that it waited for, and is never early") {
  WallClock clock;
  SimTime last;
  for (int i = 1; i <= 5; ++i) {
    const SimTime due = SimTime(0) + milliseconds(4 * i);
    CHECK(clock.wait_until(due) == due);
    CHECK(clock.now() >= due);
    last = due;
  }
  CHECK(clock.wait_until(SimTime(0)) == last);  // never decreases
  const Distribution late = clock.lateness();
  CHECK(late.count == 5);
  CHECK(late.max < 1'000'000'000);
}

TEST_CASE("a wall clock that was late catches up: what follows keeps its own time") {
  WallClock clock;
  std::this_thread::sleep_for(std::chrono::milliseconds(10));
  CHECK(clock.wait_until(SimTime(0) + milliseconds(1)) == SimTime(0) + milliseconds(1));
  CHECK(clock.wait_until(SimTime(0) + milliseconds(2)) == SimTime(0) + milliseconds(2));
  CHECK(clock.lateness().count == 2);
  CHECK(clock.lateness().p50 >= 8'000'000);
}

TEST_CASE("a wall clock that is watched lets go when it should stop") {
  WallClock clock;
  int asked = 0;
  clock.watch([&] { return ++asked > 2; });
  const SimTime far = SimTime(0) + seconds(1000);
  CHECK(clock.wait_until(far) == far);
  CHECK(asked == 3);
  CHECK(clock.now() < SimTime(0) + seconds(100));
}

TEST_CASE("a client that leaves is told of once, and only while its request is under way") {
  WallClock clock;
  SocketInbox inbox(clock);
  SocketRequest request;
  request.prompt_tokens = request.max_tokens = 2;
  const RequestId a = inbox.push(request), b = inbox.push(request);
  Arrivals arrivals;
  while (arrivals.size() < 2) inbox.poll(clock.wait_until(inbox.next()), arrivals);
  inbox.on_finished(a, clock.now());
  inbox.leave(a);
  inbox.leave(b);
  inbox.leave(b);
  CHECK(inbox.next() <= clock.now());
  std::vector<RequestId> gone;
  inbox.poll_departures(clock.wait_until(inbox.next()), gone);
  CHECK(gone == std::vector<RequestId>{b});
  inbox.close();
  CHECK(inbox.next().is_never());
}

TEST_CASE("an arrival ends the wait, and a clock that is let go waits for nothing") {
  WallClock clock;
  SocketInbox inbox(clock);
  inbox.set_input_delay(milliseconds(1));
  CHECK_FALSE(inbox.next().is_never());  // somebody may come
  std::thread client([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    SocketRequest request;
    request.prompt_tokens = 10;
    request.max_tokens = 2;
    CHECK(inbox.push(request) == RequestId(0));
    CHECK(inbox.push(request) == RequestId(1));
  });
  const SimTime woken = clock.wait_until(inbox.next());
  client.join();
  CHECK(woken < SimTime(0) + seconds(60));
  const SimTime due = inbox.next();
  CHECK(clock.wait_until(due) <= due);
  Arrivals arrivals;
  while (arrivals.size() < 2) inbox.poll(clock.wait_until(inbox.next()), arrivals);
  CHECK(arrivals[0].id == RequestId(0));
  CHECK(arrivals[0].arrival <= arrivals[1].arrival);
  CHECK(arrivals[0].ignore_eos);
  inbox.close();
  CHECK(inbox.next().is_never());
  CHECK(inbox.push({}).is_none());
  clock.release();
  const SimTime far = SimTime(0) + seconds(1000);
  CHECK(clock.wait_until(far) <= far);
  CHECK(clock.wait_until(far) == far);
}
