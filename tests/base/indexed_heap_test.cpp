#include "base/indexed_heap.h"

#include "base/random.h"
#include "catch.h"

using namespace orrery;

TEST_CASE("the heap's first is the earliest, the lowest index among equals, after any changes") {
  constexpr std::size_t count = 37;
  RandomStream random(1, RandomPurpose::property_test);
  IndexedTimeHeap heap(count);
  std::vector<SimTime> times(count, SimTime::never());
  CHECK(heap.first() == 0);
  CHECK(heap.first_time().is_never());
  for (int step = 0; step < 20'000; ++step) {
    const auto index = static_cast<std::uint32_t>(random.below(count));
    // Few different times, so that ties are common.
    times[index] =
        random.below(8) == 0 ? SimTime::never() : SimTime(static_cast<std::int64_t>(random.below(20)));
    heap.set(index, times[index]);
    std::size_t expected = 0;
    for (std::size_t i = 1; i < count; ++i) {
      if (times[i] < times[expected]) expected = i;
    }
    REQUIRE(heap.first() == expected);
    REQUIRE(heap.first_time() == times[expected]);
    REQUIRE(heap.time(index) == times[index]);
  }
}

TEST_CASE("a heap of nothing never has an event") { CHECK(IndexedTimeHeap(0).first_time().is_never()); }
