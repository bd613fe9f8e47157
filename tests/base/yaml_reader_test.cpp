// Typed access: what is accepted, what is refused, and that errors add up.
#include "base/yaml_reader.h"

#include <clocale>
#include <cmath>

#include "catch.h"
#include "support.h"

using namespace orrery;
using namespace orrery::test;

namespace {

YamlDocument parsed(const std::string& text) {
  auto document = YamlDocument::parse(text, "f.yaml");
  REQUIRE(document.ok());
  return std::move(document).value();
}

// The errors after `use` has read the scalar of `v: <scalar>`.
template <class Use>
std::string after(const std::string& scalar, Use use) {
  const YamlDocument document = parsed("v: " + scalar + "\n");
  use(document.root().require("v"));
  return to_string(document.errors());
}

std::string integer_error(const std::string& scalar) {
  return after(scalar, [](const Yaml& v) { CHECK(v.integer(-7) == -7); });
}
std::string number_error(const std::string& scalar) {
  return after(scalar, [](const Yaml& v) { CHECK(v.number(-7) == -7); });
}

}  // namespace

TEST_CASE("whole numbers are JSON's") {
  for (const auto& [text, value] : std::vector<std::pair<std::string, std::int64_t>>{
           {"0", 0}, {"-0", 0}, {"10", 10}, {"-5", -5}, {"9223372036854775807", INT64_MAX}}) {
    const YamlDocument document = parsed("v: " + text + "\n");
    CHECK(document.root().require("v").integer() == value);
    CHECK(document.errors().empty());
  }
  for (const char* text : {"010", "0x10", "0o7", "1_000", "+1", "1.0", "1e3", "9223372036854775808", "\"5\"",
                           "yes", "1 2", "12:30", "[1]", "٣", ""}) {
    INFO(text);
    CHECK(contains(integer_error(text), "v: expected a whole number"));
  }
  CHECK(integer_error("010") == "f.yaml:1:4: v: expected a whole number, found \"010\"\n");
}

TEST_CASE("decimal numbers are JSON's and finite") {
  for (const auto& [text, value] : std::vector<std::pair<std::string, double>>{
           {"4.6e12", 4.6e12}, {"-0.5", -0.5}, {"1E-3", 1e-3}, {"0", 0}, {"3", 3}, {"1e+2", 100}}) {
    const YamlDocument document = parsed("v: " + text + "\n");
    CHECK(document.root().require("v").number() == value);
    CHECK(document.errors().empty());
  }
  for (const char* text : {".5", "1.", "+1.0", "01.5", ".nan", ".inf", "-.inf", "nan", "inf", "1e999", "1e",
                           "1,5", "0x1p3", "\"1.5\"", "true", ""}) {
    INFO(text);
    CHECK(contains(number_error(text), "v: expected a number"));
  }
}

TEST_CASE("numbers do not depend on the locale") {
  if (std::setlocale(LC_NUMERIC, "de_DE.UTF-8") == nullptr &&
      std::setlocale(LC_NUMERIC, "C.UTF-8") == nullptr) {
    WARN("skipped: no second locale is installed");
  }
  CHECK(parsed("v: 1.5\n").root().require("v").number() == 1.5);
  std::setlocale(LC_NUMERIC, "C");
}

TEST_CASE("ranges are part of the error") {
  CHECK(after("0", [](const Yaml& v) { CHECK(v.integer(3, 1, 8) == 3); }) ==
        "f.yaml:1:4: v: expected a whole number from 1 to 8, found \"0\"\n");
  CHECK(after("0", [](const Yaml& v) { (void)v.integer(3, 1); }) ==
        "f.yaml:1:4: v: expected a whole number of at least 1, found \"0\"\n");
  CHECK(after("1.5", [](const Yaml& v) { CHECK(v.number(0.5, 0, 1) == 0.5); }) ==
        "f.yaml:1:4: v: expected a number from 0 to 1, found \"1.5\"\n");
  CHECK(after("8", [](const Yaml& v) { CHECK(v.integer(3, 1, 8) == 8); }) == "");
}

TEST_CASE("only true and false are booleans") {
  CHECK(after("true", [](const Yaml& v) { CHECK(v.boolean(false)); }) == "");
  CHECK(after("false", [](const Yaml& v) { CHECK_FALSE(v.boolean(true)); }) == "");
  for (const char* text : {"yes", "no", "on", "off", "True", "FALSE", "y", "1", "\"true\"", "~", "[true]"}) {
    INFO(text);
    CHECK(contains(after(text, [](const Yaml& v) { CHECK(v.boolean(true)); }), "v: expected true or false"));
  }
}

TEST_CASE("text stays as written, and containers are not text") {
  CHECK(after("yes", [](const Yaml& v) { CHECK(v.text() == "yes"); }) == "");
  CHECK(after("010", [](const Yaml& v) { CHECK(v.text() == "010"); }) == "");
  CHECK(after("\"a: b\"", [](const Yaml& v) { CHECK((v.text() == "a: b" && v.quoted())); }) == "");
  CHECK(contains(after("[a]", [](const Yaml& v) { CHECK(v.text("d") == "d"); }),
                 "expected text, found a list"));
  CHECK(contains(after("~", [](const Yaml& v) { (void)v.text(); }), "expected text, found nothing"));
}

TEST_CASE("a choice lists what there is and says what is near") {
  const std::vector<std::string> names = {"fp8", "bf16", "fp16"};
  CHECK(after("bf16", [&](const Yaml& v) { CHECK(v.choice(names) == 1); }) == "");
  CHECK(after("bf61", [&](const Yaml& v) { CHECK(v.choice(names) == 0); }) ==
        "f.yaml:1:4: v: expected one of fp8, bf16, fp16; found \"bf61\" (did you mean \"bf16\"?)\n");
}

TEST_CASE("every mistake of a file is reported at once, with place and path") {
  const YamlDocument document = parsed(
      "model: qwen\n"
      "pools:\n"
      "  - name: a\n"
      "    tpp: 4\n"
      "  - name: b\n"
      "    tp: four\n"
      "rate: -1\n"
      "modle: x\n");
  const Yaml root = document.root();
  (void)root.require("model").text();
  for (const Yaml& pool : root.require("pools").items()) {
    (void)pool.require("name").text();
    (void)pool.require("tp").integer(1, 1);
  }
  (void)root.optional("rate").number(1, 0);
  (void)root.require("workload").text();
  document.finish();
  CHECK(to_string(document.errors()) ==
        "f.yaml:3:5: pools[0].tp: the key is missing\n"
        "f.yaml:6:9: pools[1].tp: expected a whole number of at least 1, found \"four\"\n"
        "f.yaml:7:7: rate: expected a number of at least 0, found \"-1\"\n"
        "f.yaml:1:1: workload: the key is missing\n"
        "f.yaml:4:5: pools[0].tpp: unknown key (did you mean \"tp\"?); known here: name, tp\n"
        "f.yaml:8:1: modle: unknown key (did you mean \"model\"?); known here: model, pools, rate, "
        "workload\n");
}

TEST_CASE("one mistake is one error: what hangs on it stays silent") {
  const YamlDocument document = parsed("a: 5\n");
  const Yaml a = document.root().require("a");
  (void)a.optional("x");
  (void)a.optional("y");
  (void)a.require("z").require("deeper").integer();
  CHECK(to_string(document.errors()) == "f.yaml:1:4: a: expected a map, found \"5\"\n");
  const Yaml absent;
  CHECK_FALSE(absent.present());
  CHECK(absent.integer(4) == 4);
  CHECK(absent.text("d") == "d");
  CHECK(absent.items().empty());
  CHECK(absent.path() == "");
}

TEST_CASE("entries keep the file's order and are known keys") {
  const YamlDocument document = parsed("z: 1\na: 2\nm: 3\n");
  std::string order;
  for (const auto& [key, value] : document.root().entries()) order += key + value.scalar_text();
  document.finish();
  CHECK(order == "z1a2m3");
  CHECK(document.errors().empty());
  const YamlDocument list = parsed("- 1\n");
  CHECK(list.root().entries().empty());
  CHECK(contains(to_string(list.errors()), "expected a map, found a list"));
}

TEST_CASE("kinds, places and paths of nodes") {
  const YamlDocument document = parsed("a:\n  b: [1, {c: 2}]\nn:\n");
  const Yaml b = document.root().require("a").require("b");
  CHECK((document.root().is_map() && b.is_list() && b.items()[0].is_scalar()));
  CHECK(document.root().require("n").is_null());
  const Yaml c = b.items()[1].require("c");
  CHECK(c.path() == "a.b[1].c");
  CHECK(c.where().line == 2);
  CHECK(c.where().column == 14);
  c.fail("is odd");
  CHECK(to_string(document.errors()) == "f.yaml:2:14: a.b[1].c: is odd\n");
}
