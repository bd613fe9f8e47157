// --set, and canonical text that reads back as the same document.
#include "base/random.h"
#include "base/yaml_reader.h"
#include "catch.h"
#include "support.h"

using namespace orrery;
using namespace orrery::test;

namespace {

const char* const scenario = "model: qwen\npools:\n  - {name: a, tp: 1}\n  - {name: b, tp: 2}\nempty:\n";

YamlDocument parsed(const std::string& text) {
  auto document = YamlDocument::parse(text, "f.yaml");
  REQUIRE(document.ok());
  return std::move(document).value();
}

std::string error_of_set(const std::string& assignment) {
  YamlDocument document = parsed(scenario);
  const std::string before = document.dump();
  const Status status = document.set(assignment);
  if (status.ok()) return "no error";
  CHECK(document.dump() == before);  // a refused assignment leaves no trace
  return to_string(status.errors());
}

std::string random_text(RandomStream& random) {
  static const std::vector<std::string> parts = {
      "a", "B", "0", "1.5", "-", ":", " ",    "#",   "\"", "'", "\\", "\n", "\t", "{", "]",
      ",", "&", "*", "ä",   "~", "!", "null", "yes", "?",  "|", ">",  "%",  "@",  "`", "\x01"};
  std::string text;
  for (std::uint64_t n = random.below(5); n > 0; --n) text += parts[random.below(parts.size())];
  return text;
}

std::string in_double_quotes(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += c == '\n' ? "\\n" : c == '\t' ? "\\t" : c == '\x01' ? "\\x01" : std::string(1, c);
  }
  return out + "\"";
}

// A flow-style document, so that how it is written shares nothing with how dump() writes.
std::string random_flow(RandomStream& random, int depth) {
  const std::uint64_t kind = random.below(depth > 0 ? 5 : 3);
  if (kind == 0) return "~";
  if (kind < 3) return kind == 1 ? in_double_quotes(random_text(random)) : std::to_string(random.below(100));
  std::string out;
  for (std::uint64_t i = 0, n = random.below(4); i < n; ++i) {
    if (i > 0) out += ", ";
    if (kind == 4) out += in_double_quotes(random_text(random) + std::to_string(i)) + ": ";
    out += random_flow(random, depth - 1);
  }
  return kind == 4 ? "{" + out + "}" : "[" + out + "]";
}

void require_same(const Yaml& a, const Yaml& b) {
  REQUIRE(a.is_map() == b.is_map());
  REQUIRE(a.is_list() == b.is_list());
  REQUIRE(a.is_null() == b.is_null());
  REQUIRE(a.scalar_text() == b.scalar_text());
  REQUIRE(a.quoted() == b.quoted());
  if (a.is_map()) {
    const auto left = a.entries(), right = b.entries();
    REQUIRE(left.size() == right.size());
    for (std::size_t i = 0; i < left.size(); ++i) {
      REQUIRE(left[i].first == right[i].first);
      require_same(left[i].second, right[i].second);
    }
  } else if (a.is_list()) {
    const auto left = a.items(), right = b.items();
    REQUIRE(left.size() == right.size());
    for (std::size_t i = 0; i < left.size(); ++i) require_same(left[i], right[i]);
  }
}

}  // namespace

TEST_CASE("an assignment replaces, and creates what is missing on the way") {
  YamlDocument document = parsed(scenario);
  for (const char* assignment :
       {"model=llama", "pools[1].tp=8", "pools[0]={name: c}", "workload.arrivals.rate=2.5",
        "empty.x=[1, {y: 2}]", "pools[1].extra.deep=true", "text=a=b"}) {
    INFO(assignment);
    CHECK(document.set(assignment).ok());
  }
  const Yaml root = document.root();
  CHECK(root.require("model").text() == "llama");
  CHECK(root.require("pools").items()[0].require("name").text() == "c");
  CHECK(root.require("pools").items()[1].require("tp").integer() == 8);
  CHECK(root.require("pools").items()[1].require("name").text() == "b");
  CHECK(root.require("pools").items()[1].require("extra").require("deep").boolean());
  CHECK(root.require("workload").require("arrivals").require("rate").number() == 2.5);
  CHECK(root.require("empty").require("x").items()[1].require("y").path() == "empty.x[1].y");
  CHECK(root.require("text").text() == "a=b");
  CHECK(document.errors().empty());
  CHECK(document.set("model=").ok());
  CHECK(document.root().require("model").is_null());
}

TEST_CASE("a text is set as it is, and a key can be taken away") {
  YamlDocument document = parsed("a: {b: 1, c: 2}\n");
  REQUIRE(document.set_text("a.b", "x \"y\" #: [z").ok());
  CHECK(document.root().require("a").require("b").text() == "x \"y\" #: [z");
  CHECK_FALSE(document.set_text("a.b", "\xff").ok());
  document.erase("a.c");
  document.erase("a.none.below");
  CHECK(document.dump() == "a:\n  b: \"x \\\"y\\\" #: [z\"\n");
}

TEST_CASE("a refused assignment says why and changes nothing") {
  CHECK(error_of_set("pools[2].tp=1") ==
        "--set pools[2].tp=1: pools: there is no element [2]; the list has 2\n");
  CHECK(error_of_set("model.x=1") == "--set model.x=1: model: is not a map, so it has no key \"x\"\n");
  CHECK(contains(error_of_set("pools.tp=1"), "pools: is not a map"));
  CHECK(contains(error_of_set("model[0]=1"), "model: is not a list"));
  CHECK(contains(error_of_set("new.list[0]=1"), "a list cannot be created by index"));
  CHECK(contains(error_of_set("model=[1"), "invalid YAML"));
  CHECK(contains(error_of_set("model={a: 1, a: 2}"), "duplicate key"));
  CHECK(contains(error_of_set("model=*x"), "--set model=*x:1:1: "));
  CHECK(contains(error_of_set("model=\xff"), "not valid UTF-8"));
}

TEST_CASE("an assignment without a sound path is wrong usage") {
  for (const char* assignment :
       {"model", "=1", "", "a..b=1", ".a=1", "a.=1", "pools[x]=1", "pools[-1]=1", "pools[0=1", "pools[]=1",
        "pools[0]tp=1", "pools.[0]=1", "pools[99999999999999999999]=1"}) {
    INFO(assignment);
    YamlDocument document = parsed(scenario);
    const Status status = document.set(assignment);
    REQUIRE_FALSE(status.ok());
    CHECK(status.errors()[0].kind == ErrorKind::usage);
    CHECK(contains(status.errors()[0].to_string(), "expected path.to.key=value"));
  }
}

TEST_CASE("mistakes in what was set are reported at --set") {
  YamlDocument document = parsed(scenario);
  REQUIRE(document.set("pools[0].tp=010").ok());
  REQUIRE(document.set("modell=x").ok());
  const Yaml root = document.root();
  (void)root.require("model");
  (void)root.optional("empty");
  for (const Yaml& pool : root.require("pools").items()) {
    (void)pool.require("name");
    (void)pool.require("tp").integer();
  }
  document.finish();
  CHECK(to_string(document.errors()) ==
        "--set pools[0].tp=010:1:1: pools[0].tp: expected a whole number, found \"010\"\n"
        "--set modell=x: modell: unknown key (did you mean \"model\"?); known here: empty, model, pools\n");
}

TEST_CASE("the canonical text of a document") {
  YamlDocument document = parsed("b: {c: [], d: {}}\na:\n - 1\n - 'x'\n - ~\n\"k: v\": -2\nt: -x\n");
  CHECK(document.dump() == "b:\n  c: []\n  d: {}\na:\n  - 1\n  - \"x\"\n  - ~\n\"k: v\": -2\nt: \"-x\"\n");
}

TEST_CASE("what dump writes reads back as the same tree") {
  RandomStream random(9, RandomPurpose::property_test);
  for (int i = 0; i < 2000; ++i) {
    const std::string text = "root: " + random_flow(random, 4) + "\n";
    INFO(text);
    const YamlDocument first = parsed(text);
    REQUIRE(to_string(first.errors()) == "");
    const std::string dumped = first.dump();
    INFO(dumped);
    const YamlDocument second = parsed(dumped);
    REQUIRE(to_string(second.errors()) == "");
    require_same(first.root(), second.root());
    REQUIRE(second.dump() == dumped);
  }
}
