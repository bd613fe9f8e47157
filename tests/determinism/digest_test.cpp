// The same inputs decide the same, however they are handed over (architecture §7). Every case here is shown
// to be able to fail by a mutant (tools/mutants.py, base/mutation.h).
#include <array>
#include <bit>
#include <cstdio>

#include "../sanitized.h"
#include "../sim/world.h"
#include "base/det_math.h"
#include "base/digest.h"
#include "catch.h"

using namespace orrery;

namespace {

constexpr std::uint64_t worlds = 200;                        // of the golden digest
constexpr std::uint64_t repeated = sanitized ? 40 : worlds;  // runs that are compared with one another
constexpr std::array engines{world::random_world, world::random_sglang_world};  // one a scheduler

// What an observer is told, in the order in which it is told: the order of rows in steps.csv and trace.json.
struct Sequence final : RunObserver {
  Digest digest;
  void on_step(const StepRecord& s) override {
    digest.add(static_cast<std::uint64_t>(s.instance.value()));
    digest.add(s.step);
    digest.add(s.schedule_begin.ns());
  }
};

}  // namespace

TEST_CASE("two runs in one process have the same digest [repeat]") {
  for (const auto make : engines) {
    for (std::uint64_t seed = 1; seed <= repeated; ++seed) {
      auto [w, requests] = make(seed);
      CAPTURE(w.scheduler, seed);
      REQUIRE(world::run(w, requests).digest == world::run(w, requests).digest);
    }
  }
}

TEST_CASE("single steps and stretches decide the same, at the same nanosecond [stretch]") {
  for (const auto make : engines) {
    std::uint64_t stretches = 0;
    for (std::uint64_t seed = 1; seed <= repeated; ++seed) {
      auto [w, requests] = make(seed);
      world::Records by_stretch, by_step;
      w.sink = &by_stretch;
      const RunResult a = world::run(w, requests);
      w.sink = &by_step;
      w.config.stretches = false;
      const RunResult b = world::run(w, requests);
      CAPTURE(w.scheduler, seed);
      REQUIRE(b.stretches == 0);
      stretches += a.stretches;
      REQUIRE(a.digest == b.digest);
      REQUIRE(a.steps == b.steps);
      REQUIRE(a.itl.mean == b.itl.mean);
      REQUIRE(a.itl.p99 == b.itl.p99);
      for (std::size_t i = 0; i < requests.size(); ++i) REQUIRE(by_stretch.all[i].e2e == by_step.all[i].e2e);
    }
    CHECK(stretches > repeated);
  }
}

// Behind an API server a held token costs less than an event, so that which update sends what is in the
// digest.
TEST_CASE("held tokens: single steps and stretches send the same events [stretch]") {
  for (const auto make : engines) {
    for (std::uint64_t seed = 1; seed <= repeated; seed += 5) {
      auto [w, requests] = make(seed);
      w.stream.interval = static_cast<std::int32_t>(2 + seed % 7);
      w.front_end = FrontEndConfig{};
      w.front_end->message = SimDuration(50'000);
      w.front_end->output_ps = 29'000'000;
      w.front_end->event_ps = 35'000'000;
      const RunResult by_stretch = world::run(w, requests);
      w.config.stretches = false;
      CAPTURE(w.scheduler, seed);
      REQUIRE(world::run(w, requests).digest == by_stretch.digest);
    }
  }
}

TEST_CASE("the order in which simultaneous events are handed over changes nothing [shuffle]") {
  for (const auto make : engines) {
    std::uint64_t simultaneous = 0;
    for (std::uint64_t seed = 1; seed <= repeated; ++seed) {
      auto [w, requests] = make(seed);
      for (std::size_t i = 1; i < requests.size(); ++i)
        simultaneous += requests[i].arrival == requests[i - 1].arrival;
      const std::uint64_t digest = world::run(w, requests).digest;
      CAPTURE(w.scheduler, seed);
      for (std::uint64_t shuffle = 1; shuffle <= 3; ++shuffle)
        REQUIRE(world::run(w, requests, shuffle).digest == digest);
    }
    CHECK(simultaneous > repeated);
  }
}

TEST_CASE("replicas that step at the same instant are handled in instance order [ties]") {
  // Identical replicas fed identical requests finish steps at identical instants, and a closed loop turns the
  // order in which ends are handled into the order of submissions.
  world::World w;
  w.replicas = 4;
  w.router = "round-robin";
  w.concurrency = 8;
  std::vector<TraceRequest> requests;
  for (std::uint64_t i = 0; i < 64; ++i)
    requests.push_back(world::request(i, 0, 100 + 10 * static_cast<int>(i / 8), 5));
  Sequence told;
  w.observer = &told;
  const std::uint64_t digest = world::run(w, requests).digest;
  for (std::uint64_t shuffle = 1; shuffle <= 8; ++shuffle) {
    Sequence shuffled;
    w.observer = &shuffled;
    CHECK(world::run(w, requests, shuffle).digest == digest);
    CHECK(shuffled.digest.value() == told.digest.value());
  }
}

// Prices to the last bit: where a compiler that contracts a·b + c, or sums in another order, shows first.
TEST_CASE("prices are the same on every compiler and build type [golden]") {
  Digest all;
  for (ModelSpec model : {hand::dense(), hand::mixture()}) {
    const auto pricer = StepPricer::create(hand::instance(std::move(model), 2)).value();
    for (std::int32_t sequences = 1; sequences <= 512; sequences += 3) {
      for (std::int64_t context = 7; context < 40'000; context = context * 3 / 2 + 1) {
        const DecodeLine line = pricer.decode_line(sequences, context * sequences, sequences);
        all.add(line.base);
        all.add(line.slope);
      }
    }
    for (std::int64_t tokens = 1; tokens < 4000; tokens += 7) {
      all.add(std::bit_cast<std::uint64_t>(pricer.unrounded_ns(tokens)));
    }
  }
  std::printf("digest of prices: %s\n", digest_text(all.value()).c_str());
  CHECK(digest_text(all.value()) == "a6ced5a64e678cb9");
}

// The gate runs this in gcc Release and in clang Debug; both must find these very values.
TEST_CASE("digests equal the golden ones on every compiler and build type [golden]") {
  // Recorded from gcc 12 Release; change only with a change of behaviour, which the changelog names.
  constexpr std::array expected{"5b61f4c8506cf2d8", "4898467668e82cf9"};
  for (std::size_t i = 0; i < engines.size(); ++i) {
    Digest all;
    for (std::uint64_t seed = 1; seed <= worlds; ++seed) {
      auto [w, requests] = engines[i](seed);
      all.add(world::run(w, requests).digest);
    }
    std::printf("digest of %llu random worlds: %s\n", static_cast<unsigned long long>(worlds),
                digest_text(all.value()).c_str());
    CHECK(digest_text(all.value()) == expected[i]);
  }
}
