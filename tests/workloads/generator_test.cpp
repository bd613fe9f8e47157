#include "catch.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "base/digest.h"
#include "support.h"
#include "workloads/generator.h"
#include "workloads/trace_stats.h"

using namespace orrery;
using namespace orrery::test;

namespace {

std::vector<TraceRequest> generate(const GeneratorSpec& spec, std::uint64_t seed = 7) {
  const auto source = make_generator(spec, seed);
  Read read = drain(*source);
  REQUIRE(read.error == "");
  return read.requests;
}

GeneratorSpec fixed_lengths(std::uint64_t requests) {
  GeneratorSpec spec;
  spec.requests = requests;
  spec.input.value = 100;
  spec.output.value = 10;
  return spec;
}

TraceStats stats_of(const std::vector<TraceRequest>& requests) {
  TraceStats stats;
  for (const TraceRequest& request : requests) stats.add(request);
  return stats;
}

struct Moments {
  double mean = 0, cv = 0;
};

template <class Field>
Moments moments(const std::vector<TraceRequest>& requests, Field field) {
  double sum = 0, squares = 0;
  for (const TraceRequest& r : requests) sum += static_cast<double>(field(r));
  const double mean = sum / static_cast<double>(requests.size());
  for (const TraceRequest& r : requests) squares += std::pow(static_cast<double>(field(r)) - mean, 2);
  return {mean, std::sqrt(squares / static_cast<double>(requests.size())) / mean};
}

std::int32_t input_of(const TraceRequest& r) { return r.prompt_tokens; }

}  // namespace

// Bounds are five standard errors of the estimate at n = 100,000, rounded up.
TEST_CASE("arrival processes have their rate and their variation") {
  GeneratorSpec spec = fixed_lengths(100'000);
  spec.arrivals.rate = 20;
  SECTION("Poisson") {
    const TraceStats stats = stats_of(generate(spec));
    CHECK(stats.rate() == Approx(20).epsilon(0.016));
    CHECK(stats.gap_cv() == Approx(1).epsilon(0.02));
  }
  SECTION("gamma, bursty and regular") {
    spec.arrivals.kind = ArrivalSpec::Kind::gamma;
    spec.arrivals.cv = GENERATE(2.5, 0.4);
    const TraceStats stats = stats_of(generate(spec));
    CHECK(stats.rate() == Approx(20).epsilon(0.016 * std::max(1.0, spec.arrivals.cv)));
    CHECK(stats.gap_cv() == Approx(spec.arrivals.cv).epsilon(0.06));
  }
  SECTION("fixed, without drift") {
    spec.arrivals.kind = ArrivalSpec::Kind::fixed;
    spec.arrivals.rate = 3;
    const auto requests = generate(spec);
    CHECK(requests[0].arrival == SimTime());
    CHECK(requests[99'999].arrival == SimTime(33'333'000'000'000));
  }
  SECTION("on-off: the rate holds while on, so the mean is its on share") {
    spec.arrivals.kind = ArrivalSpec::Kind::on_off;
    spec.arrivals.on_s = 1;
    spec.arrivals.off_s = 3;
    const TraceStats stats = stats_of(generate(spec));
    // About 5,000 cycles; a cycle's length has a standard deviation of √10 s around 4 s.
    CHECK(stats.rate() == Approx(5).epsilon(0.09));
    // Of an interrupted Poisson process: cv² = 1 + 2·λ·r_off/(r_on + r_off)², with r_off = 1/on_s, r_on =
    // 1/off_s.
    const double r_off = 1.0, r_on = 1.0 / 3;
    CHECK(stats.gap_cv() == Approx(std::sqrt(1 + 2 * 20 * r_off / std::pow(r_on + r_off, 2))).epsilon(0.1));
  }
}

TEST_CASE("length distributions have their moments and keep their bounds") {
  GeneratorSpec spec = fixed_lengths(100'000);
  SECTION("log-normal: mean and variation of the length itself") {
    spec.input.kind = LengthSpec::Kind::log_normal;
    spec.input.mean = 1000;
    spec.input.cv = 0.8;
    const Moments m = moments(generate(spec), input_of);
    CHECK(m.mean == Approx(1000).epsilon(0.013));
    CHECK(m.cv == Approx(0.8).epsilon(0.05));
  }
  SECTION("uniform: every whole number, both ends included") {
    spec.input.kind = LengthSpec::Kind::uniform;
    spec.input.low = 3;
    spec.input.high = 7;
    std::map<std::int32_t, int> counts;
    for (const TraceRequest& r : generate(spec)) ++counts[r.prompt_tokens];
    CHECK(counts.size() == 5);
    for (int length = 3; length <= 7; ++length) CHECK(counts[length] == Approx(20'000).epsilon(0.033));
  }
  SECTION("empirical: quantiles come back") {
    spec.input.kind = LengthSpec::Kind::empirical;
    spec.input.quantiles = {10, 100, 1000};
    const auto requests = generate(spec);
    const TraceStats stats = stats_of(requests);
    CHECK(stats.input().min >= 10);
    CHECK(stats.input().p50 == Approx(100).epsilon(0.1));
    CHECK(stats.input().max <= 1000);
    CHECK(moments(requests, input_of).mean == Approx(55.0 / 2 + 550.0 / 2).epsilon(0.02));
  }
  SECTION("draws are clamped") {
    spec.input.kind = LengthSpec::Kind::log_normal;
    spec.input.mean = 100;
    spec.input.cv = 3;
    spec.input.low = 50;
    spec.input.high = 200;
    const TraceStats stats = stats_of(generate(spec));
    CHECK(stats.input().min == 50);
    CHECK(stats.input().max == 200);
  }
}

TEST_CASE("equal seeds give equal requests, other seeds give others") {
  GeneratorSpec spec = fixed_lengths(1000);
  spec.input.kind = LengthSpec::Kind::log_normal;
  const auto a = generate(spec, 1), b = generate(spec, 1), c = generate(spec, 2);
  std::size_t same = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    CHECK(a[i].arrival == b[i].arrival);
    CHECK(a[i].prompt_tokens == b[i].prompt_tokens);
    same += a[i].arrival == c[i].arrival || a[i].prompt_tokens == c[i].prompt_tokens;
  }
  CHECK(same < 20);
}

TEST_CASE("changing one part of a specification moves no other draw") {
  GeneratorSpec spec = fixed_lengths(2000);
  spec.input.kind = LengthSpec::Kind::log_normal;
  spec.output.kind = LengthSpec::Kind::log_normal;
  const auto before = generate(spec);
  SECTION("output lengths") {
    spec.output.kind = LengthSpec::Kind::uniform;
    const auto after = generate(spec);
    for (std::size_t i = 0; i < before.size(); ++i) {
      REQUIRE(after[i].arrival == before[i].arrival);
      REQUIRE(after[i].prompt_tokens == before[i].prompt_tokens);
    }
  }
  SECTION("arrivals") {
    spec.arrivals.kind = ArrivalSpec::Kind::gamma;
    spec.arrivals.cv = 3;
    const auto after = generate(spec);
    for (std::size_t i = 0; i < before.size(); ++i) {
      REQUIRE(after[i].prompt_tokens == before[i].prompt_tokens);
      REQUIRE(after[i].output_tokens == before[i].output_tokens);
    }
  }
  SECTION("how many") {
    spec.requests = 500;
    const auto after = generate(spec);
    REQUIRE(after.size() == 500);
    CHECK(after.back().arrival == before[499].arrival);
    CHECK(after.back().output_tokens == before[499].output_tokens);
  }
}

TEST_CASE("conversations grow by what was said") {
  GeneratorSpec spec = fixed_lengths(20'000);
  spec.arrivals.rate = 50;
  spec.input.kind = LengthSpec::Kind::uniform;
  spec.input.low = 10;
  spec.input.high = 20;
  spec.sessions.turns_mean = 4;
  spec.sessions.think_s = 2;
  const auto requests = generate(spec);
  std::map<std::uint64_t, TraceRequest> last;
  std::uint64_t later_turns = 0;
  SimTime now;
  for (const TraceRequest& r : requests) {
    REQUIRE(r.arrival >= now);
    now = r.arrival;
    REQUIRE(r.session != 0);
    const auto previous = last.find(r.session);
    if (previous != last.end()) {
      ++later_turns;
      const std::int32_t history = previous->second.prompt_tokens + previous->second.output_tokens;
      REQUIRE(r.prompt_tokens >= history + 10);
      REQUIRE(r.prompt_tokens <= history + 20);
    } else {
      REQUIRE(r.prompt_tokens <= 20);
    }
    last[r.session] = r;
  }
  const double turns =
      static_cast<double>(requests.size()) / static_cast<double>(requests.size() - later_turns);
  CHECK(turns == Approx(4).epsilon(0.08));  // conversations cut off at the end pull it down a little
  CHECK(stats_of({requests.begin() + 5000, requests.end()}).rate() == Approx(50).epsilon(0.1));
}

TEST_CASE("a conversation ends before its prompt would be too long") {
  GeneratorSpec spec = fixed_lengths(5000);
  spec.sessions.turns_mean = 1000;
  spec.sessions.max_prompt_tokens = 320;  // 100, 210, 320; the fourth would be 430
  const TraceStats stats = stats_of(generate(spec));
  CHECK(stats.input().max == 320);
}

TEST_CASE("a shared prefix is exactly as long as asked for") {
  GeneratorSpec spec = fixed_lengths(3000);
  spec.sessions.shared_prefix_tokens = GENERATE(1024, 1000, 1009);
  spec.sessions.prefix_groups = 3;
  std::map<std::uint64_t, int> first_blocks;
  std::map<std::uint64_t, int> own_blocks;
  for (const TraceRequest& r : generate(spec)) {
    REQUIRE(r.prompt_tokens == spec.sessions.shared_prefix_tokens + 100);
    REQUIRE(r.hash_ids.size() ==
            static_cast<std::size_t>((r.prompt_tokens + r.hash_block_size - 1) / r.hash_block_size));
    REQUIRE(spec.sessions.shared_prefix_tokens % r.hash_block_size == 0);
    const auto shared = static_cast<std::size_t>(spec.sessions.shared_prefix_tokens / r.hash_block_size);
    ++first_blocks[r.hash_ids[0]];
    for (std::size_t i = 1; i < shared; ++i) REQUIRE(r.hash_ids[i] == r.hash_ids[0] + i);
    for (std::size_t i = shared; i < r.hash_ids.size(); ++i) REQUIRE(++own_blocks[r.hash_ids[i]] == 1);
  }
  REQUIRE(first_blocks.size() == 3);
  for (const auto& [id, count] : first_blocks) CHECK(count == Approx(1000).epsilon(0.15));
}

TEST_CASE("the prompts of one conversation are beginnings of one text") {
  GeneratorSpec spec = fixed_lengths(500);
  spec.sessions.turns_mean = 5;
  spec.sessions.shared_prefix_tokens = 64;
  std::map<std::uint64_t, std::vector<std::uint64_t>> texts;
  for (const TraceRequest& r : generate(spec)) {
    std::vector<std::uint64_t>& text = texts[r.session];
    REQUIRE(text.size() <= r.hash_ids.size());
    REQUIRE(std::equal(text.begin(), text.end(), r.hash_ids.begin()));
    text = r.hash_ids;
  }
}

TEST_CASE("resampling keeps pairs together and uses all of them") {
  const TempFolder folder;
  std::string text;
  for (int i = 1; i <= 10; ++i) {
    text += "{\"timestamp\": 0, \"input_length\": " + std::to_string(i) +
            ", \"output_length\": " + std::to_string(1000 * i) + "}\n";
  }
  GeneratorSpec spec;
  spec.requests = 20'000;
  spec.resample = folder.write("pairs.jsonl", text);
  const auto requests = generate(spec);
  std::map<std::int32_t, int> counts;
  for (const TraceRequest& r : requests) {
    REQUIRE(r.output_tokens == 1000 * r.prompt_tokens);
    ++counts[r.prompt_tokens];
  }
  CHECK(counts.size() == 10);
  for (const auto& [input, count] : counts) CHECK(count == Approx(2000).epsilon(0.12));
  // Arrivals are those of any other length specification.
  GeneratorSpec other = fixed_lengths(20'000);
  CHECK(generate(other).back().arrival == requests.back().arrival);
}

TEST_CASE("a file that cannot be resampled is the source's error") {
  GeneratorSpec spec;
  spec.resample = "/nowhere/pairs.jsonl";
  const auto source = make_generator(spec, 1);
  TraceRequest request;
  CHECK_FALSE(source->next(request));
  REQUIRE(source->error() != nullptr);
  CHECK(contains(source->error()->to_string(), "pairs.jsonl"));
}

// The constant is not a physical truth: it says that compilers, build types and machines agree, and that no
// change moves the requests of an existing specification unnoticed.
TEST_CASE("the requests of a specification are the same everywhere") {
  GeneratorSpec spec = fixed_lengths(5000);
  spec.arrivals.kind = ArrivalSpec::Kind::gamma;
  spec.arrivals.cv = 1.7;
  spec.input.kind = LengthSpec::Kind::log_normal;
  spec.output.kind = LengthSpec::Kind::empirical;
  spec.output.quantiles = {1, 30, 200, 1500};
  spec.sessions.turns_mean = 2.5;
  spec.sessions.shared_prefix_tokens = 768;
  spec.sessions.prefix_groups = 4;
  Digest digest;
  for (const TraceRequest& r : generate(spec, 42)) {
    digest.add(r.arrival.ns());
    digest.add(std::int64_t{r.prompt_tokens});
    digest.add(std::int64_t{r.output_tokens});
    digest.add(r.session);
    for (const std::uint64_t id : r.hash_ids) digest.add(id);
  }
  CHECK(digest_text(digest.value()) == "399c06649623ed0e");
}
