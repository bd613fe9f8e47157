#include "catch.h"

#include "base/random.h"
#include "support.h"
#include "workloads/priority.h"

using namespace orrery;
using namespace orrery::test;

namespace {

const std::string kGood = R"({"timestamp": 0, "input_length": 900, "output_length": 120})";

Read read_second_line(const std::string& line) {
  const TempFolder folder;
  return read_trace(folder.write("t.jsonl", kGood + "\n" + line + "\n"));
}

struct BadLine {
  const char* line;
  int column;  // 0 = the whole line
  const char* key;
  const char* message;  // part of it
};

}  // namespace

TEST_CASE("every key of the format is read") {
  const Read read = read_second_line(
      R"({"timestamp": 1234.5, "input_length": 900, "output_length": 120, "hash_ids": [7, 8, 31], "hash_block_size": 300, )"
      R"("session": 12, "max_output_tokens": 4096, "priority": -2, "images": [{"width": 640, "height": 480}], "tenant": "a\"b"})");
  REQUIRE(read.error == "");
  REQUIRE(read.requests.size() == 2);
  const TraceRequest& plain = read.requests[0];
  CHECK(plain.max_output_tokens == 120);
  CHECK(plain.hash_block_size == 512);
  CHECK(plain.hash_ids.empty());
  const TraceRequest& full = read.requests[1];
  CHECK(full.index == 1);
  CHECK(full.arrival == SimTime(1'234'500'000));
  CHECK(full.prompt_tokens == 900);
  CHECK(full.output_tokens == 120);
  CHECK(full.max_output_tokens == 4096);
  CHECK(full.hash_ids == std::vector<std::uint64_t>{7, 8, 31});
  CHECK(full.hash_block_size == 300);
  CHECK(full.session == 12);
  CHECK(full.priority == -2);
  REQUIRE(full.images.size() == 1);
  CHECK(full.images[0].width == 640);
  CHECK(full.images[0].height == 480);
  CHECK(full.tenant == "a\"b");
}

TEST_CASE("nothing of one line survives into the next") {
  const TempFolder folder;
  const Read read = read_trace(folder.write(
      "t.jsonl",
      R"({"timestamp": 0, "input_length": 600, "output_length": 2, "hash_ids": [1, 2], "session": 3, "tenant": "x", "priority": 1})"
      "\n" +
          kGood + "\n"));
  REQUIRE(read.requests.size() == 2);
  CHECK(read.requests[1].hash_ids.empty());
  CHECK(read.requests[1].session == 0);
  CHECK(read.requests[1].tenant.empty());
  CHECK(read.requests[1].priority == no_priority);
}

TEST_CASE("surplus hash ids are dropped and keys may come in any order") {
  const Read read =
      read_second_line(R"({"hash_ids":[1,2,3,4],"output_length":5,"input_length":513,"timestamp":7e0})");
  REQUIRE(read.error == "");
  CHECK(read.requests[1].hash_ids == std::vector<std::uint64_t>{1, 2});
  CHECK(read.requests[1].arrival == SimTime(7'000'000));
}

TEST_CASE("text sessions are told apart") {
  const TempFolder folder;
  const std::string rest = R"("input_length": 9, "output_length": 1, "session": )";
  const Read read =
      read_trace(folder.write("t.jsonl", "{\"timestamp\": 0, " + rest + "\"a\"}\n{\"timestamp\": 0, " + rest +
                                             "\"b\"}\n{\"timestamp\": 0, " + rest + "\"a\"}\n"));
  REQUIRE(read.requests.size() == 3);
  CHECK(read.requests[0].session != 0);
  CHECK(read.requests[0].session == read.requests[2].session);
  CHECK(read.requests[0].session != read.requests[1].session);
}

TEST_CASE("a bad line is named with its place and what was expected") {
  const BadLine bad = GENERATE(values<BadLine>({
      {R"({"timestamp": 1, "input_lenght": 5, "output_length": 5})", 18, "input_lenght",
       "did you mean \"input_length\""},
      {R"({"timestamp": 1, "timestamp": 2, "input_length": 5, "output_length": 5})", 18, "timestamp",
       "twice"},
      {R"({"timestamp": 1, "input_length": 5})", 0, "output_length", "missing"},
      {R"({"input_length": 5, "output_length": 5})", 0, "timestamp", "missing"},
      {R"({"timestamp": 1, "input_length": 0, "output_length": 5})", 34, "input_length", "at least 1"},
      {R"({"timestamp": 1, "input_length": -4, "output_length": 5})", 34, "input_length", "found \"-4\""},
      {R"({"timestamp": 1, "input_length": 5, "output_length": 2.5})", 54, "output_length", "whole number"},
      {R"({"timestamp": 1, "input_length": "5", "output_length": 5})", 34, "input_length", "whole number"},
      {R"({"timestamp": 1, "input_length": 99999999999999999999, "output_length": 5})", 34, "input_length",
       "whole number"},
      {R"({"timestamp": 1, "input_length": 3000000000, "output_length": 5})", 34, "input_length",
       "at most 1000000000"},
      {R"({"timestamp": 1, "input_length": true, "output_length": 5})", 34, "input_length", "found \"true\""},
      {R"({"timestamp": NaN, "input_length": 5, "output_length": 5})", 15, "timestamp", "found \"NaN\""},
      {R"({"timestamp": -1, "input_length": 5, "output_length": 5})", 15, "timestamp", "at least 0"},
      {R"({"timestamp": 1e300, "input_length": 5, "output_length": 5})", 15, "timestamp", "at most 2e12"},
      {R"({"timestamp": null, "input_length": 5, "output_length": 5})", 15, "timestamp", "number"},
      {R"({"timestamp": 1, "input_length": 513, "output_length": 5, "hash_ids": [4]})", 0, "hash_ids",
       "need 2"},
      {R"({"timestamp": 1, "input_length": 5, "output_length": 5, "hash_ids": [-4]})", 70, "hash_ids",
       "at least 0"},
      {R"({"timestamp": 1, "input_length": 5, "output_length": 5, "hash_ids": 4})", 69, "hash_ids", "list"},
      {R"({"timestamp": 1, "input_length": 5, "output_length": 5, "max_output_tokens": 4})", 0,
       "max_output_tokens", "less than"},
      {R"({"timestamp": 1, "input_length": 5, "output_length": 5, "images": [{"width": 5}]})", 68, "images",
       "both"},
      {R"({"timestamp": 1, "input_length": 5, "output_length": 5, "lora": "x"})", 57, "lora",
       "does not model LoRA"},
      {R"({"timestamp": 1, "input_length": 5, "output_length": 5, "structured_output": {}})", 57,
       "structured_output", "does not model structured output"},
      {R"({"timestamp": 1, "input_length": 5, "output_length": 5, "guided_json": {}})", 57, "guided_json",
       "does not model"},
      {R"({"timestamp": 1, "input_length": 5, "output_length": 5} {})", 57, "", "one object a line"},
      {R"({"timestamp": 1, "input_length": 5, "output_length": 5} x)", 0, "", "does text follow the object"},
      {R"({"timestamp": 1, "input_length": 5, "output_le)", 0, "", "not a complete JSON object"},
      {R"({"timestamp": 1, "input_length": 5, "output_length": 5)", 0, "", "not a complete JSON object"},
      {R"([1, 2])", 0, "", "not a complete JSON object"},
      {"hello", 0, "", "not a complete JSON object"},
  }));
  const Read read = read_second_line(bad.line);
  INFO(bad.line);
  INFO(read.error);
  CHECK(read.requests.size() == 1);
  CHECK(read.where.line == 2);
  if (bad.column != 0) CHECK(read.where.column == bad.column);
  CHECK(read.key == bad.key);
  CHECK(contains(read.message, bad.message));
}

TEST_CASE("a cut-off number is not completed by what an earlier line left in the buffer") {
  const Read read = read_second_line(R"({"timestamp": 0, "input_length": 90)");
  CHECK(read.where.line == 2);
  CHECK(contains(read.message, "not a complete JSON object"));
}

TEST_CASE("whatever a line holds, it is read within the rules or refused with its place") {
  const TempFolder folder;
  RandomStream random(11, RandomPurpose::property_test);
  const std::string good =
      R"({"timestamp": 12.5, "input_length": 900, "output_length": 120, "hash_ids": [7, 8], "session": 3, )"
      R"("images": [{"width": 6, "height": 4}], "tenant": "a"})";
  const std::string alphabet = "\"{}[],:0123456789.-eE \\tnulrafs\t\x80\xff";
  std::string text;
  constexpr std::uint64_t kLines = 20'000;
  for (std::uint64_t i = 0; i < kLines; ++i) {
    std::string line = good;
    for (std::uint64_t edits = 1 + random.below(4); edits > 0; --edits) {
      const std::size_t at = random.below(line.size());
      switch (random.below(4)) {
        case 0: line[at] = alphabet[random.below(alphabet.size())]; break;
        case 1: line.erase(at, 1 + random.below(12)); break;
        case 2: line.insert(at, 1, alphabet[random.below(alphabet.size())]); break;
        default: {
          const std::size_t from = random.below(line.size());  // apart: the order of arguments is not defined
          line.insert(at, line.substr(from, random.below(20)));
          break;
        }
      }
      if (line.empty()) line = "x";
    }
    text += line + "\n";
  }
  const Read read = read_trace(folder.write("t.jsonl", good + "\n" + text), {true, true});
  CHECK(read.error == "");
  CHECK(read.dropped > kLines / 2);
  CHECK(read.requests.size() > kLines / 100);
  for (const TraceRequest& r : read.requests) {
    REQUIRE(r.prompt_tokens >= 1);
    REQUIRE(r.output_tokens >= 1);
    REQUIRE(r.max_output_tokens >= r.output_tokens);
    REQUIRE(r.arrival >= SimTime());
    REQUIRE((r.hash_ids.empty() ||
             r.hash_ids.size() ==
                 static_cast<std::size_t>((r.prompt_tokens + r.hash_block_size - 1) / r.hash_block_size)));
  }
}
