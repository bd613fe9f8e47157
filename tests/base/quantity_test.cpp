#include "base/quantity.h"

#include "base/ids.h"
#include "catch.h"

using namespace orrery;

namespace {

template <class A, class B>
concept Addable = requires(A a, B b) {
  a + b;
};
template <class A, class B>
concept Multipliable = requires(A a, B b) {
  a* b;
};
template <class A, class B>
concept Divisible = requires(A a, B b) {
  a / b;
};
template <class A, class B>
concept Comparable = requires(A a, B b) {
  a < b;
};

// tests/base/compile_fail shows the compiler's refusal; this shows that nothing else is offered.
static_assert(Addable<Bytes, Bytes> && !Addable<Bytes, Flops> && !Addable<Bytes, double>);
static_assert(!Multipliable<Bytes, Bytes> && Multipliable<Bytes, double>);
static_assert(Divisible<Bytes, BytesPerSecond> && !Divisible<Bytes, FlopsPerSecond> &&
              !Divisible<double, Bytes>);
static_assert(!Comparable<Bytes, Flops> && !Comparable<RequestId, StepId> &&
              !Comparable<SimTime, SimDuration>);
static_assert(!Addable<SimTime, SimTime> && Addable<SimTime, SimDuration>);

}  // namespace

TEST_CASE("quantities combine as physics does") {
  CHECK((Bytes(4.8e12) / BytesPerSecond(4.8e12)).value() == 1.0);
  CHECK((Flops(1979e12) / FlopsPerSecond(989.5e12)).value() == 2.0);
  CHECK((BytesPerSecond(900e9) * Seconds(0.5)).value() == 450e9);
  CHECK((FlopsPerSecond(10) * Seconds(3)).value() == 30);
  CHECK(Bytes(6) / Bytes(4) == 1.5);
  CHECK((2 * Bytes(3) + Bytes(4) - Bytes(1)).value() == 9);
  CHECK(to_duration(Seconds(2.5e-9)) == SimDuration(2));
  Bytes sum;
  sum += Bytes(7);
  CHECK(sum == Bytes(7));
  CHECK(Bytes(1) < Bytes(2));
}

TEST_CASE("an id that was never given is none") {
  CHECK(RequestId().is_none());
  CHECK(RequestId::none() == RequestId());
  CHECK_FALSE(InstanceId(0).is_none());
  CHECK(InstanceId(1) < InstanceId(2));
  CHECK(SequenceId::none().value() == 0xFFFFFFFFu);
}
