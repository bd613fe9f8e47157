// Routers by hand.
#include "catch.h"
#include "sim/policies.h"

using namespace orrery;

namespace {

Request prompt(std::vector<std::uint64_t> ids, std::int32_t tokens) {
  Request r;
  r.prompt_tokens = tokens;
  r.hash_ids = std::move(ids);
  return r;
}

std::uint32_t choose(Router& router, const Request& r, std::vector<std::int32_t> outstanding) {
  std::vector<InstanceView> views;
  for (const std::int32_t n : outstanding) views.push_back({n});
  return router.choose(r, views).value();
}

}  // namespace

TEST_CASE("prefix-aware goes where more than half of the prompt went before [router]") {
  const auto router = make_prefix_aware();
  CHECK(choose(*router, prompt({1, 2}, 1024), {0, 0, 0}) == 0);
  CHECK(choose(*router, prompt({3, 4}, 1024), {1, 0, 0}) == 1);     // nothing known: the least loaded
  CHECK(choose(*router, prompt({1, 2, 5}, 1500), {9, 0, 0}) == 0);  // 1024 of 1500 went to 0
  CHECK(choose(*router, prompt({1, 6, 7}, 1500), {9, 0, 0}) == 1);  // 512 of 1500 is too little
  CHECK(choose(*router, prompt({1, 2}, 1024), {9, 0, 0}) == 0);
  CHECK(choose(*router, prompt({2, 1}, 1024), {9, 1, 0}) == 2);  // equal ids, but no beginning
  CHECK(choose(*router, prompt({1, 9}, 600), {9, 0, 0}) == 0);   // 512 of 600 went to 0 and to 1: the first
}

TEST_CASE("prefix-aware takes the shortest queue when loads are far apart [router]") {
  const auto router = make_prefix_aware();
  CHECK(choose(*router, prompt({1, 2}, 1024), {0, 0}) == 0);
  CHECK(choose(*router, prompt({1, 2}, 1024), {32, 0}) == 0);  // 32 apart is not more than 32
  CHECK(choose(*router, prompt({1, 2}, 1024), {33, 0}) == 1);
  CHECK(choose(*router, prompt({1, 2}, 1024), {433, 400}) == 0);  // not a tenth more
}

TEST_CASE("prefix-aware keeps a session together [router]") {
  const auto router = make_prefix_aware();
  Request r = prompt({}, 400);
  r.stream = 7;
  CHECK(choose(*router, r, {1, 0}) == 1);
  r.prompt_tokens = 700;
  CHECK(choose(*router, r, {0, 1}) == 1);  // 400 of 700
  Request other = prompt({}, 500);         // private content
  CHECK(choose(*router, other, {0, 1}) == 0);
}
