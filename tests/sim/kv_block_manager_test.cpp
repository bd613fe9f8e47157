// The KV pool by hand-worked examples of vLLM's rules (../shared/reference/vllm_0_24.md §2). What random
// sequences of operations do is compared with a block-by-block model in kv_property_test.cpp.
#include "sim/kv_block_manager.h"

#include <algorithm>
#include <cstdint>
#include <vector>

#include "catch.h"

namespace orrery {
namespace {

using Ids = std::vector<std::uint64_t>;

KvContent named(const Ids& ids, std::int64_t tokens, std::int32_t hash_block_size = 512) {
  KvContent content;
  content.hash_ids = ids;
  content.hash_block_size = hash_block_size;
  content.named_tokens = tokens;
  return content;
}

KvContent stream(std::uint64_t name) {
  KvContent content;
  content.stream = name;
  return content;
}

KvBlockManager pool(std::int64_t usable, std::int32_t block_size = 16) {
  return KvBlockManager(KvBlockManager::Config{usable + 1, block_size, true});
}

// Prefills all of `tokens` in one step: takes the hits, allocates the rest, publishes the full blocks.
KvBlockManager::Hit prefill(KvBlockManager& kv, KvBlockManager::Handle sequence, std::int64_t tokens,
                            std::int32_t size = 16) {
  const KvBlockManager::Hit hit = kv.lookup(sequence, tokens);
  kv.take_prefix(sequence, tokens, hit);
  kv.grow(sequence, (tokens + size - 1) / size - hit.blocks);
  kv.publish(sequence, tokens / size);
  kv.check_invariants();
  return hit;
}

void finish(KvBlockManager& kv, KvBlockManager::Handle sequence, std::int64_t tokens,
            std::int32_t size = 16) {
  kv.release(sequence, (tokens + size - 1) / size, tokens / size);
  kv.close(sequence);
  kv.check_invariants();
}

// How much of this content a new sequence would find.
std::int64_t hit_blocks(KvBlockManager& kv, const KvContent& content, std::int64_t tokens) {
  const KvBlockManager::Handle probe = kv.open(content);
  const std::int64_t blocks = kv.lookup(probe, tokens).blocks;
  kv.close(probe);
  return blocks;
}

// Hands out blocks that nobody will ever find again, and keeps them.
void occupy(KvBlockManager& kv, std::int64_t blocks) { kv.grow(kv.open({}), blocks); }

TEST_CASE("§2.2 a repeated prompt hits its full blocks but never its last token") {
  KvBlockManager kv = pool(1000);
  const Ids a{1};
  const Ids b{2};
  const auto first = kv.open(named(a, 100));
  CHECK(prefill(kv, first, 100).blocks == 0);
  const auto second = kv.open(named(a, 100));
  CHECK(prefill(kv, second, 100).blocks * 16 == 96);

  const auto third = kv.open(named(b, 96));
  prefill(kv, third, 96);
  const auto fourth = kv.open(named(b, 96));  // a multiple of 16: one whole block is computed again
  CHECK(prefill(kv, fourth, 96).blocks * 16 == 80);
}

TEST_CASE("§1.6 §2.5 the null block is not usable and free_blocks counts idle cached blocks") {
  KvBlockManager kv(KvBlockManager::Config{101, 16, true});
  CHECK(kv.usable_blocks() == 100);
  const Ids a{1};
  const auto first = kv.open(named(a, 100));
  prefill(kv, first, 100);
  CHECK(kv.free_blocks() == 93);
  finish(kv, first, 100);
  CHECK(kv.free_blocks() == 100);
  CHECK(hit_blocks(kv, named(a, 100), 100) == 6);
}

TEST_CASE("§2.4 hits that nobody holds are told apart: they leave the free list when taken") {
  KvBlockManager kv = pool(100);
  const Ids a{1};
  const auto first = kv.open(named(a, 100));
  prefill(kv, first, 100);
  const auto second = kv.open(named(a, 100));
  CHECK(kv.lookup(second, 100).idle == 0);
  finish(kv, first, 100);
  const KvBlockManager::Hit hit = kv.lookup(second, 100);
  CHECK(hit.blocks == 6);
  CHECK(hit.idle == 6);
  kv.take_prefix(second, 100, hit);
  CHECK(kv.free_blocks() == 94);
  kv.check_invariants();
}

TEST_CASE("§2.3 published blocks can be hit by the next request of the same step, unpublished ones cannot") {
  KvBlockManager kv = pool(1000);
  const Ids a{1, 2, 3};
  const auto first = kv.open(named(a, 1500));
  kv.grow(first, 40);
  CHECK(hit_blocks(kv, named(a, 1500), 1500) == 0);
  kv.publish(first, 40);
  CHECK(hit_blocks(kv, named(a, 1500), 1500) == 40);
  kv.publish(first, 32);  // not a raise: nothing changes
  CHECK(hit_blocks(kv, named(a, 1500), 1500) == 40);
}

TEST_CASE("§2.5 the tail of a freed prompt dies before its head, older prompts before younger ones") {
  KvBlockManager kv = pool(20);
  const Ids a{1};
  const Ids b{2};
  const auto first = kv.open(named(a, 161));   // 10 full blocks and one started
  const auto second = kv.open(named(b, 129));  // 8 and one
  prefill(kv, first, 161);
  prefill(kv, second, 129);
  finish(kv, first, 161);
  finish(kv, second, 129);  // free list: 2 blank, a9 … a0, b7 … b0
  occupy(kv, 2);
  CHECK(hit_blocks(kv, named(a, 161), 161) == 10);
  CHECK(kv.evicted_in_total() == 0);
  occupy(kv, 3);
  CHECK(hit_blocks(kv, named(a, 161), 161) == 7);
  CHECK(hit_blocks(kv, named(b, 129), 129) == 8);
  occupy(kv, 7);
  CHECK(hit_blocks(kv, named(a, 161), 161) == 0);
  CHECK(hit_blocks(kv, named(b, 129), 129) == 8);
  occupy(kv, 1);
  CHECK(hit_blocks(kv, named(b, 129), 129) == 7);
  CHECK(kv.evicted_in_total() == 11);
  kv.check_invariants();
}

TEST_CASE("§2.5 a block without hash is reused before any cached one") {
  KvBlockManager kv = pool(10);
  const Ids a{1};
  const Ids b{2};
  const auto first = kv.open(named(a, 96));
  prefill(kv, first, 96);
  finish(kv, first, 96);  // 4 blank, a5 … a0
  const auto second = kv.open(named(b, 50));
  prefill(kv, second, 50);
  finish(kv, second, 50);  // its started block goes to the head: 1 blank, a5 … a0, b2 … b0
  occupy(kv, 1);
  CHECK(hit_blocks(kv, named(a, 97), 97) == 6);
  occupy(kv, 1);
  CHECK(hit_blocks(kv, named(a, 97), 97) == 5);
}

TEST_CASE("a prefix shared by two stays until both have let go, and is then the youngest") {
  KvBlockManager kv = pool(20);
  const Ids a{1, 2};
  const Ids b{1, 3};
  const auto first = kv.open(named(a, 128, 64));
  prefill(kv, first, 128);
  const auto second = kv.open(named(b, 128, 64));
  CHECK(prefill(kv, second, 128).blocks == 4);
  finish(kv, first, 128);  // free: 8 blank, a7 … a4
  CHECK(kv.free_blocks() == 12);
  occupy(kv, 12);
  CHECK(hit_blocks(kv, named(a, 128, 64), 128) == 4);
  finish(kv, second, 128);  // free: b7 … b4, then the shared 3 … 0
  CHECK(kv.free_blocks() == 8);
  occupy(kv, 5);
  CHECK(hit_blocks(kv, named(b, 128, 64), 128) == 3);
  kv.check_invariants();
}

TEST_CASE("taking an idle prefix takes it out of the way of eviction") {
  KvBlockManager kv = pool(10);
  const Ids a{1};
  const auto first = kv.open(named(a, 160));
  prefill(kv, first, 160);
  finish(kv, first, 160);  // a9 … a0
  const auto second = kv.open(named(a, 60));
  const KvBlockManager::Hit hit = kv.lookup(second, 60);
  REQUIRE(hit.blocks == 3);
  kv.take_prefix(second, 60, hit);
  occupy(kv, 7);
  CHECK(kv.free_blocks() == 0);
  CHECK(hit_blocks(kv, named(a, 160), 160) == 3);
}

TEST_CASE("§1.3 a preempted sequence finds what survived of its blocks, private ones too") {
  KvBlockManager kv = pool(40);
  const Ids a{1};
  const auto first = kv.open(named(a, 320));
  prefill(kv, first, 320);
  kv.grow_unattributed(5);  // 80 outputs: 5 blocks that only this sequence can find again
  kv.release(first, 25, 24);
  kv.check_invariants();
  CHECK(hit_blocks(kv, named(a, 320), 400) == 20);
  CHECK(kv.lookup(first, 400).blocks == 24);
  occupy(kv, 16 + 7);  // 16 blank ones, then its last 7
  CHECK(kv.lookup(first, 400).blocks == 17);
  const KvBlockManager::Hit hit = kv.lookup(first, 400);
  kv.take_prefix(first, 400, hit);
  CHECK(kv.free_blocks() == 0);
  kv.release(first, 17, 17);
  kv.check_invariants();
}

TEST_CASE("content without a name is found by nobody else") {
  KvBlockManager kv = pool(40);
  const auto first = kv.open({});
  prefill(kv, first, 320);
  CHECK(hit_blocks(kv, {}, 320) == 0);
  finish(kv, first, 320);
  CHECK(kv.free_blocks() == 40);
  CHECK(hit_blocks(kv, {}, 320) == 0);
  occupy(kv, 21);
  CHECK(kv.evicted_in_total() == 1);  // it was cached all the same, and counts
}

TEST_CASE("§2.2 content that is resident twice: the first registered counts, then the next") {
  KvBlockManager kv = pool(12);
  const Ids a{1};
  const auto first = kv.open(named(a, 80));
  const auto second = kv.open(named(a, 80));
  kv.grow(first, 5);
  kv.grow(second, 5);
  kv.publish(first, 3);
  kv.publish(second, 5);
  kv.publish(first, 5);  // of blocks 3 and 4 the second sequence's are older
  kv.check_invariants();
  const auto probe = kv.open(named(a, 81));
  finish(kv, first, 80);  // 2 blank, first's 4 … 0
  CHECK(kv.lookup(probe, 81).blocks == 5);
  CHECK(kv.lookup(probe, 81).idle == 3);
  occupy(kv, 7);  // all of the first copy
  CHECK(kv.lookup(probe, 81).blocks == 5);
  CHECK(kv.lookup(probe, 81).idle == 0);
  finish(kv, second, 80);
  CHECK(kv.lookup(probe, 81).idle == 5);
  kv.check_invariants();
}

TEST_CASE("§2.5 a recomputed last block exists twice") {
  KvBlockManager kv = pool(20);
  const Ids a{1};
  const auto first = kv.open(named(a, 96));
  prefill(kv, first, 96);
  const auto second = kv.open(named(a, 96));
  prefill(kv, second, 96);
  CHECK(kv.free_blocks() == 13);
  finish(kv, first, 96);
  CHECK(kv.free_blocks() == 14);  // only its own last block: the other five are held by the second
  occupy(kv, 14);
  CHECK(hit_blocks(kv, named(a, 97), 97) == 6);
}

TEST_CASE("every sequence of a stream finds prompt and outputs of the turns before") {
  KvBlockManager kv = pool(100);
  const auto first = kv.open(stream(7));
  prefill(kv, first, 100);
  kv.grow_unattributed(4);
  kv.publish(first, 9);  // 150 tokens by now
  CHECK(hit_blocks(kv, stream(7), 300) == 9);
  CHECK(hit_blocks(kv, stream(8), 300) == 0);
  kv.release(first, 11, 10);
  kv.close(first);
  const auto second = kv.open(stream(7));
  CHECK(prefill(kv, second, 300).blocks == 10);
  finish(kv, second, 300);
  CHECK(hit_blocks(kv, stream(7), 304) == 18);
}

TEST_CASE("engine blocks and hash blocks need not divide one another") {
  for (const std::int32_t size : {16, 32, 48, 256}) {
    for (const std::int32_t hash_size : {100, 512, 16, 7}) {
      KvBlockManager kv(KvBlockManager::Config{1001, size, true});
      const auto count = static_cast<std::size_t>(1000 / hash_size + 1);
      Ids a(count);
      for (std::size_t i = 0; i < count; ++i) a[i] = i + 1;
      const auto first = kv.open(named(a, 1000, hash_size));
      prefill(kv, first, 1000, size);
      for (std::size_t differs = 0; differs < count; ++differs) {
        Ids b = a;
        b[differs] = 1000000;
        // Blocks whose last token lies before the first token that differs.
        const std::int64_t same = static_cast<std::int64_t>(differs) * hash_size;
        INFO("block " << size << ", hash block " << hash_size << ", differs at token " << same);
        CHECK(hit_blocks(kv, named(b, 1000, hash_size), 1000) == std::min<std::int64_t>(same, 999) / size);
      }
      kv.check_invariants();
    }
  }
}

TEST_CASE("§2.1 the same hash id under another prefix is other content") {
  KvBlockManager kv = pool(1000);
  const Ids a{1, 2, 3};
  const Ids b{9, 2, 3};
  prefill(kv, kv.open(named(a, 1536)), 1536);
  CHECK(hit_blocks(kv, named(b, 1536), 1536) == 0);
  CHECK(hit_blocks(kv, named(a, 1536, 256), 1536) == 0);  // the same numbers as names of other lengths
}

TEST_CASE("without prefix caching everything released is blank and nothing is found") {
  KvBlockManager kv(KvBlockManager::Config{51, 16, false});
  const Ids a{1};
  const auto first = kv.open(named(a, 100));
  prefill(kv, first, 100);
  CHECK(hit_blocks(kv, named(a, 100), 100) == 0);
  kv.grow_unattributed(3);
  kv.release(first, 10, 9);
  CHECK(kv.free_blocks() == 50);
  CHECK(kv.lookup(first, 160).blocks == 0);
  occupy(kv, 50);
  CHECK(kv.evicted_in_total() == 0);
  CHECK(kv.allocated_in_total() == 60);
  kv.check_invariants();
}

TEST_CASE("§2.6 reset drops all content, but only when nobody holds a block") {
  KvBlockManager kv = pool(50);
  const Ids a{1};
  const auto first = kv.open(named(a, 100));
  prefill(kv, first, 100);
  CHECK_FALSE(kv.reset_prefix_cache());
  CHECK(hit_blocks(kv, named(a, 100), 100) == 6);
  kv.release(first, 7, 6);
  CHECK(kv.reset_prefix_cache());
  CHECK(kv.lookup(first, 100).blocks == 0);
  CHECK(kv.free_blocks() == 50);
  occupy(kv, 50);
  CHECK(kv.evicted_in_total() == 0);
  kv.check_invariants();
}

TEST_CASE("the digest sees the order of the free list, not how it came about") {
  const Ids a{1};
  const Ids b{2};
  const auto run = [&](bool a_first, bool in_parts) {
    KvBlockManager kv = pool(50);
    const auto first = kv.open(named(a, 320));
    const auto second = kv.open(named(b, 320));
    kv.grow(first, 20);
    kv.grow(second, 20);
    for (std::int64_t done = 1; in_parts && done < 20; ++done) kv.publish(first, done);
    kv.publish(first, 20);
    kv.publish(second, 20);
    kv.release(a_first ? first : second, 20, 20);
    kv.release(a_first ? second : first, 20, 20);
    return kv.state_digest();
  };
  CHECK(run(true, true) == run(true, false));
  CHECK(run(true, true) != run(false, true));
}

}  // namespace
}  // namespace orrery
