#include "catch.h"

#include <sys/resource.h>

#include "support.h"
#include "workloads/trace_writer.h"

using namespace orrery;
using namespace orrery::test;

namespace {

std::string line_at(double ms) {
  return "{\"timestamp\": " + std::to_string(ms) + ", \"input_length\": 9, \"output_length\": 1}\n";
}

long peak_rss_kib() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss;
}

}  // namespace

TEST_CASE("time that goes back is an error that names the remedy") {
  const TempFolder folder;
  const std::string path = folder.write("t.jsonl", line_at(5) + line_at(7) + "\n" + line_at(6));
  const Read read = read_trace(path);
  CHECK(read.requests.size() == 2);
  CHECK(read.where.line == 4);
  CHECK(read.key == "timestamp");
  CHECK(contains(read.message, "orrery trace convert --sort"));
  CHECK(contains(read.message, "line 2"));
  CHECK(read_trace(path, {false, true}).requests.size() == 3);
}

TEST_CASE("equal time stamps keep the file's order") {
  const TempFolder folder;
  const Read read = read_trace(folder.write("t.jsonl", line_at(5) + line_at(5)));
  REQUIRE(read.requests.size() == 2);
  CHECK(read.requests[1].index == 1);
}

TEST_CASE("invalid rows are dropped and counted when asked, and do not count in the index") {
  const TempFolder folder;
  const std::string path = folder.write("t.jsonl", line_at(1) + "nonsense\n" + line_at(2) + "{}\n");
  const Read read = read_trace(path, {true, false});
  CHECK(read.error == "");
  REQUIRE(read.requests.size() == 2);
  CHECK(read.requests[1].index == 1);
  CHECK(read.dropped == 2);
}

TEST_CASE("a truncated compressed trace is an error, whatever was read before") {
  const TempFolder folder;
  const std::string name = GENERATE(std::string("t.jsonl.zst"), std::string("t.jsonl.gz"));
  auto writer = TraceWriter::create(folder.file(name));
  REQUIRE(writer.ok());
  TraceRequest request;
  for (int i = 0; i < 5000; ++i) {
    request.arrival = SimTime(std::int64_t{i} * i * 1000);
    request.prompt_tokens = 1 + i * 7919 % 4001;
    request.output_tokens = request.max_output_tokens = 1 + i * 104729 % 997;
    writer->add(request);
  }
  REQUIRE(writer->commit().ok());
  CHECK(read_trace(folder.file(name)).requests.size() == 5000);
  const std::string bytes = read_bytes(folder.file(name));
  const Read read =
      read_trace(folder.write("cut-" + name, std::string_view(bytes).substr(0, bytes.size() * 2 / 3)));
  CHECK(read.requests.size() < 5000);
  CHECK(read.error != "");
  CHECK(contains(read.error, "cut-" + name));
}

TEST_CASE("a line without end is refused in bounded memory") {
  const TempFolder folder;
  const long before = peak_rss_kib();
  {
    std::ofstream out(folder.file("t.jsonl"), std::ios::binary);
    out << line_at(1);
    const std::string block(1 << 20, 'a');
    for (int i = 0; i < 150; ++i) out << block;
  }
  const Read read = read_trace(folder.file("t.jsonl"));
  CHECK(read.requests.size() == 1);
  CHECK(read.error != "");
  CHECK(peak_rss_kib() - before < 100 * 1024);
}

TEST_CASE("what is no trace is refused") {
  const TempFolder folder;
  CHECK(contains(read_trace(folder.file("absent.jsonl")).error, "absent.jsonl"));
  CHECK(contains(read_trace(folder.file("")).error, "directory"));
  CHECK(contains(read_trace(folder.write("empty.jsonl", "")).error, "empty"));
  CHECK(contains(read_trace(folder.write("blank.jsonl", "\n  \n")).error, "empty"));
  CHECK(contains(read_trace(folder.write("prose.txt", "Dear Sir\n")).error, "no trace format"));
  CHECK(read_trace(folder.write("binary", std::string("\x7f"
                                                      "ELF\0\1\2\n",
                                                      8)))
            .error != "");
  CHECK(contains(read_trace(fixture("servegen")).error, "servegen"));
}
