#include "catch.h"

#include "support.h"
#include "workloads/readers/csv.h"

using namespace orrery;
using namespace orrery::test;

namespace {

const std::string kAzure = "TIMESTAMP,ContextTokens,GeneratedTokens\n";
const std::string kFirst = "2023-11-16 23:59:59.9000000,374,44\n";

}  // namespace

TEST_CASE("calendar time") {
  CHECK(parse_calendar("1970-01-01 00:00:00") == 0);
  CHECK(parse_calendar("2000-02-29T00:00:01.5Z") == 951782401500000000);
  CHECK(parse_calendar("2024-05-10 00:00:00.009930+00:00") == 1715299200009930000);
  CHECK(parse_calendar("2024-05-10 02:00:00.009930+02:00") == 1715299200009930000);
  CHECK(parse_calendar("2024-05-09 19:30:00.009930-04:30") == 1715299200009930000);
  for (const char* bad :
       {"", "2023-11-16", "2023-02-29 00:00:00", "2023-13-01 00:00:00", "2023-11-16 24:00:00",
        "2023-11-16 18:15:46.", "2023-11-16 18:15:46 CET", "16.11.2023 18:15:46"}) {
    INFO(bad);
    CHECK_FALSE(parse_calendar(bad));
  }
}

TEST_CASE("decimals are exact") {
  CHECK(parse_decimal("12.0500001", 9) == 12050000100);
  CHECK(parse_decimal("7", 9) == 7000000000);
  CHECK(parse_decimal("0.1234567899", 9) == 123456789);
  for (const char* bad : {"", ".", "-1", "1e5", "nan", "1.2.3", "99999999999999999999"})
    CHECK_FALSE(parse_decimal(bad, 9));
  CHECK(parse_whole("120.0") == 120);
  CHECK_FALSE(parse_whole("120.5"));
}

TEST_CASE("Azure 2023: time counts from the first row, through midnight") {
  const TempFolder folder;
  const Read read =
      read_trace(folder.write("a.csv", kAzure + kFirst + "2023-11-17 00:00:00.0500001,396,109\r\n"));
  REQUIRE(read.error == "");
  REQUIRE(read.requests.size() == 2);
  CHECK(read.requests[0].arrival == SimTime());
  CHECK(read.requests[1].arrival == SimTime(150000100));
  CHECK(read.requests[1].prompt_tokens == 396);
  CHECK(read.requests[1].output_tokens == 109);
  CHECK(read.requests[1].max_output_tokens == 109);
}

TEST_CASE("Azure 2024 layout (fixture)") {
  const Read read = read_trace(fixture("azure_2024.csv"));
  REQUIRE(read.error == "");
  REQUIRE(read.requests.size() == 4);
  CHECK(read.requests[1].arrival == SimTime(7405000));
  CHECK(read.requests[3].arrival == SimTime(990070000));
}

TEST_CASE("BurstGPT layouts (fixtures)") {
  const Read first = read_trace(fixture("burstgpt_1.csv"));
  CHECK(first.requests.size() == 3);
  CHECK(first.where.line == 5);
  CHECK(first.where.column == 15);
  CHECK(first.key == "Response tokens");
  CHECK(contains(first.message, "orrery trace convert --drop-invalid"));
  const Read dropped = read_trace(fixture("burstgpt_1.csv"), {true, false});
  CHECK(dropped.error == "");
  CHECK(dropped.dropped == 1);
  REQUIRE(dropped.requests.size() == 4);
  CHECK(dropped.requests[3].arrival == SimTime() + seconds(116));

  const Read third = read_trace(fixture("burstgpt_3.csv"));
  REQUIRE(third.error == "");
  REQUIRE(third.requests.size() == 3);
  CHECK(third.requests[1].arrival == SimTime(51500000000));
  CHECK(third.requests[2].prompt_tokens == 1400);
  CHECK(third.requests[2].session == 0);
}

TEST_CASE("bad CSV rows are named with line, column and key") {
  struct Bad {
    const char* row;
    int column;
    const char* key;
    const char* message;
  };
  const Bad bad = GENERATE(values<Bad>({
      {"2023-11-17 00:00:00,10", 0, "", "expected 3 columns"},
      {"2023-11-17 00:00:00,10,5,7", 0, "", "expected 3 columns"},
      {"17.11.2023,10,5", 1, "TIMESTAMP", "such as 2023-11-16"},
      {"2023-11-17 00:00:00,ten,5", 21, "ContextTokens", "found \"ten\""},
      {"2023-11-17 00:00:00,10,0", 24, "GeneratedTokens", "--drop-invalid"},
      {"2023-11-17 00:00:00,10,-5", 24, "GeneratedTokens", "at least 1"},
      {"2023-11-17 00:00:00,10,nan", 24, "GeneratedTokens", "whole number"},
      {"2023-11-16 23:59:59,10,5", 0, "timestamp", "--sort"},
  }));
  const TempFolder folder;
  const Read read = read_trace(folder.write("a.csv", kAzure + kFirst + bad.row + "\n"));
  INFO(bad.row);
  INFO(read.error);
  CHECK(read.requests.size() == 1);
  CHECK(read.where.line == 3);
  CHECK(read.where.column == bad.column);
  CHECK(read.key == bad.key);
  CHECK(contains(read.message, bad.message));
}

TEST_CASE("bad CSV headers") {
  const TempFolder folder;
  const Read misspelt =
      read_trace(folder.write("a.csv", "TIMESTAMP,ContextToken,GeneratedTokens\n" + kFirst));
  CHECK(misspelt.where.line == 1);
  CHECK(contains(misspelt.message, "did you mean \"ContextTokens\""));
  CHECK(contains(read_trace(folder.write("b.csv", "TIMESTAMP,ContextTokens\n")).error, "GeneratedTokens"));
}
