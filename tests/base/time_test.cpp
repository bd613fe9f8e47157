#include "base/time.h"

#include <limits>

#include "catch.h"
#include "support.h"

using namespace orrery;
using namespace orrery::test;

TEST_CASE("halves round to the even neighbour, on both sides of zero") {
  CHECK(round_half_even(0.5) == 0);
  CHECK(round_half_even(1.5) == 2);
  CHECK(round_half_even(2.5) == 2);
  CHECK(round_half_even(3.5) == 4);
  CHECK(round_half_even(-0.5) == 0);
  CHECK(round_half_even(-1.5) == -2);
  CHECK(round_half_even(-2.5) == -2);
  CHECK(round_half_even(1e9 + 0.5) == 1'000'000'000);
  CHECK(round_half_even(1e9 + 1.5) == 1'000'000'002);
}

TEST_CASE("everything else rounds to the nearest") {
  CHECK(round_half_even(0.49999999999999994) == 0);  // adding 0.5 first would give 1
  CHECK(round_half_even(0.5000000000000001) == 1);
  CHECK(round_half_even(2.4999999999999996) == 2);
  CHECK(round_half_even(2.5000000000000004) == 3);
  CHECK(round_half_even(-2.6) == -3);
  CHECK(round_half_even(0.0) == 0);
  CHECK(round_half_even(-0.0) == 0);
}

TEST_CASE("around 2^51, where doubles stop having halves, no bit is lost") {
  const double edge = 2251799813685248.0;
  CHECK(round_half_even(edge - 0.5) == 2251799813685248);  // the tie's even neighbour
  CHECK(round_half_even(edge - 1.5) == 2251799813685246);
  CHECK(round_half_even(edge) == 2251799813685248);
  CHECK(round_half_even(edge + 1) == 2251799813685249);
  CHECK(round_half_even(9007199254740993.0) == 9007199254740992);
  CHECK(round_half_even(-4.0e18) == -4'000'000'000'000'000'000);
}

TEST_CASE("[2^51, 2^52) still has halves, and they round as well") {
  const double half = 2251799813685249.5;  // representable: the spacing there is one half
  REQUIRE(half - 2251799813685249.0 == 0.5);
  CHECK(round_half_even(half) == 2251799813685250);
  CHECK(round_half_even(-half) == -2251799813685250);
  CHECK(round_half_even(2251799813685250.5) == 2251799813685250);
}

TEST_CASE("a duration that is not a number, infinite or beyond 2^62 ns is refused") {
  CHECK(aborts([] { (void)round_half_even(std::numeric_limits<double>::quiet_NaN()); }));
  CHECK(aborts([] { (void)round_half_even(std::numeric_limits<double>::infinity()); }));
  CHECK(aborts([] { (void)duration_from_seconds(1e10); }));
  CHECK_FALSE(aborts([] { (void)duration_from_seconds(1e9); }));
}

TEST_CASE("seconds become nanoseconds and back") {
  CHECK(duration_from_seconds(1.5).ns() == 1'500'000'000);
  CHECK(duration_from_seconds(0.1).ns() == 100'000'000);
  CHECK(duration_from_nanoseconds(2.5).ns() == 2);
  CHECK(seconds(2) + milliseconds(3) + microseconds(4) == SimDuration(2'003'004'000));
  CHECK(SimDuration(1'250'000).milliseconds() == Approx(1.25));
  CHECK(SimDuration(1'250).microseconds() == Approx(1.25));
}

TEST_CASE("time arithmetic is exact and never() is after everything") {
  const SimTime t(100);
  CHECK(t + SimDuration(5) == SimTime(105));
  CHECK(SimTime(105) - t == SimDuration(5));
  CHECK(t - SimTime(105) == SimDuration(-5));
  CHECK(later(t, SimTime(7)) == t);
  CHECK(earlier(t, SimTime(7)) == SimTime(7));
  CHECK(SimTime(INT64_MAX - 1) < SimTime::never());
  CHECK(SimTime::never().is_never());
}
