#include "catch.h"

#include <algorithm>

#include "support.h"
#include "workloads/generator.h"
#include "workloads/generators/servegen_profile.h"

using namespace orrery;
using namespace orrery::test;

namespace {

GeneratorSpec fixture_spec(std::uint64_t requests = 1'000'000) {
  GeneratorSpec spec;
  spec.requests = requests;
  spec.servegen = ServegenSpec{fixture("servegen"), 0, 0};
  return spec;
}

Read generate(const GeneratorSpec& spec, std::uint64_t seed = 3) {
  const auto source = make_generator(spec, seed);
  return drain(*source);
}

}  // namespace

TEST_CASE("ServeGen clients send as many requests as their windows say (fixture)") {
  const Read read = generate(fixture_spec());
  REQUIRE(read.error == "");
  // Gaps fill a window exactly, so that the last of ⌈rate · 600⌉ falls on its end and out, up to rounding.
  const auto in_window = [&](double from) {
    return std::count_if(read.requests.begin(), read.requests.end(), [&](const TraceRequest& r) {
      return r.arrival.seconds() >= from && r.arrival.seconds() < from + 600;
    });
  };
  CHECK(in_window(0) == Approx(1200).margin(2));
  CHECK(in_window(600) == Approx(600).margin(2));
  CHECK(in_window(1200) == Approx(600).margin(3));
  CHECK(std::is_sorted(read.requests.begin(), read.requests.end(),
                       [](const TraceRequest& a, const TraceRequest& b) { return a.arrival < b.arrival; }));
}

TEST_CASE("ServeGen lengths follow the client's distribution (fixture)") {
  const Read read = generate(fixture_spec());
  int first = 0, short_input = 0;
  for (const TraceRequest& r : read.requests) {
    if (r.arrival >= SimTime() + seconds(600)) break;  // client 2 is silent until then
    ++first;
    short_input += r.prompt_tokens == 100;
    REQUIRE((r.prompt_tokens == 100 || r.prompt_tokens == 101));
    REQUIRE((r.output_tokens >= 10 && r.output_tokens <= 12));
  }
  CHECK(short_input == Approx(0.25 * first).epsilon(0.25));
}

TEST_CASE("ServeGen: seed, start, rate and number of requests") {
  const Read a = generate(fixture_spec()), b = generate(fixture_spec()), c = generate(fixture_spec(), 4);
  REQUIRE(a.requests.size() == b.requests.size());
  CHECK(a.requests.back().arrival == b.requests.back().arrival);
  CHECK(a.requests.front().arrival != c.requests.front().arrival);
  CHECK(generate(fixture_spec(5)).requests.size() == 5);
  GeneratorSpec late = fixture_spec();
  late.servegen->start_s = 900;
  const Read half = generate(late);
  CHECK(half.requests.front().arrival < SimTime() + seconds(20));
  CHECK(half.requests.size() == Approx(900).epsilon(0.1));
  GeneratorSpec scaled = fixture_spec();
  scaled.servegen->rate = 5;
  CHECK(generate(scaled).requests.size() == Approx(9000).margin(10));
}

TEST_CASE("mistakes in ServeGen profiles are located") {
  const TempFolder folder;
  CHECK(contains(to_string(load_servegen(folder.file("")).errors()), "no ServeGen client"));
  folder.write("chunk-1-trace.csv", "0,1,1,Gamma,1,1\n600,1,1,Pareto,1,1\n");
  CHECK(contains(to_string(load_servegen(folder.file("")).errors()), "chunk-1-trace.csv:2"));
  folder.write("chunk-1-trace.csv", "0,1,1,Gamma,1,1\n600,1,1,Gamma,1,1\n");
  CHECK(contains(to_string(load_servegen(folder.file("")).errors()), "chunk-1-dataset.json"));
  folder.write("chunk-1-dataset.json", R"({"0": {"input_tokens": "{5: 0.5}", "output_tokens": "{5: 1}"}})");
  CHECK(contains(to_string(load_servegen(folder.file("")).errors()), "0.input_tokens"));
}
