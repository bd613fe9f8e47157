#include "base/text.h"

#include "catch.h"

using namespace orrery;

TEST_CASE("a near name is suggested, a far one is not") {
  const std::vector<std::string> names = {"h100_sxm", "h200_sxm", "mi300x"};
  CHECK(did_you_mean("h200_smx", names) == " (did you mean \"h200_sxm\"?)");
  CHECK(did_you_mean("modle", {"mode", "model"}) == " (did you mean \"mode\"?)");  // the first of the nearest
  CHECK(did_you_mean("bf61", {"fp8", "bf16"}) == " (did you mean \"bf16\"?)");
  CHECK(did_you_mean("mi300", names) == " (did you mean \"mi300x\"?)");
  CHECK(did_you_mean("tpu", names) == "");
  CHECK(did_you_mean("anything", {}) == "");
  CHECK(did_you_mean(std::string(1'000'000, 'x'), names) == "");
  CHECK(did_you_mean("ab", {"ac", "ab"}) == " (did you mean \"ab\"?)");
}

TEST_CASE("sizes, times and counts read well at the edges of their units") {
  CHECK(human_bytes(0) == "0 B");
  CHECK(human_bytes(999) == "999 B");
  CHECK(human_bytes(1000) == "1.0 kB");
  CHECK(human_bytes(999'960) == "1.0 MB");
  CHECK(human_bytes(141e9) == "141.0 GB");
  CHECK(human_bytes(5e18) == "5000.0 PB");
  CHECK(human_seconds(0) == "0 s");
  CHECK(human_seconds(5e-9) == "5 ns");
  CHECK(human_seconds(1.24e-3) == "1.24 ms");
  CHECK(human_seconds(3.2) == "3.20 s");
  CHECK(human_seconds(125) == "2 min 5 s");
  CHECK(human_seconds(7500) == "2 h 5 min");
  CHECK(human_count(0) == "0");
  CHECK(human_count(12345) == "12,345");
  CHECK(human_count(-123456) == "-123,456");
  CHECK(human_count(999) == "999");
  CHECK(human_count(1.2e6) == "1.20 M");
}

TEST_CASE("time just below a unit's end does not spill over it") {
  CHECK(human_seconds(179.7) == "3 min 0 s");
  CHECK(human_seconds(-300) == "-5 min 0 s");
}

TEST_CASE("quoted text shows control characters and is cut between characters") {
  CHECK(quote("a\"b\\c") == "\"a\\\"b\\\\c\"");
  CHECK(quote(std::string("\x01\n\x7f", 3)) == "\"\\x01\\x0a\\x7f\"");
  CHECK(quote(std::string(80, 'x')) == "\"" + std::string(80, 'x') + "\"");
  CHECK(quote(std::string(81, 'x')) == "\"" + std::string(80, 'x') + "…\"");
  CHECK(quote(std::string(79, 'x') + "ä") == "\"" + std::string(79, 'x') + "…\"");
}

TEST_CASE("a table lines up by characters, not bytes") {
  TextTable table({"name", "µs"});
  table.add({"ä", "1.5"});
  table.add({"gemm", "12.25"});
  CHECK(table.to_string() ==
        "name     µs\n"
        "-----------\n"
        "ä       1.5\n"
        "gemm  12.25\n");
}

TEST_CASE("join puts the separator between, not around") {
  CHECK(join({}, ", ") == "");
  CHECK(join({"a"}, ", ") == "a");
  CHECK(join({"a", "b"}, ", ") == "a, b");
}
