// What routers know of caches: events of the engines' pools, kv-aware's cost, and slots.
#include <deque>

#include "base/random.h"
#include "catch.h"
#include "sim/kv_block_manager.h"
#include "sim/policies.h"
#include "sim/radix_cache.h"
#include "sim/routers/prompt_index.h"

using namespace orrery;

namespace {

// A copy of one cache, and how many events it took.
class Copy final : public CacheEvents {
 public:
  explicit Copy(std::int32_t block_size) : index(block_size) {}
  void holds(const Reach& reach) override {
    index.set(reach);
    ++events;
  }
  PromptIndex index;
  std::uint64_t events = 0;
};

Request prompt(std::uint64_t id, std::vector<std::uint64_t> ids, std::int32_t tokens,
               std::int32_t block = 512) {
  Request r;
  r.id = RequestId(id);
  r.prompt_tokens = tokens;
  r.max_output_tokens = 100;
  r.hash_ids = std::move(ids);
  r.hash_block_size = block;
  return r;
}

// Families of prompts that begin alike and part somewhere; sessions; and content that nobody shares.
Request draw_prompt(RandomStream& r, std::uint64_t id, std::int32_t hash_block) {
  const auto tokens = static_cast<std::int32_t>(1 + r.below(600));
  Request q = prompt(id, {}, tokens, hash_block);
  const std::uint64_t kind = r.below(8);
  if (kind == 0) return q;
  if (kind == 1) {
    q.stream = 1 + r.below(3);
    return q;
  }
  const std::uint64_t family = r.below(3), part = r.below(6);
  for (std::uint64_t i = 0; i * static_cast<std::uint64_t>(hash_block) < static_cast<std::uint64_t>(tokens);
       ++i)
    q.hash_ids.push_back(i < part ? 7 + family : 100 + r.below(3));  // names repeat along a prompt, too
  return q;
}

std::vector<Beginning> beginnings(const Request& r) {
  std::vector<Beginning> all;
  each_beginning(r, [&](std::uint64_t name, std::int64_t end) { all.push_back({name, end}); });
  return all;
}

KvContent content(const Request& r) {
  return {.hash_ids = r.hash_ids,
          .hash_block_size = r.hash_block_size,
          .stream = r.stream,
          .named_tokens = r.prompt_tokens};
}

}  // namespace

TEST_CASE("a copy of a vLLM pool, kept by its events, finds what the pool finds [router]") {
  for (const std::int32_t hash_block : {5, 16, 48, 64}) {  // smaller and larger than a block, and neither
                                                           // divides
    RandomStream r(11, RandomPurpose::property_test, static_cast<std::uint64_t>(hash_block));
    const std::int32_t size = 16;
    KvBlockManager pool({.num_blocks = 120, .block_size = size});
    Copy copy(size);
    pool.watch(&copy);
    struct Running {
      KvBlockManager::Handle handle;
      std::int64_t blocks, hashed;
    };
    std::deque<Running> running;
    std::uint64_t found = 0, evicted = 0;
    for (std::uint64_t i = 0; i < 3000; ++i) {
      const Request q = draw_prompt(r, i, hash_block);
      const KvBlockManager::Handle handle = pool.open(content(q));
      const KvBlockManager::Hit hit = pool.lookup(handle, q.prompt_tokens);
      REQUIRE(copy.index.matched(beginnings(q), q.prompt_tokens) == hit.blocks * size);
      found += hit.blocks > 0 ? 1 : 0;
      const std::int64_t blocks = (q.prompt_tokens + size - 1) / size;
      while (pool.free_blocks() < blocks - hit.blocks + hit.idle) {
        pool.release(running.front().handle, running.front().blocks, running.front().hashed);
        pool.close(running.front().handle);
        running.pop_front();
      }
      const KvBlockManager::Hit now = pool.lookup(handle, q.prompt_tokens);
      if (now.blocks > 0) pool.take_prefix(handle, q.prompt_tokens, now);
      if (pool.free_blocks() < blocks - now.blocks) {  // what was given back lay in its own prefix
        pool.release(handle, now.blocks, now.blocks);
        pool.close(handle);
        continue;
      }
      pool.grow(handle, blocks - now.blocks);
      const std::int64_t full = q.prompt_tokens / size;
      pool.publish(handle, full);
      running.push_back({handle, blocks, full});
      if (r.below(3) == 0) {
        const std::size_t who = r.below(running.size());
        pool.release(running[who].handle, running[who].blocks, running[who].hashed);
        pool.close(running[who].handle);
        running.erase(running.begin() + static_cast<std::ptrdiff_t>(who));
      }
    }
    evicted = static_cast<std::uint64_t>(pool.evicted_in_total());
    CHECK(found > 300);
    CHECK(evicted > 1000);
    // Per change, not per cached block.
    CAPTURE(hash_block, copy.events, evicted);
    CHECK(copy.events < 3000 * 2 * (600 / static_cast<std::uint64_t>(std::min(hash_block, size)) + 1));
    for (; !running.empty(); running.pop_front()) {
      pool.release(running.front().handle, running.front().blocks, running.front().hashed);
      pool.close(running.front().handle);
    }
    REQUIRE(pool.reset_prefix_cache());
    CHECK(copy.index.tokens() == 0);
  }
}

TEST_CASE("a copy of a radix tree, kept by its events, finds what the tree finds [router]") {
  for (const std::int32_t page : {1, 16}) {
    for (const std::int32_t hash_block : {16, 40, 64}) {
      RandomStream r(12, RandomPurpose::property_test, static_cast<std::uint64_t>(hash_block * page));
      RadixCache tree({.tokens = 1600, .page_size = page});
      Copy copy(page);
      tree.watch(&copy);
      std::uint64_t found = 0;
      for (std::uint64_t i = 0; i < 3000; ++i) {
        const Request q = draw_prompt(r, i, hash_block);
        const TokenRuns runs =
            name_tokens(q.hash_ids, q.hash_block_size, q.stream, q.prompt_tokens, 1000000 + i);
        const std::int64_t reach = copy.index.matched(beginnings(q), q.prompt_tokens);
        const RadixCache::Match hit = tree.match(runs, q.prompt_tokens - 1);
        REQUIRE(reach == hit.tokens);
        found += hit.tokens > 0 ? 1 : 0;
        tree.lock(hit.node);
        const std::int64_t length = tree.page_ceil(q.prompt_tokens), more = length - hit.tokens;
        REQUIRE(tree.make_room(more));
        tree.take(more);
        const RadixCache::Node end = tree.insert(runs, q.prompt_tokens, {.begin = hit.tokens});
        tree.give_back(length - tree.page_floor(q.prompt_tokens));
        tree.unlock(hit.node);
        (void)end;
      }
      CHECK(found > 500);
      CHECK(tree.evicted_in_total() > 10000);
      tree.make_room(1600);
      CHECK(copy.index.tokens() == 0);
    }
  }
}

namespace {

RouterConfig two(double weight, bool blocks = true) {
  return {.overlap_weight = weight,
          .load_in_blocks = blocks,
          .instances = {{.block_size = 16}, {.block_size = 16}}};
}

std::uint32_t choose(Router& router, const Request& r, std::vector<std::int32_t> outstanding = {0, 0},
                     std::vector<bool> available = {true, true}) {
  std::vector<InstanceView> views;
  for (std::size_t i = 0; i < outstanding.size(); ++i) views.push_back({outstanding[i], available[i]});
  return router.choose(r, views).value();
}

void done(Router& router, std::uint64_t request, std::size_t instance, std::int32_t outputs = 10) {
  router.first_token(RequestId(request), instance);
  router.over(RequestId(request), instance, outputs);
}

// The instance's cache has the first `blocks` names of the prompt.
void cache(Router& router, std::size_t instance, const Request& r, std::size_t names) {
  std::int64_t from = 0;
  for (const Beginning& b : beginnings(r)) {
    if (names-- == 0) return;
    router.cache_holds(instance, {.beginning = b.name, .from = from, .to = b.end});
    from = b.end;
  }
}

}  // namespace

TEST_CASE("kv-aware's cost by hand: new blocks weighed, plus active blocks [router]") {
  const Request a = prompt(1, {1, 2}, 1024), b = prompt(2, {1, 2, 3}, 1536), c = prompt(3, {9}, 320);
  const auto router = make_kv_aware(two(1));
  REQUIRE(router->watches_caches());
  CHECK(choose(*router, a) == 0);  // 64 + 64 on both: the first
  // b at 0: 64 + 96 blocks to compute, 96 active (its first 64 are a's); at 1: 96 + 96.
  CHECK(choose(*router, b) == 1);
  router->first_token(RequestId(1), 0);
  router->first_token(RequestId(2), 1);
  // c at 0: 20 + 64 + 20; at 1: 20 + 96 + 20.
  CHECK(choose(*router, c) == 0);
  done(*router, 3, 0);
  done(*router, 1, 0);
  done(*router, 2, 1);
  // Caches: 1 has both names. 0: 64 + 64, 1: 1 (the last token is always computed) + 64.
  cache(*router, 1, a, 2);
  CHECK(choose(*router, prompt(4, {1, 2}, 1024)) == 1);
  // It runs: 1 block to compute and 64 active there. The same once more: 2 + 64 against 64 + 64.
  CHECK(choose(*router, prompt(5, {1, 2}, 1024)) == 1);
  // Other content, 512 tokens: at 1 it is 2 + 32 + 64 + 32, at 0 32 + 32.
  CHECK(choose(*router, prompt(6, {8}, 512)) == 0);
  // Evicted: the second name is gone, then both.
  done(*router, 4, 1);
  done(*router, 5, 1);
  done(*router, 6, 0);
  router->cache_holds(1, {.beginning = beginnings(a)[1].name, .from = 512, .to = 512});
  CHECK(choose(*router, prompt(7, {1, 2}, 1024)) == 1);  // 32 + 64 against 64 + 64
  router->cache_holds(1, {.beginning = beginnings(a)[0].name, .from = 0, .to = 0});
  done(*router, 7, 1);
  CHECK(choose(*router, prompt(8, {1, 2}, 1024)) == 0);
  done(*router, 8, 0);
  cache(*router, 1, a, 2);
  router->cache_lost(1);
  CHECK(choose(*router, prompt(9, {1, 2}, 1024)) == 0);
}

TEST_CASE(
    "kv-aware: among equals the smaller cache, then the lower number; who may not be chosen is not "
    "[router]") {
  const auto router = make_kv_aware(two(1));
  cache(*router, 0, prompt(0, {5}, 512), 1);
  CHECK(choose(*router, prompt(1, {1}, 512)) == 1);
  done(*router, 1, 1);
  CHECK(choose(*router, prompt(2, {5}, 512)) == 0);
  done(*router, 2, 0);
  CHECK(choose(*router, prompt(3, {5}, 512), {0, 0}, {false, true}) == 1);
  done(*router, 3, 1);
  for (const auto& policy : router_policies) {
    const auto any = policy.make(two(1));
    for (std::uint64_t i = 0; i < 4; ++i)
      CHECK(choose(*any, prompt(i, {1}, 512),
                   {
                       9,
                       0,
                   },
                   {true, false}) == 0);
  }
}

TEST_CASE("overlap_weight 0 is least-loaded, a very large one follows the prefix [router]") {
  const auto none = make_kv_aware(two(0, false)), all = make_kv_aware(two(1e9)), least = make_least_loaded();
  CHECK_FALSE(none->watches_caches());
  RandomStream r(5, RandomPurpose::property_test, 51);
  const Request known = prompt(0, {1, 2, 3}, 1536);
  cache(*all, 1, known, 3);
  for (std::uint64_t i = 1; i < 200; ++i) {
    const std::vector<std::int32_t> outstanding{static_cast<std::int32_t>(r.below(5)),
                                                static_cast<std::int32_t>(r.below(5))};
    Request q = prompt(i, {1, 2, 3}, 1536);
    CHECK(choose(*none, q, outstanding) == choose(*least, q, outstanding));
    CHECK(choose(*all, q, outstanding) == 1);  // and none of them is over: 96 more active blocks each time
    all->first_token(q.id, 1);
  }
}

TEST_CASE("slots: room for more requests like this one, at the mean output so far [router]") {
  // 10,000 tokens against 4,000 with 100 places, and 3 places with 1,000,000.
  const RouterConfig config{.instances = {{.kv_tokens = 10000, .max_sequences = 100},
                                          {.kv_tokens = 4000, .max_sequences = 100},
                                          {.kv_tokens = 1000000, .max_sequences = 3}}};
  const auto router = make_slots(config);
  const auto one = [&](std::uint64_t id, std::int32_t tokens) {
    return choose(*router, prompt(id, {}, tokens), {0, 0, 0}, {true, true, true});
  };
  // Nobody has ended: 100 tokens of output, the clients' limit. 10, 4 and 3 slots of 1,000 tokens.
  for (std::uint64_t i = 0; i < 6; ++i) CHECK(one(i, 900) == 0);  // to 10, 9, 8, 7, 6 and 5
  CHECK(one(6, 900) == 0);                                        // 4 and 4: the lower number
  CHECK(one(7, 900) == 1);                                        // 3, 4, 3
  CHECK(one(8, 900) == 0);                                        // 3, 3, 3
  CHECK(one(9, 900) == 1);                                        // 2, 3, 3
  CHECK(one(10, 900) == 2);                                       // 2, 2, 3
  // All end after 1,100 tokens: 5 slots of 2,000 at 0, 2 at 1, 3 at 2.
  for (std::uint64_t i = 0; i < 11; ++i)
    router->over(RequestId(i), i == 7 || i == 9 ? 1 : i == 10 ? 2 : 0, 1100);
  CHECK(one(20, 900) == 0);
  CHECK(one(21, 900) == 0);
  CHECK(one(22, 900) == 0);  // 3 and 3
  CHECK(one(23, 900) == 2);
  // Rejected without an answer: no part of the mean.
  router->over(RequestId(20), 0, 0);
  CHECK(one(24, 900) == 0);
}
