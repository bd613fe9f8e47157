// Random operations on small pools: extents (sim/kv_block_manager.cpp) against single blocks
// (kv_block_model.h). After every operation hits, idle hits, free blocks and the content of the free list in
// order must be equal.
//
// Seen to fail, each within the first dozen seeds, with one line of sim/kv_*.{h,cpp} changed: an extent
// evicted from its head; the lower part of a split idle extent queued first; hits let go before own blocks;
// the private tail after the named blocks; blank blocks not at the head; freed extents prepended; an extent
// made longer though a copy had been registered since, or though it was shared; extents merged across another
// copy; a prompt's started block published under the prompt's name. The mistakes of kv_block_model.h are
// tried in every run.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <iterator>
#include <vector>

#include "catch.h"
#include "kv_block_model.h"
#include "sim/kv_block_manager.h"

namespace orrery {
namespace {

using kv_test::BlockModel;
using kv_test::Mistake;
using kv_test::ModelSequence;

// SplitMix64 (Steele, Lea, Flood 2014): the test's own choices, nothing that the simulator draws.
class Choices {
 public:
  explicit Choices(std::uint64_t seed) : state_(seed * 0x9E3779B97F4A7C15ull + 1) {}
  std::int64_t below(std::int64_t n) {
    std::uint64_t z = state_ += 0x9E3779B97F4A7C15ull;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return static_cast<std::int64_t>((z ^ (z >> 31)) % static_cast<std::uint64_t>(n));
  }
  bool one_in(std::int64_t n) { return below(n) == 0; }

 private:
  std::uint64_t state_;
};

struct Actor {
  ModelSequence model;
  KvBlockManager::Handle handle = 0;
  std::int64_t tokens = 0;    // known: prompt and outputs
  std::int64_t computed = 0;  // have KV
  bool open = false;
};

struct Coverage {
  std::int64_t operations = 0;
  std::int64_t hits = 0;
  std::int64_t hit_blocks = 0;
  std::int64_t idle_blocks = 0;
  std::int64_t evicted = 0;
  std::int64_t resumed_hits = 0;
};

class Comparison {
 public:
  Comparison(std::uint64_t seed, Mistake mistake)
      : choose_(seed),
        block_size_(std::vector<std::int32_t>{4, 16, 6, 48, 1}[static_cast<std::size_t>(choose_.below(5))]),
        hash_size_(std::vector<std::int32_t>{16, 10, 64, 7, 100}[static_cast<std::size_t>(choose_.below(5))]),
        usable_(10 + choose_.below(120)), caching_(!choose_.one_in(12)),
        kv_(KvBlockManager::Config{usable_ + 1, block_size_, caching_}),
        model_(usable_ + 1, block_size_, caching_, mistake),
        actors_(static_cast<std::size_t>(2 + choose_.below(7))) {}

  // The number of the first operation after which the two differ, or −1.
  std::int64_t run(std::int64_t operations, Coverage& coverage) {
    for (std::int64_t i = 0; i < operations; ++i) {
      Actor& actor = actors_[static_cast<std::size_t>(choose_.below(std::ssize(actors_)))];
      if (!step(actor, coverage) || !equal()) return i;
      if (i % 16 == 0) kv_.check_invariants();
    }
    coverage.operations += operations;
    coverage.evicted += kv_.evicted_in_total();
    return -1;
  }

 private:
  bool equal() const {
    std::uint64_t expected = 0;
    return kv_.free_blocks() == model_.free_blocks() && model_.digest(expected) &&
           kv_.state_digest() == expected;
  }

  bool step(Actor& actor, Coverage& coverage) {
    if (!actor.open) {
      open(actor);
      return true;
    }
    if (choose_.one_in(200)) reset();
    if (actor.model.blocks.empty()) {
      if (choose_.one_in(10)) {
        kv_.close(actor.handle);
        actor.open = false;
        return true;
      }
      return admit(actor, coverage);
    }
    const std::int64_t dice = choose_.below(10);
    if (dice < 2) {
      release(actor);
    } else if (actor.computed < actor.tokens) {
      compute(actor, actor.computed + 1 + choose_.below(actor.tokens - actor.computed), false);
    } else {
      actor.tokens += 1 + choose_.below(2 * block_size_);
      compute(actor, actor.tokens, !choose_.one_in(4));
    }
    return true;
  }

  void open(Actor& actor) {
    ModelSequence& model = actor.model;
    model = ModelSequence{};
    const std::int64_t longest = usable_ * block_size_ * 3 / 4;
    actor.tokens = 1 + choose_.below(choose_.one_in(2) ? longest : longest / 4 + 1);
    if (choose_.one_in(3)) actor.tokens = (actor.tokens + block_size_ - 1) / block_size_ * block_size_;
    actor.computed = 0;
    actor.open = true;
    model.serial = ++opened_;
    model.named_tokens = actor.tokens;
    model.hash_block_size = choose_.one_in(20) ? hash_size_ + 1 : hash_size_;
    const std::int64_t kind = choose_.below(8);
    if (kind == 0) model.stream = static_cast<std::uint64_t>(1 + choose_.below(2));
    if (kind > 1) {
      // Few ids, the first most often: prefixes fork at every depth.
      const std::int64_t count = (actor.tokens + model.hash_block_size - 1) / model.hash_block_size;
      for (std::int64_t i = 0; i < count; ++i) {
        model.hash_ids.push_back(choose_.one_in(6) ? static_cast<std::uint64_t>(choose_.below(3)) : 5);
      }
    }
    KvContent content;
    const std::vector<std::uint64_t> ids = model.hash_ids;  // open() must copy
    content.hash_ids = ids;
    content.hash_block_size = static_cast<std::int32_t>(model.hash_block_size);
    content.stream = model.stream;
    content.named_tokens = model.named_tokens;
    actor.handle = kv_.open(content);
  }

  bool admit(Actor& actor, Coverage& coverage) {
    KvBlockManager::Hit hit = kv_.lookup(actor.handle, actor.tokens);
    const auto expected = model_.lookup(actor.model, actor.tokens);
    if (hit.blocks != expected.first || hit.idle != expected.second) return false;
    if (hit.idle > kv_.free_blocks()) return false;
    coverage.hits += hit.blocks > 0 ? 1 : 0;
    coverage.hit_blocks += hit.blocks;
    coverage.idle_blocks += hit.idle;
    const bool outputs = actor.model.stream == 0 && hit.blocks * block_size_ > actor.model.named_tokens;
    coverage.resumed_hits += outputs ? 1 : 0;
    if (hit.blocks > 0 && choose_.one_in(8)) --hit.blocks;  // as with a drafter
    kv_.take_prefix(actor.handle, actor.tokens, hit);
    model_.take(actor.model, hit.blocks);
    actor.computed = hit.blocks * block_size_;
    const std::int64_t chunk =
        choose_.one_in(2) ? actor.tokens - actor.computed : 1 + choose_.below(actor.tokens - actor.computed);
    compute(actor, actor.computed + chunk, false);
    return true;
  }

  // Slots up to `computed` tokens, if there is room; otherwise as far as it goes.
  void compute(Actor& actor, std::int64_t computed, bool unattributed) {
    const std::int64_t held = std::ssize(actor.model.blocks);
    const std::int64_t room = (held + model_.free_blocks()) * block_size_;
    computed = std::min(computed, room);
    if (computed <= actor.computed) return;
    const std::int64_t grow = std::max<std::int64_t>(0, (computed + block_size_ - 1) / block_size_ - held);
    if (unattributed) {
      kv_.grow_unattributed(grow);
    } else {
      kv_.grow(actor.handle, grow);
    }
    model_.allocate(actor.model, grow);
    actor.computed = computed;
    if (choose_.one_in(5)) return;  // sampled tokens are known a step later
    const std::int64_t full = computed / block_size_;
    publish(actor, choose_.one_in(5) ? choose_.below(full + 1) : full);
  }

  void publish(Actor& actor, std::int64_t full) {
    kv_.publish(actor.handle, full);
    model_.hash_blocks(actor.model, full);
  }

  void release(Actor& actor) {
    const std::int64_t most = actor.computed / block_size_;
    const std::int64_t least = std::min(actor.model.hashed, most);
    const std::int64_t hashed = choose_.one_in(3) ? least + choose_.below(most - least + 1) : most;
    model_.hash_blocks(actor.model, hashed);
    kv_.release(actor.handle, std::ssize(actor.model.blocks), hashed);
    model_.free(actor.model);
    actor.computed = 0;
    actor.model.hashed = 0;
    if (choose_.one_in(2)) {
      kv_.close(actor.handle);
      actor.open = false;
    }
  }

  void reset() {
    const bool done = kv_.reset_prefix_cache();
    REQUIRE(done == (model_.free_blocks() == usable_));
    if (done) model_.reset();
  }

  Choices choose_;
  std::int32_t block_size_;
  std::int32_t hash_size_;
  std::int64_t usable_;
  bool caching_;
  KvBlockManager kv_;
  BlockModel model_;
  std::vector<Actor> actors_;
  std::uint64_t opened_ = 0;
};

constexpr std::uint64_t kSeeds = 400;
constexpr std::int64_t kOperations = 1000;

TEST_CASE("§2.5 extents decide what single blocks decide") {
  Coverage coverage;
  for (std::uint64_t seed = 1; seed <= kSeeds; ++seed) {
    const std::int64_t differs = Comparison(seed, Mistake::none).run(kOperations, coverage);
    INFO("seed " << seed << ", operation " << differs);
    REQUIRE(differs == -1);
  }
  std::printf(
      "kv property test: %lld operations, %lld hits of %lld blocks (%lld idle), %lld on own outputs "
      "after a preemption, %lld evictions\n",
      static_cast<long long>(coverage.operations), static_cast<long long>(coverage.hits),
      static_cast<long long>(coverage.hit_blocks), static_cast<long long>(coverage.idle_blocks),
      static_cast<long long>(coverage.resumed_hits), static_cast<long long>(coverage.evicted));
  // The random walk must reach what it is for.
  CHECK(coverage.hits > 1000);
  CHECK(coverage.idle_blocks > 1000);
  CHECK(coverage.resumed_hits > 100);
  CHECK(coverage.evicted > 10000);
}

TEST_CASE("the comparison notices another rule for the free list, for copies and for the limit") {
  for (const Mistake mistake :
       {Mistake::free_head_first, Mistake::append_unhashed, Mistake::newest_copy_first,
        Mistake::no_duplicates, Mistake::limit_counts_all}) {
    Coverage coverage;
    std::int64_t noticed = 0;
    for (std::uint64_t seed = 1; seed <= 40; ++seed) {
      noticed += Comparison(seed, mistake).run(kOperations, coverage) >= 0 ? 1 : 0;
    }
    INFO("mistake " << static_cast<int>(mistake));
    CHECK(noticed >= 20);
  }
}

}  // namespace
}  // namespace orrery
