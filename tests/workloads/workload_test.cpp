#include "catch.h"

#include "support.h"
#include "workloads/workload.h"

using namespace orrery;
using namespace orrery::test;

namespace {

struct Parsed {
  WorkloadSpec spec;
  std::string errors;
};

Parsed parse(const std::string& yaml, const std::string& folder = "") {
  auto document = YamlDocument::parse(yaml, "s.yaml");
  REQUIRE(document.ok());
  Parsed parsed;
  parsed.spec = read_workload(document->root(), folder);
  document->finish();
  parsed.errors = to_string(document->errors());
  return parsed;
}

std::string three_lines(const TempFolder& folder) {
  std::string text;
  for (const char* ms : {"1000", "2000", "4000"}) {
    text += std::string("{\"timestamp\": ") + ms + ", \"input_length\": 9, \"output_length\": 1}\n";
  }
  return folder.write("t.jsonl", text);
}

Read open_and_drain(const WorkloadSpec& spec, std::uint64_t seed = 1) {
  auto source = open_workload(spec, seed);
  if (source.ok()) return drain(**source);
  Read read;
  note(read, source.errors().front());
  return read;
}

}  // namespace

TEST_CASE("all keys of a workload") {
  const Parsed parsed = parse(
      "{trace: a/b.jsonl, time_scale: 2.5, closed_loop: {concurrency: 32}, "
      "limit: {requests: 10, duration_s: 1.5}, frontend: none, warmup_s: 2.5}",
      "/data");
  CHECK(parsed.errors == "");
  CHECK(parsed.spec.trace == "/data/a/b.jsonl");
  CHECK(parsed.spec.time_scale == 2.5);
  CHECK(parsed.spec.closed_loop_concurrency == 32);
  CHECK(parsed.spec.limit_requests == 10);
  CHECK(parsed.spec.limit_duration_s == 1.5);
  CHECK(parsed.spec.warmup_s == 2.5);
}

TEST_CASE("mistakes in a workload") {
  const std::string generator =
      "generator: {requests: 3, arrivals: {rate: 1}, input: {distribution: fixed, value: 5}, "
      "output: {distribution: fixed, value: 5}}";
  CHECK(parse("{" + generator + "}").errors == "");
  CHECK(contains(parse("{trace: x, " + generator + "}").errors, "either a trace or a generator"));
  CHECK(contains(parse("{trace: x, frontend: http}").errors, "frontend"));
  CHECK(contains(parse("{trace: x, client: {timeout_s: 0}}").errors, "more than 0 seconds"));
  CHECK(contains(parse("{trace: x, client: {disconnect: {share: 0.1}}}").errors, "after_s"));
  CHECK(contains(parse("{trace: x, client: {disconnect: {share: 1.5, after_s: 1}}}").errors, "share"));
  CHECK(contains(parse("{trace: x, warmup_s: -1}").errors, "warmup_s"));
  CHECK(contains(parse("{trace: x, time_scale: 0}").errors, "time_scale"));
  CHECK(contains(parse("{trace: x, closed_loop: {concurrency: 0}}").errors, "closed_loop.concurrency"));
  CHECK(contains(parse("{trace: x, closed_loop: {}}").errors, "concurrency"));
  CHECK(contains(parse("{trace: x, limit: {requests: 0}}").errors, "limit.requests"));
  CHECK(contains(parse("{trace: x, limits: {}}").errors, "did you mean \"limit\""));
  CHECK(parse("{time_scale: 1}").errors == "");  // --trace may follow; opening says what is missing
}

TEST_CASE("mistakes in a generator") {
  const std::string head = "generator: {requests: 3, arrivals: ";
  const std::string lengths =
      ", input: {distribution: fixed, value: 5}, output: {distribution: fixed, value: 5}";
  const auto errors = [&](const std::string& text) { return parse("{" + text + "}").errors; };
  CHECK(contains(errors(head + "{rate: 0}" + lengths + "}"), "arrivals.rate"));
  CHECK(contains(errors(head + "{process: gama, rate: 1}" + lengths + "}"), "gamma"));
  CHECK(contains(errors(head + "{process: gamma, rate: 1}" + lengths + "}"), "cv"));
  CHECK(contains(errors(head + "{rate: 1, cv: 2}" + lengths + "}"), "cv"));  // a Poisson process has none to
                                                                             // set
  CHECK(contains(errors(head + "{rate: 1}, resample: x.jsonl" + lengths + "}"), "resample replaces"));
  CHECK(contains(
      errors(
          head +
          "{rate: 1}, input: {distribution: fixed, value: 200000}, output: {distribution: fixed, value: 1}}"),
      "outside the bounds"));
  CHECK(contains(errors(head + "{rate: 1}, input: {distribution: empirical, quantiles: [5, 3]}, "
                               "output: {distribution: fixed, value: 1}}"),
                 "must not decrease"));
  CHECK(contains(errors(head + "{rate: 1}" + lengths + ", sessions: {turns_mean: 0.5}}"), "turns_mean"));
  CHECK(contains(errors("generator: {requests: 3, servegen: {folder: x}, arrivals: {rate: 1}}"), "arrivals"));
}

TEST_CASE("time scale divides arrivals; limits cut") {
  const TempFolder folder;
  WorkloadSpec spec;
  spec.trace = three_lines(folder);
  spec.time_scale = 2;
  Read read = open_and_drain(spec);
  REQUIRE(read.requests.size() == 3);
  CHECK(read.requests[0].arrival == SimTime(500'000'000));  // not rebased
  CHECK(read.requests[2].arrival == SimTime(2'000'000'000));
  spec.limit_duration_s = 2;  // in simulated time; at the limit is out
  CHECK(open_and_drain(spec).requests.size() == 2);
  spec.limit_requests = 1;
  CHECK(open_and_drain(spec).requests.size() == 1);
  spec.limit_duration_s = 0.25;
  CHECK(contains(open_and_drain(spec).error, "no request arrives before"));
}

TEST_CASE("a workload that cannot be opened") {
  const TempFolder folder;
  WorkloadSpec spec;
  CHECK(contains(open_and_drain(spec).error, "expected a trace, a generator or --trace"));
  spec.trace = folder.file("");
  CHECK(contains(open_and_drain(spec).error, "directory"));
  spec.trace = folder.write("header.csv", "TIMESTAMP,ContextTokens,GeneratedTokens\n");
  CHECK(contains(open_and_drain(spec).error, "empty"));
  spec.trace = folder.write("bad.jsonl", "{}\n");
  CHECK(contains(open_and_drain(spec).error, "bad.jsonl:1"));
}
