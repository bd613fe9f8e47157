// What the YAML reader refuses, where, and that hostile files cost little.
#include "base/random.h"
#include "base/yaml_reader.h"
#include "catch.h"
#include "support.h"

using namespace orrery;
using namespace orrery::test;

namespace {

// All errors of reading the text, whether or not a tree came out of it.
std::string errors_of(const std::string& text) {
  const auto document = YamlDocument::parse(text, "f.yaml");
  return to_string(document.ok() ? document->errors() : document.errors());
}

std::string repeated(const std::string& part, int times) {
  std::string text;
  for (int i = 0; i < times; ++i) text += part;
  return text;
}

std::string nested_maps(int depth) {
  std::string text;
  for (int i = 0; i < depth; ++i) text += std::string(static_cast<std::size_t>(i), ' ') + "a:\n";
  return text;
}

}  // namespace

TEST_CASE("every duplicate key of a file is reported with both places") {
  CHECK(errors_of("a: 1\nb:\n  c: 1\n  c: 2\na: 3\nd: {e: 1, f: 2, e: 3}\n") ==
        "f.yaml:4:3: duplicate key \"c\"; it stands in line 3 already\n"
        "f.yaml:5:1: duplicate key \"a\"; it stands in line 1 already\n"
        "f.yaml:6:17: duplicate key \"e\"; it stands in line 6 already\n");
  CHECK(contains(errors_of("a: 1\n\"a\": 2\n"), "f.yaml:2:1: duplicate key \"a\""));
  CHECK(contains(errors_of("a: {x: 1}\na: {x: 2}\n"), "f.yaml:2:1: duplicate"));
  CHECK(errors_of("- a: 1\n- a: 1\n") == "");
}

TEST_CASE("aliases, anchors, tags and second documents are refused") {
  CHECK(errors_of("a: &x 1\nb: *x\n") ==
        "f.yaml:1:4: anchors (&name) are not supported; write the value out where it is used\n"
        "f.yaml:2:4: aliases (*name) are not supported; write the value out\n");
  CHECK(contains(errors_of("a: &x [1]\n"), "anchors"));
  CHECK(contains(errors_of("a: &x {b: 1}\n"), "anchors"));
  CHECK(contains(errors_of("a: &x\n"), "anchors"));
  CHECK(contains(errors_of("b: *none\n"), "f.yaml:1:4: "));
  CHECK(contains(errors_of("a: !!int 3\n"), "f.yaml:1:4: tags"));
  CHECK(contains(errors_of("a: !foo {b: 1}\n"), "f.yaml:1:4: tags (!foo)"));
  CHECK(contains(errors_of("a: !foo [1]\n"), "tags (!foo)"));
  CHECK(contains(errors_of("a: 1\n---\nb: 2\n"), "more than one YAML document"));
  CHECK(errors_of("---\na: 1\n...\n") == "");
}

TEST_CASE("keys are plain text") {
  CHECK(contains(errors_of(": 1\n"), "f.yaml:1:1: a key is missing before ':'"));
  CHECK(contains(errors_of("~: 1\n"), "a key is missing"));
  CHECK(contains(errors_of("[a]: 1\n"), "f.yaml:1:1: a key must be plain text"));
  CHECK(contains(errors_of("? {a: 1}\n: 2\n"), "a key must be plain text"));
}

TEST_CASE("broken syntax is refused where it stands") {
  CHECK(contains(errors_of("a:\n\tb: 1\n"), "f.yaml:2:"));
  CHECK(contains(errors_of("a:\n\tb: 1\n"), "a tab cannot indent, use spaces"));
  CHECK(contains(errors_of("a: 1\n \tb: 1\n"), "a tab cannot indent"));
  CHECK(contains(errors_of("a: b: c\n"), "f.yaml:1:5: invalid YAML"));
  CHECK_FALSE(contains(errors_of("a: b: c\n"), "tab"));
  CHECK(contains(errors_of("a: [1, 2\nb: 3\n"), "f.yaml:2:2: invalid YAML"));
  CHECK(contains(errors_of("a: {b: 1\n"), "invalid YAML"));
  CHECK(contains(errors_of("a: 1\n  b: 2\n"), "f.yaml:2:"));
  CHECK(contains(errors_of(""), "f.yaml: is empty; a YAML map was expected"));
  CHECK(contains(errors_of("# only a comment\n"), "is empty"));
}

// yaml-cpp 0.7 takes the end of the file for the closing quote.
TEST_CASE("a quote that is never closed is an error at its start") {
  CHECK(contains(errors_of("a: 1\nb: \"foo\nc: 3\n"),
                 "f.yaml:2:4: the quoted text that starts here is never closed"));
  CHECK(contains(errors_of("b: 'it''s\n"), "f.yaml:1:4: the quoted text"));
  CHECK(contains(errors_of("b: \"\\\"\n"), "never closed"));
  CHECK(contains(errors_of("b: ä \nc: \"x\n"), "f.yaml:2:4: "));
  CHECK(errors_of("a: 'it''s'\nb: \"\\\\\"\nc: ''\nd: \"\"\ne: 'x \"'\nf: \"two\n  lines\"\n") == "");
  CHECK(errors_of("ä: \"ö\"\nb: |\n  \"never closed\nc: >\n  'nor this\n") == "");
}

TEST_CASE("only UTF-8 is text") {
  CHECK(errors_of("a: 1\nb: x\xff\n") == "f.yaml:2:5: is not valid UTF-8 here\n");
  CHECK(contains(errors_of("\xff"), "f.yaml:1:1: "));
  CHECK(contains(errors_of("a: \xc0\x80\n"), "f.yaml:1:4: is not valid UTF-8"));      // overlong
  CHECK(contains(errors_of("a: \xe0\x80\x80\n"), "f.yaml:1:4: is not valid UTF-8"));  // overlong
  CHECK(contains(errors_of("a: \xf0\x80\x80\x80\n"), "is not valid UTF-8"));          // overlong
  CHECK(contains(errors_of("a: \xed\xa0\x80\n"), "f.yaml:1:4: is not valid UTF-8"));  // a surrogate
  CHECK(contains(errors_of("a: \xf4\x90\x80\x80\n"), "is not valid UTF-8"));          // beyond U+10FFFF
  CHECK(contains(errors_of("a: \xe2\x82"), "f.yaml:1:4: is not valid UTF-8"));        // cut off
  CHECK(errors_of("a: \xe2\x82\xac\xf0\x9f\x98\x80 \xc3\xa4\n") == "");
}

TEST_CASE("a BOM and CRLF are accepted and move no column") {
  const std::string text =
      "\xEF\xBB\xBF"
      "a: 1\r\na: 2\r\n";
  CHECK(errors_of(text) == "f.yaml:2:1: duplicate key \"a\"; it stands in line 1 already\n");
  const auto document = YamlDocument::parse(
      "\xEF\xBB\xBF"
      "a: \"x\"\r\nb: y\r\n",
      "f.yaml");
  REQUIRE(document.ok());
  CHECK(document->errors().empty());
  CHECK(document->root().require("a").text() == "x");
  CHECK(document->root().require("b").text() == "y");
}

TEST_CASE("nesting is bounded at 100 levels in every notation, and only nesting counts") {
  CHECK(errors_of(repeated("[", 100) + repeated("]", 100)) == "");
  CHECK(errors_of(repeated("[", 101) + repeated("]", 101)) ==
        "f.yaml:1:101: is nested deeper than 100 levels\n");
  CHECK(errors_of(nested_maps(100)) == "");
  CHECK(errors_of(nested_maps(101)) == "f.yaml:101:101: is nested deeper than 100 levels\n");
  CHECK(contains(errors_of(repeated("- ", 300) + "1\n"), "f.yaml:1:201: is nested deeper"));
  CHECK(contains(errors_of(nested_maps(2000)), "is nested deeper"));
  CHECK(errors_of(repeated("# half-open: [0, 1)\n", 150) + "a: 1\n") == "");
  CHECK(errors_of("a: \"" + repeated("[{", 200) + "\"\n") == "");
  CHECK(errors_of("a: 1\n" + std::string(1000, ' ') + "# far right\nb: 2\n") == "");
}

TEST_CASE("alias bombs and endless openings end in errors, not in memory") {
  std::string bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n";
  for (int i = 1; i < 40; ++i) {
    const std::string before = "*a" + std::to_string(i - 1);
    bomb += "a" + std::to_string(i) + ": &a" + std::to_string(i) + " [" + repeated(before + ", ", 8) +
            before + "]\n";
  }
  CHECK(contains(errors_of(bomb), "aliases (*name) are not supported"));
  CHECK(errors_of(repeated("[", 200'000)) != "");
  CHECK(errors_of(repeated("{a: ", 100'000)) != "");
  CHECK(errors_of(repeated("? ", 100'000)) != "");
  CHECK(errors_of(repeated("- ", 100'000)) != "");
}

TEST_CASE("a map of many keys takes linear time and a hundred errors are enough") {
  std::string text;
  for (int i = 0; i < 40'000; ++i) text += "key" + std::to_string(i) + ": 1\n";
  CHECK(errors_of(text) == "");
  const auto flood = YamlDocument::parse("{" + repeated("a, ", 50'000) + "b}", "f.yaml");
  REQUIRE(flood.ok());
  REQUIRE(flood->errors().size() == 101);
  CHECK(flood->errors().back().to_string() == "f.yaml: there are more errors; the first 100 are shown");
}

TEST_CASE("files that are no YAML give one error that names them") {
  const TempFolder folder;
  const auto error = [](const std::string& path) {
    const auto document = YamlDocument::load(path);
    return document.ok() ? "no error" : to_string(document.errors());
  };
  folder.write("qwen3.yaml", "a: 1\n");
  CHECK(contains(error(folder.file("qwen.yaml")), "qwen.yaml: no such file (did you mean \"qwen3.yaml\"?)"));
  CHECK(contains(error(folder.path()), "is a directory"));
  CHECK(contains(error(folder.write("b.yaml", std::string_view("a: \0", 4))), "is binary"));
  CHECK(contains(error(folder.write("u.yaml", "a: \xff\n")), "u.yaml:1:4: is not valid UTF-8"));
  CHECK(contains(error(folder.write("h.yaml", std::string((8u << 20) + 1, '#'))), "is larger than"));
  CHECK(contains(error(folder.write("e.yaml", "")), "is empty"));
}

TEST_CASE("damaged YAML is read or refused, never more") {
  const std::string good =
      "name: \"x\"  # c\nlist:\n  - {a: 1, b: [2, 3.5e-3]}\n  - 'y'\nmap:\n  k: |\n    text\n  z: ~\n";
  RandomStream random(8, RandomPurpose::property_test);
  const std::string alphabet = "{}[]:,-?&*!|>'\"%@`#\n\t \\ax0~\xc3\xa4\xff";
  for (int i = 0; i < 4000; ++i) {
    std::string text = good;
    for (std::uint64_t k = 0; k <= random.below(4); ++k) {
      text[random.below(text.size())] = alphabet[random.below(alphabet.size())];
    }
    const auto document = YamlDocument::parse(text, "f.yaml");
    if (!document.ok()) {
      REQUIRE_FALSE(document.errors().empty());
    } else if (document->errors().empty()) {
      const auto again = YamlDocument::parse(document->dump(), "dump.yaml");
      INFO(text << "---\n" << document->dump() << (again.ok() ? "" : to_string(again.errors())));
      REQUIRE(again.ok());
      REQUIRE(again->errors().empty());
      REQUIRE(again->dump() == document->dump());
    }
  }
}
