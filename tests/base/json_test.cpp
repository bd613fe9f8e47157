#include "base/json.h"

#include <bit>
#include <charconv>
#include <cmath>
#include <limits>

#include "base/random.h"
#include "catch.h"
#include "support.h"

using namespace orrery;
using namespace orrery::test;

namespace {

std::string error_of(const std::string& text) {
  const auto result = parse_json(text, "f.json");
  if (result.ok()) return "no error";
  std::string errors = to_string(result.errors());
  errors.pop_back();
  return errors;
}

std::string nested(std::size_t depth) { return std::string(depth, '[') + std::string(depth, ']'); }

}  // namespace

TEST_CASE("a duplicate key is refused with both places") {
  CHECK(error_of("{\n  \"a\": 1,\n  \"b\": {\"a\": 2,\n    \"a\": 3}\n}") ==
        "f.json:4:5: invalid JSON: duplicate key \"a\"; it stands in line 3 already");
  CHECK(contains(error_of("{\"x\": 1, \"x\": 1}"), "f.json:1:10: "));
  CHECK(contains(error_of("\xEF\xBB\xBF{\"x\": 1,\n\"x\": 1}"), "f.json:2:1: "));
  // An escape may hide the likeness and the start of the literal.
  CHECK(contains(error_of(R"({"\"\\": 1, "\u0022\\": 1})"), "f.json:1:13: "));
  CHECK(parse_json(R"([{"a": 1}, {"a": 1}, {"b": {"a": 1}, "a": 2}])", "f.json").ok());
}

TEST_CASE("nesting is bounded at 200 levels and millions of brackets do no harm") {
  CHECK(parse_json(nested(200), "f.json").ok());
  CHECK(error_of(nested(201)) == "f.json:1:201: invalid JSON: nested deeper than 200 levels");
  CHECK(contains(error_of(std::string(5'000'000, '[')), "nested deeper"));
  std::string objects;
  for (int i = 0; i < 300; ++i) objects += "{\"a\":\n";
  CHECK(contains(error_of(objects), "f.json:201:1: "));
}

TEST_CASE("what JSON does not have is refused where it stands") {
  CHECK(contains(error_of("{\"a\": NaN}"), "f.json:1:7: invalid JSON: syntax error"));
  CHECK(contains(error_of("[Infinity]"), "f.json:1:2: "));
  CHECK(contains(error_of("{\"a\":\n 1e999}"), "f.json:2:6: invalid JSON: number overflow"));
  CHECK(contains(error_of("[010]"), "f.json:1:4: "));  // the end of the second number
  CHECK(contains(error_of("{} x"), "f.json:1:4: "));
  CHECK(contains(error_of("[1,]"), "f.json:1:4: "));
  CHECK(contains(error_of("// no\n{}"), "f.json:1:"));
  CHECK(contains(error_of("{\"a\": [1,\n2"), "unexpected end of input"));
  CHECK(contains(error_of(""), "unexpected end of input"));
  CHECK(contains(error_of("{\"a\": \"\xff\"}"), "ill-formed UTF-8"));
}

TEST_CASE("bytes become line and column") {
  const std::string text = "ab\ncd\n";
  CHECK(locate(text, 0, "f").line == 1);
  CHECK(locate(text, 0, "f").column == 1);
  CHECK(locate(text, 4, "f").line == 2);
  CHECK(locate(text, 4, "f").column == 2);
  CHECK(locate(text, 99, "f").line == 3);
}

TEST_CASE("canonical JSON keeps the writer's order and ends in a newline") {
  Json value;
  value["z"] = 1;
  value["a"] = Json::array({1.5, true, nullptr, "ä\n\"", Json::object(), Json::array()});
  value["n"] = std::numeric_limits<double>::quiet_NaN();
  value["i"] = -std::numeric_limits<double>::infinity();
  value["big"] = std::numeric_limits<std::uint64_t>::max();
  CHECK(
      canonical_json(value) ==
      "{\n  \"z\": 1,\n  \"a\": [\n    1.5,\n    true,\n    null,\n    \"ä\\n\\\"\",\n    {},\n    []\n  ],\n"
      "  \"n\": null,\n  \"i\": null,\n  \"big\": 18446744073709551615\n}\n");
  CHECK(canonical_json(Json("\xff")) == "\"\xEF\xBF\xBD\"\n");
  const auto again = parse_json(canonical_json(value), "f.json");
  REQUIRE(again.ok());
  CHECK(canonical_json(*again) == canonical_json(value));
}

TEST_CASE("numbers are the shortest that read back as the same double") {
  CHECK(format_number(0.1) == "0.1");
  CHECK(format_number(-0.0) == "0");
  CHECK(format_number(3) == "3");
  CHECK(format_number(1e300) == "1e+300");
  CHECK(format_number(std::nan("")) == "");
  RandomStream random(1, RandomPurpose::property_test);
  for (int i = 0; i < 20'000; ++i) {
    const double value = std::bit_cast<double>(random.bits());
    if (!std::isfinite(value)) continue;
    const std::string text = format_number(value);
    double back = 0;
    std::from_chars(text.data(), text.data() + text.size(), back);
    REQUIRE(back == value);
  }
}

TEST_CASE("fixed decimals round the exact value, ties to even") {
  CHECK(format_fixed(0.125, 2) == "0.12");
  CHECK(format_fixed(0.375, 2) == "0.38");
  CHECK(format_fixed(2.5, 0) == "2");
  CHECK(format_fixed(1.005, 2) == "1.00");  // the double is below 1.005
  CHECK(format_fixed(-1.5, 3) == "-1.500");
  CHECK(format_fixed(-0.001, 2) == "0.00");
  CHECK(format_fixed(1e300, 1).size() == 303);
  CHECK(format_fixed(std::nan(""), 2) == "");
}

TEST_CASE("nanoseconds print as seconds without going through a double") {
  CHECK(format_nanoseconds_as_seconds(0) == "0.000000000");
  CHECK(format_nanoseconds_as_seconds(1'500'000'000) == "1.500000000");
  CHECK(format_nanoseconds_as_seconds(-1) == "-0.000000001");
  CHECK(format_nanoseconds_as_seconds(INT64_MAX) == "9223372036.854775807");
  CHECK(format_nanoseconds_as_seconds(INT64_MIN) == "-9223372036.854775808");
}

TEST_CASE("files that are no JSON give an error that names them") {
  const TempFolder folder;
  CHECK(contains(to_string(load_json(folder.file("none.json")).errors()), "none.json: no such file"));
  const auto broken = load_json(folder.write("b.json", "{\n\"a\": }"));
  REQUIRE_FALSE(broken.ok());
  CHECK(broken.errors()[0].where.file == folder.file("b.json"));
  CHECK(broken.errors()[0].where.line == 2);
  CHECK(broken.errors()[0].where.column == 6);
}

TEST_CASE("damaged JSON is read or refused, never more") {
  const std::string good = R"({"a": [1, 2.5e3, {"b": "x\u00e4\n"}], "c": null, "d": true})";
  RandomStream random(7, RandomPurpose::property_test);
  int refused = 0;
  for (int i = 0; i < 5000; ++i) {
    std::string text = good;
    for (std::uint64_t k = 0; k <= random.below(4); ++k) {
      text[random.below(text.size())] = static_cast<char>(random.below(256));
    }
    const auto result = parse_json(text, "f.json");
    if (result.ok()) continue;
    ++refused;
    REQUIRE(result.errors().size() == 1);
    REQUIRE(result.errors()[0].where.line >= 1);
    REQUIRE(result.errors()[0].where.column <= static_cast<int>(text.size()) + 1);
  }
  CHECK(refused > 2500);
}
