#include "base/result.h"

#include <memory>

#include "base/digest.h"
#include "catch.h"
#include "support.h"

using namespace orrery;
using namespace orrery::test;

namespace {

Result<int> half(int x) {
  if (x % 2 != 0) return invalid_input("is odd", {"f.yaml", 3, 7}, "a.b");
  return x / 2;
}
Result<int> quarter(int x) {
  ORRERY_TRY(h, half(x));
  ORRERY_TRY(q, half(h));
  return q;
}
Status check_even(int x) {
  ORRERY_TRY_STATUS(half(x));
  return ok_status();
}

}  // namespace

TEST_CASE("an error says file, line, column and key, and leaves out what is unknown") {
  CHECK(invalid_input("bad", {"f.yaml", 3, 7}, "a.b").to_string() == "f.yaml:3:7: a.b: bad");
  CHECK(invalid_input("bad", {"f.yaml", 3, 0}).to_string() == "f.yaml:3: bad");
  CHECK(invalid_input("bad", {"f.yaml", 0, 7}).to_string() == "f.yaml: bad");
  CHECK(invalid_input("bad", {}, "a").to_string() == "a: bad");
  CHECK(invalid_input("bad").to_string() == "bad");
  CHECK(to_string(Errors{invalid_input("one"), invalid_input("two")}) == "one\ntwo\n");
}

TEST_CASE("errors pass through ORRERY_TRY with their place") {
  REQUIRE(quarter(12).ok());
  CHECK(*quarter(12) == 3);
  const auto failed = quarter(6);
  REQUIRE_FALSE(failed.ok());
  REQUIRE(failed.errors().size() == 1);
  CHECK(failed.errors()[0].to_string() == "f.yaml:3:7: a.b: is odd");
  CHECK(failed.errors()[0].kind == ErrorKind::invalid_input);
  CHECK(check_even(2).ok());
  CHECK_FALSE(check_even(3).ok());
}

TEST_CASE("a result can carry what only moves") {
  Result<std::unique_ptr<int>> r = std::make_unique<int>(5);
  const std::unique_ptr<int> taken = std::move(r).value();
  CHECK(*taken == 5);
}

TEST_CASE("misuse of a result aborts") {
  CHECK(aborts([] { (void)half(3).value(); }));
  CHECK(aborts([] { (void)half(2).errors(); }));
  CHECK(aborts([] { Result<int> r = Errors{}; }));
}

TEST_CASE("the digest depends on values, their order and their number") {
  const auto digest = [](std::initializer_list<std::uint64_t> values) {
    Digest d;
    for (const std::uint64_t v : values) d.add(v);
    return d.value();
  };
  CHECK(digest({1, 2}) == digest({1, 2}));
  CHECK(digest({1, 2}) != digest({2, 1}));
  CHECK(digest({1}) != digest({1, 0}));
  CHECK(digest({0}) != digest({}));
  CHECK(digest({0, 0}) != digest({0}));
  Digest a, b;
  a.add_text("ab");
  a.add_text("c");
  b.add_text("a");
  b.add_text("bc");
  CHECK_FALSE(a == b);
  CHECK(digest_text(0) == "0000000000000000");
  CHECK(digest_text(0x0123456789ABCDEF) == "0123456789abcdef");
}
