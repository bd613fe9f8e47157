// vLLM's encoder cache and its rules in the scheduler (vllm_0_24.md §1.7 and the engine's source).
#include "sim/encoder_cache.h"

#include <algorithm>
#include <map>

#include "../catch.h"
#include "base/random.h"
#include "sim/schedulers/vllm_encoder.h"

using namespace orrery;

namespace {

PlacedImage image(std::uint64_t id, std::int32_t embeddings, std::int32_t offset = 0) {
  PlacedImage i;
  i.id = id;
  i.offset = offset;
  i.tokens = i.embeddings = embeddings;
  return i;
}

Request request(std::vector<PlacedImage> images, std::uint64_t id = 0) {
  Request r;
  r.id = RequestId(id);
  r.images = std::move(images);
  return r;
}

}  // namespace

TEST_CASE(
    "§1.7 What nobody refers to stays until its room is needed; who lost its reference first goes first") {
  EncoderCache cache(100);
  const PlacedImage a = image(1, 40), b = image(2, 40), c = image(3, 60);
  REQUIRE(cache.make_room(40, 100, 0));
  cache.store(0, 0, a);
  REQUIRE(cache.make_room(40, 100, 0));
  cache.store(1, 0, b);
  CHECK_FALSE(cache.make_room(60, 100, 0));  // both are referred to
  cache.release(1, 0, b);
  cache.release(0, 0, a);
  CHECK(cache.refer(2, 0, a));  // still there, and held again
  REQUIRE(cache.make_room(60, 100, 0));
  cache.store(3, 0, c);
  CHECK(cache.refer(2, 0, a));
  CHECK_FALSE(cache.refer(2, 1, b));       // dropped, although it went in later than a
  CHECK_FALSE(cache.make_room(10, 9, 0));  // no compute budget
  cache.check_invariants();
}

TEST_CASE("A request that has an image twice gives it back when the first of the two is passed") {
  EncoderCache cache(100);
  const PlacedImage a = image(1, 40);
  REQUIRE(cache.make_room(40, 100, 0));
  cache.store(0, 0, a);
  REQUIRE(cache.refer(0, 1, a));
  CHECK(cache.referenced() == 40);
  cache.release(0, 0, a);
  CHECK(cache.referenced() == 0);
  CHECK(cache.held(0).size() == 1);
}

TEST_CASE("Random use keeps the books: room and references add up, nothing referred to is dropped") {
  RandomStream r(5, RandomPurpose::property_test, 31);
  EncoderCache cache(400);
  std::map<std::pair<std::uint32_t, std::int32_t>, PlacedImage> held;
  for (int i = 0; i < 20000; ++i) {
    const auto holder = static_cast<std::uint32_t>(r.below(6));
    const std::uint64_t id = 1 + r.below(12);
    const PlacedImage one = image(id, static_cast<std::int32_t>(20 + 10 * (id % 5)));
    const auto index = static_cast<std::int32_t>(id);
    if (held.count({holder, index}) != 0) {
      cache.release(holder, index, one);
      held.erase({holder, index});
    } else if (cache.refer(holder, index, one)) {
      held[{holder, index}] = one;
    } else if (cache.make_room(one.embeddings, 400, 0)) {
      cache.store(holder, index, one);
      held[{holder, index}] = one;
    }
    std::map<std::uint64_t, std::int64_t> distinct;
    for (const auto& [key, kept] : held) distinct[kept.id] = kept.embeddings;
    std::int64_t sum = 0;
    for (const auto& [key, embeddings] : distinct) sum += embeddings;
    REQUIRE(cache.referenced() == sum);
    if (i % 100 == 0) cache.check_invariants();
  }
  CHECK(cache.peak() > 300);
}

TEST_CASE("§1.7 A chunk ends before an image that the budget does not take, and is empty inside one") {
  VllmEncoder encoder({.compute_budget = 100, .cache_size = 100});
  encoder.open(0, request({image(1, 60, 10), image(2, 60, 80)}));
  encoder.begin_step();
  CHECK(encoder.limit(0, 0, 200) == 80);  // the first image runs, the second one waits
  encoder.commit(0);
  REQUIRE(encoder.encoded().size() == 1);
  encoder.begin_step();
  CHECK(encoder.limit(0, 80, 100) == 0);  // the first one is still referred to: no room
  encoder.ran(0, 7, false, 200);
  encoder.updated(7, [](std::uint32_t) { return 80; });  // step 7 went past it
  CHECK(encoder.cache().referenced() == 0);
  CHECK(encoder.limit(0, 80, 100) == 100);
  encoder.commit(0);
  CHECK(encoder.encoded().size() == 1);
  CHECK(encoder.counters().encoded == 2);
}

TEST_CASE("§1.7 An image is encoded by the chunk that first touches it, once, and covers later chunks") {
  VllmEncoder encoder({.compute_budget = 1000, .cache_size = 1000});
  encoder.open(0, request({image(1, 300, 100)}));
  encoder.begin_step();
  CHECK(encoder.limit(0, 0, 100) == 100);  // ends right before it
  encoder.commit(0);
  CHECK(encoder.encoded().empty());
  encoder.begin_step();
  CHECK(encoder.limit(0, 100, 100) == 100);
  encoder.commit(0);
  CHECK(encoder.encoded().size() == 1);
  encoder.begin_step();
  CHECK(encoder.limit(0, 200, 200) == 200);
  encoder.commit(0);
  CHECK(encoder.encoded().empty());
}

TEST_CASE("§1.7 disable_chunked_mm_input moves a chunk's end to before an image that it would cut") {
  VllmEncoder encoder({.compute_budget = 1000, .cache_size = 1000, .disable_chunked_input = true});
  encoder.open(0, request({image(1, 300, 100)}));
  encoder.begin_step();
  CHECK(encoder.limit(0, 0, 250) == 100);
  CHECK(encoder.limit(0, 0, 400) == 400);
}

TEST_CASE("Equal images are encoded once: in one request, in one step, and later while they are there") {
  VllmEncoder encoder({.compute_budget = 100, .cache_size = 100});
  encoder.open(0, request({image(9, 60, 0), image(9, 60, 60)}, 0));
  encoder.open(1, request({image(9, 60, 0)}, 1));
  encoder.begin_step();
  CHECK(encoder.limit(0, 0, 150) == 150);
  encoder.commit(0);
  CHECK(encoder.limit(1, 0, 150) == 150);
  encoder.commit(1);
  CHECK(encoder.encoded().size() == 1);
  CHECK(encoder.counters().found == 1);
  encoder.close(0);
  encoder.close(1);
  encoder.open(2, request({image(9, 60, 0)}, 2));
  encoder.begin_step();
  CHECK(encoder.limit(2, 0, 80) == 80);
  CHECK(encoder.counters().found == 2);
}

TEST_CASE("A preempted request gives back its images; so does one that got no blocks") {
  VllmEncoder encoder({.compute_budget = 100, .cache_size = 100});
  encoder.open(0, request({image(1, 60, 0)}));
  encoder.begin_step();
  encoder.limit(0, 0, 100);
  encoder.commit(0);
  CHECK(encoder.has_references());
  encoder.preempted(0);
  CHECK_FALSE(encoder.has_references());
  encoder.limit(0, 0, 100);
  CHECK(encoder.has_references());
  encoder.abandon(0);
  CHECK_FALSE(encoder.has_references());
}

TEST_CASE("A placeholder's leading text needs no embedding") {
  PlacedImage framed = image(1, 256, 10);
  framed.tokens = 260;
  framed.lead = 2;
  VllmEncoder encoder({.compute_budget = 1000, .cache_size = 1000});
  encoder.open(0, request({framed}));
  encoder.begin_step();
  CHECK(encoder.limit(0, 0, 12) == 12);
  encoder.commit(0);
  CHECK(encoder.encoded().empty());
  CHECK(encoder.limit(0, 12, 1) == 1);
  encoder.commit(0);
  CHECK(encoder.encoded().size() == 1);
}

// `shift_computed_tokens` and `spec_lookahead` of vLLM 0.24's scheduler: EAGLE and MTP look one token
// further.
TEST_CASE("With a drafting network chunks stop a token earlier, and images are let go of a token later") {
  VllmEncoder encoder({.compute_budget = 100, .cache_size = 100}, 1);
  encoder.open(0, request({image(1, 60, 10), image(2, 60, 80)}));
  encoder.begin_step();
  CHECK(encoder.limit(0, 0, 200) == 79);
  encoder.commit(0);
  encoder.passed(0, 70);  // where the first one ends
  CHECK(encoder.cache().referenced() == 60);
  encoder.passed(0, 71);
  CHECK(encoder.cache().referenced() == 0);
  // A chunk that ends right before an image needs none of its outputs; but it must not end there when the
  // image is to stay whole.
  VllmEncoder whole({.compute_budget = 1000, .cache_size = 1000, .disable_chunked_input = true}, 1);
  whole.open(0, request({image(1, 300, 100)}));
  whole.begin_step();
  CHECK(whole.limit(0, 0, 99) == 99);
  CHECK(whole.limit(0, 0, 100) == 99);
  CHECK(whole.limit(0, 0, 400) == 400);
}
