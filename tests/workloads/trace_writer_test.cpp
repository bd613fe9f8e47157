#include "catch.h"

#include "support.h"
#include "workloads/priority.h"
#include "workloads/trace_writer.h"

using namespace orrery;
using namespace orrery::test;

TEST_CASE("what is written is read back unchanged") {
  TraceRequest request;
  request.arrival = SimTime(1'234'567'000'001);
  request.prompt_tokens = 1000;
  request.output_tokens = 20;
  request.max_output_tokens = 500;
  request.hash_ids = {1, 18446744073709551615ull};
  request.hash_block_size = 500;
  request.session = 18446744073709551615ull;
  request.priority = -3;
  request.images = {{640, 480}, {1, 2}};
  request.tenant = "quote \" and\nline";
  const TempFolder folder;
  const std::string path =
      folder.file(GENERATE(std::string("t.jsonl"), std::string("t.gz"), std::string("t.zst")));
  auto writer = TraceWriter::create(path);
  REQUIRE(writer.ok());
  writer->add(request);
  CHECK_FALSE(std::filesystem::exists(path));  // only a complete file appears
  REQUIRE(writer->commit().ok());
  const Read read = read_trace(path);
  REQUIRE(read.error == "");
  REQUIRE(read.requests.size() == 1);
  const TraceRequest& back = read.requests[0];
  CHECK(back.arrival == request.arrival);
  CHECK(back.prompt_tokens == request.prompt_tokens);
  CHECK(back.output_tokens == request.output_tokens);
  CHECK(back.max_output_tokens == request.max_output_tokens);
  CHECK(back.hash_ids == request.hash_ids);
  CHECK(back.hash_block_size == request.hash_block_size);
  CHECK(back.session == request.session);
  CHECK(back.priority == request.priority);
  CHECK(back.images.size() == 2);
  CHECK(back.images[1].height == 2);
  CHECK(back.tenant == request.tenant);
}

TEST_CASE("defaults are left out and time is exact") {
  TraceRequest request;
  request.arrival = SimTime(4'314'579'000);
  request.prompt_tokens = 396;
  request.output_tokens = request.max_output_tokens = 109;
  request.priority = no_priority;  // 0 is one, which SGLang sets before none
  std::string line;
  append_trace_line(line, request);
  CHECK(line == R"({"timestamp": 4314.579, "input_length": 396, "output_length": 109})");
}

TEST_CASE("an abandoned file leaves nothing") {
  const TempFolder folder;
  {
    auto writer = TraceWriter::create(folder.file("t.jsonl"));
    REQUIRE(writer.ok());
    writer->add(TraceRequest{});
  }
  CHECK(std::filesystem::is_empty(folder.file("")));
}
